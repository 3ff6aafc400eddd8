//! Layers and configurations: uploaded in pieces, verified, put in place under their digest, read back.

use std::{io::SeekFrom, sync::Arc, time::Duration};

use api::audit::Outcome;
use aws_lc_rs::digest::{Context, SHA256};
use axum::body::Body;
use http_body_util::BodyExt as _;
use rusqlite::TransactionBehavior;
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _},
    sync::{Mutex, OwnedMutexGuard},
};

use crate::{Error, names::Digest, refusal::Refusal, registry::Registry, rows};

/// How long a client may send nothing in the middle of an upload.
const SILENCE: Duration = Duration::from_secs(60);

/// A blob on its way. Its bytes lie in a file of their own until they are whole and verified.
pub struct Upload {
    id: String,
    name: String,
    file: File,
    /// Bytes that are there.
    at: u64,
    /// The hash of what is there; None where it must be read again.
    hash: Option<Context>,
    /// Finished or cancelled, while others waited for it.
    over: bool,
}

impl Upload {
    /// The value of `Range` that says how much is there.
    pub fn range(&self) -> String {
        format!("0-{}", self.at.saturating_sub(1))
    }

    /// Where the next piece goes.
    pub fn location(&self) -> String {
        format!("/v2/{}/blobs/uploads/{}", self.name, self.id)
    }

    /// The offset at which the next piece begins.
    pub fn at(&self) -> u64 {
        self.at
    }

    pub fn id(&self) -> &str {
        &self.id
    }
}

/// Begins an upload into `name`, which only `subject` goes on with.
pub async fn start(registry: &Arc<Registry>, name: &str, subject: &str) -> Result<OwnedMutexGuard<Upload>, Refusal> {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let (now, row) = (registry.clock.now_s(), (id.clone(), name.to_owned(), subject.to_owned()));
    let file = registry.upload_file(&id);
    let opened = {
        use std::os::unix::fs::OpenOptionsExt as _;
        std::fs::OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(&file)
    };
    let opened = opened.map_err(Error::disk(&file))?;
    registry.blocking(move |registry| Ok(rows::insert_upload(&registry.db(), &row.0, &row.1, &row.2, now)?)).await?;
    let upload = Upload {
        id: id.clone(),
        name: name.to_owned(),
        file: File::from_std(opened),
        at: 0,
        hash: Some(Context::new(&SHA256)),
        over: false,
    };
    let upload = Arc::new(Mutex::new(upload));
    registry.uploads.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(id, upload.clone());
    Ok(upload.lock_owned().await)
}

/// An upload that `subject` began in `name`, for this request alone. One of before a restart is opened again.
pub async fn find(
    registry: &Arc<Registry>,
    name: &str,
    id: &str,
    subject: &str,
) -> Result<OwnedMutexGuard<Upload>, Refusal> {
    let asked = id.to_owned();
    let row = registry.blocking(move |registry| Ok(rows::upload(&registry.db(), &asked)?)).await?;
    // Another's upload is as if it were not there.
    row.filter(|row| row.0 == name && row.1 == subject).ok_or_else(Refusal::upload_unknown)?;
    let known = || registry.uploads.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let open = known().get(id).cloned();
    let upload = match open {
        Some(upload) => upload,
        None => {
            let path = registry.upload_file(id);
            let mut file = File::options().read(true).write(true).open(&path).await.map_err(Error::disk(&path))?;
            let at = file.seek(SeekFrom::End(0)).await.map_err(Error::disk(&path))?;
            let (id, name) = (id.to_owned(), name.to_owned());
            let again = Upload { id: id.clone(), name, file, at, hash: None, over: false };
            // Somebody may have been quicker.
            known().entry(id).or_insert_with(|| Arc::new(Mutex::new(again))).clone()
        }
    };
    let upload = upload.lock_owned().await;
    if upload.over { Err(Refusal::upload_unknown()) } else { Ok(upload) }
}

/// Takes a piece. `announced` is its length, where the client says it.
///
/// What came of a piece that broke off is kept; what could not be written is not.
pub async fn append(
    registry: &Arc<Registry>,
    upload: &mut Upload,
    mut body: Body,
    announced: Option<u64>,
) -> Result<(), Refusal> {
    registry.has_room(announced.unwrap_or(0))?;
    let before = upload.at;
    let broken = loop {
        let frame = match tokio::time::timeout(SILENCE, body.frame()).await {
            Err(_) => break Some(Refusal::too_slow()),
            Ok(None) => break None,
            Ok(Some(Err(_))) => break Some(Refusal::upload_broken("the piece broke off; what came before is kept")),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        if let Err(refusal) = registry.take(data.len() as u64) {
            break Some(refusal);
        }
        upload.at += data.len() as u64;
        if let Some(hash) = &mut upload.hash {
            hash.update(&data);
        }
        if let Err(error) = upload.file.write_all(&data).await {
            return Err(undo(registry, upload, before, error).await);
        }
    };
    if let Err(error) = upload.file.flush().await {
        return Err(undo(registry, upload, before, error).await);
    }
    broken.map_or(Ok(()), Err)
}

/// Takes a piece back that could not be written.
async fn undo(registry: &Registry, upload: &mut Upload, before: u64, error: std::io::Error) -> Refusal {
    registry.give_back(upload.at - before);
    (upload.at, upload.hash) = (before, None);
    let path = registry.upload_file(&upload.id);
    // A file that cannot be cut is found out by its digest.
    let _ = upload.file.set_len(before).await;
    let _ = upload.file.seek(SeekFrom::Start(before)).await;
    Error::disk(path)(error).into()
}

/// Puts an upload in place if it has this digest; one that has another is removed.
pub async fn finish(
    registry: &Arc<Registry>,
    upload: &mut Upload,
    digest: &Digest,
    subject: &str,
    client: &str,
) -> Result<(), Refusal> {
    let from = registry.upload_file(&upload.id);
    upload.file.sync_all().await.map_err(Error::disk(&from))?;
    let is = match upload.hash.take() {
        Some(hash) => Digest::from_hash(hash.finish().as_ref()),
        None => read_through(&mut upload.file).await.map_err(Error::disk(&from))?,
    };
    if is != *digest {
        cancel(registry, upload).await?;
        return Err(Refusal::digest_differs(digest, &is));
    }
    let mut event = registry.event(subject, "blob.push", &format!("{}@{digest}", upload.name), Outcome::Ok, client);
    event.detail.insert("bytes".into(), upload.at.into());
    let (id, name, digest, size) = (upload.id.clone(), upload.name.clone(), digest.clone(), upload.at);
    let now = registry.clock.now_s();
    let _keep = registry.keeping.read().await;
    let placed = registry.blocking(move |registry| {
        let to = registry.blob_file(&digest);
        put_in_place(&from, &to)?;
        let mut db = registry.db();
        let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        rows::link(&transaction, &name, &digest, size, now)?;
        rows::remove_upload(&transaction, &id)?;
        registry.spool.append_blocking(event)?;
        transaction.commit()?;
        registry.give_back(size);
        registry.recount(&db)
    });
    placed.await?;
    forget(registry, upload);
    Ok(())
}

/// Moves a whole file to where it is read from, so that it is there after a power cut.
fn put_in_place(from: &std::path::Path, to: &std::path::Path) -> Result<(), Error> {
    let folder = to.parent().unwrap_or(to);
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(Error::disk(folder)(error)),
        Err(_) => {}
        Ok(()) => sync(folder.parent().unwrap_or(folder))?,
    }
    std::fs::rename(from, to).map_err(Error::disk(to))?;
    sync(folder)
}

fn sync(folder: &std::path::Path) -> Result<(), Error> {
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::disk(folder))
}

async fn read_through(file: &mut File) -> std::io::Result<Digest> {
    file.seek(SeekFrom::Start(0)).await?;
    let mut hash = Context::new(&SHA256);
    let mut piece = vec![0; 256 * 1024];
    loop {
        let read = file.read(&mut piece).await?;
        if read == 0 {
            return Ok(Digest::from_hash(hash.finish().as_ref()));
        }
        hash.update(&piece[..read]);
    }
}

/// Removes an upload.
pub async fn cancel(registry: &Arc<Registry>, upload: &mut Upload) -> Result<(), Refusal> {
    let id = upload.id.clone();
    registry
        .blocking(move |registry| {
            rows::remove_upload(&registry.db(), &id)?;
            let file = registry.upload_file(&id);
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::disk(&file)(error).into()),
                _ => Ok(()),
            }
        })
        .await?;
    registry.give_back(upload.at);
    forget(registry, upload);
    Ok(())
}

fn forget(registry: &Registry, upload: &mut Upload) {
    upload.over = true;
    registry.uploads.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&upload.id);
}

/// Puts a blob of `from` into `name` as well; whether it is there. The caller may read `from`.
pub async fn mount(
    registry: &Arc<Registry>,
    name: &str,
    from: &str,
    digest: &Digest,
    subject: &str,
    client: &str,
) -> Result<bool, Refusal> {
    let event = registry.event(subject, "blob.push", &format!("{name}@{digest}"), Outcome::Ok, client);
    let (name, from, digest, now) = (name.to_owned(), from.to_owned(), digest.clone(), registry.clock.now_s());
    let _keep = registry.keeping.read().await;
    registry
        .blocking(move |registry| {
            let mut db = registry.db();
            let Some(size) = rows::blob(&db, &from, &digest)? else { return Ok(false) };
            let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            rows::link(&transaction, &name, &digest, size, now)?;
            registry.spool.append_blocking(event)?;
            transaction.commit()?;
            Ok(true)
        })
        .await
}

/// The size of a blob, and its file where `open` asks for it.
pub async fn read(
    registry: &Arc<Registry>,
    name: &str,
    digest: &Digest,
    open: bool,
) -> Result<(u64, Option<File>), Refusal> {
    let (name, asked) = (name.to_owned(), digest.clone());
    // The size and the file together: it cannot be removed between the two.
    let found = registry.blocking(move |registry| {
        let db = registry.db();
        let Some(size) = rows::blob(&db, &name, &asked)? else { return Ok(None) };
        let path = registry.blob_file(&asked);
        let file = if open { Some(std::fs::File::open(&path).map_err(Error::disk(&path))?) } else { None };
        Ok(Some((size, file.map(File::from_std))))
    });
    found.await?.ok_or_else(|| Refusal::blob_unknown(digest))
}

/// Takes a blob out of a repository. One that a manifest there names stays.
pub async fn delete(
    registry: &Arc<Registry>,
    name: &str,
    digest: &Digest,
    subject: &str,
    client: &str,
) -> Result<(), Refusal> {
    let event = registry.event(subject, "blob.delete", &format!("{name}@{digest}"), Outcome::Ok, client);
    let (name, digest) = (name.to_owned(), digest.clone());
    let _alone = registry.keeping.write().await;
    registry
        .blocking(move |registry| {
            let mut db = registry.db();
            let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            if rows::is_named(&transaction, &name, &digest.to_string())? {
                return Err(Refusal::blob_in_use(&digest));
            }
            if !rows::unlink(&transaction, &name, &digest.to_string())? {
                return Err(Refusal::blob_unknown(&digest));
            }
            // The file goes with its last repository; `i64::MIN`: nothing else is let go here.
            let gone = rows::sweep_blobs(&transaction, i64::MIN)?;
            registry.spool.append_blocking(event)?;
            transaction.commit()?;
            crate::sweep::remove_files(registry, &gone);
            registry.recount(&db)
        })
        .await
}
