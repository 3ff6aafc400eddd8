//! What stamps say to one another: who they are, tickets that hand a sign-in down, and statements that carry user records up.
//!
//! Who calls is known by the link's key (`sdk::links`). What is handed on through a browser, or kept in an outbox, is signed as
//! well: each stamp has an Ed25519 key of its own, derived from `LINK_KEY`, whose public half the others read over the link. So a
//! region cannot play the centre, nor another region, and a link's key alone makes no ticket.

pub mod sync;
pub mod ticket;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, Method};
use jsonwebtoken::{DecodingKey, EncodingKey};
use sdk::{
    Secret, Settings, SettingsError,
    links::{Callers, Link},
    seal::{SealError, Sealer},
};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::app::Part;

/// What a peer says of itself is asked for again after this; the old answer is kept while the peer is away.
const LIFE: Duration = Duration::from_secs(60);
/// The name under which a region knows the centre.
pub const CENTRE: &str = "centre";

#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("LINK_KEY cannot be used")]
    Key(#[from] SealError),
    #[error("no signing key can be made of LINK_KEY")]
    Signer,
    #[error("this stamp has no link to {0}")]
    Unknown(String),
    #[error("{peer} cannot be reached")]
    Unreachable { peer: String, source: sdk::links::LinkError },
    #[error("{peer} answered {status}")]
    Status { peer: String, status: u16 },
    #[error("{0} answers, but not as a stamp of MEG QMS")]
    Answer(String),
    #[error("the statement is not acceptable: {0}")]
    Refused(&'static str),
    #[error("the statement's signature or times are not acceptable")]
    Jwt(#[from] jsonwebtoken::errors::Error),
}

/// What a stamp says of itself to the other end of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Face {
    pub name: String,
    /// The address people open.
    pub url: String,
    /// Its public key, Ed25519, base64url.
    pub key: String,
}

struct Peer {
    /// None while the platform gave no key: the other stamp was never up. This process is started anew when it was.
    link: Option<Link>,
    known: Mutex<Option<(Instant, Face)>>,
}

struct Inner {
    name: String,
    signer: Option<(EncodingKey, String)>,
    peers: BTreeMap<String, Peer>,
    callers: Callers,
}

/// This stamp's key and the stamps it has links to. Cloning shares it.
#[derive(Clone)]
pub struct Links {
    inner: Arc<Inner>,
}

impl Links {
    /// Reads `LINK_KEY`, and of a centre `MEG_REGIONS` and its links `sign-in-REGION`, of a region its link `users`.
    ///
    /// # Errors
    /// A variable is unusable. A link that is not there yet is told when it is used: a stamp starts before the others.
    pub fn from_settings(settings: &Settings, part: Part, name: &str) -> Result<Links, LinkError> {
        let wanted: Vec<(String, String)> = match part {
            Part::Alone => Vec::new(),
            Part::Region => vec![(CENTRE.to_owned(), "users".to_owned())],
            Part::Centre => {
                let regions = settings.required("MEG_REGIONS", "the regions' names with spaces between them")?;
                regions.split_whitespace().map(|r| (r.to_owned(), format!("sign-in-{r}"))).collect()
            }
        };
        let mut peers = BTreeMap::new();
        for (peer, link) in wanted {
            let link = Link::from_settings(settings, &link);
            let link = link.inspect_err(|error| tracing::warn!(peer, %error, "no link yet")).ok();
            peers.insert(peer, Peer { link, known: Mutex::default() });
        }
        let signer = match part {
            Part::Alone => None,
            _ => Some(signer(&settings.secret("LINK_KEY", "at least 32 random characters of this stamp alone")?)?),
        };
        let callers = Callers::from_settings(settings);
        Ok(Links { inner: Arc::new(Inner { name: name.to_owned(), signer, peers, callers }) })
    }

    /// The stamp that calls over a link, by the link's key.
    pub fn caller(&self, headers: &HeaderMap) -> Option<&str> {
        self.inner.callers.who(headers).map(|caller| caller.stamp.as_str())
    }

    /// What this stamp says of itself.
    pub fn face(&self, url: &str) -> Option<Face> {
        let (_, key) = self.inner.signer.as_ref()?;
        Some(Face { name: self.inner.name.clone(), url: url.to_owned(), key: key.clone() })
    }

    /// The stamps that this one has links to.
    pub fn peers(&self) -> Vec<String> {
        self.inner.peers.keys().cloned().collect()
    }

    /// What a peer says of itself, as of a minute ago at most; what it said last while it is away.
    ///
    /// # Errors
    /// No link to it, or it has never been reached.
    pub async fn peer(&self, name: &str) -> Result<Face, LinkError> {
        let peer = self.inner.peers.get(name).ok_or_else(|| LinkError::Unknown(name.to_owned()))?;
        let known = peer.known.lock().ok().and_then(|k| k.clone());
        if let Some((_, face)) = known.as_ref().filter(|(at, _)| at.elapsed() < LIFE) {
            return Ok(face.clone());
        }
        match (self.ask(name, peer).await, known) {
            (Ok(face), _) => {
                if let Ok(mut slot) = peer.known.lock() {
                    *slot = Some((Instant::now(), face.clone()));
                }
                Ok(face)
            }
            (Err(error), Some((_, face))) => {
                tracing::warn!(peer = name, %error, "a stamp is away; what it said last is used");
                Ok(face)
            }
            (Err(error), None) => Err(error),
        }
    }

    async fn ask(&self, name: &str, peer: &Peer) -> Result<Face, LinkError> {
        let body = self.send(name, Method::GET, "/link/self", Bytes::new(), peer).await?;
        let face: Face = serde_json::from_slice(&body).map_err(|_| LinkError::Answer(name.to_owned()))?;
        let secure = Url::parse(&face.url).is_ok_and(|u| u.scheme() == "https" || u.host_str() == Some("127.0.0.1"));
        // A region's name is ours to know; a wrong one means that a link leads elsewhere.
        if !secure || (name != CENTRE && face.name != name) {
            return Err(LinkError::Answer(name.to_owned()));
        }
        Ok(face)
    }

    async fn send(&self, name: &str, method: Method, path: &str, body: Bytes, peer: &Peer) -> Result<Bytes, LinkError> {
        let link = peer.link.as_ref().ok_or_else(|| LinkError::Unknown(name.to_owned()))?;
        let mut headers = HeaderMap::new();
        headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/jwt"));
        let answer = link.send(method, path, headers, body).await;
        let answer = answer.map_err(|source| LinkError::Unreachable { peer: name.to_owned(), source })?;
        if !answer.status.is_success() {
            return Err(LinkError::Status { peer: name.to_owned(), status: answer.status.as_u16() });
        }
        Ok(answer.body)
    }

    fn sign(&self, claims: &impl Serialize) -> Result<String, LinkError> {
        let (key, _) = self.inner.signer.as_ref().ok_or(LinkError::Signer)?;
        Ok(jsonwebtoken::encode(&jsonwebtoken::Header::new(jsonwebtoken::Algorithm::EdDSA), claims, key)?)
    }

    /// The claims of a statement that `from` signed for us.
    fn verify<T: for<'de> Deserialize<'de> + Clone>(
        &self,
        from: &Face,
        audience: &str,
        text: &str,
    ) -> Result<T, LinkError> {
        let key = DecodingKey::from_ed_components(&from.key)?;
        let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::EdDSA);
        rules.set_audience(&[audience]);
        rules.set_issuer(&[&from.name]);
        rules.set_required_spec_claims(&["exp", "iss", "aud"]);
        // Both are stamps; their clocks may differ by a few seconds.
        rules.leeway = 5;
        Ok(jsonwebtoken::decode::<T>(text, &key, &rules)?.claims)
    }
}

fn signer(secret: &Secret) -> Result<(EncodingKey, String), LinkError> {
    let seed = Sealer::new(secret)?.fingerprint("link signing key", b"ed25519");
    let seed = URL_SAFE_NO_PAD.decode(seed).map_err(|_| LinkError::Signer)?;
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| LinkError::Signer)?;
    let der = pair.to_pkcs8v1().map_err(|_| LinkError::Signer)?;
    Ok((EncodingKey::from_ed_der(der.as_ref()), URL_SAFE_NO_PAD.encode(pair.public_key().as_ref())))
}

/// Unix seconds.
fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn links(name: &str, key: &str) -> Links {
        let signer = Some(signer(&Secret::new(key)).unwrap());
        let (peers, callers) = (BTreeMap::new(), Callers::default());
        Links { inner: Arc::new(Inner { name: name.to_owned(), signer, peers, callers }) }
    }

    #[test]
    fn each_key_makes_another_face_and_always_the_same() {
        let one = links("uk", "thirty-two characters of the uk stamp").face("https://uk").unwrap();
        let two = links("uk", "thirty-two characters of the eu stamp").face("https://uk").unwrap();
        assert_ne!(one.key, two.key);
        assert_eq!(one, links("uk", "thirty-two characters of the uk stamp").face("https://uk").unwrap());
    }
}
