//! Makes the declared secrets that are not there yet, and the database roles they are for.

use std::{collections::BTreeSet, sync::Arc};

use api::{
    Secret,
    client::{Client, Target},
    identity::{WorkloadToken, WorkloadTokenRequest},
    postgres::{Right, RoleRequest},
};
use model::{
    Principal, Resource, ResourceId, System,
    resource::{ConnectionFormat, DatabaseRight, SecretOrigin, SignIn, Vault},
};

use crate::{Error, authority::Authority, compose::OPERATOR, layout::Layout, place::ingest_key, stamp::Ground};

/// The longest name of a role that a keeper takes.
const LONGEST_ROLE: usize = 52;

/// A client of a vault, with the operator's token.
pub async fn vault_client(
    ground: &Ground,
    layout: &Layout,
    authority: &Authority,
    system: &System,
    vault: &ResourceId,
) -> Result<Client, Error> {
    if ground.seams.sockets {
        return Ok(Client::unix(layout.control(&vault.to_string())));
    }
    let tls = api::client::trust(authority.ca_pem.as_bytes()).map_err(|e| Error::Fault(e.to_string()))?;
    let hosts = Arc::new(layout.hosts(system)?);
    let base = |text: String| text.parse().map_err(|_| Error::Fault(format!("{text} is not a URL")));
    let identity = system.resources.keys().find(|id| id.kind == model::Kind::Identity);
    let identity = identity.ok_or_else(|| Error::Asked {
        what: format!("{vault} needs an identity, and the manifest declares none"),
        hint: Some("add `[identity.main]` to system.toml".into()),
    })?;
    let token = token(layout, authority, system, identity, OPERATOR, "https://vault.azure.net").await?;
    let target = Target::Https { base: base(layout.named_url(vault))?, tls, hosts };
    Ok(Client::new(target).dialled(layout.dial(&vault.to_string())).bearer(token.access_token))
}

/// A token of a workload for an audience, asked for with the workload's own key.
pub async fn token(
    layout: &Layout,
    authority: &Authority,
    system: &System,
    identity: &ResourceId,
    workload: &str,
    audience: &str,
) -> Result<WorkloadToken, Error> {
    let tls = api::client::trust(authority.ca_pem.as_bytes()).map_err(|e| Error::Fault(e.to_string()))?;
    let url = layout.url(identity)?;
    let base = url.parse().map_err(|_| Error::Fault(format!("{url} is not a URL")))?;
    let key = authority.key("identity-root")?.derive(&format!("workload:{workload}"));
    let client = Client::new(Target::Https { base, tls, hosts: Arc::new(layout.hosts(system)?) }).bearer(key);
    let ask = WorkloadTokenRequest { workload: workload.into(), resource: audience.into() };
    client.post("/workload/token", &ask).await.map_err(|source| Error::Role {
        resource: identity.to_string(),
        what: format!("give {workload} a token"),
        source: Box::new(source),
    })
}

/// Names of the secrets a vault has.
async fn names(client: &Client, vault: &ResourceId) -> Result<BTreeSet<String>, Error> {
    let mut found = BTreeSet::new();
    let mut path = "/secrets?api-version=7.4".to_owned();
    loop {
        let page: serde_json::Value = client.get(&path).await.map_err(|source| Error::Role {
            resource: vault.to_string(),
            what: "list its secrets".into(),
            source: Box::new(source),
        })?;
        for entry in page["value"].as_array().into_iter().flatten() {
            if let Some(name) = entry["id"].as_str().and_then(|id| id.split("/secrets/").nth(1)) {
                found.insert(name.split('/').next().unwrap_or(name).to_ascii_lowercase());
            }
        }
        let Some(next) = page["nextLink"].as_str() else { return Ok(found) };
        path = next.find("/secrets").map(|at| next[at..].to_owned()).unwrap_or_default();
    }
}

/// Sets a secret.
pub async fn set(client: &Client, vault: &ResourceId, name: &str, value: &Secret) -> Result<(), Error> {
    let body = Secret::new(serde_json::json!({ "value": value.expose() }).to_string());
    client
        .send_secret::<serde_json::Value>("PUT", &format!("/secrets/{name}?api-version=7.4"), &body)
        .await
        .map(drop)
        .map_err(|source| Error::Role {
            resource: vault.to_string(),
            what: format!("set the secret {name}"),
            source: Box::new(source),
        })
}

/// Brings every declared secret of a vault into being. Run twice, it changes nothing.
pub async fn ensure(
    ground: &Ground,
    layout: &Layout,
    authority: &Authority,
    system: &System,
    id: &ResourceId,
    vault: &Vault,
) -> Result<String, Error> {
    let client = vault_client(ground, layout, authority, system, id).await?;
    let there = names(&client, id).await?;
    let remake = crate::region::remakes(ground, layout, id)?;
    let mut made = 0;
    let mut asked = Vec::new();
    let maker = Maker { ground, layout, authority, system, vault: id };
    for (name, origin) in &vault.secrets {
        // What leads into another stamp is made anew in one that was restored from its backups; so is what leads to where
        // its resource no longer is, such as the loopback address that it had before its network was closed.
        let place = place(layout, system, origin)?;
        let known = match &place {
            Some(_) => ground.journal.fact(&layout.system, &layout.stamp, &leads(id, name))?,
            None => None,
        };
        let moved = known.is_some() && known != place;
        let leads_away = remake && !matches!(origin, SecretOrigin::Generate { .. } | SecretOrigin::Ask);
        // A rotation that was cut is done anew.
        let cut = crate::rotate::is_begun(ground, layout, id, name)?;
        let set_once = there.contains(&name.to_ascii_lowercase());
        if let SecretOrigin::Same { vault, secret } = origin
            && set_once
        {
            made += usize::from(maker.follows(&client, name, vault, secret).await?);
            continue;
        }
        if set_once && !leads_away && !moved && !cut {
            if let (Some(place), None) = (&place, known) {
                ground.journal.set_fact(&layout.system, &layout.stamp, &leads(id, name), place)?;
            }
            continue;
        }
        let Some(value) = maker.value(name, origin, cut).await? else {
            asked.push(name.clone());
            continue;
        };
        set(&client, id, name, &value).await?;
        if cut {
            crate::rotate::is_done(ground, layout, id, name)?;
        }
        if let Some(place) = place {
            ground.journal.set_fact(&layout.system, &layout.stamp, &leads(id, name), &place)?;
        }
        made += 1;
    }
    if remake {
        crate::region::remade(ground, layout, id)?;
    }
    let mut note = if made == 0 { format!("{} there", vault.secrets.len()) } else { format!("{made} made") };
    if !asked.is_empty() {
        note.push_str(&format!(", not set yet: {}", asked.join(", ")));
    }
    Ok(note)
}

/// Makes values of declared secrets.
pub struct Maker<'a> {
    pub ground: &'a Ground,
    pub layout: &'a Layout,
    pub authority: &'a Authority,
    pub system: &'a System,
    pub vault: &'a ResourceId,
}

impl Maker<'_> {
    /// The value of a secret by its origin, and what it opens made to open by it. `anew`: another than there was. None: a
    /// person is still to set it.
    pub async fn value(&self, name: &str, origin: &SecretOrigin, anew: bool) -> Result<Option<Secret>, Error> {
        let Self { ground, layout, authority, system, vault: id } = *self;
        Ok(Some(match origin {
            SecretOrigin::Generate { bytes } => random(*bytes),
            SecretOrigin::AdminPassword { postgres } if anew => {
                crate::rotate::admin_password(ground, layout, authority, system, postgres).await?
            }
            SecretOrigin::AdminPassword { postgres } => authority.key(&format!("postgres-admin/{}", postgres.name))?,
            SecretOrigin::ClientSecret { .. }
            | SecretOrigin::ClientId { .. }
            | SecretOrigin::Output { .. }
            | SecretOrigin::Telemetry { .. }
            | SecretOrigin::RegistryPassword { .. }
            | SecretOrigin::Redis { .. }
            | SecretOrigin::BlobKey { .. }
                if anew =>
            {
                return Err(Error::Asked {
                    what: format!("{name} cannot be rotated alone: it is derived from the stamp's root keys"),
                    hint: None,
                });
            }
            SecretOrigin::ClientSecret { client, .. } => {
                authority.key("identity-root")?.derive(&format!("client:{client}"))
            }
            SecretOrigin::ClientId { client, .. } => Secret::new(client.clone()),
            SecretOrigin::Output { resource, output } => Secret::new(given_out(layout, system, resource, *output)?),
            SecretOrigin::Telemetry { telemetry, workload } => {
                let key = ingest_key(authority, &workload.to_string())?;
                Secret::new(format!(
                    "InstrumentationKey={};IngestionEndpoint={}/",
                    key.expose(),
                    layout.url(telemetry)?
                ))
            }
            SecretOrigin::Database { postgres, database, workload, format } => {
                let role = password_role(system, postgres, workload, database);
                if signs_in_by_identity(system, postgres, workload) {
                    // It says where the database is, and opens nothing: the token of the workload does.
                    return connection_string(layout, system, postgres, database, &role, None, *format).map(Some);
                }
                let password = Secret::random();
                database_access(ground, layout, system, postgres, workload, database, &password).await?;
                connection_string(layout, system, postgres, database, &role, Some(&password), *format)?
            }
            SecretOrigin::Ask => {
                if is_used(system, id, name) {
                    return Err(Error::SecretMissing {
                        vault: id.name.clone(),
                        name: name.to_owned(),
                        system: layout.system.clone(),
                        stamp: layout.stamp.clone(),
                    });
                }
                return Ok(None);
            }
            SecretOrigin::RegistryPassword { registry } => {
                authority.key(&format!("registry-root/{}", registry.name))?.derive(api::registry::ADMIN_KEY)
            }
            SecretOrigin::BlobKey { blob, connection_string } => {
                let key = api::blob::account_key(&authority.key(&format!("blob-root/{}", blob.name))?);
                match system.resources.get(blob) {
                    Some(Resource::Blob(declared)) if *connection_string => {
                        let account = crate::layout::account(blob, declared);
                        api::blob::connection_string(&account, &layout.named_url(blob), &key)
                    }
                    _ => key,
                }
            }
            SecretOrigin::Same { vault, secret } => return self.same(name, vault, secret, anew).await,
            SecretOrigin::Redis { redis, workload } => {
                let user = workload.to_string();
                let password = crate::redis::password(authority, redis, &user)?;
                // The password is base64url: it needs no quoting.
                let place = redis_place(layout, system, redis)?;
                Secret::new(format!("rediss://{user}:{}@{place}/0", password.expose()))
            }
            SecretOrigin::Graph { .. } if anew => {
                return Err(Error::Asked {
                    what: format!("{name} cannot be rotated alone: it is derived from the store's root key"),
                    hint: None,
                });
            }
            SecretOrigin::Graph { graph, workload } => {
                crate::compose::graph::connection_string(layout, authority, system, graph, workload)?
            }
        }))
    }
}

impl Maker<'_> {
    /// The value that another vault of this stamp has: one secret for both ends of what they share. None: that one is still a
    /// person's to set.
    async fn same(&self, name: &str, vault: &ResourceId, secret: &str, anew: bool) -> Result<Option<Secret>, Error> {
        let Self { ground, layout, authority, system, vault: own } = *self;
        if anew {
            return Err(Error::Asked {
                what: format!("{name} cannot be rotated alone: it is the same as {secret} of {vault}"),
                hint: Some(format!("`stamp secret rotate {} {secret} --vault {}`", layout.system, vault.name)),
            });
        }
        let client = vault_client(ground, layout, authority, system, vault).await?;
        let value = read(&client, vault, secret).await?;
        if value.is_none() && is_used(system, own, name) {
            return Err(Error::SecretMissing {
                vault: vault.name.clone(),
                name: secret.to_owned(),
                system: layout.system.clone(),
                stamp: layout.stamp.clone(),
            });
        }
        Ok(value)
    }

    /// Brings a secret that is the same as another after that one; whether it was another until now.
    async fn follows(&self, own: &Client, name: &str, vault: &ResourceId, secret: &str) -> Result<bool, Error> {
        let Some(value) = self.same(name, vault, secret, false).await? else { return Ok(false) };
        if read(own, self.vault, name).await?.is_some_and(|known| known.matches(value.expose())) {
            return Ok(false);
        }
        set(own, self.vault, name, &value).await?;
        Ok(true)
    }
}

/// Secrets of other vaults that are the same as this one.
pub fn followers(system: &System, of: &ResourceId, name: &str) -> Vec<(ResourceId, String)> {
    let same = |origin: &SecretOrigin| matches!(origin, SecretOrigin::Same { vault, secret } if vault == of && secret.eq_ignore_ascii_case(name));
    let all =
        system.vaults().flat_map(|(id, vault)| vault.secrets.iter().map(move |(name, origin)| (id, name, origin)));
    all.filter(|(_, _, origin)| same(origin)).map(|(id, name, _)| (id.clone(), name.clone())).collect()
}

/// Reads a secret; None where it was never set.
async fn read(client: &Client, vault: &ResourceId, name: &str) -> Result<Option<Secret>, Error> {
    let path = format!("/secrets/{name}?api-version=7.4");
    match client.get::<api::vault::SecretBundle>(&path).await {
        Ok(bundle) => Ok(bundle.value),
        Err(error) if error.status() == Some(404) => Ok(None),
        Err(source) => Err(Error::Role {
            resource: vault.to_string(),
            what: format!("read the secret {name}"),
            source: Box::new(source),
        }),
    }
}

/// The fact that keeps where a secret's value leads.
fn leads(vault: &ResourceId, secret: &str) -> String {
    format!("leads/{vault}/{secret}")
}

/// Where the value of a secret leads; None for what leads nowhere. Holds no secret.
fn place(layout: &Layout, system: &System, origin: &SecretOrigin) -> Result<Option<String>, Error> {
    Ok(match origin {
        SecretOrigin::Telemetry { telemetry, .. } => Some(layout.url(telemetry)?),
        SecretOrigin::Output { resource, output } => Some(given_out(layout, system, resource, *output)?),
        SecretOrigin::BlobKey { blob, connection_string: true } => Some(layout.named_url(blob)),
        SecretOrigin::Database { postgres, database, workload, format } => Some(format!(
            "{}:{}/{database} {format:?}{}",
            layout.reach(postgres)?,
            database_port(layout, system, postgres),
            if signs_in_by_identity(system, postgres, workload) { " by identity" } else { "" }
        )),
        SecretOrigin::Redis { redis, .. } => Some(redis_place(layout, system, redis)?),
        SecretOrigin::Graph { graph, .. } => match system.resources.get(graph) {
            Some(Resource::Graph(declared)) => Some(crate::compose::graph::hosts(layout, graph, declared)?),
            _ => None,
        },
        _ => None,
    })
}

/// `HOST:PORT` of a Redis server.
fn redis_place(layout: &Layout, system: &System, redis: &ResourceId) -> Result<String, Error> {
    let Some(Resource::Redis(declared)) = system.resources.get(redis) else {
        return Err(Error::NotBuilt(format!("a connection to {redis} of another stamp")));
    };
    Ok(format!("{}:{}", layout.reach(redis)?, layout.port(declared.port)))
}

/// What a resource gives out that a vault keeps: where it is, or which tenant its directory is.
fn given_out(layout: &Layout, system: &System, id: &ResourceId, output: model::value::Output) -> Result<String, Error> {
    if output == model::value::Output::Tenant {
        return Ok(layout.tenant.clone());
    }
    match system.resources.get(id) {
        Some(Resource::Service(service)) if layout.closed.is_none() => {
            let port = service.port.map_or(0, |port| layout.port(port));
            // By address: without a closed network nobody ends TLS before it, and names may lead anywhere.
            Ok(format!("http://{}:{port}", layout.address(id)?))
        }
        Some(Resource::Edge(_)) => layout.url(id),
        _ => Ok(layout.named_url(id)),
    }
}

fn database_port(layout: &Layout, system: &System, postgres: &ResourceId) -> u16 {
    match system.resources.get(postgres) {
        Some(Resource::Postgres(declared)) => layout.port(declared.port),
        _ => 5432,
    }
}

/// Whether a service refers to the secret.
fn is_used(system: &System, vault: &ResourceId, name: &str) -> bool {
    system.services().any(|(_, service)| uses(service, vault, name))
        || system.resources.values().any(|resource| match resource {
            Resource::Identity(identity) => {
                identity.secrets().any(|s| s.vault == *vault && s.secret.eq_ignore_ascii_case(name))
            }
            _ => false,
        })
        || system.jobs().any(|(_, job)| job.env.values().any(|value| refers(value, vault, name)))
}

/// Whether a service, or its migration, refers to the secret.
fn uses(service: &model::resource::Service, vault: &ResourceId, name: &str) -> bool {
    let migrate = service.migrate.iter().flat_map(|m| m.env.values());
    service.env.values().chain(migrate).any(|value| refers(value, vault, name))
}

/// Whether a value is a reference to the secret.
pub fn refers(value: &model::value::Value, vault: &ResourceId, name: &str) -> bool {
    match value {
        model::value::Value::Vault(reference) => {
            reference.vault == *vault && reference.secret.eq_ignore_ascii_case(name)
        }
        model::value::Value::Template(_) => false,
    }
}

/// The vault that is meant: `main` or `vault.main`, or the only one.
pub fn the_vault(system: &System, named: Option<&str>) -> Result<ResourceId, Error> {
    let wanted = named.map(|v| v.trim_start_matches("vault."));
    let vaults: Vec<ResourceId> =
        system.vaults().map(|(id, _)| id.clone()).filter(|id| wanted.is_none_or(|w| w == id.name)).collect();
    if let [vault] = vaults.as_slice() {
        return Ok(vault.clone());
    }
    let known: Vec<String> = system.vaults().map(|(id, _)| id.name.clone()).collect();
    Err(Error::Asked {
        what: "the vault is not clear".into(),
        hint: Some(format!("name it with --vault: {}", known.join(", "))),
    })
}

/// Random bytes as base64url.
fn random(bytes: u32) -> Secret {
    use base64::Engine as _;
    let mut buffer = zeroize::Zeroizing::new(vec![0u8; bytes as usize]);
    aws_lc_rs::rand::fill(&mut buffer).expect("the operating system's random generator answers");
    Secret::new(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(buffer.as_slice()))
}

/// The database role of a workload: `web`, `web_migrate`.
pub fn database_role(workload: &Principal) -> String {
    let text = match workload {
        // A service may be called the same.
        Principal::Workload(id) if id.kind == model::Kind::Job => format!("job_{}", id.name),
        Principal::Workload(id) => id.name.clone(),
        Principal::Migrate(id) => format!("{}_migrate", id.name),
        Principal::Group(name) => format!("group_{name}"),
    };
    text.replace('-', "_")
}

/// The role by which a workload signs in to a database with a password. A workload of several databases on one server has a
/// role, and so a password, for each: a connection string opens one of them.
fn password_role(system: &System, postgres: &ResourceId, workload: &Principal, database: &str) -> String {
    let role = database_role(workload);
    let Some(Resource::Postgres(declared)) = system.resources.get(postgres) else { return role };
    let first = declared.access.iter().find(|access| access.to == *workload);
    match first {
        Some(first) if first.database != database && first.sign_in == SignIn::Password => {
            let whole = format!("{role}_{}", database.replace('-', "_"));
            match whole.len() {
                ..=LONGEST_ROLE => whole,
                _ => format!("{role:.40}_{:.8}", crate::files::digest(whole.as_bytes())),
            }
        }
        _ => role,
    }
}

/// Whether a workload is known to a database by its tokens.
fn signs_in_by_identity(system: &System, postgres: &ResourceId, workload: &Principal) -> bool {
    let Some(Resource::Postgres(declared)) = system.resources.get(postgres) else { return false };
    declared.access.iter().any(|access| access.to == *workload && access.sign_in == SignIn::Identity)
}

/// Gives a workload its role in a database.
async fn database_access(
    ground: &Ground,
    layout: &Layout,
    system: &System,
    postgres: &ResourceId,
    workload: &Principal,
    database: &str,
    password: &Secret,
) -> Result<(), Error> {
    let role = password_role(system, postgres, workload, database);
    let Some(Resource::Postgres(declared)) = system.resources.get(postgres) else {
        return Err(Error::NotBuilt(format!("a connection to {postgres} of another stamp")));
    };
    let access = declared.access.iter().find(|a| a.to == *workload && a.database == database);
    let access = access.ok_or_else(|| Error::Asked {
        what: format!("{workload} has a connection string for {postgres} and no access to its database {database}"),
        hint: Some(format!("add {{ to = \"{workload}\", right = \"read-write\" }} to {postgres}'s access")),
    })?;
    let request = RoleRequest { database: database.into(), right: right(access.right), password: password.clone() };
    let client = crate::lead::control(ground, layout, postgres)?;
    client.send_secret::<serde_json::Value>("PUT", &format!("/roles/{role}"), &request.encode()).await.map_err(
        |source| Error::Role {
            resource: postgres.to_string(),
            what: format!("make the role {role}"),
            source: Box::new(source),
        },
    )?;
    Ok(())
}

/// A declared right, as a keeper is told it.
pub fn right(right: DatabaseRight) -> Right {
    match right {
        DatabaseRight::Owner => Right::Owner,
        DatabaseRight::ReadWrite => Right::ReadWrite,
        DatabaseRight::ReadOnly => Right::ReadOnly,
    }
}

fn connection_string(
    layout: &Layout,
    system: &System,
    postgres: &ResourceId,
    database: &str,
    role: &str,
    password: Option<&Secret>,
    format: ConnectionFormat,
) -> Result<Secret, Error> {
    let host = layout.reach(postgres)?;
    let port = database_port(layout, system, postgres);
    let ca = layout.ca().display().to_string();
    // Passwords are base64url: they need no quoting in either format.
    let with = |before: &str| password.map(|p| format!("{before}{}", p.expose())).unwrap_or_default();
    Ok(Secret::new(match format {
        ConnectionFormat::Npgsql => format!(
            "Host={host};Port={port};Database={database};Username={role}{};SSL Mode=VerifyFull;Root Certificate={ca}",
            with(";Password=")
        ),
        ConnectionFormat::Url => {
            format!("postgresql://{role}{}@{host}:{port}/{database}?sslmode=verify-full&sslrootcert={ca}", with(":"))
        }
    }))
}
