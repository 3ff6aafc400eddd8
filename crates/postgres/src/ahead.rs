//! Reading ahead: a thread opens and unpacks what another thread compares and writes, so that a restore uses two cores.

use std::{
    io::{self, Read},
    sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    thread,
};

/// What is handed over at a time, bytes.
const BLOCK: usize = 1 << 18;
/// How much is read before somebody takes it, bytes: it hides the pauses of either side.
pub(crate) const PAUSES: usize = 16 * BLOCK;

/// The bytes of a reader that runs in a thread of its own. Dropped before the end, it ends that thread.
pub(crate) struct Ahead {
    /// An empty block is the end; a channel that closes without one is a fault.
    filled: Receiver<io::Result<Vec<u8>>>,
    emptied: Sender<Vec<u8>>,
    block: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Ahead {
    /// Reads up to `most` bytes (256 KiB at least) before they are asked for.
    pub fn new(from: impl Read + Send + 'static, most: usize) -> io::Result<Self> {
        let (give, filled) = sync_channel((most / BLOCK).max(1));
        let (emptied, take) = channel();
        thread::Builder::new().name("read-ahead".into()).spawn(move || fill(from, &give, &take))?;
        Ok(Self { filled, emptied, block: Vec::new(), at: 0, ended: false })
    }
}

fn fill(mut from: impl Read, give: &SyncSender<io::Result<Vec<u8>>>, take: &Receiver<Vec<u8>>) {
    loop {
        let mut block = take.try_recv().unwrap_or_default();
        block.clear();
        let read = (&mut from).take(BLOCK as u64).read_to_end(&mut block);
        let over = !matches!(read, Ok(1..));
        // Nobody takes it any more: the other side has seen enough.
        if give.send(read.map(|_| block)).is_err() || over {
            return;
        }
    }
}

impl Read for Ahead {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.block.len() && !self.ended {
            let block = self.filled.recv().map_err(|_| io::Error::other("the thread that reads ahead ended"))??;
            self.ended = block.is_empty();
            let _ = self.emptied.send(std::mem::replace(&mut self.block, block));
            self.at = 0;
        }
        let given = into.len().min(self.block.len() - self.at);
        into[..given].copy_from_slice(&self.block[self.at..self.at + given]);
        self.at += given;
        Ok(given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_in_order_and_then_the_end() {
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, PAUSES + 3 * BLOCK + 7] {
            let bytes: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            let mut read = Vec::new();
            let mut ahead = Ahead::new(io::Cursor::new(bytes.clone()), PAUSES).unwrap();
            ahead.read_to_end(&mut read).unwrap();
            assert!(read == bytes, "{length}");
            assert_eq!(ahead.read(&mut [0; 8]).unwrap(), 0, "after the end there is nothing");
        }
    }

    struct Breaks(usize);

    impl Read for Breaks {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let left = self.0.min(into.len());
            self.0 -= left;
            if left == 0 { Err(io::Error::new(io::ErrorKind::InvalidData, "changed")) } else { Ok(left) }
        }
    }

    #[test]
    fn a_fault_comes_as_it_was_told_and_is_no_end() {
        let error = Ahead::new(Breaks(3 * BLOCK), PAUSES).unwrap().read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!((error.kind(), error.to_string()), (io::ErrorKind::InvalidData, "changed".to_owned()));
    }

    struct Tells(std::sync::mpsc::Sender<()>);

    impl Read for Tells {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            Ok(into.len())
        }
    }

    impl Drop for Tells {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }

    #[test]
    fn who_has_seen_enough_ends_the_thread() {
        let (ended, tells) = channel();
        let mut ahead = Ahead::new(Tells(ended), PAUSES).unwrap();
        ahead.read_exact(&mut [0; 100]).unwrap();
        drop(ahead);
        tells.recv().unwrap();
    }
}
