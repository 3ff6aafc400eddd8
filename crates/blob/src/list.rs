//! List Blobs: in the order of their names, a page at a time, with folders where a delimiter makes them.

use axum::response::Response;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rusqlite::Connection;

use crate::{
    act::Request,
    answers, blobs,
    containers::{metadata, page},
    refusal::Refusal,
    rows::{self, Blob, Kind, Shown},
    time, xml,
};

/// Rows that are read at once.
const ROWS: usize = 1000;
/// Sorts behind every name that goes on.
const LAST: char = '\u{10FFFF}';

/// A line of a list.
#[derive(Debug, PartialEq)]
enum Entry {
    Blob(Box<Blob>),
    Folder(String),
}

/// Where the next page begins: behind this name and mark.
type Place = (String, String);

pub async fn list(request: &Request<'_>) -> Result<Response, Refusal> {
    let query = request.query;
    let most = page(query.get("maxresults"))?;
    let mut shown = Shown::default();
    let mut with_metadata = false;
    for include in query.get("include").unwrap_or_default().split(',').filter(|text| !text.is_empty()) {
        match include.to_ascii_lowercase().as_str() {
            "versions" => shown.versions = true,
            "snapshots" => shown.snapshots = true,
            "deleted" => shown.deleted = true,
            "deletedwithversions" => (shown.deleted, shown.versions) = (true, true),
            "metadata" => with_metadata = true,
            "uncommittedblobs" => return Err(Refusal::not_here("a list of blobs that are not there yet")),
            // What they would tell is told of every blob, or is never there.
            "copy" | "tags" | "immutabilitypolicy" | "legalhold" => {}
            _ => return Err(Refusal::query("include", format_args!("`{include}` is nothing that a list shows"))),
        }
    }
    let (container, event) = (request.container(), request.event());
    let (prefix, delimiter) = (query.get("prefix").unwrap_or_default(), query.get("delimiter").unwrap_or_default());
    let marker = query.get("marker").unwrap_or_default();
    let from = if marker.is_empty() { (String::new(), String::new()) } else { unpacked(marker)? };
    let (asked, cut) = (prefix.to_owned(), delimiter.to_owned());
    let found = request.store.blocking(move |store| {
        let db = store.db();
        if rows::container(&db, &container)?.is_none() {
            return Err(Refusal::no_container(&container));
        }
        let found = entries(&db, &container, from, &asked, &cut, shown, most)?;
        drop(db);
        store.spool.append_blocking(event)?;
        Ok(found)
    });
    let (entries, next) = found.await?;
    let endpoint = format!("https://{}/", request.settings.authority);
    let mut body = format!(
        "{}<EnumerationResults ServiceEndpoint=\"{}\" ContainerName=\"{}\">",
        xml::HEAD,
        xml::escaped(&endpoint),
        xml::escaped(&request.container())
    );
    for (name, value) in [("Prefix", prefix), ("Marker", marker), ("Delimiter", delimiter)] {
        if !value.is_empty() {
            xml::element(&mut body, name, value);
        }
    }
    xml::element(&mut body, "MaxResults", &most.to_string());
    body.push_str("<Blobs>");
    let now_us = request.store.clock.now_us();
    for entry in &entries {
        match entry {
            Entry::Folder(name) => {
                body.push_str("<BlobPrefix>");
                xml::element(&mut body, "Name", name);
                body.push_str("</BlobPrefix>");
            }
            Entry::Blob(blob) => one(&mut body, request, blob, with_metadata, now_us),
        }
    }
    body.push_str("</Blobs>");
    xml::element(&mut body, "NextMarker", &next.map(|place| packed(&place)).unwrap_or_default());
    body.push_str("</EnumerationResults>");
    Ok(answers::xml(body))
}

/// The entries of a page, and the place behind its last where there are more.
fn entries(
    db: &Connection,
    container: &str,
    from: Place,
    prefix: &str,
    delimiter: &str,
    shown: Shown,
    most: usize,
) -> Result<(Vec<Entry>, Option<Place>), Refusal> {
    let (mut found, mut at) = (Vec::new(), from);
    loop {
        let limit = (most - found.len() + 1).min(ROWS);
        let rows = rows::list(db, container, (&at.0, &at.1), prefix, shown, limit)?;
        let ended = rows.len() < limit;
        let mut jumped = false;
        for blob in rows {
            if found.len() == most {
                return Ok((found, Some(at)));
            }
            let rest = &blob.name[prefix.len()..];
            match rest.find(delimiter).filter(|_| !delimiter.is_empty()) {
                Some(end) => {
                    // All that is in the folder is told by this line: go on behind it.
                    let folder = blob.name[..prefix.len() + end + delimiter.len()].to_owned();
                    at = (format!("{folder}{LAST}"), LAST.to_string());
                    found.push(Entry::Folder(folder));
                    jumped = true;
                    break;
                }
                None => {
                    at = (blob.name.clone(), blob.mark.clone());
                    found.push(Entry::Blob(Box::new(blob)));
                }
            }
        }
        if ended && !jumped {
            return Ok((found, None));
        }
    }
}

fn packed(place: &Place) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}\0{}", place.0, place.1))
}

fn unpacked(marker: &str) -> Result<Place, Refusal> {
    let text = URL_SAFE_NO_PAD.decode(marker).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let place = text.as_deref().and_then(|text| text.split_once('\0'));
    let (name, mark) = place.ok_or_else(|| Refusal::query("marker", "it is not one that a list ended with"))?;
    Ok((name.to_owned(), mark.to_owned()))
}

fn one(body: &mut String, request: &Request<'_>, blob: &Blob, with_metadata: bool, now_us: i64) {
    let (facts, settings) = (&blob.facts, request.settings);
    body.push_str("<Blob>");
    xml::element(body, "Name", &blob.name);
    if blob.deleted_us.is_some() {
        xml::element(body, "Deleted", "true");
    }
    if blob.kind == Kind::Snapshot {
        xml::element(body, "Snapshot", &blob.mark);
    } else if settings.config.versioning {
        xml::element(body, "VersionId", &blob.mark);
        if blob.kind == Kind::Current && blob.deleted_us.is_none() {
            xml::element(body, "IsCurrentVersion", "true");
        }
    }
    body.push_str("<Properties>");
    xml::element(body, "Creation-Time", &time::http_date(facts.created_us));
    xml::element(body, "Last-Modified", &time::http_date(facts.modified_us));
    xml::element(body, "Etag", &facts.etag);
    xml::element(body, "Content-Length", &facts.length.to_string());
    let own = &facts.headers;
    let fields = [
        ("Content-Type", own.content_type.as_deref().unwrap_or("application/octet-stream")),
        ("Content-Encoding", own.encoding.as_deref().unwrap_or_default()),
        ("Content-Language", own.language.as_deref().unwrap_or_default()),
        ("Content-MD5", own.md5.as_deref().unwrap_or_default()),
        ("Cache-Control", own.cache_control.as_deref().unwrap_or_default()),
        ("Content-Disposition", own.disposition.as_deref().unwrap_or_default()),
        ("BlobType", "BlockBlob"),
        ("AccessTier", facts.tier.as_str()),
    ];
    for (name, value) in fields {
        xml::element(body, name, value);
    }
    if facts.tier_inferred {
        xml::element(body, "AccessTierInferred", "true");
    } else {
        xml::element(body, "AccessTierChangeTime", &time::http_date(facts.tier_us));
    }
    let state = facts.lease.state(now_us);
    xml::element(body, "LeaseStatus", if state.holds() { "locked" } else { "unlocked" });
    xml::element(body, "LeaseState", state.word());
    xml::element(body, "ServerEncrypted", "false");
    if let Some(deleted) = blob.deleted_us {
        xml::element(body, "DeletedTime", &time::http_date(deleted));
        let kept_us = i64::try_from(settings.config.soft_delete_seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        let left = deleted.saturating_add(kept_us).saturating_sub(now_us).max(0) / 86_400_000_000;
        xml::element(body, "RemainingRetentionDays", &left.to_string());
    }
    if let Some(until) = blobs::protected_until(settings, blob) {
        xml::element(body, "ImmutabilityPolicyUntilDate", &time::http_date(until));
        xml::element(body, "ImmutabilityPolicyMode", "locked");
    }
    if let Some(copied) = &facts.copy {
        xml::element(body, "CopyId", &copied.id);
        xml::element(body, "CopyStatus", "success");
        xml::element(body, "CopySource", &copied.source);
    }
    body.push_str("</Properties>");
    if with_metadata {
        metadata(body, &facts.metadata);
    }
    body.push_str("</Blob>");
}
