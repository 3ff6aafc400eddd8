//! Sealed files: AES-256-GCM in chunks, so that a file of any size is written and read as a stream, and a changed, reordered,
//! cut or exchanged one is not read at all.
//!
//! A file is: a line that names the format; the length (4 bytes, little endian) and text of a JSON head, which is not secret
//! (what it is, when it was written); 32 random bytes; chunks of 256 KiB, each with its tag, the last marked as the last. Every
//! file has a key of its own, derived from the backup key, the random bytes and the whole head: a head cannot be changed, and a
//! file does not open in another one's place.

use std::io::{self, Read, Write};

use api::Secret;
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf, rand,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::Error;

const MAGIC: &[u8] = b"stampwright sealed 1\n";
const CHUNK: usize = 256 * 1024;
const TAG: usize = 16;
const SALT: usize = 32;
/// A head is a line of JSON.
const HEAD: usize = 4096;

/// What a sealed file is, for all to see.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// Its place in the repository, such as `wal/000000010000000000000001`.
    pub place: String,
    /// When it was stored, by the stamp's clock; milliseconds since the Unix epoch.
    pub stored_ms: i64,
    /// When what is in it was last written, by the server's clock.
    pub written_ms: i64,
}

/// The key of a repository.
#[derive(Clone)]
pub(crate) struct Key(Zeroizing<Vec<u8>>);

impl Key {
    /// From its text: 32 bytes in base64url.
    pub fn new(text: &Secret) -> Result<Self, Error> {
        let bytes = URL_SAFE_NO_PAD.decode(text.expose().trim()).unwrap_or_default();
        if bytes.len() != 32 {
            return Err(Error::Config("the backup key is not 32 bytes in base64url".into()));
        }
        Ok(Self(Zeroizing::new(bytes)))
    }

    fn of_file(&self, salt: &[u8], head: &[u8]) -> LessSafeKey {
        let mut bytes = Zeroizing::new([0u8; 32]);
        hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
            .extract(&self.0)
            .expand(&[b"stampwright sealed 1\n", head], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(bytes.as_mut()))
            .expect("HKDF-SHA-256 gives 32 bytes");
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, bytes.as_ref()).expect("32 bytes are an AES-256 key"))
    }
}

/// The number of a chunk, and whether it is the last; a key seals one file only, so that no nonce comes twice.
fn nonce(number: u64, last: bool) -> Nonce {
    let mut bytes = [0u8; NONCE_LEN];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes[NONCE_LEN - 1] = u8::from(last);
    Nonce::assume_unique_for_key(bytes)
}

/// Seals what is written to it. Without [`Sealer::finish`] the file has no last chunk and does not open.
pub(crate) struct Sealer<W: Write> {
    into: W,
    key: LessSafeKey,
    buffer: Vec<u8>,
    number: u64,
}

impl<W: Write> Sealer<W> {
    pub fn new(mut into: W, key: &Key, head: &Head) -> io::Result<Self> {
        let text = serde_json::to_vec(head)?;
        let mut salt = [0u8; SALT];
        rand::fill(&mut salt).map_err(|_| io::Error::other("no random bytes"))?;
        into.write_all(MAGIC)?;
        into.write_all(&u32::try_from(text.len()).map_err(io::Error::other)?.to_le_bytes())?;
        into.write_all(&text)?;
        into.write_all(&salt)?;
        Ok(Self { into, key: key.of_file(&salt, &text), buffer: Vec::with_capacity(CHUNK), number: 0 })
    }

    fn chunk(&mut self, last: bool) -> io::Result<()> {
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(self.number, last), Aad::empty(), &mut self.buffer)
            .map_err(|_| io::Error::other("a chunk could not be sealed"))?;
        self.into.write_all(&self.buffer)?;
        self.into.write_all(tag.as_ref())?;
        self.buffer.clear();
        self.number += 1;
        Ok(())
    }

    /// Writes the last chunk.
    pub fn finish(mut self) -> io::Result<W> {
        self.chunk(true)?;
        Ok(self.into)
    }
}

impl<W: Write> Write for Sealer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full chunk is written once more is known to follow: the last one is marked.
        if self.buffer.len() == CHUNK {
            self.chunk(false)?;
        }
        let taken = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens what [`Sealer`] wrote. A fault is told as [`io::ErrorKind::InvalidData`] before any byte of the chunk is given out,
/// and an end that is not the file's own is a fault.
pub(crate) struct Opener<R: Read> {
    from: R,
    key: LessSafeKey,
    /// The sealed chunk that comes next; empty after the last.
    next: Vec<u8>,
    plain: Vec<u8>,
    at: usize,
    number: u64,
}

fn changed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it was changed or cut short, or is sealed under another key")
}

/// Reads a head without opening the file.
pub(crate) fn head(from: &mut impl Read) -> io::Result<Head> {
    let text = head_text(from)?;
    serde_json::from_slice(&text).map_err(|_| changed())
}

fn head_text(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut magic = [0u8; MAGIC.len()];
    from.read_exact(&mut magic).map_err(cut)?;
    if magic != MAGIC {
        return Err(changed());
    }
    let mut length = [0u8; 4];
    from.read_exact(&mut length).map_err(cut)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > HEAD {
        return Err(changed());
    }
    let mut text = vec![0u8; length];
    from.read_exact(&mut text).map_err(cut)?;
    Ok(text)
}

fn cut(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof { changed() } else { error }
}

impl<R: Read> Opener<R> {
    /// Opens a file that is `place`.
    pub fn new(mut from: R, key: &Key, place: &str) -> io::Result<Self> {
        let text = head_text(&mut from)?;
        let head: Head = serde_json::from_slice(&text).map_err(|_| changed())?;
        if head.place != place {
            return Err(changed());
        }
        let mut salt = [0u8; SALT];
        from.read_exact(&mut salt).map_err(cut)?;
        let mut opener =
            Self { key: key.of_file(&salt, &text), next: Vec::new(), plain: Vec::new(), at: 0, number: 0, from };
        opener.next = opener.sealed()?;
        if opener.next.len() < TAG {
            return Err(changed());
        }
        Ok(opener)
    }

    /// The next sealed chunk; empty at the end of the file.
    fn sealed(&mut self) -> io::Result<Vec<u8>> {
        let mut chunk = Vec::with_capacity(CHUNK + TAG);
        (&mut self.from).take((CHUNK + TAG) as u64).read_to_end(&mut chunk)?;
        Ok(chunk)
    }
}

impl<R: Read> Read for Opener<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.plain.len() {
            if self.next.is_empty() {
                return Ok(0);
            }
            let after = self.sealed()?;
            let mut chunk = std::mem::replace(&mut self.next, after);
            let opened = self.key.open_in_place(nonce(self.number, self.next.is_empty()), Aad::empty(), &mut chunk);
            let length = opened.map_err(|_| changed())?.len();
            chunk.truncate(length);
            (self.plain, self.at) = (chunk, 0);
            self.number += 1;
        }
        let given = into.len().min(self.plain.len() - self.at);
        into[..given].copy_from_slice(&self.plain[self.at..self.at + given]);
        self.at += given;
        Ok(given)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sealed(key: &Key, place: &str, plain: &[u8]) -> Vec<u8> {
        let head = Head { place: place.into(), stored_ms: 7, written_ms: 6 };
        let mut sealer = Sealer::new(Vec::new(), key, &head).unwrap();
        sealer.write_all(plain).unwrap();
        sealer.finish().unwrap()
    }

    fn open(key: &Key, place: &str, sealed: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        Opener::new(sealed, key, place)?.read_to_end(&mut plain)?;
        Ok(plain)
    }

    fn key() -> Key {
        Key::new(&Secret::random()).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_whole_in_its_own_place_under_its_own_key_only() {
        let key = key();
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 5] {
            let plain: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            let file = sealed(&key, "wal/1", &plain);
            assert_eq!(open(&key, "wal/1", &file).unwrap(), plain, "{length}");
            assert!(open(&key, "wal/2", &file).is_err());
            assert!(open(&self::key(), "wal/1", &file).is_err());
            assert_eq!(head(&mut file.as_slice()).unwrap().stored_ms, 7);
        }
    }

    #[test]
    fn a_file_that_was_cut_or_whose_chunks_changed_places_does_not_open() {
        let key = key();
        let plain = vec![9u8; 3 * CHUNK];
        let file = sealed(&key, "base/x", &plain);
        let body = file.len() - 3 * (CHUNK + TAG);
        for kept in [0, 10, body, body + CHUNK + TAG, body + 2 * (CHUNK + TAG), file.len() - 1] {
            assert!(open(&key, "base/x", &file[..kept]).is_err(), "{kept} of {} bytes were enough", file.len());
        }
        let (one, two) = (CHUNK + TAG, 2 * (CHUNK + TAG));
        let mut exchanged = file.clone();
        exchanged[body..body + one].copy_from_slice(&file[body + one..body + two]);
        exchanged[body + one..body + two].copy_from_slice(&file[body..body + one]);
        assert!(open(&key, "base/x", &exchanged).is_err());
        let longer = [file.as_slice(), &[0u8; 40]].concat();
        assert!(open(&key, "base/x", &longer).is_err());
    }

    #[test]
    fn the_plain_text_and_equal_files_do_not_show() {
        let key = key();
        let (a, b) = (sealed(&key, "wal/1", b"hunter2 hunter2"), sealed(&key, "wal/1", b"hunter2 hunter2"));
        assert!(!a.windows(7).any(|w| w == b"hunter2"));
        assert_ne!(a, b);
    }

    proptest! {
        #[test]
        fn no_changed_byte_goes_unseen(length in 0usize..2000, at in 0usize..2200, by in 1u8..) {
            let key = key();
            let plain = vec![3u8; length];
            let mut file = sealed(&key, "wal/1", &plain);
            let at = at % file.len();
            file[at] ^= by;
            prop_assert!(open(&key, "wal/1", &file).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(open(&key(), "wal/1", &bytes).is_err());
            let with_magic = [MAGIC, bytes.as_slice()].concat();
            prop_assert!(open(&key(), "wal/1", &with_magic).is_err());
        }
    }
}
