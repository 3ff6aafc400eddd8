//! What administrators do with people. The same acts serve the control socket.

use std::sync::Arc;

use api::{Secret, audit::Outcome};
use axum::{
    Extension,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};

use crate::{
    error::Error,
    form::Params,
    pages::{self, Frame, GroupBox, People, PersonNew, PersonPage},
    people::{self, Person},
    sessions,
    state::App,
    tokens,
    visit::{Signed, Visit, see_other},
};

/// Why an act on a person was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Unknown,
    LastAdministrator,
}

impl Refusal {
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Unknown => "There is no such person.",
            Self::LastAdministrator => {
                "This is the only administrator who can sign in. Make somebody else one first, \
                 so that nobody is locked out."
            }
        }
    }
}

/// A first-sign-in link and the hash that is kept of it.
pub fn new_link(app: &App) -> (String, Vec<u8>) {
    let token = Secret::random();
    let link = format!("{}/first?token={}", app.settings.load().issuer, token.expose());
    (link, tokens::hash(token.expose()))
}

/// Lets a person in or keeps them out; keeping out ends all their sessions and grants at once.
pub async fn set_active(app: &App, actor: &str, id: &str, active: bool) -> Result<Result<(), Refusal>, Error> {
    let (person, group, now) = (id.to_owned(), app.settings.load().admin_group.clone(), app.now());
    let done = app
        .store
        .run(move |db| {
            let Some(found) = people::by_id(db, &person)? else { return Ok(Err(Refusal::Unknown)) };
            if !active {
                let administers = found.active && found.groups.contains(&group);
                if administers && !people::another_in(db, &group, &person)? {
                    return Ok(Err(Refusal::LastAdministrator));
                }
                sessions::end_all(db, &person, None, now)?;
            }
            people::set_active(db, &person, active)?;
            Ok(Ok(()))
        })
        .await?;
    let action = if active { "person.enable" } else { "person.disable" };
    let outcome = if done.is_ok() { Outcome::Ok } else { Outcome::Denied };
    app.record(actor, action, &format!("people/{id}"), outcome, &[]).await?;
    Ok(done)
}

pub async fn list(State(app): State<App>, Extension(visit): Extension<Arc<Visit>>) -> Result<Response, Error> {
    let people = app.store.run(people::all).await?;
    let active = people.iter().filter(|p| p.active && p.has_password).count();
    pages::page(StatusCode::OK, &People { frame: Frame::of(&app, &visit), people, active }, None)
}

fn boxes(app: &App, checked: &[String]) -> Vec<GroupBox> {
    let settings = app.settings.load();
    settings.groups.iter().map(|name| GroupBox { name: name.clone(), checked: checked.contains(name) }).collect()
}

/// The groups ticked on a form that exist.
fn ticked(app: &App, form: &Params) -> Vec<String> {
    let settings = app.settings.load();
    form.all("group[]").iter().filter(|group| settings.groups.contains(*group)).cloned().collect()
}

pub async fn new_page(State(app): State<App>, Extension(visit): Extension<Arc<Visit>>) -> Result<Response, Error> {
    let page = PersonNew {
        frame: Frame::of(&app, &visit),
        email: String::new(),
        name: String::new(),
        groups: boxes(&app, &[]),
        fault: None,
    };
    pages::page(StatusCode::OK, &page, None)
}

pub async fn add(
    State(app): State<App>,
    Extension(visit): Extension<Arc<Visit>>,
    Extension(signed): Extension<Arc<Signed>>,
) -> Result<Response, Error> {
    let (email, name) = (visit.form.text("email").trim().to_owned(), visit.form.text("name").trim().to_owned());
    let groups = ticked(&app, &visit.form);
    let again = |status, fault: &str| {
        let page = PersonNew {
            frame: Frame::of(&app, &visit),
            email: email.clone(),
            name: name.clone(),
            groups: boxes(&app, &groups),
            fault: Some(fault.into()),
        };
        pages::page(status, &page, None)
    };
    if let Some(fault) = fault(&email, &name) {
        return again(StatusCode::UNPROCESSABLE_ENTITY, fault);
    }
    let (link, hash) = new_link(&app);
    let now = app.now();
    let added = {
        let (email, name, groups) = (email.clone(), name.clone(), groups.clone());
        app.store
            .run(move |db| {
                let added = people::add(db, &email, &name, &groups, now)?;
                if let Some(person) = &added {
                    people::new_link(db, &person.id, &hash, now)?;
                }
                Ok(added)
            })
            .await?
    };
    let Some(person) = added else {
        return again(StatusCode::CONFLICT, "Somebody with this e-mail is there already.");
    };
    let detail = [("groups", person.groups.clone().into())];
    app.record(&signed.person.id, "person.add", &format!("people/{}", person.id), Outcome::Ok, &detail).await?;
    let notice = Some("Added. Give them the link below; it sets their password.");
    show(&app, &visit, StatusCode::CREATED, person, Some(link), notice, None).await
}

/// What is wrong with an e-mail or a name.
pub fn fault(email: &str, name: &str) -> Option<&'static str> {
    if !people::is_email(email) {
        return Some("This is not an e-mail address.");
    }
    if name.trim().is_empty() || name.len() > 200 || name.chars().any(char::is_control) {
        return Some("A name is needed, of at most 200 letters.");
    }
    None
}

async fn show(
    app: &App,
    visit: &Visit,
    status: StatusCode,
    person: Person,
    link: Option<String>,
    notice: Option<&'static str>,
    fault: Option<String>,
) -> Result<Response, Error> {
    let (id, now) = (person.id.clone(), app.now());
    let sessions = app.store.run(move |db| sessions::of_person(db, &id, now)).await?;
    let page = PersonPage {
        frame: Frame::of(app, visit),
        created: pages::day(person.created_s),
        groups: boxes(app, &person.groups),
        sessions: pages::session_rows(sessions, visit),
        person,
        link,
        notice,
        fault,
    };
    pages::page(status, &page, None)
}

async fn find(app: &App, id: &str) -> Result<Result<Person, Box<Response>>, Error> {
    let wanted = id.to_owned();
    let found = app.store.run(move |db| people::by_id(db, &wanted)).await?;
    Ok(found.ok_or_else(|| Box::new(pages::refused(app, StatusCode::NOT_FOUND, Refusal::Unknown.sentence()))))
}

pub async fn page(
    State(app): State<App>,
    Extension(visit): Extension<Arc<Visit>>,
    Path(id): Path<String>,
) -> Result<Response, Error> {
    let person = match find(&app, &id).await? {
        Ok(person) => person,
        Err(answer) => return Ok(*answer),
    };
    let notice = match visit.query.text("done") {
        "groups" => Some("The groups were changed. They count from the next sign-in or token on."),
        "disabled" => Some("They are signed out everywhere and cannot sign in."),
        "enabled" => Some("They can sign in again."),
        "session" => Some("That session was ended."),
        _ => None,
    };
    show(&app, &visit, StatusCode::OK, person, None, notice, None).await
}

pub async fn groups(
    State(app): State<App>,
    Extension(visit): Extension<Arc<Visit>>,
    Extension(signed): Extension<Arc<Signed>>,
    Path(id): Path<String>,
) -> Result<Response, Error> {
    let wanted = ticked(&app, &visit.form);
    let done = set_groups(&app, &signed.person.id, &id, wanted).await?;
    after(&app, &visit, &id, done, "groups").await
}

/// Puts a person in exactly these groups, which exist; they count from the next sign-in or token on.
pub async fn set_groups(app: &App, actor: &str, id: &str, wanted: Vec<String>) -> Result<Result<(), Refusal>, Error> {
    let group = app.settings.load().admin_group.clone();
    let (person, asked) = (id.to_owned(), wanted.clone());
    let done = app
        .store
        .run(move |db| {
            let Some(found) = people::by_id(db, &person)? else { return Ok(Err(Refusal::Unknown)) };
            let loses = found.active && found.groups.contains(&group) && !wanted.contains(&group);
            if loses && !people::another_in(db, &group, &person)? {
                return Ok(Err(Refusal::LastAdministrator));
            }
            people::set_groups(db, &person, &wanted)?;
            Ok(Ok(()))
        })
        .await?;
    let outcome = if done.is_ok() { Outcome::Ok } else { Outcome::Denied };
    app.record(actor, "person.groups", &format!("people/{id}"), outcome, &[("groups", asked.into())]).await?;
    Ok(done)
}

/// Back to the person's page, with what was done or why not.
async fn after(app: &App, visit: &Visit, id: &str, done: Result<(), Refusal>, word: &str) -> Result<Response, Error> {
    match done {
        Ok(()) => Ok(see_other(&format!("/people/{id}?done={word}"))),
        Err(refusal) => match find(app, id).await? {
            Ok(person) => {
                let fault = Some(refusal.sentence().to_owned());
                show(app, visit, StatusCode::CONFLICT, person, None, None, fault).await
            }
            Err(answer) => Ok(*answer),
        },
    }
}

pub async fn disable(
    State(app): State<App>,
    Extension(visit): Extension<Arc<Visit>>,
    Extension(signed): Extension<Arc<Signed>>,
    Path(id): Path<String>,
) -> Result<Response, Error> {
    let done = set_active(&app, &signed.person.id, &id, false).await?;
    after(&app, &visit, &id, done, "disabled").await
}

pub async fn enable(
    State(app): State<App>,
    Extension(visit): Extension<Arc<Visit>>,
    Extension(signed): Extension<Arc<Signed>>,
    Path(id): Path<String>,
) -> Result<Response, Error> {
    let done = set_active(&app, &signed.person.id, &id, true).await?;
    after(&app, &visit, &id, done, "enabled").await
}

pub async fn link(
    State(app): State<App>,
    Extension(visit): Extension<Arc<Visit>>,
    Extension(signed): Extension<Arc<Signed>>,
    Path(id): Path<String>,
) -> Result<Response, Error> {
    let person = match find(&app, &id).await? {
        Ok(person) => person,
        Err(answer) => return Ok(*answer),
    };
    let (link, hash) = new_link(&app);
    let (wanted, now) = (id.clone(), app.now());
    app.store.run(move |db| people::new_link(db, &wanted, &hash, now)).await?;
    app.record(&signed.person.id, "person.link", &format!("people/{id}"), Outcome::Ok, &[]).await?;
    let notice = Some("Here is a new link. Older links of this person no longer work.");
    show(&app, &visit, StatusCode::OK, person, Some(link), notice, None).await
}

pub async fn end_session(
    State(app): State<App>,
    Extension(signed): Extension<Arc<Signed>>,
    Path((id, session)): Path<(String, String)>,
) -> Result<Response, Error> {
    let (person, ended, now) = (id.clone(), session.clone(), app.now());
    if !app.store.run(move |db| sessions::end(db, &person, &ended, now)).await? {
        return Ok(pages::refused(&app, StatusCode::NOT_FOUND, "There is no such session; it may have ended already."));
    }
    app.record(&signed.person.id, "session.end", &format!("sessions/{session}"), Outcome::Ok, &[]).await?;
    Ok(see_other(&format!("/people/{id}?done=session")))
}
