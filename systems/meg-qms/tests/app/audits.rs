//! Audits in one region: what an app sends, what becomes of it, who sees it.

use http::{Method, StatusCode};
use meg_qms::{access::Right, app::Part, maintain, queue, redis::Redis, routes, scheduler, worker::Worker};
use sdk::Settings;
use serde_json::{Value, json};

use crate::common::{Browser, Stamp, World, listener, photo};

const ID: &str = "0198f3a0-0000-7000-8000-000000000001";

async fn site(more: &[(&str, String)]) -> (World, Stamp) {
    let world = World::start().await;
    let stamp = world.stamp("site", Part::Alone, listener().await, more).await;
    (world, stamp)
}

async fn upload(
    browser: &mut Browser,
    headers: &[(&str, &str)],
    kind: &str,
    said: &str,
    bytes: Vec<u8>,
) -> (StatusCode, Value) {
    let csrf = browser.csrf.clone();
    let mut all = vec![("content-type", said), ("x-csrf-token", csrf.as_str())];
    all.extend_from_slice(headers);
    let page = browser.send(Method::POST, &format!("/api/v1/media?kind={kind}"), &all, bytes).await;
    (page.status, page.json())
}

/// A submission of the hand hygiene form, all right but the first question where `good` is false.
fn submission(feed: &Value, id: &str, good: bool) -> Value {
    let form = feed["forms"].as_array().unwrap().iter().find(|f| f["title"] == "Hand hygiene").unwrap();
    let answers: Vec<Value> = form["questions"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
        .map(|(n, q)| {
            let value = match q["kind"].as_str().unwrap() {
                "yes-no" if n == 0 && !good => "no",
                "yes-no" => "yes",
                "choice" => q["choices"][0].as_str().unwrap(),
                _ => "",
            };
            json!({ "questionId": q["id"], "value": value })
        })
        .collect();
    json!({ "id": id, "formId": form["id"], "formVersion": form["version"], "ward": "ICU", "auditedOn": today(), "answers": answers })
}

fn today() -> String {
    jiff::Zoned::now().with_time_zone(jiff::tz::TimeZone::UTC).date().to_string()
}

#[tokio::test]
async fn an_app_audits_with_photos_and_a_recording_and_the_dashboard_follows() {
    let (world, site) = site(&[]).await;
    let mut ann = site.signed_in("ann").await;
    let made = ann.api(Method::POST, "/api/v1/tokens", &json!({ "name": "telephone", "scope": "app" })).await;
    let token = format!("Bearer {}", made.json()["token"].as_str().unwrap());
    let mut app = site.browser();
    assert_eq!(app.get("/api/v1/feed").await.status, StatusCode::UNAUTHORIZED);
    let bearer = [("authorization", token.as_str())];
    let feed = app.send(Method::GET, "/api/v1/feed", &bearer, "").await.json();
    assert_eq!(feed["forms"].as_array().unwrap().len(), 2, "{feed}");
    let (status, kept) = upload(&mut app, &bearer, "audit-photos", "image/png", photo("one")).await;
    assert_eq!(status, StatusCode::CREATED, "{kept}");
    let (_, sound) = upload(&mut app, &bearer, "audit-audio", "audio/ogg", b"OggS and the rest".to_vec()).await;
    for (kind, said, bytes) in [
        ("audit-photos", "image/png", b"<html>".to_vec()),
        ("audit-photos", "image/jpeg", photo("x")),
        ("elsewhere", "image/png", photo("x")),
    ] {
        assert_eq!(upload(&mut app, &bearer, kind, said, bytes).await.0, StatusCode::BAD_REQUEST, "{kind} {said}");
    }
    let address = kept["address"].as_str().unwrap();
    assert_eq!(std::fs::read(site.file(address)).unwrap(), photo("one"));
    let mut sent = submission(&feed, ID, true);
    sent["answers"][0]["media"] = json!([address]);
    sent["media"] = json!([sound["address"]]);
    let json_bearer = [("authorization", token.as_str()), ("content-type", "application/json")];
    let taken = app.send(Method::POST, "/api/v1/submissions", &json_bearer, sent.to_string()).await;
    assert_eq!((taken.status, &taken.json()["score"]), (StatusCode::CREATED, &json!(100)), "{}", taken.text);
    // The same again is the same; another with its id is not.
    let again = app.send(Method::POST, "/api/v1/submissions", &json_bearer, sent.to_string()).await;
    assert_eq!((again.status, &again.json()["again"]), (StatusCode::OK, &json!(true)));
    sent["notes"] = json!("another");
    assert_eq!(
        app.send(Method::POST, "/api/v1/submissions", &json_bearer, sent.to_string()).await.status,
        StatusCode::CONFLICT
    );
    assert_eq!(world.sql("site", r#"SELECT count(*) FROM "Submissions""#), "1");
    // The server itself judges: an answer that is none, a question of nowhere, a field too many.
    for spoil in [json!({ "value": "maybe" }), json!({ "questionId": 99_999 })] {
        let mut bad = submission(&feed, "0198f3a0-0000-7000-8000-000000000002", true);
        for (key, value) in spoil.as_object().unwrap() {
            bad["answers"][0][key] = value.clone();
        }
        assert_eq!(
            app.send(Method::POST, "/api/v1/submissions", &json_bearer, bad.to_string()).await.status,
            StatusCode::BAD_REQUEST,
            "{spoil}"
        );
    }
    assert_eq!(
        world.sql("site", r#"SELECT string_agg("Outcome", ' ' ORDER BY "Id") FROM "SubmissionLogs""#),
        "taken again refused refused refused"
    );
    // Pages: her submission with its player, and the dashboard.
    let page = ann.get(&format!("/submissions/{ID}")).await;
    assert!(page.text.contains("<audio controls") && page.text.contains("class=\"photo\""), "{}", page.text);
    let url = page
        .text
        .split("src=\"/media/")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap()
        .replace("&#38;", "&")
        .replace("&amp;", "&");
    let file = site.browser().get(&format!("/media/{url}")).await;
    assert_eq!(
        (file.status, file.headers["content-security-policy"].to_str().unwrap()),
        (StatusCode::OK, "default-src 'none'; sandbox")
    );
    let bare = url.split('?').next().unwrap();
    assert_eq!(
        site.browser().get(&format!("/media/{bare}")).await.status,
        StatusCode::FORBIDDEN,
        "without its signature"
    );
    assert_eq!(
        site.browser().send(Method::PUT, &format!("/media/{url}"), &[], "x").await.status,
        StatusCode::METHOD_NOT_ALLOWED
    );
    let board = ann.get("/").await;
    assert!(board.text.contains("100<small> %</small>") && board.text.contains("<polyline"), "{}", board.text);
    assert!(!board.text.contains("style=") && !board.text.contains("<script>"), "the policy would block inline code");
    // A token of an app opens the feed and nothing else; an ended one nothing.
    assert_eq!(app.send(Method::GET, "/api/v1/users", &bearer, "").await.status, StatusCode::FORBIDDEN);
    world.sql("site", r#"UPDATE "Tokens" SET "RevokedAt" = now()"#);
    assert_eq!(app.send(Method::GET, "/api/v1/feed", &bearer, "").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn every_route_refuses_whoever_lacks_its_right() {
    let (_world, site) = site(&[]).await;
    let mut nobody = site.browser();
    let mut roleless = site.signed_in("nobody").await;
    let mut staff = site.signed_in("ann").await;
    let mut auditor = site.signed_in("mia").await;
    let made = staff.api(Method::POST, "/api/v1/tokens", &json!({ "name": "x", "scope": "app" })).await.json();
    let token = format!("Bearer {}", made["token"].as_str().unwrap());
    let mut seen = 0;
    for route in routes::all(Part::Alone) {
        if route.right == Right::Public {
            continue;
        }
        seen += 1;
        let path = route.path.replace("{id}", "1").replace("{question}", "1").replace("{slug}", "x");
        let method: Method = route.method.parse().unwrap();
        let answer = nobody.send(method.clone(), &path, &[], "").await;
        let expected = if path.starts_with("/api/") { StatusCode::UNAUTHORIZED } else { StatusCode::SEE_OTHER };
        assert_eq!(answer.status, expected, "{method} {path}");
        if route.right != Right::Feed {
            let by_token = nobody.send(method.clone(), &path, &[("authorization", &token)], "").await;
            assert_eq!(by_token.status, StatusCode::FORBIDDEN, "a token of an app at {method} {path}");
        }
        let mut refused: Vec<&mut Browser> = Vec::new();
        if route.right != Right::SignedIn {
            refused.push(&mut roleless);
        }
        if matches!(route.right, Right::Auditor | Right::Admin | Right::Bi) {
            refused.push(&mut staff);
        }
        if matches!(route.right, Right::Admin | Right::Bi) {
            refused.push(&mut auditor);
        }
        for browser in refused {
            let answer = browser.api(method.clone(), &path, &json!({})).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {path}: {}", answer.text);
        }
    }
    assert!(seen > 45, "the sweep met {seen} routes only");
}

#[tokio::test]
async fn administrators_edit_forms_and_publish_reports_that_everybody_reads() {
    let (world, site) = site(&[]).await;
    let mut ada = site.signed_in("ada").await;
    let made = ada.post("/forms", &[("title", "Falls"), ("description", "Prevention of falls")]).await;
    assert_eq!(made.status, StatusCode::SEE_OTHER, "{}", made.text);
    let path = made.location().to_owned();
    let question =
        [("version", "1"), ("text", "Are rails up?"), ("kind", "yes-no"), ("weight", "5"), ("critical", "1")];
    assert_eq!(ada.post(&format!("{path}/questions"), &question).await.status, StatusCode::SEE_OTHER);
    assert_eq!(ada.post(&format!("{path}/questions"), &question).await.status, StatusCode::CONFLICT, "an old version");
    let publish = [("version", "2"), ("title", "Falls"), ("published", "1")];
    assert_eq!(ada.post(&path, &publish).await.status, StatusCode::SEE_OTHER);
    let id = path.rsplit('/').next().unwrap();
    assert_eq!(
        world.sql(
            "site",
            &format!(r#"SELECT string_agg("Number"::text, ',' ORDER BY "Number") FROM "Revisions" WHERE "Key" = {id}"#)
        ),
        "1,2,3"
    );
    // An audit in the browser.
    let q = world.sql("site", &format!(r#"SELECT "Id" FROM "Questions" WHERE "FormId" = {id}"#));
    let (answer, today) = (format!("q{q}"), today());
    let mut ann = site.signed_in("ann").await;
    let audit = [("id", ID), ("version", "3"), ("ward", "ED"), ("audited_on", today.as_str()), (answer.as_str(), "no")];
    let done = ann.post(&format!("/audit/{id}"), &audit).await;
    assert_eq!(done.location(), format!("/submissions/{ID}"), "{}", done.text);
    // The report: nobody reads it before it is published, everybody after.
    let report =
        [("slug", "falls"), ("title", "Falls this year"), ("form", id), ("from", "2026-01-01"), ("to", "2099-12-31")];
    assert_eq!(ada.post("/admin/reports", &report).await.status, StatusCode::SEE_OTHER);
    let mut public = site.browser();
    assert_eq!(public.get("/reports/falls").await.status, StatusCode::NOT_FOUND);
    assert_eq!(ada.post("/admin/reports/1", &[("published", "1")]).await.status, StatusCode::SEE_OTHER);
    let page = public.get("/reports/falls").await;
    assert!(
        page.status == StatusCode::OK && page.text.contains("Falls this year") && page.text.contains("Emergency"),
        "{}",
        page.text
    );
    assert!(!page.text.contains("Ann Archer"), "a public report holds no person");
    // Others' submissions do not exist for staff.
    let mut zed = site.signed_in("zed").await;
    assert_eq!(zed.get(&format!("/submissions/{ID}")).await.status, StatusCode::NOT_FOUND);
    assert_eq!(site.signed_in("mia").await.get(&format!("/submissions/{ID}")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn maintenance_deletes_old_logs_and_makes_each_first_revision_once() {
    let (world, site) = site(&[]).await;
    world.sql("site", r#"INSERT INTO "SubmissionLogs" ("At", "Outcome") VALUES (now() - interval '31 days', 'taken'), (now() - interval '29 days', 'taken')"#);
    let done = maintain::maintain(&site.app.database, 30).await.unwrap();
    assert_eq!(done, maintain::Done { deleted: 1, revised: 2 });
    assert_eq!(maintain::maintain(&site.app.database, 30).await.unwrap(), maintain::Done { deleted: 0, revised: 0 });
    assert_eq!(world.sql("site", r#"SELECT count(*) FROM "SubmissionLogs""#), "1");
    assert_eq!(world.sql("site", r#"SELECT "Deleted", "Revised" FROM "MaintenanceRuns" ORDER BY "Id""#), "1|2\n0|0");
}

/// A redis of its own, or None where the machine has none.
struct Server(std::process::Child, String, #[allow(dead_code, reason = "kept while it runs")] tempfile::TempDir);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn redis() -> Option<Server> {
    let engines = std::env::var_os("STAMP_ENGINES").map(std::path::PathBuf::from);
    let found = engines.iter().flat_map(|e| std::fs::read_dir(e).into_iter().flatten().flatten().map(|e| e.path()));
    let engine = found.filter(|p| p.join("bin/redis-server").exists()).max()?;
    let folder = tempfile::tempdir().unwrap();
    let port = listener().await.local_addr().unwrap().port();
    let child = std::process::Command::new(engine.join("bin/redis-server"))
        .env("LD_LIBRARY_PATH", engine.join("lib"))
        .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--daemonize", "no", "--dir"])
        .arg(folder.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let server = Server(child, format!("redis://127.0.0.1:{port}"), folder);
    let redis = Redis::from_settings(&Settings::from_pairs([("REDIS_URL", server.1.as_str())])).unwrap().unwrap();
    crate::common::until("redis", || redis.answers()).await;
    Some(server)
}

#[tokio::test]
async fn jobs_go_through_redis_once_each_and_a_critical_failure_becomes_a_plan() {
    let Some(server) = redis().await else {
        assert!(!std::env::var("STAMP_REQUIRE").unwrap_or_default().contains("redis"), "there is no redis-server");
        return;
    };
    let (world, site) = site(&[("REDIS_URL", server.1.clone())]).await;
    let settings = Settings::from_pairs([
        ("REDIS_URL", server.1.as_str()),
        ("ConnectionStrings__DefaultConnection", world.connection("app_rw", "site").as_str()),
        ("MOUNT_MEDIA", site.share.path().to_str().unwrap()),
        ("PUBLIC_URL", site.url.as_str()),
    ]);
    let worker = Worker::from_settings(&settings).unwrap();
    site.signed_in("mia").await;
    let mut ann = site.signed_in("ann").await;
    assert_eq!(ann.get("/").await.headers["x-cache"], "miss");
    assert_eq!(ann.get("/").await.headers["x-cache"], "hit");
    let feed = ann.get("/api/v1/feed").await.json();
    let taken = ann.api(Method::POST, "/api/v1/submissions", &submission(&feed, ID, false)).await;
    assert_eq!((taken.status, &taken.json()["critical"]), (StatusCode::CREATED, &json!(1)), "{}", taken.text);
    assert_eq!(ann.get("/").await.headers["x-cache"], "miss", "figures that changed are not served from the cache");
    assert_eq!(world.sql("site", r#"SELECT "Status" FROM "Jobs""#), "queued");
    // The same job twice in the queue is done once.
    let row = world.sql("site", r#"SELECT "Id" FROM "Jobs""#);
    let job = queue::Job { id: row.parse().unwrap(), name: "submission".into(), subject: ID.into() };
    queue::put(&worker.redis, &job).await.unwrap();
    assert_eq!(worker.once().await.unwrap().as_deref(), Some("submission"));
    assert_eq!(worker.once().await.unwrap().as_deref(), Some("submission"));
    assert_eq!(
        world.sql("site", r#"SELECT "Status", "Attempts", "Result" FROM "Jobs""#),
        "done|1|0 files checked, a plan was made"
    );
    assert_eq!(world.sql("site", r#"SELECT "Title", "Status" FROM "Qips""#), "Hand hygiene: critical failure|plan");
    assert_eq!(world.sql("site", r#"SELECT "Recipient", "Status" FROM "Mails""#), "mia@example.com|waiting");
    // Two schedulers tick in the same period: each job is there once.
    let now = 1_800_000_000;
    assert_eq!(scheduler::tick(&worker.redis, now).await.unwrap(), 3);
    assert_eq!(scheduler::tick(&worker.redis, now + 1).await.unwrap(), 0);
    for _ in 0..3 {
        assert!(worker.once().await.unwrap().is_some());
    }
    assert_eq!(
        world.sql("site", r#"SELECT string_agg("Name", ' ' ORDER BY "Name") FROM "Jobs" WHERE "Status" = 'done'"#),
        "reminders submission sweep warm"
    );
    // What redis forgot is put there again.
    world.sql("site", &format!(r#"INSERT INTO "Jobs" ("Id", "Name", "Subject", "Status", "EnqueuedAt") VALUES (gen_random_uuid(), 'submission', '{ID}', 'queued', now() - interval '1 minute')"#));
    assert_eq!(queue::sweep(&worker.database, &worker.redis).await.unwrap(), 1);
    assert_eq!(worker.once().await.unwrap().as_deref(), Some("submission"));
    // Without redis the pages go on.
    drop(server);
    assert_eq!(ann.get("/").await.headers["x-cache"], "miss");
    let second = submission(&feed, "0198f3a0-0000-7000-8000-000000000009", true);
    assert_eq!(ann.api(Method::POST, "/api/v1/submissions", &second).await.status, StatusCode::CREATED);
}
