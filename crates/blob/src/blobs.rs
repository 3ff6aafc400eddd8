//! Blobs: put whole, read, looked at, changed, deleted, brought back.

use std::collections::BTreeMap;

use axum::{
    body::Body,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use rusqlite::Connection;

use crate::{
    act::Request,
    answers,
    conditions::Conditions,
    config::Settings,
    content::Source,
    fields::{self, Part, Query},
    lease::Lease,
    refusal::Refusal,
    rows::{self, Blob, Copied, Facts, Headers, Kind, Piece},
    store::Change,
    sums::{self, Expected},
    time, upload,
};

/// Bytes of one Put Blob, as on Azure since 2019-12-12.
const PUT_BYTES: u64 = 5000 << 20;
/// The longest range whose MD5 is reckoned, as on Azure.
const SUMMED_BYTES: u64 = 4 << 20;
/// What is answered from memory at once.
const AT_ONCE: u64 = 256 * 1024;

/// What a new state of a blob is made of.
pub struct New {
    pub pieces: Vec<Piece>,
    pub headers: Headers,
    pub metadata: BTreeMap<String, String>,
    /// None: the account's own.
    pub tier: Option<String>,
    pub copy: Option<Copied>,
}

/// The row that a request names: a version, a snapshot, or the current one.
pub fn find(db: &Connection, container: &str, name: &str, query: &Query) -> Result<Blob, Refusal> {
    let found = match (query.get("versionid"), query.get("snapshot")) {
        (Some(mark), _) => {
            rows::marked(db, container, name, mark)?.filter(|b| b.kind != Kind::Snapshot && b.deleted_us.is_none())
        }
        (None, Some(mark)) => {
            rows::marked(db, container, name, mark)?.filter(|b| b.kind == Kind::Snapshot && b.deleted_us.is_none())
        }
        (None, None) => rows::current(db, container, name)?,
    };
    match found {
        Some(blob) => Ok(blob),
        None if rows::container(db, container)?.is_none() => Err(Refusal::no_container(container)),
        None => Err(Refusal::no_blob()),
    }
}

/// The moment before which nobody changes or deletes a blob: as it was declared when it was put, or is now.
pub fn protected_until(settings: &Settings, blob: &Blob) -> Option<i64> {
    let declared = settings.container(&blob.container).immutable_seconds;
    let declared = declared
        .map(|s| blob.facts.modified_us.saturating_add(i64::try_from(s).unwrap_or(i64::MAX).saturating_mul(1_000_000)));
    declared.max(blob.facts.until_us)
}

/// Refuses to change or delete what is immutable.
fn guard(change: &Change<'_>, blob: &Blob) -> Result<(), Refusal> {
    match protected_until(change.settings, blob) {
        Some(until) if until > change.now_us => Err(Refusal::immutable(&time::http_date(until))),
        _ => Ok(()),
    }
}

/// Puts a new state in the place of what is there, if anything, which becomes a version or can be brought back, as declared.
pub fn replace(
    change: &Change<'_>,
    container: &str,
    name: &str,
    new: New,
    conditions: &Conditions,
) -> Result<Blob, Refusal> {
    change.container(container)?;
    let there = rows::current(change.db, container, name)?;
    conditions.check_change(there.as_ref().map(|blob| &blob.facts))?;
    let (tick, now_us) = (change.tick(), change.now_us);
    let mut lease = Lease::default();
    let mut created_us = now_us;
    match there {
        None if conditions.lease.is_some() => {
            lease.check_named(conditions.lease.as_deref(), now_us, "blob")?;
        }
        None => {}
        Some(mut there) => {
            there.facts.lease.check_change(conditions.lease.as_deref(), now_us, "blob")?;
            guard(change, &there)?;
            lease = std::mem::take(&mut there.facts.lease).after_change(now_us);
            created_us = there.facts.created_us;
            step_aside(change, there)?;
        }
    }
    if change.settings.config.versioning {
        created_us = now_us;
    }
    let immutable = change.settings.container(container).immutable_seconds;
    let until = |s: u64| now_us.saturating_add(i64::try_from(s).unwrap_or(i64::MAX).saturating_mul(1_000_000));
    let mut blob = Blob {
        container: container.to_owned(),
        name: name.to_owned(),
        mark: tick.mark(),
        facts: Facts {
            etag: tick.etag(),
            created_us,
            modified_us: now_us,
            length: new.pieces.iter().map(|piece| piece.length).sum(),
            headers: new.headers,
            metadata: new.metadata,
            lease,
            tier_inferred: new.tier.is_none(),
            tier: new.tier.unwrap_or_else(|| "Hot".into()),
            tier_by_age: false,
            tier_us: now_us,
            until_us: immutable.map(until),
            copy: new.copy,
        },
        ..Blob::default()
    };
    blob.id = rows::insert(change.db, &blob, &new.pieces)?;
    change.gone(rows::forget_blocks(change.db, container, name)?);
    Ok(blob)
}

/// Makes room for another state of the same name.
fn step_aside(change: &Change<'_>, mut there: Blob) -> Result<(), Refusal> {
    if change.settings.config.versioning {
        there.kind = Kind::Version;
        rows::update(change.db, &there)?;
    } else if change.settings.soft_delete().is_some() {
        // As on Azure: what was overwritten is a snapshot that was deleted.
        there.kind = Kind::Snapshot;
        there.deleted_us = Some(change.now_us);
        rows::update(change.db, &there)?;
    } else {
        change.gone(rows::remove(change.db, there.id)?);
    }
    Ok(())
}

/// The fields that a put gives a blob: `x-ms-blob-content-type` and its like, or those of the body itself.
pub fn headers_of(request: &Request<'_>, body_too: bool) -> Result<Headers, Refusal> {
    let text = |name: &str| -> Result<Option<String>, Refusal> {
        let own = request.text(&format!("x-ms-blob-{name}"))?;
        let own = if own.is_none() && body_too { request.text(name)? } else { own };
        Ok(own.map(str::to_owned))
    };
    Ok(Headers {
        content_type: text("content-type")?,
        encoding: text("content-encoding")?,
        language: text("content-language")?,
        disposition: request.text("x-ms-blob-content-disposition")?.map(str::to_owned),
        cache_control: text("cache-control")?,
        md5: request.text("x-ms-blob-content-md5")?.map(str::to_owned),
    })
}

/// The tier that a request asks for.
pub fn tier_of(request: &Request<'_>) -> Result<Option<String>, Refusal> {
    let Some(text) = request.text("x-ms-access-tier")? else { return Ok(None) };
    let known = ["Hot", "Cool", "Cold", "Archive"].iter().find(|tier| tier.eq_ignore_ascii_case(text));
    let known = known.ok_or_else(|| Refusal::header("x-ms-access-tier", "it is none of Hot, Cool, Cold, Archive"))?;
    Ok(Some((*known).to_owned()))
}

/// The announced length of a body, which must be there.
pub fn announced(headers: &HeaderMap, what: &str, most: u64) -> Result<u64, Refusal> {
    let length = fields::number(headers, "content-length")?.ok_or_else(|| {
        Refusal::new(
            StatusCode::LENGTH_REQUIRED,
            "MissingContentLengthHeader",
            "the field `content-length` is needed for this",
        )
    })?;
    if length > most { Err(Refusal::too_large(what, most)) } else { Ok(length) }
}

/// What would refuse a put, found before its body comes.
pub async fn expect_room(request: &Request<'_>, conditions: &Conditions) -> Result<(), Refusal> {
    let (container, name, conditions) = (request.container(), request.blob(), conditions.clone());
    let settings = request.settings.clone();
    let looked = request.store.blocking(move |store| {
        let (now_us, db) = (store.clock.now_us(), store.db());
        if rows::container(&db, &container)?.is_none() {
            return Err(Refusal::no_container(&container));
        }
        let there = rows::current(&db, &container, &name)?;
        conditions.check_change(there.as_ref().map(|blob| &blob.facts))?;
        if let Some(there) = there {
            there.facts.lease.check_change(conditions.lease.as_deref(), now_us, "blob")?;
            if let Some(until) = protected_until(&settings, &there).filter(|until| *until > now_us) {
                return Err(Refusal::immutable(&time::http_date(until)));
            }
        }
        Ok(())
    });
    looked.await
}

/// Put Blob.
pub async fn put(request: &Request<'_>, body: Body) -> Result<Response, Refusal> {
    request.refuse_unprovided()?;
    match request.text("x-ms-blob-type")? {
        Some("BlockBlob") => {}
        Some("AppendBlob" | "PageBlob") => return Err(Refusal::not_here("an append or page blob")),
        Some(_) => return Err(Refusal::header("x-ms-blob-type", "it is BlockBlob")),
        None => return Err(Refusal::no_header("x-ms-blob-type")),
    }
    announced(request.headers, "a Put Blob", PUT_BYTES)?;
    let (expected, conditions) = (Expected::read(request.headers)?, request.conditions()?);
    let (headers, tier) = (headers_of(request, true)?, tier_of(request)?);
    let metadata = fields::metadata(request.headers)?;
    expect_room(request, &conditions).await?;
    let mut upload = upload::receive(&request.store.files, body, &expected, PUT_BYTES).await?;
    let md5 = sums::base64(&upload.md5);
    if headers.md5.as_ref().is_some_and(|said| *said != md5) {
        return Err(Refusal::bad("Md5Mismatch", "the body has another MD5 than `x-ms-blob-content-md5` says"));
    }
    let new = New {
        pieces: upload.piece(None).into_iter().collect(),
        headers: Headers { md5: Some(md5.clone()), ..headers },
        metadata,
        tier,
        copy: None,
    };
    let mut event = request.event();
    event.detail.insert("bytes".into(), upload.length.into());
    let (container, name) = (request.container(), request.blob());
    let done = request.store.blocking(move |store| {
        let blob = store.change(Some(event), |change| replace(change, &container, &name, new, &conditions))?;
        upload.keep();
        Ok(blob)
    });
    let blob = done.await?;
    let mut response = answers::changed(StatusCode::CREATED, &blob, request.settings.config.versioning);
    answers::set(response.headers_mut(), "content-md5", &md5);
    if let Some(crc64) = expected.crc64() {
        answers::set(response.headers_mut(), "x-ms-content-crc64", &crc64);
    }
    Ok(response)
}

/// Get Blob, and Get Blob Properties where `reads` is false.
pub async fn get(request: &Request<'_>, reads: bool) -> Result<Response, Refusal> {
    let (container, name, query) = (request.container(), request.blob(), request.query.clone());
    let conditions = Conditions::read(request.headers)?;
    let range = match request.text("x-ms-range")? {
        Some(range) => Some(range),
        None => request.text("range")?,
    };
    let range = range.filter(|_| reads).map(str::to_owned);
    let summed = request.text("x-ms-range-get-content-md5")?.is_some_and(|text| text.eq_ignore_ascii_case("true"));
    let (event, settings) = (request.event(), request.settings.clone());
    let found = request.store.blocking(move |store| {
        let db = store.db();
        let now_us = store.clock.now_us();
        let blob = find(&db, &container, &name, &query)?;
        conditions.check_read(&blob.facts.etag, blob.facts.modified_us)?;
        blob.facts.lease.check_named(conditions.lease.as_deref(), now_us, "blob")?;
        let length = blob.facts.length;
        let part = fields::part(range.as_deref(), length);
        let (first, count) = match part {
            Part::Whole => (0, length),
            Part::Some { first, last } => (first, last - first + 1),
            Part::Outside => return Err(Refusal::outside(length)),
        };
        let mut source = None;
        if reads {
            if blob.facts.tier == "Archive" {
                let message = "the blob is in the archive tier; set another tier before it is read";
                return Err(Refusal::conflict("BlobArchived", message));
            }
            source = Some(Source::new(&store.files, &rows::pieces(&db, blob.id)?, first, count));
        }
        drop(db);
        store.spool.append_blocking(event)?;
        let (mut body, mut sum) = (Body::empty(), None);
        if let Some(source) = source {
            let sums = summed && part != Part::Whole;
            if sums && count > SUMMED_BYTES {
                return Err(Refusal::header("x-ms-range-get-content-md5", "a range of at most 4 MiB has an MD5"));
            }
            if count <= AT_ONCE || sums {
                let bytes = source.whole()?;
                sum = sums.then(|| sums::base64(&sums::md5(&bytes)));
                body = Body::from(bytes);
            } else {
                let runtime = tokio::runtime::Handle::current();
                let _within = runtime.enter();
                body = Body::new(source.body());
            }
        }
        let until = protected_until(&settings, &blob);
        Ok((blob, part, first, count, body, sum, until, now_us))
    });
    let (blob, part, first, count, body, sum, until, now_us) = found.await?;
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    answers::blob(headers, &blob, request.settings.config.versioning, until, now_us);
    answers::set(headers, "content-length", &count.to_string());
    if part != Part::Whole {
        let range = format!("bytes {first}-{}/{}", first + count - 1, blob.facts.length);
        answers::set(headers, "content-range", &range);
        // The sum of the whole goes by another name: this body is not it.
        headers.remove("content-md5");
        if let Some(md5) = &blob.facts.headers.md5 {
            answers::set(headers, "x-ms-blob-content-md5", md5);
        }
        if let Some(sum) = sum {
            answers::set(headers, "content-md5", &sum);
        }
    }
    // A signed URL may say how what it opens is answered.
    if matches!(request.caller, crate::caller::Caller::Signed(_)) {
        let said = [
            ("rscc", "cache-control"),
            ("rscd", "content-disposition"),
            ("rsce", "content-encoding"),
            ("rscl", "content-language"),
            ("rsct", "content-type"),
        ];
        for (name, field) in said {
            if let Some(value) = request.query.get(name) {
                answers::set(headers, field, value);
            }
        }
    }
    if part != Part::Whole {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// Set Blob Metadata and Set Blob Properties: what is known of it is another, its content the same.
pub async fn set(request: &Request<'_>, metadata: bool) -> Result<Response, Refusal> {
    request.refuse_unprovided()?;
    let (container, name, conditions) = (request.container(), request.blob(), request.conditions()?);
    let (headers, given) = (headers_of(request, false)?, fields::metadata(request.headers)?);
    let event = request.event();
    let done = request.store.blocking(move |store| {
        store.change(Some(event), |change| {
            let mut blob = find(change.db, &container, &name, &Query::default())?;
            conditions.check_change(Some(&blob.facts))?;
            blob.facts.lease.check_change(conditions.lease.as_deref(), change.now_us, "blob")?;
            guard(change, &blob)?;
            let tick = change.tick();
            if metadata && change.settings.config.versioning {
                // As on Azure, other metadata is another version.
                let pieces = rows::pieces(change.db, blob.id)?;
                let lease = blob.facts.lease.clone();
                let mut before = blob.clone();
                before.facts.lease = Lease::default();
                step_aside(change, before)?;
                blob.mark = tick.mark();
                blob.facts.lease = lease.after_change(change.now_us);
                blob.facts.created_us = change.now_us;
                blob.id = rows::insert(change.db, &blob, &pieces)?;
            }
            blob.facts.etag = tick.etag();
            blob.facts.modified_us = change.now_us;
            if metadata {
                blob.facts.metadata = given;
            } else {
                blob.facts.headers = headers;
            }
            rows::update(change.db, &blob)?;
            Ok(blob)
        })
    });
    let blob = done.await?;
    Ok(answers::changed(StatusCode::OK, &blob, metadata && request.settings.config.versioning))
}

/// Set Blob Tier. Out of the archive a blob comes at once here.
pub async fn set_tier(request: &Request<'_>) -> Result<Response, Refusal> {
    let (container, name, query) = (request.container(), request.blob(), request.query.clone());
    let tier = tier_of(request)?.ok_or_else(|| Refusal::no_header("x-ms-access-tier"))?;
    let (event, lease) = (request.event(), request.text("x-ms-lease-id")?.map(str::to_owned));
    let done = request.store.blocking(move |store| {
        store.change(Some(event), |change| {
            let mut blob = find(change.db, &container, &name, &query)?;
            blob.facts.lease.check_named(lease.as_deref(), change.now_us, "blob")?;
            let from_archive = blob.facts.tier == "Archive" && tier != "Archive";
            blob.facts.tier = tier;
            (blob.facts.tier_inferred, blob.facts.tier_by_age) = (false, false);
            blob.facts.tier_us = change.now_us;
            rows::update(change.db, &blob)?;
            Ok(from_archive)
        })
    });
    Ok(answers::empty(if done.await? { StatusCode::ACCEPTED } else { StatusCode::OK }))
}

/// Snapshot Blob.
pub async fn snapshot(request: &Request<'_>) -> Result<Response, Refusal> {
    request.refuse_unprovided()?;
    let (container, name, conditions) = (request.container(), request.blob(), request.conditions()?);
    let (event, given) = (request.event(), fields::metadata(request.headers)?);
    let done = request.store.blocking(move |store| {
        store.change(Some(event), |change| {
            let blob = find(change.db, &container, &name, &Query::default())?;
            conditions.check_read(&blob.facts.etag, blob.facts.modified_us).map_err(|_| Refusal::condition())?;
            blob.facts.lease.check_named(conditions.lease.as_deref(), change.now_us, "blob")?;
            let mut taken = Blob { mark: change.tick().mark(), kind: Kind::Snapshot, ..blob.clone() };
            taken.facts.lease = Lease::default();
            if !given.is_empty() {
                taken.facts.metadata = given;
            }
            rows::insert(change.db, &taken, &rows::pieces(change.db, blob.id)?)?;
            Ok((blob, taken.mark))
        })
    });
    let (blob, mark) = done.await?;
    let mut response = answers::changed(StatusCode::CREATED, &blob, false);
    answers::set(response.headers_mut(), "x-ms-snapshot", &mark);
    Ok(response)
}

/// Delete Blob: the blob, its snapshots, or one version.
pub async fn delete(request: &Request<'_>) -> Result<Response, Refusal> {
    let (container, name, query) = (request.container(), request.blob(), request.query.clone());
    let conditions = request.conditions()?;
    if query.get("deletetype").is_some_and(|text| text.eq_ignore_ascii_case("permanent")) {
        return Err(Refusal::not_here("a deletion for good before the time to bring it back is over"));
    }
    let snapshots = match request.text("x-ms-delete-snapshots")? {
        None => None,
        Some("include") => Some(true),
        Some("only") => Some(false),
        Some(_) => return Err(Refusal::header("x-ms-delete-snapshots", "it is include or only")),
    };
    let event = request.event();
    let done = request.store.blocking(move |store| {
        store.change(Some(event), |change| {
            let blob = find(change.db, &container, &name, &query)?;
            conditions.check_change(Some(&blob.facts))?;
            if query.get("versionid").is_some() && blob.kind == Kind::Current {
                let message = "the current version goes by deleting the blob, not by its version";
                return Err(Refusal::new(StatusCode::FORBIDDEN, "OperationNotAllowedOnRootBlob", message));
            }
            if blob.kind != Kind::Current {
                return discard(change, blob);
            }
            let taken: Vec<Blob> = rows::all_of(change.db, &container, &name)?
                .into_iter()
                .filter(|row| row.kind == Kind::Snapshot && row.deleted_us.is_none())
                .collect();
            if !taken.is_empty() && snapshots.is_none() {
                let message = "the blob has snapshots; say with `x-ms-delete-snapshots` whether they go too";
                return Err(Refusal::conflict("SnapshotsPresent", message));
            }
            if snapshots != Some(false) {
                blob.facts.lease.check_change(conditions.lease.as_deref(), change.now_us, "blob")?;
            }
            for snapshot in taken {
                discard(change, snapshot)?;
            }
            if snapshots == Some(false) {
                return Ok(());
            }
            guard(change, &blob)?;
            if change.settings.config.versioning {
                let mut blob = blob;
                blob.kind = Kind::Version;
                blob.facts.lease = Lease::default();
                rows::update(change.db, &blob)?;
            } else {
                discard(change, blob)?;
            }
            change.gone(rows::forget_blocks(change.db, &container, &name)?);
            Ok(())
        })
    });
    done.await?;
    let mut response = answers::empty(StatusCode::ACCEPTED);
    let permanent = request.settings.soft_delete().is_none() && !request.settings.config.versioning;
    answers::set(response.headers_mut(), "x-ms-delete-type-permanent", if permanent { "true" } else { "false" });
    Ok(response)
}

/// Takes one row away: so that it can be brought back, where that is declared.
pub fn discard(change: &Change<'_>, mut blob: Blob) -> Result<(), Refusal> {
    guard(change, &blob)?;
    if change.settings.soft_delete().is_none() {
        change.gone(rows::remove(change.db, blob.id)?);
        return Ok(());
    }
    blob.deleted_us = Some(change.now_us);
    blob.facts.lease = Lease::default();
    rows::update(change.db, &blob)?;
    Ok(())
}

/// Undelete Blob: everything of a name that was deleted and whose time is not over.
pub async fn undelete(request: &Request<'_>) -> Result<Response, Refusal> {
    let (container, name, event) = (request.container(), request.blob(), request.event());
    let done = request.store.blocking(move |store| {
        store.change(Some(event), |change| {
            change.container(&container)?;
            let all = rows::all_of(change.db, &container, &name)?;
            if all.is_empty() {
                return Err(Refusal::no_blob());
            }
            let mut is_there = all.iter().any(|row| row.kind == Kind::Current && row.deleted_us.is_none());
            // Of several that were deleted one after the other, the last is what is read again.
            for mut row in all.into_iter().rev().filter(|row| row.deleted_us.is_some()) {
                row.deleted_us = None;
                if row.kind == Kind::Current && is_there {
                    row.kind = if change.settings.config.versioning { Kind::Version } else { Kind::Snapshot };
                }
                is_there |= row.kind == Kind::Current;
                rows::update(change.db, &row)?;
            }
            Ok(())
        })
    });
    done.await?;
    Ok(answers::empty(StatusCode::OK))
}
