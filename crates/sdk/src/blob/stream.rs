//! Large blobs, in pieces.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::Body;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, Method};
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use tokio::sync::mpsc;

use super::{BlobError, Container, PIECE, Properties, Put, Written, written};

/// A blob that is read piece by piece, the same version of it from end to end.
pub struct Download {
    container: Container,
    blob: String,
    properties: Properties,
    at: u64,
    first: Option<Bytes>,
}

impl Container {
    /// Puts a blob as it comes. Nothing is seen of it before all of it came; what breaks off leaves nothing.
    ///
    /// # Errors
    /// [`BlobError::Source`] if `body` broke off; see [`BlobError`].
    pub async fn upload(&self, blob: &str, mut body: Body, put: &Put) -> Result<Written, BlobError> {
        // Blocks of uploads that run side by side do not mix.
        let upload = uuid::Uuid::new_v4().simple().to_string();
        let (mut piece, mut ids) = (BytesMut::new(), Vec::new());
        let what = self.what("the upload of", blob);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| BlobError::Source(error.into()))?;
            let Ok(data) = frame.into_data() else { continue };
            piece.extend_from_slice(&data);
            while piece.len() > PIECE {
                ids.push(self.block(&what, blob, &upload, ids.len(), piece.split_to(PIECE).freeze()).await?);
            }
        }
        if ids.is_empty() {
            return self.put(blob, piece.freeze(), put).await;
        }
        ids.push(self.block(&what, blob, &upload, ids.len(), piece.freeze()).await?);
        let list: String = ids.iter().map(|id| format!("<Uncommitted>{id}</Uncommitted>")).collect();
        let list = format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{list}</BlockList>");
        let (head, url) = (self.head_of(put)?, self.url(blob, &[("comp", "blocklist")]));
        let answer = self.account.send(&what, Method::PUT, &url, head, list.into()).await?;
        Ok(written(&answer.headers))
    }

    async fn block(&self, what: &str, blob: &str, upload: &str, n: usize, piece: Bytes) -> Result<String, BlobError> {
        let id = STANDARD.encode(format!("{upload}-{n:06}"));
        let url = self.url(blob, &[("comp", "block"), ("blockid", &id)]);
        self.account.send(what, Method::PUT, &url, HeaderMap::new(), piece).await?;
        Ok(id)
    }

    /// A blob to be read piece by piece. The first piece comes with it.
    ///
    /// # Errors
    /// See [`BlobError`].
    pub async fn download(&self, blob: &str) -> Result<Download, BlobError> {
        let (properties, first) = match self.piece(blob, 0, PIECE, None).await {
            // Of an empty blob there is no first byte.
            Err(BlobError::Refused { status: 416, .. }) => (self.head(blob).await?, Bytes::new()),
            done => done?,
        };
        let first = Some(first).filter(|piece| !piece.is_empty());
        Ok(Download { container: self.clone(), blob: blob.to_owned(), properties, at: 0, first })
    }

    /// Gives a blob other metadata; the rest stays.
    ///
    /// # Errors
    /// See [`BlobError`].
    pub async fn set_metadata(
        &self,
        blob: &str,
        metadata: &std::collections::BTreeMap<String, String>,
    ) -> Result<(), BlobError> {
        let what = self.what("the metadata of", blob);
        let mut head = self.head_of(&Put { metadata: metadata.clone(), ..Put::default() })?;
        head.remove(HeaderName::from_static("x-ms-blob-content-type"));
        let url = self.url(blob, &[("comp", "metadata")]);
        self.account.send(&what, Method::PUT, &url, head, Bytes::new()).await?;
        Ok(())
    }
}

impl Download {
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// The next piece; None at the end.
    ///
    /// # Errors
    /// [`BlobError::is_changed`] if somebody put another since; see [`BlobError`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        let piece = match self.first.take() {
            Some(piece) => piece,
            None if self.at >= self.properties.length => return Ok(None),
            None => {
                let etag = Some(self.properties.etag.as_str());
                self.container.piece(&self.blob, self.at, PIECE, etag).await?.1
            }
        };
        if piece.is_empty() {
            let what = self.container.what("the get of", &self.blob);
            return Err(BlobError::Answer { what, why: "a piece that is empty" });
        }
        self.at += piece.len() as u64;
        Ok(Some(piece))
    }

    /// The body of an answer to somebody. It breaks off, so that nobody takes the beginning for the whole, where a piece
    /// cannot be had.
    pub fn into_body(mut self) -> Body {
        let (sender, pieces) = mpsc::channel(1);
        let left = self.properties.length;
        tokio::spawn(async move {
            loop {
                let next = match self.next().await {
                    Ok(None) => return,
                    Ok(Some(piece)) => Ok(piece),
                    Err(error) => Err(error),
                };
                let failed = next.is_err();
                if sender.send(next).await.is_err() || failed {
                    return;
                }
            }
        });
        Body::new(Pieces { pieces, left })
    }
}

struct Pieces {
    pieces: mpsc::Receiver<Result<Bytes, BlobError>>,
    left: u64,
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = BlobError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BlobError>>> {
        self.pieces.poll_recv(context).map(|piece| {
            let piece = piece?;
            if let Ok(bytes) = &piece {
                self.left = self.left.saturating_sub(bytes.len() as u64);
            }
            Some(piece.map(Frame::data))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::SizeHint::with_exact(self.left)
    }
}
