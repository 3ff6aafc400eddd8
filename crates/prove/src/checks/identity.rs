//! Who is calling: people, workloads, strangers.

use serde_json::Value;

use crate::{
    Lab, Miss, Seen,
    browser::Browser,
    checks::vault::{files_with, folder},
    claim::Call,
    inside::{Ask, Saw, sha256},
    miss, must,
};

const VAULT: &str = "https://vault.azure.net";

/// `sign_in_needed(API PATH, SERVICE, GROUP)`: a service that has an identity (`web`), and a group of people (`user`).
pub async fn sign_in_needed(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let path = c.argument(0, "/api/v1/me");
    let mut stranger = Browser::stranger(&site)?;
    let nobody = stranger.get(path).await?.status;
    let client = site.client(&site.url("edge")?)?;
    // A good token of the platform, but not one for this application.
    let service = format!("service.{}", c.argument(1, "web"));
    let foreign = client.clone().bearer(site.token(&service, VAULT).await?).send("GET", path, None).await?;
    let altered =
        client.bearer(api::Secret::new("eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.")).send("GET", path, None).await?;
    let bad = [nobody, foreign.status.as_u16(), altered.status.as_u16()];
    must!(bad == [401, 401, 401], "without a token, with another's, with an unsigned one: {bad:?}");
    let mut person = site.person(&[c.argument(2, "user")]).await?;
    let (page, at) = person.try_sign_in("not the password").await?;
    must!(page.status != 200 || !page.text.contains("Sign out"), "a wrong password leads to {at}");
    must!(person.get(path).await?.status == 401, "after a wrong password the API answers");
    person.sign_in().await?;
    let me = person.get(path).await?;
    must!(me.status == 200, "signed in, {path} answers {}", me.status);
    Ok(format!("signed in by OpenID Connect: {path} {}; no token, another audience, unsigned: {bad:?}", me.status))
}

/// `own_token(SERVICE)`.
pub async fn own_token(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let service = c.argument(0, "web");
    let saw = site.inside(service, &[Ask::Token { resource: VAULT.into() }]).await?;
    let Some(Saw::Token { status: 200, claims, .. }) = saw.first() else { miss!("the endpoint answers {saw:?}") };
    let subject = claims["sub"].as_str().unwrap_or_default();
    must!(subject == format!("service.{service}"), "the token names `{subject}`");
    must!(claims["aud"] == VAULT, "the token is for {}", claims["aud"]);
    // The very header of the running service, from another process: ours, where the endpoint listens.
    let pid = site.pids(&format!("service.{service}")).get(1).copied().unwrap_or_default();
    let environment = std::fs::read_to_string(format!("/proc/{pid}/environ"))?;
    let of = |name: &str| environment.split('\0').find_map(|e| e.strip_prefix(&format!("{name}=")));
    let (Some(endpoint), Some(header)) = (of("IDENTITY_ENDPOINT"), of("IDENTITY_HEADER")) else {
        miss!("the running service has no identity endpoint")
    };
    let base: url::Url = endpoint.parse().map_err(|e| Miss::Failed(format!("{endpoint}: {e}")))?;
    let client = api::client::Client::new(api::client::Target::Http { base: base.clone() });
    let client = client.dialled(site.way(&format!("service.{service}")).ok().and_then(|way| way.dial()));
    let name = http::HeaderName::from_static("x-identity-header");
    let path = format!("{}?resource={VAULT}&api-version=2019-08-01", base.path());
    let there = client.header(name, header).send("GET", &path, None).await;
    let told = match there {
        Ok(answer) if answer.status.is_success() => miss!("another process with the same header gets a token"),
        Ok(answer) => answer.status.to_string(),
        Err(error) => error.to_string(),
    };
    Ok(format!(
        "from its own place: a token of {subject} for {VAULT}; from another process with the same header: {told}"
    ))
}

/// Whether the directory gives the workload a token: the status it answers.
async fn given(site: &crate::Site, workload: &str) -> Result<bool, Miss> {
    match site.token(workload, VAULT).await {
        Ok(token) => {
            let claims = crate::inside::claims(token.expose()).unwrap_or_default();
            must!(claims["sub"] == workload, "the token names {}", claims["sub"]);
            Ok(true)
        }
        Err(Miss::Failed(why)) if why.contains("refused to give") => Ok(false),
        Err(other) => Err(other),
    }
}

/// `identity_with_service(NAME[, each])`: a service that is not in the manifest; `each`: every service of the stamp gets a token
/// in its own place that names it.
pub async fn with_service(lab: &Lab, on: &str, c: &Call) -> Seen {
    let name = c.argument(0, "passing");
    let workload = format!("service.{name}");
    let site = lab.site(on).await?;
    must!(!given(&site, &workload).await?, "{workload} has an identity before it is there");
    let with = async {
        let site = lab.changed(on, &format!("[service.{name}]\nrun = [\"/bin/sleep\", \"3600\"]")).await?;
        given(&site, &workload).await
    }
    .await;
    let site = lab.restore(on).await?;
    must!(with?, "{workload} runs and has no identity");
    must!(!given(&site, &workload).await?, "{workload} is gone and its identity is not");
    let mut named = Vec::new();
    for (id, _) in site.system.services().filter(|_| c.argument(1, "") == "each") {
        let saw = site.inside(&id.name, &[Ask::Token { resource: VAULT.into() }]).await?;
        let Some(Saw::Token { status: 200, claims, .. }) = saw.first() else { miss!("{id} asks for a token: {saw:?}") };
        must!(claims["sub"] == id.to_string(), "the token of {id} names {}", claims["sub"]);
        named.push(format!("; the token of {id} names it"));
    }
    let named = named.concat();
    Ok(format!("{workload}: no token before it is there, a token of its own while it is, none after{named}"))
}

/// `token_is_presented(SERVICE, SECRET)`.
pub async fn token_is_presented(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let workload = format!("service.{}", c.argument(0, "web"));
    let path = format!("/secrets/{}?api-version=7.4", c.argument(1, ""));
    let token = site.token(&workload, VAULT).await?;
    let other = site.token(&workload, "https://storage.azure.com").await?;
    let middle = token.expose().len() / 2;
    let mut altered = token.expose().to_owned();
    let letter = if altered.as_bytes()[middle] == b'A' { "B" } else { "A" };
    altered.replace_range(middle..=middle, letter);
    let url = site.url(&site.first("vault")?)?;
    let mut statuses = Vec::new();
    for token in [token.expose(), token.expose(), other.expose(), &altered, ""] {
        let client = site.client(&url)?.bearer(api::Secret::new(token.to_owned()));
        statuses.push(client.send("GET", &path, None).await?.status.as_u16());
    }
    must!(statuses == [200, 200, 401, 401, 401], "the token twice, another audience, altered, none: {statuses:?}");
    let later = async {
        let site = lab.at(on, 2 * 86_400_000).await?;
        let client = site.client(&url)?.bearer(token);
        Ok::<u16, Miss>(client.send("GET", &path, None).await?.status.as_u16())
    }
    .await;
    lab.restore(on).await?;
    let later = later?;
    must!(later == 401, "two days later the token is answered {later}");
    Ok(format!(
        "the token, replayed: {:?}; another audience, altered, none: {:?}; two days later: {later}",
        &statuses[..2],
        &statuses[2..]
    ))
}

/// `roles_everywhere(API PATH, SECRET)`: each part is asked without a role, for a read and a write where it has both.
pub async fn roles_everywhere(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let mut seen = Vec::new();
    let mut asked = async |what: &str, url: String, bearer: Option<&str>, method: &str, path: &str, allowed: &[u16]| {
        let mut client = site.client(&url)?;
        if let Some(token) = bearer {
            client = client.bearer(api::Secret::new(token.to_owned()));
        }
        let body = (method != "GET").then(|| ("application/json", "{}".into()));
        let status = client.send(method, path, body).await?.status.as_u16();
        must!(allowed.contains(&status), "{what}: {method} {path} answers {status}");
        seen.push(format!("{what} {method} {status}"));
        Ok(())
    };
    let vault = site.url(&site.first("vault")?)?;
    // A workload of the stamp that the vault knows, but that has no role for this secret.
    let token = site.token("service.web", VAULT).await?;
    let secret = format!("/secrets/{}?api-version=7.4", c.argument(1, ""));
    for method in ["GET", "PUT"] {
        asked("vault, no role", vault.clone(), Some(token.expose()), method, &secret, &[403]).await?;
        asked("vault, stranger", vault.clone(), None, method, "/secrets/x?api-version=7.4", &[401]).await?;
    }
    let edge = site.url("edge")?;
    for method in ["GET", "POST"] {
        asked("application", edge.clone(), None, method, c.argument(0, "/"), &[401, 403]).await?;
    }
    let identity = site.url(&site.first("identity")?)?;
    asked("identity, people", identity.clone(), None, "GET", "/people", &[302, 303, 401, 403]).await?;
    asked("identity, tokens", identity, None, "POST", "/workload/token", &[400, 401, 403]).await?;
    for kind in ["telemetry", "audit"] {
        let Ok(name) = site.first(kind) else { continue };
        let way = site.way(&name)?;
        let url = format!("https://{}:{}", way.name, way.address.port());
        let path = if kind == "audit" { "/ship" } else { "/v1/logs" };
        asked(kind, url.clone(), None, "POST", path, &[401, 403]).await?;
        asked(kind, url, None, "GET", if kind == "audit" { "/records" } else { "/logs" }, &[401, 403, 404, 405])
            .await?;
    }
    let database = site.way(&site.first("postgres")?)?;
    let mut config = tokio_postgres::Config::new();
    config.user("postgres").password("x").dbname("postgres");
    let told = match config.connect_raw(database.connect().await?, tokio_postgres::NoTls).await {
        Ok(_) => miss!("the database lets in who has no role"),
        Err(error) => error.to_string(),
    };
    seen.push(format!("database: {told}"));
    Ok(seen.join(", "))
}

/// Texts of the sources that look like passwords, each told by its file and its first letters.
fn passwords_in(lab: &Lab) -> Result<Vec<String>, Miss> {
    let mut found = Vec::new();
    let mut folders = vec![lab.folder().join("src")];
    let mut look = |name: String, text: &str| {
        for literal in text.split('"').skip(1).step_by(2).filter(|literal| looks_like_password(literal)) {
            found.push(format!("{name}: {}...", literal.chars().take(3).collect::<String>()));
        }
    };
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)?.flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else if entry.path().extension().is_some_and(|e| e == "rs") {
                // A line at a time, so that one odd quotation mark does not turn the rest of a file inside out.
                std::fs::read_to_string(entry.path())?
                    .lines()
                    .for_each(|line| look(entry.file_name().to_string_lossy().into_owned(), line));
            }
        }
    }
    if let Some((file, text)) = lab.spoilt_source() {
        text.lines().for_each(|line| look(file.clone(), line));
    }
    Ok(found)
}

/// One word of ten letters or more, with both cases, a digit and a mark, as rules for passwords ask for.
fn looks_like_password(text: &str) -> bool {
    let has = |of: fn(&char) -> bool| text.chars().any(|c| of(&c));
    (10..80).contains(&text.len())
        && !text.chars().any(|c| c.is_whitespace() || "/{}.,\\:;<>".contains(c))
        && has(char::is_ascii_uppercase)
        && has(char::is_ascii_lowercase)
        && has(char::is_ascii_digit)
        && has(char::is_ascii_punctuation)
}

/// `no_credentials_stored(SERVICE, SECRET...)`: values are looked for in the sources and in all that is stored.
pub async fn no_credentials_stored(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let service = c.argument(0, "web");
    let client = site.vault(&format!("service.{service}")).await?;
    let mut values = Vec::new();
    for secret in c.arguments.iter().skip(1) {
        let answer = client.send("GET", &format!("/secrets/{secret}?api-version=7.4"), None).await?;
        must!(answer.status.as_u16() == 200, "the service reads {secret}: {}", answer.status);
        let body: Value = serde_json::from_slice(&answer.body)?;
        values.push((secret, body["value"].as_str().unwrap_or_default().to_owned()));
    }
    must!(!values.is_empty(), "no secret was named");
    let folder = folder(&site)?;
    for (secret, value) in &values {
        for place in [folder.as_path(), lab.folder()] {
            let found = files_with(place, value.as_bytes());
            must!(found.is_empty(), "{secret} lies in {found:?}");
        }
        // A connection string is also given away by its password alone.
        if let Some(password) = value.split(';').find_map(|p| p.trim().strip_prefix("Password=")) {
            let found = files_with(&folder, password.trim_matches('"').as_bytes());
            must!(found.is_empty(), "the password of {secret} lies in {found:?}");
        }
    }
    // What a person could have written by hand.
    let suspicious = ["Password=", "AccountKey=", "client_secret=", "BEGIN PRIVATE KEY", "BEGIN RSA PRIVATE KEY"];
    for word in suspicious {
        let found = files_with(&lab.folder().join("src"), word.as_bytes());
        must!(!site.manifest.contains(word), "`{word}` is written in the manifest");
        must!(found.is_empty(), "`{word}` is written in {found:?}");
    }
    let by_hand = passwords_in(lab)?;
    must!(by_hand.is_empty(), "the sources hold what looks like a password: {by_hand:?}");
    let saw = site.inside(service, &[Ask::Token { resource: VAULT.into() }]).await?;
    let Some(Saw::Token { status: 200, sha256: digest, .. }) = saw.first() else { miss!("{saw:?}") };
    must!(*digest != sha256(b""), "the identity endpoint gave an empty token");
    Ok(format!("{} secrets are read with the identity and lie in no file of sources or stamp", values.len()))
}
