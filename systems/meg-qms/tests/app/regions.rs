//! A centre and two regions: where people sign in, what goes up, and what stays.

use std::net::SocketAddr;

use http::{Method, StatusCode};
use meg_qms::{app::Part, link::sync, routes};
use serde_json::json;
use tokio::net::TcpListener;

use crate::common::{Stamp, World, listener, photo};

const UK_UP: &str = "the key of the link users from uk";
const UAE_UP: &str = "the key of the link users from uae";
const UK_DOWN: &str = "the key of the link sign-in-uk";
const UAE_DOWN: &str = "the key of the link sign-in-uae";

struct Three {
    world: World,
    eu: Stamp,
    uk: Stamp,
    uae: Stamp,
}

fn at(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().unwrap()
}

async fn three() -> Three {
    let world = World::start().await;
    let (eu, uk, uae) = (listener().await, listener().await, listener().await);
    let url = |l: &TcpListener| format!("http://{}", at(l));
    let (eu_url, uk_url, uae_url) = (url(&eu), url(&uk), url(&uae));
    let region = |key: &str, name: &str, from: &str| {
        let down = format!("LINK_SIGN_IN_{}_FROM_EU_KEY", name.to_uppercase());
        vec![
            ("LINK_USERS_URL", eu_url.clone()),
            ("LINK_USERS_KEY", key.to_owned()),
            ("LINK_CALLERS", format!("sign-in-{name}/eu")),
            (&*String::leak(down), from.to_owned()),
        ]
    };
    let centre = [
        ("MEG_REGIONS", "uk uae".to_owned()),
        ("LINK_SIGN_IN_UK_URL", uk_url),
        ("LINK_SIGN_IN_UK_KEY", UK_DOWN.to_owned()),
        ("LINK_SIGN_IN_UAE_URL", uae_url),
        ("LINK_SIGN_IN_UAE_KEY", UAE_DOWN.to_owned()),
        ("LINK_CALLERS", "users/uk users/uae".to_owned()),
        ("LINK_USERS_FROM_UK_KEY", UK_UP.to_owned()),
        ("LINK_USERS_FROM_UAE_KEY", UAE_UP.to_owned()),
    ];
    let eu = world.stamp("eu", Part::Centre, eu, &centre).await;
    let uk = world.stamp("uk", Part::Region, uk, &region(UK_UP, "uk", UK_DOWN)).await;
    let uae = world.stamp("uae", Part::Region, uae, &region(UAE_UP, "uae", UAE_DOWN)).await;
    Three { world, eu, uk, uae }
}

/// Adds a person to a region, and sends what waits.
async fn add(region: &Stamp, email: &str, name: &str, roles: &[&str]) -> i64 {
    let mut ada = region.signed_in("ada").await;
    let made = ada.api(Method::POST, "/api/v1/users", &json!({ "email": email, "name": name, "roles": roles })).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    while sync::deliver(&region.app.database, &region.app.links).await.unwrap() {}
    made.json()["id"].as_i64().unwrap()
}

#[tokio::test]
async fn whoever_signs_in_at_the_centre_lands_in_their_own_region() {
    let Three { world, eu, uk, uae } = three().await;
    add(&uk, "ann@example.com", "Ann Archer", &["staff"]).await;
    add(&uae, "zed@example.com", "Zed Zayed", &["auditor"]).await;
    for (person, region) in [("ann", &uk), ("zed", &uae)] {
        let mut browser = eu.browser();
        let page = browser.go("/", person).await;
        assert_eq!(page.status, StatusCode::OK, "{}", page.text);
        assert!(page.url.starts_with(&region.url), "{person} is at {}", page.url);
        assert!(page.text.contains(&format!("Region {}", region.name)), "{}", page.text);
        // The region's own record says what they may; the centre says only who they are.
        browser.base = region.url.clone();
        let me = browser.get("/api/v1/me").await.json();
        assert_eq!(me["roles"], if person == "ann" { json!(["staff"]) } else { json!(["auditor"]) });
    }
    // Somebody who begins at the region comes back to where they wanted to go.
    let mut browser = uk.browser();
    let page = browser.go("/submissions", "ann").await;
    assert_eq!((page.status, page.url), (StatusCode::OK, format!("{}/submissions", uk.url)));
    // Somebody of another region is led to their own, not let in here.
    let mut browser = uk.browser();
    let page = browser.go("/", "zed").await;
    assert!(page.url.starts_with(&uae.url), "{}", page.url);
    // Somebody without a region is told so.
    let page = eu.browser().go("/", "mia").await;
    assert!(page.text.contains("no region yet"), "{}", page.text);
    assert_eq!(world.sql("eu", r#"SELECT count(*) FROM "Members""#), "3", "Ada is of the region that said so first");
}

#[tokio::test]
async fn a_ticket_opens_one_session_in_the_browser_that_asked_and_leads_nowhere_else() {
    let Three { world: _world, eu, uk, uae } = three().await;
    add(&uk, "ann@example.com", "Ann Archer", &["staff"]).await;
    let mut browser = eu.browser();
    assert_eq!(browser.go("/", "ann").await.status, StatusCode::OK);
    // By hand: to the region, to the centre, and not yet back.
    let mut fresh = uk.browser();
    fresh.cookies = browser.cookies.into_iter().filter(|((origin, _), _)| *origin == eu.url).collect();
    let asked = fresh.get("/sign-in?return=%2F%2Fevil.example").await;
    assert!(asked.location().starts_with(&format!("{}/hand-down?region=uk&state=", eu.url)), "{}", asked.location());
    let answer = fresh.get(asked.location()).await;
    let enter = answer.location().to_owned();
    assert!(enter.starts_with(&format!("{}/enter?ticket=", uk.url)), "{enter}");
    // A thief with the address but without the browser gets nothing; nor does another region take it.
    assert_eq!(uk.browser().get(&enter).await.status, StatusCode::BAD_REQUEST);
    let elsewhere = enter.replace(&uk.url, &uae.url);
    assert_eq!(fresh.get(&elsewhere).await.status, StatusCode::BAD_REQUEST);
    // A changed one is refused, the right one taken once, and leads to a page of the region only.
    assert_eq!(fresh.get(&format!("{enter}x")).await.status, StatusCode::BAD_REQUEST);
    let before = fresh.cookies.clone();
    let entered = fresh.get(&enter).await;
    assert_eq!((entered.status, entered.location()), (StatusCode::SEE_OTHER, "/"), "{}", entered.text);
    fresh.cookies = before;
    assert_eq!(fresh.get(&enter).await.status, StatusCode::BAD_REQUEST, "a second time");
    // The centre leads to regions only, whatever it is asked.
    let wrong = fresh.get(&format!("{}/hand-down?region=https%3A%2F%2Fevil.example&state=x", eu.url)).await;
    assert_eq!(wrong.location(), format!("{}/sign-in", uk.url));
}

#[tokio::test]
async fn records_go_up_in_order_and_nothing_else_of_a_person_leaves() {
    let Three { world, eu, uk, uae } = three().await;
    let id = add(&uk, "ann@example.com", "Ann Archer", &["staff"]).await;
    let member = |email: &str| {
        world.sql("eu", &format!(r#"SELECT "Name", "Region", "IsActive" FROM "Members" WHERE "Email" = '{email}'"#))
    };
    assert_eq!(member("ann@example.com"), "Ann Archer|uk|t");
    let mut ada = uk.signed_in("ada").await;
    let path = format!("/api/v1/users/{id}");
    // Roles stay: no message is made of them.
    let before = world.sql("uk", r#"SELECT count(*) FROM "Outbox""#);
    let change = json!({ "name": "Ann Archer", "roles": ["staff", "auditor"], "isActive": true });
    assert_eq!(ada.api(Method::PUT, &path, &change).await.status, StatusCode::OK);
    assert_eq!(world.sql("uk", r#"SELECT count(*) FROM "Outbox""#), before);
    for (name, active, expected) in [("Ann Abbot", true, "Ann Abbot|uk|t"), ("Ann Abbot", false, "Ann Abbot|uk|f")] {
        ada.api(Method::PUT, &path, &json!({ "name": name, "roles": ["staff"], "isActive": active })).await;
        while sync::deliver(&uk.app.database, &uk.app.links).await.unwrap() {}
        assert_eq!(member("ann@example.com"), expected);
    }
    // What a person does in the region leaves no trace in the centre or in another region.
    let mut mia = uk.signed_in("mia").await;
    let sent = mia
        .send(
            Method::POST,
            "/api/v1/media?kind=audit-photos",
            &[("content-type", "image/png"), ("x-csrf-token", &mia.csrf.clone())],
            photo("QX7-marker"),
        )
        .await;
    assert_eq!(sent.status, StatusCode::CREATED, "{}", sent.text);
    let plan = json!({ "title": "QX7-marker", "ward": "ICU", "description": "QX7-marker" });
    assert_eq!(mia.api(Method::POST, "/api/v1/qips", &plan).await.status, StatusCode::CREATED);
    while sync::deliver(&uk.app.database, &uk.app.links).await.unwrap() {}
    assert_eq!(member("mia@example.com"), "Mia Mason|uk|t", "her record itself went up");
    for stamp in ["eu", "uae"] {
        let tables = world.sql(stamp, "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'");
        for table in tables.lines() {
            let rows = world.sql(stamp, &format!(r#"SELECT t::text FROM "{table}" t"#));
            assert!(!rows.contains("QX7") && (stamp == "eu" || !rows.contains("mia@")), "{stamp} {table}: {rows}");
        }
    }
    let columns = "SELECT string_agg(column_name, ',' ORDER BY ordinal_position) FROM information_schema.columns WHERE table_name = 'Members'";
    assert_eq!(world.sql("eu", columns), "Email,Name,Region,IsActive,Sequence,ChangedAt");
    assert_eq!(
        world.sql("uk", "SELECT count(*) FROM information_schema.tables WHERE table_name = 'Members'"),
        "0",
        "the mapping is the centre's alone"
    );
    assert!(
        std::fs::read_dir(eu.share.path()).unwrap().next().is_none()
            && std::fs::read_dir(uae.share.path()).unwrap().next().is_none()
    );
}

#[tokio::test]
async fn a_link_that_is_cut_loses_nothing_and_people_who_are_in_go_on() {
    let Three { world, eu, uk, .. } = three().await;
    add(&uk, "ann@example.com", "Ann Archer", &["staff"]).await;
    let mut ann = eu.browser();
    assert_eq!(ann.go("/", "ann").await.status, StatusCode::OK);
    let mut ada = uk.signed_in("ada").await;
    let eu_at: SocketAddr = eu.url.trim_start_matches("http://").parse().unwrap();
    let (centre, name) = (eu.app.clone(), eu.name);
    drop(eu);
    // The centre is away: two people are added and one is renamed; all waits, in order, with its reason.
    for (email, person) in [("one@example.com", "One"), ("two@example.com", "Two")] {
        let made =
            ada.api(Method::POST, "/api/v1/users", &json!({ "email": email, "name": person, "roles": [] })).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    }
    assert!(!sync::deliver(&uk.app.database, &uk.app.links).await.unwrap(), "{name} is away");
    let waiting = r#"SELECT count(*), count(*) FILTER (WHERE "Attempts" > 0), max("Detail") FROM "Outbox" WHERE "DeliveredAt" IS NULL"#;
    let standing = world.sql("uk", waiting);
    assert!(standing.starts_with("2|1|centre cannot be reached"), "{standing}");
    let people = ada.get("/admin/people").await;
    assert!(people.text.contains("2 records wait for the centre"), "{}", people.text);
    // Ann, who is in, reads and writes; somebody who is not is told why.
    ann.base = uk.url.clone();
    ann.know().await;
    let token = ann.api(Method::POST, "/api/v1/tokens", &json!({ "name": "telephone", "scope": "app" })).await;
    assert_eq!(token.status, StatusCode::CREATED, "{}", token.text);
    // The centre is back at its address: what waited goes up, once each and in order.
    let listener = TcpListener::bind(eu_at).await.unwrap();
    let serving = tokio::spawn(async move { axum::serve(listener, routes::router(centre)).await.unwrap() });
    world.sql("uk", r#"UPDATE "Outbox" SET "NextAt" = now()"#);
    while sync::deliver(&uk.app.database, &uk.app.links).await.unwrap() {}
    assert_eq!(world.sql("uk", r#"SELECT count(*) FROM "Outbox" WHERE "DeliveredAt" IS NULL"#), "0");
    assert_eq!(world.sql("eu", r#"SELECT "Email" FROM "Members" WHERE "Email" IN ('one@example.com', 'two@example.com') ORDER BY "Sequence""#), "one@example.com\ntwo@example.com");
    serving.abort();
}

#[tokio::test]
async fn nobody_speaks_for_a_region_but_the_region() {
    let Three { world, eu, uk, uae } = three().await;
    add(&uk, "ann@example.com", "Ann Archer", &["staff"]).await;
    let mut stranger = eu.browser();
    for bearer in ["", "Bearer ", "Bearer wrong", &format!("Bearer {UK_DOWN}")] {
        let headers: &[(&str, &str)] = if bearer.is_empty() { &[] } else { &[("authorization", bearer)] };
        assert_eq!(
            stranger.send(Method::POST, "/link/users", headers, "x").await.status,
            StatusCode::FORBIDDEN,
            "{bearer}"
        );
        assert_eq!(
            stranger.send(Method::GET, "/link/self", headers, "").await.status,
            StatusCode::FORBIDDEN,
            "{bearer}"
        );
    }
    // With the link's key and without the region's signature it is nothing.
    let key = format!("Bearer {UK_UP}");
    assert_eq!(
        stranger.send(Method::POST, "/link/users", &[("authorization", &key)], "x.y.z").await.status,
        StatusCode::FORBIDDEN
    );
    // A region cannot take a person of another one: its record is refused, and its administrator reads why.
    add(&uae, "ann@example.com", "Ann of the Emirates", &["staff"]).await;
    assert_eq!(world.sql("eu", r#"SELECT "Region" FROM "Members" WHERE "Email" = 'ann@example.com'"#), "uk");
    let page = uae.signed_in("ada").await.get("/admin/people").await;
    assert!(page.text.contains("The centre refused"), "{}", page.text);
}
