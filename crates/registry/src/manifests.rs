//! Manifests and indexes: checked, stored with what they name, tagged, listed.

use std::sync::Arc;

use api::audit::Outcome;
use rusqlite::TransactionBehavior;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    names::{Digest, Reference, is_release},
    refusal::Refusal,
    registry::{Registry, SET_UP},
    rows::{self, Manifest},
};

/// The size that the specification asks registries to take at least, and the most of this one.
pub const MANIFEST_BYTES: usize = 4 << 20;
/// What one manifest may name: an index of every platform, an image of a few hundred layers.
const MOST_NAMED: usize = 4096;

pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// What a manifest says of something else.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: i64,
    /// Where it really is: layers that may not be passed on need not be here.
    #[serde(default)]
    urls: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: i64,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    annotations: Option<Map<String, Value>>,
}

/// A manifest that was read.
#[derive(Debug)]
pub struct Read {
    pub artifact_type: Option<String>,
    pub subject: Option<String>,
    pub annotations: Option<String>,
    /// What must be there: digest, size, and whether it is a manifest itself.
    pub named: Vec<(Digest, u64, bool)>,
}

/// Reads a manifest that was sent as `media_type`.
pub fn read(media_type: &str, bytes: &[u8]) -> Result<Read, Refusal> {
    let is_index = match media_type {
        OCI_MANIFEST | DOCKER_MANIFEST => false,
        OCI_INDEX | DOCKER_LIST => true,
        "" => {
            return Err(Refusal::manifest_invalid(
                "the request does not say which kind of manifest it sends (Content-Type)",
            ));
        }
        other => {
            let other: String = other.chars().take(100).collect();
            return Err(Refusal::manifest_invalid(format!(
                "`{other}` is no kind of manifest that this registry takes"
            )));
        }
    };
    let document: Document = serde_json::from_slice(bytes)
        .map_err(|e| Refusal::manifest_invalid(format!("the manifest is not one: {e}")))?;
    if document.schema_version != 2 {
        return Err(Refusal::manifest_invalid(format!("schemaVersion is {}, not 2", document.schema_version)));
    }
    // One document with two readings would be two images (CVE-2021-41190).
    if document.media_type.as_deref().is_some_and(|said| said != media_type) {
        return Err(Refusal::manifest_invalid("`mediaType` and Content-Type differ"));
    }
    let mixed = if is_index {
        document.layers.is_some() || document.config.is_some() || document.manifests.is_none()
    } else {
        document.manifests.is_some() || document.config.is_none() || document.layers.is_none()
    };
    if mixed {
        let shape = if is_index {
            "`manifests` and neither `config` nor `layers`"
        } else {
            "`config` and `layers`, no `manifests`"
        };
        return Err(Refusal::manifest_invalid(format!("a document of this kind has {shape}")));
    }
    let digest = |text: &str| Digest::parse(text).ok_or_else(|| Refusal::digest_invalid(text));
    let mut named = Vec::new();
    let blobs = document.config.iter().chain(document.layers.iter().flatten()).map(|d| (d, false));
    for (descriptor, is_manifest) in blobs.chain(document.manifests.iter().flatten().map(|d| (d, true))) {
        let size = u64::try_from(descriptor.size).map_err(|_| Refusal::manifest_invalid("a size is negative"))?;
        let one = digest(&descriptor.digest)?;
        if descriptor.urls.is_empty() {
            named.push((one, size, is_manifest));
        }
        if named.len() > MOST_NAMED {
            return Err(Refusal::manifest_invalid(format!("the manifest names more than {MOST_NAMED} things")));
        }
    }
    let config = document.config.map(|config| config.media_type).filter(|kind| !kind.is_empty());
    Ok(Read {
        artifact_type: document.artifact_type.filter(|kind| !kind.is_empty()).or(config),
        subject: document.subject.map(|subject| digest(&subject.digest).map(|d| d.to_string())).transpose()?,
        annotations: document.annotations.map(|all| Value::Object(all).to_string()),
        named,
    })
}

/// Stores a manifest. All that it names must be there; its subject may come later.
pub async fn put(
    registry: &Arc<Registry>,
    name: &str,
    reference: &Reference,
    media_type: &str,
    bytes: Vec<u8>,
    subject: &str,
    client: &str,
) -> Result<(Digest, Option<String>), Refusal> {
    let digest = Digest::of(&bytes);
    if let Reference::Digest(said) = reference
        && *said != digest
    {
        return Err(Refusal::digest_differs(said, &digest));
    }
    let read = read(media_type, &bytes)?;
    registry.has_room(bytes.len() as u64)?;
    let object = match reference {
        Reference::Tag(tag) => format!("{name}:{tag}"),
        Reference::Digest(digest) => format!("{name}@{digest}"),
    };
    let mut event = registry.event(subject, "image.push", &object, Outcome::Ok, client);
    event.detail.insert("digest".into(), digest.to_string().into());
    let manifest = Manifest {
        digest: digest.clone(),
        media_type: media_type.to_owned(),
        artifact_type: read.artifact_type,
        subject: read.subject.clone(),
        annotations: read.annotations,
        content: bytes,
    };
    let (name, reference, named) = (name.to_owned(), reference.clone(), read.named);
    let now_ms = registry.clock.now_ms();
    let _keep = registry.keeping.read().await;
    let put = registry.blocking(move |registry| {
        let now = now_ms.div_euclid(1000);
        let mut db = registry.db();
        let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for (target, size, is_manifest) in &named {
            let there = if *is_manifest {
                rows::manifest(&transaction, &name, target)?.map(|m| m.content.len() as u64)
            } else {
                rows::blob(&transaction, &name, target)?
            };
            let there = there.ok_or_else(|| Refusal::manifest_blob_unknown(&target.to_string()))?;
            if there != *size {
                let why = format!("the manifest says that {target} has {size} bytes; it has {there}");
                return Err(Refusal::manifest_invalid(why));
            }
        }
        if let Reference::Tag(tag) = &reference
            && is_release(tag)
            && !registry.settings().config.movable_releases
            && let Some(stands) = rows::release(&transaction, &name, tag)?
            && stands != manifest.digest.to_string()
        {
            return Err(Refusal::release_stands(tag, &stands));
        }
        let targets: Vec<String> = named.iter().map(|(target, ..)| target.to_string()).collect();
        rows::insert_manifest(&transaction, &name, &manifest, &targets, now)?;
        if let Reference::Tag(tag) = &reference {
            rows::set_tag(&transaction, &name, tag, &manifest.digest, now)?;
        }
        rows::set_fact(&transaction, SET_UP, now_ms)?;
        registry.spool.append_blocking(event)?;
        transaction.commit()?;
        registry.recount(&db)
    });
    put.await?;
    Ok((digest, read.subject))
}

/// The manifest that a reference names.
pub async fn get(registry: &Arc<Registry>, name: &str, reference: &Reference) -> Result<Manifest, Refusal> {
    // Whose time is over is not there any more, whether somebody swept or not.
    crate::sweep::sweep(registry).await?;
    let (name, reference) = (name.to_owned(), reference.clone());
    registry
        .blocking(move |registry| {
            let db = registry.db();
            let unknown = || Refusal::manifest_unknown(&name, &reference.to_string());
            let digest = match &reference {
                Reference::Digest(digest) => digest.clone(),
                Reference::Tag(tag) => rows::tag(&db, &name, tag)?.ok_or_else(unknown)?,
            };
            rows::manifest(&db, &name, &digest)?.ok_or_else(unknown)
        })
        .await
}

/// Removes a tag, or a manifest with all its tags.
pub async fn delete(
    registry: &Arc<Registry>,
    name: &str,
    reference: &Reference,
    subject: &str,
    client: &str,
) -> Result<(), Refusal> {
    let object = match reference {
        Reference::Tag(tag) => format!("{name}:{tag}"),
        Reference::Digest(digest) => format!("{name}@{digest}"),
    };
    let event = registry.event(subject, "image.delete", &object, Outcome::Ok, client);
    let (name, reference, now) = (name.to_owned(), reference.clone(), registry.clock.now_s());
    let _alone = registry.keeping.write().await;
    registry
        .blocking(move |registry| {
            let mut db = registry.db();
            let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let there = match &reference {
                Reference::Tag(tag) => rows::remove_tag(&transaction, &name, tag, now)?,
                Reference::Digest(digest) => {
                    let digest = digest.to_string();
                    if rows::is_named(&transaction, &name, &digest)? {
                        return Err(Refusal::manifest_named(&digest));
                    }
                    rows::remove_manifest(&transaction, &name, &digest, now)?
                }
            };
            if !there {
                return Err(Refusal::manifest_unknown(&name, &reference.to_string()));
            }
            registry.spool.append_blocking(event)?;
            transaction.commit()?;
            registry.recount(&db)
        })
        .await
}

/// An index of the manifests whose subject this is; of one artifact type, if asked.
pub async fn referrers(
    registry: &Arc<Registry>,
    name: &str,
    subject: &Digest,
    kind: Option<String>,
) -> Result<Value, Refusal> {
    let (name, subject) = (name.to_owned(), subject.clone());
    let all = registry.blocking(move |registry| Ok(rows::referrers(&registry.db(), &name, &subject)?)).await?;
    let entries = all.into_iter().filter(|m| kind.is_none() || m.artifact_type == kind).map(|m| {
        let mut entry = json!({ "mediaType": m.media_type, "digest": m.digest.to_string(), "size": m.content.len() });
        if let Some(kind) = m.artifact_type {
            entry["artifactType"] = kind.into();
        }
        if let Some(all) = m.annotations.and_then(|text| serde_json::from_str(&text).ok()) {
            entry["annotations"] = all;
        }
        entry
    });
    let entries: Vec<Value> = entries.collect();
    Ok(json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn image() -> Value {
        let blob = json!({ "mediaType": "application/vnd.oci.image.config.v1+json", "digest": DIGEST, "size": 0 });
        json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": blob.clone(), "layers": [blob] })
    }

    fn reads(kind: &str, document: &Value) -> Result<Read, Refusal> {
        read(kind, document.to_string().as_bytes())
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        assert_eq!(reads(OCI_MANIFEST, &image()).unwrap().named.len(), 2);
        assert!(reads(DOCKER_MANIFEST, &image()).is_err(), "another type than it says");
        let mut both = image();
        both["manifests"] = json!([]);
        assert!(reads(OCI_MANIFEST, &both).is_err());
        let mut index = json!({ "schemaVersion": 2, "manifests": [] });
        assert!(reads(OCI_INDEX, &index).is_ok());
        index["layers"] = json!([]);
        assert!(reads(OCI_INDEX, &index).is_err());
        let mut old = image();
        old["schemaVersion"] = 1.into();
        assert!(reads(OCI_MANIFEST, &old).is_err());
        for kind in ["", "application/json", "text/plain"] {
            assert!(reads(kind, &image()).is_err(), "{kind}");
        }
    }

    #[test]
    fn a_layer_that_lies_elsewhere_need_not_be_here() {
        let mut foreign = image();
        foreign["layers"][0]["urls"] = json!(["https://example.com/layer"]);
        assert_eq!(reads(OCI_MANIFEST, &foreign).unwrap().named.len(), 1);
    }

    proptest::proptest! {
        #[test]
        fn no_document_is_read_with_a_panic(
            field in "schemaVersion|mediaType|config|layers|manifests|subject|annotations|artifactType",
            text in "\\PC{0,40}", number in proptest::num::i64::ANY, cut in 0usize..400,
        ) {
            for value in [json!(text), json!(number), json!([text]), json!({ "digest": text, "size": number }), Value::Null] {
                let mut document = image();
                document[field.as_str()] = value;
                let written = document.to_string();
                for kind in [OCI_MANIFEST, OCI_INDEX] {
                    let _ = read(kind, written.as_bytes());
                    let _ = read(kind, &written.as_bytes()[..cut.min(written.len())]);
                }
            }
        }
    }
}
