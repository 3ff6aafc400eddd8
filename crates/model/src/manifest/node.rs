//! The text as a tree that keeps where each part stands, and how a stamp's overlay is laid over it.

use std::ops::Range;

use toml_edit::{Document, Item, TableLike};

use crate::diagnostic::{Code, Diagnostic};

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub value: Value,
    pub span: Range<usize>,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Text(String),
    Integer(i64),
    Float,
    Bool(bool),
    Date,
    List(Vec<Node>),
    Table(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub key: String,
    pub key_span: Range<usize>,
    pub node: Node,
}

impl Value {
    /// The type in words.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Integer(_) => "a whole number",
            Self::Float => "a number with a point",
            Self::Bool(_) => "true or false",
            Self::Date => "a date or time",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

impl Node {
    pub fn parse(text: &str) -> Result<Self, Diagnostic> {
        let document = Document::parse(text).map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            let message = error.message().lines().next().unwrap_or("unreadable").to_owned();
            let hint = if message.contains("duplicate") {
                "a key stands once in a table; what is under it goes in one place"
            } else {
                "texts stand in double quotes, tables in `{ a = 1, b = 2 }` or under a `[name]` line"
            };
            Diagnostic::new(Code::S0101, clamp(span, text), format!("cannot read this as TOML: {message}")).hint(hint)
        })?;
        let entries = table(document.as_table(), &(0..0));
        let mut root = Self { value: Value::Table(entries), span: 0..0 };
        root.clamp(text);
        Ok(root)
    }

    /// The entries, none if it is not a table.
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Table(entries) => entries,
            _ => &[],
        }
    }

    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|entry| &entry.node)
    }

    /// The items of a list; a single value that is not a list counts as a list of one.
    pub fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            _ => std::slice::from_ref(self),
        }
    }

    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Lays `over` over this: tables merge, everything else is replaced.
    pub fn lay(&mut self, over: &Self) {
        match (&mut self.value, &over.value) {
            (Value::Table(mine), Value::Table(theirs)) => {
                for entry in theirs {
                    match mine.iter_mut().find(|e| e.key == entry.key) {
                        Some(old) => old.node.lay(&entry.node),
                        None => mine.push(entry.clone()),
                    }
                }
            }
            _ => self.clone_from(over),
        }
    }

    /// Takes out the entry at `path`, if it is there.
    pub fn remove(&mut self, path: &[&str]) -> bool {
        let Value::Table(entries) = &mut self.value else { return false };
        let Some((last, parents)) = path.split_last() else { return false };
        if let Some(first) = parents.first() {
            return entries.iter_mut().find(|e| e.key == **first).is_some_and(|e| e.node.remove(&path[1..]));
        }
        let before = entries.len();
        entries.retain(|entry| entry.key != **last);
        entries.len() != before
    }

    /// Spans of every part lie in `text`, whatever the parser said.
    fn clamp(&mut self, text: &str) {
        self.span = clamp(self.span.clone(), text);
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|item| item.clamp(text)),
            Value::Table(entries) => {
                for entry in entries {
                    entry.key_span = clamp(entry.key_span.clone(), text);
                    entry.node.clamp(text);
                }
            }
            _ => {}
        }
    }
}

fn clamp(span: Range<usize>, text: &str) -> Range<usize> {
    let start = span.start.min(text.len());
    start..span.end.clamp(start, text.len())
}

fn table(table: &dyn TableLike, outer: &Range<usize>) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (name, item) in table.iter() {
        let key_span = table.get_key_value(name).and_then(|(key, _)| key.span()).unwrap_or_else(|| outer.clone());
        if let Some(node) = node(item, &key_span) {
            entries.push(Entry { key: name.to_owned(), key_span, node });
        }
    }
    entries
}

fn node(item: &Item, key_span: &Range<usize>) -> Option<Node> {
    Some(match item {
        Item::None => return None,
        Item::Value(value) => self::value(value, key_span),
        // A table's own span covers its head only, and an implied table has none: its key says best where it is.
        Item::Table(t) => Node { value: Value::Table(table(t, key_span)), span: key_span.clone() },
        Item::ArrayOfTables(list) => {
            let items = list.iter().map(|t| {
                let span = t.span().unwrap_or_else(|| key_span.clone());
                Node { value: Value::Table(table(t, &span)), span }
            });
            Node { value: Value::List(items.collect()), span: key_span.clone() }
        }
    })
}

fn value(value: &toml_edit::Value, outer: &Range<usize>) -> Node {
    use toml_edit::Value as T;
    let span = value.span().unwrap_or_else(|| outer.clone());
    let value = match value {
        T::String(text) => Value::Text(text.value().clone()),
        T::Integer(number) => Value::Integer(*number.value()),
        T::Float(_) => Value::Float,
        T::Boolean(yes) => Value::Bool(*yes.value()),
        T::Datetime(_) => Value::Date,
        T::Array(list) => Value::List(list.iter().map(|item| self::value(item, &span)).collect()),
        T::InlineTable(t) => Value::Table(table(t, &span)),
    };
    Node { value, span }
}
