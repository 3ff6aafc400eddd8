//! A running identity role on loopback, and a browser that keeps cookies.

use std::{collections::BTreeMap, net::TcpListener, path::PathBuf, sync::Arc, time::Duration};

use api::{
    Secret,
    client::Client as Control,
    context::{ContextFile, RoleFile, secret},
    identity::{Client, IdentityConfig, UserAnswer, UserRequest},
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use service::{Clock, Context, Listener, Shutdown};

pub const PASSWORD: &str = "violet tractor seven";
pub const CALLBACK: &str = "https://127.0.0.1:9/signin-oidc";
pub const AFTER_LOGOUT: &str = "https://127.0.0.1:9/bye";
pub const TENANT: &str = "7f3c2a90-1111-4222-8333-444455556666";

/// What survives the role: its folder, its listening socket, its certificate, its root key.
pub struct Place {
    pub folder: tempfile::TempDir,
    pub listener: TcpListener,
    pub port: u16,
    pub cert_pem: String,
    pub key_pem: String,
    pub root: Secret,
    pub clock: Clock,
    /// Authorities that the role trusts beyond the machine's.
    pub trusts: String,
}

pub struct World {
    pub place: Place,
    pub control: Control,
    shutdown: Shutdown,
    task: tokio::task::JoinHandle<Result<(), identity::Error>>,
    tls: Arc<rustls::ClientConfig>,
}

impl Place {
    pub fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    /// A place whose folder lies in `folder`.
    pub fn within(folder: &std::path::Path) -> Self {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            folder: tempfile::tempdir_in(folder).unwrap(),
            port: listener.local_addr().unwrap().port(),
            listener,
            cert_pem: cert.pem(),
            key_pem: signing_key.serialize_pem(),
            root: Secret::new("root-of-the-test"),
            clock: Clock::moved_by(0),
            trusts: String::new(),
        }
    }

    pub fn issuer(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    pub fn config(&self) -> IdentityConfig {
        IdentityConfig {
            issuer: self.issuer(),
            tenant: TENANT.into(),
            title: "Time Tracker".into(),
            clients: vec![
                Client {
                    id: "web".into(),
                    title: "Time Tracker".into(),
                    redirect_uris: vec![CALLBACK.into(), "https://127.0.0.1:9/other?x=1".into()],
                    post_logout_redirect_uris: vec![AFTER_LOGOUT.into()],
                    ..Client::default()
                },
                Client {
                    id: "other".into(),
                    title: "Other".into(),
                    redirect_uris: vec!["https://127.0.0.1:9/o".into()],
                    post_logout_redirect_uris: vec![],
                    ..Client::default()
                },
            ],
            groups: vec!["staff".into()],
            admin_group: "administrators".into(),
            workloads: vec!["service.web".into(), "service.api".into()],
            ..IdentityConfig::default()
        }
    }

    fn control_path(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    pub fn context(&self) -> Context {
        let mut context = Context::for_test(self.folder.path());
        context.resource = "identity.main".into();
        context.clock = self.clock.clone();
        context.ca_pem = self.trusts.clone().into_bytes();
        context.secrets.insert(secret::TLS_CERT, Secret::new(&*self.cert_pem));
        context.secrets.insert(secret::TLS_KEY, Secret::new(&*self.key_pem));
        context.secrets.insert(secret::IDENTITY_ROOT, self.root.clone());
        context.listeners.insert("https", Listener::Tcp(self.listener.try_clone().unwrap()));
        let _ = std::fs::remove_file(self.control_path());
        let control = std::os::unix::net::UnixListener::bind(self.control_path()).unwrap();
        context.listeners.insert("control", Listener::Unix(control));
        context
    }

    pub fn write_config(&self, config: &IdentityConfig) {
        let file = RoleFile { version: 1, context: ContextFile::default(), config: config.clone() };
        std::fs::write(self.folder.path().join("config.json"), serde_json::to_vec(&file).unwrap()).unwrap();
    }
}

impl World {
    pub async fn start() -> Self {
        Self::start_at(Place::new()).await
    }

    pub async fn start_at(place: Place) -> Self {
        let config = place.config();
        Self::start_with(place, config).await
    }

    pub async fn start_with(place: Place, config: IdentityConfig) -> Self {
        service::tls::install_provider();
        let context = place.context();
        place.write_config(&config);
        let shutdown = context.shutdown.clone();
        let task = tokio::spawn(identity::run(config, context));
        let tls = api::client::trust(place.cert_pem.as_bytes()).unwrap();
        let control = Control::unix(place.control_path());
        Self { place, control, shutdown, task, tls }
    }

    /// A client of the role as our own programs have it.
    pub fn client(&self) -> Control {
        let base = self.place.issuer().parse().unwrap();
        Control::new(api::client::Target::Https { base, tls: self.tls.clone(), hosts: Arc::default() })
    }

    /// Ends the role as SIGTERM does.
    pub async fn stop(self) -> Place {
        self.shutdown.ask();
        self.task.await.unwrap().unwrap();
        self.place
    }

    pub async fn add(&self, email: &str, name: &str, groups: &[&str]) -> UserAnswer {
        let groups = groups.iter().map(|g| (*g).to_owned()).collect();
        let request = UserRequest { email: email.into(), name: name.into(), groups };
        self.control.post("/admin/users", &request).await.unwrap()
    }

    /// Adds a person and lets them choose [`PASSWORD`]. The browser is signed in.
    pub async fn person(&self, email: &str, name: &str, groups: &[&str]) -> (String, Browser<'_>) {
        let added = self.add(email, name, groups).await;
        let link = added.link.unwrap();
        let mut browser = self.browser();
        let page = browser.get(link.strip_prefix(&self.place.issuer()).unwrap()).await;
        assert_eq!(page.status, 200, "{}", page.body);
        let token = page.hidden("token");
        let done =
            browser.submit(&page, "/first", &[("token", &token), ("password", PASSWORD), ("again", PASSWORD)]).await;
        assert_eq!((done.status, done.location()), (303, Some("/account")), "{}", done.body);
        (added.id, browser)
    }

    pub fn browser(&self) -> Browser<'_> {
        Browser { world: self, cookies: BTreeMap::new() }
    }

    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        send(self.place.port, self.tls.clone(), method, path, headers, body).await
    }

    pub fn client_secret(&self, id: &str) -> String {
        self.place.root.derive(&format!("client:{id}")).expose().to_owned()
    }

    /// `POST /token` as client `web`, its secret in the form.
    pub async fn token(&self, fields: &[(&str, &str)]) -> Answer {
        let secret = self.client_secret("web");
        let mut all = vec![("client_id", "web"), ("client_secret", &secret)];
        all.extend(fields);
        self.send("POST", "/token", &[FORM], &form(&all)).await
    }

    pub async fn workload_token(&self, workload: &str, key: &str, resource: &str) -> Answer {
        let body = serde_json::json!({ "workload": workload, "resource": resource }).to_string();
        let bearer = format!("Bearer {key}");
        self.send("POST", "/workload/token", &[("authorization", &bearer), ("content-type", "application/json")], &body)
            .await
    }

    pub fn workload_key(&self, workload: &str) -> String {
        self.place.root.derive(&format!("workload:{workload}")).expose().to_owned()
    }

    pub async fn userinfo(&self, access_token: &str) -> Answer {
        self.send("GET", "/userinfo", &[("authorization", &format!("Bearer {access_token}"))], "").await
    }

    /// Checks a token with the published keys, as any relying party does, and gives its claims.
    pub async fn verify(&self, token: &str, audience: &str) -> Result<Value, String> {
        let jwks: jsonwebtoken::jwk::JwkSet =
            serde_json::from_value(self.send("GET", "/jwks", &[], "").await.json()).unwrap();
        let header = jsonwebtoken::decode_header(token).map_err(|e| e.to_string())?;
        let jwk = jwks.find(&header.kid.unwrap()).ok_or("unknown kid")?;
        let key = jsonwebtoken::DecodingKey::from_jwk(jwk).unwrap();
        let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::RS256);
        rules.set_audience(&[audience]);
        rules.set_issuer(&[self.place.issuer()]);
        rules.validate_exp = false;
        jsonwebtoken::decode::<Value>(token, &key, &rules).map(|t| t.claims).map_err(|e| e.to_string())
    }
}

pub const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

pub fn form(fields: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn location(&self) -> Option<&str> {
        self.headers.get("location").map(|v| v.to_str().unwrap())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {} {}", self.status, self.body))
    }

    /// A parameter of the address it leads to.
    pub fn led_with(&self, name: &str) -> Option<String> {
        let url = url::Url::parse(self.location()?).ok()?;
        url.query_pairs().find(|(n, _)| n == name).map(|(_, value)| value.into_owned())
    }

    /// The value of a hidden input on the page.
    pub fn hidden(&self, name: &str) -> String {
        let start = format!("<input type=\"hidden\" name=\"{name}\" value=\"");
        let at = self.body.find(&start).unwrap_or_else(|| panic!("no hidden {name} in {}", self.body)) + start.len();
        let value = &self.body[at..at + self.body[at..].find('"').unwrap()];
        value.replace("&#38;", "&").replace("&#34;", "\"").replace("&#39;", "'").replace("&amp;", "&")
    }
}

/// Keeps cookies as a browser does.
pub struct Browser<'a> {
    world: &'a World,
    pub cookies: BTreeMap<String, String>,
}

impl Browser<'_> {
    pub async fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, "").await
    }

    pub async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Answer {
        self.send("POST", path, &form(fields)).await
    }

    /// Posts with the form token of `page`.
    pub async fn submit(&mut self, page: &Answer, path: &str, fields: &[(&str, &str)]) -> Answer {
        let token = page.hidden("form");
        let mut all = vec![("form", token.as_str())];
        all.extend(fields);
        self.post(path, &all).await
    }

    pub async fn sign_in(&mut self, email: &str, password: &str) -> Answer {
        let page = self.get("/sign-in").await;
        self.submit(&page, "/sign-in", &[("email", email), ("password", password)]).await
    }

    async fn send(&mut self, method: &str, path: &str, body: &str) -> Answer {
        let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookies = cookies.join("; ");
        let mut headers = vec![FORM];
        if !cookies.is_empty() {
            headers.push(("cookie", &cookies));
        }
        let answer = self.world.send(method, path, &headers, body).await;
        for cookie in answer.headers.get_all("set-cookie") {
            let text = cookie.to_str().unwrap();
            assert!(text.starts_with("__Host-"), "{text}");
            assert!(text.contains("; Path=/; Secure; HttpOnly; SameSite=Lax"), "{text}");
            let (pair, rest) = text.split_once(';').unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            if rest.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.into(), value.into());
            }
        }
        answer
    }
}

/// One request on a connection of its own.
pub async fn send(
    port: u16,
    tls: Arc<rustls::ClientConfig>,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let whole = async {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
        let stream = tokio_rustls::TlsConnector::from(tls).connect(name, stream).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = http::Request::builder().method(method).uri(path).header("host", format!("127.0.0.1:{port}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap();
        let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: String::from_utf8(body.to_vec()).unwrap(),
        }
    };
    tokio::time::timeout(Duration::from_secs(60), whole).await.expect("an answer within a minute")
}

/// Asks again and again until `what` holds.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let asking = async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), asking)
        .await
        .unwrap_or_else(|_| panic!("not within a minute: {what}"));
}
