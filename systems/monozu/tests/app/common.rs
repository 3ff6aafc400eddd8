//! Cloud, Management and the Ingestor on a real PostgreSQL, with a real sign-in and a folder of snaps.
#![allow(dead_code, reason = "each test file uses another part of this")]

#[path = "../../../../crates/sdk/tests/sdk/support/mod.rs"]
pub mod support;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::StatusCode;
use monozu::{cloud, ingest, manage, migrations};
use sdk::{Settings, https::Client};
use serde_json::{Value, json};
pub use support::browser::Page as Answer;
use support::{browser, issuer, issuer::Issuer, scratch::Scratch};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};

pub const PASSWORD: &str = "violet tractor seven";
pub const INTERNAL: &str = "the internal token of the tests";
pub const HMAC: &str = "the webhook secret of the tests";
pub const PUBLISH: &str = "the publish token of the tests";

/// Operators and others: name and groups.
pub const PEOPLE: [(&str, &[&str]); 2] = [("Olga Operator", &["operator"]), ("Nobody Nowhere", &[])];

pub struct Yard {
    pub postgres: Scratch,
    pub issuer: Issuer,
    pub cloud: String,
    pub manage: String,
    pub ingest: String,
    pub snaps: TempDir,
    pub client: Client,
    beside: Vec<JoinHandle<()>>,
}

/// A tenant that was let in, with somebody signed in.
pub struct Tenant {
    pub id: String,
    pub account: String,
    pub token: String,
    pub refresh: String,
}

async fn bind() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

impl Yard {
    /// Starts everything; the schemas are applied by their owner, the programs run as the other role.
    pub async fn start() -> Yard {
        Yard::start_with(&[]).await
    }

    pub async fn start_with(more: &[(&str, &str)]) -> Yard {
        let postgres = Scratch::start().with_app_roles();
        postgres.sql("postgres", "postgres", "CREATE DATABASE manage OWNER app_owner");
        postgres.sql(
            "postgres",
            "manage",
            "REVOKE ALL ON SCHEMA public FROM PUBLIC; ALTER SCHEMA public OWNER TO app_owner; GRANT USAGE ON SCHEMA public TO app_rw;
             ALTER DEFAULT PRIVILEGES FOR ROLE app_owner GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO app_rw",
        );
        // As the platform has it: what an owner makes is readable and writable, schemas too.
        postgres.sql("postgres", "app", "ALTER DEFAULT PRIVILEGES FOR ROLE app_owner GRANT USAGE ON SCHEMAS TO app_rw");
        for (database, files) in [("app", &migrations::CLOUD[..]), ("manage", &migrations::MANAGE[..])] {
            let owner = Settings::from_pairs([("DATABASE_URL", postgres.connection("app_owner", database))]);
            let mut client = sdk::database::connect_alone(&owner, "DATABASE_URL").await.unwrap();
            sdk::migrations::apply(&mut client, files).await.unwrap();
            assert_eq!(sdk::migrations::apply(&mut client, files).await.unwrap().already, files.len());
        }
        let issuer = Issuer::start(&PEOPLE).await;
        issuer.twist(json!({ "tid": "our-directory" }));
        let snaps = tempfile::tempdir().unwrap();
        let (cloud_listener, cloud) = bind().await;
        let (manage_listener, manage) = bind().await;
        let (ingest_listener, ingest) = bind().await;
        let settings = |own: &[(&str, &str)]| {
            let common = [
                ("MZ_LOGIN", "sql"),
                ("SECRET_KEY", "thirty-two characters for the tests of Monozu"),
                ("CLOUD_INTERNAL_API_TOKEN", INTERNAL),
                ("CLOUD_WEBHOOK_HMAC_SECRET", HMAC),
                ("SNAP_PUBLISH_TOKEN", PUBLISH),
                ("MANAGEMENT_API_URL", manage.as_str()),
                ("CLOUD_API_URL", cloud.as_str()),
                ("MS_AUTHORITY", issuer.url.as_str()),
                ("MS_CLIENT_ID", issuer::CLIENT),
                ("MS_CLIENT_SECRET", issuer::SECRET),
                ("SNAP_STORE", snaps.path().to_str().unwrap()),
            ];
            Settings::from_pairs(common.iter().chain(own).chain(more).map(|(k, v)| (*k, *v)))
        };
        let (rw, rw_manage) = (postgres.connection("app_rw", "app"), postgres.connection("app_rw", "manage"));
        let cloud_app =
            cloud::App::from_settings(&settings(&[("DATABASE_URL", rw.as_str()), ("PUBLIC_URL", cloud.as_str())]))
                .unwrap();
        let own =
            [("DATABASE_URL", rw_manage.as_str()), ("PUBLIC_URL", manage.as_str()), ("MS_TENANT_ID", "our-directory")];
        let manage_app = manage::App::from_settings(&settings(&own)).unwrap();
        let ingest_app = ingest::App::from_settings(&settings(&[("DATABASE_URL", rw.as_str())])).unwrap();
        let beside =
            vec![tokio::spawn(cloud::beside(cloud_app.clone())), tokio::spawn(manage::beside(manage_app.clone()))];
        for (listener, router) in [
            (cloud_listener, cloud::router(cloud_app)),
            (manage_listener, manage::router(manage_app)),
            (ingest_listener, ingest::router(ingest_app)),
        ] {
            tokio::spawn(async move { axum::serve(listener, router).await });
        }
        Yard { postgres, issuer, cloud, manage, ingest, snaps, client: browser::client(), beside }
    }

    pub async fn send(&self, method: &str, url: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        browser::send(&self.client, method.parse().unwrap(), url, headers, body).await
    }

    /// Calls Cloud as a person; an empty token is none.
    pub async fn call(&self, token: &str, method: &str, path: &str, body: &Value) -> Answer {
        let bearer = format!("Bearer {token}");
        let mut headers = vec![("content-type", "application/json")];
        if !token.is_empty() {
            headers.push(("authorization", bearer.as_str()));
        }
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, &format!("{}{path}", self.cloud), &headers, body).await
    }

    pub async fn register(&self, account: &str) -> Answer {
        let body = json!({ "account": account, "company": format!("{account} Ltd"), "email": format!("ann@{account}.example"), "name": "Ann", "password": PASSWORD });
        self.call("", "POST", "/api/v1/auth/register", &body).await
    }

    pub async fn login(&self, account: &str) -> Answer {
        self.login_as(account, &format!("ann@{account}.example"), PASSWORD).await
    }

    pub async fn login_as(&self, account: &str, email: &str, password: &str) -> Answer {
        let body = json!({ "account": account, "email": email, "password": password });
        self.call("", "POST", "/api/v1/auth/login", &body).await
    }

    /// An operator lets a tenant in, once Management was told of it.
    pub async fn decide(&self, tenant: &str, decision: &Value) -> Answer {
        let bearer = format!("Bearer {}", self.issuer.id_token("olga", "n"));
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let url = format!("{}/manage/api/v1/tenants/{tenant}/licence", self.manage);
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = self.send("POST", &url, &headers, decision.to_string()).await;
            if answer.status != StatusCode::NOT_FOUND {
                return answer;
            }
            assert!(Instant::now() < deadline, "Management was not told of {tenant}");
        }
    }

    pub async fn tenant(&self, account: &str) -> Tenant {
        let id = self.register(account).await.said("tenant_id");
        let decision = json!({ "status": "active", "plan": "standard", "days": 30, "features": ["edge"] });
        let decided = self.decide(&id, &decision).await;
        assert_eq!(decided.status, StatusCode::OK, "{}", decided.text);
        assert_eq!(decided.json()["told_cloud"], true);
        let answer = self.login(account).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        let cookie = answer.headers["set-cookie"].to_str().unwrap();
        let refresh = cookie.split(';').next().unwrap().to_owned();
        Tenant { id, account: account.to_owned(), token: answer.said("access_token"), refresh }
    }

    /// A device of a tenant: its id and its key.
    pub async fn device(&self, tenant: &Tenant) -> (String, String) {
        let made =
            self.call(&tenant.token, "POST", "/api/v1/registration-keys", &json!({ "name": "gate", "uses": 5 })).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
        let body = json!({ "account_name": tenant.account, "registration_key": made.said("registration_key"), "name": "gate 1" });
        let device = self.call("", "POST", "/api/v1/devices/register", &body).await;
        assert_eq!(device.status, StatusCode::CREATED, "{}", device.text);
        (device.said("device_id"), device.said("device_key"))
    }

    pub async fn ingest(&self, key: &str, batch: &Value) -> Answer {
        let headers = [("x-device-key", key), ("content-type", "application/json")];
        self.send("POST", &format!("{}/v1/ingest", self.ingest), &headers, batch.to_string()).await
    }

    /// Reads a database past the programs.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        self.postgres.sql("postgres", database, sql)
    }

    pub fn snap_file(&self, name: &str, version: &str) -> PathBuf {
        self.snaps.path().join(cloud::object(name, version))
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        for task in &self.beside {
            task.abort();
        }
    }
}
