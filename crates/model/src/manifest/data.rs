//! Stores.

use std::{collections::BTreeMap, time::Duration};

use super::{node::Node, read::Reader};
use crate::{
    diagnostic::{Code, Diagnostic},
    id::{Kind, ResourceId},
    resource::{
        Backup, Blob, BlobAccess, Container, DatabaseAccess, DatabaseRight, Graph, GraphAccess, GraphRight,
        HighAvailability, Postgres, PublicRead, Redis, Redundancy, Share, SignIn, Standby, Storage, VersionWish,
        WhenLost,
    },
    suggest,
    unit::Bytes,
};

pub(crate) fn postgres(r: &Reader<'_>, id: &ResourceId, node: &Node) -> Option<Postgres> {
    let version = node.get("version").and_then(|version| {
        let want = r.integer(version, "want").or_else(|| r.integer(node, "version"))?;
        let accept = version.get("accept").map_or(&[][..], Node::items);
        let accept = accept.iter().filter_map(|item| match item.value {
            super::node::Value::Integer(n) => u32::try_from(n).ok(),
            _ => None,
        });
        Some(VersionWish { want, accept: accept.filter(|n| *n != want).collect() })
    });
    let databases = databases(r, node);
    let access = node.get("access").map_or(&[][..], Node::items).iter();
    let access = access
        .filter_map(|item| {
            let rights = [
                ("read-only", DatabaseRight::ReadOnly),
                ("read-write", DatabaseRight::ReadWrite),
                ("owner", DatabaseRight::Owner),
            ];
            let database = match item.get("database") {
                Some(name) => database(r, id, &databases, name)?,
                None => databases.first()?.clone(),
            };
            let ways = [("password", SignIn::Password), ("identity", SignIn::Identity)];
            Some(DatabaseAccess {
                to: r.principal_at(item, "to")?,
                right: r.word(item, "right", &rights)?,
                database,
                sign_in: r.word(item, "sign_in", &ways).unwrap_or_default(),
            })
        })
        .collect::<Vec<_>>();
    let twice =
        access.iter().enumerate().find(|(n, a)| access[..*n].iter().any(|b| a.to == b.to && a.database == b.database));
    if let Some((_, again)) = twice {
        let span = node.entry("access").map_or_else(|| r.span_of(id), |entry| entry.key_span.clone());
        r.fault(Diagnostic::new(
            Code::S0121,
            span,
            format!("`{}` has two rights in database `{}`", again.to, again.database),
        ));
    }
    let availability = [
        ("none", HighAvailability::None),
        ("same-zone", HighAvailability::SameZone),
        ("zone-redundant", HighAvailability::ZoneRedundant),
    ];
    let settings = node.get("settings").map_or(&[][..], Node::entries).iter();
    Some(Postgres {
        subnet: r.subnet(node),
        size: r.size(node),
        port: r.port(node, "port").unwrap_or(5432),
        databases,
        access,
        backup: backup(r, node),
        high_availability: r.word(node, "high_availability", &availability).unwrap_or_default(),
        standby: standby(r, node),
        read_replicas: r.integer(node, "read_replicas").unwrap_or(0),
        storage: node.get("storage").map_or(Storage { size: None, grow: true }, |storage| Storage {
            size: r.bytes(storage, "size"),
            grow: r.flag(storage, "grow").unwrap_or(true),
        }),
        connections: r.integer(node, "connections").unwrap_or(100),
        settings: settings.filter_map(|entry| Some((entry.key.clone(), entry.node.as_text()?.to_owned()))).collect(),
        version: version?,
    })
}

fn standby(r: &Reader<'_>, node: &Node) -> Standby {
    let usual = Standby::default();
    let Some(node) = node.get("standby") else { return usual };
    let words = [("go-on", WhenLost::GoOn), ("wait", WhenLost::Wait)];
    Standby {
        synchronous: r.flag(node, "synchronous").unwrap_or(usual.synchronous),
        when_lost: r.word(node, "when_lost", &words).unwrap_or_default(),
        lost_after: r.duration(node, "lost_after").unwrap_or(usual.lost_after),
    }
}

/// The declared databases, or one named after the system.
fn databases(r: &Reader<'_>, node: &Node) -> Vec<String> {
    let Some(list) = node.get("databases") else { return vec![r.manifest.name().replace('-', "_")] };
    let mut names = Vec::new();
    for item in list.items() {
        let Some(name) = r.filled(item) else { continue };
        let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'));
        if !plain
            || !name.starts_with(|c: char| c.is_ascii_lowercase())
            || !(1..=52).contains(&name.len())
            || name.starts_with("pg_")
            || matches!(&*name, "postgres" | "template0" | "template1")
        {
            let fault =
                Diagnostic::new(Code::S0108, item.span.clone(), format!("`{name}` cannot be the name of a database"));
            r.fault(fault.note(
                "such a name has 1 to 52 of a-z, 0-9, `-` and `_`, a letter first, and is none of PostgreSQL's own",
            ));
        } else if names.contains(&name) {
            r.fault(Diagnostic::new(
                Code::S0121,
                item.span.clone(),
                format!("the database `{name}` is declared twice"),
            ));
        } else {
            names.push(name);
        }
    }
    if list.items().is_empty() {
        r.fault(
            Diagnostic::new(Code::S0118, list.span.clone(), "`databases` is empty")
                .hint("leave it out for one named after the system"),
        );
    }
    names
}

/// A database of `id` by its name.
pub(crate) fn database(r: &Reader<'_>, id: &ResourceId, databases: &[String], node: &Node) -> Option<String> {
    let name = r.filled(node)?;
    if databases.contains(&name) {
        return Some(name);
    }
    let fault = Diagnostic::new(Code::S0109, node.span.clone(), format!("`{id}` has no database `{name}`"));
    r.fault(suggest::hint(fault, &name, databases.iter().map(String::as_str)));
    None
}

fn backup(r: &Reader<'_>, node: &Node) -> Backup {
    let usual = Backup::default();
    let Some(node) = node.get("backup") else { return usual };
    let to = r.resource_at(node, "to").filter(|id| {
        let fits = matches!(id.kind, Kind::Share | Kind::Blob);
        if !fits {
            let span = node.get("to").map_or(node.span.clone(), |to| to.span.clone());
            let fault = Diagnostic::new(Code::S0109, span, format!("`{id}` takes no backups"));
            r.fault(fault.hint("a share or a blob does"));
        }
        fits
    });
    if let Some(entry) = node.entry("point_in_time")
        && r.flag(node, "point_in_time") == Some(false)
    {
        // Base backups stand on the archived log as well; a declaration that it is not kept would be one that is not true.
        let fault =
            Diagnostic::new(Code::S0117, entry.key_span.clone(), "`point_in_time = false` cannot be carried out");
        r.fault(fault.hint("leave it out: the log is always archived, and `increments` says how often at least"));
    }
    Backup {
        retention: r.duration(node, "retention").unwrap_or(usual.retention),
        point_in_time: r.flag(node, "point_in_time").unwrap_or(usual.point_in_time),
        geo: r.flag(node, "geo").unwrap_or(usual.geo),
        every: r.duration(node, "every").unwrap_or(usual.every),
        differential: r.duration(node, "differential"),
        increments: r.duration(node, "increments").unwrap_or(usual.increments),
        to,
        immutable: r.flag(node, "immutable").unwrap_or(usual.immutable),
    }
}

pub(crate) fn redis(r: &Reader<'_>, node: &Node) -> Redis {
    let scale = node.get("scale");
    let min = scale.and_then(|s| r.integer(s, "min")).unwrap_or(1);
    let max = scale.and_then(|s| r.integer(s, "max")).unwrap_or(min);
    if let Some(scale) = scale
        && max < min
    {
        r.fault(Diagnostic::new(
            Code::S0117,
            scale.span.clone(),
            format!("`scale` has at most {max} copies and at least {min}"),
        ));
    }
    Redis {
        subnet: r.subnet(node),
        size: r.size(node),
        port: r.port(node, "port").unwrap_or(6379),
        memory: r.bytes(node, "memory").unwrap_or(Bytes(64 << 20)),
        sync_always: r.word(node, "sync", &[("second", false), ("always", true)]).unwrap_or_default(),
        evicts: r.word(node, "when_full", &[("refuse", false), ("evict", true)]).unwrap_or_default(),
        min,
        max,
        access: node.get("access").map_or(&[][..], Node::items).iter().filter_map(|item| r.principal(item)).collect(),
    }
}

pub(crate) fn blob(r: &Reader<'_>, id: &ResourceId, node: &Node) -> Blob {
    let containers = node.get("containers").map_or(&[][..], Node::entries).iter();
    let containers: BTreeMap<String, Container> = containers
        .map(|entry| {
            let after = |key| r.duration(&entry.node, key);
            let public = [("none", PublicRead::None), ("blob", PublicRead::Blob), ("container", PublicRead::Container)];
            let container = Container {
                public: r.word(&entry.node, "public", &public).unwrap_or_default(),
                cool_after: after("cool_after"),
                archive_after: after("archive_after"),
                delete_after: after("delete_after"),
                immutable: after("immutable"),
            };
            (entry.key.clone(), container)
        })
        .collect();
    let access = node.get("access").map_or(&[][..], Node::items).iter();
    let access = access
        .filter_map(|item| {
            let container = r.raw(item, "container");
            if let Some(name) = container.as_ref().filter(|name| !containers.contains_key(*name)) {
                let fault =
                    Diagnostic::new(Code::S0109, item.span.clone(), format!("`{id}` has no container `{name}`"));
                r.fault(suggest::hint(fault, name, containers.keys().map(String::as_str)));
            }
            Some(BlobAccess { to: r.principal_at(item, "to")?, role: r.raw(item, "role")?, container })
        })
        .collect();
    let redundancy = [("local", Redundancy::Local), ("zone", Redundancy::Zone), ("geo", Redundancy::Geo)];
    Blob {
        subnet: r.subnet(node),
        cloud_name: r.text(node, "cloud_name"),
        containers,
        redundancy: r.word(node, "redundancy", &redundancy).unwrap_or_default(),
        soft_delete: r.duration(node, "soft_delete").unwrap_or(Duration::ZERO),
        versioning: r.flag(node, "versioning").unwrap_or(false),
        snapshot_every: r.duration(node, "snapshot"),
        access,
    }
}

pub(crate) fn share(r: &Reader<'_>, node: &Node) -> Share {
    Share { subnet: r.subnet(node), quota: r.bytes(node, "quota") }
}

pub(crate) fn graph(r: &Reader<'_>, node: &Node) -> Graph {
    let access = node.get("access").map_or(&[][..], Node::items).iter();
    let rights = [("read", GraphRight::Read), ("write", GraphRight::Write)];
    let members = r.integer(node, "members").unwrap_or(1);
    let zones = r.raws(node, "zones");
    if let Some(entry) = node.entry("zones")
        && zones.len() > members as usize
    {
        let fault = Diagnostic::new(
            Code::S0117,
            entry.node.span.clone(),
            format!("there are {} zones for {members} member(s)", zones.len()),
        );
        r.fault(fault);
    }
    Graph {
        subnet: r.subnet(node),
        size: r.size(node),
        port: r.port(node, "port").unwrap_or(7687),
        members,
        zones,
        monitor: r.flag(node, "monitor").unwrap_or(false),
        access: access
            .filter_map(|item| {
                Some(GraphAccess { to: r.principal_at(item, "to")?, right: r.word(item, "right", &rights)? })
            })
            .collect(),
    }
}
