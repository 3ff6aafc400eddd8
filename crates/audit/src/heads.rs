//! The small files beside the segments that say where chains begin and end, so that a missing end is seen.

use std::path::Path;

use api::{
    Secret,
    audit::{FORMAT, Head, hash},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use service::spool::segments;

/// `SOURCE/head.json`. Written after the records it speaks of are durable, and before they are acknowledged.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct HeadFile {
    pub format: u32,
    pub source: String,
    /// The chain's end before the oldest record held: moves when the retention removes segments.
    pub anchor: Head,
    pub head: Head,
    /// HMAC of all above by a key derived from the role's root key: who has only the files cannot make one.
    pub seal: String,
    /// SHA-256 of all above, for those who have no key.
    pub check: String,
}

/// `store.json`: the sources there are, so that a directory cannot vanish unseen.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct StoreFile {
    pub format: u32,
    pub sources: Vec<String>,
    pub check: String,
}

impl HeadFile {
    pub fn new(source: &str, anchor: Head, head: Head, root: &Secret) -> Self {
        let mut file =
            Self { format: FORMAT, source: source.into(), anchor, head, seal: String::new(), check: String::new() };
        file.seal = root.derive(&format!("head:{source}")).derive(&file.bare()).expose().to_owned();
        file.check = hash(&file.seal, &file.bare());
        file
    }

    /// Whether the role that holds `root` wrote it.
    pub fn is_sealed_by(&self, root: &Secret) -> bool {
        root.derive(&format!("head:{}", self.source)).derive(&self.bare()).matches(&self.seal)
    }

    fn bare(&self) -> String {
        let bare = Self { seal: String::new(), check: String::new(), ..self.clone() };
        serde_json::to_string(&bare).expect("a head is JSON")
    }

    /// Reads the file, checked without a key. None: there is none.
    pub fn read(dir: &Path, source: &str) -> Result<Option<Self>, segments::Error> {
        let path = dir.join("head.json");
        let Some(file) = read::<Self>(&path, source)? else { return Ok(None) };
        if file.format > FORMAT {
            return Err(segments::Error::Newer { file: path, found: file.format });
        }
        if file.source != source || file.check != hash(&file.seal, &file.bare()) {
            return Err(broken(&path, source, "it does not match its own check"));
        }
        Ok(Some(file))
    }

    pub fn write(&self, dir: &Path) -> Result<(), segments::Error> {
        segments::replace(&dir.join("head.json"), &serde_json::to_vec(self).expect("a head is JSON"))
    }
}

impl StoreFile {
    pub fn new(sources: Vec<String>) -> Self {
        let check = hash("store", &sources.join("\n"));
        Self { format: FORMAT, sources, check }
    }

    pub fn read(dir: &Path) -> Result<Option<Self>, segments::Error> {
        let path = dir.join("store.json");
        let Some(file) = read::<Self>(&path, "all sources")? else { return Ok(None) };
        if file.format > FORMAT {
            return Err(segments::Error::Newer { file: path, found: file.format });
        }
        if file.check != hash("store", &file.sources.join("\n"))
            || !file.sources.iter().all(|s| crate::config::is_source(s))
        {
            return Err(broken(&path, "all sources", "it does not match its own check"));
        }
        Ok(Some(file))
    }

    pub fn write(&self, dir: &Path) -> Result<(), segments::Error> {
        segments::replace(&dir.join("store.json"), &serde_json::to_vec(self).expect("a list is JSON"))
    }
}

fn read<T: DeserializeOwned + Serialize>(path: &Path, source: &str) -> Result<Option<T>, segments::Error> {
    match std::fs::read(path) {
        Ok(text) => segments::exact(&text).map(Some).map_err(|why| broken(path, source, &format!("it {why}"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(segments::Error::io("read", path, error)),
    }
}

fn broken(path: &Path, source: &str, why: &str) -> segments::Error {
    segments::Error::Broken { chain: source.into(), seq: 0, file: path.into(), why: why.into() }
}
