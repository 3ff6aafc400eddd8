//! Every route, without the right it needs.

use identity::{Guard, Right, routes};

use crate::world::{FORM, World, form};

/// What anybody may ask. A route that is added here is a decision.
const PUBLIC: &[(&str, &str)] = &[
    ("GET", "/.well-known/openid-configuration"),
    ("GET", "/jwks"),
    ("GET", "/style.css"),
    ("GET", "/authorize"),
    ("POST", "/authorize"),
    ("GET", "/logout"),
    ("POST", "/logout"),
    ("GET", "/sign-in"),
    ("GET", "/outside/{issuer}"),
    ("GET", "/outside/{issuer}/callback"),
    ("GET", "/first"),
    ("GET", "/signed-out"),
];

fn filled(path: &str) -> String {
    path.replace("{issuer}", "central")
        .replace("{person}", "7f3c2a90-0000-4000-8000-00000000000a")
        .replace("{session}", "7f3c2a90-0000-4000-8000-00000000000b")
}

#[tokio::test]
async fn every_route_without_a_right_refuses() {
    let world = World::start().await;
    let (_, plain) = world.person("ada@example.org", "Ada", &["staff"]).await;
    let cookies: Vec<String> = plain.cookies.iter().map(|(n, v)| format!("{n}={v}")).collect();
    let cookies = cookies.join("; ");
    let mut public = Vec::new();
    for (method, path, guard) in routes() {
        let at = filled(path);
        let answer = world.send(method, &at, &[FORM], "").await;
        let posted = method == "POST";
        match guard {
            Guard::Public | Guard::Page(Right::Anybody) => public.push((method, path)),
            Guard::Page(Right::OwnForm) if !posted => public.push((method, path)),
            Guard::Credential => assert!([400, 401].contains(&answer.status), "{method} {path}: {}", answer.status),
            Guard::Page(Right::OwnForm) => assert_eq!(answer.status, 403, "{method} {path}"),
            // A form without its token is refused before anything else is looked at.
            Guard::Page(Right::Person | Right::Administrator) if posted => {
                assert_eq!(answer.status, 403, "{method} {path}")
            }
            Guard::Page(Right::Person | Right::Administrator) => {
                assert_eq!((answer.status, answer.location()), (303, Some("/sign-in")), "{method} {path}");
            }
        }
        if guard == Guard::Page(Right::Administrator) {
            let answer = world.send(method, &at, &[FORM, ("cookie", &cookies)], "").await;
            assert_eq!(answer.status, 403, "{method} {path} for somebody who is no administrator");
            assert!(!answer.body.contains("ada@example.org"));
        }
        let answer = world.send(method, &at, &[FORM], "").await;
        let policy = answer.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{path}: {policy}");
        assert!(!policy.contains("script") && !policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff", "{path}");
        if !["/jwks", "/style.css", "/.well-known/openid-configuration"].contains(&path) {
            assert_eq!(answer.headers["cache-control"], "no-store", "{path}");
        }
        assert!(!answer.body.contains("<script") && !answer.body.contains("style=\""), "{path}");
    }
    public.sort_unstable();
    let mut declared = PUBLIC.to_vec();
    declared.sort_unstable();
    assert_eq!(public, declared);
    assert_eq!(world.send("GET", "/nothing", &[], "").await.status, 404);
    assert_eq!(world.send("GET", "/admin/users", &[], "").await.status, 404, "the control routes are not on https");
    assert_eq!(world.send("DELETE", "/people/x", &[], "").await.status, 405);
    world.stop().await;
}

#[tokio::test]
async fn a_form_counts_only_with_this_browsers_token() {
    let world = World::start().await;
    let (root, mut admin) = world.person("root@example.org", "Root", &["administrators"]).await;
    let (_, mut bob) = world.person("bob@example.org", "Bob", &["administrators"]).await;
    let bobs = bob.get("/account").await.hidden("form");
    let own = admin.get("/account").await.hidden("form");
    let fill = |token: &str| [("form", token.to_owned()), ("name", "Eve".into()), ("email", "eve@example.org".into())];
    for (method, path, guard) in routes() {
        if method != "POST" || !matches!(guard, Guard::Page(right) if right != Right::Anybody) {
            continue;
        }
        for token in ["", "x", &bobs] {
            let fields = fill(token);
            let fields: Vec<(&str, &str)> = fields.iter().map(|(n, v)| (*n, v.as_str())).collect();
            let answer = admin.post(&filled(path), &fields).await;
            assert_eq!(answer.status, 403, "{path} with `{token}`");
            assert!(answer.body.contains("out of date"));
        }
    }
    // Another site's form, should the cookie ever be sent along with it.
    let cookies: Vec<String> = admin.cookies.iter().map(|(n, v)| format!("{n}={v}")).collect();
    let headers = [FORM, ("cookie", &*cookies.join("; ")), ("sec-fetch-site", "cross-site")];
    let body = form(&[("form", &own)]);
    assert_eq!(world.send("POST", &format!("/people/{root}/link"), &headers, &body).await.status, 403);
    assert_eq!(world.send("POST", &format!("/people/{root}/link"), &headers[..2], &body).await.status, 200);
    // A body that is not a form.
    let json = [("content-type", "application/json"), headers[1]];
    assert_eq!(world.send("POST", &format!("/people/{root}/link"), &json, "{}").await.status, 400);
    world.stop().await;
}
