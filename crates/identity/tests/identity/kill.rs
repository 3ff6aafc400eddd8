//! `kill -9` loses nothing that was acknowledged.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Stdio},
};

use crate::world::{PASSWORD, Place, World, send};

const FOLDER: &str = "IDENTITY_TEST_FOLDER";

/// The role in a process of its own, started by the test below; ends when its stdin does.
#[test]
#[ignore = "started and killed by a_killed_role_comes_back_with_its_people_sessions_and_keys"]
fn the_role_alone() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // Below the folder of the test, which removes it: this process will have no time to.
        let place = Place::within(folder.as_ref());
        std::fs::write(format!("{folder}/cert.pem"), &place.cert_pem).unwrap();
        let mut config = place.config();
        config.issuer = "https://127.0.0.1".into();
        let mut context = place.context();
        context.data = folder.into();
        println!("port {}", place.port);
        std::thread::spawn(|| {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            std::process::exit(0);
        });
        println!("control {}", place.folder.path().join("control.sock").display());
        identity::run(config, context).await.unwrap();
    });
}

#[tokio::test]
async fn a_killed_role_comes_back_with_its_people_sessions_and_keys() {
    service::tls::install_provider();
    let place = Place::new();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::the_role_alone", "--ignored", "--nocapture"])
        .env(FOLDER, place.folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut said = |word: &str| {
        let line = lines.find(|line| line.contains(word)).unwrap();
        line.split_whitespace().last().unwrap().to_owned()
    };
    let port: u16 = said("port ").parse().unwrap();
    let control = api::client::Client::unix(said("control "));
    let request = api::identity::UserRequest {
        email: "ada@example.org".into(),
        name: "Ada".into(),
        groups: vec!["staff".into()],
    };
    let added: api::identity::UserAnswer = control.post("/admin/users", &request).await.unwrap();
    let link = added.link.unwrap();
    let path = link.strip_prefix("https://127.0.0.1").unwrap();

    let tls = api::client::trust(&std::fs::read(place.folder.path().join("cert.pem")).unwrap()).unwrap();
    let page = send(port, tls.clone(), "GET", path, &[], "").await;
    let browser = page.headers["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let (form, token) = (page.hidden("form"), page.hidden("token"));
    let fields = [("form", &*form), ("token", &*token), ("password", PASSWORD), ("again", PASSWORD)];
    let headers = [crate::world::FORM, ("cookie", &*browser)];
    let done = send(port, tls.clone(), "POST", "/first", &headers, &crate::world::form(&fields)).await;
    assert_eq!(done.status, 303, "{}", done.body);
    let session = done.headers["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let body = r#"{"workload":"service.web","resource":"https://a"}"#;
    let key = format!("Bearer {}", place.root.derive("workload:service.web").expose());
    let minted = send(port, tls, "POST", "/workload/token", &[("authorization", &key)], body).await.json();

    // The answer has only just arrived: nothing had time to be written later.
    child.kill().unwrap();
    child.wait().unwrap();

    let world = World::start_at(place).await;
    let account = world.send("GET", "/account", &[("cookie", &session)], "").await;
    assert_eq!(account.status, 200, "the session lives");
    assert!(account.body.contains("ada@example.org"));
    assert_eq!(world.browser().sign_in("ada@example.org", PASSWORD).await.status, 303);
    let kid = jsonwebtoken::decode_header(minted["access_token"].as_str().unwrap()).unwrap().kid.unwrap();
    assert!(world.send("GET", "/jwks", &[], "").await.body.contains(&kid), "the key lives");
    world.stop().await;
}
