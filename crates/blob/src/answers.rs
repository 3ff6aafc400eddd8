//! Fields of answers.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};

use crate::{
    lease::Lease,
    rows::{Blob, Facts, Headers, Kind},
    time,
};

pub fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

pub fn xml(body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    set(response.headers_mut(), "content-type", "application/xml");
    response
}

/// Sets a field; what cannot stand in one is left out.
pub fn set(headers: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value.as_bytes())) {
        headers.insert(name, value);
    }
}

pub fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

/// The ETag and the time of the last change.
pub fn state(headers: &mut HeaderMap, etag: &str, modified_us: i64) {
    set(headers, "etag", &quoted(etag));
    set(headers, "last-modified", &time::http_date(modified_us));
}

/// What a change of a blob answers.
pub fn changed(status: StatusCode, blob: &Blob, versioning: bool) -> Response {
    let mut response = empty(status);
    let headers = response.headers_mut();
    state(headers, &blob.facts.etag, blob.facts.modified_us);
    // Nothing here encrypts: the disk under it may.
    set(headers, "x-ms-request-server-encrypted", "false");
    if versioning {
        set(headers, "x-ms-version-id", &blob.mark);
    }
    response
}

pub fn lease(headers: &mut HeaderMap, lease: &Lease, now_us: i64) {
    let state = lease.state(now_us);
    set(headers, "x-ms-lease-state", state.word());
    set(headers, "x-ms-lease-status", if state.holds() { "locked" } else { "unlocked" });
    if state == crate::lease::State::Leased {
        set(headers, "x-ms-lease-duration", if lease.seconds < 0 { "infinite" } else { "fixed" });
    }
}

/// Everything that is known of a blob, but for its length.
pub fn blob(headers: &mut HeaderMap, blob: &Blob, versioning: bool, until_us: Option<i64>, now_us: i64) {
    let Facts { headers: own, metadata, tier, .. } = &blob.facts;
    state(headers, &blob.facts.etag, blob.facts.modified_us);
    content(headers, own);
    for (name, value) in metadata {
        set(headers, &format!("x-ms-meta-{name}"), value);
    }
    set(headers, "accept-ranges", "bytes");
    set(headers, "x-ms-blob-type", "BlockBlob");
    set(headers, "x-ms-creation-time", &time::http_date(blob.facts.created_us));
    set(headers, "x-ms-server-encrypted", "false");
    set(headers, "x-ms-access-tier", tier);
    if blob.facts.tier_inferred {
        set(headers, "x-ms-access-tier-inferred", "true");
    } else {
        set(headers, "x-ms-access-tier-change-time", &time::http_date(blob.facts.tier_us));
    }
    if blob.kind != Kind::Snapshot {
        lease(headers, &blob.facts.lease, now_us);
        if versioning {
            set(headers, "x-ms-version-id", &blob.mark);
            if blob.kind == Kind::Current {
                set(headers, "x-ms-is-current-version", "true");
            }
        }
    }
    if let Some(until) = until_us {
        set(headers, "x-ms-immutability-policy-until-date", &time::http_date(until));
        set(headers, "x-ms-immutability-policy-mode", "locked");
    }
    if let Some(copied) = &blob.facts.copy {
        set(headers, "x-ms-copy-id", &copied.id);
        set(headers, "x-ms-copy-source", &copied.source);
        set(headers, "x-ms-copy-status", "success");
        set(headers, "x-ms-copy-progress", &format!("{0}/{0}", blob.facts.length));
        set(headers, "x-ms-copy-completion-time", &time::http_date(copied.at_us));
    }
}

fn content(headers: &mut HeaderMap, own: &Headers) {
    let kind = own.content_type.as_deref().unwrap_or("application/octet-stream");
    set(headers, header::CONTENT_TYPE.as_str(), kind);
    let fields = [
        ("content-encoding", &own.encoding),
        ("content-language", &own.language),
        ("content-disposition", &own.disposition),
        ("cache-control", &own.cache_control),
        ("content-md5", &own.md5),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            set(headers, name, value);
        }
    }
}
