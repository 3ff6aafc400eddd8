//! What people do with their own account: look, change the password, end sessions.

use std::{sync::Arc, time::Instant};

use api::{Secret, audit::Outcome};
use axum::{
    Extension,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};

use crate::{
    error::Error,
    pages::{self, Account, Application, Frame, Password},
    password, people, sessions,
    state::App,
    visit::{Signed, Visit, see_other},
};

pub async fn home() -> Response {
    see_other("/account")
}

pub async fn page(
    State(app): State<App>,
    Extension(visit): Extension<Arc<Visit>>,
    Extension(signed): Extension<Arc<Signed>>,
) -> Result<Response, Error> {
    let (id, now) = (signed.person.id.clone(), app.now());
    let sessions = app.store.run(move |db| sessions::of_person(db, &id, now)).await?;
    let settings = app.settings.load();
    let applications = settings.clients.values().filter_map(|client| {
        let address = client.redirect_uris.first().and_then(|uri| pages::origin(uri))?;
        Some(Application { title: client.title.clone(), address })
    });
    let notice = match visit.query.text("done") {
        "password" => Some("Your password was changed. You were signed out everywhere else."),
        "session" => Some("That session was ended."),
        "others" => Some("You were signed out everywhere else."),
        _ => None,
    };
    let page = Account {
        frame: Frame::of(&app, &visit),
        person: signed.person.clone(),
        applications: applications.collect(),
        sessions: pages::session_rows(sessions, &visit),
        notice,
    };
    pages::page(StatusCode::OK, &page, None)
}

pub async fn password_page(State(app): State<App>, Extension(visit): Extension<Arc<Visit>>) -> Result<Response, Error> {
    show_password(&app, &visit, StatusCode::OK, None)
}

fn show_password(app: &App, visit: &Visit, status: StatusCode, fault: Option<&str>) -> Result<Response, Error> {
    let email = visit.signed.as_ref().map(|s| s.person.email.clone()).unwrap_or_default();
    let page = Password { frame: Frame::of(app, visit), email, fault: fault.map(str::to_owned) };
    pages::page(status, &page, None)
}

pub async fn password_submit(
    State(app): State<App>,
    Extension(visit): Extension<Arc<Visit>>,
    Extension(signed): Extension<Arc<Signed>>,
) -> Result<Response, Error> {
    let person = &signed.person;
    let object = format!("people/{}", person.id);
    let key = people::email_key(&person.email);
    if app.accounts.attempt(key.clone(), Instant::now()).is_err() {
        let sentence = "Too many attempts. Wait a few minutes and try again.";
        return show_password(&app, &visit, StatusCode::TOO_MANY_REQUESTS, Some(sentence));
    }
    let id = person.id.clone();
    let hash = app.store.run(move |db| people::password_hash(db, &id)).await?;
    if !app.passwords.matches(Secret::new(visit.form.text("current")), hash).await? {
        app.record(&person.id, "password.set", &object, Outcome::Denied, &[]).await?;
        let sentence = "Your current password is not right.";
        return show_password(&app, &visit, StatusCode::UNPROCESSABLE_ENTITY, Some(sentence));
    }
    app.accounts.succeeded(&key);
    let chosen = visit.form.text("password");
    let fault = password::fault(chosen, &person.email, &person.name)
        .or_else(|| (chosen != visit.form.text("again")).then_some("The two new passwords are not the same."));
    if let Some(fault) = fault {
        return show_password(&app, &visit, StatusCode::UNPROCESSABLE_ENTITY, Some(fault));
    }
    let phc = app.passwords.hash(Secret::new(chosen)).await?;
    let (id, session, now) = (person.id.clone(), signed.session.id.clone(), app.now());
    app.store
        .run(move |db| {
            people::set_password(db, &id, &phc, now)?;
            sessions::end_all(db, &id, Some(&session), now)
        })
        .await?;
    app.record(&person.id, "password.set", &object, Outcome::Ok, &[]).await?;
    Ok(see_other("/account?done=password"))
}

pub async fn end_session(
    State(app): State<App>,
    Extension(signed): Extension<Arc<Signed>>,
    Path(session): Path<String>,
) -> Result<Response, Error> {
    let (person, id, now) = (signed.person.id.clone(), session.clone(), app.now());
    // Only a session of this very person can be ended here.
    if !app.store.run(move |db| sessions::end(db, &person, &id, now)).await? {
        return Ok(pages::refused(&app, StatusCode::NOT_FOUND, "You have no such session; it may have ended already."));
    }
    app.record(&signed.person.id, "session.end", &format!("sessions/{session}"), Outcome::Ok, &[]).await?;
    Ok(see_other("/account?done=session"))
}

pub async fn end_others(State(app): State<App>, Extension(signed): Extension<Arc<Signed>>) -> Result<Response, Error> {
    let (person, session, now) = (signed.person.id.clone(), signed.session.id.clone(), app.now());
    let ended = app.store.run(move |db| sessions::end_all(db, &person, Some(&session), now)).await?;
    let object = format!("people/{}", signed.person.id);
    app.record(&signed.person.id, "session.end", &object, Outcome::Ok, &[("ended", ended.into())]).await?;
    Ok(see_other("/account?done=others"))
}
