//! Queries, forms, cookies and `Basic` credentials: the parsing of what comes from outside.

use std::collections::BTreeMap;

use base64::Engine as _;

/// More parameters than any request of ours has.
const MOST: usize = 64;

/// Parameters of a query or a form. A name that is there twice makes the whole unusable (RFC 6749 section 3.1), but for
/// names ending in `[]`, of which [`Params::all`] gives every value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(BTreeMap<String, Vec<String>>);

impl Params {
    /// Parses `application/x-www-form-urlencoded`. None if a name is there twice, or there are far too many.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (index, (name, value)) in url::form_urlencoded::parse(text).enumerate() {
            if index >= MOST {
                return None;
            }
            let values = all.entry(name.into_owned()).or_default();
            values.push(value.into_owned());
        }
        (all.iter().all(|(name, values)| values.len() == 1 || name.ends_with("[]"))).then_some(Self(all))
    }

    /// The value of `name`; none if it is absent or empty (RFC 6749: empty is as if omitted).
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(|values| values.first()).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// As [`Params::get`], with the empty text for none.
    pub fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    /// Every value of `name`.
    pub fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether there is no parameter.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As a query again, without the parameter `without`.
    pub fn encode(&self, without: &str) -> String {
        let mut out = url::form_urlencoded::Serializer::new(String::new());
        for (name, values) in self.0.iter().filter(|(name, _)| *name != without) {
            for value in values {
                out.append_pair(name, value);
            }
        }
        out.finish()
    }
}

/// The value of the cookie `name` in a `Cookie` header.
pub fn cookie<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    header.split(';').filter_map(|pair| pair.trim().split_once('=')).find(|(n, _)| *n == name).map(|(_, value)| value)
}

/// Client id and secret of an `Authorization: Basic` header, form-decoded as RFC 6749 section 2.3.1 says.
pub fn basic(header: &str) -> Option<(String, api::Secret)> {
    let (scheme, rest) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = base64::engine::general_purpose::STANDARD.decode(rest.trim()).ok()?;
    let text = zeroize::Zeroizing::new(String::from_utf8(text).ok()?);
    let (id, secret) = text.split_once(':')?;
    Some((decode(id), api::Secret::new(decode(secret))))
}

fn decode(text: &str) -> String {
    // A value alone, as `name=value` with an empty name.
    let pair = format!("={}", text.replace('&', "%26"));
    url::form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

/// The token of an `Authorization: Bearer` header.
pub fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_parameter_that_is_there_twice_is_refused() {
        assert!(Params::parse(b"a=1&b=2").is_some());
        assert!(Params::parse(b"a=1&a=1").is_none());
        assert_eq!(Params::parse(b"g[]=1&g[]=2").unwrap().all("g[]"), ["1", "2"]);
        assert_eq!(Params::parse(b"a=").unwrap().get("a"), None);
    }

    #[test]
    fn basic_credentials_are_form_decoded() {
        let header = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode("web%2Dapp:a%26b+c"));
        let (id, secret) = basic(&header).unwrap();
        assert_eq!(id, "web-app");
        assert!(secret.matches("a&b c"));
        assert!(basic("Basic !").is_none());
        assert!(basic("Bearer abc").is_none());
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        assert_eq!(cookie("a=1; __Host-session=x=y; b=2", "__Host-session"), Some("x=y"));
        assert_eq!(cookie("x__Host-session=1", "__Host-session"), None);
        assert_eq!(cookie("", "a"), None);
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_what_is_parsed_encodes_to_itself(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            // Leaves nothing out: longer than any name that so few bytes can spell.
            let no_name = "x".repeat(2000);
            if let Some(params) = Params::parse(&bytes) {
                prop_assert_eq!(Params::parse(params.encode(&no_name).as_bytes()), Some(params));
            }
        }

        #[test]
        fn headers_of_any_kind_never_panic(text in "\\PC{0,120}") {
            let _ = cookie(&text, "__Host-session");
            let _ = basic(&text);
            let _ = basic(&format!("Basic {text}"));
            let _ = bearer(&text);
        }
    }
}
