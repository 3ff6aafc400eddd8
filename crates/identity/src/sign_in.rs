//! Signing in: the page for e-mail and password, and the one-time link with which a person chooses a password.

use std::{sync::Arc, time::Instant};

use api::{Secret, audit::Outcome, identity::Directory};
use axum::{
    Extension,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};

use crate::{
    authorize,
    config::Realm,
    directory,
    error::Error,
    form::Params,
    outside,
    pages::{self, First, Frame, SignIn},
    password,
    people::{self, Person},
    sessions,
    state::App,
    tokens,
    visit::{SESSION, Visit, append_cookie, see_other},
    workload::text_of,
};

/// The authorisation request that waits for a sign-in, and what it tells the page.
struct Waiting {
    query: String,
    client: Option<String>,
    origin: Option<String>,
    hint: String,
}

impl Waiting {
    /// Reads the query of an authorisation request. One that would be refused is dropped.
    fn read(app: &App, query: &str) -> Self {
        let settings = app.settings.load();
        let params = Params::parse(query.as_bytes()).unwrap_or_default();
        match authorize::target(&settings, &params) {
            Ok((client, uri)) => Self {
                query: params.encode(""),
                client: Some(client.title.clone()),
                origin: pages::origin(uri),
                hint: params.text("login_hint").to_owned(),
            },
            Err(_) => Self { query: String::new(), client: None, origin: None, hint: String::new() },
        }
    }
}

pub async fn page(State(app): State<App>, Extension(visit): Extension<Arc<Visit>>) -> Result<Response, Error> {
    let waiting = Waiting::read(&app, visit.query.text("authorize"));
    let email = waiting.hint.clone();
    show(&app, &visit, StatusCode::OK, waiting, email, None)
}

fn show(
    app: &App,
    visit: &Visit,
    status: StatusCode,
    waiting: Waiting,
    email: String,
    fault: Option<String>,
) -> Result<Response, Error> {
    // Who signs in again is not shown as signed in.
    let frame = Frame { name: None, administrator: false, ..Frame::of(app, visit) };
    let inner: String = url::form_urlencoded::byte_serialize(waiting.query.as_bytes()).collect();
    let settings = app.settings.load();
    let outside = settings.issuers.values();
    let outside = outside.map(|i| (format!("/outside/{}?authorize={inner}", i.name), i.title.clone())).collect();
    // Who types an address of an issuer's is led on to it by this form.
    let origins: Vec<String> =
        waiting.origin.into_iter().chain(settings.issuers.values().filter_map(|i| pages::origin(&i.issuer))).collect();
    let origin = (!origins.is_empty()).then(|| origins.join(" "));
    let page = SignIn { frame, client: waiting.client, email, authorize: waiting.query, fault, outside };
    pages::page(status, &page, origin.as_deref())
}

pub async fn submit(State(app): State<App>, Extension(visit): Extension<Arc<Visit>>) -> Result<Response, Error> {
    let waiting = Waiting::read(&app, visit.form.text("authorize"));
    let typed = visit.form.text("email").trim().to_owned();
    let key: String = people::email_key(&typed).chars().take(254).collect();

    let now = Instant::now();
    let held_up = app.addresses.attempt(visit.address, now).and_then(|()| app.accounts.attempt(key.clone(), now));
    if let Err(wait) = held_up {
        // Recorded now and then only, so that nobody can fill the disk with it.
        if app.refusals.attempt(visit.address, now).is_ok() {
            let detail = [("address", text_of(&visit.address)), ("reason", "too many attempts".into())];
            app.record("anonymous", "session.start", "people", Outcome::Denied, &detail).await?;
        }
        let seconds = wait.as_secs() + 1;
        let sentence = format!("Too many attempts. Wait {} and try again.", spoken(seconds));
        let mut answer = show(&app, &visit, StatusCode::TOO_MANY_REQUESTS, waiting, typed, Some(sentence))?;
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        return Ok(answer);
    }

    let settings = app.settings.load_full();
    match settings.realm(&typed) {
        Realm::Here => {}
        // The password, if any was typed, is not looked at: it is not ours to judge.
        Realm::Issuer(issuer) => return outside::lead(&app, &issuer.name, &waiting.query, &typed).await,
        Realm::Directory(directory) => return by_directory(&app, &visit, directory, waiting, typed, key).await,
    }

    let (person, hash) = {
        let key = key.clone();
        app.store
            .run(move |db| {
                let person = people::by_email(db, &key)?;
                let hash = match &person {
                    Some(person) => people::password_hash(db, &person.id)?,
                    None => None,
                };
                Ok((person, hash))
            })
            .await?
    };
    let given = visit.form.text("password");
    // A longer one is nobody's; it is checked all the same, cut, so that the answer takes as long.
    let cut: String = given.chars().take(password::MOST_BYTES).collect();
    let right = app.passwords.matches(Secret::new(cut), hash).await? && given.len() <= password::MOST_BYTES;
    let admitted = person.as_ref().filter(|person| right && person.active);
    let Some(person) = admitted else {
        let object = person.as_ref().map_or_else(|| "people".to_owned(), |person| format!("people/{}", person.id));
        let reason = match &person {
            None => "nobody has this e-mail",
            Some(person) if !person.active => "disabled",
            Some(_) => "wrong password",
        };
        // What was typed is not recorded: people type passwords into the wrong box.
        let detail = [("address", text_of(&visit.address)), ("reason", reason.into())];
        app.record("anonymous", "session.start", &object, Outcome::Denied, &detail).await?;
        let sentence = "That e-mail and password do not match.".to_owned();
        return show(&app, &visit, StatusCode::UNAUTHORIZED, waiting, typed, Some(sentence));
    };
    app.accounts.succeeded(&key);
    app.addresses.forgive(&visit.address);
    go_on(&app, &visit, person, &waiting.query).await
}

/// Has the directory judge a password. While it is down nobody with its addresses is let in: there is no second way.
async fn by_directory(
    app: &App,
    visit: &Visit,
    directory: &Directory,
    waiting: Waiting,
    typed: String,
    key: String,
) -> Result<Response, Error> {
    let password = Secret::new(visit.form.text("password"));
    let judged = match outside::secret(app, &directory.secret).await {
        Ok(bind) => directory::judge(directory, &app.ways.tls, &bind, &typed, &password).await,
        Err(refused) => Err(directory::Refused::Down(refused.to_string())),
    };
    match judged {
        Ok(outsider) => {
            app.accounts.succeeded(&key);
            app.addresses.forgive(&visit.address);
            outside::admit(app, visit, &outsider, &directory.groups, &waiting.query).await
        }
        Err(refused) => {
            outside::record(app, visit, &directory.url, &refused.to_string()).await?;
            if let directory::Refused::Down(_) = refused {
                tracing::warn!(error = %refused, "the directory does not answer");
                let sentence = "Your organisation's directory does not answer just now, so nobody can be signed in by it. \
                                Nothing is wrong with your password. Try again in a moment.";
                return Ok(pages::unavailable(app, sentence));
            }
            let sentence = "That e-mail and password do not match.".to_owned();
            show(app, visit, StatusCode::UNAUTHORIZED, waiting, typed, Some(sentence))
        }
    }
}

/// Starts a session, and goes on with the authorisation request that waits for it.
pub async fn go_on(app: &App, visit: &Visit, person: &Person, query: &str) -> Result<Response, Error> {
    let target = if query.is_empty() { "/account".to_owned() } else { format!("/authorize?{query}") };
    admit(app, visit, person, &target).await
}

/// Starts a session of `person` in this browser, and ends the one that was there before.
async fn admit(app: &App, visit: &Visit, person: &Person, target: &str) -> Result<Response, Error> {
    let secret = Secret::random();
    let (hash, now) = (tokens::hash(secret.expose()), app.now());
    let seconds = app.settings.load().session_seconds;
    let before = visit.signed.as_ref().map(|s| (s.person.id.clone(), s.session.id.clone()));
    let address = visit.address.map(|ip| ip.to_string()).unwrap_or_default();
    let (id, agent) = (person.id.clone(), visit.agent.clone());
    let session = app
        .store
        .run(move |db| {
            // The same person again: the same session, with a new secret. Another: theirs ends here.
            match before {
                Some((person, session)) if person != id => {
                    sessions::end(db, &person, &session, now)?;
                }
                Some((_, session)) if sessions::renew(db, &session, &hash, now, seconds)? => return Ok(session),
                _ => {}
            }
            sessions::start(db, &id, &hash, now, seconds, &address, &agent)
        })
        .await?;
    let detail = [("address", text_of(&visit.address)), ("session", session.into())];
    app.record(&person.id, "session.start", &format!("people/{}", person.id), Outcome::Ok, &detail).await?;
    let mut answer = see_other(target);
    append_cookie(&mut answer, SESSION, secret.expose(), Some(seconds));
    Ok(answer)
}

pub async fn first_page(State(app): State<App>, Extension(visit): Extension<Arc<Visit>>) -> Result<Response, Error> {
    let token = visit.query.text("token").to_owned();
    let (hash, now) = (tokens::hash(&token), app.now());
    match app.store.run(move |db| people::by_link(db, &hash, now)).await? {
        Some(person) => show_first(&app, &visit, StatusCode::OK, person, token, None),
        None => Ok(stale(&app)),
    }
}

fn show_first(
    app: &App,
    visit: &Visit,
    status: StatusCode,
    person: Person,
    token: String,
    fault: Option<String>,
) -> Result<Response, Error> {
    let frame = Frame { name: None, administrator: false, ..Frame::of(app, visit) };
    pages::page(status, &First { frame, person, token, fault }, None)
}

fn stale(app: &App) -> Response {
    let sentence = "This link has been used, has expired, or was replaced by a newer one. \
                    Ask an administrator for a new link.";
    pages::refused(app, StatusCode::GONE, sentence)
}

pub async fn first_submit(State(app): State<App>, Extension(visit): Extension<Arc<Visit>>) -> Result<Response, Error> {
    let token = visit.form.text("token").to_owned();
    let (hash, now) = (tokens::hash(&token), app.now());
    let found = {
        let hash = hash.clone();
        app.store.run(move |db| people::by_link(db, &hash, now)).await?
    };
    let Some(person) = found else { return Ok(stale(&app)) };
    let chosen = visit.form.text("password");
    let fault = password::fault(chosen, &person.email, &person.name)
        .or_else(|| (chosen != visit.form.text("again")).then_some("The two passwords are not the same."));
    if let Some(fault) = fault {
        return show_first(&app, &visit, StatusCode::UNPROCESSABLE_ENTITY, person, token, Some(fault.into()));
    }
    let phc = app.passwords.hash(Secret::new(chosen)).await?;
    let used = app
        .store
        .run(move |db| {
            // Asked again inside the transaction that uses it up: two people at once, one of them wins.
            let Some(person) = people::use_link(db, &hash, now)? else { return Ok(None) };
            people::set_password(db, &person.id, &phc, now)?;
            sessions::end_all(db, &person.id, None, now)?;
            Ok(Some(person))
        })
        .await?;
    let Some(person) = used else { return Ok(stale(&app)) };
    let detail = [("address", text_of(&visit.address)), ("by", "link".into())];
    app.record(&person.id, "password.set", &format!("people/{}", person.id), Outcome::Ok, &detail).await?;
    app.accounts.succeeded(&people::email_key(&person.email));
    admit(&app, &visit, &person, "/account").await
}

fn spoken(seconds: u64) -> String {
    match seconds {
        1 => "1 second".into(),
        2..=90 => format!("{seconds} seconds"),
        _ => format!("{} minutes", seconds.div_ceil(60)),
    }
}
