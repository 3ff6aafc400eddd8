//! One person's way: sign in, a prompt, the image, what is kept of it.

use http::{Method, StatusCode};
use serde_json::json;

use crate::common::Studio;

#[tokio::test]
async fn a_prompt_becomes_an_image_that_is_charged_once_and_on_record() {
    let studio = Studio::start().await;
    let worker = studio.worker().await;
    let mut ann = studio.signed_in("ann").await;
    assert!(ann.get("/").await.text.contains("What should it show?"));
    let form = [
        ("idempotency_key", "form-00000001"),
        ("prompt", "A sailing boat in the harbour at sunset"),
        ("model_provider", "auto"),
        ("resolution", "1024x1024"),
        ("required_quality", "medium"),
        ("style", "vivid"),
        ("commercial_use", "1"),
    ];
    let taken = ann.post("/generate", &form).await;
    assert_eq!(taken.status, StatusCode::SEE_OTHER, "{}", taken.text);
    // The same form again is the same generation.
    assert_eq!(ann.post("/generate", &form).await.location(), taken.location());
    assert_eq!(studio.sql("SELECT count(*), sum(reserved_aud) FROM generations"), "1|0.01");
    let page = taken.location().to_owned();
    assert!(ann.get(&page).await.text.contains("0.01 AUD reserved"));

    studio.work(&worker).await;
    let done = ann.get(&page).await;
    assert!(done.text.contains("procedure, no AI model") && done.text.contains("Why this model"), "{}", done.text);
    let id = page.rsplit('/').next().unwrap();
    let it = ann.generation(id).await;
    assert_eq!((it["status"].as_str(), it["cost_aud"].as_str()), (Some("completed"), Some("0.01")));
    assert_eq!(it["prompt"], "A sailing boat in the harbour at sunset");
    // The router's reasons: what was ranked with four scores, what was dropped and why.
    let reasons = &it["reasons"];
    for score in ["quality", "cost", "reliability", "speed", "total"] {
        assert!(reasons["ranked"][0][score].is_number(), "{reasons}");
    }
    let dropped = reasons["dropped"].as_array().unwrap();
    assert!(dropped.iter().any(|d| d["id"] == "replicate" && d["rule"] == "region"), "{reasons}");

    let url = it["image_url"].as_str().unwrap().to_owned();
    let image = ann.get(&url).await;
    assert_eq!(image.headers["content-type"], "image/png");
    assert!(image.headers["cache-control"].to_str().unwrap().contains("immutable"));
    assert_eq!(donatello::image::check(&image.bytes, (1024, 1024)), Ok(()));
    assert_eq!(format!("/images/{}.png", donatello::image::hash(&image.bytes)), url, "the address is the hash");
    // Nobody else sees it but those whose circle it is in.
    let mut ben = studio.signed_in("ben").await;
    assert_eq!(ben.get(&url).await.status, StatusCode::NOT_FOUND);
    assert_eq!(ben.get(&page).await.status, StatusCode::NOT_FOUND);
    let mut mia = studio.signed_in("mia").await;
    assert_eq!(mia.get(&url).await.status, StatusCode::OK);
    let seen = mia.get(&page).await;
    assert!(!seen.text.contains("sailing boat"), "a manager sees the image and not the prompt");

    assert!(ann.get("/history").await.text.contains("sailing boat"));
    let spend = mia.get("/spend").await;
    assert!(spend.text.contains("Ann Archer") && spend.text.contains("0.01"), "{}", spend.text);
    studio.books_balance();
    // The prompt lies nowhere in the database in the clear.
    for table in ["generations", "audit_logs", "generation_events", "jobs", "generation_metadata"] {
        let found = studio.sql(&format!("SELECT count(*) FROM {table} t WHERE t::text ILIKE '%sailing boat%'"));
        assert_eq!(found, "0", "{table}");
    }
    let acts = studio.sql("SELECT action FROM audit_logs WHERE event_type = 'generation' ORDER BY sequence");
    assert_eq!(acts, "prompt taken\nimage generated");
}

#[tokio::test]
async fn the_record_is_only_added_to_and_a_change_past_it_shows() {
    let studio = Studio::start().await;
    let mut ola = studio.signed_in("ola").await;
    let _ = studio.signed_in("ann").await;
    for statement in ["UPDATE audit_logs SET action = 'x'", "DELETE FROM audit_logs", "TRUNCATE audit_logs"] {
        let sql = statement.to_owned();
        let postgres = &studio.postgres;
        let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| postgres.sql("app_rw", "app", &sql)));
        assert!(tried.is_err(), "{statement} must be refused to the application's role");
    }
    let page = ola.get("/admin/audit").await;
    assert!(page.text.contains("The record is whole") && page.text.contains("signed in"), "{}", page.text);
    // Only who may switch triggers off can change a row, and the chain tells.
    studio.sql("ALTER TABLE audit_logs DISABLE TRIGGER ALL; UPDATE audit_logs SET user_email = 'x@y.example' WHERE sequence = 1; ALTER TABLE audit_logs ENABLE TRIGGER ALL");
    let page = ola.get("/admin/audit").await;
    assert!(page.text.contains("does not follow from itself at row 1"), "{}", page.text);
    let logs = ola.get("/api/v1/admin/audit-logs?event_type=authentication").await.json();
    for field in [
        "id",
        "timestamp",
        "event_type",
        "user_id",
        "user_email",
        "action",
        "resource_type",
        "ip_address",
        "user_agent",
        "request_id",
        "status",
    ] {
        assert!(!logs["items"][0][field].is_null(), "{field}: {}", logs["items"][0]);
    }
}

#[tokio::test]
async fn progress_is_told_while_it_happens() {
    use futures_of_tests::read_events;
    let studio = Studio::start().await;
    let worker = studio.worker().await;
    let mut ann = studio.signed_in("ann").await;
    let id = ann.ask("a lighthouse in fog", json!({})).await;
    let watching = read_events(&studio, &ann, &id).await;
    studio.work(&worker).await;
    let events = watching.await.unwrap();
    let expected = ["queued", "started", "chosen", "calling", "stored", "completed"].map(|e| format!("generation.{e}"));
    assert_eq!(events, expected);
    // Another site's page gets no socket, though the browser would send the cookie.
    let headers = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("origin", "https://elsewhere.example"),
    ];
    assert!(!ann.cookie_header(&studio.url).is_empty());
    let refused = ann.send(Method::GET, &format!("/api/v1/generations/{id}/events"), &headers, "").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN, "{}", refused.text);
}

/// The other end of a WebSocket, by hand: a test needs no more than to read text frames.
mod futures_of_tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        task::JoinHandle,
    };

    use crate::common::{Browser, Studio};

    /// Watches a generation to its end; gives the names of the events.
    pub async fn read_events(studio: &Studio, browser: &Browser, id: &str) -> JoinHandle<Vec<String>> {
        let authority = studio.url.trim_start_matches("http://").to_owned();
        let mut stream = TcpStream::connect(&authority).await.unwrap();
        let head = format!(
            "GET /api/v1/generations/{id}/events HTTP/1.1\r\nHost: {authority}\r\nOrigin: {}\r\nCookie: {}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            studio.url,
            browser.cookie_header(&studio.url)
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        let text = String::from_utf8(answer).unwrap();
        // The key and its answer are the example of RFC 6455.
        assert!(
            text.starts_with("HTTP/1.1 101") && text.to_lowercase().contains("s3pplmbitxaq9kygzzhzrbk+xoo="),
            "{text}"
        );
        tokio::spawn(async move {
            let mut names = Vec::new();
            loop {
                let first = stream.read_u8().await.unwrap();
                let length = match stream.read_u8().await.unwrap() & 0x7f {
                    126 => u64::from(stream.read_u16().await.unwrap()),
                    127 => stream.read_u64().await.unwrap(),
                    short => u64::from(short),
                };
                let mut payload = vec![0; usize::try_from(length).unwrap()];
                stream.read_exact(&mut payload).await.unwrap();
                if first & 0x0f == 1 {
                    let event: serde_json::Value = serde_json::from_slice(&payload).unwrap();
                    names.push(event["event"].as_str().unwrap().to_owned());
                } else if first & 0x0f == 8 {
                    return names;
                }
            }
        })
    }
}
