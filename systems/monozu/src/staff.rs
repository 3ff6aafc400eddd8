//! Operators: they sign in with Microsoft (OpenID Connect), are of the group `operator` and, where `MS_TENANT_ID` is set, of
//! that directory tenant. A session is a sealed cookie of eight hours; it holds no key to any tenant's data.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::{
    extract::Request,
    response::{AppendHeaders, IntoResponse, Redirect, Response},
};
use http::{HeaderMap, header};
use sdk::{
    Secret, Settings, SettingsError,
    access::{bearer, cookie, is_from_here, set_cookie},
    oidc::{Callback, Claims, OidcError, RelyingParty, local_path},
    seal::{SealError, Sealer},
    sign_in::Wanted,
    telemetry::metrics,
};
use serde::{Deserialize, Serialize};

use crate::fault::Fault;

const SESSION: &str = "__Host-staff";
const PENDING: &str = "__Host-staff-sign-in";
const PURPOSE: &str = "staff session";
const HOURS: u32 = 8;

#[derive(Debug, thiserror::Error)]
pub enum StaffError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("sign-in with Microsoft cannot be used")]
    Oidc(#[from] OidcError),
    #[error("SECRET_KEY cannot be used")]
    Seal(#[from] SealError),
}

/// The way to sign in, and who may.
pub struct Staff {
    oidc: RelyingParty,
    sealer: Sealer,
    /// The one directory tenant that is let in; any of the issuer's if none is named.
    tenant: Option<String>,
    group: String,
    home: String,
}

/// An operator who signed in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Operator {
    pub sub: String,
    pub name: String,
    until: u64,
    /// The anti-forgery token of forms; none for who comes with a bearer token.
    #[serde(skip)]
    pub csrf: Option<String>,
}

impl Staff {
    /// Reads `MS_CLIENT_ID`, `MS_CLIENT_SECRET`, `MS_AUTHORITY` (the issuer), `MS_TENANT_ID`, `PUBLIC_URL`; the redirect URI is
    /// `PUBLIC_URL`, `prefix` and `/signin-oidc`.
    ///
    /// # Errors
    /// A variable is missing or unreadable.
    pub fn from_settings(settings: &Settings, prefix: &str, key: &Secret) -> Result<Staff, StaffError> {
        let holds = [
            ("OIDC_ISSUER", settings.required("MS_AUTHORITY", "the address of Microsoft's sign-in, https://...")?),
            ("OIDC_CLIENT_ID", settings.required("MS_CLIENT_ID", "this application's id there")?),
            ("OIDC_CLIENT_SECRET", settings.required("MS_CLIENT_SECRET", "this application's secret there")?),
            ("PUBLIC_URL", settings.required("PUBLIC_URL", "the address people open")?),
            ("SSL_CERT_FILE", settings.optional("SSL_CERT_FILE")?.unwrap_or_default()),
        ];
        Ok(Staff {
            oidc: RelyingParty::from_settings(&Settings::from_pairs(holds), &format!("{prefix}/signin-oidc"))?,
            sealer: Sealer::new(key)?,
            tenant: settings.optional("MS_TENANT_ID")?.map(str::to_owned),
            group: settings.optional("OPERATOR_GROUP")?.unwrap_or("operator").to_owned(),
            home: format!("{prefix}/"),
        })
    }

    /// The origin of the issuer, for a content security policy.
    pub fn issuer_origin(&self) -> String {
        self.oidc.issuer_origin()
    }

    /// Sends the browser to the issuer.
    ///
    /// # Errors
    /// The issuer does not answer.
    pub async fn start(&self, wanted: &Wanted) -> Result<Response, Fault> {
        let back = if wanted.back.is_empty() { &self.home } else { &wanted.back };
        let start = self.oidc.start(&self.sealer, back).await?;
        let cookies = AppendHeaders([(header::SET_COOKIE, set_cookie(PENDING, &start.cookie, 600))]);
        Ok((cookies, Redirect::to(start.location.as_str())).into_response())
    }

    /// The browser comes back.
    ///
    /// # Errors
    /// The sign-in is not acceptable, or the person is no operator.
    pub async fn finish(&self, back: &Callback, headers: &HeaderMap) -> Result<(Operator, Response), Fault> {
        let pending = cookie(headers, PENDING).unwrap_or_default();
        let signed_in = self.oidc.finish(&self.sealer, back, pending).await?;
        let operator =
            self.admit(&signed_in.claims).inspect_err(|_| metrics().add("sign_ins", 1, &[("result", "refused")]))?;
        metrics().add("sign_ins", 1, &[("result", "operator")]);
        sdk::event!("operator-signed-in", user = operator.sub);
        let value = serde_json::to_vec(&operator).map_err(Fault::internal)?;
        let session = self.sealer.seal(PURPOSE, &value).map_err(Fault::internal)?;
        let cookies = AppendHeaders([
            (header::SET_COOKIE, set_cookie(SESSION, &session, i64::from(HOURS) * 3600)),
            (header::SET_COOKIE, set_cookie(PENDING, "", 0)),
        ]);
        Ok((operator, (cookies, Redirect::to(local_path(&signed_in.return_to))).into_response()))
    }

    /// Whether these are the claims of an operator of ours.
    fn admit(&self, claims: &Claims) -> Result<Operator, Fault> {
        if self.tenant.is_some() && claims.tid != self.tenant {
            tracing::warn!(event.name = "other-directory", "somebody of another directory tenant was refused");
            return Err(Fault::Forbidden("other_directory", "your account is of another directory"));
        }
        if !claims.groups.contains(&self.group) {
            return Err(Fault::Forbidden("not_an_operator", "you are signed in, but are not an operator"));
        }
        let name = claims.name.clone().or_else(|| claims.email.clone()).unwrap_or_else(|| claims.sub.clone());
        Ok(Operator { sub: claims.sub.clone(), name, until: now() + u64::from(HOURS) * 3600, csrf: None })
    }

    /// The operator of a session's cookie.
    ///
    /// # Errors
    /// There is none, or it has ended.
    pub fn caller(&self, headers: &HeaderMap) -> Result<Operator, Fault> {
        const AGAIN: Fault = Fault::Unauthorized("please sign in");
        let sealed = cookie(headers, SESSION).ok_or(AGAIN)?;
        let value = self.sealer.open(PURPOSE, sealed).map_err(|_| AGAIN)?;
        let operator: Operator = serde_json::from_slice(&value).map_err(|_| AGAIN)?;
        if operator.until < now() {
            return Err(AGAIN);
        }
        let csrf = self.sealer.fingerprint("staff csrf", sealed.as_bytes());
        Ok(Operator { csrf: Some(csrf), ..operator })
    }

    /// The operator of a bearer's ID token, else of the cookie.
    ///
    /// # Errors
    /// Neither is acceptable.
    pub async fn any_caller(&self, headers: &HeaderMap) -> Result<Operator, Fault> {
        match bearer(headers) {
            Some(token) => self.admit(&self.oidc.verify(token).await?),
            None => self.caller(headers),
        }
    }

    /// Whether a change comes from our own page: the browser says so, and the token proves it.
    ///
    /// # Errors
    /// It does not.
    pub fn own_form(&self, request: &HeaderMap, operator: &Operator, token: &str) -> Result<(), Fault> {
        const FOREIGN: Fault = Fault::Forbidden("foreign_form", "this form is not of this session; reload the page");
        let Some(csrf) = &operator.csrf else { return Ok(()) };
        if !is_from_here(request) || !Secret::new(csrf.clone()).matches(token) {
            return Err(FOREIGN);
        }
        Ok(())
    }

    /// Ends the session in this browser.
    pub fn sign_out(&self, to: &str) -> Response {
        let cookies = AppendHeaders([(header::SET_COOKIE, set_cookie(SESSION, "", 0))]);
        (cookies, Redirect::to(to)).into_response()
    }
}

impl From<OidcError> for Fault {
    fn from(error: OidcError) -> Fault {
        match error {
            OidcError::State => {
                Fault::Invalid("this sign-in has expired or was finished already; please sign in again".into())
            }
            other if other.is_outage() => Fault::unavailable(other),
            OidcError::Seal(_) | OidcError::Settings(_) | OidcError::Url(_) => Fault::internal(error),
            other => {
                tracing::warn!(error = %other, "a sign-in was refused");
                Fault::Unauthorized("the sign-in was refused or its token is not acceptable")
            }
        }
    }
}

/// Where a request leads, for coming back to it after signing in.
pub fn wanted(request: &Request) -> String {
    request.uri().path_and_query().map_or_else(|| "/".to_owned(), |p| p.as_str().to_owned())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
