//! A body on its way to the disk: in pieces of memory, counted and summed as it comes.

use std::{fs::File, io::Write as _, sync::Arc, time::Duration};

use axum::body::Body;
use bytes::BytesMut;
use http_body_util::BodyExt as _;

use crate::{
    Error,
    files::Files,
    refusal::Refusal,
    rows::Piece,
    sums::{Expected, Sums},
};

/// How long a client may send nothing in the middle of a body.
const SILENCE: Duration = Duration::from_secs(60);
/// What is gathered before it is written.
const GATHER: usize = 512 * 1024;

/// A body that has come, on disk. Unless it is kept, it is removed.
pub struct Upload {
    files: Arc<Files>,
    name: String,
    kept: bool,
    pub length: u64,
    pub md5: [u8; 16],
}

impl Upload {
    /// The piece that it is; None if it is empty.
    pub fn piece(&self, id: Option<String>) -> Option<Piece> {
        (self.length > 0).then(|| Piece { id, file: self.name.clone(), length: self.length })
    }

    /// The database knows it.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.kept {
            self.files.remove(std::slice::from_ref(&self.name));
        }
    }
}

/// Takes a body of at most `most` bytes. What breaks off, is too long or another than it says leaves nothing.
pub async fn receive(files: &Arc<Files>, mut body: Body, expected: &Expected, most: u64) -> Result<Upload, Refusal> {
    let mut upload = Upload { files: files.clone(), name: Files::name(), kept: false, length: 0, md5: [0; 16] };
    let mut sums = expected.sums();
    let mut gathered = BytesMut::new();
    let mut file: Option<File> = None;
    loop {
        let frame = match tokio::time::timeout(SILENCE, body.frame()).await {
            Err(_) => return Err(Refusal::too_slow()),
            Ok(None) => break,
            Ok(Some(Err(_))) => return Err(Refusal::broke_off()),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        upload.length += data.len() as u64;
        if upload.length > most {
            return Err(Refusal::too_large("this body", most));
        }
        gathered.extend_from_slice(&data);
        if gathered.len() >= GATHER {
            (file, sums) = write(files, &upload.name, file, sums, std::mem::take(&mut gathered), false).await?;
        }
    }
    if upload.length > 0 {
        (_, sums) = write(files, &upload.name, file, sums, gathered, true).await?;
    }
    upload.md5 = expected.check(sums)?;
    Ok(upload)
}

/// Writes what was gathered; at the `end` what is there lasts.
async fn write(
    files: &Arc<Files>,
    name: &str,
    file: Option<File>,
    mut sums: Sums,
    gathered: BytesMut,
    end: bool,
) -> Result<(Option<File>, Sums), Refusal> {
    let (files, name) = (files.clone(), name.to_owned());
    let done = tokio::task::spawn_blocking(move || -> Result<_, Error> {
        sums.update(&gathered);
        let mut file = match file {
            Some(file) => file,
            None => files.create(&name)?,
        };
        file.write_all(&gathered).map_err(Error::disk(files.path(&name)))?;
        if end {
            files.keep(&name, file)?;
            return Ok((None, sums));
        }
        Ok((Some(file), sums))
    });
    Ok(done.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?)
}
