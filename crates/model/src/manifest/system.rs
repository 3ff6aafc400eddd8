//! The system as a whole, and its edge.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    app, check, data, declared, keys, matches,
    node::Node,
    read::{Reader, identity_comes_by_itself},
    shape, trust,
};
use crate::{
    diagnostic::{Code, Diagnostic},
    id::{Kind, ResourceId},
    resource::{Cache, Edge, EdgeLimits, Identity, Origin, Probe, Rate, RatePer, Resource, Route, TlsMin},
    suggest,
    system::{Alert, Cost, Group, Link, LinkEnd, LinkKind, Network, Objective, Shared, Size, System, Target},
    unit::{self, Cidr},
};

impl Reader<'_> {
    /// The whole stamp, and all that is wrong with it.
    pub fn system(self) -> (System, Vec<Diagnostic>) {
        let root = self.root;
        let sizes = self.sizes();
        let mut resources = BTreeMap::new();
        for (kind, name, _) in declared(root) {
            let node =
                if kind == Kind::Edge { root.get("edge") } else { root.get(kind.word()).and_then(|k| k.get(&name)) };
            let id = ResourceId::new(kind, name);
            if let Some(resource) = node.and_then(|node| self.resource_of(&id, node, &sizes)) {
                resources.insert(id, resource);
            }
        }
        if identity_comes_by_itself(
            &declared(root)
                .into_iter()
                .map(|(k, n, _)| ResourceId::new(k, n))
                .chain(self.shared().into_keys())
                .collect(),
        ) {
            let bare = Identity {
                title: self.manifest.title().to_owned(),
                issuer: None,
                groups: Vec::new(),
                admin_group: None,
                clients: BTreeMap::new(),
                mfa: false,
                session: Duration::from_secs(12 * 3600),
                issuers: BTreeMap::new(),
                directory: None,
            };
            resources.insert(ResourceId::new(Kind::Identity, "main"), Resource::Identity(bare));
        }
        let mut unbuilt = Vec::new();
        shape::unbuilt(root, &keys::ROOT, "", &mut unbuilt);
        unbuilt
            .retain(|path| Kind::from_word(path.split('.').next().unwrap_or_default()).is_none_or(Kind::is_provided));
        unbuilt.extend(resources.keys().filter(|id| !id.kind.is_provided()).map(ToString::to_string));
        // What every account of blobs is, is carried out where it is said as well.
        let is_local = |path: &String| {
            let id = path.strip_suffix(".redundancy").and_then(|id| id.parse::<ResourceId>().ok());
            let blob = id.and_then(|id| resources.get(&id));
            matches!(blob, Some(Resource::Blob(blob)) if blob.redundancy == crate::resource::Redundancy::Local)
        };
        unbuilt.retain(|path| !is_local(path));
        let links = self.links();
        unbuilt.extend(links.iter().filter(|(_, l)| l.what != LinkKind::Call).map(|(name, _)| format!("links.{name}")));
        let tags = self.tags(Some(root));
        let mut system = System {
            name: self.manifest.name().to_owned(),
            title: self.manifest.title().to_owned(),
            stamp: self.stamp.to_owned(),
            region: self.region.clone(),
            protected: self.flag(root, "protected").unwrap_or(false),
            cloud_names: root.get("names").and_then(|names| self.flag(names, "cloud")).unwrap_or(false),
            network: self.network(),
            groups: self.groups_of(&resources),
            order: Vec::new(),
            shared: self.shared(),
            links,
            calls: Vec::new(),
            objectives: self.objectives(),
            alerts: self.alerts(),
            tags,
            sizes,
            cost: self.cost(),
            unbuilt,
            resources,
        };
        check::cross(&self, &system);
        system.order = check::order(&self, &system);
        (system, self.into_faults())
    }

    fn resource_of(&self, id: &ResourceId, node: &Node, sizes: &BTreeMap<String, Size>) -> Option<Resource> {
        Some(match id.kind {
            Kind::Edge => Resource::Edge(self.edge(node)),
            Kind::Service => Resource::Service(app::service(self, id, node, sizes)?),
            Kind::Job => Resource::Job(app::job(self, id, node)?),
            Kind::External => Resource::External(app::external(self, node)?),
            Kind::Postgres => Resource::Postgres(data::postgres(self, id, node)?),
            Kind::Redis => Resource::Redis(data::redis(self, node)),
            Kind::Blob => Resource::Blob(data::blob(self, id, node)),
            Kind::Share => Resource::Share(data::share(self, node)),
            Kind::Graph => Resource::Graph(data::graph(self, node)),
            Kind::Vault => Resource::Vault(trust::vault(self, id, node)),
            Kind::Identity => Resource::Identity(trust::identity(self, node)),
            Kind::Telemetry => Resource::Telemetry(trust::telemetry(self, id, node)),
            Kind::Audit => Resource::Audit(trust::audit(self, id, node)),
            Kind::Registry => Resource::Registry(trust::registry(self, node)),
        })
    }

    fn edge(&self, node: &Node) -> Edge {
        let routes = node.get("routes").map_or(&[][..], Node::items).iter();
        let routes: Vec<Route> = routes
            .filter_map(|item| {
                let to = self.resource_at(item, "to")?;
                Some(Route { hosts: self.texts(item, "host"), path: self.raw(item, "path")?, to })
            })
            .collect();
        let origins = self.origins(node);
        let standard = Probe::default();
        let probe = node.get("probe").map_or_else(Probe::default, |probe| Probe {
            path: self.raw(probe, "path").unwrap_or(standard.path),
            every: self.duration(probe, "every").filter(|d| !d.is_zero()).unwrap_or(standard.every),
            fall: self.integer(probe, "fall").unwrap_or(standard.fall),
        });
        let front =
            node.get("front").filter(|front| front.as_text().is_some_and(|name| self.another_stamp(name, front)));
        if node.get("routes").is_none_or(|r| r.items().is_empty()) && origins.is_empty() {
            let fault = Diagnostic::new(Code::S0118, self.span(&["edge"]), "the edge leads nowhere");
            self.fault(fault.hint("add a route: `routes = [{ path = \"/\", to = \"service.web\" }]`"));
        }
        let limits = node.get("limits").map_or_else(EdgeLimits::default, |limits| EdgeLimits {
            header: self.bytes(limits, "header"),
            headers: self.integer(limits, "headers"),
            body: self.bytes(limits, "body"),
            timeout: self.duration(limits, "timeout"),
            connections: self.integer(limits, "connections"),
            drain: self.duration(limits, "drain"),
        });
        let countries = node.get("countries").map_or(&[][..], Node::items).iter();
        let countries = countries.filter_map(|item| {
            self.formed(item, "a country", |text| {
                let fine = text.len() == 2 && text.bytes().all(|b| b.is_ascii_uppercase());
                if fine { Ok(text.to_owned()) } else { Err("write its two letters of ISO 3166, such as `AU`".into()) }
            })
        });
        let rates = node.get("rates").map_or(&[][..], Node::entries).iter();
        let rates = rates.filter_map(|entry| Some((entry.key.clone(), self.formed(&entry.node, "a rate", rate)?)));
        let cache = node.get("cache").map_or(&[][..], Node::items).iter();
        let cache =
            cache.filter_map(|item| Some(Cache { path: self.raw(item, "path")?, life: self.duration(item, "life")? }));
        Edge {
            routes,
            origins,
            probe,
            front: front.and_then(Node::as_text).map(str::to_owned),
            tls_min: node
                .get("tls")
                .and_then(|tls| self.word(tls, "min", &[("1.2", TlsMin::V1_2), ("1.3", TlsMin::V1_3)]))
                .unwrap_or_default(),
            hsts: self.duration(node, "hsts").unwrap_or(Duration::from_secs(365 * 86_400)),
            limits,
            allow: self.blocks(node, "allow"),
            countries: countries.collect(),
            waf: self.flag(node, "waf").unwrap_or(false),
            rates: rates.collect(),
            cache: cache.collect(),
        }
    }

    fn origins(&self, edge: &Node) -> Vec<Origin> {
        let items = edge.get("origins").map_or(&[][..], Node::items).iter();
        let origins = items.zip(1..).filter_map(|(item, place)| {
            let (name, node) = match item.as_text() {
                Some(name) => (name, item),
                None => (item.get("stamp")?.as_text()?, item.get("stamp")?),
            };
            self.another_stamp(name, node).then(|| Origin {
                stamp: name.to_owned(),
                priority: self.integer(item, "priority").unwrap_or(place),
                weight: self.integer(item, "weight").unwrap_or(1),
            })
        });
        origins.collect()
    }

    /// Whether it is a stamp of the system, and not this one.
    fn another_stamp(&self, name: &str, node: &Node) -> bool {
        if name == self.stamp {
            let message = format!("the edge of `{name}` cannot stand before itself");
            self.fault(Diagnostic::new(Code::S0119, node.span.clone(), message));
            return false;
        }
        self.known_stamp(name, node)
    }

    fn blocks(&self, node: &Node, key: &str) -> Vec<Cidr> {
        node.get(key).map_or(&[][..], Node::items).iter().filter_map(|i| unit::cidr(i.as_text()?).ok()).collect()
    }

    fn sizes(&self) -> BTreeMap<String, Size> {
        let entries = self.root.get("sizes").map_or(&[][..], Node::entries).iter();
        entries
            .map(|entry| {
                let node = &entry.node;
                let size = Size {
                    cpu_millis: self.cpu_millis(node, "cpu"),
                    memory: self.bytes(node, "memory"),
                    price: self.price(node, "price"),
                };
                (entry.key.clone(), size)
            })
            .collect()
    }

    fn network(&self) -> Network {
        let Some(node) = self.root.get("network") else { return Network::default() };
        let space = node.get("space").and_then(Node::as_text).and_then(|text| unit::cidr(text).ok());
        let (mut subnets, mut delegated) = (BTreeMap::<String, Cidr>::new(), BTreeMap::new());
        for entry in node.get("subnets").map_or(&[][..], Node::entries) {
            let range = entry.node.get("range").unwrap_or(&entry.node);
            let Some(block) = range.as_text().and_then(|text| unit::cidr(text).ok()) else { continue };
            let kind = entry.node.get("for").and_then(Node::as_text).and_then(Kind::from_word);
            delegated.extend(kind.map(|kind| (entry.key.clone(), kind)));
            if let Some(space) = space.filter(|space| !space.holds(block)) {
                let message = format!("the subnet `{}` ({block}) lies outside the network's space {space}", entry.key);
                self.fault(Diagnostic::new(Code::S0114, entry.node.span.clone(), message));
            }
            if let Some((other, theirs)) = subnets.iter().find(|(_, theirs)| theirs.overlaps(block)) {
                let message = format!("the subnets `{}` ({block}) and `{other}` ({theirs}) overlap", entry.key);
                self.fault(Diagnostic::new(Code::S0114, entry.node.span.clone(), message));
            }
            subnets.insert(entry.key.clone(), block);
        }
        Network { space, subnets, delegated }
    }

    /// The filled-in tags of the system or of a group.
    fn tags(&self, node: Option<&Node>) -> BTreeMap<String, String> {
        let entries = node.and_then(|n| n.get("tags")).map_or(&[][..], Node::entries).iter();
        entries.filter_map(|entry| Some((entry.key.clone(), self.filled(&entry.node)?))).collect()
    }

    fn groups_of(&self, resources: &BTreeMap<ResourceId, Resource>) -> BTreeMap<String, Group> {
        let mut groups = BTreeMap::new();
        let mut held: BTreeMap<ResourceId, String> = BTreeMap::new();
        for entry in self.root.get("groups").map_or(&[][..], Node::entries) {
            let mut members = BTreeSet::new();
            for pattern in entry.node.get("holds").map_or(&[][..], Node::items) {
                let Some(text) = pattern.as_text() else { continue };
                let found: Vec<&ResourceId> = resources.keys().filter(|id| matches(text, &id.to_string())).collect();
                // A pattern for many may find none: stamps differ in what they have.
                if found.is_empty() && !text.ends_with('*') {
                    match text.parse::<ResourceId>() {
                        Ok(id) if self.known.contains(&id) => {}
                        Ok(id) if !self.is_declared_somewhere(&id) => self.unknown_resource(&id, pattern.span.clone()),
                        Ok(_) => {}
                        Err(_) => {
                            let message = format!("cannot read `{text}` as resources of a group");
                            let fault = Diagnostic::new(Code::S0105, pattern.span.clone(), message);
                            self.fault(fault.hint("write `service.web`, `service.*` or `*`"));
                        }
                    }
                }
                for id in found {
                    let first = held.entry(id.clone()).or_insert_with(|| entry.key.clone());
                    if *first != entry.key {
                        let message = format!("`{id}` is in two groups, `{first}` and `{}`", entry.key);
                        self.fault(Diagnostic::new(Code::S0121, pattern.span.clone(), message));
                    }
                    members.insert(id.clone());
                }
            }
            let title = self.text(&entry.node, "title").unwrap_or_else(|| entry.key.clone());
            groups.insert(entry.key.clone(), Group { title, members, tags: self.tags(Some(&entry.node)) });
        }
        groups
    }

    fn objectives(&self) -> BTreeMap<String, Objective> {
        let mut objectives = BTreeMap::new();
        for entry in self.root.get("objectives").map_or(&[][..], Node::entries) {
            let (node, span) = (&entry.node, entry.key_span.clone());
            let mut drills = self.raws(node, "drills");
            drills.extend(self.raw(node, "drill"));
            let probe = self.raw(node, "probe");
            if drills.is_empty() && probe.is_none() {
                let fault = Diagnostic::new(
                    Code::S0115,
                    span.clone(),
                    format!("nothing measures the objective `{}`", entry.key),
                );
                self.fault(
                    fault
                        .note("a promise that nobody measures proves nothing")
                        .hint("name a `drill`, several `drills`, or a `probe`"),
                );
            }
            let target = match (node.get("within"), node.get("at_least")) {
                (Some(_), None) => self.duration(node, "within").map(Target::Within),
                (None, Some(least)) => match self.long(node, "at_least") {
                    Some(count) => Some(Target::Count(count)),
                    None => self.formed(least, "a target", target),
                },
                _ => {
                    let fault =
                        Diagnostic::new(Code::S0118, span, format!("the objective `{}` has no one target", entry.key));
                    self.fault(fault.hint("write one of them: `within = \"1h\"` or `at_least = \"99.95%\"`"));
                    None
                }
            };
            if let Some(target) = target {
                objectives.insert(entry.key.clone(), Objective { target, drills, probe });
            }
        }
        objectives
    }

    fn alerts(&self) -> BTreeMap<String, Alert> {
        let entries = self.root.get("alerts").map_or(&[][..], Node::entries).iter();
        let alerts = entries.filter_map(|entry| {
            let when = self.formed(entry.node.get("when")?, "a rule", app::watch)?;
            let critical =
                self.word(&entry.node, "severity", &[("warning", false), ("critical", true)]).unwrap_or(false);
            Some((entry.key.clone(), Alert { when, critical }))
        });
        alerts.collect()
    }

    fn cost(&self) -> Option<Cost> {
        let node = self.root.get("cost")?;
        let alerts = node.get("alerts").map_or(&[][..], Node::items).iter();
        let alerts = alerts.filter_map(|item| {
            if let super::node::Value::Integer(n) = item.value { u32::try_from(n).ok() } else { None }
        });
        Some(Cost {
            budget: self.price(node, "budget")?,
            alerts: alerts.collect(),
            report_every: self.duration(node, "report"),
        })
    }

    /// Resources of other stamps under names of this one. `SYSTEM/STAMP` means the resource of the same name there.
    fn shared(&self) -> BTreeMap<ResourceId, Shared> {
        let mut all = BTreeMap::new();
        for group in self.root.get("shared").map_or(&[][..], Node::entries) {
            let Some(kind) = Kind::from_word(&group.key) else { continue };
            for entry in group.node.entries() {
                let id = ResourceId::new(kind, entry.key.clone());
                let found = self.formed(&entry.node, "a resource of another stamp", |text| {
                    let mut parts = text.split('/');
                    let (system, stamp, resource) = (parts.next(), parts.next(), parts.next());
                    let resource = resource.map_or(Ok(id.clone()), str::parse).ok().filter(|r| r.kind == kind);
                    match (system, stamp, resource, parts.next()) {
                        (Some(system), Some(stamp), Some(resource), None)
                            if crate::is_name(system) && crate::is_name(stamp) =>
                        {
                            Ok(Shared { system: system.to_owned(), stamp: stamp.to_owned(), resource })
                        }
                        _ => Err(format!("write `SYSTEM/STAMP` or `SYSTEM/STAMP/{id}`")),
                    }
                });
                if self.root.get(kind.word()).is_some_and(|own| own.get(&entry.key).is_some()) {
                    let message = format!("`{id}` is both shared and this stamp's own");
                    self.fault(Diagnostic::new(Code::S0121, entry.key_span.clone(), message));
                }
                all.extend(found.map(|shared| (id, shared)));
            }
        }
        all
    }

    pub(crate) fn links(&self) -> BTreeMap<String, Link> {
        let kinds = [("replica", LinkKind::Replica), ("copy", LinkKind::Copy), ("call", LinkKind::Call)];
        let mut links = BTreeMap::new();
        for entry in self.root.get("links").map_or(&[][..], Node::entries) {
            let node = &entry.node;
            let ends = (node.get("from").and_then(|n| self.link_end(n)), node.get("to").and_then(|n| self.link_end(n)));
            let (Some(from), Some(to)) = ends else { continue };
            if from.stamp.is_some() == to.stamp.is_some() {
                let fault = Diagnostic::new(
                    Code::S0122,
                    entry.key_span.clone(),
                    format!("the link `{}` does not join this stamp to another", entry.key),
                );
                self.fault(fault.hint("one end is `RESOURCE`, the other `STAMP/RESOURCE`"));
            }
            let Some(what) = self.word(node, "what", &kinds) else { continue };
            if what != LinkKind::Call && from.resource.kind != to.resource.kind {
                let message = format!("`{}` cannot follow `{}`: they are not of one kind", to.resource, from.resource);
                self.fault(Diagnostic::new(Code::S0122, entry.key_span.clone(), message));
            }
            let calls = |end: &LinkEnd| end.resource.kind == Kind::Service;
            if what == LinkKind::Call && !(calls(&from) && calls(&to)) {
                let message = format!(
                    "`{}` cannot call `{}`: a call leads from a service to a service",
                    from.resource, to.resource
                );
                self.fault(Diagnostic::new(Code::S0122, entry.key_span.clone(), message));
            }
            let link = Link { what, from, to, carries: self.raws(node, "carries"), lag: self.duration(node, "lag") };
            links.insert(entry.key.clone(), link);
        }
        links
    }

    fn link_end(&self, node: &Node) -> Option<LinkEnd> {
        let text = self.filled(node)?;
        let (stamp, name) = text.split_once('/').map_or((None, text.as_str()), |(stamp, name)| (Some(stamp), name));
        let Ok(resource) = name.parse::<ResourceId>() else {
            let fault =
                Diagnostic::new(Code::S0105, node.span.clone(), format!("cannot read `{text}` as the end of a link"));
            self.fault(fault.hint("write `RESOURCE`, or `STAMP/RESOURCE` for another stamp's"));
            return None;
        };
        match stamp {
            None if !self.known.contains(&resource) => {
                self.unknown_resource(&resource, node.span.clone());
                return None;
            }
            None => {}
            Some(stamp) => {
                if !self.known_stamp(stamp, node) {
                    return None;
                }
                let there = self.manifest.merged(stamp)?;
                if !declared(&there).into_iter().any(|(kind, name, _)| ResourceId::new(kind, name) == resource) {
                    let message = format!("`{resource}` is not declared in stamp `{stamp}`");
                    self.fault(Diagnostic::new(Code::S0109, node.span.clone(), message));
                    return None;
                }
            }
        }
        Some(LinkEnd { stamp: stamp.map(str::to_owned), resource })
    }

    fn known_stamp(&self, name: &str, node: &Node) -> bool {
        let known = self.manifest.stamps().any(|stamp| stamp == name);
        if !known {
            let fault = Diagnostic::new(Code::S0119, node.span.clone(), format!("the system has no stamp `{name}`"));
            self.fault(suggest::hint(fault, name, self.manifest.stamps()));
        }
        known
    }

    /// Whether any stamp has the resource.
    fn is_declared_somewhere(&self, id: &ResourceId) -> bool {
        let has = |root: &Node| declared(root).into_iter().any(|(kind, name, _)| kind == id.kind && name == id.name);
        self.manifest.stamps().filter_map(|stamp| self.manifest.merged(stamp)).any(|root| has(&root))
    }
}

/// `60/m`, `10/s`, `1000/h`.
fn rate(text: &str) -> Result<Rate, String> {
    let form = || "write requests and their span, such as \"60/m\"; spans are s, m, h".to_owned();
    let (requests, per) = text.split_once('/').ok_or_else(form)?;
    let per = match per {
        "s" => RatePer::Second,
        "m" => RatePer::Minute,
        "h" => RatePer::Hour,
        _ => return Err(form()),
    };
    requests.parse().ok().filter(|n| *n > 0).map(|requests| Rate { requests, per }).ok_or_else(form)
}

/// `99.95%` or `1000/m`.
fn target(text: &str) -> Result<Target, String> {
    let form = || "write a share such as \"99.95%\", a rate such as \"1000/m\", or a count".to_owned();
    if let Some(share) = text.strip_suffix('%') {
        let (whole, part) = share.split_once('.').unwrap_or((share, ""));
        let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || whole.len() > 3 || part.len() > 3 || !digits(whole) || !digits(part) {
            return Err(form());
        }
        let millipercent = format!("{whole}{part:0<3}").parse::<u32>().map_err(|_| form())?;
        return if millipercent <= 100_000 {
            Ok(Target::Percent { millipercent })
        } else {
            Err("a share is 100% at most".into())
        };
    }
    let (count, per) = text.split_once('/').ok_or_else(form)?;
    let per = match per {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(form()),
    };
    Ok(Target::Rate { count: count.parse().map_err(|_| form())?, per: Duration::from_secs(per) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_and_rates_are_read() {
        assert_eq!(target("99.95%").unwrap(), Target::Percent { millipercent: 99_950 });
        assert_eq!(target("90%").unwrap(), Target::Percent { millipercent: 90_000 });
        assert_eq!(target("1000/m").unwrap(), Target::Rate { count: 1000, per: Duration::from_secs(60) });
        assert_eq!(rate("60/m").unwrap(), Rate { requests: 60, per: RatePer::Minute });
        for text in ["", "%", "101%", "1.2345%", "5", "5/y", "-1/s"] {
            assert!(target(text).is_err(), "{text}");
        }
        for text in ["", "0/s", "60", "60/d", "x/s"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}
