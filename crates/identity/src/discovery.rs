//! OpenID Connect discovery and the public keys.

use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse as _, Response},
};
use serde_json::json;

use crate::state::App;

/// What a person's claims may be asked by.
pub const SCOPES: [&str; 5] = ["openid", "profile", "email", "groups", "offline_access"];

pub async fn document(State(app): State<App>) -> Response {
    let settings = app.settings.load();
    let issuer = &settings.issuer;
    let body = json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/authorize"),
        "token_endpoint": format!("{issuer}/token"),
        "userinfo_endpoint": format!("{issuer}/userinfo"),
        "jwks_uri": format!("{issuer}/jwks"),
        "end_session_endpoint": format!("{issuer}/logout"),
        "scopes_supported": SCOPES,
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "code_challenge_methods_supported": ["S256"],
        "prompt_values_supported": ["none", "login", "select_account"],
        "claims_supported": ["iss", "sub", "aud", "exp", "iat", "nonce", "auth_time", "sid", "email", "name", "preferred_username", "groups"],
        "authorization_response_iss_parameter_supported": true,
        "claims_parameter_supported": false,
        "request_parameter_supported": false,
        "request_uri_parameter_supported": false,
    });
    ([(header::CACHE_CONTROL, "public, max-age=300")], Json(body)).into_response()
}

pub async fn jwks(State(app): State<App>) -> Response {
    // A key is published long before it signs, so a short cache never misses one.
    ([(header::CACHE_CONTROL, "public, max-age=60")], Json(app.keys.jwks())).into_response()
}
