//! What can only be judged with all resources at hand: rights, routes, policy, and the order of starting.

use std::collections::{BTreeMap, BTreeSet};

use super::{node::Node, read::Reader};
use crate::{
    diagnostic::{Code, Diagnostic},
    id::{Kind, Principal, ResourceId},
    resource::{Resource, SecretOrigin, SignIn},
    system::System,
    value::Value,
};

pub(crate) fn cross(r: &Reader<'_>, system: &System) {
    one_of_a_kind(r, system);
    routes(r, system);
    references(r, system);
    secrets(r, system);
    passwords(r, system);
    super::sign_in::check(r, system);
    policy(r, system);
    delegations(r, system);
}

/// A subnet that is for one kind takes no other.
fn delegations(r: &Reader<'_>, system: &System) {
    for (id, resource) in &system.resources {
        let Some(subnet) = resource.subnet() else { continue };
        let Some(kind) = system.network.delegated.get(subnet).filter(|kind| **kind != id.kind) else { continue };
        let message = format!("`{id}` cannot lie in the subnet `{subnet}`, which is for {kind} resources");
        let fault = Diagnostic::new(Code::S0114, r.span(&[id.kind.word(), &id.name, "subnet"]), message);
        let fits = |name: &&String| system.network.delegated.get(*name).is_none_or(|kind| *kind == id.kind);
        let others: Vec<&str> = system.network.subnets.keys().filter(fits).map(String::as_str).collect();
        r.fault(match others.as_slice() {
            [] => fault.hint(format!(
                "add one for it: `[network]`, `subnets.{} = {{ range = \"10.0.9.0/24\", for = \"{}\" }}`",
                id.kind, id.kind
            )),
            others => fault.hint(format!("one of: {}", others.join(", "))),
        });
    }
}

/// A stamp has one directory and one audit record.
fn one_of_a_kind(r: &Reader<'_>, system: &System) {
    for kind in [Kind::Identity, Kind::Audit] {
        let all: Vec<&ResourceId> = system.resources.keys().filter(|id| id.kind == kind).collect();
        if let [first, second, ..] = all.as_slice() {
            let fault = Diagnostic::new(
                Code::S0121,
                r.span_of(second),
                format!("`{second}` is a second {kind} beside `{first}`"),
            );
            r.fault(fault.note(format!("a stamp has one {kind} at most")));
        }
    }
}

fn routes(r: &Reader<'_>, system: &System) {
    let Some(edge) = system.edge() else { return };
    let mut seen: BTreeSet<(Option<&str>, &str)> = BTreeSet::new();
    let nodes = r.root.get("edge").and_then(|edge| edge.get("routes")).map_or(&[][..], Node::items);
    let span = |path: &str, to: &ResourceId| {
        let found = nodes.iter().rfind(|n| {
            n.get("path").and_then(Node::as_text) == Some(path)
                && n.get("to").and_then(Node::as_text) == Some(&*to.to_string())
        });
        found.map_or_else(|| r.span(&["edge", "routes"]), |n| n.span.clone())
    };
    if !edge.origins.is_empty() {
        seen.insert((None, "/"));
    }
    for route in &edge.routes {
        let fits = match system.get(&route.to) {
            Some(Resource::Service(service)) => service.port.is_some(),
            // A resource that has faults of its own is not there; nothing more is said about it.
            None => true,
            Some(_) => false,
        };
        if !fits {
            let why = if route.to.kind == Kind::Service { "it has no port" } else { "a route leads to a service" };
            let message = format!("the edge cannot pass `{}` to `{}`", route.path, route.to);
            r.fault(Diagnostic::new(Code::S0118, span(&route.path, &route.to), message).note(why));
        }
        let hosts: Vec<Option<&str>> =
            if route.hosts.is_empty() { vec![None] } else { route.hosts.iter().map(|h| Some(h.as_str())).collect() };
        for host in hosts {
            if !seen.insert((host, &route.path)) {
                let message =
                    format!("two routes take `{}`{}", route.path, host.map(|h| format!(" of {h}")).unwrap_or_default());
                r.fault(Diagnostic::new(Code::S0121, span(&route.path, &route.to), message));
            }
        }
    }
}

/// The variables of one workload.
struct Environment<'s> {
    /// With whose identity its references are resolved.
    who: Principal,
    id: &'s ResourceId,
    env: &'s BTreeMap<String, Value>,
    /// Where it stands under the resource.
    path: &'static [&'static str],
}

/// The environments of each workload.
fn environments(system: &System) -> Vec<Environment<'_>> {
    let mut all = Vec::new();
    for (id, resource) in &system.resources {
        match resource {
            Resource::Service(service) => {
                all.push(Environment { who: Principal::Workload(id.clone()), id, env: &service.env, path: &["env"] });
                if let Some(migrate) = &service.migrate {
                    let who = Principal::Migrate(id.clone());
                    all.push(Environment { who, id, env: &migrate.env, path: &["migrate", "env"] });
                }
            }
            Resource::Job(job) => {
                all.push(Environment { who: Principal::Workload(id.clone()), id, env: &job.env, path: &["env"] });
            }
            _ => {}
        }
    }
    all
}

/// Who refers to a secret must be allowed to read it, and to talk to what it opens.
fn references(r: &Reader<'_>, system: &System) {
    for Environment { who, id, env, path } in environments(system) {
        let needs = system.needs(id);
        for (variable, value) in env {
            let Value::Vault(reference) = value else { continue };
            let Some(Resource::Vault(vault)) = system.get(&reference.vault) else { continue };
            let mut at = vec![id.kind.word(), id.name.as_str()];
            at.extend(path);
            at.push(variable);
            let (span, vault_id, secret) = (r.span(&at), &reference.vault, &reference.secret);
            let allowed = vault.access.iter().any(|access| {
                access.to == who
                    && access.role.reads_values()
                    && (access.secrets.is_empty() || access.secrets.contains(secret))
            });
            if !allowed {
                let fault = Diagnostic::new(
                    Code::S0116,
                    span.clone(),
                    format!("`{who}` may not read `{secret}` of `{vault_id}`"),
                );
                r.fault(fault.hint(format!(
                    "add to `access` of `[{vault_id}]`: {{ to = \"{who}\", role = \"Key Vault Secrets User\", secrets = [\"{secret}\"] }}"
                )));
            }
            let Some(origin) = vault.secrets.get(secret) else { continue };
            let (opens, whose) = match origin {
                SecretOrigin::Database { postgres, workload, .. } => (postgres, Some(workload)),
                SecretOrigin::Telemetry { telemetry, workload } => (telemetry, Some(workload)),
                SecretOrigin::Redis { redis, workload } => (redis, Some(workload)),
                SecretOrigin::Graph { graph, workload } => (graph, Some(workload)),
                SecretOrigin::ClientSecret { identity, .. } => (identity, None),
                _ => continue,
            };
            if let Some(other) = whose.filter(|whose| **whose != who) {
                let message = format!("`{secret}` opens `{opens}` for `{other}`, and `{who}` refers to it");
                let fault = Diagnostic::new(Code::S0116, span.clone(), message)
                    .note("each workload has rights and a password of its own");
                r.fault(fault.hint(format!("declare a secret of its own: `from = \"{opens}\"`, `for = \"{who}\"`")));
            }
            if !needs.contains(opens) && system.resources.contains_key(opens) {
                let fault = Diagnostic::new(
                    Code::S0116,
                    span,
                    format!("`{id}` gets into `{opens}` by `{secret}`, and does not need it"),
                );
                r.fault(
                    fault
                        .note("`needs` says what is started first and whom a workload may talk to")
                        .hint(format!("add \"{opens}\" to `needs` of `[{id}]`")),
                );
            }
        }
    }
}

/// A connection string is made for somebody who has a right in the database.
fn secrets(r: &Reader<'_>, system: &System) {
    for (vault_id, vault) in system.vaults() {
        for (name, origin) in &vault.secrets {
            let span = r.span(&["vault", &vault_id.name, "secrets", name]);
            let (id, who, has) = match origin {
                SecretOrigin::Database { postgres, database, workload, .. } => match system.get(postgres) {
                    Some(Resource::Postgres(p)) => {
                        (postgres, workload, p.access.iter().any(|a| a.to == *workload && a.database == *database))
                    }
                    _ => continue,
                },
                SecretOrigin::Redis { redis, workload } => match system.get(redis) {
                    Some(Resource::Redis(x)) => (redis, workload, x.access.contains(workload)),
                    _ => continue,
                },
                SecretOrigin::Graph { graph, workload } => match system.get(graph) {
                    Some(Resource::Graph(g)) => (graph, workload, g.access.iter().any(|a| a.to == *workload)),
                    _ => continue,
                },
                _ => continue,
            };
            if !has {
                let fault = Diagnostic::new(
                    Code::S0116,
                    span,
                    format!("`{name}` connects `{who}` to `{id}`, where it has no right"),
                );
                let item = match id.kind {
                    Kind::Redis => format!("\"{who}\""),
                    Kind::Graph => format!("{{ to = \"{who}\", right = \"read\" }}"),
                    _ => format!("{{ to = \"{who}\", right = \"read-write\" }}"),
                };
                r.fault(fault.hint(format!("add to `access` of `[{id}]`: {item}")));
            }
        }
    }
}

/// A workload has one password for a database.
fn passwords(r: &Reader<'_>, system: &System) {
    let mut seen: BTreeMap<_, (&ResourceId, &str)> = BTreeMap::new();
    for (vault_id, vault) in system.vaults() {
        for (name, origin) in &vault.secrets {
            let SecretOrigin::Database { postgres, database, workload, .. } = origin else { continue };
            let Some(Resource::Postgres(declared)) = system.get(postgres) else { continue };
            let right = declared.access.iter().find(|a| a.to == *workload && a.database == *database);
            if right.is_none_or(|right| right.sign_in != SignIn::Password) {
                continue;
            }
            let Some((other, first)) = seen.insert((postgres, database, workload), (vault_id, name)) else { continue };
            let span = r.span(&["vault", &vault_id.name, "secrets", name]);
            let message = format!("`{name}` would give `{workload}` another password than `{first}` does");
            let fault = Diagnostic::new(Code::S0121, span, message);
            let fault = fault.note("a workload has one password for a database; the one made last is it");
            r.fault(fault.hint(format!("write `{name} = {{ same = \"{other}/{first}\" }}`, or leave it out")));
        }
    }
}

/// The manifest's own rules.
fn policy(r: &Reader<'_>, system: &System) {
    let Some(policy) = r.root.get("policy") else { return };
    let regions = r.names(policy, "regions");
    if let Some(region) = &system.region
        && !regions.is_empty()
        && !regions.contains(region)
    {
        let message = format!("the policy does not allow the region `{region}`");
        r.fault(
            Diagnostic::new(Code::S0123, r.span(&["region"]), message)
                .note(format!("it allows {}", regions.join(", "))),
        );
    }
    for node in policy.get("require_tags").map_or(&[][..], Node::items) {
        let Some(tag) = node.as_text() else { continue };
        let without: Vec<String> = system
            .resources
            .keys()
            .filter(|id| {
                !system.tags.contains_key(tag)
                    && !system.groups.values().any(|g| g.members.contains(id) && g.tags.contains_key(tag))
            })
            .map(ToString::to_string)
            .collect();
        if !without.is_empty() {
            let fault = Diagnostic::new(
                Code::S0123,
                node.span.clone(),
                format!("the policy requires the tag `{tag}`, and resources lack it"),
            );
            r.fault(
                fault
                    .note(format!("without it: {}", without.join(", ")))
                    .hint(format!("`[tags]`, `{tag} = \"...\"` gives it to all")),
            );
        }
    }
}

/// Resources in the order of starting: each after what it needs, otherwise by name. Reports cycles.
pub(crate) fn order(r: &Reader<'_>, system: &System) -> Vec<ResourceId> {
    let mut order = Vec::new();
    let mut done = BTreeSet::new();
    let mut reported = BTreeSet::new();
    for id in system.resources.keys() {
        let mut path = Vec::new();
        visit(r, system, id, &mut path, &mut done, &mut order, &mut reported);
    }
    order
}

fn visit(
    r: &Reader<'_>,
    system: &System,
    id: &ResourceId,
    path: &mut Vec<ResourceId>,
    done: &mut BTreeSet<ResourceId>,
    order: &mut Vec<ResourceId>,
    reported: &mut BTreeSet<BTreeSet<ResourceId>>,
) {
    if done.contains(id) {
        return;
    }
    if let Some(start) = path.iter().position(|seen| seen == id) {
        let cycle = &path[start..];
        if reported.insert(cycle.iter().cloned().collect()) {
            let mut names: Vec<String> = cycle.iter().map(ToString::to_string).collect();
            names.push(id.to_string());
            let span = match id.kind {
                Kind::Edge => r.span_of(id),
                _ => r.span(&[id.kind.word(), &id.name, "needs"]),
            };
            let fault = Diagnostic::new(Code::S0110, span, format!("`{id}` needs itself: {}", names.join(" -> ")));
            let fault =
                fault.note("a resource is started after all it needs; references such as `{service.api.url}` count");
            r.fault(
                fault.hint("let one of them find the other when it first calls it, without needing it at the start"),
            );
        }
        return;
    }
    path.push(id.clone());
    for need in system.needs(id) {
        visit(r, system, &need, path, done, order, reported);
    }
    // A vault is filled from these, so they come first where that is possible; it does not talk to them.
    if let Some(Resource::Vault(vault)) = system.get(id) {
        for origin in vault.secrets.values().filter_map(SecretOrigin::resource) {
            if system.resources.contains_key(origin) && !path.contains(origin) {
                visit(r, system, origin, path, done, order, reported);
            }
        }
    }
    path.pop();
    if done.insert(id.clone()) {
        order.push(id.clone());
    }
}
