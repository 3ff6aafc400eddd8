//! Who sends a request, and whether they may: first the credentials, then the configuration.

use std::net::IpAddr;

use axum::http::{HeaderMap, Method, header::AUTHORIZATION};
use service::Denied;

use crate::{
    config::{Settings, Who},
    fields::Query,
    operation::{Right, Target},
    refusal::Refusal,
    sas::{self, Opened, Sas},
    shared_key,
    store::Store,
    time,
};

/// How far the time of a signed request may be from ours, as on Azure.
const SKEW_SECONDS: i64 = 15 * 60;

/// Somebody, by what they showed.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Nothing.
    Anybody,
    /// A token of identity.
    Somebody(Who),
    /// A request that is signed with the account's key.
    Key,
    /// A URL that is signed.
    Signed(Box<Sas>),
}

impl Caller {
    /// What audit records call them.
    pub fn actor(&self, account: &str) -> String {
        match self {
            Self::Anybody => "anonymous".into(),
            Self::Somebody(who) => who.subject.clone(),
            Self::Key => format!("key:{account}"),
            Self::Signed(sas) => match &sas.by {
                Some(by) => format!("sas:{}", by.subject),
                None => format!("sas:{account}"),
            },
        }
    }

    /// How far they may do on `target` what needs `right`; None: they may not.
    pub fn allows(&self, settings: &Settings, right: Right, target: &Target, query: &Query) -> Option<Opened> {
        let container = target.container.as_deref();
        let may = match self {
            Self::Anybody => settings.is_public(right, container),
            Self::Somebody(who) => settings.allows(who, right, container),
            // Somebody's own name is what a key of it is for; the account's key has none.
            Self::Key => right != Right::Delegate,
            Self::Signed(sas) => return sas.allows(settings, right, target, query),
        };
        may.then_some(Opened::Fully)
    }
}

/// What of a request its credentials are in.
pub struct Shown<'a> {
    pub method: &'a Method,
    pub path: &'a str,
    pub target: &'a Target,
    pub query: &'a Query,
    pub headers: &'a HeaderMap,
    pub address: Option<IpAddr>,
    pub client: &'a str,
    pub action: &'a str,
}

/// The caller of a request.
pub async fn authenticate(store: &Store, settings: &Settings, shown: &Shown<'_>) -> Result<Caller, Refusal> {
    let Shown { headers, query, .. } = shown;
    let bad = async |kind: &'static str, why: &str, challenge: Option<String>| {
        store.record_bad(shown.action, kind, shown.client).await?;
        Err(Refusal::unauthenticated(challenge, why))
    };
    let Some(authorization) = headers.get(AUTHORIZATION) else {
        if !query.has("sig") {
            return Ok(Caller::Anybody);
        }
        let now = store.clock.now_s();
        let read = sas::read(settings, &store.root, &store.account_key, shown.target, query, shown.address, now);
        return match read {
            Ok(sas) => Ok(Caller::Signed(Box::new(sas))),
            Err(why) => bad("sas", why, None).await,
        };
    };
    let authorization = authorization.to_str().unwrap_or_default();
    let (scheme, rest) = authorization.split_once(' ').unwrap_or((authorization, ""));
    if scheme.eq_ignore_ascii_case("sharedkey") {
        return match by_key(store, settings, shown, rest.trim()) {
            Ok(()) => Ok(Caller::Key),
            Err(why) => bad("key", why, None).await,
        };
    }
    let challenge = Some(store.challenge.clone());
    if !scheme.eq_ignore_ascii_case("bearer") {
        return bad("scheme", "of the schemes, Bearer and SharedKey are taken here", challenge).await;
    }
    match store.verifier.verify(Some(authorization), |audience| settings.is_audience(audience)).await {
        Ok(caller) => Ok(Caller::Somebody(Who { subject: caller.subject, groups: caller.groups })),
        Err(Denied::Keys(error)) => {
            tracing::error!(error = &*error as &dyn std::error::Error, "tokens cannot be checked");
            Err(Refusal::unavailable("tokens cannot be checked now; send the request again"))
        }
        Err(Denied::Audience) => bad("audience", "the token is for another service", challenge).await,
        Err(Denied::Expired) => bad("expired", "the token has expired, or is not valid yet", challenge).await,
        Err(Denied::Signature) => bad("signature", "the token is not of this stamp's directory", challenge).await,
        Err(_) => bad("malformed", "the token is none", challenge).await,
    }
}

fn by_key(store: &Store, settings: &Settings, shown: &Shown<'_>, credentials: &str) -> Result<(), &'static str> {
    if !settings.config.shared_key {
        return Err("the key of this account opens nothing: no secret in system.toml asks for it");
    }
    let (account, signature) = credentials.split_once(':').ok_or("it is SharedKey ACCOUNT:SIGNATURE")?;
    let own = settings.config.account.as_str();
    let texts = shared_key::texts(own, shown.method, shown.path, shown.query, shown.headers);
    let texts = texts.ok_or("a field of the request is no text")?;
    // Every text is tried, so that the time tells nothing.
    let fits = texts.iter().filter(|text| shared_key::is_signed(&store.account_key, text, signature)).count();
    if fits == 0 || account != own {
        return Err("the signature is not the one of this request by this account's key");
    }
    let at = |name: &str| shown.headers.get(name).and_then(|v| v.to_str().ok()).and_then(time::of_http);
    let at =
        at("x-ms-date").or_else(|| at("date")).ok_or("the request does not say when it was signed (`x-ms-date`)")?;
    if (at - store.clock.now_s()).abs() > SKEW_SECONDS {
        return Err("the request was signed more than 15 minutes ago, or in the future");
    }
    Ok(())
}
