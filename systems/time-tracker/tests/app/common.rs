//! The whole application on a real PostgreSQL and with a real sign-in, and a browser without a screen.
#![allow(dead_code, unused_imports, reason = "each test file uses another part of this")]

#[path = "../../../../crates/sdk/tests/sdk/support/mod.rs"]
pub mod support;

use sdk::Settings;
pub use support::browser::{Browser, Page};
use support::{issuer, issuer::Issuer, scratch::Scratch};
use time_tracker::{app::App, migrations, routes};
use tokio::net::TcpListener;

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
        ]);
        let app = App::from_settings(&settings).unwrap();
        let router = routes::router(app.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Office { postgres, issuer, url, app }
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
}

impl Browser {
    /// The id of the person's sheet for a day.
    pub async fn sheet(&mut self, date: &str) -> String {
        let page = self.get(&format!("/?date={date}")).await;
        page.location().trim_start_matches("/sheets/").to_owned()
    }
}
