//! Which fields pass the gateway, and which it sets.

use ::http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{self, Entry},
};

/// What the gateway says of the client.
pub struct Forwarded {
    pub address: HeaderValue,
    pub https: bool,
    pub host: HeaderValue,
    pub trace: HeaderValue,
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const PERMISSIONS_POLICY: HeaderName = HeaderName::from_static("permissions-policy");

/// Hop-by-hop fields (RFC 9110 section 7.6.1) but `connection`, which is handled by itself.
fn hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// Fields by which a client could pose as somebody else or make an application read another address. A name with `_` is
/// dropped as well: CGI-like servers cannot tell it from one with `-`, so it would forge the fields that are set here.
///
/// The last ones are those by which App Service tells an application who is signed in; applications trust them blindly.
fn forged(name: &str) -> bool {
    name.starts_with("x-forwarded")
        || name.contains('_')
        || ["x-original-", "x-rewrite-", "x-ms-client-principal", "x-ms-token-", "x-arr-", "x-appservice-"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        || matches!(name, "forwarded" | "x-real-ip" | "x-client-ip" | "client-ip" | "true-client-ip" | "disguised-host")
}

/// Makes a request's fields fit to be sent upstream.
pub fn for_upstream(headers: &mut HeaderMap, forwarded: Forwarded, keep_tracestate: bool) {
    remove(headers, |name| hop_by_hop(name) || forged(name) || name == "expect");
    join_cookies(headers);
    let Forwarded { address, https, host, trace } = forwarded;
    headers.insert(X_FORWARDED_FOR, address);
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(if https { "https" } else { "http" }));
    headers.insert(X_FORWARDED_HOST, host.clone());
    headers.insert(header::HOST, host);
    headers.insert(TRACEPARENT, trace);
    if !keep_tracestate {
        headers.remove(TRACESTATE);
    }
    headers.append(header::VIA, HeaderValue::from_static("1.1 gateway"));
}

/// Makes a response's fields fit for the client. What the application has set itself stays, but for transport security: that
/// only HTTPS is served is the edge's promise, and one page with `max-age=0` would take it back for all.
pub fn for_client(headers: &mut HeaderMap, hsts: Option<&HeaderValue>) {
    // The length beside a transfer encoding is not the body's.
    let encoded = headers.contains_key(header::TRANSFER_ENCODING);
    remove(headers, |name| hop_by_hop(name) || name == "server" || (encoded && name == "content-length"));
    let or = |headers: &mut HeaderMap, name: HeaderName, value: HeaderValue| {
        if let Entry::Vacant(entry) = headers.entry(name) {
            entry.insert(value);
        }
    };
    or(headers, header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    or(headers, header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    or(headers, header::REFERRER_POLICY, HeaderValue::from_static("strict-origin-when-cross-origin"));
    or(
        headers,
        PERMISSIONS_POLICY,
        HeaderValue::from_static("camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    );
    if let Some(hsts) = hsts {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, hsts.clone());
    }
}

/// HTTP/2 clients send each cookie as a field of its own; HTTP/1 allows one field (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut all = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(_)) = (all.next(), all.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for value in headers.get_all(header::COOKIE).iter().skip(1) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(value.as_bytes());
    }
    let joined = HeaderValue::from_bytes(&joined).expect("values joined by visible characters are a value");
    headers.insert(header::COOKIE, joined);
}

/// Removes fields by name, and those that `Connection` names.
fn remove(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    let mut gone: Vec<HeaderName> = Vec::new();
    for value in headers.get_all(header::CONNECTION) {
        for token in value.as_bytes().split(|b| *b == b',') {
            // `host` and the framing are needed whatever `Connection` says of them.
            if let Ok(name) = HeaderName::from_bytes(token.trim_ascii())
                && name != header::HOST
                && name != header::CONTENT_LENGTH
            {
                gone.push(name);
            }
        }
    }
    gone.extend(headers.keys().filter(|name| unwanted(name.as_str())).cloned());
    for name in gone {
        headers.remove(name);
    }
}

/// Whether a request asks for a WebSocket (RFC 6455 section 4.1), the one upgrade that is passed on.
pub fn asks_for_websocket(headers: &HeaderMap) -> bool {
    let connection = headers.get_all(header::CONNECTION).iter();
    connection.flat_map(|v| v.as_bytes().split(|b| *b == b',')).any(|t| t.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
        && is_websocket(headers)
}

/// Whether the one `Upgrade` is to a WebSocket.
pub fn is_websocket(headers: &HeaderMap) -> bool {
    let mut all = headers.get_all(header::UPGRADE).iter();
    all.next().is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket")) && all.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn a_client_cannot_speak_for_the_gateway() {
        let mut map = headers(&[
            ("x-forwarded-for", "6.6.6.6"),
            ("x_forwarded_for", "6.6.6.6"),
            ("forwarded", "for=6.6.6.6"),
            ("x-real-ip", "6.6.6.6"),
            ("connection", "close, x-forwarded-proto, x-secret, host"),
            ("x-secret", "1"),
            ("te", "trailers"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-server", "a"),
            ("upgrade", "h2c"),
            ("x-ms-client-principal-name", "root"),
            ("accept", "*/*"),
            ("tracestate", "a=1"),
        ]);
        let value = HeaderValue::from_static;
        let forwarded =
            Forwarded { address: value("127.0.0.1"), https: true, host: value("a"), trace: value("00-1-1-00") };
        for_upstream(&mut map, forwarded, false);
        let mut names: Vec<&str> = map.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["accept", "host", "traceparent", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"]
        );
        assert_eq!(map["x-forwarded-for"], "127.0.0.1");
        assert_eq!(map["x-forwarded-proto"], "https");
    }

    #[test]
    fn what_the_application_says_of_itself_stays() {
        let mut map = headers(&[
            ("x-frame-options", "SAMEORIGIN"),
            ("server", "x/1"),
            ("content-length", "9"),
            ("transfer-encoding", "chunked"),
        ]);
        for_client(&mut map, Some(&HeaderValue::from_static("max-age=1")));
        assert_eq!(map["x-frame-options"], "SAMEORIGIN");
        assert_eq!(map["x-content-type-options"], "nosniff");
        assert_eq!(map["strict-transport-security"], "max-age=1");
        assert!(
            !map.contains_key("server")
                && !map.contains_key("content-length")
                && !map.contains_key("content-security-policy")
        );
    }
}
