//! The database, its data keys, and a bounded cache of sealed rows for reads.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use api::Secret;
use rusqlite::Connection;
use zeroize::Zeroizing;

use crate::{
    Error,
    rows::{self, Version},
    seal::{DataKeys, Key},
};

/// The cache is emptied when it grows past either.
const CACHE_ROWS: usize = 2048;
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// Rows are cached sealed, and opened for each read.
pub struct Store {
    db: Mutex<Connection>,
    kek: Key,
    keys: RwLock<Arc<DataKeys>>,
    cache: RwLock<Cache>,
}

#[derive(Default)]
struct Cache {
    rows: HashMap<String, Arc<Version>>,
    bytes: usize,
}

impl Store {
    /// Opens or makes the vault in `dir`. Fails if `kek` does not open its data keys.
    pub fn open(dir: &Path, kek: &Secret, now_s: i64) -> Result<Self, Error> {
        use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
        let failed = |source| Error::Directory { dir: dir.into(), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let file = dir.join("vault.db");
        // SQLite gives its own files the mode of the database.
        std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&file).map_err(failed)?;
        let kek = Key::kek(kek)?;
        let db = rows::open(&file)?;
        let mut wrapped = rows::data_keys(&db)?;
        if wrapped.is_empty() {
            wrapped.push((1, DataKeys::make(&kek, 1)));
            rows::insert_data_key(&db, 1, &wrapped[0].1, now_s)?;
        }
        let keys = DataKeys::open(&kek, &wrapped)?;
        Ok(Self { db: Mutex::new(db), kek, keys: RwLock::new(Arc::new(keys)), cache: RwLock::default() })
    }

    /// The database, for one at a time. Blocks. Transactions that a panic cut are rolled back by their drop.
    pub fn db(&self) -> MutexGuard<'_, Connection> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The data keys of now; take them after the row that they shall open.
    pub fn keys(&self) -> Arc<DataKeys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A row that was read before.
    pub fn cached(&self, name: &str, version: Option<&str>) -> Option<Arc<Version>> {
        self.cache.read().unwrap_or_else(PoisonError::into_inner).rows.get(&place(name, version)).cloned()
    }

    /// A row of a secret that is not deleted. Blocks on the disk.
    pub fn load(&self, name: &str, version: Option<&str>) -> Result<Option<Arc<Version>>, Error> {
        let db = self.db();
        if !matches!(rows::state(&db, name)?, Some(None)) {
            return Ok(None);
        }
        let Some(row) = rows::version(&db, name, version)?.map(Arc::new) else { return Ok(None) };
        // Still under the database's lock: no change can come between the read and the cache.
        let mut cache = self.cache.write().unwrap_or_else(PoisonError::into_inner);
        if cache.rows.len() >= CACHE_ROWS || cache.bytes + row.sealed.len() > CACHE_BYTES {
            *cache = Cache::default();
        }
        cache.bytes += row.sealed.len();
        cache.rows.insert(place(name, version), row.clone());
        Ok(Some(row))
    }

    /// Forgets all cached rows. Called after each commit, with the database still locked.
    pub fn forget(&self) {
        *self.cache.write().unwrap_or_else(PoisonError::into_inner) = Cache::default();
    }

    /// The value of a row.
    pub fn unseal(&self, row: &Version) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.keys().unseal(&row.name, &row.version, row.key, &row.sealed)
    }

    /// Inside a transaction: a fresh data key, and everything sealed under it. The returned keys hold the old ones too, for
    /// reads under way; hand them to [`Store::set_keys`] after the commit.
    pub fn renew_data_key(&self, db: &Connection, now_s: i64) -> Result<DataKeys, Error> {
        let mut wrapped = rows::data_keys(db)?;
        let id = self.keys().current() + 1;
        wrapped.push((id, DataKeys::make(&self.kek, id)));
        let keys = DataKeys::open(&self.kek, &wrapped)?;
        rows::insert_data_key(db, id, &wrapped[wrapped.len() - 1].1, now_s)?;
        rows::each(db, |mut row| {
            let value = keys.unseal(&row.name, &row.version, row.key, &row.sealed)?;
            (row.key, row.sealed) = keys.seal(&row.name, &row.version, &value);
            Ok(rows::update(db, &row)?)
        })?;
        rows::remove_data_keys_before(db, id)?;
        Ok(keys)
    }

    pub fn set_keys(&self, keys: DataKeys) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }
}

fn place(name: &str, version: Option<&str>) -> String {
    let mut place = name.to_ascii_lowercase();
    place.push('/');
    place.push_str(version.unwrap_or_default());
    place
}
