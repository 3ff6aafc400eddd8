//! The pool without a password: tokens of an identity endpoint, against a real PostgreSQL that asks for them.

use std::{
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    extract::{Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use sdk::{
    Settings,
    database::{Database, Queries, connect_alone_from_libpq},
};

use crate::{database::certificates, support::scratch::Scratch};

/// What the endpoint gives, and how often it was asked.
#[derive(Default)]
struct Gives {
    /// None: it has nothing to give.
    token: Option<String>,
    life: u64,
    asked: usize,
}

type Shared = Arc<Mutex<Gives>>;

async fn token(
    State(gives): State<Shared>,
    headers: HeaderMap,
    Query(query): Query<Vec<(String, String)>>,
) -> Response {
    let mut gives = gives.lock().unwrap();
    gives.asked += 1;
    assert_eq!(headers["x-identity-header"], "the header");
    assert!(query.contains(&("resource".into(), "https://ossrdbms-aad.database.windows.net".into())), "{query:?}");
    let until = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + gives.life;
    match &gives.token {
        Some(token) => {
            serde_json::json!({ "access_token": token, "expires_on": until.to_string() }).to_string().into_response()
        }
        None => (StatusCode::INTERNAL_SERVER_ERROR, "The identity role does not answer").into_response(),
    }
}

struct Stage {
    postgres: Scratch,
    gives: Shared,
    settings: Settings,
}

async fn stage() -> Stage {
    let mut postgres = Scratch::start();
    postgres.sql("postgres", "postgres", "CREATE ROLE web LOGIN PASSWORD 'first'");
    postgres.stop();
    let folder = postgres.folder().to_owned();
    let (ca, certificate, key) = certificates("127.0.0.1");
    let access = "local all all trust\nhostssl all all all password\n".to_owned();
    let owner = std::fs::metadata(&folder).unwrap().uid();
    for (file, text) in [("ca.pem", ca), ("server.crt", certificate), ("server.key", key), ("access.conf", access)] {
        let path = folder.join(file);
        std::fs::write(&path, text).unwrap();
        std::os::unix::fs::chown(&path, Some(owner), None).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for option in [
        "listen_addresses=127.0.0.1".into(),
        format!("port={port}"),
        "ssl=on".into(),
        format!("ssl_cert_file={}/server.crt", folder.display()),
        format!("ssl_key_file={}/server.key", folder.display()),
        format!("hba_file={}/access.conf", folder.display()),
    ] {
        postgres.set(option);
    }
    postgres.run_at(port);
    let gives: Shared = Arc::new(Mutex::new(Gives { token: Some("first".into()), life: 3600, asked: 0 }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/msi/token", listener.local_addr().unwrap());
    let app = Router::new().route("/msi/token", get(token)).with_state(gives.clone());
    tokio::spawn(async move { axum::serve(listener, app).await });
    let settings = Settings::from_pairs([
        ("PGHOST", "127.0.0.1".to_owned()),
        ("PGPORT", port.to_string()),
        ("PGDATABASE", "postgres".into()),
        ("PGUSER", "web".into()),
        ("PGSSLMODE", "verify-full".into()),
        ("PGSSLROOTCERT", folder.join("ca.pem").display().to_string()),
        ("IDENTITY_ENDPOINT", endpoint),
        ("IDENTITY_HEADER", "the header".into()),
    ]);
    Stage { postgres, gives, settings }
}

async fn who(database: &Database) -> Result<String, String> {
    let chain = |error: sdk::database::Error| {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        text
    };
    let connection = database.get().await.map_err(chain)?;
    let row = connection.first("SELECT session_user::text", &[]).await.map_err(chain)?;
    Ok(row.unwrap().get(0))
}

#[tokio::test]
async fn a_pool_opens_by_tokens_and_asks_for_another_before_one_runs_out() {
    let Stage { postgres, gives, settings } = stage().await;
    let database = Database::from_libpq(&settings).unwrap();
    assert_eq!(who(&database).await.unwrap(), "web");
    let (_one, _two) = (database.get().await.unwrap(), database.get().await.unwrap());
    assert_eq!(gives.lock().unwrap().asked, 1, "one token serves many connections");

    // As good as run out: each connection is made with another.
    *gives.lock().unwrap() = Gives { token: Some("first".into()), life: 30, asked: 0 };
    let other = Database::from_libpq(&settings).unwrap();
    assert_eq!(who(&other).await.unwrap(), "web");
    postgres.sql("postgres", "postgres", "ALTER ROLE web PASSWORD 'second'");
    gives.lock().unwrap().token = Some("second".into());
    let (_one, _two) = (other.get().await.unwrap(), other.get().await.unwrap());
    assert_eq!(gives.lock().unwrap().asked, 2);

    // A token that the database refuses is not kept.
    let third = Database::from_libpq(&settings).unwrap();
    *gives.lock().unwrap() = Gives { token: Some("stale".into()), life: 3600, asked: 0 };
    assert!(who(&third).await.is_err());
    gives.lock().unwrap().token = Some("second".into());
    assert_eq!(who(&third).await.unwrap(), "web");
    assert_eq!(gives.lock().unwrap().asked, 2);

    let alone = connect_alone_from_libpq(&settings).await.unwrap();
    assert_eq!(alone.query_one("SELECT session_user::text", &[]).await.unwrap().get::<_, String>(0), "web");
}

#[tokio::test]
async fn without_a_token_the_error_says_that_it_is_the_identity_that_is_missing() {
    let Stage { postgres: _postgres, gives, settings } = stage().await;
    let begun = std::time::Instant::now();
    gives.lock().unwrap().token = None;
    let database = Database::from_libpq(&settings).unwrap();
    let said = who(&database).await.unwrap_err();
    assert!(said.contains("the identity endpoint gave no token") && said.contains("500"), "{said}");
    for _ in 0..20 {
        assert!(who(&database).await.unwrap_err().contains("identity endpoint"));
    }
    let asked = gives.lock().unwrap().asked;
    assert!(asked as u64 <= 1 + begun.elapsed().as_secs(), "a flood of requests is none of the endpoint: {asked}");
    assert!(!database.answers_within(Duration::from_secs(1)).await);

    // Where the platform gives no identity, nothing is asked for, and the server says what it thinks of that.
    let bare = ["PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGSSLMODE", "PGSSLROOTCERT"]
        .map(|name| (name, settings.required(name, "").unwrap().to_owned()));
    let bare = Database::from_libpq(&Settings::from_pairs(bare)).unwrap();
    assert!(who(&bare).await.is_err());
}
