//! What the files of a system have in common: texts with names in braces, and calls that somebody makes.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::{
    Miss,
    browser::{Browser, Page},
};

/// A JSON value as a text: a string without its quotes.
pub fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `text` with `{name}` replaced by what was kept under it; other braces stay (JSON has many).
///
/// # Errors
/// A name under which nothing was kept.
pub fn filled(text: &str, kept: &BTreeMap<String, String>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        let name: String = after[1..].chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
        if !name.is_empty() && after[1 + name.len()..].starts_with('}') {
            out.push_str(kept.get(&name).ok_or_else(|| format!("nothing was kept as {name}"))?);
            rest = &after[name.len() + 2..];
        } else {
            out.push('{');
            rest = &after[1..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// A call of the application's API.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiCall {
    /// `GET /path`, `POST /path`.
    pub call: String,
    /// JSON; `{name}` stands for what was kept.
    pub body: Option<String>,
    /// The status that must come back; 200 where it does not say.
    pub status: Option<u16>,
    /// Names for values of the answer, by pointer (RFC 6901).
    #[serde(default)]
    pub keep: BTreeMap<String, String>,
}

impl ApiCall {
    /// The status that must come back.
    pub fn expected(&self) -> u16 {
        self.status.unwrap_or(200)
    }

    /// Makes the call as `person`; nothing is judged.
    ///
    /// # Errors
    /// The call is not well formed, or no answer came.
    pub async fn make(&self, person: &mut Browser, kept: &BTreeMap<String, String>) -> Result<Page, Miss> {
        let fault = |what: String| Miss::Failed(format!("`{}`: {what}", self.call));
        let call = filled(&self.call, kept).map_err(fault)?;
        let (method, path) = call.split_once(' ').ok_or_else(|| fault("is no `METHOD /path`".into()))?;
        let body = match &self.body {
            Some(body) => {
                serde_json::from_str(&filled(body, kept).map_err(fault)?).map_err(|e| fault(e.to_string()))?
            }
            None => Value::Null,
        };
        person.api(method, path, &body).await
    }

    /// Takes out of the answer what is to be kept.
    ///
    /// # Errors
    /// The answer has no such value.
    pub fn keep(&self, page: &Page, kept: &mut BTreeMap<String, String>) -> Result<(), Miss> {
        if self.keep.is_empty() {
            return Ok(());
        }
        let json = page.json()?;
        for (name, pointer) in &self.keep {
            let value = json.pointer(pointer).ok_or_else(|| Miss::Failed(format!("`{}`: no {pointer}", self.call)))?;
            kept.insert(name.clone(), plain(value));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_filled_and_json_stays() {
        let kept = BTreeMap::from([("id".to_owned(), "7".to_owned())]);
        assert_eq!(filled(r#"{"a": {"b": "{id}"}}"#, &kept).as_deref(), Ok(r#"{"a": {"b": "7"}}"#));
        assert!(filled("{other}", &kept).is_err());
        assert_eq!(filled("{} {A} {", &kept).as_deref(), Ok("{} {A} {"));
    }
}
