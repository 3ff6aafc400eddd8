//! One request from its head to its answer: checked, routed, forwarded, answered.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use ::http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{self, HeaderName},
    uri::Scheme,
};
use bytes::Bytes;
use hyper::body::{Body as _, Incoming};

use crate::{
    body::{Download, Reply, Upload},
    conn::{Conn, Received, Record},
    forward::forward,
    headers::{self, Forwarded},
    page::{self, Refusal},
    path,
    run::Phase,
    table::Table,
    target::Group,
    trace::Trace,
    tunnel,
};

/// Answers one request.
pub async fn handle(conn: Arc<Conn>, request: Request<Incoming>) -> Result<Response<Reply>, Infallible> {
    let table = conn.worker.gateway.table.load_full();
    let (trace, continued) = Trace::next(single(request.headers(), &headers::TRACEPARENT), &conn.worker.ids);
    let mut record = Record::new(conn.clone(), &request, trace);
    let version = request.version();
    let accept = request.headers().get(header::ACCEPT).cloned();
    let has_body = !request.body().is_end_stream();
    let mut response = match answer(&conn, &table, request, &mut record, continued).await {
        Ok(Answer::Through(response, lease)) => {
            let (mut parts, body) = response.into_parts();
            headers::for_client(&mut parts.headers, table.hsts.as_ref().filter(|_| conn.https));
            parts.version = Version::HTTP_11;
            parts.extensions.clear();
            // The rest of a body that the upstream did not wait for would be taken for the next request.
            if version != Version::HTTP_2 && record.is_receiving() {
                parts.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            record.status = parts.status.as_u16();
            record.note = "";
            let body = Download::new(body, lease, record, table.upstream_timeout);
            Response::from_parts(parts, Reply::Through(Box::new(body)))
        }
        Ok(Answer::Tunnel(response, lease, on_upgrade)) => {
            record.status = 101;
            record.note = "";
            return Ok(tunnel::open(&conn, &table, response, lease, on_upgrade, record));
        }
        Err(refusal) => {
            let unread = has_body && (record.received.is_none() || record.is_receiving());
            let mut response = own(&refusal, accept.as_ref(), record);
            headers::for_client(response.headers_mut(), table.hsts.as_ref().filter(|_| conn.https));
            // What is left of a body that nobody reads would be taken for the next request.
            if version != Version::HTTP_2 && (unread || refusal.status == StatusCode::METHOD_NOT_ALLOWED) {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
    };
    if version != Version::HTTP_2 && conn.worker.gateway.phase() != Phase::Serving {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

pub(crate) enum Answer {
    Through(Response<Incoming>, crate::pool::Lease),
    Tunnel(Response<Incoming>, crate::pool::Lease, hyper::upgrade::OnUpgrade),
}

/// The page of a refusal, as a response.
fn own(refusal: &Refusal, accept: Option<&HeaderValue>, mut record: Record) -> Response<Reply> {
    record.status = refusal.status.as_u16();
    record.note = refusal.note;
    let page = refusal.response(accept, record.trace.id());
    record.bytes = page.body().len() as u64;
    page.map(|data: Bytes| Reply::Own { data: Some(data), _record: Some(Box::new(record)) })
}

async fn answer(
    conn: &Arc<Conn>,
    table: &Table,
    mut request: Request<Incoming>,
    record: &mut Record,
    continued: bool,
) -> Result<Answer, Refusal> {
    let host = check(&request, conn, table)?;
    record.host = Some(host.clone());
    let group = route(&request, &host, table)?;

    let websocket = request.version() == Version::HTTP_11
        && request.method() == Method::GET
        && headers::asks_for_websocket(request.headers())
        && request.body().is_end_stream();
    let on_upgrade = websocket.then(|| hyper::upgrade::on(&mut request));

    let (mut parts, body) = request.into_parts();
    let upload = if body.is_end_stream() {
        if matches!(parts.method, Method::POST | Method::PUT | Method::PATCH) {
            parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        Upload::Empty
    } else {
        if body.size_hint().lower() > table.limits.body_bytes {
            return Err(page::too_large("Content-Length above the limit"));
        }
        let received = Arc::new(Received::default());
        record.received = Some(received.clone());
        let upload = Upload::new(body, table.limits.body_bytes, table.body_idle, &received);
        if parts.headers.contains_key(header::EXPECT) {
            // The client waits for the upstream's word before it sends a body.
            upload
        } else {
            let gathered = upload.gathered().await;
            gathered.map_err(|_| body_fault(record).unwrap_or(page::bad_request("body broken")))?
        }
    };
    let forwarded = Forwarded { address: conn.address.clone(), https: conn.https, host, trace: record.trace.header() };
    headers::for_upstream(&mut parts.headers, forwarded, continued);
    if websocket {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        parts.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    let mut out = Request::new(upload);
    *out.method_mut() = parts.method;
    *out.uri_mut() = parts.uri.into_parts().path_and_query.map_or_else(Uri::default, Uri::from);
    *out.headers_mut() = parts.headers;

    let sent = forward(&conn.worker, table, group, out, record).await;
    let (response, lease) = sent.map_err(|refusal| body_fault(record).unwrap_or(refusal))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return match on_upgrade {
            Some(on_upgrade) if headers::is_websocket(response.headers()) => {
                Ok(Answer::Tunnel(response, lease, on_upgrade))
            }
            _ => Err(page::broken("upstream switched protocols unasked")),
        };
    }
    if response.headers().get_all(header::CONTENT_LENGTH).iter().nth(1).is_some() {
        return Err(page::broken("upstream sent two lengths"));
    }
    Ok(Answer::Through(response, lease))
}

/// What went wrong with the request's own body, if that is why it could not be forwarded.
fn body_fault(record: &Record) -> Option<Refusal> {
    let received = record.received.as_ref()?;
    if received.too_large.load(Relaxed) {
        Some(page::too_large("body above the limit"))
    } else if received.timed_out.load(Relaxed) {
        Some(page::timed_out("body too slow"))
    } else if received.broken.load(Relaxed) {
        Some(page::bad_request("body broken"))
    } else {
        None
    }
}

/// Refuses what must not be forwarded; gives the one host the request is for.
fn check<B>(request: &Request<B>, conn: &Conn, table: &Table) -> Result<HeaderValue, Refusal> {
    let headers = request.headers();
    if headers.len() > table.limits.headers {
        return Err(page::too_many_fields("too many fields"));
    }
    if !matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::POST | Method::PUT | Method::PATCH | Method::DELETE | Method::OPTIONS
    ) {
        return Err(page::method("method"));
    }
    if let Some(expect) = headers.get(header::EXPECT)
        && !expect.as_bytes().eq_ignore_ascii_case(b"100-continue")
    {
        return Err(page::expectation("Expect"));
    }
    authority(request, conn)
}

/// The host of a request: `Host` and the target's authority, which must not differ.
fn authority<B>(request: &Request<B>, conn: &Conn) -> Result<HeaderValue, Refusal> {
    let mut named = request.headers().get_all(header::HOST).iter();
    let (first, more) = (named.next(), named.next());
    if more.is_some() {
        return Err(page::bad_request("Host twice"));
    }
    if request.version() != Version::HTTP_2
        && let Some(scheme) = request.uri().scheme()
        && *scheme != (if conn.https { Scheme::HTTPS } else { Scheme::HTTP })
    {
        return Err(page::bad_request("target of another scheme"));
    }
    match (first, request.uri().authority()) {
        (Some(host), None) => Ok(host.clone()),
        (Some(host), Some(authority)) if host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
            Ok(host.clone())
        }
        (Some(_), Some(_)) => Err(page::bad_request("Host differs from the target")),
        (None, Some(authority)) if request.version() == Version::HTTP_2 => {
            HeaderValue::from_str(authority.as_str()).map_err(|_| page::bad_request("bad authority"))
        }
        (None, _) => Err(page::bad_request("no Host")),
    }
}

fn route<'a, B>(request: &Request<B>, host: &HeaderValue, table: &'a Table) -> Result<&'a Arc<Group>, Refusal> {
    let host = host.to_str().ok().and_then(path::host).ok_or_else(|| page::bad_request("bad Host"))?;
    let path = path::normal(request.uri().path()).map_err(page::bad_request)?;
    match table.route(&host, &path) {
        Some(group) => Ok(group),
        None if table.knows(&host) => Err(page::not_found("no route")),
        None => Err(page::misdirected("unknown host")),
    }
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut all = headers.get_all(name).iter();
    all.next().filter(|_| all.next().is_none())
}

/// Answers on a plain listener: a redirect to the same address over TLS, and nothing else.
pub async fn redirect(conn: Arc<Conn>, request: Request<Incoming>) -> Result<Response<Reply>, Infallible> {
    let table = conn.worker.gateway.table.load_full();
    let (trace, _) = Trace::next(None, &conn.worker.ids);
    let mut record = Record::new(conn.clone(), &request, trace);
    let accept = request.headers().get(header::ACCEPT).cloned();
    let mut response = match location(&conn, &table, &request, &mut record) {
        Ok(location) => {
            // 301 lets a browser turn POST into GET, 308 does not, but is younger.
            let plain = matches!(*request.method(), Method::GET | Method::HEAD);
            let status = if plain { StatusCode::MOVED_PERMANENTLY } else { StatusCode::PERMANENT_REDIRECT };
            record.status = status.as_u16();
            record.note = "redirect";
            let mut response = Response::new(Reply::Own { data: None, _record: Some(Box::new(record)) });
            *response.status_mut() = status;
            response.headers_mut().insert(header::LOCATION, location);
            response
        }
        Err(refusal) => own(&refusal, accept.as_ref(), record),
    };
    headers::for_client(response.headers_mut(), None);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(response)
}

fn location<B>(conn: &Conn, table: &Table, request: &Request<B>, record: &mut Record) -> Result<HeaderValue, Refusal> {
    let host = check(request, conn, table)?;
    record.host = Some(host.clone());
    let host = host.to_str().ok().and_then(path::host).ok_or_else(|| page::bad_request("bad Host"))?;
    path::normal(request.uri().path()).map_err(page::bad_request)?;
    if !table.knows(&host) {
        return Err(page::misdirected("unknown host"));
    }
    let port = match table.config.https_port {
        443 => String::new(),
        port => format!(":{port}"),
    };
    let target = request.uri().path_and_query().map_or("/", |p| p.as_str());
    HeaderValue::try_from(format!("https://{host}{port}{target}")).map_err(|_| page::bad_request("bad target"))
}
