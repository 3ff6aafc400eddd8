//! Signing keys: one signs, the next is published already, old ones verify until what they signed has expired.
//!
//! Private keys lie in the store sealed by AES-256-GCM under a key that derives from the role's root key. A retired key
//! keeps only its public part, sealed as well, so that nobody who can write to the file can add a key of their own.

use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey},
    digest,
    encoding::{AsDer as _, Pkcs8V1Der},
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, UnparsedPublicKey},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rusqlite::{Connection, params};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{error::Error, store::Store};

/// A verifier's clock may be behind, and a token may be under way: an old key stays this much longer, in seconds.
const LEEWAY: i64 = 300;

/// The public half of a key.
#[derive(Clone)]
struct PublicKey {
    kid: String,
    /// PKCS#1 `RSAPublicKey`.
    der: Vec<u8>,
    /// Big-endian, no leading zero.
    n: Vec<u8>,
    e: Vec<u8>,
}

/// A key that can sign.
pub struct SigningKey {
    public: PublicKey,
    pair: KeyPair,
    created_s: i64,
    since_s: Option<i64>,
}

struct Retired {
    public: PublicKey,
    created_s: i64,
    since_s: Option<i64>,
    retired_s: i64,
}

struct Ring {
    current: Arc<SigningKey>,
    next: Option<Arc<SigningKey>>,
    old: Vec<Retired>,
}

/// The keys of this stamp; clones share them.
#[derive(Clone)]
pub struct Keys {
    ring: Arc<RwLock<Ring>>,
    seal: Arc<RandomizedNonceKey>,
    store: Store,
    /// One rotation at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl SigningKey {
    /// Its id in JWTs: the RFC 7638 thumbprint.
    pub fn kid(&self) -> &str {
        &self.public.kid
    }

    /// RSASSA-PKCS1-v1_5 with SHA-256 (`RS256`).
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
            .map_err(|_| Error::Key("signing failed"))?;
        Ok(signature)
    }
}

impl Keys {
    /// Loads the keys, and makes the first one if there is none. `seal` is 32 bytes.
    pub fn open(store: Store, seal: &[u8], now: i64) -> Result<Self, Error> {
        let seal =
            RandomizedNonceKey::new(&AES_256_GCM, seal).map_err(|_| Error::Key("the sealing key is not 32 bytes"))?;
        let stored = store.run_here(load)?;
        let (mut current, mut next, mut old) = (None, None, Vec::new());
        for row in stored {
            let plain = unseal(&seal, &row.kid, &row.state, row.sealed)?;
            match row.state.as_str() {
                "old" => old.push(Retired {
                    public: PublicKey::parse(&plain)?,
                    created_s: row.created_s,
                    since_s: row.since_s,
                    retired_s: row.retired_s.unwrap_or(now),
                }),
                state => {
                    let pair = KeyPair::from_pkcs8(&plain).map_err(|_| Error::Key("a stored key is not PKCS#8"))?;
                    let public = PublicKey::parse(pair.public_key().as_ref())?;
                    let key = SigningKey { public, pair, created_s: row.created_s, since_s: row.since_s };
                    *(if state == "current" { &mut current } else { &mut next }) = Some(Arc::new(key));
                }
            }
        }
        let current = match current {
            Some(key) => key,
            None => {
                let key = SigningKey { since_s: Some(now), ..generate(now)? };
                let sealed = seal_private(&seal, &key, "current")?;
                store.run_here(|db| insert(db, &key, "current", &sealed))?;
                Arc::new(key)
            }
        };
        let ring = Ring { current, next, old };
        Ok(Self { ring: Arc::new(RwLock::new(ring)), seal: Arc::new(seal), store, turn: Arc::default() })
    }

    /// The key that signs now.
    pub fn current(&self) -> Arc<SigningKey> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).current.clone()
    }

    /// Whether `signature` over `message` is by the key `kid` of ours, which may be an old one.
    pub fn verify(&self, kid: &str, message: &[u8], signature: &[u8]) -> bool {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        ring.publics().find(|key| key.kid == kid).is_some_and(|key| {
            UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &key.der).verify(message, signature).is_ok()
        })
    }

    /// The JSON Web Key Set.
    pub fn jwks(&self) -> Value {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let keys: Vec<Value> = ring.publics().map(PublicKey::jwk).collect();
        json!({ "keys": keys })
    }

    /// Public facts about the keys, for operators.
    pub fn list(&self) -> Vec<api::identity::SigningKey> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let live = |key: &SigningKey, state: &str| api::identity::SigningKey {
            kid: key.public.kid.clone(),
            state: state.into(),
            created: key.created_s,
            since: key.since_s,
            retired: None,
        };
        let mut all = vec![live(&ring.current, "current")];
        all.extend(ring.next.as_deref().map(|key| live(key, "next")));
        all.extend(ring.old.iter().map(|key| api::identity::SigningKey {
            kid: key.public.kid.clone(),
            state: "old".into(),
            created: key.created_s,
            since: key.since_s,
            retired: Some(key.retired_s),
        }));
        all
    }

    /// Makes the key that will sign next, if there is none yet, and publishes it.
    async fn prepare_in_turn(&self, now: i64) -> Result<(), Error> {
        if self.ring.read().unwrap_or_else(PoisonError::into_inner).next.is_some() {
            return Ok(());
        }
        let seal = self.seal.clone();
        let (key, sealed) = off_runtime(move || {
            let key = generate(now)?;
            let sealed = seal_private(&seal, &key, "next")?;
            Ok((Arc::new(key), sealed))
        })
        .await?;
        let stored = key.clone();
        self.store.run(move |db| insert(db, &stored, "next", &sealed)).await?;
        self.ring.write().unwrap_or_else(PoisonError::into_inner).next = Some(key);
        Ok(())
    }

    /// Lets the next key sign, keeps the one before for verifying, and publishes a new next one.
    pub async fn rotate(&self, now: i64) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        self.rotate_in_turn(now).await
    }

    async fn rotate_in_turn(&self, now: i64) -> Result<(), Error> {
        self.prepare_in_turn(now).await?;
        let (before, next) = {
            let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
            (ring.current.clone(), ring.next.clone().ok_or(Error::Key("there is no next key"))?)
        };
        let sealed_old = seal(&self.seal, &before.public.kid, "old", before.public.der.clone())?;
        // The state is part of what is sealed, so the next key is sealed anew as the current one.
        let sealed_current = seal_private(&self.seal, &next, "current")?;
        let (old_kid, new_kid) = (before.public.kid.clone(), next.public.kid.clone());
        self.store
            .run(move |db| {
                db.execute(
                    "UPDATE signing_keys SET state = 'old', sealed = ?2, retired_s = ?3 WHERE kid = ?1",
                    params![old_kid, sealed_old, now],
                )?;
                db.execute(
                    "UPDATE signing_keys SET state = 'current', sealed = ?2, since_s = ?3 WHERE kid = ?1",
                    params![new_kid, sealed_current, now],
                )
            })
            .await?;
        let signing = SigningKey {
            public: next.public.clone(),
            pair: copy(&next.pair)?,
            created_s: next.created_s,
            since_s: Some(now),
        };
        {
            let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
            ring.current = Arc::new(signing);
            ring.next = None;
            ring.old.push(Retired {
                public: before.public.clone(),
                created_s: before.created_s,
                since_s: before.since_s,
                retired_s: now,
            });
        }
        self.prepare_in_turn(now).await
    }

    /// What is due at `now`: rotation every `rotation` seconds, and the end of keys whose last token, which lives
    /// `token_life` seconds, has expired. Says whether it rotated.
    pub async fn keep(&self, now: i64, rotation: i64, token_life: i64) -> Result<bool, Error> {
        let _turn = self.turn.lock().await;
        self.prepare_in_turn(now).await?;
        let since = self.current().since_s.unwrap_or(now);
        let due = now - since >= rotation;
        if due {
            self.rotate_in_turn(now).await?;
        }
        let gone = now - token_life - LEEWAY;
        let any = {
            let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
            ring.old.iter().any(|key| key.retired_s < gone)
        };
        if any {
            self.store
                .run(move |db| db.execute("DELETE FROM signing_keys WHERE state = 'old' AND retired_s < ?1", [gone]))
                .await?;
            self.ring.write().unwrap_or_else(PoisonError::into_inner).old.retain(|key| key.retired_s >= gone);
        }
        Ok(due)
    }
}

impl Ring {
    fn publics(&self) -> impl Iterator<Item = &PublicKey> {
        std::iter::once(&self.current.public)
            .chain(self.next.as_deref().map(|key| &key.public))
            .chain(self.old.iter().map(|key| &key.public))
    }
}

impl PublicKey {
    /// Reads PKCS#1 `RSAPublicKey`: SEQUENCE { INTEGER n, INTEGER e }.
    fn parse(der: &[u8]) -> Result<Self, Error> {
        let wrong = Error::Key("a public key is not PKCS#1");
        let read = || {
            let (inside, rest) = tlv(0x30, der)?;
            let (n, after) = tlv(0x02, inside)?;
            let (e, end) = tlv(0x02, after)?;
            (rest.is_empty() && end.is_empty()).then(|| (unsigned(n), unsigned(e)))
        };
        let Some((n, e)) = read() else { return Err(wrong) };
        // RFC 7638: the members in this order, without spaces.
        let text =
            format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, URL_SAFE_NO_PAD.encode(e), URL_SAFE_NO_PAD.encode(n));
        let kid = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, text.as_bytes()));
        Ok(Self { kid, der: der.to_vec(), n: n.to_vec(), e: e.to_vec() })
    }

    fn jwk(&self) -> Value {
        json!({
            "kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.kid,
            "n": URL_SAFE_NO_PAD.encode(&self.n), "e": URL_SAFE_NO_PAD.encode(&self.e),
        })
    }
}

/// The content of a DER element with `tag`, and what follows it.
fn tlv(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    if found != tag {
        return None;
    }
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 4 || rest.len() < count {
            return None;
        }
        let (bytes, rest) = rest.split_at(count);
        (bytes.iter().fold(0usize, |all, byte| all << 8 | usize::from(*byte)), rest)
    };
    rest.split_at_checked(length)
}

fn unsigned(integer: &[u8]) -> &[u8] {
    integer.strip_prefix(&[0]).unwrap_or(integer)
}

fn generate(now: i64) -> Result<SigningKey, Error> {
    let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| Error::Key("generating failed"))?;
    let public = PublicKey::parse(pair.public_key().as_ref())?;
    Ok(SigningKey { public, pair, created_s: now, since_s: None })
}

fn private_der(pair: &KeyPair) -> Result<Zeroizing<Vec<u8>>, Error> {
    let der: Pkcs8V1Der<'static> = pair.as_der().map_err(|_| Error::Key("encoding failed"))?;
    Ok(Zeroizing::new(der.as_ref().to_vec()))
}

fn copy(pair: &KeyPair) -> Result<KeyPair, Error> {
    KeyPair::from_pkcs8(&private_der(pair)?).map_err(|_| Error::Key("decoding failed"))
}

fn seal_private(key: &RandomizedNonceKey, signing: &SigningKey, state: &str) -> Result<Vec<u8>, Error> {
    seal(key, &signing.public.kid, state, private_der(&signing.pair)?.to_vec())
}

/// Nonce, then ciphertext and tag. Bound to the key's id and state, so that rows cannot be swapped.
fn seal(key: &RandomizedNonceKey, kid: &str, state: &str, mut plain: Vec<u8>) -> Result<Vec<u8>, Error> {
    let bound = Aad::from(format!("{state}:{kid}"));
    let nonce = key.seal_in_place_append_tag(bound, &mut plain).map_err(|_| Error::Key("sealing failed"))?;
    let mut sealed = nonce.as_ref().to_vec();
    sealed.append(&mut plain);
    Ok(sealed)
}

fn unseal(key: &RandomizedNonceKey, kid: &str, state: &str, mut sealed: Vec<u8>) -> Result<Zeroizing<Vec<u8>>, Error> {
    let wrong = || Error::Key("a stored key does not open with this role's root key");
    let (nonce, body) = sealed.split_at_mut_checked(12).ok_or_else(wrong)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| wrong())?;
    let plain = key.open_in_place(nonce, Aad::from(format!("{state}:{kid}")), body).map_err(|_| wrong())?;
    let plain = Zeroizing::new(plain.to_vec());
    drop(Zeroizing::new(sealed));
    Ok(plain)
}

struct Stored {
    kid: String,
    state: String,
    sealed: Vec<u8>,
    created_s: i64,
    since_s: Option<i64>,
    retired_s: Option<i64>,
}

fn load(db: &Connection) -> rusqlite::Result<Vec<Stored>> {
    db.prepare("SELECT kid, state, sealed, created_s, since_s, retired_s FROM signing_keys ORDER BY created_s")?
        .query_map([], |row| {
            Ok(Stored {
                kid: row.get(0)?,
                state: row.get(1)?,
                sealed: row.get(2)?,
                created_s: row.get(3)?,
                since_s: row.get(4)?,
                retired_s: row.get(5)?,
            })
        })?
        .collect()
}

fn insert(db: &Connection, key: &SigningKey, state: &str, sealed: &[u8]) -> rusqlite::Result<()> {
    db.execute(
        "INSERT INTO signing_keys (kid, state, sealed, created_s, since_s) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![key.public.kid, state, sealed, key.created_s, key.since_s],
    )?;
    Ok(())
}

/// Making a key takes a tenth of a second or more: not on the runtime's own threads.
async fn off_runtime<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &std::path::Path, seal: &[u8; 32], now: i64) -> Result<Keys, Error> {
        Keys::open(Store::open(path)?, seal, now)
    }

    #[tokio::test]
    async fn two_keys_overlap_and_an_old_one_verifies_until_its_tokens_expired() {
        let folder = tempfile::tempdir().unwrap();
        let keys = open(&folder.path().join("db"), &[7; 32], 1_000).unwrap();
        assert!(!keys.keep(1_000, 100, 50).await.unwrap());
        let first = keys.current();
        let signature = first.sign(b"said").unwrap();
        let published = |keys: &Keys| keys.jwks()["keys"].as_array().unwrap().len();
        assert_eq!(published(&keys), 2);
        let coming = keys.list()[1].kid.clone();

        assert!(!keys.keep(1_000 + 99, 100, 50).await.unwrap(), "not due yet");
        assert!(keys.keep(1_000 + 100, 100, 50).await.unwrap(), "due");
        assert_eq!(keys.current().kid(), coming, "the published one took over");
        assert_eq!(published(&keys), 3);
        assert!(keys.verify(first.kid(), b"said", &signature));
        assert!(!keys.verify(first.kid(), b"other", &signature));
        assert!(!keys.verify("unknown", b"said", &signature));

        keys.keep(1_100 + 50 + LEEWAY, 10_000, 50).await.unwrap();
        assert!(keys.verify(first.kid(), b"said", &signature), "its last token may still live");
        keys.keep(1_100 + 51 + LEEWAY, 10_000, 50).await.unwrap();
        assert!(!keys.verify(first.kid(), b"said", &signature));
        assert_eq!(published(&keys), 2);
    }

    #[tokio::test]
    async fn keys_survive_a_restart_and_open_only_with_the_root_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let before = {
            let keys = open(&path, &[7; 32], 1_000).unwrap();
            keys.rotate(2_000).await.unwrap();
            keys.list()
        };
        assert_eq!(before.len(), 3);
        assert_eq!(open(&path, &[7; 32], 3_000).unwrap().list(), before);
        assert!(matches!(open(&path, &[8; 32], 3_000), Err(Error::Key(_))));
    }

    #[test]
    fn no_private_key_lies_on_disk_in_plain() {
        let folder = tempfile::tempdir().unwrap();
        let keys = open(&folder.path().join("db"), &[7; 32], 1_000).unwrap();
        let der = private_der(&keys.current().pair).unwrap();
        // A stretch from the middle of the key, where no header is.
        let part = &der[der.len() / 2..der.len() / 2 + 32];
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            assert!(!bytes.windows(part.len()).any(|w| w == part));
        }
    }

    #[test]
    fn rows_of_keys_cannot_be_swapped() {
        let seal_key = RandomizedNonceKey::new(&AES_256_GCM, &[7; 32]).unwrap();
        let sealed = seal(&seal_key, "a", "old", b"public".to_vec()).unwrap();
        assert!(unseal(&seal_key, "a", "old", sealed.clone()).is_ok());
        assert!(unseal(&seal_key, "b", "old", sealed.clone()).is_err());
        assert!(unseal(&seal_key, "a", "current", sealed).is_err());
    }

    proptest::proptest! {
        #[test]
        fn reading_a_public_key_never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..80)) {
            let _ = PublicKey::parse(&bytes);
        }
    }
}
