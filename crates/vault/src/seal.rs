//! Envelope encryption: values under a data key, data keys under the key-encryption key, both AES-256-GCM with a fresh
//! random nonce. What is sealed is bound to where it belongs, so that nothing opens in another place.

use std::collections::BTreeMap;

use api::Secret;
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf, rand,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use crate::Error;

/// An AES-256-GCM key. The library wipes it when it is dropped.
pub struct Key(LessSafeKey);

impl Key {
    fn new(bytes: &[u8; 32]) -> Self {
        Self(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, bytes).expect("32 bytes are an AES-256 key")))
    }

    /// The key-encryption key from its text: 32 bytes in base64url.
    pub fn kek(text: &Secret) -> Result<Self, Error> {
        Ok(Self::new(&*kek_bytes(text)?))
    }

    /// The key that backups are sealed under; made from the key-encryption key, so that it outlives data keys.
    pub fn backup(kek: &Secret) -> Result<Self, Error> {
        let bytes = kek_bytes(kek)?;
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"stampwright vault");
        let mut key = Zeroizing::new([0u8; 32]);
        salt.extract(bytes.as_ref())
            .expand(&[b"backup 1"], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(key.as_mut()))
            .expect("HKDF-SHA-256 gives 32 bytes");
        Ok(Self::new(&key))
    }

    /// Nonce, ciphertext and tag of `plain`, bound to `place`.
    pub fn seal(&self, place: &str, plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0u8; NONCE_LEN];
        rand::fill(&mut nonce).expect("the operating system's random generator answers");
        let mut sealed = Vec::with_capacity(NONCE_LEN + plain.len() + AES_256_GCM.tag_len());
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plain);
        // Encrypted in place: the plain text in this buffer is overwritten.
        let tag = self
            .0
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(place), &mut sealed[NONCE_LEN..])
            .expect("values are far shorter than what AES-GCM seals at once");
        sealed.extend_from_slice(tag.as_ref());
        sealed
    }

    /// Opens what [`Key::seal`] made for the same `place`. None: another key, another place, or changed bytes.
    pub fn open(&self, place: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, rest) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = Zeroizing::new(rest.to_vec());
        let length = self.0.open_in_place(nonce, Aad::from(place), &mut text).ok()?.len();
        text.truncate(length);
        Some(text)
    }
}

fn kek_bytes(text: &Secret) -> Result<Zeroizing<[u8; 32]>, Error> {
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text.expose().trim()).map_err(|_| Error::KekForm)?);
    Ok(Zeroizing::new(bytes.as_slice().try_into().map_err(|_| Error::KekForm)?))
}

/// The data keys of a vault, opened.
pub struct DataKeys {
    keys: BTreeMap<u64, Key>,
}

impl DataKeys {
    /// Opens wrapped keys, `(id, wrapped)`.
    pub fn open(kek: &Key, wrapped: &[(u64, Vec<u8>)]) -> Result<Self, Error> {
        let mut keys = BTreeMap::new();
        for (id, sealed) in wrapped {
            let bytes = kek.open(&key_place(*id), sealed).ok_or(Error::Kek { id: *id })?;
            let bytes: Zeroizing<[u8; 32]> =
                Zeroizing::new(bytes.as_slice().try_into().map_err(|_| Error::Kek { id: *id })?);
            keys.insert(*id, Key::new(&bytes));
        }
        Ok(Self { keys })
    }

    /// A fresh data key called `id`, wrapped by `kek`.
    pub fn make(kek: &Key, id: u64) -> Vec<u8> {
        let mut bytes = Zeroizing::new([0u8; 32]);
        rand::fill(bytes.as_mut()).expect("the operating system's random generator answers");
        kek.seal(&key_place(id), bytes.as_ref())
    }

    /// The key that new values are sealed under.
    pub fn current(&self) -> u64 {
        self.keys.keys().next_back().copied().unwrap_or_default()
    }

    /// Seals a value of one version of one secret under the current key.
    pub fn seal(&self, name: &str, version: &str, value: &[u8]) -> (u64, Vec<u8>) {
        let id = self.current();
        (id, self.keys[&id].seal(&value_place(name, version, id), value))
    }

    /// Opens a value.
    pub fn unseal(&self, name: &str, version: &str, id: u64, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let key = self.keys.get(&id).ok_or(Error::Sealed { id })?;
        key.open(&value_place(name, version, id), sealed).ok_or(Error::Sealed { id })
    }
}

fn key_place(id: u64) -> String {
    format!("stampwright vault data key 1\n{id}")
}

fn value_place(name: &str, version: &str, id: u64) -> String {
    format!("stampwright vault value 1\n{id}\n{}\n{version}", name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(kek: &Key) -> DataKeys {
        DataKeys::open(kek, &[(1, DataKeys::make(kek, 1))]).unwrap()
    }

    #[test]
    fn a_value_opens_only_under_its_own_name_version_and_key() {
        let kek = Key::kek(&Secret::random()).unwrap();
        let keys = keys(&kek);
        let (id, sealed) = keys.seal("Db-Pass", "v1", b"hunter2");
        assert_eq!(keys.unseal("db-pass", "v1", id, &sealed).unwrap().as_slice(), b"hunter2");
        assert!(keys.unseal("other", "v1", id, &sealed).is_err());
        assert!(keys.unseal("db-pass", "v2", id, &sealed).is_err());
        assert!(keys.unseal("db-pass", "v1", 2, &sealed).is_err());
        assert!(!sealed.windows(7).any(|w| w == b"hunter2"));
        assert_ne!(keys.seal("a", "v", b"x").1, keys.seal("a", "v", b"x").1, "nonces are fresh");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(keys.unseal("db-pass", "v1", id, &changed).is_err());
        }
    }

    #[test]
    fn another_key_encryption_key_is_an_error_that_says_what_to_do() {
        let kek = Key::kek(&Secret::random()).unwrap();
        let wrapped = DataKeys::make(&kek, 1);
        let other = Key::kek(&Secret::random()).unwrap();
        let error = DataKeys::open(&other, &[(1, wrapped)]).err().unwrap();
        assert!(error.to_string().contains("Hand the vault the key it was made with"), "{error}");
    }

    #[test]
    fn a_key_encryption_key_of_another_length_is_refused() {
        assert!(matches!(Key::kek(&Secret::new("c2hvcnQ")), Err(Error::KekForm)));
    }
}
