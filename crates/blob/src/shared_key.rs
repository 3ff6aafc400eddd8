//! Requests that are signed with the account's key: `Authorization: SharedKey ACCOUNT:SIGNATURE`.

use std::cmp::Ordering;

use api::Secret;
use aws_lc_rs::hmac;
use axum::http::{HeaderMap, Method};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::fields::Query;

/// The fields that are signed in their place, whether they are there or not.
const FIELDS: [&str; 11] = [
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
];

/// A key that signs, from its base64.
pub fn key(secret: &Secret) -> Option<hmac::Key> {
    Some(hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(secret.expose()).ok()?))
}

/// Whether `signature` (base64) is the one of `text`; in time that does not depend on where they differ.
pub fn is_signed(key: &hmac::Key, text: &str, signature: &str) -> bool {
    STANDARD.decode(signature).is_ok_and(|tag| hmac::verify(key, text.as_bytes(), &tag).is_ok())
}

/// The signature of `text` in base64.
#[cfg(test)]
pub fn sign(key: &hmac::Key, text: &str) -> String {
    STANDARD.encode(hmac::sign(key, text.as_bytes()))
}

/// The texts that the signature of a request may be of: one, but that clients sort `x-ms-` fields in two ways.
pub fn texts(account: &str, method: &Method, path: &str, query: &Query, headers: &HeaderMap) -> Option<Vec<String>> {
    let mut head = format!("{method}\n");
    for name in FIELDS {
        let value = joined(headers, name)?;
        let value = if name == "content-length" && value == "0" { String::new() } else { value };
        head.push_str(&value);
        head.push('\n');
    }
    let mut fields: Vec<(&str, String)> = Vec::new();
    for name in headers.keys().map(|name| name.as_str()).filter(|name| name.starts_with("x-ms-")) {
        fields.push((name, joined(headers, name)?));
    }
    let mut resource = format!("/{account}{path}");
    let mut pairs = query.pairs().to_vec();
    pairs.sort();
    for (name, value) in pairs {
        resource.push_str(&format!("\n{name}:{value}"));
    }
    let text = |fields: &[(&str, String)]| {
        let fields: String = fields.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        format!("{head}{fields}{resource}")
    };
    fields.sort_by(|a, b| a.0.cmp(b.0));
    let mut texts = vec![text(&fields)];
    fields.sort_by(|a, b| as_words(a.0, b.0));
    let other = text(&fields);
    if other != texts[0] {
        texts.push(other);
    }
    Some(texts)
}

fn joined(headers: &HeaderMap, name: &str) -> Option<String> {
    let values: Option<Vec<&str>> =
        headers.get_all(name).iter().map(|value| std::str::from_utf8(value.as_bytes()).ok().map(str::trim)).collect();
    Some(values?.join(","))
}

/// The order in which Azure's own service sorts, and its newer clients with it: hyphens count only where all else is the same.
fn as_words(a: &str, b: &str) -> Ordering {
    let weight = |b: u8| match b {
        b'_' => 0,
        digit @ b'0'..=b'9' => 1 + u16::from(digit),
        other => 256 + u16::from(other),
    };
    let letters = |text: &str| text.bytes().filter(|b| *b != b'-').map(weight).collect::<Vec<_>>();
    // A hyphen comes behind whatever stands in its place in the other.
    let hyphens = |text: &str| text.bytes().map(|b| u8::from(b == b'-')).collect::<Vec<_>>();
    letters(a).cmp(&letters(b)).then_with(|| hyphens(a).cmp(&hyphens(b)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    /// The example of Azure's own documentation of Shared Key authorization, its text and nothing else.
    #[test]
    fn the_documented_text_is_signed() {
        let mut headers = HeaderMap::new();
        headers.insert("x-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT".parse().unwrap());
        headers.insert("x-ms-version", "2015-02-21".parse().unwrap());
        headers.insert("content-length", "0".parse().unwrap());
        let query = Query::read("comp=metadata&restype=container&timeout=20").unwrap();
        let texts = texts("myaccount", &Method::GET, "/mycontainer", &query, &headers).unwrap();
        let expected = "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n\
            /myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20";
        assert_eq!(texts, [expected]);
    }

    #[test]
    fn fields_are_sorted_in_both_ways() {
        assert_eq!(as_words("x-ms-meta-ab", "x-ms-meta-a-b"), Ordering::Less);
        assert_eq!(as_words("x-ms-meta_a", "x-ms-meta-a"), Ordering::Less);
        let mut headers = HeaderMap::new();
        for name in ["x-ms-meta-a-c", "x-ms-meta-ab"] {
            headers.insert(name, "1".parse().unwrap());
        }
        let texts = texts("a", &Method::GET, "/", &Query::default(), &headers).unwrap();
        assert_eq!(texts.len(), 2);
        let key = key(&Secret::new("AAAA")).unwrap();
        assert!(
            is_signed(&key, &texts[1], &sign(&key, &texts[1])) && !is_signed(&key, &texts[0], &sign(&key, &texts[1]))
        );
        assert!(!is_signed(&key, "", "") && !is_signed(&key, "", "%%"));
    }
}
