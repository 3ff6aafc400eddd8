//! Names of the specification: repositories, tags, digests, references.

use std::fmt;

pub use api::registry::is_release;

/// What a registry's names may be at most (`<registry host>/<name>` is to fit 255 elsewhere too).
const NAME_BYTES: usize = 255;
const TAG_BYTES: usize = 128;

/// The SHA-256 of content, `sha256:` and 64 lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(String);

/// Which manifest is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    Tag(String),
    Digest(Digest),
}

impl Digest {
    /// Reads a digest; one of another algorithm is none that this registry knows.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("sha256:")?;
        let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (hex.len() == 64 && hex.bytes().all(lower)).then(|| Self(hex.to_owned()))
    }

    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_hash(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref())
    }

    pub fn from_hash(hash: &[u8]) -> Self {
        Self(api::audit::hex(hash))
    }

    /// Without its algorithm.
    pub fn hex(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl Reference {
    pub fn parse(text: &str) -> Option<Self> {
        if text.contains(':') {
            return Digest::parse(text).map(Self::Digest);
        }
        is_tag(text).then(|| Self::Tag(text.to_owned()))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// Whether a text is a repository's name: parts of lower-case letters and digits, joined by `.`, `_`, `__` or dashes, with `/`
/// between parts.
pub fn is_repository(text: &str) -> bool {
    !text.is_empty() && text.len() <= NAME_BYTES && text.split('/').all(is_part)
}

fn is_part(part: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (Some(first), Some(last)) = (part.bytes().next(), part.bytes().next_back()) else { return false };
    if !plain(first) || !plain(last) {
        return false;
    }
    let joins = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).filter(|join| !join.is_empty());
    let mut joins = joins;
    joins.all(|join| matches!(join, "." | "_" | "__") || join.bytes().all(|b| b == b'-'))
}

/// Whether a text is a tag.
pub fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let mut bytes = text.bytes();
    text.len() <= TAG_BYTES && bytes.next().is_some_and(word) && bytes.all(|b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_as_the_specification_writes_them() {
        for good in ["a", "time-tracker", "a/b/c", "a.b_c__d---e", "0/1"] {
            assert!(is_repository(good), "{good}");
        }
        let long = "a".repeat(256);
        for bad in ["", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", "-a", "a-", "a._b", "..", "a/../b", "ä", &long]
        {
            assert!(!is_repository(bad), "{bad}");
        }
    }

    #[test]
    fn releases_are_semantic_versions() {
        for release in ["v1.0.0", "1.2.3", "v0.0.1-rc.1", "v1.0.0-alpha-2"] {
            assert!(is_release(release), "{release}");
        }
        for other in
            ["latest", "v1", "v1.0", "1.2.3.4", "v01.0.0", "20261122-101500", "v1.0.0-", "v1.0.0-01", "vv1.0.0"]
        {
            assert!(!is_release(other), "{other}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_taken_is_harmless_in_a_path(text in "\\PC{0,80}") {
            if is_repository(&text) {
                assert!(!text.split('/').any(|part| part.is_empty() || part.starts_with('.')));
            }
            if let Some(reference) = Reference::parse(&text) {
                assert!(!text.contains('/') && !text.starts_with('.'));
                assert_eq!(reference.to_string(), text);
            }
        }

        #[test]
        fn a_digest_is_read_as_it_is_written(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..40)) {
            let digest = Digest::of(&bytes);
            assert_eq!(Digest::parse(&digest.to_string()), Some(digest.clone()));
            assert_eq!(Digest::parse(&digest.to_string().to_uppercase()), None);
        }
    }
}
