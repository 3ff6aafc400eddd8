//! JSON Web Tokens, RS256: signing, and checking our own ones that come back.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};

use crate::{error::Error, keys::Keys};

/// What a token is for, its `typ`. A token of one kind is never taken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ID tokens of people, and tokens of workloads.
    Jwt,
    /// Access tokens of people, for `/userinfo` (RFC 9068).
    Access,
}

impl Kind {
    fn text(self) -> &'static str {
        match self {
            Self::Jwt => "JWT",
            Self::Access => "at+jwt",
        }
    }
}

/// Signs `claims` with the current key.
pub fn sign(keys: &Keys, kind: Kind, claims: &Value) -> Result<String, Error> {
    let key = keys.current();
    let header = json!({ "alg": "RS256", "typ": kind.text(), "kid": key.kid() });
    let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
    token.push('.');
    token.push_str(&URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = key.sign(token.as_bytes())?;
    token.push('.');
    token.push_str(&URL_SAFE_NO_PAD.encode(signature));
    Ok(token)
}

/// The claims of a token of `kind` that we signed ourselves. Times are the caller's to judge.
pub fn open(keys: &Keys, kind: Kind, token: &str) -> Option<Map<String, Value>> {
    if token.len() > 16 * 1024 {
        return None;
    }
    let (message, signature) = token.rsplit_once('.')?;
    let (header, claims) = message.split_once('.')?;
    let header: Map<String, Value> = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
    if header.get("alg")? != "RS256" || header.get("typ")? != kind.text() || header.contains_key("crit") {
        return None;
    }
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    if !keys.verify(header.get("kid")?.as_str()?, message.as_bytes(), &signature) {
        return None;
    }
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
}

/// SHA-256: how codes, refresh tokens, links and session cookies are kept. They are random, so no salt is needed.
pub fn hash(secret: &str) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, secret.as_bytes()).as_ref().to_vec()
}

/// The PKCS S256 challenge of a verifier (RFC 7636).
pub fn challenge(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(hash(verifier))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_as_its_own_kind_only_and_not_when_changed() {
        let folder = tempfile::tempdir().unwrap();
        let store = crate::store::Store::open(&folder.path().join("db")).unwrap();
        let keys = Keys::open(store, &[7; 32], 1).unwrap();
        let token = sign(&keys, Kind::Access, &json!({ "sub": "ada" })).unwrap();
        assert_eq!(open(&keys, Kind::Access, &token).unwrap()["sub"], "ada");
        assert!(open(&keys, Kind::Jwt, &token).is_none());

        let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
        parts[1] = URL_SAFE_NO_PAD.encode(r#"{"sub":"eve"}"#);
        assert!(open(&keys, Kind::Access, &parts.join(".")).is_none());
        parts[0] = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"at+jwt"}"#);
        parts[2] = String::new();
        assert!(open(&keys, Kind::Access, &parts.join(".")).is_none());
        for garbage in ["", ".", "..", "a.b.c", "é.é.é"] {
            assert!(open(&keys, Kind::Access, garbage).is_none());
        }
    }

    #[test]
    fn the_challenge_is_that_of_rfc_7636_appendix_b() {
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        assert_eq!(challenge(verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }
}
