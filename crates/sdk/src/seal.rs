//! Sealing small values (cookies, columns) under one key: AES-256-GCM, and HMAC-SHA-256 for what is only compared.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest, hkdf, hmac,
    rand::{SecureRandom, SystemRandom},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::Secret;

/// Sealed text is `1.` and base64url of nonce and ciphertext; the number lets a later format stand beside this one.
const VERSION: &str = "1.";

/// A key for sealing and for fingerprints, derived from one setting.
pub struct Sealer {
    aead: LessSafeKey,
    mac: hmac::Key,
}

#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("the sealing key is shorter than 32 characters")]
    ShortKey,
    #[error("the system has no random numbers to give")]
    NoRandom,
    #[error("the sealed value is not one of ours, was changed, or was sealed for something else")]
    Broken,
}

struct Length;
impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        32
    }
}

impl Sealer {
    /// `secret` is any text of at least 32 characters; the two keys in use derive from it by HKDF-SHA-256.
    ///
    /// # Errors
    /// A shorter text.
    pub fn new(secret: &Secret) -> Result<Sealer, SealError> {
        if secret.reveal().len() < 32 {
            return Err(SealError::ShortKey);
        }
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, b"stampwright sdk").extract(secret.reveal().as_bytes());
        let derive = |purpose: &[u8]| -> Result<[u8; 32], SealError> {
            let mut key = [0_u8; 32];
            root.expand(&[purpose], Length).and_then(|okm| okm.fill(&mut key)).map_err(|_| SealError::ShortKey)?;
            Ok(key)
        };
        let aead = UnboundKey::new(&AES_256_GCM, &derive(b"seal")?).map_err(|_| SealError::ShortKey)?;
        Ok(Sealer { aead: LessSafeKey::new(aead), mac: hmac::Key::new(hmac::HMAC_SHA256, &derive(b"mac")?) })
    }

    /// Encrypts and authenticates `value` for `purpose`; only [`Sealer::open`] with the same purpose reads it.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn seal(&self, purpose: &str, value: &[u8]) -> Result<String, SealError> {
        let mut nonce = [0_u8; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| SealError::NoRandom)?;
        let mut body = value.to_vec();
        self.aead
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(purpose.as_bytes()), &mut body)
            .map_err(|_| SealError::NoRandom)?;
        Ok(format!("{VERSION}{}", URL_SAFE_NO_PAD.encode([&nonce[..], &body].concat())))
    }

    /// Reads what [`Sealer::seal`] made.
    ///
    /// # Errors
    /// The value is not sealed by this key for this purpose, or was changed.
    pub fn open(&self, purpose: &str, sealed: &str) -> Result<Vec<u8>, SealError> {
        let bytes =
            sealed.strip_prefix(VERSION).and_then(|b| URL_SAFE_NO_PAD.decode(b).ok()).ok_or(SealError::Broken)?;
        let (nonce, body) = bytes.split_at_checked(NONCE_LEN).ok_or(SealError::Broken)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Broken)?;
        let mut body = body.to_vec();
        let opened = self.aead.open_in_place(nonce, Aad::from(purpose.as_bytes()), &mut body);
        opened.map(|value| value.to_vec()).map_err(|_| SealError::Broken)
    }

    /// A keyed fingerprint of `value` for `purpose`, base64url.
    pub fn fingerprint(&self, purpose: &str, value: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.mac);
        context.update(purpose.as_bytes());
        context.update(&[0]);
        context.update(value);
        URL_SAFE_NO_PAD.encode(context.sign())
    }
}

/// 256 random bits as base64url: session identifiers, states, verifiers.
///
/// # Errors
/// The system gives no random numbers.
pub fn random_text() -> Result<String, SealError> {
    let mut bytes = [0_u8; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| SealError::NoRandom)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// SHA-256 of `text`, base64url (the PKCE challenge, RFC 7636).
pub fn sha256_text(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, text.as_bytes()))
}

/// SHA-256 of `text` in hexadecimal.
pub fn sha256_hex(text: &str) -> String {
    digest::digest(&digest::SHA256, text.as_bytes()).as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer() -> Sealer {
        Sealer::new(&Secret::new("a sealing key of thirty-two characters or more")).unwrap()
    }

    #[test]
    fn a_sealed_value_opens_only_for_its_purpose_and_unchanged() {
        let sealer = sealer();
        let sealed = sealer.seal("sign-in", b"state").unwrap();
        assert_eq!(sealer.open("sign-in", &sealed).unwrap(), b"state");
        assert!(sealer.open("session", &sealed).is_err());
        let mut changed = sealed.clone().into_bytes();
        let last = changed.len() - 3;
        changed[last] = if changed[last] == b'A' { b'B' } else { b'A' };
        assert!(sealer.open("sign-in", std::str::from_utf8(&changed).unwrap()).is_err());
        assert!(!sealed.contains("state"));
    }

    #[test]
    fn a_short_key_is_refused() {
        assert!(matches!(Sealer::new(&Secret::new("short")), Err(SealError::ShortKey)));
    }

    proptest::proptest! {
        #[test]
        fn opening_arbitrary_text_never_panics(text in ".{0,200}") {
            proptest::prop_assert!(sealer().open("x", &text).is_err());
        }
    }
}
