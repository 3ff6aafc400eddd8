//! The whole application on a real PostgreSQL and with a real sign-in, and a browser without a screen.
#![allow(dead_code, reason = "each test file uses another part of this")]

#[path = "../../../../crates/sdk/tests/sdk/support/mod.rs"]
pub mod support;

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use sdk::{Settings, Trust, https::Client};
use serde_json::Value;
use support::{issuer, issuer::Issuer, scratch::Scratch};
use time_tracker::{app::App, migrations, routes};
use tokio::net::TcpListener;
use url::Url;

/// Everybody the tests know: name and groups.
pub const PEOPLE: [(&str, &[&str]); 6] = [
    ("Ann Archer", &["user"]),
    ("Ben Baker", &["user"]),
    ("Mia Mason", &["user", "manager"]),
    ("Max Miller", &["manager"]),
    ("Ada Admin", &["user", "admin"]),
    ("Nobody Nowhere", &[]),
];

pub struct Office {
    pub postgres: Scratch,
    pub issuer: Issuer,
    pub url: String,
    pub app: App,
}

impl Office {
    /// Starts everything; the schema is applied by its owner, the application runs as the other role.
    pub async fn start() -> Office {
        Office::start_at("127.0.0.1:0").await
    }

    pub async fn start_at(address: &str) -> Office {
        let postgres = Scratch::start().with_app_roles();
        let issuer = Issuer::start(&PEOPLE).await;
        let owner = Settings::from_pairs([("MIGRATIONS_CONNECTION", postgres.connection("app_owner", "app"))]);
        let mut client = sdk::database::connect_alone(&owner, "MIGRATIONS_CONNECTION").await.unwrap();
        sdk::migrations::apply(&mut client, &migrations::ALL).await.unwrap();
        let listener = TcpListener::bind(address).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let settings = Settings::from_pairs([
            ("ConnectionStrings__DefaultConnection", postgres.connection("app_rw", "app").as_str()),
            ("OIDC_ISSUER", issuer.url.as_str()),
            ("OIDC_CLIENT_ID", issuer::CLIENT),
            ("OIDC_CLIENT_SECRET", issuer::SECRET),
            ("PUBLIC_URL", url.as_str()),
            ("SESSION_KEY", "thirty-two characters for the tests' sessions"),
        ]);
        let app = App::from_settings(&settings).unwrap();
        let router = routes::router(app.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Office { postgres, issuer, url, app }
    }

    /// A browser that nobody is signed in with.
    pub fn browser(&self) -> Browser {
        let trust = Trust::from_settings(&Settings::from_pairs::<&str, &str>([]), &[]).unwrap();
        Browser {
            client: Client::new(&trust).unwrap(),
            base: self.url.clone(),
            cookies: BTreeMap::new(),
            csrf: String::new(),
        }
    }

    /// A browser in which this person has signed in.
    pub async fn signed_in(&self, person: &str) -> Browser {
        let mut browser = self.browser();
        let done = browser.sign_in(person).await;
        assert_eq!(done.status, StatusCode::SEE_OTHER, "{}", done.text);
        let me = browser.get("/api/v1/me").await;
        browser.csrf = me.json()["csrfToken"].as_str().unwrap_or_default().to_owned();
        browser
    }

    /// Reads the database past the application.
    pub fn sql(&self, sql: &str) -> String {
        self.postgres.sql("postgres", "app", sql)
    }
}

pub struct Browser {
    client: Client,
    pub base: String,
    pub cookies: BTreeMap<String, String>,
    pub csrf: String,
}

#[derive(Debug)]
pub struct Page {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Page {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {} {}", self.status, self.text))
    }

    pub fn location(&self) -> &str {
        self.headers.get(header::LOCATION).map_or("", |l| l.to_str().unwrap())
    }

    /// The value of a form's field.
    pub fn field(&self, name: &str) -> String {
        let at =
            self.text.find(&format!("name=\"{name}\"")).unwrap_or_else(|| panic!("no field {name} in {}", self.text));
        let tag = &self.text[at..at + self.text[at..].find('>').unwrap()];
        tag.split_once("value=\"").map_or(String::new(), |(_, v)| v.split('"').next().unwrap().to_owned())
    }
}

impl Browser {
    pub async fn send(&mut self, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Page {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.base) };
        let mut all = HeaderMap::new();
        let cookies: Vec<String> = self.cookies.iter().map(|(k, v)| format!("{k}={v}")).collect();
        if !cookies.is_empty() {
            all.insert(header::COOKIE, HeaderValue::from_str(&cookies.join("; ")).unwrap());
        }
        for (name, value) in headers {
            all.insert(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let answer = self.client.send(method, &Url::parse(&url).unwrap(), all, body.into()).await.unwrap();
        for cookie in answer.headers.get_all(header::SET_COOKIE) {
            let (name, rest) = cookie.to_str().unwrap().split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            if rest.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        Page { status: answer.status, headers: answer.headers, text }
    }

    pub async fn get(&mut self, path: &str) -> Page {
        self.send(Method::GET, path, &[], Bytes::new()).await
    }

    /// Posts a form with the session's anti-forgery token.
    pub async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Page {
        let csrf = self.csrf.clone();
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("_csrf", &csrf).extend_pairs(fields);
        let body = form.finish();
        self.send(Method::POST, path, &[("content-type", "application/x-www-form-urlencoded")], body).await
    }

    /// Calls the API with the session's cookie.
    pub async fn api(&mut self, method: Method, path: &str, body: &Value) -> Page {
        let csrf = self.csrf.clone();
        let headers = [("content-type", "application/json"), ("x-csrf-token", csrf.as_str())];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, path, &headers, body).await
    }

    /// Goes the whole way through the issuer; gives the answer of the application's callback.
    pub async fn sign_in(&mut self, person: &str) -> Page {
        let start = self.get("/sign-in?return=%2F").await;
        let there = format!("{}&person={person}", start.location());
        let cookies = std::mem::take(&mut self.cookies);
        let back = self.send(Method::GET, &there, &[], Bytes::new()).await;
        self.cookies = cookies;
        self.get(back.location()).await
    }

    /// The id of the person's sheet for a day.
    pub async fn sheet(&mut self, date: &str) -> String {
        let page = self.get(&format!("/?date={date}")).await;
        page.location().trim_start_matches("/sheets/").to_owned()
    }
}
