//! The JSON Schema against the manifests themselves: it must take all of them, and each of its keys must be one that the
//! parser knows.
#![allow(clippy::unwrap_used)] // its allowance in tests does not reach their helpers

use std::{collections::BTreeSet, path::Path};

use model::{EXAMPLE, Manifest, reference, render_all, schema};
use serde_json::Value;

fn manifests() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../systems");
    let mut all = vec![("example".to_owned(), EXAMPLE.to_owned())];
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path().join("system.toml");
        if let Ok(text) = std::fs::read_to_string(&path) {
            all.push((path.display().to_string(), text));
        }
    }
    all
}

/// The part of JSON Schema that our schema uses.
fn judge(schema: &Value, value: &Value, at: &str, seen: &mut BTreeSet<String>) -> Result<(), String> {
    if let Some(name) = schema.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix("#/$defs/")) {
        let target = &model::schema()["$defs"][name];
        seen.extend(target["description"].as_str().map(str::to_owned));
        return judge(target, value, at, seen);
    }
    if let Some(any) = schema.get("anyOf").and_then(Value::as_array) {
        let judged: Vec<_> = any.iter().map(|s| judge(s, value, at, seen)).collect();
        return if judged.iter().any(Result::is_ok) { Ok(()) } else { judged.into_iter().collect() };
    }
    let wrong = || Err(format!("{at}: {value} is not {schema}"));
    match (schema["type"].as_str().unwrap(), value) {
        ("string", Value::String(text)) => match schema.get("enum").and_then(Value::as_array) {
            Some(words) if !words.iter().any(|w| w == text) => wrong(),
            _ => Ok(()),
        },
        ("integer", Value::Number(n)) => {
            let n = n.as_i64().unwrap();
            if n < schema["minimum"].as_i64().unwrap() || n > schema["maximum"].as_i64().unwrap() {
                wrong()
            } else {
                Ok(())
            }
        }
        ("boolean", Value::Bool(_)) => Ok(()),
        ("array", Value::Array(items)) => items.iter().try_for_each(|item| judge(&schema["items"], item, at, seen)),
        ("object", Value::Object(entries)) => {
            for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
                if !entries.contains_key(name.as_str().unwrap()) {
                    return Err(format!("{at}: lacks {name}"));
                }
            }
            entries.iter().try_for_each(|(key, value)| {
                let path = format!("{at}.{key}");
                match schema.get("properties").and_then(|p| p.get(key)) {
                    Some(own) => {
                        seen.extend(own["description"].as_str().map(str::to_owned));
                        judge(own, value, &path, seen)
                    }
                    None if schema["additionalProperties"].is_object() => {
                        judge(&schema["additionalProperties"], value, &path, seen)
                    }
                    None => Err(format!("{path}: unknown")),
                }
            })
        }
        _ => wrong(),
    }
}

fn json(text: &str) -> Value {
    let table: toml_edit::DocumentMut = text.parse().unwrap();
    toml_edit::de::from_document(table).unwrap()
}

#[test]
fn the_schema_takes_every_manifest() {
    let schema = schema();
    for (name, text) in manifests() {
        judge(&schema, &json(&text), "", &mut BTreeSet::new()).unwrap_or_else(|fault| panic!("{name}: {fault}"));
    }
}

#[test]
fn the_schema_refuses_what_the_parser_refuses() {
    for (from, to) in [
        ("health = \"/health\"", "helth = \"/health\""),
        ("port   = 8080", "port = 80800"),
        ("min = \"1.2\"", "min = \"1.1\""),
    ] {
        let text = EXAMPLE.replacen(from, to, 1);
        assert_ne!(text, EXAMPLE);
        assert!(Manifest::parse(&text).is_err());
        assert!(judge(&schema(), &json(&text), "", &mut BTreeSet::new()).is_err(), "{to}");
    }
}

#[test]
fn most_keys_are_used_by_the_manifests_the_format_was_made_for() {
    fn descriptions(schema: &Value, all: &mut BTreeSet<String>) {
        match schema {
            Value::Object(map) => {
                all.extend(map.get("description").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|v| descriptions(v, all));
            }
            Value::Array(items) => items.iter().for_each(|v| descriptions(v, all)),
            _ => {}
        }
    }
    let (schema, mut all, mut used) = (schema(), BTreeSet::new(), BTreeSet::new());
    descriptions(&schema, &mut all);
    for (_, text) in manifests() {
        judge(&schema, &json(&text), "", &mut used).unwrap();
    }
    let idle: Vec<_> = all.difference(&used).collect();
    assert!(idle.len() * 10 < all.len() * 3, "{} of {} keys are used by no manifest: {idle:#?}", idle.len(), all.len());
}

#[test]
fn the_example_is_a_manifest_without_fault() {
    let manifest =
        Manifest::parse(EXAMPLE).unwrap_or_else(|f| panic!("\n{}", render_all(&f, "system.toml", EXAMPLE, false)));
    assert_eq!(manifest.stamps().collect::<Vec<_>>(), ["dev", "prod"]);
    for stamp in manifest.stamps() {
        assert!(manifest.resolve(stamp).unwrap().edge().is_some());
    }
}

#[test]
fn the_reference_names_every_top_key() {
    let text = reference();
    for key in schema()["properties"].as_object().unwrap().keys() {
        assert!(text.contains(&format!("| `{key}` |")), "{key}");
    }
    assert!(text.contains("`vault.NAME.secrets.NAME.generate`") && text.contains("`stamps.NAME.only`"));
}

/// `docs/reference/` holds what the program says of itself; `STAMP_WRITE_REFERENCE=1` writes it anew.
#[test]
fn the_written_reference_is_up_to_date() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference");
    let schema = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    for (name, text) in [("manifest.md", reference()), ("system.schema.json", schema)] {
        let path = folder.join(name);
        if std::env::var_os("STAMP_WRITE_REFERENCE").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(written == text, "{} is out of date; run the test with STAMP_WRITE_REFERENCE=1", path.display());
    }
}
