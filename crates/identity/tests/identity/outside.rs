//! People whom somebody else vouches for: another identity role as outside issuer, and a real directory (OpenLDAP's slapd).

use std::{
    collections::BTreeMap,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use api::identity::{Client, Directory, OutsideIssuer, VaultSecret};
use axum::{Json, Router, extract, http::HeaderMap, routing::get};
use serde_json::json;
use service::{Listener, Shutdown};

use crate::world::{Answer, Browser, PASSWORD, Place, World, form};

const BIND: &str = "password of the stamp's own account";

/// A vault that gives each of its secrets to whoever asks, and keeps what was shown to it.
struct Vault {
    url: String,
    cert_pem: String,
    shown: Arc<Mutex<Vec<String>>>,
    shutdown: Shutdown,
}

impl Vault {
    fn start(secrets: BTreeMap<String, String>) -> Self {
        service::tls::install_provider();
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let pair = (api::Secret::new(cert.pem()), api::Secret::new(signing_key.serialize_pem()));
        let certificate = service::Certificate::new(&pair.0, &pair.1).unwrap();
        let tls = service::tls::showing(certificate, &[], false).unwrap();
        let shown: Arc<Mutex<Vec<String>>> = Arc::default();
        let (keep, shutdown) = (shown.clone(), Shutdown::default());
        let give = move |extract::Path(name): extract::Path<String>, headers: HeaderMap| {
            keep.lock().unwrap().push(headers["authorization"].to_str().unwrap().to_owned());
            let value = secrets.get(&name).cloned().unwrap_or_default();
            async move { Json(json!({ "value": value })) }
        };
        let routes = Router::new().route("/secrets/{name}", get(give));
        tokio::spawn(service::serve(
            Listener::Tcp(listener),
            Some(tls),
            routes,
            service::Limits::default(),
            shutdown.clone(),
        ));
        Self { url, cert_pem: cert.pem(), shown, shutdown }
    }

    fn secret(&self, name: &str) -> VaultSecret {
        VaultSecret { vault: self.url.clone(), name: name.into() }
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        self.shutdown.ask();
    }
}

/// An issuer, and a stamp's identity whose people may sign in there.
async fn two() -> (World, World, Vault) {
    let (outer, inner) = (Place::new(), Place::new());
    let mut config = outer.config();
    config.clients.push(Client {
        id: "inner".into(),
        title: "The other".into(),
        redirect_uris: vec![format!("{}/outside/central/callback", inner.issuer())],
        ..Client::default()
    });
    let secret = outer.root.derive("client:inner").expose().to_owned();
    let outer = World::start_with(outer, config).await;
    let vault = Vault::start(BTreeMap::from([("Central--ClientSecret".to_owned(), secret)]));
    let mut config = inner.config();
    config.issuers = vec![OutsideIssuer {
        name: "central".into(),
        title: "Central".into(),
        issuer: outer.place.issuer(),
        client_id: "inner".into(),
        secret: Some(vault.secret("Central--ClientSecret")),
        domains: vec!["central.example".into()],
        groups_claim: "groups".into(),
        groups: BTreeMap::from([("staff".into(), "staff".into())]),
    }];
    let trusts = format!("{}\n{}", outer.place.cert_pem, vault.cert_pem);
    let inner = World::start_with(Place { trusts, ..inner }, config).await;
    (outer, inner, vault)
}

/// Goes where an answer leads, at whichever of the two.
fn path_at<'a>(world: &World, answer: &'a Answer) -> &'a str {
    let to = answer.location().unwrap_or_else(|| panic!("{} {}", answer.status, answer.body));
    to.strip_prefix(&world.place.issuer()).unwrap_or(to)
}

/// A whole sign-in at the issuer; the answer to the callback.
async fn around(there: &mut Browser<'_>, here: &mut Browser<'_>, outer: &World, inner: &World) -> Answer {
    let begun = here.get("/outside/central").await;
    let back = there.get(path_at(outer, &begun)).await;
    here.get(path_at(inner, &back)).await
}

#[tokio::test]
async fn an_outside_issuer_vouches_for_a_person() {
    let (outer, inner, vault) = two().await;
    let (_, mut there) = outer.person("ada@central.example", "Ada", &["staff", "administrators"]).await;
    let mut here = inner.browser();
    let page = here.get("/sign-in").await;
    assert!(page.body.contains("Sign in with Central") && page.body.contains("/outside/central"), "{}", page.body);
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.contains(&outer.place.issuer()), "{policy}");

    let done = around(&mut there, &mut here, &outer, &inner).await;
    assert_eq!((done.status, done.location()), (303, Some("/account")), "{}", done.body);
    let account = here.get("/account").await;
    assert!(account.status == 200 && account.body.contains("ada@central.example"), "{}", account.body);
    // What is mapped is given, and nothing else: administrators there are nobody here.
    let known: Vec<api::identity::User> = inner.control.get("/admin/users").await.unwrap();
    assert_eq!(known[0].groups, ["staff"]);
    // The vault was asked by the role itself, with a token of its own that is good there alone.
    let shown = vault.shown.lock().unwrap().last().unwrap().clone();
    let claims = inner.verify(shown.strip_prefix("Bearer ").unwrap(), "https://vault.azure.net").await.unwrap();
    assert_eq!(claims["sub"], "identity.main");

    // The same person again is the same account; used up, an answer is nobody's.
    let mut again = inner.browser();
    let done = around(&mut there, &mut again, &outer, &inner).await;
    assert_eq!(done.status, 303);
    let known: Vec<api::identity::User> = inner.control.get("/admin/users").await.unwrap();
    assert_eq!(known.len(), 1);
    // Disabled here, whatever is said there.
    let _: api::identity::User = inner.control.post("/admin/users/ada@central.example/disable", &()).await.unwrap();
    let refused = around(&mut there, &mut inner.browser(), &outer, &inner).await;
    assert!(refused.status == 401 && refused.body.contains("disabled"), "{}", refused.body);
    inner.stop().await;
    outer.stop().await;
}

#[tokio::test]
async fn an_answer_is_good_once_in_the_browser_that_asked() {
    let (outer, inner, _vault) = two().await;
    let (_, mut there) = outer.person("ada@central.example", "Ada", &[]).await;
    let (_, mut eve) = outer.person("eve@central.example", "Eve", &[]).await;
    let mut here = inner.browser();
    let begun = here.get("/outside/central").await;
    let back = there.get(path_at(&outer, &begun)).await;
    let answer = path_at(&inner, &back).to_owned();
    // Another browser, that of somebody who was sent the address.
    assert_eq!(inner.browser().get(&answer).await.status, 401);
    // Another's code in place of the own: it was asked for with another verifier.
    let mut eves = inner.browser();
    let begun = eves.get("/outside/central").await;
    let stolen = eve.get(path_at(&outer, &begun)).await.led_with("code").unwrap();
    let own = back.led_with("code").unwrap();
    let swapped = answer.replace(&own, &stolen);
    assert_ne!(swapped, answer);
    let refused = here.get(&swapped).await;
    assert_eq!(refused.status, 401, "{}", refused.body);
    assert!(!here.cookies.contains_key("__Host-session"));
    // And after that the question is used up.
    assert_eq!(here.get(&answer).await.status, 401);
    for wrong in [
        "/outside/central/callback".to_owned(),
        "/outside/nobody".to_owned(),
        "/outside/nobody/callback?state=x&code=y".to_owned(),
    ] {
        assert!([401, 404].contains(&inner.browser().get(&wrong).await.status), "{wrong}");
    }
    // An answer that says it is another issuer's, or an error.
    for fields in [[("iss", "https://other.example"), ("code", "c")], [("iss", "-"), ("error", "access_denied")]] {
        let mut here = inner.browser();
        let begun = here.get("/outside/central").await;
        let state = begun.led_with("state").unwrap();
        let issuer = outer.place.issuer();
        let fields = fields.map(|(name, value)| (name, if value == "-" { issuer.as_str() } else { value }));
        let path = format!("/outside/central/callback?{}&{}", form(&[("state", &state)]), form(&fields));
        assert_eq!(here.get(&path).await.status, 401);
    }
    inner.stop().await;
    outer.stop().await;
}

#[tokio::test]
async fn an_address_leads_home_and_never_takes_an_account_over() {
    let (outer, inner, _vault) = two().await;
    // An account here with the address, and a password: not the issuer's to take, and not a way past it.
    let (_, _) = inner.person("ada@central.example", "Ada", &[]).await;
    let led = inner.browser().sign_in("ada@central.example", PASSWORD).await;
    assert_eq!(led.status, 303, "{}", led.body);
    assert!(
        led.location().unwrap().starts_with(&format!("{}/authorize?", outer.place.issuer())),
        "{:?}",
        led.location()
    );
    assert_eq!(led.led_with("login_hint").as_deref(), Some("ada@central.example"));
    let (_, mut there) = outer.person("ada@central.example", "Ada", &[]).await;
    let taken = around(&mut there, &mut inner.browser(), &outer, &inner).await;
    assert!(taken.status == 409 && taken.body.contains("already"), "{}", taken.body);

    // The issuer is down: said so, and nobody is let in by a password.
    outer.stop().await;
    let (_, _) = inner.person("root@here.example", "Root", &["administrators"]).await;
    let place = inner.stop().await;
    let config = place.config();
    let mut config = config;
    config.issuers = vec![OutsideIssuer {
        name: "central".into(),
        title: "Central".into(),
        issuer: "https://127.0.0.1:9".into(),
        client_id: "inner".into(),
        secret: None,
        domains: vec!["central.example".into()],
        groups_claim: "groups".into(),
        groups: BTreeMap::new(),
    }];
    let inner = World::start_with(place, config).await;
    let down = inner.browser().sign_in("ada@central.example", PASSWORD).await;
    assert!(down.status == 503 && down.body.contains("Central does not answer"), "{} {}", down.status, down.body);
    assert_eq!(inner.browser().sign_in("root@here.example", PASSWORD).await.status, 303, "others sign in as before");
    inner.stop().await;
}

/// OpenLDAP's server, unpacked from Debian's packages into `STAMP_SLAPD` or installed; with two people and a group.
struct Slapd {
    child: Child,
    folder: tempfile::TempDir,
    ldaps: u16,
    plain: u16,
    cert_pem: String,
}

const LDIF: &str = "dn: dc=example,dc=org
objectClass: domain
dc: example

dn: cn=stamp,dc=example,dc=org
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: stamp
userPassword: password of the stamp's own account

dn: uid=ada,dc=example,dc=org
objectClass: inetOrgPerson
uid: ada
cn: Ada Lovelace
sn: Lovelace
mail: ada@site.example
userPassword: violet tractor seven

dn: uid=bob,dc=example,dc=org
objectClass: inetOrgPerson
uid: bob
cn: Bob
sn: B
mail: bob@site.example
userPassword: violet tractor seven

dn: uid=twin,dc=example,dc=org
objectClass: inetOrgPerson
uid: twin
cn: Twin
sn: B
mail: bob@site.example
userPassword: violet tractor seven

dn: cn=auditors,dc=example,dc=org
objectClass: groupOfNames
cn: auditors
member: uid=ada,dc=example,dc=org
";

impl Slapd {
    fn start() -> Option<Self> {
        let root = std::env::var_os("STAMP_SLAPD").map_or_else(|| PathBuf::from("/"), PathBuf::from);
        let program = root.join("usr/sbin/slapd");
        let required = std::env::var("STAMP_REQUIRE").unwrap_or_default().split(',').any(|word| word == "slapd");
        if !program.is_file() {
            assert!(!required, "{} is not there", program.display());
            eprintln!(
                "SKIP: no OpenLDAP at {} (STAMP_SLAPD names the folder its packages are unpacked in)",
                program.display()
            );
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(at("cert.pem"), cert.pem()).unwrap();
        std::fs::write(at("key.pem"), signing_key.serialize_pem()).unwrap();
        std::fs::write(at("people.ldif"), LDIF).unwrap();
        std::fs::create_dir(at("db")).unwrap();
        let schema = root.join("etc/ldap/schema");
        let schema: String =
            ["core", "cosine", "inetorgperson"].map(|n| format!("include {}/{n}.schema\n", schema.display())).concat();
        let config = format!(
            "{schema}modulepath {}\nmoduleload back_mdb\npidfile {}\nTLSCertificateFile {}\nTLSCertificateKeyFile {}\n\
             security simple_bind=128\nallow bind_anon_dn\ndatabase mdb\nsuffix \"dc=example,dc=org\"\ndirectory {}\n\
             access to attrs=userPassword by anonymous auth by * none\naccess to * by users read by * none\n",
            root.join("usr/lib/ldap").display(),
            at("pid"),
            at("cert.pem"),
            at("key.pem"),
            at("db"),
        );
        std::fs::write(at("slapd.conf"), config).unwrap();
        let command = |program: &Path| {
            let mut command = Command::new(program);
            command.env("LD_LIBRARY_PATH", root.join("usr/lib/x86_64-linux-gnu"));
            command.stdin(Stdio::null()).stdout(Stdio::null());
            command
        };
        // One program, told by its name what to do.
        let add = folder.path().join("slapadd");
        std::os::unix::fs::symlink(&program, &add).unwrap();
        let added = command(&add).args(["-f", &at("slapd.conf"), "-l", &at("people.ldif")]).status().unwrap();
        assert!(added.success());
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (ldaps, plain) = (free(), free());
        let urls = format!("ldaps://127.0.0.1:{ldaps}/ ldap://127.0.0.1:{plain}/");
        let child = command(&program).args(["-f", &at("slapd.conf"), "-h", &urls, "-d", "0"]).spawn().unwrap();
        Some(Self { child, folder, ldaps, plain, cert_pem: cert.pem() })
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Slapd {
    fn drop(&mut self) {
        self.end();
        let _ = &self.folder;
    }
}

#[tokio::test]
async fn a_directory_judges_the_passwords_of_its_people() {
    let Some(mut slapd) = Slapd::start() else { return };
    crate::world::until("the directory listens", || async {
        tokio::net::TcpStream::connect(("127.0.0.1", slapd.ldaps)).await.is_ok()
    })
    .await;
    let vault = Vault::start(BTreeMap::from([("Directory--Bind".to_owned(), BIND.to_owned())]));
    let place = Place { trusts: format!("{}\n{}", slapd.cert_pem, vault.cert_pem), ..Place::new() };
    let directory = |url: String| Directory {
        url,
        base: "dc=example,dc=org".into(),
        bind: "cn=stamp,dc=example,dc=org".into(),
        secret: vault.secret("Directory--Bind"),
        domains: vec!["site.example".into()],
        login: "mail".into(),
        groups: BTreeMap::from([("staff".into(), "CN=Auditors".into())]),
    };
    let mut config = place.config();
    config.directory = Some(directory(format!("ldaps://127.0.0.1:{}", slapd.ldaps)));
    let world = World::start_with(place, config.clone()).await;

    let mut browser = world.browser();
    let done = browser.sign_in("ada@site.example", PASSWORD).await;
    assert_eq!((done.status, done.location()), (303, Some("/account")), "{}", done.body);
    let known: Vec<api::identity::User> = world.control.get("/admin/users").await.unwrap();
    assert_eq!((known[0].name.as_str(), known[0].groups.as_slice()), ("Ada Lovelace", ["staff".to_owned()].as_slice()));
    assert!(!known[0].has_password, "no password of theirs is kept");

    // Wrong, empty, of nobody, of two, and what would be another question.
    for (email, password) in [
        ("ada@site.example", "wrong wrong wrong"),
        ("ada@site.example", ""),
        ("nobody@site.example", PASSWORD),
        ("bob@site.example", PASSWORD),
        ("*@site.example", PASSWORD),
        ("ada)(uid=*@site.example", PASSWORD),
    ] {
        let refused = world.browser().sign_in(email, password).await;
        assert_eq!(refused.status, 401, "{email}: {}", refused.body);
        assert!(!refused.headers.get_all("set-cookie").iter().any(|c| c.to_str().unwrap().contains("session")));
    }

    // Down: said so, with 503, and nobody is let in in another way.
    slapd.end();
    let down = world.browser().sign_in("ada@site.example", PASSWORD).await;
    assert!(down.status == 503 && down.body.contains("directory does not answer"), "{} {}", down.status, down.body);
    assert!(down.headers.contains_key("retry-after"));
    world.stop().await;

    // Plain, it is spoken to after StartTLS only, and a certificate of nobody known ends it before a password is sent.
    let Some(slapd) = Slapd::start() else { return };
    crate::world::until("the directory listens", || async {
        tokio::net::TcpStream::connect(("127.0.0.1", slapd.plain)).await.is_ok()
    })
    .await;
    for (trusts, status) in [(format!("{}\n{}", slapd.cert_pem, vault.cert_pem), 303), (vault.cert_pem.clone(), 503)] {
        let place = Place { trusts, ..Place::new() };
        let mut config = place.config();
        config.directory = Some(directory(format!("ldap://127.0.0.1:{}", slapd.plain)));
        let world = World::start_with(place, config).await;
        let answer = world.browser().sign_in("ada@site.example", PASSWORD).await;
        assert_eq!(answer.status, status, "{}", answer.body);
        world.stop().await;
    }
}
