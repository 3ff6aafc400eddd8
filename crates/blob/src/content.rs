//! Pieces as the body of an answer, read as they are sent.

use std::{
    io::{Read as _, Seek as _, SeekFrom},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use crate::{
    Error,
    files::{Files, Reading},
    rows::Piece,
};

/// What is read at once.
const CHUNK: usize = 256 * 1024;

/// A part of a blob as it lies on disk: of each file, where to begin and how much.
pub struct Source {
    parts: Vec<(String, u64, u64)>,
    length: u64,
    files: Arc<Files>,
    /// So long nobody removes them.
    _reading: Reading,
}

impl Source {
    /// `length` bytes from `first` on of what `pieces` make together. Called where nobody can remove them meanwhile.
    pub fn new(files: &Arc<Files>, pieces: &[Piece], first: u64, length: u64) -> Self {
        let (mut parts, mut at, end) = (Vec::new(), 0, first + length);
        for piece in pieces {
            let (from, to) = (at.max(first), (at + piece.length).min(end));
            if from < to {
                parts.push((piece.file.clone(), from - at, to - from));
            }
            at += piece.length;
        }
        let reading = files.reading(parts.iter().map(|(file, ..)| file.clone()).collect());
        Self { parts, length, files: files.clone(), _reading: reading }
    }

    /// All of it at once, for what is small. Blocks.
    pub fn whole(&self) -> Result<Bytes, Error> {
        let mut all = BytesMut::with_capacity(usize::try_from(self.length).unwrap_or(0));
        for (name, from, length) in &self.parts {
            let path = self.files.path(name);
            let mut file = open(&path, *from).map_err(Error::disk(&path))?;
            let before = all.len();
            all.resize(before + usize::try_from(*length).unwrap_or(0), 0);
            file.read_exact(&mut all[before..]).map_err(Error::disk(&path))?;
        }
        Ok(all.freeze())
    }

    /// The body. If a file does not hold what it should, it ends with an error, so that no client takes the beginning for the
    /// whole.
    pub fn body(self) -> Content {
        let left = self.length;
        // Two chunks ahead of the client, not more.
        let (sender, chunks) = mpsc::channel(2);
        tokio::spawn(async move {
            let mut source = self;
            let mut at = (0, None);
            loop {
                let read = tokio::task::spawn_blocking(move || {
                    let read = next(&source, &mut at);
                    (source, at, read)
                });
                let Ok((same, place, read)) = read.await else { return };
                (source, at) = (same, place);
                let read = match read {
                    Ok(None) => return,
                    Ok(Some(bytes)) => Ok(bytes),
                    Err(error) => {
                        tracing::error!(%error, "a piece of a blob cannot be read");
                        Err(error)
                    }
                };
                let failed = read.is_err();
                if sender.send(read).await.is_err() || failed {
                    return;
                }
            }
        });
        Content { chunks, left }
    }
}

/// The place in a source: the part, and its open file with what is left of it.
type Place = (usize, Option<(std::fs::File, u64)>);

fn next(source: &Source, at: &mut Place) -> std::io::Result<Option<Bytes>> {
    loop {
        let Some((name, from, length)) = source.parts.get(at.0) else { return Ok(None) };
        let (mut file, left) = match at.1.take() {
            Some(open) => open,
            None => (open(&source.files.path(name), *from)?, *length),
        };
        if left == 0 {
            at.0 += 1;
            continue;
        }
        let mut chunk = vec![0; CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
        file.read_exact(&mut chunk)?;
        at.1 = Some((file, left - chunk.len() as u64));
        return Ok(Some(chunk.into()));
    }
}

fn open(path: &std::path::Path, from: u64) -> std::io::Result<std::fs::File> {
    let mut file = std::fs::File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    Ok(file)
}

/// A body of known length.
pub struct Content {
    chunks: mpsc::Receiver<std::io::Result<Bytes>>,
    left: u64,
}

impl Body for Content {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.chunks.poll_recv(context).map(|chunk| {
            chunk.map(|chunk| {
                chunk.map(|bytes| {
                    self.left = self.left.saturating_sub(bytes.len() as u64);
                    Frame::data(bytes)
                })
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
