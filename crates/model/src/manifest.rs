//! `system.toml`: from its text to checked systems.

mod app;
mod check;
mod data;
mod keys;
mod node;
mod read;
mod reference;
mod schema;
mod shape;
mod sign_in;
mod system;
mod trust;

use std::{collections::BTreeSet, ops::Range};

pub use schema::{reference, schema};

use crate::{
    diagnostic::{Code, Diagnostic},
    id::{Kind, ResourceId, is_name},
    suggest,
    system::{Call, CallEnd, LinkEnd, LinkKind, System},
};
use node::{Node, Value};

/// Resources a stamp may have: each has an address in a /24, and workloads of several copies have more.
const RESOURCES: usize = 200;

/// A manifest without faults.
#[derive(Clone, Debug)]
pub struct Manifest {
    name: String,
    title: String,
    stamps: Vec<String>,
    root: Node,
}

impl Manifest {
    /// Reads the text of a `system.toml`, and resolves each stamp of it.
    ///
    /// # Errors
    /// All faults, in the order of the text; each span lies in `text`.
    pub fn parse(text: &str) -> Result<Self, Vec<Diagnostic>> {
        let root = Node::parse(text).map_err(|fault| vec![fault])?;
        let mut faults = Vec::new();
        if !version_fits(&root, &mut faults) {
            return Err(faults);
        }
        shape::check(&root, &keys::ROOT, "", &mut faults);
        shape::required(&skeleton(&root), &keys::ROOT, "", &(0..0), &mut faults);
        let name = root.get("system").and_then(Node::as_text).unwrap_or_default().to_owned();
        let title = root.get("title").and_then(Node::as_text).map_or_else(|| titled(&name), str::to_owned);
        let stamps = root.get("stamps").map_or(&[][..], Node::entries).iter().map(|entry| entry.key.clone()).collect();
        let manifest = Self { name, title, stamps, root };
        if let Some(entry) = manifest.root.entry("stamps")
            && entry.node.entries().is_empty()
            && matches!(entry.node.value, Value::Table(_))
        {
            let fault = Diagnostic::new(Code::S0104, entry.key_span.clone(), "the manifest has no stamp");
            faults.push(fault.hint("a stamp that changes nothing is `[stamps.dev]` alone"));
        }
        faults.extend(manifest.faults_of_stamps());
        for stamp in &manifest.stamps {
            manifest.idle_patterns(stamp, &mut faults);
        }
        let mut seen = BTreeSet::new();
        faults.retain(|f| seen.insert((f.span.start, f.span.end, f.code, f.message.clone())));
        faults.sort_by_key(|f| (f.span.start, f.span.end, f.code));
        if faults.is_empty() { Ok(manifest) } else { Err(faults) }
    }

    /// The system's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The system's name for people.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// The declared stamps, in the order of the text.
    pub fn stamps(&self) -> impl Iterator<Item = &str> {
        self.stamps.iter().map(String::as_str)
    }

    /// One declared stamp.
    ///
    /// # Errors
    /// S0119 if no stamp is called so; a manifest that was parsed has no other fault.
    pub fn resolve(&self, stamp: &str) -> Result<System, Vec<Diagnostic>> {
        self.resolve_as(stamp, stamp)
    }

    /// A stamp called `name` that is otherwise like the declared `stamp`: how scratch stamps are made.
    ///
    /// # Errors
    /// S0119 if no stamp is called `stamp`, S0108 if `name` cannot be one, and faults that only the new name brings.
    pub fn resolve_as(&self, stamp: &str, name: &str) -> Result<System, Vec<Diagnostic>> {
        let Some(root) = self.merged(stamp) else {
            let span = self.root.entry("stamps").map_or(0..0, |entry| entry.key_span.clone());
            let fault =
                Diagnostic::new(Code::S0119, span, format!("the system `{}` has no stamp `{stamp}`", self.name))
                    .note(format!("its stamps are {}", self.stamps.join(", ")));
            return Err(vec![suggest::hint(fault, stamp, self.stamps())]);
        };
        if name != stamp && !is_name(name) {
            let fault = Diagnostic::new(Code::S0108, 0..0, format!("`{name}` cannot be the name of a stamp"));
            return Err(vec![fault.note("a name has 1 to 32 of a-z, 0-9 and `-`, a letter first, no `-` last")]);
        }
        let count = declared(&root).len();
        if count > RESOURCES {
            let message = format!("the stamp `{stamp}` has {count} resources, more than {RESOURCES}");
            let fault = Diagnostic::new(Code::S0117, 0..0, message)
                .note("each has an address of its own in the stamp's block of 254");
            return Err(vec![fault]);
        }
        let (mut system, mut faults) = read::Reader::new(self, &root, name).system();
        system.calls = self.calls(stamp, name);
        shape::required(&root, &keys::MERGED, "", &(0..0), &mut faults);
        if faults.is_empty() { Ok(system) } else { Err(faults) }
    }

    /// Links of the kind `call` that begin or end in `stamp`, which is called `name`.
    fn calls(&self, stamp: &str, name: &str) -> Vec<Call> {
        let mut calls = Vec::new();
        for declaring in &self.stamps {
            let overlay = self.root.get("stamps").and_then(|stamps| stamps.get(declaring));
            if self.root.get("links").is_none() && overlay.is_none_or(|overlay| overlay.get("links").is_none()) {
                continue;
            }
            let Some(root) = self.merged(declaring) else { continue };
            // What is wrong with them is told where they are declared.
            for (link, found) in read::Reader::new(self, &root, declaring).links() {
                let end = |end: LinkEnd| {
                    let of = end.stamp.unwrap_or_else(|| declaring.clone());
                    CallEnd { stamp: if of == stamp { name.to_owned() } else { of }, resource: end.resource }
                };
                let (from, to) = (end(found.from), end(found.to));
                let here = (from.stamp == name) != (to.stamp == name);
                if found.what == LinkKind::Call && here {
                    calls.push(Call { link, from, to, carries: found.carries });
                }
            }
        }
        calls.sort();
        calls.dedup();
        calls
    }

    /// What is wrong with the stamps, each fault once; one that not all of them have says whose it is.
    fn faults_of_stamps(&self) -> Vec<Diagnostic> {
        let mut faults: Vec<(Diagnostic, Vec<&str>)> = Vec::new();
        for stamp in &self.stamps {
            let mut own = self.resolve(stamp).err().unwrap_or_default();
            own.dedup();
            for fault in own {
                match faults.iter_mut().find(|(other, _)| *other == fault) {
                    Some((_, stamps)) => stamps.push(stamp),
                    None => faults.push((fault, vec![stamp])),
                }
            }
        }
        let all = self.stamps.len();
        let told = faults.into_iter().map(|(fault, mut stamps)| {
            stamps.dedup();
            if stamps.len() == all { fault } else { fault.note(format!("in stamp {}", stamps.join(", "))) }
        });
        told.collect()
    }

    /// Reports words in `only` and `without` that mean no resource: a typo there would start what was to be left out.
    fn idle_patterns(&self, stamp: &str, faults: &mut Vec<Diagnostic>) {
        let Some(overlay) = self.root.get("stamps").and_then(|stamps| stamps.get(stamp)) else { return };
        let mut whole = self.root.clone();
        whole.lay(overlay);
        let ids: Vec<String> =
            declared(&whole).into_iter().map(|(kind, name, _)| ResourceId::new(kind, name).to_string()).collect();
        for node in ["only", "without"].iter().filter_map(|key| overlay.get(key)).flat_map(Node::items) {
            if let Some(pattern) = node.as_text()
                && !ids.iter().any(|id| matches(pattern, id))
            {
                let fault = Diagnostic::new(Code::S0109, node.span.clone(), format!("`{pattern}` means no resource"));
                faults.push(
                    suggest::hint(fault, pattern, ids.iter().map(String::as_str))
                        .note("write `service.web`, `service.*` or `edge`"),
                );
            }
        }
    }

    /// The file with a stamp's overlay laid over it and what the stamp leaves out taken away; `stamps` itself is gone.
    fn merged(&self, stamp: &str) -> Option<Node> {
        let overlay = self.root.get("stamps")?.get(stamp)?;
        let mut root = self.root.clone();
        root.lay(overlay);
        for list in ["stamps", "only", "without"] {
            root.remove(&[list]);
        }
        let patterns = |key| -> Vec<&str> {
            overlay.get(key).map_or(&[][..], Node::items).iter().filter_map(Node::as_text).collect()
        };
        let (only, without) = (patterns("only"), patterns("without"));
        for (kind, name, _) in declared(&root) {
            let id = if kind == Kind::Edge { "edge".to_owned() } else { format!("{kind}.{name}") };
            let kept = only.is_empty() || only.iter().any(|p| matches(p, &id));
            if !kept || without.iter().any(|p| matches(p, &id)) {
                if kind == Kind::Edge {
                    root.remove(&["edge"])
                } else {
                    root.remove(&[kind.word(), &name])
                };
            }
        }
        Some(root)
    }
}

/// The file without its resources' required keys: an overlay may bring those, so that they are asked of each stamp.
fn skeleton(root: &Node) -> Node {
    let mut head = root.clone();
    if let Value::Table(entries) = &mut head.value {
        entries.retain(|entry| matches!(entry.key.as_str(), "stamp" | "system" | "title" | "stamps"));
        for entry in entries {
            if entry.key == "stamps"
                && let Value::Table(stamps) = &mut entry.node.value
            {
                stamps.clear();
            }
        }
    }
    head
}

/// Only version 1 is read; of another version no other fault is told, since its keys are not known.
fn version_fits(root: &Node, faults: &mut Vec<Diagnostic>) -> bool {
    let Some(entry) = root.entry("stamp") else { return true };
    let Value::Integer(version) = entry.node.value else { return true };
    if version == keys::VERSION {
        return true;
    }
    let fault =
        Diagnostic::new(Code::S0107, entry.node.span.clone(), format!("cannot read version {version} of the manifest"));
    let fault = fault.note(format!("this program reads version {}", keys::VERSION));
    faults.push(if version > keys::VERSION {
        fault.hint("a newer `stamp` reads it")
    } else {
        fault.hint("write `stamp = 1`")
    });
    false
}

/// The resources that the tree declares, and where.
fn declared(root: &Node) -> Vec<(Kind, String, Range<usize>)> {
    let mut found = Vec::new();
    for kind in Kind::ALL {
        let Some(entry) = root.entry(kind.word()) else { continue };
        if kind == Kind::Edge {
            found.push((kind, String::new(), entry.key_span.clone()));
        } else {
            found.extend(entry.node.entries().iter().map(|e| (kind, e.key.clone(), e.key_span.clone())));
        }
    }
    found
}

/// Whether a pattern (`service.web`, `service.*`, `edge`, `*`) means the resource.
fn matches(pattern: &str, id: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some("") => true,
        Some(head) => head.ends_with('.') && id.starts_with(head),
        None => pattern == id,
    }
}

/// `time-tracker` as `Time Tracker`.
fn titled(name: &str) -> String {
    let word = |w: &str| w.chars().take(1).flat_map(char::to_uppercase).chain(w.chars().skip(1)).collect::<String>();
    name.split('-').map(word).collect::<Vec<_>>().join(" ")
}
