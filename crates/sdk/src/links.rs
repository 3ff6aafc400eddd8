//! Links between stamps: a service of one stamp calls a service of another, over TLS, and is known by the link's key.
//!
//! The calling side has `LINK_USERS_URL`, `LINK_USERS_CA` and `LINK_USERS_KEY`; the called side has the same key as
//! `LINK_USERS_FROM_UK_KEY`, and `LINK_CALLERS` names who may call. The key goes as a bearer token.

use std::path::PathBuf;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use url::Url;

use crate::{
    Secret, Settings, Trust, TrustError,
    https::{Answer, Client, HttpsError},
};

/// A link that begins at this service.
pub struct Link {
    name: String,
    url: Url,
    ca: PathBuf,
    key: Secret,
    /// What the manifest lets it carry; empty is not limited.
    pub carries: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("the link {0} is not declared: LINK_..._URL is not set")]
    Undeclared(String),
    #[error("the address of the link {0} cannot be read")]
    Address(String),
    #[error("the other stamp of the link {0} was never up: there is no key for it yet")]
    NotYet(String),
    #[error("the authority of the link {name} cannot be used")]
    Trust { name: String, source: TrustError },
    #[error("the call over the link {name} failed")]
    Call { name: String, source: HttpsError },
}

impl Link {
    /// The declared link of this name, such as `users`.
    ///
    /// # Errors
    /// It is not declared, or the other stamp was never up; once that comes up, this service is started anew with the key.
    pub fn from_settings(settings: &Settings, name: &str) -> Result<Link, LinkError> {
        let of = |what: &str| settings.get(&variable(name, what)).filter(|value| !value.is_empty());
        let url = of("URL").ok_or_else(|| LinkError::Undeclared(name.into()))?;
        let url = Url::parse(url).map_err(|_| LinkError::Address(name.into()))?;
        let key = of("KEY").ok_or_else(|| LinkError::NotYet(name.into()))?;
        let carries = of("CARRIES").unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        let ca = PathBuf::from(of("CA").unwrap_or_default());
        Ok(Link { name: name.into(), url, ca, key: Secret::new(key), carries })
    }

    /// One request to the other service, with the link's key. A status of 400 or more is an answer, not an error.
    ///
    /// # Errors
    /// Nobody answers in time: the other stamp is down, or the link is cut. Nothing says then whether it was carried out.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, LinkError> {
        let failed = |source| LinkError::Call { name: self.name.clone(), source };
        let url = self.url.join(path).map_err(|_| LinkError::Address(self.name.clone()))?;
        // A path that leads to another host must not get the key.
        if url.origin() != self.url.origin() {
            return Err(LinkError::Address(self.name.clone()));
        }
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", self.key.reveal()))
            .map_err(|_| LinkError::NotYet(self.name.clone()))?;
        bearer.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, bearer);
        self.client()?.send(method, &url, headers, body).await.map_err(failed)
    }

    /// A client that trusts the other stamp's authority and no other; read anew, since that stamp may have been made anew.
    fn client(&self) -> Result<Client, LinkError> {
        let failed = |source| LinkError::Trust { name: self.name.clone(), source };
        // Without a closed network a link is plain, on loopback, and nothing is verified.
        if self.url.scheme() == "http" && !self.ca.exists() {
            let system = Trust::from_settings(&Settings::from_pairs::<String, String>([]), &[]);
            return Client::new(&system.map_err(failed)?).map_err(failed);
        }
        Client::new(&Trust::from_file(&self.ca).map_err(failed)?).map_err(failed)
    }
}

/// Who may call this service over links.
#[derive(Clone, Default)]
pub struct Callers(Vec<(Caller, Secret)>);

/// A service of another stamp, known by the key of its link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub link: String,
    pub stamp: String,
    /// What the manifest lets it carry; empty is not limited.
    pub carries: Vec<String>,
}

impl Callers {
    /// Everybody who `LINK_CALLERS` names, such as `users/uk users/uae`.
    pub fn from_settings(settings: &Settings) -> Callers {
        let named = settings.get("LINK_CALLERS").unwrap_or_default().split_whitespace();
        let caller = |named: &str| {
            let (link, stamp) = named.split_once('/')?;
            let of = |what: &str| settings.get(&variable(&format!("{link}_from_{stamp}"), what));
            let key = of("KEY").filter(|key| !key.is_empty())?;
            let carries = of("CARRIES").unwrap_or_default().split_whitespace().map(str::to_owned).collect();
            Some((Caller { link: link.into(), stamp: stamp.into(), carries }, Secret::new(key)))
        };
        Callers(named.filter_map(caller).collect())
    }

    /// Who calls, by the bearer token; None: nobody of them. Every key is compared, in constant time.
    pub fn who(&self, headers: &HeaderMap) -> Option<&Caller> {
        let given = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, given) = given.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut found = None;
        for (caller, key) in &self.0 {
            if key.matches(given.trim()) {
                found = Some(caller);
            }
        }
        found
    }
}

fn variable(link: &str, what: &str) -> String {
    format!("LINK_{}_{what}", link.to_ascii_uppercase().replace('-', "_"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings::from_pairs([
            ("LINK_CALLERS", "users/uk sign-in/uae"),
            ("LINK_USERS_FROM_UK_KEY", "one"),
            ("LINK_USERS_FROM_UK_CARRIES", "name e-mail"),
            ("LINK_SIGN_IN_FROM_UAE_KEY", "two"),
            ("LINK_SIGN_IN_UK_URL", "https://cms.service.uk.meg-qms.internal"),
            ("LINK_SIGN_IN_UK_KEY", "three"),
            ("LINK_SIGN_IN_UAE_URL", "https://cms.service.uae.meg-qms.internal"),
        ])
    }

    fn bearing(text: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(text).unwrap())])
    }

    #[test]
    fn a_caller_is_known_by_its_key_alone() {
        let callers = Callers::from_settings(&settings());
        let uk = callers.who(&bearing("Bearer one")).unwrap();
        assert_eq!((uk.link.as_str(), uk.stamp.as_str(), uk.carries.len()), ("users", "uk", 2));
        assert_eq!(callers.who(&bearing("bearer two")).unwrap().stamp, "uae");
        for wrong in ["Bearer three", "Bearer ", "Basic one", "one", "Bearer onee"] {
            assert_eq!(callers.who(&bearing(wrong)), None, "{wrong}");
        }
        assert_eq!(Callers::default().who(&bearing("Bearer one")), None);
        assert_eq!(callers.who(&HeaderMap::new()), None);
    }

    #[tokio::test]
    async fn a_key_goes_to_the_other_stamp_only() {
        let link = Link::from_settings(&settings(), "sign-in-uk").unwrap();
        let elsewhere = link.send(Method::GET, "https://example.com/", HeaderMap::new(), Bytes::new()).await;
        assert!(matches!(elsewhere, Err(LinkError::Address(_))));
        assert!(matches!(Link::from_settings(&settings(), "sign-in-uae"), Err(LinkError::NotYet(_))));
        assert!(matches!(Link::from_settings(&settings(), "other"), Err(LinkError::Undeclared(_))));
    }
}
