//! A file as the body of an answer, read as it is sent.

use std::{
    io::SeekFrom,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncSeekExt as _},
    sync::mpsc,
};

/// What is read at once.
const PIECE: usize = 128 * 1024;

/// `length` bytes of a file.
pub struct Content {
    pieces: mpsc::Receiver<std::io::Result<Bytes>>,
    left: u64,
}

impl Content {
    /// From `first` on. The file must hold that much; if it does not, the body ends with an error, so that no client takes
    /// the beginning for the whole.
    pub async fn of(mut file: File, first: u64, length: u64) -> std::io::Result<Self> {
        file.seek(SeekFrom::Start(first)).await?;
        // Two pieces ahead of the client, not more.
        let (sender, pieces) = mpsc::channel(2);
        tokio::spawn(async move {
            let mut left = length;
            while left > 0 {
                let mut piece = BytesMut::with_capacity(PIECE.min(usize::try_from(left).unwrap_or(PIECE)));
                let read = (&mut file).take(left).read_buf(&mut piece).await;
                let read = match read {
                    Ok(0) => Err(std::io::ErrorKind::UnexpectedEof.into()),
                    Ok(count) => {
                        left -= count as u64;
                        Ok(piece.freeze())
                    }
                    Err(error) => Err(error),
                };
                let failed = read.is_err();
                if sender.send(read).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(Self { pieces, left: length })
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.pieces.poll_recv(context).map(|piece| {
            piece.map(|piece| {
                piece.map(|bytes| {
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
