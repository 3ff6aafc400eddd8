//! Reads typed values out of a tree. What the shape check has reported is passed over in silence here.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    time::Duration,
};

use super::{
    Manifest, declared,
    node::{Node, Value},
    reference,
};
use crate::{
    diagnostic::{Code, Diagnostic},
    id::{Kind, Principal, ResourceId, is_name},
    suggest,
    unit::{self, Bytes, Price},
    value,
};

/// One stamp in the making.
pub(crate) struct Reader<'m> {
    pub manifest: &'m Manifest,
    /// The stamp's tree, overlay laid on.
    pub root: &'m Node,
    pub stamp: &'m str,
    pub region: Option<String>,
    /// What can be named: own resources, shared ones, and the identity that comes by itself.
    pub known: BTreeSet<ResourceId>,
    faults: RefCell<Vec<Diagnostic>>,
}

impl<'m> Reader<'m> {
    pub fn new(manifest: &'m Manifest, root: &'m Node, stamp: &'m str) -> Self {
        let mut known: BTreeSet<ResourceId> =
            declared(root).into_iter().map(|(kind, name, _)| ResourceId::new(kind, name)).collect();
        for kind in root.get("shared").map_or(&[][..], Node::entries) {
            if let Some(k) = Kind::from_word(&kind.key) {
                known.extend(kind.node.entries().iter().map(|e| ResourceId::new(k, e.key.clone())));
            }
        }
        if identity_comes_by_itself(&known) {
            known.insert(ResourceId::new(Kind::Identity, "main"));
        }
        let region = root.get("region").and_then(Node::as_text).map(str::to_owned);
        Self { manifest, root, stamp, region, known, faults: RefCell::default() }
    }

    pub fn fault(&self, fault: Diagnostic) {
        self.faults.borrow_mut().push(fault);
    }

    pub fn into_faults(self) -> Vec<Diagnostic> {
        self.faults.into_inner()
    }

    /// Where the value at `path` stands, or the nearest part of the path that is there.
    pub fn span(&self, path: &[&str]) -> Range<usize> {
        let (mut node, mut span) = (self.root, 0..0);
        for key in path {
            let Some(entry) = node.entry(key) else { break };
            (node, span) = (&entry.node, entry.key_span.clone());
        }
        span
    }

    /// The key of a resource.
    pub fn span_of(&self, id: &ResourceId) -> Range<usize> {
        if id.kind == Kind::Edge { self.span(&["edge"]) } else { self.span(&[id.kind.word(), &id.name]) }
    }

    /// The value of `{name}` for the words that stand for the stamp itself.
    pub fn word_of_stamp(&self, name: &str) -> Option<String> {
        match name {
            "stamp" => Some(self.stamp.to_owned()),
            "system" => Some(self.manifest.name.clone()),
            "region" => self.region.clone(),
            _ => None,
        }
    }

    /// A text with `{stamp}`, `{system}` and `{region}` filled in.
    pub fn filled(&self, node: &Node) -> Option<String> {
        let text = node.as_text()?;
        if !text.contains(['{', '}']) {
            return Some(text.to_owned());
        }
        match reference::fill(text, |name| self.word_of_stamp(name)) {
            Ok(text) => Some(text),
            Err(fault) => {
                self.fault(fault.at(node.span.clone()));
                None
            }
        }
    }

    pub fn text(&self, node: &Node, key: &str) -> Option<String> {
        self.filled(node.get(key)?)
    }

    pub fn raw(&self, node: &Node, key: &str) -> Option<String> {
        node.get(key)?.as_text().map(str::to_owned)
    }

    /// All texts of a list (or of one value), filled in.
    pub fn texts(&self, node: &Node, key: &str) -> Vec<String> {
        node.get(key).map_or(&[][..], Node::items).iter().filter_map(|item| self.filled(item)).collect()
    }

    pub fn raws(&self, node: &Node, key: &str) -> Vec<String> {
        node.get(key).map_or(&[][..], Node::items).iter().filter_map(|i| i.as_text().map(str::to_owned)).collect()
    }

    pub fn names(&self, node: &Node, key: &str) -> Vec<String> {
        self.raws(node, key).into_iter().filter(|name| is_name(name)).collect()
    }

    pub fn integer(&self, node: &Node, key: &str) -> Option<u32> {
        self.long(node, key).and_then(|n| u32::try_from(n).ok())
    }

    pub fn long(&self, node: &Node, key: &str) -> Option<u64> {
        match node.get(key)?.value {
            Value::Integer(n) => u64::try_from(n).ok(),
            _ => None,
        }
    }

    pub fn port(&self, node: &Node, key: &str) -> Option<u16> {
        self.integer(node, key).and_then(|n| u16::try_from(n).ok())
    }

    pub fn flag(&self, node: &Node, key: &str) -> Option<bool> {
        match node.get(key)?.value {
            Value::Bool(yes) => Some(yes),
            _ => None,
        }
    }

    /// A value with a unit. A text with `{...}` in it was left alone by the shape check, and is filled in and judged here.
    fn parsed<T>(&self, node: &Node, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let node = node.get(key)?;
        let text = self.filled(node)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(hint) => {
                if node.as_text() != Some(&text) {
                    self.fault(
                        Diagnostic::new(Code::S0105, node.span.clone(), format!("cannot read `{text}` for `{key}`"))
                            .hint(hint),
                    );
                }
                None
            }
        }
    }

    pub fn duration(&self, node: &Node, key: &str) -> Option<Duration> {
        self.parsed(node, key, unit::duration)
    }

    pub fn bytes(&self, node: &Node, key: &str) -> Option<Bytes> {
        self.parsed(node, key, unit::bytes)
    }

    pub fn price(&self, node: &Node, key: &str) -> Option<Price> {
        self.parsed(node, key, unit::price)
    }

    pub fn cpu_millis(&self, node: &Node, key: &str) -> Option<u32> {
        match node.get(key)?.value {
            Value::Integer(n) => u32::try_from(n).ok().and_then(|n| n.checked_mul(1000)),
            _ => self.parsed(node, key, unit::cpu_millis),
        }
    }

    /// A value in a form of its own, whose fault is reported here.
    pub fn formed<T>(&self, node: &Node, what: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.filled(node)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(hint) => {
                self.fault(
                    Diagnostic::new(Code::S0105, node.span.clone(), format!("cannot read `{text}` as {what}"))
                        .hint(hint),
                );
                None
            }
        }
    }

    /// One of the words of a [`super::shape::Shape::OneOf`], and what it stands for.
    pub fn word<T: Copy>(&self, node: &Node, key: &str, words: &[(&str, T)]) -> Option<T> {
        let text = node.get(key)?.as_text()?;
        words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value)
    }

    /// The name of a declared resource.
    pub fn resource(&self, node: &Node) -> Option<ResourceId> {
        let text = node.as_text()?;
        let filled = self.filled(node)?;
        match filled.parse() {
            Ok(id) if self.known.contains(&id) => Some(id),
            Ok(id) => {
                self.unknown_resource(&id, node.span.clone());
                None
            }
            Err(_) => {
                if text != filled {
                    let message = format!("cannot read `{filled}` as the name of a resource");
                    self.fault(Diagnostic::new(Code::S0105, node.span.clone(), message));
                }
                None
            }
        }
    }

    pub fn unknown_resource(&self, id: &ResourceId, span: Range<usize>) {
        let names: Vec<String> = self.known.iter().map(ToString::to_string).collect();
        let fault = Diagnostic::new(Code::S0109, span, format!("`{id}` is not declared"));
        let mut fault = suggest::hint(fault, &id.to_string(), names.iter().map(String::as_str));
        if fault.hint.is_none() {
            fault.hint =
                Some(if id.kind == Kind::Edge { "declare `[edge]`".into() } else { format!("declare `[{id}]`") });
        }
        self.fault(fault);
    }

    pub fn resource_at(&self, node: &Node, key: &str) -> Option<ResourceId> {
        self.resource(node.get(key)?)
    }

    pub fn resources(&self, node: &Node, key: &str) -> BTreeSet<ResourceId> {
        node.get(key).map_or(&[][..], Node::items).iter().filter_map(|item| self.resource(item)).collect()
    }

    /// A declared workload, or a group that the identity knows.
    pub fn principal(&self, node: &Node) -> Option<Principal> {
        let principal: Principal = node.as_text()?.parse().ok()?;
        let span = node.span.clone();
        match &principal {
            Principal::Workload(id) | Principal::Migrate(id) if !self.known.contains(id) => {
                self.unknown_resource(id, span);
                None
            }
            Principal::Workload(id) if !matches!(id.kind, Kind::Service | Kind::Job) => {
                let fault =
                    Diagnostic::new(Code::S0109, span, format!("`{id}` is not a workload with an identity of its own"));
                self.fault(fault.hint("rights are given to services, jobs, migration steps and groups"));
                None
            }
            Principal::Migrate(id)
                if self.root.get("service").and_then(|s| s.get(&id.name)?.get("migrate")).is_none() =>
            {
                let fault = Diagnostic::new(Code::S0109, span, format!("`{id}` has no migration step"));
                self.fault(fault.hint(format!("declare `[{id}.migrate]`")));
                None
            }
            Principal::Group(name) => {
                let groups = self.groups();
                if groups.contains(name) {
                    return Some(principal);
                }
                let fault = Diagnostic::new(Code::S0109, span, format!("no identity has the group `{name}`"));
                let mut fault = suggest::hint(fault, name, groups.iter().map(String::as_str));
                if fault.hint.is_none() {
                    fault.hint = Some(format!("add it: `[identity.main]`, `groups = [\"{name}\"]`"));
                }
                self.fault(fault);
                None
            }
            _ => Some(principal),
        }
    }

    pub fn principal_at(&self, node: &Node, key: &str) -> Option<Principal> {
        self.principal(node.get(key)?)
    }

    /// The groups of people of the declared identities.
    fn groups(&self) -> BTreeSet<String> {
        let identities = self.root.get("identity").map_or(&[][..], Node::entries);
        identities.iter().flat_map(|entry| self.raws(&entry.node, "groups")).collect()
    }

    /// The name of a declared subnet.
    pub fn subnet(&self, node: &Node) -> Option<String> {
        let item = node.get("subnet")?;
        let name = item.as_text()?;
        let subnets = self.root.get("network").and_then(|n| n.get("subnets")).map_or(&[][..], Node::entries);
        if subnets.iter().any(|entry| entry.key == name) {
            return Some(name.to_owned());
        }
        let fault = Diagnostic::new(Code::S0114, item.span.clone(), format!("the network has no subnet `{name}`"));
        let mut fault = suggest::hint(fault, name, subnets.iter().map(|entry| entry.key.as_str()));
        if fault.hint.is_none() {
            fault.hint = Some(format!("add it: `[network]`, `subnets = {{ {name} = \"10.0.1.0/24\" }}`"));
        }
        self.fault(fault);
        None
    }

    /// The name of a declared size.
    pub fn size(&self, node: &Node) -> Option<String> {
        let item = node.get("size")?;
        let name = self.filled(item)?;
        let sizes = self.root.get("sizes").map_or(&[][..], Node::entries);
        if sizes.iter().any(|entry| entry.key == name) {
            return Some(name);
        }
        let fault = Diagnostic::new(Code::S0109, item.span.clone(), format!("`sizes` has no size `{name}`"));
        let mut fault = suggest::hint(fault, &name, sizes.iter().map(|entry| entry.key.as_str()));
        if fault.hint.is_none() {
            fault.hint = Some(format!("add it: `[sizes]`, `{name} = {{ cpu = 1, memory = \"2GiB\" }}`"));
        }
        self.fault(fault);
        None
    }

    /// Environment variables.
    pub fn env(&self, node: &Node) -> BTreeMap<String, value::Value> {
        let entries = node.get("env").map_or(&[][..], Node::entries);
        entries.iter().filter_map(|entry| Some((entry.key.clone(), reference::value(self, entry)?))).collect()
    }
}

/// Whether the stamp gets an `identity.main` that nobody declared: something asks for tokens, and nothing issues them.
pub(crate) fn identity_comes_by_itself(known: &BTreeSet<ResourceId>) -> bool {
    let has = |kind| known.iter().any(|id| id.kind == kind);
    (has(Kind::Vault) || has(Kind::Blob)) && !has(Kind::Identity)
}
