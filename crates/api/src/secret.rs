//! The only type in which a secret crosses crates.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

/// A secret text. It has neither `Debug` nor `Serialize`, is wiped when dropped, and compares in constant time.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes over a text as a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// 32 random bytes from the operating system's generator, as 43 characters of unpadded base64url.
    pub fn random() -> Self {
        use base64::Engine as _;
        let mut bytes = Zeroizing::new([0u8; 32]);
        aws_lc_rs::rand::fill(bytes.as_mut()).expect("the operating system's random generator answers");
        Self::new(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes.as_ref()))
    }

    /// HMAC-SHA-256 of `message` under this secret, as unpadded base64url. Keys of workloads are made this way from one
    /// role key, so that the role verifies them without a list.
    pub fn derive(&self, message: &str) -> Self {
        use base64::Engine as _;
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, self.0.as_bytes());
        let tag = aws_lc_rs::hmac::sign(&key, message.as_bytes());
        Self::new(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(tag.as_ref()))
    }

    /// The text itself. Every call is a place where a secret may leak; keep them few.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `other` is the same text, in time that depends on the lengths only.
    pub fn matches(&self, other: &str) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(self.0.as_bytes(), other.as_bytes()).is_ok()
    }
}

impl<'de> serde::Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// Named secrets that a workload is handed through a pipe at its start, never through argv, environment or a file.
#[derive(Clone, Default)]
pub struct Secrets(BTreeMap<String, Secret>);

impl Secrets {
    /// Adds or replaces a secret.
    pub fn insert(&mut self, name: impl Into<String>, value: Secret) {
        self.0.insert(name.into(), value);
    }

    /// The secret called `name`, if it was handed over.
    pub fn get(&self, name: &str) -> Option<&Secret> {
        self.0.get(name)
    }

    /// Takes the secret called `name` out.
    pub fn take(&mut self, name: &str) -> Option<Secret> {
        self.0.remove(name)
    }

    /// All pairs, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// The JSON object that is written into the pipe. Itself a secret.
    pub fn encode(&self) -> Secret {
        let map: BTreeMap<&str, &str> = self.0.iter().map(|(k, v)| (k.as_str(), v.expose())).collect();
        Secret::new(serde_json::to_string(&map).expect("a map of texts is JSON"))
    }

    /// Reads what [`Secrets::encode`] wrote.
    pub fn decode(text: &Secret) -> Result<Self, serde_json::Error> {
        serde_json::from_str::<BTreeMap<String, Secret>>(text.expose()).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_survive_the_pipe_and_compare() {
        let mut secrets = Secrets::default();
        secrets.insert("kek", Secret::new("a\"b"));
        let back = Secrets::decode(&secrets.encode()).unwrap();
        assert!(back.get("kek").unwrap().matches("a\"b"));
        assert!(!back.get("kek").unwrap().matches("a\"c"));
        assert!(!back.get("kek").unwrap().matches("a"));
    }

    #[test]
    fn derived_keys_differ_by_name() {
        let root = Secret::random();
        assert!(root.derive("service.web").matches(root.derive("service.web").expose()));
        assert!(!root.derive("service.web").matches(root.derive("service.api").expose()));
    }
}
