//! Backups of one secret: all versions with their values, sealed under a key made from the key-encryption key. A backup can
//! be restored into a vault that holds the same key-encryption key, and nowhere else.

use api::Secret;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::{
    Error,
    rows::Version,
    seal::{DataKeys, Key},
};

/// The version of the format, also in what the seal is bound to.
const FORMAT: u32 = 1;
const PLACE: &str = "stampwright vault backup 1";

#[derive(Serialize, Deserialize)]
struct Blob<V> {
    format: u32,
    name: String,
    versions: Vec<V>,
}

#[derive(Serialize)]
struct Out<'a> {
    value: &'a str,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Deserialize)]
struct In {
    value: Secret,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Serialize, Deserialize)]
struct Rest {
    version: String,
    content_type: Option<String>,
    tags: Option<Map<String, Value>>,
    enabled: bool,
    nbf: Option<i64>,
    exp: Option<i64>,
    created: i64,
    updated: i64,
}

/// Counts what would be written.
struct Count(usize);

impl std::io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The backup of a secret's versions, oldest first, as unpadded base64url.
pub fn make(key: &Key, keys: &DataKeys, rows: &[Version]) -> Result<String, Error> {
    let values =
        rows.iter().map(|r| keys.unseal(&r.name, &r.version, r.key, &r.sealed)).collect::<Result<Vec<_>, _>>()?;
    let versions = rows.iter().zip(&values).map(|(row, value)| Out {
        value: std::str::from_utf8(value).unwrap_or_default(),
        rest: Rest {
            version: row.version.clone(),
            content_type: row.content_type.clone(),
            tags: row.tags.clone(),
            enabled: row.enabled,
            nbf: row.nbf,
            exp: row.exp,
            created: row.created,
            updated: row.updated,
        },
    });
    let name = rows.first().map(|r| r.name.clone()).unwrap_or_default();
    let blob = Blob { format: FORMAT, name, versions: versions.collect() };
    let mut count = Count(0);
    serde_json::to_writer(&mut count, &blob).expect("a backup is JSON");
    // Never grown: a value must not be left behind where the text was before.
    let mut text = Zeroizing::new(Vec::with_capacity(count.0));
    serde_json::to_writer(&mut *text, &blob).expect("a backup is JSON, and a Vec takes it");
    Ok(URL_SAFE_NO_PAD.encode(key.seal(PLACE, &text)))
}

/// Reads a backup; its versions sealed under the data keys, oldest first. None: not a backup of this vault's key.
pub fn read(key: &Key, keys: &DataKeys, text: &str) -> Option<Vec<Version>> {
    let sealed = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()?;
    let plain = key.open(PLACE, &sealed)?;
    let blob: Blob<In> = serde_json::from_slice(&plain).ok()?;
    if blob.format > FORMAT || crate::operation::name(&blob.name).is_err() {
        return None;
    }
    let rows = blob.versions.into_iter().map(|In { value, rest }| {
        let (key, sealed) = keys.seal(&blob.name, &rest.version, value.expose().as_bytes());
        Version {
            name: blob.name.clone(),
            serial: 0,
            version: rest.version,
            key,
            sealed,
            content_type: rest.content_type,
            tags: rest.tags,
            enabled: rest.enabled,
            nbf: rest.nbf,
            exp: rest.exp,
            created: rest.created,
            updated: rest.updated,
        }
    });
    Some(rows.collect())
}
