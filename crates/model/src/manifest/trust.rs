//! Vault, identity, telemetry, audit, registry.

use std::{collections::BTreeMap, time::Duration};

use super::{
    node::{Entry, Node},
    read::Reader,
    reference,
};
use crate::{
    diagnostic::{Code, Diagnostic},
    id::{Kind, Principal, ResourceId},
    resource::{
        Audit, BuildTag, Client, ConnectionFormat, Directory, Identity, OnPush, OutsideIssuer, Registry,
        RegistryAccess, RegistryRole, SecretOrigin, Telemetry, Vault, VaultAccess, VaultRole,
    },
    suggest, unit,
    value::{Output, Segment, Value},
};

const DAY: Duration = Duration::from_secs(86_400);

pub(crate) fn vault(r: &Reader<'_>, id: &ResourceId, node: &Node) -> Vault {
    let soft_delete = r.duration(node, "soft_delete").unwrap_or(90 * DAY);
    let days = soft_delete.as_secs() / DAY.as_secs();
    if !(7..=90).contains(&days) || soft_delete != Duration::from_secs(days * DAY.as_secs()) {
        let span = node.get("soft_delete").map_or_else(|| r.span_of(id), |n| n.span.clone());
        let message = format!("`soft_delete` is {}, outside 7d to 90d in whole days", unit::show_duration(soft_delete));
        r.fault(Diagnostic::new(Code::S0117, span, message));
    }
    let declared = node.get("secrets").map_or(&[][..], Node::entries);
    let mut secrets: BTreeMap<String, SecretOrigin> = BTreeMap::new();
    for entry in declared {
        if let Some(other) = secrets.keys().find(|name| name.eq_ignore_ascii_case(&entry.key)) {
            let message = format!("`{}` and `{other}` are one secret: names differ by more than case", entry.key);
            r.fault(Diagnostic::new(Code::S0121, entry.key_span.clone(), message));
        }
        if let Some(origin) = origin(r, id, entry) {
            secrets.insert(entry.key.clone(), origin);
        }
    }
    let access = node.get("access").map_or(&[][..], Node::items).iter();
    let roles = VaultRole::ALL.map(|role| (role.word(), role));
    let access = access
        .filter_map(|item| {
            for name in item.get("secrets").map_or(&[][..], Node::items) {
                let Some(text) = name.as_text() else { continue };
                if !declared.iter().any(|entry| entry.key == text) {
                    let fault =
                        Diagnostic::new(Code::S0109, name.span.clone(), format!("`{id}` has no secret `{text}`"));
                    r.fault(suggest::hint(fault, text, declared.iter().map(|entry| entry.key.as_str())));
                }
            }
            Some(VaultAccess {
                to: r.principal_at(item, "to")?,
                role: r.word(item, "role", &roles)?,
                secrets: r.raws(item, "secrets"),
            })
        })
        .collect();
    Vault {
        subnet: r.subnet(node),
        cloud_name: r.text(node, "cloud_name"),
        soft_delete,
        premium: r.word(node, "tier", &[("standard", false), ("premium", true)]).unwrap_or(false),
        purge_protection: r.flag(node, "purge_protection").unwrap_or(false),
        access,
        secrets,
    }
}

/// Where a secret's value comes from.
fn origin(r: &Reader<'_>, vault: &ResourceId, entry: &Entry) -> Option<SecretOrigin> {
    let (node, span) = (&entry.node, entry.key_span.clone());
    let sources: Vec<&str> =
        ["from", "generate", "same", "ask"].into_iter().filter(|key| node.get(key).is_some()).collect();
    let [source] = sources.as_slice() else {
        let message = match sources.as_slice() {
            [] => format!("the secret `{}` comes from nowhere", entry.key),
            more => format!("the secret `{}` has several origins: {}", entry.key, more.join(", ")),
        };
        let fault = Diagnostic::new(Code::S0118, span, message);
        r.fault(fault.hint(
            "write one of `from` with `what`, `generate = \"32B\"`, `same = \"vault.NAME/SECRET\"`, `ask = true`",
        ));
        return None;
    };
    for key in ["what", "for", "database", "format"] {
        if let Some(extra) = node.entry(key).filter(|_| *source != "from") {
            let fault =
                Diagnostic::new(Code::S0118, extra.key_span.clone(), format!("`{key}` says nothing without `from`"));
            r.fault(fault);
        }
    }
    match *source {
        "generate" => {
            let bytes = r.bytes(node, "generate")?.0;
            if (16..=1024).contains(&bytes) {
                return u32::try_from(bytes).ok().map(|bytes| SecretOrigin::Generate { bytes });
            }
            let span = node.get("generate").map_or(span, |n| n.span.clone());
            r.fault(Diagnostic::new(Code::S0117, span, format!("`generate` is {bytes} bytes, outside 16B to 1KiB")));
            None
        }
        "ask" => {
            if r.flag(node, "ask") == Some(false) {
                let fault =
                    Diagnostic::new(Code::S0118, span, format!("the secret `{}` comes from nowhere", entry.key));
                r.fault(fault.hint("write `ask = true`: a person sets it with `stamp secret set`"));
            }
            Some(SecretOrigin::Ask)
        }
        "same" => same(r, vault, entry),
        _ => from(r, entry),
    }
}

/// `same = "vault.NAME/SECRET"`.
fn same(r: &Reader<'_>, vault: &ResourceId, entry: &Entry) -> Option<SecretOrigin> {
    let node = entry.node.get("same")?;
    let (id, secret) = r.formed(node, "a secret of another vault", |text| {
        let form = || "write `vault.NAME/SECRET`".to_owned();
        let (id, secret) = text.split_once('/').ok_or_else(form)?;
        let id: ResourceId = id.parse().map_err(|_| form())?;
        if id.kind == Kind::Vault { Ok((id, secret.to_owned())) } else { Err(form()) }
    })?;
    let other = r.root.get("vault").and_then(|v| v.get(&id.name)).and_then(|v| v.get("secrets")?.get(&secret));
    let trouble = match other {
        None => Some((Code::S0109, format!("`{id}` has no secret `{secret}`"))),
        Some(other) if other.get("same").is_some() || (id == *vault && secret == entry.key) => {
            Some((Code::S0118, format!("`{id}/{secret}` is itself the same as another")))
        }
        Some(_) => None,
    };
    if let Some((code, message)) = trouble {
        r.fault(Diagnostic::new(code, node.span.clone(), message));
        return None;
    }
    Some(SecretOrigin::Same { vault: id, secret })
}

/// `from = "RESOURCE", what = "..."`.
fn from(r: &Reader<'_>, entry: &Entry) -> Option<SecretOrigin> {
    let node = &entry.node;
    let id = r.resource_at(node, "from");
    let Some(what) = node.get("what").and_then(Node::as_text) else {
        if node.get("what").is_none() {
            let fault = Diagnostic::new(
                Code::S0104,
                entry.key_span.clone(),
                format!("the secret `{}` lacks the key `what`", entry.key),
            );
            r.fault(fault.note("what: which value of the resource it is"));
        }
        return None;
    };
    let id = id?;
    let offers: &[&str] = match id.kind {
        Kind::Postgres => &["connection-string", "admin-password"],
        Kind::Telemetry | Kind::Redis | Kind::Graph => &["connection-string"],
        Kind::Identity => &["client-secret", "client-id", "tenant"],
        Kind::Service | Kind::Edge => &["url"],
        Kind::Registry => &["admin-password"],
        Kind::Blob => &["connection-string", "key", "url"],
        _ => &[],
    };
    if !offers.contains(&what) {
        if ["connection-string", "admin-password", "client-secret", "client-id", "tenant", "url", "key"].contains(&what)
        {
            let fault = Diagnostic::new(Code::S0118, entry.key_span.clone(), format!("`{id}` has no {what}"));
            r.fault(if offers.is_empty() { fault } else { fault.note(format!("it has: {}", offers.join(", "))) });
        }
        return None;
    }
    let spare: &[&str] = match (id.kind, what) {
        (Kind::Postgres, "connection-string") => &[],
        (_, "admin-password" | "tenant" | "url") | (Kind::Blob, _) => &["for", "database", "format"],
        _ => &["database", "format"],
    };
    for extra in spare.iter().filter_map(|key| node.entry(key)) {
        let fault = Diagnostic::new(
            Code::S0118,
            extra.key_span.clone(),
            format!("`{}` says nothing about the {what} of `{id}`", extra.key),
        );
        r.fault(fault);
    }
    if what == "tenant" || what == "url" {
        let output = if what == "tenant" { Output::Tenant } else { Output::Url };
        return Some(SecretOrigin::Output { resource: id, output });
    }
    if id.kind == Kind::Blob {
        // The key is the account's, not a workload's: those that can ask by their identity need none.
        return Some(SecretOrigin::BlobKey { blob: id, connection_string: what == "connection-string" });
    }
    if what == "admin-password" {
        return Some(match id.kind {
            Kind::Postgres => SecretOrigin::AdminPassword { postgres: id },
            _ => SecretOrigin::RegistryPassword { registry: id },
        });
    }
    let Some(whose) = node.get("for") else {
        let fault = Diagnostic::new(
            Code::S0104,
            entry.key_span.clone(),
            format!("the secret `{}` lacks the key `for`", entry.key),
        );
        r.fault(fault.note(if id.kind == Kind::Identity {
            "for: the id of the sign-in client"
        } else {
            "for: the workload whose it is, such as `service.web`"
        }));
        return None;
    };
    if id.kind == Kind::Identity {
        return client_value(r, id, whose, what == "client-id");
    }
    let workload = workload(r, whose)?;
    Some(match id.kind {
        Kind::Telemetry => SecretOrigin::Telemetry { telemetry: id, workload },
        Kind::Redis => SecretOrigin::Redis { redis: id, workload },
        Kind::Graph => SecretOrigin::Graph { graph: id, workload },
        _ => {
            let formats = [("npgsql", ConnectionFormat::Npgsql), ("url", ConnectionFormat::Url)];
            let format = r.word(node, "format", &formats).unwrap_or_default();
            let databases = r
                .root
                .get("postgres")
                .and_then(|p| p.get(&id.name))
                .map(|p| r.texts(p, "databases"))
                .unwrap_or_default();
            let databases = if databases.is_empty() { vec![r.manifest.name().replace('-', "_")] } else { databases };
            let database = match node.get("database") {
                Some(name) => super::data::database(r, &id, &databases, name)?,
                None => databases.first()?.clone(),
            };
            SecretOrigin::Database { postgres: id, database, workload, format }
        }
    })
}

fn client_value(r: &Reader<'_>, identity: ResourceId, whose: &Node, its_id: bool) -> Option<SecretOrigin> {
    let client = whose.as_text()?;
    let clients = r.root.get("identity").and_then(|i| i.get(&identity.name)).and_then(|i| i.get("clients"));
    let clients = clients.map_or(&[][..], Node::entries);
    if clients.iter().any(|entry| entry.key == client) {
        let client = client.to_owned();
        return Some(match its_id {
            true => SecretOrigin::ClientId { identity, client },
            false => SecretOrigin::ClientSecret { identity, client },
        });
    }
    let fault = Diagnostic::new(Code::S0109, whose.span.clone(), format!("`{identity}` has no client `{client}`"));
    let mut fault = suggest::hint(fault, client, clients.iter().map(|entry| entry.key.as_str()));
    if fault.hint.is_none() {
        fault.hint = Some(format!("declare `[{identity}.clients]`, `{client} = {{ redirect = [\"/signin-oidc\"] }}`"));
    }
    r.fault(fault);
    None
}

/// A workload; `for` is a plain text for the sake of sign-in clients, so that its form is judged here.
fn workload(r: &Reader<'_>, node: &Node) -> Option<Principal> {
    let text = node.as_text()?;
    if matches!(text.parse::<Principal>(), Err(_) | Ok(Principal::Group(_))) {
        let fault = Diagnostic::new(Code::S0105, node.span.clone(), format!("cannot read `{text}` as a workload"));
        r.fault(fault.hint("write `service.web`, `job.nightly`, or the migration step `service.web.migrate`"));
        return None;
    }
    r.principal(node)
}

pub(crate) fn identity(r: &Reader<'_>, node: &Node) -> Identity {
    let title = r.text(node, "title").unwrap_or_else(|| r.manifest.title().to_owned());
    let groups = r.names(node, "groups");
    let admin_group = r.raw(node, "admin_group");
    if let (Some(admin), Some(at)) = (&admin_group, node.get("admin_group"))
        && !groups.contains(admin)
    {
        let fault = Diagnostic::new(Code::S0109, at.span.clone(), format!("`groups` has no group `{admin}`"));
        r.fault(suggest::hint(fault, admin, groups.iter().map(String::as_str)));
    }
    let clients = node.get("clients").map_or(&[][..], Node::entries).iter();
    let clients = clients.map(|entry| {
        let client = Client {
            title: r.text(&entry.node, "title").unwrap_or_else(|| title.clone()),
            redirect: r.raws(&entry.node, "redirect"),
            sign_out: r.raws(&entry.node, "sign_out"),
        };
        if let Some(redirect) = entry.node.get("redirect").filter(|redirect| redirect.items().is_empty()) {
            r.fault(Diagnostic::new(
                Code::S0118,
                redirect.span.clone(),
                format!("the client `{}` has nowhere to return to", entry.key),
            ));
        }
        (entry.key.clone(), client)
    });
    let clients: BTreeMap<_, _> = clients.collect();
    if let Some(entry) = node.entry("clients")
        && !clients.is_empty()
        && !r.known.contains(&ResourceId::edge())
    {
        let fault =
            Diagnostic::new(Code::S0118, entry.key_span.clone(), "people sign in by the edge, and there is none");
        r.fault(fault.hint("declare `[edge]` with a route"));
    }
    let issuer = node.get("issuer").and_then(|issuer| {
        r.formed(issuer, "an issuer", |text| match text.strip_prefix("https://") {
            Some(rest) if !rest.is_empty() && !rest.contains(['?', '#', ' ']) => {
                Ok(text.trim_end_matches('/').to_owned())
            }
            _ => Err("an issuer is an `https://` address without query".into()),
        })
    });
    let group_names = groups.clone();
    Identity {
        title,
        issuer,
        admin_group,
        clients,
        mfa: r.flag(node, "mfa").unwrap_or(false),
        session: r.duration(node, "session").unwrap_or(Duration::from_secs(12 * 3600)),
        issuers: node
            .get("issuers")
            .map_or(&[][..], Node::entries)
            .iter()
            .filter_map(|entry| Some((entry.key.clone(), outside_issuer(r, entry, &group_names)?)))
            .collect(),
        directory: node.get("directory").and_then(|directory| directory_of(r, directory, &group_names)),
        groups,
    }
}

fn outside_issuer(r: &Reader<'_>, entry: &Entry, ours: &[String]) -> Option<OutsideIssuer> {
    let node = &entry.node;
    Some(OutsideIssuer {
        title: r.text(node, "title").unwrap_or_else(|| entry.key.clone()),
        issuer: address(r, node, "issuer", &["https"])?,
        client: r.raw(node, "client")?,
        secret: node.get("secret").and_then(|secret| reference::vault_reference(r, secret)),
        domains: r.raws(node, "domains"),
        groups_claim: r.raw(node, "groups_claim").unwrap_or_else(|| "groups".into()),
        groups: mapped(r, node, ours),
    })
}

fn directory_of(r: &Reader<'_>, node: &Node, ours: &[String]) -> Option<Directory> {
    let domains = r.raws(node, "domains");
    if let Some(at) = node.get("domains").filter(|_| domains.is_empty()) {
        let fault = Diagnostic::new(Code::S0118, at.span.clone(), "nobody would sign in by this directory");
        r.fault(fault.hint("name the e-mail domains of its people: `domains = [\"example.org\"]`"));
    }
    Some(Directory {
        url: address(r, node, "url", &["ldaps", "ldap"])?,
        base: r.raw(node, "base")?,
        bind: r.raw(node, "bind")?,
        secret: reference::vault_reference(r, node.get("secret")?)?,
        login: r.raw(node, "login").unwrap_or_else(|| "mail".into()),
        groups: mapped(r, node, ours),
        domains,
    })
}

/// An address that another resource may give, such as `{external.active-directory.url}`.
fn address(r: &Reader<'_>, node: &Node, key: &str, schemes: &[&str]) -> Option<Value> {
    let entry = node.entry(key)?;
    let value = reference::value(r, entry)?;
    let fits = match &value {
        Value::Template(segments) => match segments.first() {
            Some(Segment::Text(text)) => schemes.iter().any(|scheme| text.starts_with(&format!("{scheme}://"))),
            Some(Segment::Output { .. }) => true,
            None => false,
        },
        Value::Vault(_) => false,
    };
    if !fits {
        let message = format!("cannot read `{key}` as an address");
        let fault = Diagnostic::new(Code::S0105, entry.node.span.clone(), message);
        r.fault(fault.hint(format!(
            "it begins with `{}://`, or is another resource's: `{{external.NAME.url}}`",
            schemes.join("://` or `")
        )));
        return None;
    }
    Some(value)
}

/// Groups here, each with what it is called outside.
fn mapped(r: &Reader<'_>, node: &Node, ours: &[String]) -> BTreeMap<String, String> {
    let entries = node.get("groups").map_or(&[][..], Node::entries).iter();
    let mapped = entries.filter_map(|entry| {
        if !ours.contains(&entry.key) {
            let message = format!("`groups` has no group `{}`", entry.key);
            let fault = Diagnostic::new(Code::S0109, entry.key_span.clone(), message);
            r.fault(suggest::hint(fault, &entry.key, ours.iter().map(String::as_str)));
        }
        Some((entry.key.clone(), entry.node.as_text()?.to_owned()))
    });
    mapped.collect()
}

pub(crate) fn telemetry(r: &Reader<'_>, id: &ResourceId, node: &Node) -> Telemetry {
    Telemetry { retention: whole_days(r, id, node, 30) }
}

pub(crate) fn audit(r: &Reader<'_>, id: &ResourceId, node: &Node) -> Audit {
    Audit { retention: whole_days(r, id, node, 90) }
}

/// Retention deletes day by day.
fn whole_days(r: &Reader<'_>, id: &ResourceId, node: &Node, usual: u32) -> Duration {
    let retention = r.duration(node, "retention").unwrap_or(usual * DAY);
    if retention < DAY || !retention.as_millis().is_multiple_of(DAY.as_millis()) {
        let span = node.get("retention").map_or_else(|| r.span_of(id), |n| n.span.clone());
        let message =
            format!("the retention of `{id}` is {}, not a whole number of days", unit::show_duration(retention));
        r.fault(Diagnostic::new(Code::S0117, span, message).hint("at least \"1d\""));
    }
    retention
}

/// What every build is tagged with; both if nothing is said.
fn tags(r: &Reader<'_>, node: &Node) -> Vec<BuildTag> {
    let all = [("latest", BuildTag::Latest), ("timestamp", BuildTag::Timestamp)];
    match node.get("tags") {
        None => all.map(|(_, tag)| tag).to_vec(),
        Some(_) => {
            let words = r.raws(node, "tags");
            all.into_iter().filter(|(word, _)| words.iter().any(|w| w == word)).map(|(_, tag)| tag).collect()
        }
    }
}

pub(crate) fn registry(r: &Reader<'_>, node: &Node) -> Registry {
    let on_push = node.get("on_push").map_or(&[][..], Node::items).iter();
    let on_push =
        on_push.filter_map(|item| Some(OnPush { image: r.raw(item, "image")?, to: r.resource_at(item, "to")? }));
    let roles = RegistryRole::ALL.map(|role| (role.word(), role));
    let access = node.get("access").map_or(&[][..], Node::items).iter();
    let access = access.filter_map(|item| {
        Some(RegistryAccess {
            to: r.principal_at(item, "to")?,
            role: r.word(item, "role", &roles)?,
            repositories: r.raws(item, "repositories"),
        })
    });
    Registry {
        access: access.collect(),
        size: r.size(node),
        cloud_name: r.text(node, "cloud_name"),
        admin_user: r.flag(node, "admin_user").unwrap_or(false),
        tags: tags(r, node),
        movable_releases: r.flag(node, "movable_releases").unwrap_or(false),
        keep_untagged: r.duration(node, "keep_untagged"),
        scan_on_push: node.get("scan").and_then(|scan| r.resource_at(scan, "on_push")),
        scan_before_deploy: node.get("scan").and_then(|scan| r.resource_at(scan, "before_deploy")),
        on_push: on_push.collect(),
    }
}
