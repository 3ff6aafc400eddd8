//! The account's key, and URLs that are signed.

use api::{Secret, blob::BlobConfig};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::bench::{Bench, config};
use crate::{shared_key, time};

const VERSION: &str = "2022-11-02";

/// A query that is signed: its pairs, and the text of which the signature is made.
fn query(key: &Secret, pairs: &[(&str, &str)], text: &str) -> String {
    let signature = shared_key::sign(&shared_key::key(key).unwrap(), text);
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    format!("{}&sig={}", pairs.join("&"), encoded(&signature))
}

fn of_blob(key: &Secret, permissions: &str, kind: &str, object: &str, ends: &str) -> String {
    let text = format!("{permissions}\n\n{ends}\n/blob/files/{object}\n\n\n\n{VERSION}\n{kind}\n\n\n\n\n\n\n");
    query(key, &[("sp", permissions), ("se", ends), ("sv", VERSION), ("sr", kind)], &text)
}

fn of_account(key: &Secret, permissions: &str, kinds: &str, ends: &str) -> String {
    let text = format!("files\n{permissions}\nb\n{kinds}\n\n{ends}\n\n\n{VERSION}\n\n");
    query(key, &[("sp", permissions), ("ss", "b"), ("srt", kinds), ("se", ends), ("sv", VERSION)], &text)
}

fn in_an_hour(bench: &Bench) -> String {
    time::iso(bench.clock.now_us() + 3_600_000_000)
}

#[tokio::test]
async fn the_account_s_key_opens_it_and_no_other() {
    let bench = Bench::new();
    let key = bench.account_key();
    let put = bench
        .signed(
            &key,
            "PUT",
            "/photos/a%20b?timeout=3",
            &[("x-ms-blob-type", "BlockBlob"), ("x-ms-meta-b", "1"), ("x-ms-meta-ab", "2")],
            "hello",
        )
        .await;
    assert_eq!(put.status, 201, "{}", put.text());
    let list = bench.signed(&key, "GET", "/photos?restype=container&comp=list&prefix=a%20", &[], "").await;
    assert!(list.text().contains("<Name>a b</Name>"));
    let other = bench.signed(&Secret::new("AAAA"), "GET", "/photos/a%20b", &[], "").await;
    assert_eq!(other.said(), (403, "AuthenticationFailed"));
    // A request signed for one thing is none for another; an old one is none at all.
    bench.clock.set_offset_ms(-16 * 60_000);
    let date = time::http_date(bench.clock.now_us());
    bench.clock.set_offset_ms(0);
    let old = bench.signed(&key, "GET", "/photos/a%20b", &[("x-ms-date", &date)], "").await;
    assert_eq!(old.said(), (403, "AuthenticationFailed"));
    let off = Bench::with(BlobConfig { shared_key: false, ..config() });
    assert_eq!(
        off.signed(&off.account_key(), "GET", "/?comp=list", &[], "").await.said(),
        (403, "AuthenticationFailed")
    );
    let signed = of_account(&off.account_key(), "l", "s", &in_an_hour(&off));
    assert_eq!(off.call("", "GET", &format!("/?comp=list&{signed}"), &[], "").await.status, 403);
}

#[tokio::test]
async fn a_signed_url_opens_what_it_says() {
    let bench = Bench::new();
    let (key, ends) = (bench.account_key(), in_an_hour(&bench));
    for name in ["a", "b"] {
        bench.put(&format!("/photos/{name}"), "content").await;
    }
    let call = async |method: &str, path: &str, sas: &str| {
        let join = if path.contains('?') { '&' } else { '?' };
        let answered =
            bench.call("", method, &format!("{path}{join}{sas}"), &[("x-ms-blob-type", "BlockBlob")], "x").await;
        answered.status.as_u16()
    };
    let read = of_blob(&key, "r", "b", "photos/a", &ends);
    assert_eq!((call("GET", "/photos/a", &read).await, call("GET", "/photos/b", &read).await), (200, 403));
    assert_eq!((call("PUT", "/photos/a", &read).await, call("DELETE", "/photos/a", &read).await), (403, 403));
    let before = bench.act("/photos/a?comp=snapshot", &[]).await.field("x-ms-snapshot").to_owned();
    assert_eq!(bench.get(&format!("/photos/a?snapshot={before}")).await.status, 200);
    assert_eq!(
        call("GET", &format!("/photos/a?snapshot={before}"), &read).await,
        403,
        "what was before is another thing"
    );
    let all = of_blob(&key, "rl", "c", "photos", &ends);
    assert_eq!(call("GET", &format!("/photos/a?snapshot={before}"), &all).await, 200);
    assert_eq!((call("GET", "/photos/b", &all).await, call("GET", "/public/b", &all).await), (200, 403));
    assert_eq!(call("GET", "/photos?restype=container&comp=list", &all).await, 200);
    assert_eq!(call("DELETE", "/photos?restype=container", &all).await, 403);
    let create = of_blob(&key, "c", "c", "photos", &ends);
    assert_eq!((call("PUT", "/photos/new", &create).await, call("PUT", "/photos/new", &create).await), (201, 409));
    let changed = read.replace("sp=r", "sp=rwd");
    assert_eq!(call("GET", "/photos/a", &changed).await, 403, "the signature is of another text");
    let account = of_account(&key, "rwl", "o", &ends);
    assert_eq!((call("GET", "/photos/a", &account).await, call("GET", "/?comp=list", &account).await), (200, 403));
    let over = of_blob(&key, "r", "b", "photos/a", &time::iso(bench.clock.now_us() - 1_000_000));
    assert_eq!(call("GET", "/photos/a", &over).await, 403);
    let download = of_blob(&key, "r", "b", "photos/a", &ends);
    bench.clock.set_offset_ms(3_601_000);
    assert_eq!(call("GET", "/photos/a", &download).await, 403);
    let events = bench.events();
    assert!(events.iter().any(|e| e.actor == "sas:files" && e.action == "blob.get"));
    assert!(!events.iter().any(|e| serde_json::to_string(e).unwrap().contains("sig=")), "a signature is a credential");
}

#[tokio::test]
async fn a_delegated_signature_is_bound_by_whose_it_is() {
    let bench = Bench::new();
    bench.put("/photos/a", "content").await;
    bench.put("/public/a", "content").await;
    let (start, ends) = (time::iso(bench.clock.now_us()), in_an_hour(&bench));
    let info = format!("<KeyInfo><Start>{start}</Start><Expiry>{ends}</Expiry></KeyInfo>");
    let ask = async |who: &str, groups: &[&str]| {
        let who = bench.by(who, groups);
        let path = "/?restype=service&comp=userdelegationkey";
        bench.call(&who, "POST", path, &[("x-ms-version", "2022-11-02")], info.clone()).await
    };
    assert_eq!(ask("service.web", &[]).await.status, 403, "it has a role in one container, not in the account");
    assert_eq!(ask("p-1", &["pipeline"]).await.status, 403, "a person's groups are not in a signature");
    let given = ask("service.owner", &[]).await.text();
    let field = |name: &str| given.split(&format!("<{name}>")).nth(1).unwrap().split('<').next().unwrap().to_owned();
    let (key, tenant) = (Secret::new(field("Value")), field("SignedTid"));
    let sas = |subject: &str, permissions: &str, object: &str| {
        let text = format!(
            "{permissions}\n\n{ends}\n/blob/files/{object}\n{subject}\n{tenant}\n{start}\n{ends}\nb\n{VERSION}\n\n\n\n\n\n{VERSION}\nb\n\n\n\n\n\n\n"
        );
        let pairs = [
            ("sp", permissions),
            ("se", ends.as_str()),
            ("skoid", subject),
            ("sktid", tenant.as_str()),
            ("skt", start.as_str()),
            ("ske", ends.as_str()),
            ("sks", "b"),
            ("skv", VERSION),
            ("sv", VERSION),
            ("sr", "b"),
        ];
        query(&key, &pairs, &text)
    };
    let get = async |object: &str, sas: &str| {
        bench.call("", "GET", &format!("/{object}?{sas}"), &[], "").await.status.as_u16()
    };
    assert_eq!(get("photos/a", &sas("service.owner", "r", "photos/a")).await, 200);
    assert_eq!(get("photos/a", &sas("service.web", "r", "photos/a")).await, 403, "the key is of somebody else");
    let good = sas("service.owner", "r", "photos/a");
    let mut less = config();
    less.grants.retain(|grant| grant.principal != "service.owner");
    bench.store.reconfigure(less).await.unwrap();
    assert_eq!(get("photos/a", &good).await, 403, "the role is gone, and with it what it signed");
}
