//! Services that hold no password: what opens their database and their blobs is a token of their identity.

use std::path::Path;

use api::{Secret, blob, database_token};
use toml_edit::{DocumentMut, Item};

use super::vault::files_with;
use crate::{
    Lab, Miss, Seen, Site,
    claim::Call,
    inside::{Ask, Saw},
    miss, must,
    site::until,
};

/// What begins or names a credential of a database, and one of a store.
const DATABASE: [&str; 5] = ["PGPASSWORD", "Password=", "password=", "DATABASE_URL", "postgres://"];
const STORE: [&str; 5] = ["AccountKey=", "SharedAccessSignature", "SharedKey", "sig=", "AZURE_STORAGE_KEY"];

/// Words of a credential in the environments of a service's processes and in its stored files.
fn found(site: &Site, workload: &str, words: &[&str]) -> Result<Vec<String>, Miss> {
    let mut found = Vec::new();
    let mut looked = 0;
    for pid in site.pids(workload) {
        let Ok(environment) = std::fs::read_to_string(format!("/proc/{pid}/environ")) else { continue };
        looked += environment.split('\0').count();
        found.extend(words.iter().filter(|w| environment.contains(**w)).map(|w| format!("{w} in process {pid}")));
    }
    must!(looked > 1, "{workload} has no process whose environment can be read");
    let place = site.places.get(workload).ok_or_else(|| Miss::Failed(format!("{workload} has no place")))?;
    for word in words {
        let files = files_with(Path::new(place), word.as_bytes());
        found.extend(files.into_iter().map(|file| format!("{word} in {file}")));
    }
    Ok(found)
}

async fn queries(site: &Site, service: &str) -> Result<String, Miss> {
    let ask = Ask::Sql { variable: String::new(), statements: vec!["SELECT current_user, current_database()".into()] };
    match site.inside(service, &[ask]).await?.first() {
        Some(Saw::Sql(rows)) => Ok(rows[0][0].join(" at ")),
        other => Err(Miss::Failed(format!("{other:?}"))),
    }
}

/// `one_instance(SERVICE, DATABASE...)`: each database's name is followed by the stamp's.
pub async fn one_instance(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let ask = Ask::Sql { variable: String::new(), statements: vec!["SELECT datname FROM pg_database".into()] };
    let saw = site.inside(c.argument(0, ""), &[ask]).await?;
    let Some(Saw::Sql(rows)) = saw.first() else { miss!("{saw:?}") };
    let there: Vec<&str> = rows[0].iter().filter_map(|r| r.first()).map(String::as_str).collect();
    for name in c.arguments.iter().skip(1) {
        let name = format!("{name}-{}", site.stamp);
        must!(there.contains(&name.as_str()), "there is no {name} among {there:?}");
    }
    // A postmaster is a postgres that no postgres started.
    let name_of = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
    let parent = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
    };
    let all = site.status.resources.iter().flat_map(|r| r.pids.iter().copied());
    let masters: Vec<u32> =
        all.filter(|pid| name_of(*pid) == "postgres" && name_of(parent(*pid)) != "postgres").collect();
    must!(masters.len() == 1, "{} instances run: {masters:?}", masters.len());
    Ok(format!("one instance, process {}, lists {}", masters[0], there.join(", ")))
}

/// `token_login_only(SERVICE, DATABASE, OTHER SERVICE)`: over the network, as the role of the service; the name is followed by the
/// stamp's.
pub async fn token_only(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let (role, database) = (c.argument(0, ""), format!("{}-{}", c.argument(1, ""), site.stamp));
    let way = site.way(&site.first("postgres")?)?;
    let ca = site.scratch.join(format!("login-{role}-ca.pem"));
    std::fs::write(&ca, &site.ca_pem)?;
    let login = async |password: &Secret| {
        let root = format!("Root Certificate={}", ca.display());
        let text = format!("Database={database};Username={role};Password={};{root}", password.expose());
        let client = crate::sql::connect_by(&text, &way).await?;
        crate::sql::rows(&client, "SELECT current_user").await
    };
    let own = site.token(&format!("service.{role}"), database_token::AUDIENCE).await?;
    let who = login(&own).await?;
    must!(who == [[role]], "with the token of service.{role} it is {who:?}");
    let foreign = site.token(&format!("service.{}", c.argument(2, "")), database_token::AUDIENCE).await?;
    let elsewhere = site.token(&format!("service.{role}"), blob::AUDIENCE).await?;
    let words = ["x", role, "postgres", "password"].map(Secret::new);
    let mut said = String::new();
    for wrong in [foreign, elsewhere].iter().chain(&words) {
        let Err(Miss::Failed(why)) = login(wrong).await else {
            miss!("{role} is let in by something else than its token")
        };
        must!(why.contains("authentication failed"), "{role} is refused, but with: {why}");
        said = why;
    }
    Ok(format!("{role} at {database}: in by its own token; another's, one for storage, four passwords: {said}"))
}

/// `no_storage_key(SERVICE, ACCOUNT, CONTAINER)`.
pub async fn no_storage_key(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let workload = format!("service.{}", c.argument(0, ""));
    let held = found(&site, &workload, &STORE)?;
    must!(held.is_empty(), "{workload} holds {held:?}");
    let path = format!("/{}?restype=container&comp=list&maxresults=1", c.argument(2, ""));
    let nobody = site.client(&site.url(&format!("blob.{}", c.argument(1, "")))?)?;
    let without = nobody.send("GET", &path, None).await?.status.as_u16();
    let client = nobody.clone().bearer(site.token(&workload, blob::AUDIENCE).await?);
    let with = client.send("GET", &path, None).await?.status.as_u16();
    must!((with, without) == (200, 401), "with its token it is answered {with}, without one {without}");
    Ok(format!("{workload} holds no key in its environment and files; with its token {with}, without one {without}"))
}

/// `no_password_held(SERVICE, DATABASE RESOURCE)`.
pub async fn no_password(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let (service, database) = (c.argument(0, ""), c.argument(1, "postgres.main"));
    let workload = format!("service.{service}");
    let held = found(&site, &workload, &DATABASE)?;
    must!(held.is_empty(), "{workload} holds {held:?}");
    let who = queries(&site, service).await?;
    // The service itself may fall ill of it, which is no matter here.
    let _ = lab.changed(on, &revoking(&site.manifest, database, &workload)?).await;
    let revoked = until("its right is gone", async || match queries(&site, service).await {
        Ok(who) => Err(Miss::Failed(format!("it still queries as {who}"))),
        Err(Miss::Failed(why)) => Ok(why),
        Err(other) => Err(other),
    })
    .await;
    let site = lab.restore(on).await?;
    let again = until("it queries again", async || queries(&site, service).await).await?;
    let why: String = revoked?.chars().take(160).collect();
    Ok(format!("no password in environment and files; it queries as {who}; revoked: {why}; given again: {again}"))
}

/// TOML in which nothing of the workload may open the database.
fn revoking(manifest: &str, database: &str, workload: &str) -> Result<String, Miss> {
    let document: DocumentMut = manifest.parse()?;
    let name = database.trim_start_matches("postgres.");
    let access =
        document.get("postgres").and_then(|p| p.get(name)).and_then(|p| p.get("access")).and_then(Item::as_array);
    let access = access.ok_or_else(|| Miss::Failed(format!("{database} has no access list")))?;
    let to = |entry: &&toml_edit::Value| {
        entry.as_inline_table().and_then(|t| t.get("to")?.as_str()).is_some_and(|to| to != workload)
    };
    let kept: toml_edit::Array = access.iter().filter(to).cloned().collect();
    // It does not become ready without its database: that is not waited for.
    Ok(format!("[postgres.{name}]\naccess = {kept}\n[{workload}]\nstart_within = \"3s\"\n"))
}
