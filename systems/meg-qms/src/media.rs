//! Files that people send: what is taken, where it lies, and the signed addresses under which it is read.
//!
//! A file's address is its kind and the SHA-256 of its content, so a second copy is no second file and a changed file is another
//! one. Addresses alone open nothing: the media server asks for a signature that the pages give and that ends.

use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::digest;
use sdk::{Secret, Settings, SettingsError, seal::Sealer};

use crate::app::AppError;

/// Bytes of a photo, of a recording, of a document.
const PHOTO: usize = 8 << 20;
const AUDIO: usize = 16 << 20;
const DOCUMENT: usize = 16 << 20;
/// The most that any file may have.
pub const LARGEST: usize = 16 << 20;
/// How long a signed address opens its file. Addresses are rounded to it, so that a browser's cache helps.
const HOUR: u64 = 3600;

/// What is kept, by what it is for.
pub const KINDS: [&str; 6] = ["question-photos", "audit-photos", "audit-audio", "qip-photos", "qip-audio", "documents"];

type Begins = fn(&[u8]) -> bool;

/// Sorts of content: extension, type, and how its bytes begin.
const SORTS: [(&str, &str, Begins); 9] = [
    ("jpg", "image/jpeg", |b| b.starts_with(&[0xFF, 0xD8, 0xFF])),
    ("png", "image/png", |b| b.starts_with(b"\x89PNG\r\n\x1a\n")),
    ("webp", "image/webp", |b| b.starts_with(b"RIFF") && b.get(8..12) == Some(b"WEBP")),
    ("ogg", "audio/ogg", |b| b.starts_with(b"OggS")),
    ("mp3", "audio/mpeg", |b| b.starts_with(b"ID3") || (b.len() > 2 && b[0] == 0xFF && b[1] & 0xE6 == 0xE2)),
    ("m4a", "audio/mp4", |b| b.get(4..8) == Some(b"ftyp")),
    ("webm", "audio/webm", |b| b.starts_with(&[0x1A, 0x45, 0xDF, 0xA3])),
    ("wav", "audio/wav", |b| b.starts_with(b"RIFF") && b.get(8..12) == Some(b"WAVE")),
    ("pdf", "application/pdf", |b| b.starts_with(b"%PDF-")),
];

/// The type under which a file with this extension is served.
pub fn content_type(address: &str) -> Option<&'static str> {
    let (_, extension) = address.rsplit_once('.')?;
    SORTS.iter().find(|(e, ..)| *e == extension).map(|(_, kind, _)| *kind)
}

/// A file that was found good.
#[derive(Debug, PartialEq, Eq)]
pub struct Sorted {
    pub address: String,
    pub content_type: &'static str,
}

/// What a file is and where it would lie.
///
/// # Errors
/// A sentence for the person: too large, of another sort than it says, or of none that is taken for this kind.
pub fn sort(kind: &str, said: &str, bytes: &[u8]) -> Result<Sorted, String> {
    let kind =
        KINDS.iter().find(|k| **k == kind).ok_or_else(|| format!("The kind is one of: {}.", KINDS.join(", ")))?;
    let (family, most) = match *kind {
        "documents" => ("application/", DOCUMENT),
        "audit-audio" | "qip-audio" => ("audio/", AUDIO),
        _ => ("image/", PHOTO),
    };
    if bytes.is_empty() {
        return Err("The file is empty.".into());
    }
    if bytes.len() > most {
        return Err(format!("The file has more than {} MiB.", most >> 20));
    }
    let found = SORTS.iter().find(|(_, _, begins)| begins(bytes));
    let Some((extension, content_type, _)) = found.filter(|(_, t, _)| t.starts_with(family)) else {
        return Err(match family {
            "image/" => "A photo is a JPEG, PNG or WebP file.",
            "audio/" => "A recording is an Ogg, MP3, M4A, WebM or WAV file.",
            _ => "A document is a PDF file.",
        }
        .into());
    };
    let said = said.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    // Names that browsers and telephones use for the same things.
    let same = match said.as_str() {
        "audio/x-m4a" | "audio/m4a" | "audio/aac" => "audio/mp4",
        "audio/x-wav" | "audio/wave" => "audio/wav",
        "audio/mp3" => "audio/mpeg",
        "image/jpg" => "image/jpeg",
        other => other,
    };
    if same != *content_type {
        return Err(format!("The file says that it is {said}, but it is {content_type}."));
    }
    Ok(Sorted { address: format!("{kind}/{}.{extension}", sha256(bytes)), content_type })
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA256, bytes).as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// Whether a text is an address of ours: nothing else ever becomes a path.
pub fn is_address(text: &str) -> bool {
    let Some((kind, file)) = text.split_once('/') else { return false };
    let Some((hash, _)) = file.split_once('.') else { return false };
    let hex = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    KINDS.contains(&kind) && hex && file.len() <= 69 && content_type(file).is_some()
}

/// The share with the files, and the key of its addresses.
pub struct Shelf {
    folder: Option<PathBuf>,
    sealer: Option<Sealer>,
}

impl Shelf {
    /// Reads `MOUNT_MEDIA` and `MEDIA_KEY`. A process without them (a centre, a test) can neither keep nor sign.
    ///
    /// # Errors
    /// A variable is unusable.
    pub fn from_settings(settings: &Settings) -> Result<Shelf, AppError> {
        let sealer = match settings.optional("MEDIA_KEY")? {
            None => None,
            Some(key) => Some(Sealer::new(&Secret::new(key))?),
        };
        Ok(Shelf { folder: settings.optional("MOUNT_MEDIA")?.map(PathBuf::from), sealer })
    }

    /// As [`Shelf::from_settings`] for a process that is nothing without both.
    ///
    /// # Errors
    /// A variable is missing or unusable.
    pub fn required(settings: &Settings) -> Result<Shelf, AppError> {
        let missing = |name, holds| SettingsError::Missing { name, holds };
        let shelf = Shelf::from_settings(settings)?;
        if shelf.folder.is_none() {
            return Err(missing("MOUNT_MEDIA", "the folder of the share `media`").into());
        }
        if shelf.sealer.is_none() {
            return Err(missing("MEDIA_KEY", "at least 32 random characters, the same for cms and media").into());
        }
        Ok(shelf)
    }

    /// The path of a file.
    pub fn path(&self, address: &str) -> Option<PathBuf> {
        let folder = self.folder.as_ref()?;
        is_address(address).then(|| folder.join(address))
    }

    /// Keeps a file: whole and on the disk, or not at all. Again is fine.
    ///
    /// # Errors
    /// The share is not there, full or not ours to write.
    pub async fn keep(&self, address: &str, bytes: Vec<u8>) -> std::io::Result<()> {
        let path =
            self.path(address).ok_or_else(|| std::io::Error::other("there is no share for files (MOUNT_MEDIA)"))?;
        tokio::task::spawn_blocking(move || write(&path, &bytes)).await.map_err(std::io::Error::other)?
    }

    /// The address with its signature, as pages give it: it opens the file for one to two hours.
    pub fn signed(&self, address: &str) -> String {
        let until = (now() / HOUR + 2) * HOUR;
        let signature = self.signature(address, until).unwrap_or_default();
        format!("/media/{address}?until={until}&signature={signature}")
    }

    /// Whether a signature opens a file now.
    pub fn opens(&self, address: &str, until: u64, signature: &str) -> bool {
        let expected = self.signature(address, until);
        until > now() && expected.is_some_and(|e| Secret::new(e).matches(signature))
    }

    fn signature(&self, address: &str, until: u64) -> Option<String> {
        Some(self.sealer.as_ref()?.fingerprint("media", format!("{until} {address}").as_bytes()))
    }
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    if path.metadata().is_ok_and(|m| m.len() == bytes.len() as u64) {
        return Ok(());
    }
    let folder = path.parent().ok_or_else(|| std::io::Error::other("no folder"))?;
    std::fs::create_dir_all(folder)?;
    let part = folder.join(format!(".{}.part", uuid::Uuid::new_v4().simple()));
    let done = (|| {
        let mut file = std::fs::File::create_new(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&part, path)?;
        std::fs::File::open(folder)?.sync_all()
    })();
    if done.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    done
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\nrest";

    fn shelf(folder: &Path) -> Shelf {
        let settings = Settings::from_pairs([
            ("MOUNT_MEDIA", folder.to_str().unwrap()),
            ("MEDIA_KEY", "thirty-two characters for the media key"),
        ]);
        Shelf::required(&settings).unwrap()
    }

    #[test]
    fn content_is_what_its_bytes_are_and_fits_its_kind() {
        let sorted = sort("audit-photos", "image/png", PNG).unwrap();
        assert!(is_address(&sorted.address) && sorted.address.ends_with(".png"));
        assert!(sort("audit-photos", "image/jpeg", PNG).unwrap_err().contains("but it is image/png"));
        assert!(sort("qip-audio", "image/png", PNG).is_err(), "a photo is no recording");
        assert!(sort("audit-photos", "text/html", b"<html>").is_err());
        assert!(sort("elsewhere", "image/png", PNG).is_err());
        let large = [PNG, &vec![0; PHOTO][..]].concat();
        assert!(sort("audit-photos", "image/png", &large).unwrap_err().contains("8 MiB"));
    }

    #[test]
    fn only_our_addresses_become_paths() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = shelf(folder.path());
        let good = sort("documents", "application/pdf", b"%PDF-1.7").unwrap().address;
        assert!(shelf.path(&good).is_some());
        for bad in ["../secret", "documents/../../x.pdf", "/etc/passwd", "documents/x.pdf", "", "documents/"] {
            assert!(shelf.path(bad).is_none(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_kept_file_is_whole_and_opens_by_its_signature_alone() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = shelf(folder.path());
        let address = sort("audit-photos", "image/png", PNG).unwrap().address;
        shelf.keep(&address, PNG.to_vec()).await.unwrap();
        shelf.keep(&address, PNG.to_vec()).await.unwrap();
        assert_eq!(std::fs::read(shelf.path(&address).unwrap()).unwrap(), PNG);
        let signed = shelf.signed(&address);
        let (_, query) = signed.split_once('?').unwrap();
        let until: u64 = query.split_once("until=").unwrap().1.split('&').next().unwrap().parse().unwrap();
        let signature = query.split_once("signature=").unwrap().1;
        assert!(shelf.opens(&address, until, signature));
        assert!(!shelf.opens(&address, until + 1, signature) && !shelf.opens(&address, 1, signature));
        let other = sort("audit-photos", "image/png", b"\x89PNG\r\n\x1a\nother").unwrap().address;
        assert!(!shelf.opens(&other, until, signature));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_break_the_sorting(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..40), text in "\\PC{0,30}") {
            let _ = (sort("audit-photos", &text, &bytes), is_address(&text));
        }
    }
}
