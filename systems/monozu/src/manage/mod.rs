//! Management: who asked for a tenant, which licence each has, and the operators who decide. Operators sign in with
//! Microsoft; Cloud comes with the internal token or a signed webhook.

mod internal;
mod licences;
mod pages;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Request, State},
    handler::Handler,
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Redirect, Response},
    routing::MethodRouter,
};
use http::{HeaderValue, header};
use sdk::{
    Secret, Settings, SettingsError, Trust, TrustError,
    database::{Connection, Database, OpenError},
    https::Client,
    routes::on,
};
use tokio::sync::Notify;
use url::Url;

pub use licences::beside;

use crate::{
    fault::Fault,
    login, serve,
    staff::{self, Staff, StaffError},
    webhook::Signer,
};

/// Bytes of a request's body.
const BODY: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("the database cannot be used")]
    Database(#[from] OpenError),
    #[error("CLOUD_API_URL is not a URL")]
    Cloud,
    #[error("operators cannot sign in")]
    Staff(#[from] StaffError),
    #[error("outgoing TLS cannot be set up")]
    Trust(#[from] TrustError),
}

/// What every handler has at hand. Cloning shares everything.
#[derive(Clone)]
pub struct App {
    pub database: Database,
    inner: Arc<Inner>,
}

struct Inner {
    staff: Staff,
    internal_token: Secret,
    signer: Signer,
    cloud: Url,
    https: Client,
    /// Rings when Cloud is to be told of a licence.
    bell: Notify,
    policy: String,
}

impl App {
    /// # Errors
    /// A variable is missing or unusable; nothing is connected yet.
    pub fn from_settings(settings: &Settings) -> Result<App, AppError> {
        let key = settings.secret("SECRET_KEY", "at least 32 random characters; seals sessions")?;
        // Management lets in one directory only; without its name it would let in any.
        settings.required("MS_TENANT_ID", "the directory tenant of the operators")?;
        let cloud = settings.required("CLOUD_API_URL", "where Cloud answers, http(s)://...")?;
        let staff = Staff::from_settings(settings, "/manage", &key)?;
        let policy = format!(
            "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self' {}; base-uri 'none'; frame-ancestors 'none'",
            staff.issuer_origin()
        );
        let inner = Inner {
            staff,
            internal_token: settings.secret("CLOUD_INTERNAL_API_TOKEN", "what Cloud and Management show each other")?,
            signer: Signer::new(&settings.secret("CLOUD_WEBHOOK_HMAC_SECRET", "what signs webhooks")?),
            cloud: Url::parse(cloud).map_err(|_| AppError::Cloud)?,
            https: Client::new(&Trust::from_settings(settings, &[])?)?,
            bell: Notify::new(),
            policy,
        };
        Ok(App { database: login::open(settings)?, inner: Arc::new(inner) })
    }

    async fn connection(&self) -> Result<Connection, Fault> {
        Ok(self.database.get().await?)
    }
}

/// The right a route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    Public,
    /// An operator, by the session's cookie or an ID token as bearer.
    Operator,
    /// Cloud, by `X-Internal-Token`.
    Internal,
    /// Cloud, by `X-Hmac-Signature`; the handler checks, since the signature is over the body.
    Webhook,
}

/// One route.
pub struct Route {
    pub method: &'static str,
    pub path: &'static str,
    pub right: Right,
    pub about: &'static str,
    pub handler: MethodRouter<App>,
}

fn route<H, T>(method: &'static str, path: &'static str, right: Right, about: &'static str, handler: H) -> Route
where
    H: Handler<T, App>,
    T: 'static,
{
    Route { method, path, right, about, handler: on(method, handler) }
}

/// Every route of Management.
pub fn all() -> Vec<Route> {
    use Right::{Internal, Operator, Public, Webhook};
    vec![
        route("GET", "/health", Public, "Whether the database answers", async |State(app): State<App>| {
            serve::health(&app.database).await
        }),
        route("GET", "/manage/health", Public, "The same, where the edge leads to", async |State(app): State<App>| {
            serve::health(&app.database).await
        }),
        route("GET", "/manage/openapi.json", Public, "This description", async || Json(document())),
        route("GET", "/manage/style.css", Public, "The page's looks", pages::style),
        route("GET", "/manage/sign-in", Public, "Sign in with Microsoft", pages::start),
        route("GET", "/manage/signin-oidc", Public, "Come back from the sign-in", pages::finish),
        route("POST", "/manage/sign-out", Operator, "Sign out", pages::sign_out),
        route("GET", "/manage", Operator, "The operators' page", pages::overview),
        route("GET", "/manage/", Operator, "The operators' page", pages::overview),
        route(
            "POST",
            "/manage/tenants/{id}/licence",
            Operator,
            "Give, change or suspend a licence (form)",
            pages::decide,
        ),
        route("GET", "/manage/api/v1/tenants", Operator, "Tenants and their licences", licences::tenants),
        route("GET", "/manage/api/v1/acts", Operator, "Who decided what", licences::acts),
        route(
            "POST",
            "/manage/api/v1/tenants/{id}/licence",
            Operator,
            "Give, change or suspend a licence",
            licences::decide,
        ),
        route("GET", "/internal/v1/tenants/{id}/license", Internal, "The licence of a tenant", internal::licence),
        route("POST", "/internal/v1/webhooks/tenant", Webhook, "A tenant asks to be let in", internal::registered),
    ]
}

/// All of Management.
pub fn router(app: App) -> Router {
    let mut router = Router::new();
    for Route { path, right, handler, .. } in all() {
        router = router.route(path, handler.layer(from_fn_with_state((app.clone(), right), guard)));
    }
    let router = router.fallback(async || Fault::NotFound.into_response());
    serve::dressed(router.layer(DefaultBodyLimit::max(BODY)).with_state(app))
}

async fn guard(State((app, right)): State<(App, Right)>, mut request: Request, next: Next) -> Response {
    let page = right == Right::Operator && !request.uri().path().starts_with("/manage/api/");
    match admit(&app, right, &mut request).await {
        Ok(()) => {
            let mut response = next.run(request).await;
            if let Ok(policy) = HeaderValue::from_str(&app.inner.policy) {
                response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
            }
            response
        }
        Err(Fault::Unauthorized(_)) if page && request.method().is_safe() => {
            let back: String = url::form_urlencoded::byte_serialize(staff::wanted(&request).as_bytes()).collect();
            Redirect::to(&format!("/manage/sign-in?return={back}")).into_response()
        }
        Err(fault) => fault.into_response(),
    }
}

async fn admit(app: &App, right: Right, request: &mut Request) -> Result<(), Fault> {
    match right {
        Right::Public | Right::Webhook => Ok(()),
        Right::Internal => {
            let given = request.headers().get(crate::cloud::INTERNAL_TOKEN).and_then(|v| v.to_str().ok());
            let ok = app.inner.internal_token.matches(given.unwrap_or_default());
            ok.then_some(()).ok_or(Fault::Unauthorized("X-Internal-Token is missing or wrong"))
        }
        Right::Operator => {
            let headers = request.headers().clone();
            let operator = app.inner.staff.any_caller(&headers).await?;
            tracing::Span::current().record("enduser.id", operator.sub.as_str());
            request.extensions_mut().insert(operator);
            Ok(())
        }
    }
}

fn document() -> serde_json::Value {
    let mut paths = serde_json::Map::new();
    for route in all() {
        let security = match route.right {
            Right::Public => serde_json::json!([]),
            Right::Operator => serde_json::json!([{ "operator": [] }]),
            Right::Internal => serde_json::json!([{ "internal": [] }]),
            Right::Webhook => serde_json::json!([{ "webhook": [] }]),
        };
        paths.entry(route.path).or_insert_with(|| serde_json::json!({}))[route.method.to_lowercase()] = serde_json::json!({ "summary": route.about, "security": security, "responses": { "default": { "description": "JSON or a page" } } });
    }
    serde_json::json!({
        "openapi": "3.1.0",
        "info": { "title": "Monozu Management", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": { "securitySchemes": {
            "operator": { "type": "http", "scheme": "bearer", "description": "an ID token, or the session's cookie" },
            "internal": { "type": "apiKey", "in": "header", "name": "X-Internal-Token" },
            "webhook": { "type": "apiKey", "in": "header", "name": "X-Hmac-Signature" },
        } },
    })
}
