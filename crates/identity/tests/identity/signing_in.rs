//! Who is let in, and what guessing costs.

use crate::world::{PASSWORD, World};

#[tokio::test]
async fn unknown_disabled_and_mistaken_people_are_told_the_same() {
    let world = World::start().await;
    let _ = world.person("root@example.org", "Root", &["administrators"]).await;
    let _ = world.person("ada@example.org", "Ada", &[]).await;
    let _ = world.add("new@example.org", "New", &[]).await;
    let _ = world.person("gone@example.org", "Gone", &[]).await;
    let _: api::identity::User = world.control.post("/admin/users/gone@example.org/disable", &()).await.unwrap();
    let mut bodies = Vec::new();
    for (email, password) in [
        ("nobody@example.org", PASSWORD),
        ("ada@example.org", "the wrong password"),
        ("new@example.org", ""),
        ("gone@example.org", PASSWORD),
    ] {
        let answer = world.browser().sign_in(email, password).await;
        assert_eq!(answer.status, 401);
        assert!(answer.body.contains("That e-mail and password do not match."));
        assert!(!answer.headers.get_all("set-cookie").iter().any(|c| c.to_str().unwrap().contains("session")));
        let token = answer.hidden("form");
        bodies.push(answer.body.replace(email, "E").replace(&token, "T"));
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]));
    world.stop().await;
}

#[tokio::test]
async fn guessing_slows_down_one_account_and_no_other() {
    let world = World::start().await;
    let _ = world.person("ada@example.org", "Ada", &[]).await;
    let _ = world.person("bob@example.org", "Bob", &[]).await;
    let mut browser = world.browser();
    for _ in 0..5 {
        assert_eq!(browser.sign_in("ada@example.org", "wrong wrong wrong").await.status, 401);
    }
    let sixth = browser.sign_in("Ada@Example.org", PASSWORD).await;
    assert_eq!(sixth.status, 429, "even the right one waits");
    assert!(sixth.body.contains("Too many attempts. Wait"), "{}", sixth.body);
    assert!(sixth.headers.contains_key("retry-after"));
    assert_eq!(browser.sign_in("bob@example.org", PASSWORD).await.status, 303);
    world.stop().await;
}

#[tokio::test]
async fn one_address_cannot_try_account_after_account() {
    let world = World::start().await;
    let mut browser = world.browser();
    let page = browser.get("/sign-in").await;
    let mut refused = 0;
    // The first waits are short; on a slow machine an attempt may take longer than they last.
    for index in 0..36 {
        let email = format!("guess{index}@example.org");
        refused = browser.submit(&page, "/sign-in", &[("email", &email), ("password", "x")]).await.status;
        if refused == 429 {
            break;
        }
    }
    assert_eq!(refused, 429);
    world.stop().await;
}

#[tokio::test]
async fn signing_in_as_another_ends_the_session_before() {
    let world = World::start().await;
    let (_, mut browser) = world.person("ada@example.org", "Ada", &[]).await;
    let _ = world.person("bob@example.org", "Bob", &[]).await;
    let old = browser.cookies.clone();
    browser.sign_in("bob@example.org", PASSWORD).await;
    assert!(browser.get("/account").await.body.contains("bob@example.org"));
    browser.cookies = old;
    assert_eq!(browser.get("/account").await.location(), Some("/sign-in"), "the old cookie is dead");
    world.stop().await;
}

#[tokio::test]
async fn attempts_side_by_side_are_all_counted() {
    let world = World::start().await;
    let _ = world.person("ada@example.org", "Ada", &[]).await;
    let one = async || world.browser().sign_in("ada@example.org", "wrong wrong wrong").await.status;
    let (a, b, c, d, e, f, g, h) = tokio::join!(one(), one(), one(), one(), one(), one(), one(), one());
    let all = [a, b, c, d, e, f, g, h];
    assert_eq!(all.iter().filter(|status| **status == 401).count(), 5, "{all:?}");
    assert_eq!(all.iter().filter(|status| **status == 429).count(), 3, "{all:?}");
    world.stop().await;
}
