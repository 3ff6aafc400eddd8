//! Tokens that open a database by identity: what an application gives as its password.
//!
//! Entra's are JWTs of a kilobyte and more. PostgreSQL hands a password on to a judge outside of it by RADIUS alone (the build
//! here has neither LDAP nor PAM), and takes 128 characters at most there. So a token for a database is short: 32 bytes of what
//! it says and an Ed25519 signature, together 128 characters of base64url. To whoever carries it, it is opaque, as access tokens
//! are. Its signing key derives from identity's root key; a keeper holds the public half only.

use aws_lc_rs::{
    digest,
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::Secret;

/// The resource that an application asks its identity endpoint for, as on Azure Database for PostgreSQL.
pub const AUDIENCE: &str = "https://ossrdbms-aad.database.windows.net";
/// How long one lives, in seconds. Open connections go on after it.
pub const LIFE_SECONDS: i64 = 900;
/// Its length in characters, which is the longest that PostgreSQL passes on.
pub const LENGTH: usize = 128;

const VERSION: u8 = 1;
const WHOSE: usize = 15;
const SAID: usize = 32;
/// Signed in front of what is said, so that no other text signed by the key is a token.
const DOMAIN: &[u8] = b"stampwright database token\0";
/// A token of a clock that goes ahead by this much is not from the future.
const AHEAD_SECONDS: i64 = 30;

/// Makes tokens. Identity has one.
pub struct Signer(Ed25519KeyPair);

impl Signer {
    /// The signer of the stamp whose identity has this root key.
    pub fn new(identity_root: &Secret) -> Self {
        let seed = identity_root.derive("database-tokens");
        let seed = URL_SAFE_NO_PAD.decode(seed.expose()).expect("a derived key is base64url");
        Self(Ed25519KeyPair::from_seed_unchecked(&seed).expect("a derived key has 32 bytes"))
    }

    /// What a verifier needs, as base64url.
    pub fn public_key(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0.public_key().as_ref())
    }

    /// A token of `workload`, from `now_s` to `expires_s` (Unix seconds).
    pub fn sign(&self, tenant: &str, workload: &str, now_s: i64, expires_s: i64) -> Secret {
        let mut said = Vec::with_capacity(SAID);
        said.push(VERSION);
        for at in [now_s, expires_s] {
            said.extend(u32::try_from(at).unwrap_or(0).to_be_bytes());
        }
        let mut once = [0; SAID - 1 - 8 - WHOSE];
        aws_lc_rs::rand::fill(&mut once).expect("the operating system's random generator answers");
        said.extend(once);
        said.extend(whose(tenant, workload));
        let signature = self.0.sign(&[DOMAIN, &said].concat());
        said.extend(signature.as_ref());
        Secret::new(URL_SAFE_NO_PAD.encode(said))
    }
}

/// Whose a token is, within a tenant and for databases.
fn whose(tenant: &str, workload: &str) -> [u8; WHOSE] {
    let text = format!("{tenant}\0{AUDIENCE}\0{workload}");
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    let mut bytes = [0; WHOSE];
    bytes.copy_from_slice(&hash.as_ref()[..WHOSE]);
    bytes
}

/// Why a token does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("it is no token for a database (ask for the resource {AUDIENCE})")]
    Malformed,
    #[error("the token is not signed by this stamp's identity")]
    Signature,
    #[error("the token has expired or is not yet valid")]
    Expired,
    #[error("the token is another workload's")]
    Another,
}

/// Looks at tokens. A keeper has one; it needs nobody else for it, so that tokens go on to open while identity is away.
pub struct Verifier {
    key: Vec<u8>,
    tenant: String,
}

impl Verifier {
    /// None: that is no public key.
    pub fn new(public_key: &str, tenant: &str) -> Option<Self> {
        let key = URL_SAFE_NO_PAD.decode(public_key).ok().filter(|key| key.len() == 32)?;
        Some(Self { key, tenant: tenant.into() })
    }

    /// Whether `token` is one of `workload`, now (Unix seconds).
    ///
    /// # Errors
    /// It is not, and why.
    pub fn verify(&self, token: &str, workload: &str, now_s: i64) -> Result<(), Refused> {
        let bytes = (token.len() == LENGTH).then(|| URL_SAFE_NO_PAD.decode(token).ok()).flatten();
        let bytes = bytes.filter(|b| b.first() == Some(&VERSION)).ok_or(Refused::Malformed)?;
        let (said, signature) = bytes.split_at_checked(SAID).ok_or(Refused::Malformed)?;
        let key = UnparsedPublicKey::new(&ED25519, &self.key);
        key.verify(&[DOMAIN, said].concat(), signature).map_err(|_| Refused::Signature)?;
        let at = |from: usize| said.get(from..from + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes);
        let (from, until) = (i64::from(at(1)), i64::from(at(5)));
        if from > now_s + AHEAD_SECONDS || until <= now_s {
            return Err(Refused::Expired);
        }
        match said.ends_with(&whose(&self.tenant, workload)) {
            true => Ok(()),
            false => Err(Refused::Another),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pair() -> (Signer, Verifier) {
        let signer = Signer::new(&Secret::new("root"));
        let verifier = Verifier::new(&signer.public_key(), "tenant").unwrap();
        (signer, verifier)
    }

    #[test]
    fn a_token_opens_for_its_workload_alone_and_in_its_time() {
        let (signer, verifier) = pair();
        let token = signer.sign("tenant", "service.web", 1_000, 1_900);
        let text = token.expose();
        assert_eq!(text.len(), LENGTH, "what PostgreSQL passes on");
        assert_eq!(verifier.verify(text, "service.web", 1_000), Ok(()));
        assert_eq!(verifier.verify(text, "service.web", 1_899), Ok(()));
        assert_eq!(verifier.verify(text, "service.web", 1_900), Err(Refused::Expired));
        assert_eq!(verifier.verify(text, "service.web", 900), Err(Refused::Expired), "from the future");
        assert_eq!(verifier.verify(text, "service.web.migrate", 1_000), Err(Refused::Another));
        let elsewhere = Verifier::new(&signer.public_key(), "another tenant").unwrap();
        assert_eq!(elsewhere.verify(text, "service.web", 1_000), Err(Refused::Another));
        let stranger = Signer::new(&Secret::new("another root")).sign("tenant", "service.web", 1_000, 1_900);
        assert_eq!(verifier.verify(stranger.expose(), "service.web", 1_000), Err(Refused::Signature));
    }

    #[test]
    fn two_tokens_of_one_moment_are_not_one() {
        let (signer, _) = pair();
        assert!(!signer.sign("t", "w", 1, 2).matches(signer.sign("t", "w", 1, 2).expose()));
    }

    proptest! {
        #[test]
        fn no_other_text_opens(text in "[A-Za-z0-9_-]{0,140}") {
            prop_assert!(pair().1.verify(&text, "service.web", 1_000).is_err());
        }

        #[test]
        fn a_token_with_one_changed_character_does_not_open(at in 0..LENGTH, to in 0..64_usize) {
            let (signer, verifier) = pair();
            let mut text = signer.sign("tenant", "service.web", 1_000, 1_900).expose().to_owned().into_bytes();
            let new = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[to];
            prop_assume!(text[at] != new);
            text[at] = new;
            prop_assert!(verifier.verify(&String::from_utf8(text).unwrap(), "service.web", 1_000).is_err());
        }
    }
}
