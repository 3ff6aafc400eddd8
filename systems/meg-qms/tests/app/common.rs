//! Stamps of MEG QMS on a real PostgreSQL and with a real sign-in, and a browser without a screen.

#[path = "../../../../crates/sdk/tests/sdk/support/mod.rs"]
pub mod support;

use std::{future::Future, path::PathBuf, time::Duration};

use http::StatusCode;
use meg_qms::{
    app::{App, Part},
    media::Shelf,
    media_server, migrations, routes,
};
use sdk::Settings;
pub use support::browser::{Browser, Page};
use support::{issuer, issuer::Issuer, scratch::Scratch};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tower::ServiceExt;
use url::Url;

pub const PEOPLE: [(&str, &[&str]); 5] = [
    ("Ann Archer", &["staff"]),
    ("Mia Mason", &["staff", "auditor"]),
    ("Ada Admin", &["staff", "admin"]),
    ("Zed Zayed", &["staff"]),
    ("Nobody Nowhere", &[]),
];

/// A cluster with a database a stamp, and the sign-in of all.
pub struct World {
    pub postgres: Scratch,
    pub issuer: Issuer,
}

pub struct Stamp {
    pub name: &'static str,
    pub url: String,
    pub app: App,
    pub share: TempDir,
    serving: JoinHandle<()>,
}

impl Drop for Stamp {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl World {
    pub async fn start() -> World {
        World { postgres: Scratch::start().with_app_roles(), issuer: Issuer::start(&PEOPLE).await }
    }

    /// The connection string of the role that reads and writes, or of the owner.
    pub fn connection(&self, user: &str, stamp: &str) -> String {
        self.postgres.connection(user, stamp)
    }

    /// Reads a stamp's database past the application.
    pub fn sql(&self, stamp: &str, sql: &str) -> String {
        self.postgres.sql("postgres", stamp, sql)
    }

    /// An empty database with a stamp's schema.
    pub async fn database(&self, name: &str, part: Part) {
        self.sql("postgres", &format!("CREATE DATABASE {name} OWNER app_owner"));
        self.sql(
            name,
            "ALTER SCHEMA public OWNER TO app_owner; GRANT USAGE ON SCHEMA public TO app_rw;
            ALTER DEFAULT PRIVILEGES FOR ROLE app_owner GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO app_rw",
        );
        self.postgres.migrate(name, migrations::of(part)).await;
    }

    /// A stamp that answers at `listener`, with further settings.
    pub async fn stamp(&self, name: &'static str, part: Part, listener: TcpListener, more: &[(&str, String)]) -> Stamp {
        self.database(name, part).await;
        let url = format!("http://{}", listener.local_addr().unwrap());
        let share = tempfile::tempdir().unwrap();
        let role = match part {
            Part::Centre => "centre",
            Part::Region => "region",
            Part::Alone => "alone",
        };
        let mut pairs: Vec<(String, String)> = [
            ("MEG_ROLE", role),
            ("MEG_REGION", name),
            ("OIDC_ISSUER", &self.issuer.url),
            ("OIDC_CLIENT_ID", issuer::CLIENT),
            ("OIDC_CLIENT_SECRET", issuer::SECRET),
            ("PUBLIC_URL", &url),
            ("MOUNT_MEDIA", share.path().to_str().unwrap()),
            ("MEDIA_KEY", "thirty-two characters for the media key"),
            ("ConnectionStrings__DefaultConnection", &self.connection("app_rw", name)),
        ]
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
        pairs.push(("SESSION_KEY".into(), format!("the session key of {name}, long enough for a key")));
        pairs.push(("LINK_KEY".into(), format!("the link key of {name}, which is long enough as well")));
        pairs.extend(more.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
        let settings = Settings::from_pairs(pairs);
        let app = App::from_settings(&settings).unwrap();
        let shelf = std::sync::Arc::new(Shelf::required(&settings).unwrap());
        let router = routes::router(app.clone());
        // What the edge does: /media goes to the media server.
        let media = media_server::router(shelf);
        let whole = axum::Router::new().fallback_service(tower::service_fn(move |request: axum::extract::Request| {
            let to = if request.uri().path().starts_with("/media/") { media.clone() } else { router.clone() };
            to.oneshot(request)
        }));
        let serving = tokio::spawn(async move { axum::serve(listener, whole).await.unwrap() });
        Stamp { name, url, app, share, serving }
    }
}

impl Stamp {
    /// A browser that nobody is signed in with.
    pub fn browser(&self) -> Browser {
        Browser::new(&self.url)
    }

    /// A browser in which this person has signed in by the stamp's own sign-in.
    pub async fn signed_in(&self, person: &str) -> Browser {
        let mut browser = self.browser();
        let done = browser.go(&format!("{}/sign-in/here?return=%2Fsigned-out", self.url), person).await;
        assert_eq!(done.status, StatusCode::OK, "{}", done.text);
        browser.know().await;
        browser
    }

    pub fn file(&self, address: &str) -> PathBuf {
        self.share.path().join(address)
    }
}

impl Browser {
    /// Goes where redirects lead; at the issuer, as `person`.
    pub async fn go(&mut self, path: &str, person: &str) -> Page {
        let mut at = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.base) };
        for _ in 0..12 {
            if at.contains("code_challenge=") {
                at = format!("{at}&person={person}");
            }
            let page = self.get(&at).await;
            if page.location().is_empty() {
                return page;
            }
            at = Url::parse(&at).unwrap().join(page.location()).unwrap().to_string();
        }
        panic!("twelve redirects from {path}");
    }

    /// Learns the anti-forgery token of the session.
    pub async fn know(&mut self) {
        let me = self.get("/api/v1/me").await;
        assert_eq!(me.status, StatusCode::OK, "{}", me.text);
        self.csrf = me.json()["csrfToken"].as_str().unwrap().to_owned();
    }
}

/// Looks again until it holds; half a minute at most.
pub async fn until<F: Future<Output = bool>>(what: &str, mut look: impl FnMut() -> F) {
    let begun = std::time::Instant::now();
    while !look().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "waited half a minute for {what}");
        tokio::task::yield_now().await;
    }
}

/// A listener at a free port.
pub async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// A whole PNG of one pixel, of which `mark` makes another file.
pub fn photo(mark: &str) -> Vec<u8> {
    [b"\x89PNG\r\n\x1a\n", mark.as_bytes()].concat()
}
