//! Everything around the application, for real, and a browser without a screen.
#![allow(dead_code, reason = "each test file uses another part of this")]

#[path = "../../../../crates/sdk/tests/sdk/support/mod.rs"]
pub mod support;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use donatello::{
    app::App,
    migrations, progress, routes,
    standin::{self, Manner, StandIn},
    worker::{Points, Waits, Worker},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use sdk::{Secret, Settings, Trust, https::Client};
use serde_json::{Value, json};
use support::{issuer, issuer::Issuer, scratch::Scratch};
use tokio::net::TcpListener;
use url::Url;

/// Everybody the tests know: name and groups.
pub const PEOPLE: [(&str, &[&str]); 7] = [
    ("Ann Archer", &["standard-user"]),
    ("Ben Baker", &["standard-user"]),
    ("Pia Power", &["power-user"]),
    ("Mia Mason", &["dept-manager"]),
    ("Ola Olsen", &["org-admin"]),
    ("Ada Admin", &["super-admin"]),
    ("Nobody Nowhere", &[]),
];
pub const PROVIDER_KEY: &str = "a provider's key for the tests";
const PROMPT_KEY: &str = "thirty-two characters for the tests' prompts";
/// A budget of seeds: Marketing, where everybody begins.
pub const MARKETING: &str = "0d000000-0000-4000-8000-000000000001";

pub struct Studio {
    pub postgres: Scratch,
    pub issuer: Issuer,
    pub url: String,
    pub app: App,
    pub openai: StandIn,
    pub replicate: StandIn,
    openai_url: String,
    replicate_url: String,
}

async fn stand_in(kind: &str) -> (StandIn, String) {
    let it = StandIn::new(Some(Secret::new(PROVIDER_KEY)), Manner::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = standin::router(kind, it.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (it, url)
}

/// Stops a worker at a point, as if its process had died there.
pub struct StopAt(pub &'static str);

impl Points for StopAt {
    fn stop(&self, at: &'static str) -> bool {
        at == self.0
    }
}

impl Studio {
    /// Starts everything; the schema is applied by its owner, the application runs as the other role.
    pub async fn start() -> Studio {
        Studio::start_at("127.0.0.1:0").await
    }

    pub async fn start_at(address: &str) -> Studio {
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
            ("PROMPT_KEY", PROMPT_KEY),
        ]);
        let app = App::from_settings(&settings).unwrap();
        let router = routes::router(app.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        tokio::spawn(progress::follow(app.clone()));
        let (openai, openai_url) = stand_in("openai").await;
        let (replicate, replicate_url) = stand_in("replicate").await;
        Studio { postgres, issuer, url, app, openai, replicate, openai_url, replicate_url }
    }

    /// A worker with the built-in renderer and nothing else, that has told so.
    pub async fn worker(&self) -> Worker {
        self.worker_with(&[]).await
    }

    /// A worker that calls the stand-ins as well.
    pub async fn worker_of_all(&self) -> Worker {
        self.worker_with(&[
            ("OPENAI_URL", self.openai_url.as_str()),
            ("OPENAI_KEY", PROVIDER_KEY),
            ("REPLICATE_URL", self.replicate_url.as_str()),
            ("REPLICATE_KEY", PROVIDER_KEY),
        ])
        .await
    }

    async fn worker_with(&self, more: &[(&str, &str)]) -> Worker {
        let connection = self.postgres.connection("app_rw", "app");
        let mut pairs = vec![("ConnectionStrings__DefaultConnection", connection.as_str()), ("PROMPT_KEY", PROMPT_KEY)];
        pairs.extend(more);
        let mut worker = Worker::from_settings(&Settings::from_pairs(pairs)).unwrap();
        let short = Duration::from_millis(1);
        worker.waits = Waits { attempts: [short, short], fallback: short };
        worker.tell().await.unwrap();
        worker
    }

    /// The same worker, which ends at a point with a lease that soon runs out.
    pub fn dying(&self, worker: &Worker, at: &'static str) -> Worker {
        Worker { points: Arc::new(StopAt(at)), lease: Duration::from_millis(150), ..worker.clone() }
    }

    /// Works until no job is left.
    pub async fn work(&self, worker: &Worker) {
        while self.sql("SELECT count(*) FROM jobs WHERE step <> 'done'") != "0" {
            worker.once().await.unwrap();
        }
    }

    /// A browser that nobody is signed in with.
    pub fn browser(&self) -> Browser {
        let trust = Trust::from_settings(&Settings::from_pairs::<&str, &str>([]), &[]).unwrap();
        Browser {
            client: Client::bounded(&trust, Duration::from_secs(20), 8 * 1024 * 1024).unwrap(),
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

    /// What must be true whenever no job is left: reservations are nothing, and what was spent is what was charged.
    pub fn books_balance(&self) {
        let off = "SELECT count(*) FROM department_budgets b WHERE reserved_aud <> 0
            OR current_spend_aud <> (SELECT coalesce(sum(cost_aud), 0) FROM cost_events c WHERE c.department_id = b.department_id)";
        assert_eq!(self.sql(off), "0", "the books: {}", self.sql("SELECT * FROM department_budgets"));
        let uncharged = "SELECT count(*) FROM generations g WHERE (status = 'completed') <> EXISTS
            (SELECT 1 FROM cost_events c WHERE c.generation_id = g.id AND c.cost_aud = g.cost_aud)";
        assert_eq!(self.sql(uncharged), "0", "what is completed is charged, and nothing else");
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
    pub bytes: Bytes,
}

impl Page {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {} {}", self.status, self.text))
    }

    pub fn location(&self) -> &str {
        self.headers.get(header::LOCATION).map_or("", |l| l.to_str().unwrap())
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
        Page { status: answer.status, headers: answer.headers, text, bytes: answer.body }
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

    /// Asks for an image; gives its id.
    pub async fn ask(&mut self, prompt: &str, more: Value) -> String {
        let mut body = json!({ "prompt": prompt });
        body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        let taken = self.api(Method::POST, "/api/v1/generate", &body).await;
        assert_eq!(taken.status, StatusCode::ACCEPTED, "{}", taken.text);
        taken.json()["generation_id"].as_str().unwrap().to_owned()
    }

    pub async fn generation(&mut self, id: &str) -> Value {
        let page = self.get(&format!("/api/v1/generations/{id}")).await;
        assert_eq!(page.status, StatusCode::OK, "{}", page.text);
        page.json()
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
}
