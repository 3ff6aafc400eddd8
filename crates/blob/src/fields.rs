//! Fields and queries of requests, read strictly: what is there and cannot be used is refused, never left out.

use std::collections::BTreeMap;

use axum::http::HeaderMap;
use percent_encoding::percent_decode_str;

use crate::refusal::Refusal;

/// Bytes of all names and values of metadata, as on Azure.
const METADATA_BYTES: usize = 8 * 1024;

/// Parts of a query: more than the longest signature has.
const PAIRS: usize = 64;

/// A field's text; None where it is missing or empty.
pub fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refusal> {
    let mut all = headers.get_all(name).iter();
    let Some(value) = all.next() else { return Ok(None) };
    if all.next().is_some() {
        return Err(Refusal::header(name, "it stands there more than once"));
    }
    // Content types and the like may hold more than ASCII.
    let value = std::str::from_utf8(value.as_bytes()).map_err(|_| Refusal::header(name, "it is no text"))?.trim();
    Ok(Some(value).filter(|value| !value.is_empty()))
}

/// A field that is a whole number.
pub fn number(headers: &HeaderMap, name: &str) -> Result<Option<u64>, Refusal> {
    let read = |text: &str| digits(text).ok_or_else(|| Refusal::header(name, "it is a whole number"));
    text(headers, name)?.map(read).transpose()
}

fn digits(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// The metadata of `x-ms-meta-NAME` fields. Names are identifiers, as on Azure; their case is not kept by HTTP.
pub fn metadata(headers: &HeaderMap) -> Result<BTreeMap<String, String>, Refusal> {
    let mut found = BTreeMap::new();
    let mut bytes = 0;
    for field in headers.keys() {
        let Some(name) = field.as_str().strip_prefix("x-ms-meta-") else { continue };
        let is_name = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !is_name {
            let shown: String = name.chars().take(40).collect();
            return Err(Refusal::bad(
                "InvalidMetadata",
                format!("`{shown}` is no name of metadata: it is no identifier"),
            ));
        }
        let value = text(headers, field.as_str())?.unwrap_or_default();
        bytes += name.len() + value.len();
        found.insert(name.to_owned(), value.to_owned());
    }
    if bytes > METADATA_BYTES {
        let message = format!("the metadata has {bytes} bytes; {METADATA_BYTES} are the most");
        return Err(Refusal::bad("MetadataTooLarge", message));
    }
    Ok(found)
}

/// The part of `length` bytes that a range asks for, both ends included.
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

/// Reads `x-ms-range` or `Range` (RFC 9110, section 14.2). What is no single range of bytes is as if it were not there.
pub fn part(range: Option<&str>, length: u64) -> Part {
    let Some(text) = range.and_then(|r| r.strip_prefix("bytes=")).map(str::trim) else { return Part::Whole };
    let Some((first, last)) = text.split_once('-') else { return Part::Whole };
    match (digits(first), digits(last)) {
        (Some(first), _) if first >= length && (last.is_empty() || digits(last).is_some()) => Part::Outside,
        (Some(first), None) if last.is_empty() => Part::Some { first, last: length - 1 },
        (Some(first), Some(last)) if first <= last => Part::Some { first, last: last.min(length - 1) },
        (None, Some(0)) if first.is_empty() => Part::Outside,
        (None, Some(_)) if first.is_empty() && length == 0 => Part::Outside,
        (None, Some(count)) if first.is_empty() => Part::Some { first: length.saturating_sub(count), last: length - 1 },
        _ => Part::Whole,
    }
}

/// The pairs of a query, decoded; names in lower case.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn read(text: &str) -> Result<Self, Refusal> {
        let decoded = |text: &str| {
            let decoded = percent_decode_str(text).decode_utf8().map(|text| text.into_owned());
            decoded.map_err(|_| Refusal::bad("InvalidUri", "the query is not UTF-8"))
        };
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // A plus stands for itself in signatures and names; `%2B` and `%20` are what clients send.
            Ok((decoded(name)?.to_ascii_lowercase(), decoded(value)?))
        });
        let pairs = pairs.take(PAIRS + 1).collect::<Result<Vec<_>, Refusal>>()?;
        if pairs.len() > PAIRS {
            return Err(Refusal::bad("InvalidUri", format!("the query has more than {PAIRS} parts")));
        }
        let twice = pairs.iter().enumerate().find(|(n, (name, _))| pairs[..*n].iter().any(|(other, _)| other == name));
        match twice {
            Some((_, (name, _))) => Err(Refusal::query(name, "it stands there more than once")),
            None => Ok(Self(pairs)),
        }
    }

    /// A value; None where it is missing or empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_has_them() {
        for (range, length, expected) in [
            (None, 10, Part::Whole),
            (Some("bytes=0-3"), 10, Part::Some { first: 0, last: 3 }),
            (Some("bytes=2-99"), 10, Part::Some { first: 2, last: 9 }),
            (Some("bytes=2-"), 10, Part::Some { first: 2, last: 9 }),
            (Some("bytes=-3"), 10, Part::Some { first: 7, last: 9 }),
            (Some("bytes=10-"), 10, Part::Outside),
            (Some("bytes=0-5"), 0, Part::Outside),
            (Some("bytes=-0"), 10, Part::Outside),
            (Some("bytes=3-2"), 10, Part::Whole),
            (Some("bytes=0-1,3-4"), 10, Part::Whole),
            (Some("lines=1-2"), 10, Part::Whole),
        ] {
            assert_eq!(part(range, length), expected, "{range:?} of {length}");
        }
    }

    #[test]
    fn a_query_is_decoded_once_and_its_keys_as_well() {
        let query = Query::read("comp=list&max%52esults=5&prefix=a%2Fb%20c%2525&sig=a%2Bb+c&marker=").unwrap();
        assert_eq!(query.get("maxresults"), Some("5"));
        assert_eq!(query.get("prefix"), Some("a/b c%25"));
        assert_eq!(query.get("sig"), Some("a+b+c"));
        assert!(query.get("marker").is_none() && query.has("marker"));
        assert!(Query::read(&(0..65).map(|n| format!("a{n}=1&")).collect::<String>()).is_err());
        assert!(Query::read("a=1&A=2").is_err() && Query::read("a=%FF").is_err());
    }

    proptest::proptest! {
        #[test]
        fn a_part_lies_inside(range in "(bytes=)?[0-9-]{0,22}", length in 0_u64..1000) {
            if let Part::Some { first, last } = part(Some(&range), length) {
                assert!(first <= last && last < length);
            }
        }
    }
}
