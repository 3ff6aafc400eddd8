//! Webhooks between Cloud and Management: `X-Hmac-Signature: sha256=<hex>` over `X-Hmac-Timestamp`, a dot and the body.
//!
//! A signature is good for five minutes, and once: whoever takes one also records it ([`FIRST_TIME`]), so that a copy is
//! refused within those minutes too.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use http::{HeaderMap, HeaderValue};
use sdk::Secret;

use crate::{digest, fault::Fault};

pub const SIGNATURE: &str = "x-hmac-signature";
pub const TIMESTAMP: &str = "x-hmac-timestamp";
/// How far the sender's clock and the way may be off.
const WINDOW: Duration = Duration::from_secs(300);
/// Records a signature; changes no row when it was there.
pub const FIRST_TIME: &str = "INSERT INTO webhook_receipts (signature) VALUES ($1) ON CONFLICT DO NOTHING";

/// The key of both sides.
pub struct Signer(hmac::Key);

impl Signer {
    pub fn new(secret: &Secret) -> Signer {
        Signer(hmac::Key::new(hmac::HMAC_SHA256, secret.reveal().as_bytes()))
    }

    /// The headers that make `body` a webhook of ours, sent now.
    pub fn sign(&self, body: &[u8]) -> HeaderMap {
        let at = now().to_string();
        let signature = format!("sha256={}", digest::hex(hmac::sign(&self.0, &signed(&at, body)).as_ref()));
        let mut headers = HeaderMap::new();
        for (name, value) in [(SIGNATURE, signature), (TIMESTAMP, at)] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
        headers
    }

    /// Checks a webhook, in constant time; its signature, to be recorded.
    ///
    /// # Errors
    /// No, another or an old signature.
    pub fn verify(&self, headers: &HeaderMap, body: &[u8]) -> Result<String, Fault> {
        self.verify_at(headers, body, now())
    }

    fn verify_at(&self, headers: &HeaderMap, body: &[u8], now: u64) -> Result<String, Fault> {
        const REFUSED: Fault =
            Fault::Unauthorized("the webhook's signature is missing, wrong or older than five minutes");
        let text = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok()).ok_or(REFUSED);
        let (signature, at) = (text(SIGNATURE)?, text(TIMESTAMP)?);
        let given = signature.strip_prefix("sha256=").and_then(digest::from_hex).ok_or(REFUSED)?;
        hmac::verify(&self.0, &signed(at, body), &given).map_err(|_| REFUSED)?;
        // Only now is the time worth reading: it is the sender's.
        let at: u64 = at.parse().map_err(|_| REFUSED)?;
        if at.abs_diff(now) > WINDOW.as_secs() {
            return Err(REFUSED);
        }
        Ok(signature.to_owned())
    }
}

fn signed(at: &str, body: &[u8]) -> Vec<u8> {
    [at.as_bytes(), b".", body].concat()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn signer() -> Signer {
        Signer::new(&Secret::new("a secret of both sides"))
    }

    #[test]
    fn a_signed_body_is_taken_and_any_change_of_it_refused() {
        let headers = signer().sign(b"{}");
        assert!(signer().verify(&headers, b"{}").unwrap().starts_with("sha256="));
        assert!(signer().verify(&headers, b"{ }").is_err());
        assert!(Signer::new(&Secret::new("another")).verify(&headers, b"{}").is_err());
        let mut later = headers.clone();
        later.insert(TIMESTAMP, HeaderValue::from_str(&(now() + 1).to_string()).unwrap());
        assert!(signer().verify(&later, b"{}").is_err(), "the time is signed too");
        for name in [SIGNATURE, TIMESTAMP] {
            let mut without = headers.clone();
            without.remove(name);
            assert!(signer().verify(&without, b"{}").is_err(), "{name}");
        }
    }

    #[test]
    fn a_signature_is_good_for_five_minutes() {
        let headers = signer().sign(b"{}");
        assert!(signer().verify_at(&headers, b"{}", now() + 299).is_ok());
        assert!(signer().verify_at(&headers, b"{}", now() + 302).is_err());
        assert!(signer().verify_at(&headers, b"{}", now() - 302).is_err());
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_headers_never_panic(signature in "[ -~]{0,100}", at in "[ -~]{0,30}") {
            let mut headers = HeaderMap::new();
            headers.insert(SIGNATURE, HeaderValue::from_str(&signature).unwrap());
            headers.insert(TIMESTAMP, HeaderValue::from_str(&at).unwrap());
            proptest::prop_assert!(signer().verify(&headers, b"x").is_err());
        }
    }
}
