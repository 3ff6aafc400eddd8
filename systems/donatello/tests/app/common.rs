//! Everything around the application, for real, and a browser without a screen.
#![allow(dead_code, reason = "each test file uses another part of this")]

#[path = "../../../../crates/sdk/tests/sdk/support/mod.rs"]
pub mod support;

use std::{sync::Arc, time::Duration};

use donatello::{
    app::App,
    migrations, progress, routes,
    standin::{self, Manner, StandIn},
    worker::{Points, Waits, Worker},
};
use http::{Method, StatusCode};
use sdk::{Secret, Settings};
use serde_json::{Value, json};
pub use support::browser::Browser;
use support::{issuer, issuer::Issuer, scratch::Scratch};
use tokio::net::TcpListener;

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
        postgres.migrate("app", &migrations::ALL).await;
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
        Browser::new(&self.url)
    }

    /// A browser in which this person has signed in.
    pub async fn signed_in(&self, person: &str) -> Browser {
        Browser::signed_in(&self.url, person).await
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

impl Browser {
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
}
