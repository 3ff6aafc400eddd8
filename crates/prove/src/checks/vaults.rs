//! Several vaults: each is its own service's, under its own name, and nobody else's.

use std::collections::BTreeSet;

use api::{
    audit::{Event, Outcome},
    client::Client,
};
use serde_json::Value;
use toml_edit::{DocumentMut, Item};

use super::vault::{call, files_with};
use crate::{
    Lab, Miss, Seen, Site,
    claim::Call,
    inside::{Ask, Saw, Value as Told},
    miss, must,
    site::until,
};

const AUDIENCE: &str = "https://vault.azure.net";

/// The names of all secrets of a vault.
async fn names(site: &Site, vault: &str) -> Result<BTreeSet<String>, Miss> {
    let client = site.vault_at(vault, "supervisor").await?;
    let id = |entry: &Value| Some(entry["id"].as_str()?.split("/secrets/").nth(1)?.split('/').next()?.to_owned());
    let mut found = BTreeSet::new();
    let mut path = "/secrets?api-version=7.4".to_owned();
    loop {
        let page: Value = client.get(&path).await?;
        found.extend(page["value"].as_array().into_iter().flatten().filter_map(id));
        let Some(next) = page["nextLink"].as_str() else { break };
        path = next.find("/secrets").map(|at| next[at..].to_owned()).unwrap_or_default();
    }
    // Other checks leave secrets that nobody declared.
    found.retain(|name| !name.starts_with("Check-"));
    Ok(found)
}

async fn get(client: &Client, name: &str) -> Result<u16, Miss> {
    Ok(call(client, "GET", &format!("/secrets/{name}"), Value::Null).await?.0)
}

/// Reads of a vault's secrets that succeeded, as actor and name.
async fn reads(site: &Site, vault: &str) -> Result<BTreeSet<(String, String)>, Miss> {
    let answer: Value = site.control(&site.first("audit")?)?.get("/records?limit=10000").await?;
    let records = answer.as_array().or_else(|| answer["records"].as_array()).cloned().unwrap_or_default();
    let mut found = BTreeSet::new();
    for record in &records {
        let text = record["event"].as_str().map_or_else(|| record["event"].to_string(), str::to_owned);
        let event: Event = serde_json::from_str(&text)?;
        let name = event.object.strip_prefix(&format!("{vault}/secrets/")).and_then(|rest| rest.split('/').next());
        if let Some(name) = name
            && event.action == "secret.get"
            && event.outcome == Outcome::Ok
        {
            found.insert((event.actor, name.to_owned()));
        }
    }
    Ok(found)
}

/// `vaults_apart(SERVICE, VAULT, SERVICE, VAULT)`: with the identity of the one, everything of the other's is tried.
pub async fn apart(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let mut seen = Vec::new();
    for (at, other) in [(0, 2), (2, 0)] {
        let workload = format!("service.{}", c.argument(at, ""));
        let (own, vault) = (c.argument(at + 1, ""), c.argument(other + 1, ""));
        let stolen = site.vault_at(vault, &workload).await?;
        let all = names(&site, vault).await?;
        must!(!all.is_empty(), "{vault} has no secrets");
        for name in &all {
            let status = get(&stolen, name).await?;
            must!(status == 403, "{workload} asks for {name} of {vault} and gets {status}");
        }
        let (listed, _) = call(&stolen, "GET", "/secrets", Value::Null).await?;
        must!(listed == 403, "{workload} lists {vault} and gets {listed}");
        // The same token is good where it should be.
        let client = site.vault_at(own, &workload).await?;
        for name in &names(&site, own).await? {
            let status = get(&client, name).await?;
            must!(status == 200, "{workload} reads {name} of its own {own} and gets {status}");
        }
        seen.push(format!("{workload} reads all of {own} and none of the {} secrets of {vault}", all.len()));
    }
    Ok(seen.join("; "))
}

/// `vault_of_service(VAULT, CLOUD NAME, SERVICE)`: the cloud name is followed by the stamp's.
pub async fn of_service(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let (vault, service) = (c.argument(0, ""), c.argument(2, ""));
    let named = format!("{}-{}", c.argument(1, ""), site.stamp);
    let all = names(&site, vault).await?;
    let Some(name) = all.first() else { miss!("{vault} has no secrets") };
    let ask = Ask::Http {
        method: "GET".into(),
        url: format!("https://{named}.vault.azure.net/secrets/{name}?api-version=7.4"),
        resource: Some(AUDIENCE.into()),
        headers: Default::default(),
        body: None,
        told: false,
    };
    let saw = site.inside(service, &[ask]).await?;
    let Some(Saw::Http { status: 200, value: Some(held), .. }) = saw.first() else { miss!("{named} answers {saw:?}") };
    let operator = site.vault_at(vault, "supervisor").await?;
    let (_, body) = call(&operator, "GET", &format!("/secrets/{name}"), Value::Null).await?;
    must!(*held == Told::of(body["value"].as_str().unwrap_or_default()), "{named} is another vault than {vault}");
    let mut refused = Vec::new();
    for (id, _) in site.system.services().filter(|(id, _)| id.name != service) {
        let status = get(&site.vault_at(vault, &id.to_string()).await?, name).await?;
        must!(status == 403, "{id} reads {name} of {vault} and gets {status}");
        refused.push(id.to_string());
    }
    must!(!refused.is_empty(), "no other service is there");
    let reader = format!("service.{service}");
    let actors = until("the record of its readers", async || {
        let actors: BTreeSet<String> = reads(&site, vault).await?.into_iter().map(|(actor, _)| actor).collect();
        must!(actors.contains(&reader), "the record names {actors:?}");
        Ok(actors)
    })
    .await?;
    // The platform itself, which makes the secrets, is no service.
    let others: Vec<&String> = actors.iter().filter(|actor| **actor != reader && *actor != "supervisor").collect();
    must!(others.is_empty(), "the record names {others:?} as readers of {vault} too");
    Ok(format!("{named} is {vault}; its record names {actors:?} as readers; refused: {}", refused.join(", ")))
}

/// `secrets_listed(FILE, SERVICE, VAULT, SERVICE, VAULT)`: a table whose first column names the secrets, the second says `yes`
/// for the first service, the third for the second.
pub async fn listed(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let file = c.argument(0, "");
    let text = lab.file(file)?;
    let rows: Vec<Vec<&str>> =
        text.lines().filter(|l| l.starts_with("| `")).map(|l| l.split('|').map(str::trim).collect()).collect();
    let mut seen = Vec::new();
    for (at, column) in [(1, 2), (3, 3)] {
        let (service, vault) = (c.argument(at, ""), c.argument(at + 1, ""));
        let yes = |row: &&Vec<&str>| row.get(column).is_some_and(|cell| cell.starts_with("yes"));
        let said: BTreeSet<String> = rows.iter().filter(yes).map(|row| row[1].trim_matches('`').to_owned()).collect();
        must!(!said.is_empty(), "{file} lists nothing for {service}");
        let has = names(&site, vault).await?;
        must!(has == said, "{file} lists {said:?} for {service}, and {vault} has {has:?}");
        // What its stored settings refer to is what is resolved when it starts; the record says that it was.
        let refers = references(&site, service)?;
        must!(refers == said, "{file} lists {said:?} for {service}, which refers to {refers:?}");
        until("the record of what is read", async || {
            let read = reads(&site, vault).await?;
            let missing: Vec<&String> =
                said.iter().filter(|name| !read.contains(&(format!("service.{service}"), (*name).clone()))).collect();
            must!(missing.is_empty(), "{file} lists {missing:?} for {service}, which did not read them");
            Ok(())
        })
        .await?;
        seen.push(format!("{service} reads the {} secrets that are listed for it", said.len()));
    }
    Ok(seen.join("; "))
}

/// The secrets that the stored settings of a service refer to.
fn references(site: &Site, service: &str) -> Result<BTreeSet<String>, Miss> {
    let place = site.places.get(&format!("service.{service}"));
    let place = place.ok_or_else(|| Miss::Failed(format!("service.{service} has no place")))?;
    let text = std::fs::read_to_string(place.join("shim.json"))?;
    Ok(text.split("SecretName=").skip(1).filter_map(|rest| rest.split(')').next()).map(str::to_owned).collect())
}

/// `role_on_own_vault(SERVICE, SECRET, OTHER VAULT)`.
pub async fn role(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let (service, secret, other) = (c.argument(0, ""), c.argument(1, ""), c.argument(2, ""));
    let workload = format!("service.{service}");
    let right = super::vault::right_of_service(lab, on, c).await?;
    let (listed, _) = call(&site.vault_at(other, &workload).await?, "GET", "/secrets", Value::Null).await?;
    must!(listed == 403, "{workload} lists {other} and gets {listed}");
    let vault = site.vault_of(&workload)?;
    let removed = async {
        let site = lab.changed(on, &without(&site.manifest, &vault, service, secret)?).await?;
        let client = site.vault(&workload).await?;
        until("the role is gone", async || {
            let status = get(&client, secret).await?;
            must!(status == 403, "{status}");
            Ok(status)
        })
        .await
    }
    .await;
    let site = lab.restore(on).await?;
    let client = site.vault(&workload).await?;
    let again = until("the role counts", async || {
        let status = get(&client, secret).await?;
        must!(status == 200, "{status}");
        Ok(status)
    })
    .await?;
    Ok(format!("{right}; {other} listed: {listed}; the role for {secret} removed: {}, given again: {again}", removed?))
}

/// TOML that leaves the service the reader's role for all secrets but one; a variable that came from that holds something else.
fn without(manifest: &str, vault: &str, service: &str, secret: &str) -> Result<String, Miss> {
    let document: DocumentMut = manifest.parse()?;
    let name = vault.trim_start_matches("vault.");
    let table = |path: [&str; 3]| document.get(path[0]).and_then(|i| i.get(path[1])).and_then(|i| i.get(path[2]));
    let secrets = table(["vault", name, "secrets"]).and_then(Item::as_table_like);
    let secrets = secrets.ok_or_else(|| Miss::Failed(format!("{vault} declares no secrets")))?;
    let kept: toml_edit::Array = secrets.iter().map(|(key, _)| key).filter(|key| *key != secret).collect();
    let mut text = format!(
        "[vault.{name}]\naccess = [{{ to = \"service.{service}\", role = \"Key Vault Secrets User\", secrets = {kept} }}]\n\
         [service.{service}.env]\n"
    );
    let variables = table(["service", service, "env"]).and_then(Item::as_table_like);
    for (variable, value) in variables.into_iter().flat_map(|t| t.iter()) {
        if value.as_str().is_some_and(|v| v.ends_with(&format!("SecretName={secret})"))) {
            text.push_str(&format!("{variable} = \"{0}{0}\"\n", uuid::Uuid::new_v4().simple()));
        }
    }
    Ok(text)
}

/// `reference_written(SERVICE, VARIABLE, VAULT NAME, SECRET)`.
pub async fn written(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let (service, variable, name, secret) =
        (c.argument(0, ""), c.argument(1, ""), c.argument(2, ""), c.argument(3, ""));
    let workload = format!("service.{service}");
    let reference = format!("@Microsoft.KeyVault(VaultName={name};SecretName={secret})");
    let place = site.places.get(&workload).ok_or_else(|| Miss::Failed(format!("{workload} has no place")))?;
    must!(!files_with(place, reference.as_bytes()).is_empty(), "no stored setting of {workload} is {reference}");
    let (_, body) = call(&site.vault(&workload).await?, "GET", &format!("/secrets/{secret}"), Value::Null).await?;
    let saw = site.inside(service, &[Ask::Environment { names: vec![variable.into()] }]).await?;
    let Some(Saw::Environment(values)) = saw.first() else { miss!("{saw:?}") };
    let told = Told::of(body["value"].as_str().unwrap_or_default());
    must!(values.get(variable) == Some(&Some(told)), "{variable} is not what {name} holds as {secret}");
    let absent = format!("ABSENT_{}", &uuid::Uuid::new_v4().simple().to_string()[..8].to_uppercase());
    let change =
        format!("service.{service}.env.ABSENT = \"@Microsoft.KeyVault(VaultName={name};SecretName={absent})\"");
    match lab.changed(on, &change).await {
        Err(Miss::Failed(why)) => {
            must!(why.contains(&absent), "a reference to {absent} is refused, but with: {why}");
            let line = why.lines().find(|l| l.contains(&absent)).unwrap_or_default().trim();
            Ok(format!("stored as {reference} and resolved; one to an absent secret: {line}"))
        }
        Err(other) => Err(other),
        Ok(_) => {
            lab.restore(on).await?;
            miss!("a reference to {absent}, which there is not, was taken")
        }
    }
}
