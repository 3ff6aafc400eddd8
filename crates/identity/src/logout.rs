//! Signing out: the button on our own pages, and OpenID Connect RP-initiated logout.

use std::sync::Arc;

use api::audit::Outcome;
use axum::{Extension, extract::State, http::StatusCode, response::Response};
use serde_json::Value;

use crate::{
    config::Settings,
    error::Error,
    pages::{self, Frame, Message, SignOut},
    sessions,
    state::App,
    tokens::{self, Kind},
    visit::{SESSION, Signed, Visit, append_cookie, see_other},
};

/// What a relying party proved with its `id_token_hint`.
struct Hint {
    client: String,
    person: String,
    session: String,
}

impl Hint {
    /// An ID token of ours, however old (OpenID Connect RP-Initiated Logout 1.0 section 4).
    fn read(app: &App, settings: &Settings, token: &str) -> Option<Self> {
        let claims = tokens::open(&app.keys, Kind::Jwt, token)?;
        let text = |name: &str| claims.get(name).and_then(Value::as_str).map(str::to_owned);
        let (client, person, session) = (text("aud")?, text("sub")?, text("sid")?);
        (text("iss")? == settings.issuer && settings.clients.contains_key(&client)).then_some(Self {
            client,
            person,
            session,
        })
    }
}

/// `/logout`, where relying parties send browsers.
pub async fn asked(State(app): State<App>, Extension(visit): Extension<Arc<Visit>>) -> Result<Response, Error> {
    let settings = app.settings.load_full();
    let params = if visit.form.is_empty() { &visit.query } else { &visit.form };
    let hint = params.get("id_token_hint").and_then(|token| Hint::read(&app, &settings, token));
    let named = params.get("client_id");
    if let (Some(hint), Some(id)) = (&hint, named)
        && hint.client != id
    {
        return Ok(pages::refused(
            &app,
            StatusCode::BAD_REQUEST,
            "The application that sent you here contradicts itself.",
        ));
    }
    // Back to the application only with its proof, and only to an address it has registered.
    let client = hint.as_ref().and_then(|hint| settings.clients.get(&hint.client));
    let back = match (client, params.get("post_logout_redirect_uri")) {
        (Some(client), Some(uri)) => match client.post_logout_redirect_uris.iter().find(|known| *known == uri) {
            Some(uri) => Some(uri.as_str()),
            None => {
                let sentence =
                    "The application that sent you here named an address to go back to that is not registered.";
                return Ok(pages::refused(&app, StatusCode::BAD_REQUEST, sentence));
            }
        },
        _ => None,
    };
    let target = match back {
        Some(uri) => with_state(uri, params.get("state")),
        None => "/signed-out".to_owned(),
    };
    match (&visit.signed, &hint) {
        (Some(signed), Some(hint)) if hint.session == signed.session.id && hint.person == signed.person.id => {
            end(&app, signed).await?;
            let mut answer = see_other(&target);
            append_cookie(&mut answer, SESSION, "", Some(0));
            Ok(answer)
        }
        // Somebody else's page may have sent the person here: ask.
        (Some(_), _) => pages::page(StatusCode::OK, &SignOut { frame: Frame::of(&app, &visit) }, None),
        (None, _) => Ok(see_other(&target)),
    }
}

/// The sign-out button.
pub async fn submit(State(app): State<App>, Extension(visit): Extension<Arc<Visit>>) -> Result<Response, Error> {
    if let Some(signed) = &visit.signed {
        end(&app, signed).await?;
    }
    let mut answer = see_other("/signed-out");
    append_cookie(&mut answer, SESSION, "", Some(0));
    Ok(answer)
}

pub async fn done(State(app): State<App>, Extension(visit): Extension<Arc<Visit>>) -> Result<Response, Error> {
    let frame = Frame::of(&app, &visit);
    let message = Message {
        frame,
        heading: "You are signed out".into(),
        sentence: "You can close this page.".into(),
        link: Some(("/sign-in", "Sign in again")),
    };
    pages::page(StatusCode::OK, &message, None)
}

async fn end(app: &App, signed: &Signed) -> Result<(), Error> {
    let (person, session, now) = (signed.person.id.clone(), signed.session.id.clone(), app.now());
    app.store.run(move |db| sessions::end(db, &person, &session, now)).await?;
    let object = format!("sessions/{}", signed.session.id);
    app.record(&signed.person.id, "session.end", &object, Outcome::Ok, &[]).await
}

fn with_state(uri: &str, state: Option<&str>) -> String {
    let Some(state) = state else { return uri.to_owned() };
    let mark = if uri.contains('?') { '&' } else { '?' };
    let value: String = url::form_urlencoded::byte_serialize(state.as_bytes()).collect();
    format!("{uri}{mark}state={value}")
}
