//! The JSON of the API: what callers send, and the bundles they get.

use api::Secret;
use axum::body::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use crate::{
    config::Settings,
    refusal::Refusal,
    rows::{Deletion, Version},
};

/// The longest value, bytes.
const VALUE_BYTES: usize = 25 * 1024;
const TAGS: usize = 15;
const TAG_CHARS: usize = 256;
const CONTENT_TYPE_CHARS: usize = 255;

/// `PUT /secrets/{name}`.
#[derive(Deserialize)]
pub struct SetBody {
    pub value: Option<Secret>,
    #[serde(flatten)]
    pub update: UpdateBody,
}

/// `PATCH /secrets/{name}/{version}`; what is absent stays.
#[derive(Default, Deserialize)]
pub struct UpdateBody {
    #[serde(default, rename = "contentType")]
    pub content_type: Option<String>,
    #[serde(default)]
    pub tags: Option<Map<String, Value>>,
    #[serde(default)]
    pub attributes: Option<AttributesBody>,
}

#[derive(Default, Deserialize)]
pub struct AttributesBody {
    pub enabled: Option<bool>,
    pub nbf: Option<i64>,
    pub exp: Option<i64>,
}

/// `{"value": ...}` of a backup, to be restored.
#[derive(Deserialize)]
pub struct RestoreBody {
    pub value: String,
}

/// Reads a body; which field is wrong is said, never what it holds.
pub fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|e| {
        Refusal::bad(format!(
            "The request body is not what this operation takes (line {}, column {}).",
            e.line(),
            e.column()
        ))
    })
}

impl SetBody {
    /// The value, if there is one of an allowed length.
    pub fn checked_value(&self) -> Result<&Secret, Refusal> {
        let value =
            self.value.as_ref().ok_or_else(|| Refusal::bad("Property value has invalid value: it is missing."))?;
        if value.expose().len() > VALUE_BYTES {
            return Err(Refusal::bad(format!(
                "Property value has invalid value: it is longer than {VALUE_BYTES} bytes."
            )));
        }
        Ok(value)
    }
}

impl UpdateBody {
    pub fn check(&self) -> Result<(), Refusal> {
        if self.content_type.as_ref().is_some_and(|c| c.chars().count() > CONTENT_TYPE_CHARS) {
            return Err(Refusal::bad(format!("Property contentType is longer than {CONTENT_TYPE_CHARS} characters.")));
        }
        if let Some(tags) = &self.tags {
            let fits = |t: &str| t.chars().count() <= TAG_CHARS;
            if tags.len() > TAGS || !tags.iter().all(|(k, v)| fits(k) && v.as_str().is_some_and(fits)) {
                return Err(Refusal::bad(format!(
                    "Property tags takes at most {TAGS} texts of {TAG_CHARS} characters."
                )));
            }
        }
        if let Some(AttributesBody { nbf: Some(nbf), exp: Some(exp), .. }) = self.attributes
            && exp <= nbf
        {
            return Err(Refusal::bad("Property attributes has exp before nbf."));
        }
        Ok(())
    }

    /// Writes what is there into a row.
    pub fn apply(self, row: &mut Version) {
        row.content_type = self.content_type.or(row.content_type.take());
        row.tags = self.tags.or(row.tags.take());
        let attributes = self.attributes.unwrap_or_default();
        row.enabled = attributes.enabled.unwrap_or(row.enabled);
        row.nbf = attributes.nbf.or(row.nbf);
        row.exp = attributes.exp.or(row.exp);
    }
}

/// Makes bundles, with ids under one authority.
pub struct Bundles<'a> {
    pub settings: &'a Settings,
    pub authority: &'a str,
}

impl Bundles<'_> {
    /// A version with its attributes, without its value.
    pub fn version(&self, row: &Version) -> Map<String, Value> {
        self.bundle(row, format!("https://{}/secrets/{}/{}", self.authority, row.name, row.version))
    }

    /// A secret in a list: its id names no version.
    pub fn item(&self, row: &Version) -> Map<String, Value> {
        self.bundle(row, format!("https://{}/secrets/{}", self.authority, row.name))
    }

    /// Adds what a deleted secret has more.
    pub fn deleted(&self, mut bundle: Map<String, Value>, name: &str, deletion: Deletion) -> Map<String, Value> {
        bundle.insert("recoveryId".into(), format!("https://{}/deletedsecrets/{name}", self.authority).into());
        bundle.insert("deletedDate".into(), deletion.deleted.into());
        bundle.insert("scheduledPurgeDate".into(), deletion.purge.into());
        bundle
    }

    fn bundle(&self, row: &Version, id: String) -> Map<String, Value> {
        let mut attributes = json!({ "enabled": row.enabled });
        for (name, time) in [("nbf", row.nbf), ("exp", row.exp)] {
            if let Some(time) = time {
                attributes[name] = time.into();
            }
        }
        attributes["created"] = row.created.into();
        attributes["updated"] = row.updated.into();
        attributes["recoveryLevel"] = self.settings.recovery_level().into();
        attributes["recoverableDays"] = self.settings.config.soft_delete_days.into();
        let mut bundle = Map::new();
        bundle.insert("id".into(), id.into());
        if let Some(content_type) = &row.content_type {
            bundle.insert("contentType".into(), content_type.clone().into());
        }
        bundle.insert("attributes".into(), attributes);
        if let Some(tags) = &row.tags {
            bundle.insert("tags".into(), tags.clone().into());
        }
        bundle
    }
}

/// A bundle with its value, in memory that is wiped once it was sent.
pub fn with_value(bundle: &Map<String, Value>, value: &str) -> Bytes {
    let rest = serde_json::to_vec(bundle).expect("a bundle is JSON");
    // Enough for a value of which every byte is escaped, so that it never moves and leaves a copy.
    let mut text = Zeroizing::new(Vec::with_capacity(rest.len() + 6 * value.len() + 16));
    text.extend_from_slice(b"{\"value\":");
    serde_json::to_writer(&mut *text, value).expect("a text is JSON, and a Vec takes it");
    text.push(b',');
    text.extend_from_slice(&rest[1..]);
    Bytes::from_owner(text)
}
