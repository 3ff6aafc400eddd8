//! Copy Blob and Put Blob From URL, within the account: a copy shares the pieces of its source, and is done when it is answered.

use axum::{
    http::{StatusCode, Uri},
    response::Response,
};

use crate::{
    act::Request,
    answers,
    blobs::{self, New},
    caller::Caller,
    conditions::Conditions,
    fields::{self, Query},
    operation::{Right, Target},
    refusal::Refusal,
    rows::{self, Copied},
    sas,
};

/// The longest URL of a source, as on Azure.
const URL_BYTES: usize = 2048;

pub async fn copy(request: &Request<'_>) -> Result<Response, Refusal> {
    request.refuse_unprovided()?;
    let text = request.text("x-ms-copy-source")?.ok_or_else(|| Refusal::no_header("x-ms-copy-source"))?;
    let (source, query) = source(request, text)?;
    let as_put = request.text("x-ms-blob-type")?.is_some();
    let (conditions, of_source) = (request.conditions()?, Conditions::of_source(request.headers)?);
    let (given, tier) = (fields::metadata(request.headers)?, blobs::tier_of(request)?);
    let (container, name, mut event) = (request.container(), request.blob(), request.event());
    event.detail.insert("source".into(), source.object().into());
    let shown = text.split('?').next().unwrap_or_default().to_owned();
    let headers = blobs::headers_of(request, false)?;
    let done = request.store.blocking(move |store| {
        store.change(Some(event), |change| {
            let (from, of) = (source.container.unwrap_or_default(), source.blob.unwrap_or_default());
            let found = blobs::find(change.db, &from, &of, &query)?;
            of_source.check_read(&found.facts.etag, found.facts.modified_us).map_err(|_| {
                Refusal::failed("SourceConditionNotMet", "a condition on the source of the copy is not met")
            })?;
            if found.facts.tier == "Archive" && tier.is_none() {
                let message = "the source is in the archive tier; say the tier of the copy";
                return Err(Refusal::conflict("BlobArchived", message));
            }
            let pieces = rows::pieces(change.db, found.id)?;
            let id = uuid::Uuid::new_v4().to_string();
            let mut own = found.facts.headers.clone();
            if as_put {
                own.content_type = headers.content_type.or(own.content_type);
                own.cache_control = headers.cache_control.or(own.cache_control);
            }
            let new = New {
                pieces,
                headers: own,
                metadata: if given.is_empty() { found.facts.metadata.clone() } else { given },
                tier,
                copy: (!as_put).then_some(Copied { id, source: shown, at_us: change.now_us }),
            };
            blobs::replace(change, &container, &name, new, &conditions)
        })
    });
    let blob = done.await?;
    let status = if as_put { StatusCode::CREATED } else { StatusCode::ACCEPTED };
    let mut response = answers::changed(status, &blob, request.settings.config.versioning);
    if let Some(copied) = &blob.facts.copy {
        answers::set(response.headers_mut(), "x-ms-copy-id", &copied.id);
        answers::set(response.headers_mut(), "x-ms-copy-status", "success");
    }
    Ok(response)
}

/// The blob at a URL, which is of this account, and which the caller may read: by their own right, or by the URL's.
fn source(request: &Request<'_>, text: &str) -> Result<(Target, Query), Refusal> {
    let wrong = |why: &str| Refusal::header("x-ms-copy-source", why);
    if text.len() > URL_BYTES {
        return Err(wrong("it is longer than 2 KiB"));
    }
    let uri: Uri = text.parse().map_err(|_| wrong("it is no URL"))?;
    let authority = uri.authority().map(|a| a.as_str()).ok_or_else(|| wrong("it is no URL with a host"))?;
    let own = request.settings.is_own(authority) || request.host == Some(authority);
    if !own || uri.scheme_str() != Some("https") {
        let message = "a copy is made within the account: the source is https at one of its own names";
        return Err(Refusal::conflict("CannotVerifyCopySource", message));
    }
    let (target, query) =
        (Target::read(request.settings, Some(authority), &uri)?, Query::read(uri.query().unwrap_or_default())?);
    if target.blob.is_none() {
        return Err(wrong("it names no blob"));
    }
    let signed = query.has("sig").then(|| {
        let store = request.store;
        let now = store.clock.now_s();
        sas::read(request.settings, &store.root, &store.account_key, &target, &query, None, now)
            .map(|sas| Caller::Signed(Box::new(sas)))
    });
    let refused = |why: &str| Refusal::new(StatusCode::FORBIDDEN, "CannotVerifyCopySource", why);
    let by = match signed {
        Some(Ok(caller)) => caller,
        Some(Err(why)) => return Err(refused(why)),
        // A signature opens what it says and not what is beside it.
        None => request.caller.clone(),
    };
    match by.allows(request.settings, Right::Read, &target, &query) {
        Some(_) => Ok((target, query)),
        None => Err(refused("the caller may not read the source of the copy")),
    }
}
