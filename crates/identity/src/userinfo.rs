//! `/userinfo`: the claims of the person whom an access token speaks for, as they are now.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde_json::Value;

use crate::{
    error::Error,
    form, grants, people,
    state::App,
    token::{self, person_claims},
    tokens::{self, Kind},
};

pub async fn claims(State(app): State<App>, headers: HeaderMap) -> Result<Response, Error> {
    let token = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(form::bearer);
    let opened = token.and_then(|token| tokens::open(&app.keys, Kind::Access, token));
    let Some(claims) = opened else { return Ok(refuse()) };
    let now = app.now();
    let settings = app.settings.load_full();
    let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
    if claims.get("exp").and_then(Value::as_i64).is_none_or(|exp| exp <= now) || text("aud") != settings.issuer {
        return Ok(refuse());
    }
    // The signature says who was meant; the store says whether it still holds.
    let grant = text("grant").to_owned();
    let found = app
        .store
        .run(move |db| {
            let Some(grant) = grants::live(db, &grant)? else { return Ok(None) };
            Ok(people::by_id(db, &grant.person)?.map(|person| (grant, person)))
        })
        .await?;
    let Some((grant, person)) = found else { return Ok(refuse()) };
    let mut answer = person_claims(&settings, &person, &grant.scope);
    answer.insert("sub".into(), person.id.into());
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response())
}

fn refuse() -> Response {
    let mut answer = token::refuse(StatusCode::UNAUTHORIZED, "invalid_token", "the access token is not valid");
    let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    answer
}
