//! What each key of a manifest takes. One description serves the check of unknown keys and types, the JSON Schema and the
//! reference, so that they cannot disagree.

use std::ops::Range;

use super::node::{Entry, Node, Value};
use crate::{
    diagnostic::{Code, Diagnostic},
    id::{Principal, ResourceId, is_name},
    suggest, unit,
};

/// What a value may be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// Any text; `{stamp}`, `{system}` and `{region}` are filled in.
    Text,
    /// A text as it stands.
    Raw,
    /// A name by the rules of [`is_name`].
    Name,
    /// A path on the web, starting with `/`.
    Path,
    Resource,
    Principal,
    Integer {
        min: i64,
        max: i64,
    },
    Bool,
    Duration,
    Bytes,
    Cidr,
    Price,
    /// Thousandths of a CPU, such as `500m`.
    Cpu,
    OneOf(&'static [&'static str]),
    List(&'static Shape),
    /// One or a list of them.
    Some(&'static Shape),
    Table(&'static [Key]),
    /// Names of the reader's choice, each with such a value.
    Named(Names, &'static Shape),
    /// The first that the value's TOML type fits.
    Either(&'static [Shape]),
}

/// What the free names of a [`Shape::Named`] must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// [`is_name`].
    Name,
    /// An environment variable.
    Variable,
    /// A secret of a vault: letters, digits, `-`, and `_`, which Azure does not have but a document asks for.
    Secret,
    /// Anything of letters, digits, `-`, `_`, `.`.
    Word,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    pub name: &'static str,
    pub shape: Shape,
    pub required: bool,
    /// Whether this version carries it out.
    pub built: bool,
    /// For people; ends up in the schema and the reference.
    pub doc: &'static str,
}

impl Key {
    pub const fn new(name: &'static str, shape: Shape, doc: &'static str) -> Self {
        Self { name, shape, required: false, built: true, doc }
    }

    pub const fn required(self) -> Self {
        Self { required: true, ..self }
    }

    /// Read and planned, not carried out yet.
    pub const fn later(self) -> Self {
        Self { built: false, ..self }
    }
}

/// Checks `node` against `shape`. Keys that must be there are the business of [`required`], since an overlay has only some.
pub(crate) fn check(node: &Node, shape: &Shape, at: &str, out: &mut Vec<Diagnostic>) {
    match shape {
        Shape::Text | Shape::Raw => {
            text(node, at, "a text", out);
        }
        Shape::Name => {
            if let Some(t) = text(node, at, "a name", out)
                && !is_name(t)
                && !t.contains('{')
            {
                out.push(bad_name(t, node.span.clone()));
            }
        }
        Shape::Path => {
            if let Some(t) = text(node, at, "a path", out)
                && (!t.starts_with('/')
                    || t.bytes().any(|b| b.is_ascii_whitespace() || b.is_ascii_control() || b == b'#'))
            {
                let fault = Diagnostic::new(Code::S0105, node.span.clone(), format!("cannot read `{at}` as a path"));
                out.push(fault.hint("a path starts with `/` and has no spaces, such as `/health`"));
            }
        }
        Shape::Resource => parsed(
            node,
            at,
            "the name of a resource",
            |t| t.parse::<ResourceId>().map(drop).map_err(resource_hint),
            out,
        ),
        Shape::Principal => {
            parsed(node, at, "a workload or group", |t| t.parse::<Principal>().map(drop).map_err(principal_hint), out)
        }
        Shape::Duration => parsed(node, at, "a length of time", |t| unit::duration(t).map(drop), out),
        Shape::Bytes => parsed(node, at, "a number of bytes", |t| unit::bytes(t).map(drop), out),
        Shape::Cidr => parsed(node, at, "a block of addresses", |t| unit::cidr(t).map(drop), out),
        Shape::Price => parsed(node, at, "a price", |t| unit::price(t).map(drop), out),
        Shape::Cpu => parsed(node, at, "a number of CPUs", |t| unit::cpu_millis(t).map(drop), out),
        Shape::Integer { min, max } => match node.value {
            Value::Integer(n) if (*min..=*max).contains(&n) => {}
            Value::Integer(n) => {
                let message = format!("`{at}` is {n}, outside {min} to {max}");
                out.push(Diagnostic::new(Code::S0117, node.span.clone(), message));
            }
            _ => wrong(node, at, "a whole number", out),
        },
        Shape::Bool => {
            if !matches!(node.value, Value::Bool(_)) {
                wrong(node, at, "true or false", out);
            }
        }
        Shape::OneOf(words) => {
            if let Some(t) = text(node, at, "a text", out)
                && !words.contains(&t)
            {
                let quoted: Vec<String> = words.iter().map(|w| format!("`{w}`")).collect();
                let fault = Diagnostic::new(Code::S0106, node.span.clone(), format!("`{at}` cannot be `{t}`"))
                    .note(format!("it is one of {}", quoted.join(", ")));
                out.push(suggest::hint(fault, t, words.iter().copied()));
            }
        }
        Shape::List(item) => match &node.value {
            Value::List(items) => items.iter().for_each(|i| check(i, item, at, out)),
            _ => wrong(node, at, "a list", out),
        },
        Shape::Some(item) => node.items().iter().for_each(|i| check(i, item, at, out)),
        Shape::Table(keys) => match &node.value {
            Value::Table(entries) => entries.iter().for_each(|entry| known(entry, keys, at, out)),
            _ => wrong(node, at, "a table", out),
        },
        Shape::Named(names, item) => match &node.value {
            Value::Table(entries) => {
                for entry in entries {
                    names.check(entry, at, out);
                    check(&entry.node, item, &join(at, &entry.key), out);
                }
            }
            _ => wrong(node, at, "a table", out),
        },
        Shape::Either(shapes) => match shapes.iter().find(|s| s.fits(&node.value)) {
            Some(shape) => check(node, shape, at, out),
            None => {
                let kinds: Vec<&str> = shapes.iter().map(Shape::words).collect();
                wrong(node, at, &kinds.join(" or "), out);
            }
        },
    }
}

fn known(entry: &Entry, keys: &[Key], at: &str, out: &mut Vec<Diagnostic>) {
    match keys.iter().find(|key| key.name == entry.key) {
        Some(key) => check(&entry.node, &key.shape, &join(at, key.name), out),
        None => {
            let place = if at.is_empty() { "a manifest".to_owned() } else { format!("`{at}`") };
            let fault =
                Diagnostic::new(Code::S0102, entry.key_span.clone(), format!("{place} has no key `{}`", entry.key));
            let names = keys.iter().map(|key| key.name);
            let mut fault = suggest::hint(fault, &entry.key, names.clone());
            if fault.hint.is_none() {
                fault = fault.note(format!("its keys are {}", names.collect::<Vec<_>>().join(", ")));
            }
            out.push(fault);
        }
    }
}

/// Reports keys that must be there and are not. `span` is shown for a table that is missing them.
pub(crate) fn required(node: &Node, shape: &Shape, at: &str, span: &Range<usize>, out: &mut Vec<Diagnostic>) {
    match (shape, &node.value) {
        (Shape::Table(keys), Value::Table(entries)) => {
            for key in keys.iter().filter(|key| key.required && node.entry(key.name).is_none()) {
                let place = if at.is_empty() { "the manifest".to_owned() } else { format!("`{at}`") };
                let fault = Diagnostic::new(Code::S0104, span.clone(), format!("{place} lacks the key `{}`", key.name));
                out.push(fault.note(format!("{}: {}", key.name, key.doc)));
            }
            for entry in entries {
                if let Some(key) = keys.iter().find(|key| key.name == entry.key) {
                    required(&entry.node, &key.shape, &join(at, key.name), &entry.key_span, out);
                }
            }
        }
        (Shape::Named(_, item), Value::Table(entries)) => {
            for entry in entries {
                required(&entry.node, item, &join(at, &entry.key), &entry.key_span, out);
            }
        }
        (Shape::List(item), Value::List(items)) => {
            for i in items {
                required(i, item, at, &i.span, out);
            }
        }
        (Shape::Some(item), _) => {
            for i in node.items() {
                required(i, item, at, &i.span, out);
            }
        }
        (Shape::Either(shapes), value) => {
            if let Some(shape) = shapes.iter().find(|s| s.fits(value)) {
                required(node, shape, at, span, out);
            }
        }
        _ => {}
    }
}

/// Key paths that are declared and not carried out by this version.
pub(crate) fn unbuilt(node: &Node, shape: &Shape, at: &str, out: &mut Vec<String>) {
    match (shape, &node.value) {
        (Shape::Table(keys), Value::Table(entries)) => {
            for entry in entries {
                let Some(key) = keys.iter().find(|key| key.name == entry.key) else { continue };
                let path = join(at, key.name);
                let off = match &entry.node.value {
                    Value::Bool(yes) => !yes,
                    Value::List(items) => items.is_empty(),
                    Value::Table(entries) => entries.is_empty(),
                    Value::Text(text) => text == "none",
                    _ => false,
                };
                if key.built {
                    unbuilt(&entry.node, &key.shape, &path, out);
                } else if !off {
                    out.push(path);
                }
            }
        }
        (Shape::Named(_, item), Value::Table(entries)) => {
            for entry in entries {
                unbuilt(&entry.node, item, &join(at, &entry.key), out);
            }
        }
        (Shape::List(item), Value::List(items)) => items.iter().for_each(|i| unbuilt(i, item, at, out)),
        (Shape::Either(shapes), value) => {
            if let Some(shape) = shapes.iter().find(|s| s.fits(value)) {
                unbuilt(node, shape, at, out);
            }
        }
        _ => {}
    }
}

impl Shape {
    /// Whether a value's TOML type is one that this shape takes.
    fn fits(&self, value: &Value) -> bool {
        match self {
            Self::Integer { .. } => matches!(value, Value::Integer(_)),
            Self::Bool => matches!(value, Value::Bool(_)),
            Self::List(_) => matches!(value, Value::List(_)),
            Self::Table(_) | Self::Named(..) => matches!(value, Value::Table(_)),
            Self::Some(item) => matches!(value, Value::List(_)) || item.fits(value),
            Self::Either(shapes) => shapes.iter().any(|s| s.fits(value)),
            _ => matches!(value, Value::Text(_)),
        }
    }

    fn words(&self) -> &'static str {
        match self {
            Self::Integer { .. } => "a whole number",
            Self::Bool => "true or false",
            Self::List(_) => "a list",
            Self::Some(_) => "a value or a list of them",
            Self::Table(_) | Self::Named(..) => "a table",
            Self::Either(shapes) => shapes.first().map_or("a value", |s| s.words()),
            _ => "a text",
        }
    }
}

impl Names {
    /// The regular expression of the schema.
    pub const fn pattern(self) -> &'static str {
        match self {
            Self::Name => "^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$",
            Self::Variable => "^[A-Za-z_][A-Za-z0-9_]*$",
            Self::Secret => "^[0-9A-Za-z_-]{1,127}$",
            Self::Word => "^[A-Za-z0-9_.-]{1,63}$",
        }
    }

    fn check(self, entry: &Entry, at: &str, out: &mut Vec<Diagnostic>) {
        let name = entry.key.as_str();
        let bytes = name.as_bytes();
        let (fine, rule) = match self {
            Self::Name => {
                if !is_name(name) {
                    out.push(bad_name(name, entry.key_span.clone()));
                }
                return;
            }
            Self::Variable => (
                !name.is_empty()
                    && !bytes[0].is_ascii_digit()
                    && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_'),
                "letters, digits and `_`, no digit first",
            ),
            Self::Secret => (
                (1..=127).contains(&name.len())
                    && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')),
                "1 to 127 letters, digits, `-` and `_`",
            ),
            Self::Word => (
                (1..=63).contains(&name.len())
                    && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')),
                "1 to 63 letters, digits, `-`, `_` and `.`",
            ),
        };
        if !fine {
            let fault =
                Diagnostic::new(Code::S0108, entry.key_span.clone(), format!("`{name}` cannot be a name in `{at}`"));
            out.push(fault.note(format!("such a name has {rule}")));
        }
    }
}

fn bad_name(name: &str, span: Range<usize>) -> Diagnostic {
    let better: String = name.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let better = better.trim_matches(|c: char| c == '-' || c.is_ascii_digit()).chars().take(32).collect::<String>();
    let better = better.trim_end_matches('-');
    let fault = Diagnostic::new(Code::S0108, span, format!("`{name}` cannot be a name")).note(
        "a name has 1 to 32 of a-z, 0-9 and `-`, a letter first, no `-` last: it becomes a host name and a folder",
    );
    if is_name(better) { fault.hint(format!("`{better}` would do")) } else { fault }
}

fn text<'n>(node: &'n Node, at: &str, wanted: &str, out: &mut Vec<Diagnostic>) -> Option<&'n str> {
    let text = node.as_text();
    if text.is_none() {
        wrong(node, at, wanted, out);
    }
    text
}

fn wrong(node: &Node, at: &str, wanted: &str, out: &mut Vec<Diagnostic>) {
    let message = format!("`{at}` takes {wanted}, not {}", node.value.kind());
    let fault = Diagnostic::new(Code::S0103, node.span.clone(), message);
    let needs_unit =
        matches!(wanted, "a length of time" | "a number of bytes") && matches!(node.value, Value::Integer(_));
    out.push(if needs_unit {
        fault.hint("every value carries its unit, in quotes: \"30s\", \"64MiB\"")
    } else {
        fault
    });
}

fn parsed(node: &Node, at: &str, wanted: &str, parse: impl Fn(&str) -> Result<(), String>, out: &mut Vec<Diagnostic>) {
    if let Some(t) = text(node, at, wanted, out)
        && !t.contains('{')
        && let Err(hint) = parse(t)
    {
        let message = format!("cannot read `{t}` as {wanted} for `{at}`");
        out.push(Diagnostic::new(Code::S0105, node.span.clone(), message).hint(hint));
    }
}

fn resource_hint(wrong: crate::id::NotAResource) -> String {
    let words: Vec<&str> = crate::id::Kind::ALL.iter().map(|k| k.word()).collect();
    let kind = wrong.text.split('.').next().unwrap_or_default();
    match suggest::nearest(kind, words.iter().copied()) {
        Some(word) if word != kind => format!("write KIND.NAME; did you mean the kind `{word}`?"),
        _ => format!("write KIND.NAME, such as `service.web`; the kinds are {}", words.join(", ")),
    }
}

fn principal_hint(_: crate::id::NotAResource) -> String {
    "write a workload such as `service.web`, its migration step `service.web.migrate`, or people as `group:NAME`"
        .to_owned()
}

pub(crate) fn join(at: &str, key: &str) -> String {
    if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") }
}
