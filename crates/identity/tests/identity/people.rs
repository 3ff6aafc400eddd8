//! People, as administrators and the supervisor see them.

use api::identity::{User, UserGroups, UserRequest};

use crate::world::{PASSWORD, World};

#[tokio::test]
async fn the_supervisor_makes_the_first_administrator_by_the_control_socket() {
    let world = World::start().await;
    let health: serde_json::Value = world.control.get("/health").await.unwrap();
    assert_eq!(health["status"], "ok");
    let first = world.add("ada@example.org", "Ada", &["administrators"]).await;
    assert!(first.created);
    let again = world.add("ADA@example.org", "Somebody else", &["staff"]).await;
    assert_eq!((again.id.as_str(), again.created), (first.id.as_str(), false));
    assert_ne!(first.link, again.link);
    let users: Vec<User> = world.control.get("/admin/users").await.unwrap();
    assert_eq!(users.len(), 1);
    assert_eq!((users[0].name.as_str(), users[0].has_password), ("Ada", false));
    assert_eq!(users[0].groups, ["administrators", "staff"]);

    for (email, name, group) in [("nonsense", "N", "staff"), ("a@b", "", "staff"), ("a@b", "A", "nobody")] {
        let request = UserRequest { email: email.into(), name: name.into(), groups: vec![group.into()] };
        let refused = world.control.post::<_, serde_json::Value>("/admin/users", &request).await.unwrap_err();
        assert_eq!(refused.status(), Some(400));
    }
    let moved = async |email: &str, groups: &[&str]| {
        let groups = groups.iter().map(|g| (*g).to_owned()).collect();
        let wanted = UserGroups { email: email.into(), groups };
        world.control.post::<_, User>("/admin/groups", &wanted).await
    };
    let refused = moved("ada@example.org", &["staff"]).await.unwrap_err();
    assert_eq!(refused.status(), Some(409), "the last administrator stays one");
    let only = moved("ada@example.org", &["administrators"]).await.unwrap();
    assert_eq!(only.groups, ["administrators"]);
    assert_eq!(world.control.get::<Vec<User>>("/admin/users").await.unwrap(), [only]);
    assert_eq!(moved("ada@example.org", &["nobody"]).await.unwrap_err().status(), Some(400));
    assert_eq!(moved("nobody@example.org", &["staff"]).await.unwrap_err().status(), Some(404));

    let gone = world.control.post::<_, User>("/admin/users/nobody@example.org/disable", &()).await.unwrap_err();
    assert_eq!(gone.status(), Some(404));
    let last = world.control.post::<_, User>("/admin/users/ada@example.org/disable", &()).await.unwrap_err();
    assert_eq!(last.status(), Some(409), "the last administrator stays");
    world.stop().await;
}

#[tokio::test]
async fn a_first_link_sets_a_password_once() {
    let world = World::start().await;
    let link = world.add("ada@example.org", "Ada", &[]).await.link.unwrap();
    let path = link.strip_prefix(&world.place.issuer()).unwrap();
    let mut browser = world.browser();
    let page = browser.get(path).await;
    let token = page.hidden("token");
    for (password, again, word) in [
        ("short", "short", "at least 12"),
        ("password1234", "password1234", "everybody tries"),
        ("ada@example.org", "ada@example.org", "your own name"),
        (PASSWORD, "something else", "not the same"),
    ] {
        let fields = [("token", &*token), ("password", password), ("again", again)];
        let answer = browser.submit(&page, "/first", &fields).await;
        assert_eq!(answer.status, 422);
        assert!(answer.body.contains(word), "{}", answer.body);
    }
    let fields = [("token", &*token), ("password", PASSWORD), ("again", PASSWORD)];
    assert_eq!(browser.submit(&page, "/first", &fields).await.status, 303);
    assert_eq!(browser.get("/account").await.status, 200);
    let mut other = world.browser();
    assert_eq!(other.get(path).await.status, 410, "it worked once");
    assert_eq!(other.sign_in("ada@example.org", PASSWORD).await.status, 303);

    let late = world.add("bob@example.org", "Bob", &[]).await.link.unwrap();
    world.place.clock.set_offset_ms(24 * 3600 * 1000 + 1000);
    assert_eq!(world.browser().get(late.strip_prefix(&world.place.issuer()).unwrap()).await.status, 410);
    world.stop().await;
}

#[tokio::test]
async fn administrators_add_group_disable_and_link_people() {
    let world = World::start().await;
    let (root, mut admin) = world.person("root@example.org", "Root", &["administrators"]).await;
    let page = admin.get("/people/new").await;
    let fields = [("name", "Eve <b>"), ("email", "eve@example.org"), ("group[]", "staff"), ("group[]", "invented")];
    let added = admin.submit(&page, "/people/new", &fields).await;
    assert_eq!(added.status, 201, "{}", added.body);
    assert!(added.body.contains("/first?token="), "the link is shown once");
    assert!(!added.body.contains("Eve <b>"), "names are escaped");
    let twice = admin.submit(&page, "/people/new", &fields).await;
    assert_eq!(twice.status, 409);
    let users: Vec<User> = world.control.get("/admin/users").await.unwrap();
    let eve = users.iter().find(|u| u.email == "eve@example.org").unwrap();
    assert_eq!(eve.groups, ["staff"], "a group that does not exist is not given");

    let path = format!("/people/{}", eve.id);
    let page = admin.get(&path).await;
    let link = admin.submit(&page, &format!("{path}/link"), &[]).await;
    let at = link.body.find("/first?token=").unwrap();
    let first = link.body[at..].split('<').next().unwrap().to_owned();
    let mut eves = world.browser();
    let welcome = eves.get(&first).await;
    let token = welcome.hidden("token");
    let chosen = [("token", &*token), ("password", PASSWORD), ("again", PASSWORD)];
    assert_eq!(eves.submit(&welcome, "/first", &chosen).await.status, 303);
    assert_eq!(eves.get("/people").await.status, 403, "she is no administrator");

    let disabled = admin.submit(&page, &format!("{path}/disable"), &[]).await;
    assert_eq!(disabled.location(), Some(&*format!("{path}?done=disabled")));
    assert_eq!(eves.get("/account").await.location(), Some("/sign-in"), "signed out at once");
    assert_eq!(eves.sign_in("eve@example.org", PASSWORD).await.status, 401);
    admin.submit(&page, &format!("{path}/enable"), &[]).await;
    assert_eq!(eves.sign_in("eve@example.org", PASSWORD).await.status, 303);

    let promoted = admin.submit(&page, &format!("{path}/groups"), &[("group[]", "administrators")]).await;
    assert_eq!(promoted.status, 303);
    assert_eq!(eves.get("/people").await.status, 200, "groups count at once on our own pages");
    let own = format!("/people/{root}");
    let page = admin.get(&own).await;
    admin.submit(&page, &format!("{own}/groups"), &[("group[]", "staff")]).await;
    assert_eq!(admin.get("/people").await.status, 403, "and are lost at once");
    world.stop().await;
}

#[tokio::test]
async fn the_last_administrator_cannot_be_locked_out() {
    let world = World::start().await;
    let (root, mut admin) = world.person("root@example.org", "Root", &["administrators"]).await;
    let path = format!("/people/{root}");
    let page = admin.get(&path).await;
    for act in ["disable", "groups"] {
        let answer = admin.submit(&page, &format!("{path}/{act}"), &[]).await;
        assert_eq!(answer.status, 409);
        assert!(answer.body.contains("only administrator"), "{}", answer.body);
    }
    assert_eq!(admin.get("/people").await.status, 200);
    world.stop().await;
}

#[tokio::test]
async fn people_change_their_password_and_end_their_other_sessions() {
    let world = World::start().await;
    let (_, mut here) = world.person("ada@example.org", "Ada", &[]).await;
    let (_, mut bob) = world.person("bob@example.org", "Bob", &[]).await;
    let mut there = world.browser();
    there.sign_in("ada@example.org", PASSWORD).await;
    let page = here.get("/account").await;
    let at = page.body.find("/account/sessions/").unwrap();
    let end = page.body[at..].split('"').next().unwrap().to_owned();
    assert!(end.ends_with("/end"), "only the other session has the button: {end}");

    let bobs = bob.get("/account").await;
    assert_eq!(bob.submit(&bobs, &end, &[]).await.status, 404, "nobody ends another's session");
    assert_eq!(there.get("/account").await.status, 200);
    assert_eq!(here.submit(&page, &end, &[]).await.status, 303);
    assert_eq!(there.get("/account").await.location(), Some("/sign-in"));

    there.sign_in("ada@example.org", PASSWORD).await;
    let page = here.get("/account/password").await;
    let change = |current: &'static str| {
        [("current", current), ("password", "orange ladder nine"), ("again", "orange ladder nine")]
    };
    let wrong = here.submit(&page, "/account/password", &change("not it at all")).await;
    assert_eq!(wrong.status, 422);
    let done = here.submit(&page, "/account/password", &change(PASSWORD)).await;
    assert_eq!(done.location(), Some("/account?done=password"));
    assert_eq!(here.get("/account").await.status, 200);
    assert_eq!(there.get("/account").await.location(), Some("/sign-in"));
    assert_eq!(there.sign_in("ada@example.org", PASSWORD).await.status, 401);
    assert_eq!(there.sign_in("ada@example.org", "orange ladder nine").await.status, 303);

    let page = here.get("/account").await;
    assert_eq!(here.submit(&page, "/account/sessions/end-others", &[]).await.status, 303);
    assert_eq!(there.get("/account").await.location(), Some("/sign-in"));
    let page = here.get("/account").await;
    assert_eq!(here.submit(&page, "/sign-out", &[]).await.location(), Some("/signed-out"));
    assert_eq!(here.get("/account").await.location(), Some("/sign-in"));
    world.stop().await;
}
