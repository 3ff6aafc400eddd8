//! A site of its own: its directory, its mail server, its integration engine, its business intelligence; each also broken.

use std::sync::Arc;

use http::{Method, StatusCode};
use meg_qms::{
    app::Part,
    formulary::{self, Feed},
    mail::{self, Post},
    stand_in::{directory, mail as letters, rhapsody},
};
use sdk::Settings;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::common::{Stamp, World, listener};

async fn site() -> (World, Stamp, JoinHandle<()>, std::net::SocketAddr) {
    let world = World::start().await;
    let directory_at = listener().await;
    let address = directory_at.local_addr().unwrap();
    let tree = Arc::new(directory::Tree::from_settings(None, &Settings::from_pairs::<&str, &str>([])).unwrap());
    let running = tokio::spawn(async move { directory::serve(directory_at, None, tree).await.unwrap() });
    let more =
        [("MEG_DIRECTORY", format!("ldap://{address}")), ("MEG_DIRECTORY_BASE", "dc=kfmmc,dc=example".to_owned())];
    let stamp = world.stamp("site", Part::Alone, listener().await, &more).await;
    (world, stamp, running, address)
}

#[tokio::test]
async fn people_sign_in_by_the_sites_directory_and_by_nothing_weaker() {
    let (world, site, running, _) = site().await;
    let mut browser = site.browser();
    let page = browser.go("/submissions", "").await;
    assert!(page.text.contains("hospital account"), "{}", page.text);
    let attempt = |name: &'static str, password: &'static str| {
        [("name", name), ("password", password), ("return", "/submissions")]
    };
    let done = browser.post("/sign-in", &attempt("auditor", "stand-in auditor")).await;
    assert_eq!((done.status, done.location()), (StatusCode::SEE_OTHER, "/submissions"), "{}", done.text);
    let me = browser.get("/api/v1/me").await.json();
    assert_eq!((&me["roles"], &me["email"]), (&json!(["staff", "auditor"]), &json!("auditor@kfmmc.example")));
    // A wrong password, none at all, a name that would change the question, somebody who is not there.
    for (name, password) in [
        ("auditor", "wrong"),
        ("auditor", ""),
        ("*", "stand-in auditor"),
        ("auditor,ou=people", "x"),
        ("auditor)(uid=*", "x"),
        ("nobody", "x"),
    ] {
        let refused = site.browser().post("/sign-in", &[("name", name), ("password", password)]).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{name}");
    }
    // Guessing is slow, even for who knows the password then.
    for _ in 0..4 {
        site.browser().post("/sign-in", &attempt("admin", "guess")).await;
    }
    assert_eq!(site.browser().post("/sign-in", &attempt("admin", "guess")).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(
        site.browser().post("/sign-in", &attempt("admin", "stand-in admin")).await.status,
        StatusCode::TOO_MANY_REQUESTS
    );
    // The directory is away: nobody new comes in and is told why; who is in goes on.
    running.abort();
    let _ = running.await;
    let away = site.browser().post("/sign-in", &attempt("staff", "stand-in staff")).await;
    assert_eq!(away.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(away.text.contains("directory does not answer"), "{}", away.text);
    assert_eq!(browser.get("/submissions").await.status, StatusCode::OK);
    assert_eq!(world.sql("site", r#"SELECT count(*) FROM "Users""#), "1");
}

#[tokio::test]
async fn letters_go_to_the_sites_server_and_one_that_bounces_is_told() {
    let (world, site, _running, _) = site().await;
    let folder = tempfile::tempdir().unwrap();
    let mail_at = listener().await;
    let address = mail_at.local_addr().unwrap();
    let kept = Settings::from_pairs([("STAND_IN_MAIL", folder.path().to_str().unwrap())]);
    let server = tokio::spawn(letters::serve(mail_at, None, Arc::new(letters::Box_::from_settings(&kept).unwrap())));
    let post = Post::from_settings(&Settings::from_pairs([
        ("MEG_MAIL", format!("smtp://{address}")),
        ("MEG_MAIL_FROM", "qms@kfmmc.example".into()),
    ]))
    .unwrap()
    .unwrap();
    let mut auditor = site.browser();
    auditor.post("/sign-in", &[("name", "auditor"), ("password", "stand-in auditor")]).await;
    auditor.know().await;
    world.sql("site", r#"INSERT INTO "Users" ("Email", "Name") VALUES ('bounce@kfmmc.example', 'Bo Unce'), ('later@kfmmc.example', 'La Ter')"#);
    let mut plans = Vec::new();
    for owner in ["auditor", "bounce", "later"] {
        let id: i64 =
            world.sql("site", &format!(r#"SELECT "Id" FROM "Users" WHERE "Email" LIKE '{owner}@%'"#)).parse().unwrap();
        let made = auditor
            .api(
                Method::POST,
                "/api/v1/qips",
                &json!({ "title": format!("For {owner}: ünï"), "ward": "ICU", "ownerId": id }),
            )
            .await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
        plans.push(made.json()["id"].as_i64().unwrap());
    }
    while mail::deliver(&site.app.database, &post).await.unwrap() {}
    let states = r#"SELECT string_agg("Status" || ' ' || "Attempts", ',' ORDER BY "Id") FROM "Mails""#;
    assert_eq!(world.sql("site", states), "sent 1,bounced 1,waiting 1");
    let letter = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap();
    let letter = std::fs::read_to_string(letter.path()).unwrap();
    assert!(
        letter.contains("X-Stand-In-To: auditor@kfmmc.example") && letter.contains("From: qms@kfmmc.example"),
        "{letter}"
    );
    let page = auditor.get(&format!("/qips/{}", plans[1])).await;
    assert!(page.text.contains("was not taken") && page.text.contains("no such mailbox"), "{}", page.text);
    // The server is away: the letter waits, and goes when it is back.
    server.abort();
    let _ = server.await;
    world.sql(
        "site",
        r#"UPDATE "Mails" SET "NextAt" = now(), "Recipient" = 'staff@kfmmc.example' WHERE "Status" = 'waiting'"#,
    );
    mail::deliver(&site.app.database, &post).await.unwrap();
    assert_eq!(world.sql("site", states), "sent 1,bounced 1,waiting 2");
    let again = tokio::net::TcpListener::bind(address).await.unwrap();
    let server = tokio::spawn(letters::serve(again, None, Arc::new(letters::Box_::from_settings(&kept).unwrap())));
    world.sql("site", r#"UPDATE "Mails" SET "NextAt" = now() WHERE "Status" = 'waiting'"#);
    mail::deliver(&site.app.database, &post).await.unwrap();
    assert_eq!(world.sql("site", states), "sent 1,bounced 1,sent 3");
    server.abort();
}

#[tokio::test]
async fn the_formulary_follows_the_integration_engine_and_bad_messages_are_answered_no() {
    let (world, site, _running, _) = site().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "A1|Aspirin|100 mg|tablet|active\nB2|Bisoprolol|5 mg|tablet|active\n").unwrap();
    let engine_at = listener().await;
    let address = engine_at.local_addr().unwrap();
    let engine = rhapsody::Engine::from_settings(
        None,
        &Settings::from_pairs([("STAND_IN_FORMULARY", file.path().to_str().unwrap())]),
    )
    .unwrap();
    let running = tokio::spawn(rhapsody::serve(engine_at, None, Arc::new(engine)));
    let feed =
        Feed::from_settings(&Settings::from_pairs([("MEG_FORMULARY", format!("mllp://{address}"))])).unwrap().unwrap();
    let database = site.app.database.clone();
    let listening = tokio::spawn(feed.run(database));
    let names = || async {
        world.sql(
            "site",
            r#"SELECT coalesce(string_agg("Code" || "IsActive"::text, ',' ORDER BY "Code"), '') FROM "Formulary""#,
        )
    };
    crate::common::until("the first message", || async { names().await == "A1true,B2true" }).await;
    std::fs::write(file.path(), "A1|Aspirin|75 mg|tablet|active\nB2|Bisoprolol|5 mg|tablet|withdrawn\n").unwrap();
    crate::common::until("the change", || async { names().await == "A1true,B2false" }).await;
    assert_eq!(world.sql("site", r#"SELECT "Strength" FROM "Formulary" WHERE "Code" = 'A1'"#), "75 mg");
    listening.abort();
    running.abort();
    // What is no message for us, and what is none that can be kept.
    for (bytes, code) in [
        (&b"nonsense"[..], "MSA|AR|"),
        (&b"MSH|^~\\&|R|S|M|M|1||ADT^A01|77|P|2.5.1\r"[..], "MSA|AR|77"),
        (&b"MSH|^~\\&|R|S|M|M|1||MFN^M13|78|P|2.5.1\rMFI|FRM\r"[..], "MSA|AE|78"),
    ] {
        let answer = formulary::take(&site.app.database, bytes).await.unwrap();
        assert!(answer.contains(code), "{answer}");
    }
    let mut staff = site.browser();
    staff.post("/sign-in", &[("name", "staff"), ("password", "stand-in staff")]).await;
    let page = staff.get("/formulary").await;
    assert!(page.text.contains("Aspirin") && page.text.contains("withdrawn"), "{}", page.text);
}

#[tokio::test]
async fn business_intelligence_reads_sums_with_its_token_and_nothing_else() {
    let (_world, site, _running, _) = site().await;
    let mut admin = site.browser();
    admin.post("/sign-in", &[("name", "admin"), ("password", "stand-in admin")]).await;
    admin.know().await;
    let made =
        admin.api(Method::POST, "/api/v1/tokens", &json!({ "name": "the BI system", "scope": "bi" })).await.json();
    let token = format!("Bearer {}", made["token"].as_str().unwrap());
    let mut bi = site.browser();
    assert_eq!(bi.get("/api/v1/bi/compliance").await.status, StatusCode::UNAUTHORIZED);
    let bearer = [("authorization", token.as_str())];
    for path in ["/api/v1/bi/compliance", "/api/v1/bi/qips"] {
        assert_eq!(bi.send(Method::GET, path, &bearer, "").await.status, StatusCode::OK, "{path}");
    }
    for (method, path) in [
        (Method::GET, "/api/v1/users"),
        (Method::GET, "/api/v1/feed"),
        (Method::POST, "/api/v1/submissions"),
        (Method::POST, "/api/v1/tokens"),
    ] {
        assert_eq!(bi.send(method, path, &bearer, "{}").await.status, StatusCode::FORBIDDEN, "{path}");
    }
    assert_eq!(
        bi.send(Method::POST, "/api/v1/bi/compliance", &bearer, "").await.status,
        StatusCode::METHOD_NOT_ALLOWED,
        "it only reads"
    );
}
