//! Fields of requests: byte ranges, chunk ranges, queries, Basic credentials, scopes.

use api::Secret;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use percent_encoding::percent_decode_str;

/// The part of `length` bytes that a `Range` field asks for, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Whole,
    Some {
        first: u64,
        last: u64,
    },
    /// No byte of it is there (416).
    Outside,
}

/// Reads `Range` (RFC 9110, section 14.2). What is no single range of bytes is as if it were not there.
pub fn part(range: Option<&str>, length: u64) -> Part {
    let Some(text) = range.and_then(|r| r.strip_prefix("bytes=")).map(str::trim) else { return Part::Whole };
    let Some((first, last)) = text.split_once('-') else { return Part::Whole };
    match (number(first), number(last)) {
        (Some(first), _) if first >= length && (last.is_empty() || number(last).is_some()) => Part::Outside,
        (Some(first), None) if last.is_empty() => Part::Some { first, last: length - 1 },
        (Some(first), Some(last)) if first <= last => Part::Some { first, last: last.min(length - 1) },
        (None, Some(0)) if first.is_empty() => Part::Outside,
        (None, Some(_)) if first.is_empty() && length == 0 => Part::Outside,
        (None, Some(count)) if first.is_empty() => Part::Some { first: length.saturating_sub(count), last: length - 1 },
        _ => Part::Whole,
    }
}

/// The two ends of a chunk: `Content-Range: FIRST-LAST`, as the specification has it, or with `bytes ` and `/SIZE` around it.
pub fn chunk(text: &str) -> Option<(u64, u64)> {
    let text = text.trim();
    let text = text.strip_prefix("bytes").map_or(text, |rest| rest.trim_start_matches([' ', '=']));
    let text = text.split_once('/').map_or(text, |(range, _)| range);
    let (first, last) = text.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

fn number(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// The values of `key` in a query or a form, decoded.
pub fn values(text: &str, key: &str) -> Vec<String> {
    let decode = |t: &str| percent_decode_str(&t.replace('+', " ")).decode_utf8_lossy().into_owned();
    text.split('&')
        .filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name) == key).then(|| decode(value))
        })
        .collect()
}

/// The first value of `key`.
pub fn value(text: &str, key: &str) -> Option<String> {
    values(text, key).into_iter().next()
}

/// User and password of an `Authorization: Basic` field.
pub fn basic(authorization: &str) -> Option<(String, Secret)> {
    let (scheme, text) = authorization.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(text.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), Secret::new(password)))
}

/// What a scope asks for: `repository:NAME:pull,push`. NAME may hold a colon only where the type does not.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Access {
    #[serde(rename = "type")]
    pub kind: String,
    pub name: String,
    pub actions: Vec<String>,
}

/// Reads scopes; several may stand in one text, with blanks between them. What is none is left out.
pub fn scopes<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<Access> {
    /// More than any client asks for at once.
    const MOST: usize = 64;
    texts
        .into_iter()
        .flat_map(str::split_whitespace)
        .filter_map(|scope| {
            let (kind, rest) = scope.split_once(':')?;
            let (name, actions) = rest.rsplit_once(':')?;
            let actions = actions.split(',').filter(|a| !a.is_empty()).map(str::to_owned).collect();
            Some(Access { kind: kind.to_owned(), name: name.to_owned(), actions })
        })
        .take(MOST)
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_has_them() {
        for (range, expected) in [
            (None, Part::Whole),
            (Some("bytes=0-3"), Part::Some { first: 0, last: 3 }),
            (Some("bytes=4-"), Part::Some { first: 4, last: 9 }),
            (Some("bytes=4-99"), Part::Some { first: 4, last: 9 }),
            (Some("bytes=-3"), Part::Some { first: 7, last: 9 }),
            (Some("bytes=-30"), Part::Some { first: 0, last: 9 }),
            (Some("bytes=10-"), Part::Outside),
            (Some("bytes=-0"), Part::Outside),
            (Some("bytes=5-4"), Part::Whole),
            (Some("bytes=0-1,4-5"), Part::Whole),
            (Some("items=0-1"), Part::Whole),
        ] {
            assert_eq!(part(range, 10), expected, "{range:?}");
        }
        assert_eq!(part(Some("bytes=0-"), 0), Part::Outside);
    }

    #[test]
    fn chunks_are_read_in_every_wording_that_clients_use() {
        assert_eq!(chunk("0-9"), Some((0, 9)));
        assert_eq!(chunk("bytes 5-9/10"), Some((5, 9)));
        assert_eq!(chunk("bytes=5-9"), Some((5, 9)));
        for bad in ["", "9-0", "a-b", "0-", "-1", "0-18446744073709551616"] {
            assert_eq!(chunk(bad), None, "{bad}");
        }
    }

    #[test]
    fn scopes_may_stand_in_one_text() {
        let read = scopes(["repository:a/b:pull,push registry:catalog:*", "nonsense"]);
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].name.as_str(), read[0].actions.len()), ("a/b", 2));
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_is_read_without_a_panic(text in "\\PC{0,60}", length in proptest::num::u64::ANY) {
            let _ = (chunk(&text), basic(&text), scopes([text.as_str()]), values(&text, "a"));
            for range in [text.clone(), format!("bytes={text}")] {
                if let Part::Some { first, last } = part(Some(&range), length) {
                    assert!(first <= last && last < length);
                }
            }
        }

        #[test]
        fn a_range_never_leaves_the_content(a in 0u64..20, b in 0u64..20, length in 0u64..20) {
            for range in [format!("bytes={a}-{b}"), format!("bytes={a}-"), format!("bytes=-{b}")] {
                if let Part::Some { first, last } = part(Some(&range), length) {
                    assert!(first <= last && last < length, "{range} of {length}");
                }
            }
        }
    }
}
