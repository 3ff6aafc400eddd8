//! The JSON Schema of the manifest, and its reference for people, both made from the keys.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::{
    keys,
    shape::{Key, Names, Shape, join},
};

/// The manifest as a JSON Schema (draft 2020-12), for editors that check TOML.
pub fn schema() -> Value {
    let mut schema = of(&keys::ROOT);
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "system.toml".into();
    // The file and each stamp's overlay have the same body; it is written once.
    let mut shared = Map::new();
    for place in ["/properties/stamps/additionalProperties/properties", "/properties"] {
        for (name, value) in schema.pointer_mut(place).and_then(Value::as_object_mut).into_iter().flatten() {
            if keys::is_body(name) {
                shared.insert(name.clone(), std::mem::replace(value, json!({ "$ref": format!("#/$defs/{name}") })));
            }
        }
    }
    schema["$defs"] = Value::Object(shared);
    schema
}

/// Every key with its values and meaning, as Markdown.
pub fn reference() -> String {
    let mut out = String::from(
        "# The manifest\n\nEvery key of `system.toml`. Made from the same description that the program checks manifests with.\n\n\
         `{stamp}`, `{system}` and `{region}` are filled in within texts; in environment variables also outputs of resources, such as\n\
         `{postgres.main.host}`, and vault references.\n\n| key | takes | meaning |\n|---|---|---|\n",
    );
    rows(&keys::ROOT, "", &mut out);
    out
}

fn rows(shape: &Shape, at: &str, out: &mut String) {
    match shape {
        Shape::Table(keys) => {
            for key in *keys {
                let path = join(at, key.name);
                let marks = match (key.required, key.built) {
                    (true, _) => " Required.",
                    (false, false) => " Not carried out yet.",
                    (false, true) => "",
                };
                let _ = writeln!(out, "| `{path}` | {} | {}{marks} |", words(&key.shape), key.doc.replace('|', "\\|"));
                // A stamp's overlay has the keys of the file; once is enough.
                if path == "stamps" {
                    let own = |keys: &[Key]| {
                        keys.iter()
                            .filter(|k| matches!(k.name, "only" | "without"))
                            .map(|k| (k.name, k.doc))
                            .collect::<Vec<_>>()
                    };
                    if let Shape::Named(_, Shape::Table(keys)) = &key.shape {
                        for (name, doc) in own(keys) {
                            let _ = writeln!(out, "| `stamps.NAME.{name}` | list | {doc} |");
                        }
                    }
                } else {
                    rows(&key.shape, &path, out);
                }
            }
        }
        Shape::Named(_, item) => rows(item, &join(at, "NAME"), out),
        Shape::List(item) => rows(item, at, out),
        Shape::Either(shapes) => shapes.iter().for_each(|s| rows(s, at, out)),
        _ => {}
    }
}

fn words(shape: &Shape) -> String {
    match shape {
        Shape::Text | Shape::Raw => "text".into(),
        Shape::Name => "name".into(),
        Shape::Path => "path".into(),
        Shape::Resource => "resource".into(),
        Shape::Principal => "workload or group".into(),
        Shape::Integer { .. } => "number".into(),
        Shape::Bool => "true, false".into(),
        Shape::Duration => "time (`30s`)".into(),
        Shape::Bytes => "bytes (`64MiB`)".into(),
        Shape::Cidr => "block (`10.0.1.0/24`)".into(),
        Shape::Price => "price (`13 USD/month`)".into(),
        Shape::Cpu => "`500m`".into(),
        Shape::OneOf(words) => words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", "),
        Shape::List(item) => format!("list of {}", words(item)),
        Shape::Some(item) => format!("{}, or a list", words(item)),
        Shape::Table(_) => "table".into(),
        Shape::Named(_, item) => format!("names, each a {}", words(item)),
        Shape::Either(shapes) => shapes.iter().map(words).collect::<Vec<_>>().join(" or "),
    }
}

fn of(shape: &Shape) -> Value {
    match shape {
        Shape::Text | Shape::Raw => json!({ "type": "string" }),
        Shape::Name => json!({ "type": "string", "pattern": Names::Name.pattern() }),
        Shape::Path => json!({ "type": "string", "pattern": "^/" }),
        Shape::Resource => json!({ "type": "string", "examples": ["service.web", "postgres.main", "edge"] }),
        Shape::Principal => {
            json!({ "type": "string", "examples": ["service.web", "service.web.migrate", "group:admin"] })
        }
        Shape::Integer { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Shape::Bool => json!({ "type": "boolean" }),
        Shape::Duration => {
            json!({ "type": "string", "pattern": "^[0-9]+ ?(ms|s|m|h|d|y)$", "examples": ["30s", "5m", "7d"] })
        }
        Shape::Bytes => json!({ "type": "string", "pattern": "^[0-9]+ ?(B|KiB|MiB|GiB|TiB)$", "examples": ["64MiB"] }),
        Shape::Cidr => {
            json!({ "type": "string", "pattern": "^[0-9]{1,3}(\\.[0-9]{1,3}){3}/[0-9]{1,2}$", "examples": ["10.0.1.0/24"] })
        }
        Shape::Price => {
            json!({ "type": "string", "pattern": "^[0-9]+(\\.[0-9]{2})? [A-Z]{3}/month$", "examples": ["13 USD/month"] })
        }
        Shape::Cpu => json!({ "type": "string", "pattern": "^[0-9]+m$", "examples": ["500m"] }),
        Shape::OneOf(words) => json!({ "type": "string", "enum": words }),
        Shape::List(item) => json!({ "type": "array", "items": of(item) }),
        Shape::Some(item) => json!({ "anyOf": [of(item), { "type": "array", "items": of(item) }] }),
        Shape::Either(shapes) => json!({ "anyOf": shapes.iter().map(of).collect::<Vec<_>>() }),
        Shape::Named(names, item) => {
            json!({ "type": "object", "propertyNames": { "pattern": names.pattern() }, "additionalProperties": of(item) })
        }
        Shape::Table(keys) => {
            let properties: Map<String, Value> = keys.iter().map(|key| (key.name.to_owned(), described(key))).collect();
            // What must be there may come from the file or from an overlay, so that only `stamp` checks it; the file's
            // own head is required by the schema too.
            let head = ["stamp", "system", "stamps"];
            let required: Vec<&str> =
                keys.iter().filter(|k| k.required && head.contains(&k.name)).map(|k| k.name).collect();
            let mut object = json!({ "type": "object", "properties": properties, "additionalProperties": false });
            if !required.is_empty() {
                object["required"] = json!(required);
            }
            object
        }
    }
}

fn described(key: &Key) -> Value {
    let mut value = of(&key.shape);
    if let Some(map) = value.as_object_mut() {
        let later = if key.built { "" } else { " (Not carried out yet.)" };
        map.insert("description".into(), format!("{}{later}", key.doc).into());
    }
    value
}
