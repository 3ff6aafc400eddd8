//! Who gets in, and who does not.

use api::{audit::Outcome, blob::AUDIENCE};

use super::bench::{Bench, Signer, config};

/// Every route of the API.
const ROUTES: [(&str, &str); 28] = [
    ("GET", "/?restype=account&comp=properties"),
    ("GET", "/?comp=list"),
    ("GET", "/?restype=service&comp=properties"),
    ("POST", "/?restype=service&comp=userdelegationkey"),
    ("PUT", "/other?restype=container"),
    ("GET", "/photos?restype=container"),
    ("HEAD", "/photos?restype=container"),
    ("GET", "/photos?restype=container&comp=acl"),
    ("PUT", "/photos?restype=container&comp=metadata"),
    ("PUT", "/photos?restype=container&comp=lease"),
    ("DELETE", "/photos?restype=container"),
    ("GET", "/photos?restype=container&comp=list"),
    ("PUT", "/photos/a"),
    ("GET", "/photos/a"),
    ("HEAD", "/photos/a"),
    ("GET", "/photos/a?versionid=2026-01-01T00:00:00.0000000Z"),
    ("DELETE", "/photos/a"),
    ("DELETE", "/photos/a?versionid=2026-01-01T00:00:00.0000000Z"),
    ("PUT", "/photos/a?comp=block&blockid=QQ=="),
    ("PUT", "/photos/a?comp=blocklist"),
    ("GET", "/photos/a?comp=blocklist"),
    ("PUT", "/photos/a?comp=metadata"),
    ("GET", "/photos/a?comp=metadata"),
    ("PUT", "/photos/a?comp=properties"),
    ("PUT", "/photos/a?comp=tier"),
    ("PUT", "/photos/a?comp=lease"),
    ("PUT", "/photos/a?comp=snapshot"),
    ("PUT", "/photos/a?comp=undelete"),
];

#[tokio::test]
async fn every_route_needs_credentials_and_a_right() {
    let bench = Bench::new();
    bench.put("/photos/a", "content").await;
    let other = Signer::new();
    let now = bench.clock.now_s();
    let bad = [
        format!("Bearer {}", other.token("service.owner", &[], AUDIENCE, now)),
        format!("Bearer {}", bench.signer.token("service.owner", &[], "https://vault.azure.net", now)),
        format!("Bearer {}", bench.signer.token("service.owner", &[], AUDIENCE, now - 7200)),
        "Bearer x".to_owned(),
        "Basic QTpC".to_owned(),
    ];
    let signed = ["SharedKey files:AAAA", "SharedKey files", "SharedKey other:AAAA"];
    for (method, path) in ROUTES {
        let fields = [("x-ms-copy-source", "")];
        let answered = bench.call("", method, path, &fields[..0], "").await;
        assert_eq!(answered.status, 401, "{method} {path} by nobody");
        let challenge = answered.field("www-authenticate");
        assert!(challenge.starts_with("Bearer authorization_uri=") && challenge.ends_with(AUDIENCE), "{challenge}");
        for credentials in &bad {
            let answered = bench.call(credentials, method, path, &[], "").await;
            assert_eq!(answered.status, 401, "{method} {path} with `{credentials}`");
        }
        for credentials in signed {
            let answered = bench.call(credentials, method, path, &[], "").await;
            assert_eq!(answered.status, 403, "{method} {path} with `{credentials}`");
        }
        let join = if path.contains('?') { '&' } else { '?' };
        for sas in [
            "sig=AAAA",
            "sv=2021-12-02&sig=AAAA&sp=rwdlacx&se=2099-01-01&sr=c",
            "sv=2021-12-02&ss=b&srt=sco&sp=rwdlacx&se=2099-01-01&sig=AAAA",
        ] {
            let answered = bench.call("", method, &format!("{path}{join}{sas}"), &[], "").await;
            assert_eq!(answered.status, 403, "{method} {path} with {sas}");
        }
        let stranger = bench.by("service.stranger", &["strangers"]);
        let answered = bench.call(&stranger, method, path, &[("x-ms-blob-type", "BlockBlob")], "").await;
        assert_eq!(answered.status, 403, "{method} {path} by a stranger");
        if method != "HEAD" {
            assert_eq!(answered.code(), "AuthorizationPermissionMismatch", "{method} {path}");
        }
    }
    for path in ["/", "/x", "/photos", "/photos/a?comp=nothing", "/%FF/x", "/photos/a?comp=tags"] {
        assert_eq!(bench.call("", "GET", path, &[], "").await.status, 401, "{path}");
        assert_eq!(bench.call("", "PATCH", path, &[], "").await.status, 401, "{path}");
    }
    assert_eq!(bench.get("/photos/a").await.body, "content", "nothing was changed");
}

#[tokio::test]
async fn roles_bound_what_is_done_and_where() {
    let bench = Bench::new();
    let (web, reader) = (bench.by("service.web", &[]), bench.by("service.reader", &[]));
    let blob = [("x-ms-blob-type", "BlockBlob")];
    assert_eq!(bench.call(&web, "PUT", "/photos/a", &blob, "one").await.status, 201);
    assert_eq!(bench.call(&web, "PUT", "/public/a", &blob, "one").await.status, 403);
    assert_eq!(
        bench.call(&web, "GET", "/?comp=list", &[], "").await.status,
        403,
        "it has one container, not the account"
    );
    assert_eq!(bench.call(&web, "PUT", "/mine-too?restype=container", &[], "").await.status, 403);
    for (method, path) in ROUTES.into_iter().filter(|(_, path)| path.starts_with("/photos")) {
        let reads = matches!(method, "GET" | "HEAD");
        let refused = bench.call(&reader, method, path, &blob, "").await.status == 403;
        assert_eq!(refused, !reads, "{method} {path} by a reader");
    }
    let person = bench.by("p-1", &["pipeline"]);
    assert_eq!(bench.call(&person, "PUT", "/made?restype=container", &[], "").await.status, 201);
    let events = bench.events();
    let has = |actor: &str, action: &str, object: &str, outcome| {
        let object = format!("blob.files/{object}");
        events.iter().any(|e| e.actor == actor && e.action == action && e.object == object && e.outcome == outcome)
    };
    assert!(has("service.web", "blob.put", "photos/a", Outcome::Ok));
    assert!(has("service.web", "blob.put", "public/a", Outcome::Denied));
    assert!(has("service.reader", "blob.get", "photos/a", Outcome::Ok));
    assert!(has("service.reader", "blob.delete", "photos/a", Outcome::Denied));
}

#[tokio::test]
async fn only_what_is_declared_public_is_read_by_everybody() {
    let bench = Bench::new();
    for container in ["photos", "public", "open"] {
        bench.put(&format!("/{container}/a"), "content").await;
    }
    let get = async |path: &str| bench.call("", "GET", path, &[], "").await.status.as_u16();
    assert_eq!((get("/photos/a").await, get("/public/a").await, get("/open/a").await), (401, 200, 200));
    let list = "?restype=container&comp=list";
    assert_eq!((get(&format!("/public{list}")).await, get(&format!("/open{list}")).await), (401, 200));
    for container in ["public", "open"] {
        for (method, path) in ROUTES {
            let path = path.replace("/photos", &format!("/{container}"));
            let reads = matches!(method, "GET" | "HEAD") && path.contains("/a");
            let lists = container == "open" && path.ends_with("comp=list") && path.contains("open");
            if !reads && !lists {
                assert_eq!(bench.call("", method, &path, &[], "").await.status, 401, "{method} {path}");
            }
        }
    }
    let made = bench.act("/mine?restype=container", &[("x-ms-blob-public-access", "blob")]).await;
    assert_eq!(made.said(), (409, "PublicAccessNotPermitted"), "it is declared, not asked for");
}

#[tokio::test]
async fn what_is_taken_away_counts_at_once() {
    let bench = Bench::new();
    bench.put("/photos/a", "content").await;
    let web = bench.by("service.web", &[]);
    assert_eq!(bench.call(&web, "GET", "/photos/a", &[], "").await.status, 200);
    let mut less = config();
    less.grants.retain(|grant| grant.principal != "service.web");
    less.shared_key = false;
    bench.store.reconfigure(less).await.unwrap();
    assert_eq!(bench.call(&web, "GET", "/photos/a", &[], "").await.status, 403);
    let key = bench.account_key();
    assert_eq!(bench.signed(&key, "GET", "/photos/a", &[], "").await.status, 403);
}
