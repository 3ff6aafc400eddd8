//! Reads the tar stream of a base backup: folders and files, as PostgreSQL's server writes them (ustar). Anything else is
//! refused by name, so that nothing is left out unseen.

use std::{
    io::{self, Read},
    path::{Component, Path, PathBuf},
};

const BLOCK: usize = 512;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Folder(PathBuf),
    /// With its length in bytes; the content is read from the archive next.
    File(PathBuf, u64),
}

/// A tar stream. Between two calls of [`Archive::next`] exactly the content of the file is read.
pub(crate) struct Archive<R: Read> {
    from: R,
    /// What is left to read of the file that was given last, and the fill behind it.
    left: u64,
    fill: u64,
}

fn wrong(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

impl<R: Read> Archive<R> {
    pub fn new(from: R) -> Self {
        Self { from, left: 0, fill: 0 }
    }

    /// The next entry; None at the end of the archive.
    pub fn next(&mut self) -> io::Result<Option<Entry>> {
        let rest = self.left + self.fill;
        (self.left, self.fill) = (0, 0);
        if io::copy(&mut (&mut self.from).take(rest), &mut io::sink())? != rest {
            return Err(wrong("the archive ends within a file"));
        }
        let mut block = [0u8; BLOCK];
        self.from.read_exact(&mut block)?;
        if block.iter().all(|b| *b == 0) {
            // Read to its true end: only then is the last sealed chunk known to be the last.
            io::copy(&mut self.from, &mut io::sink())?;
            return Ok(None);
        }
        let sum: u32 =
            block.iter().enumerate().map(|(at, b)| if (148..156).contains(&at) { 32 } else { u32::from(*b) }).sum();
        if octal(&block[148..156]) != Some(u64::from(sum)) {
            return Err(wrong("a block of the archive is changed"));
        }
        let name = text(&block[..100])?;
        let prefix = if &block[257..262] == b"ustar" { text(&block[345..500])? } else { String::new() };
        let path = if prefix.is_empty() { PathBuf::from(&name) } else { Path::new(&prefix).join(&name) };
        let inside = path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if !inside || name.is_empty() {
            return Err(wrong(format!("the archive holds {}, which leads out of it", path.display())));
        }
        let size = octal(&block[124..136]).ok_or_else(|| wrong("a size in the archive is not understood"))?;
        match block[156] {
            b'0' | 0 => {
                self.left = size;
                self.fill = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
                Ok(Some(Entry::File(path, size)))
            }
            b'5' => Ok(Some(Entry::Folder(path))),
            kind => Err(wrong(format!(
                "the archive holds {} of kind '{}'; tablespaces are not kept",
                path.display(),
                kind as char
            ))),
        }
    }
}

impl<R: Read> Read for Archive<R> {
    /// Reads the content of the file that was given last.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = (&mut self.from).take(self.left).read(into)?;
        self.left -= read as u64;
        if read == 0 && self.left > 0 && !into.is_empty() {
            return Err(wrong("the archive ends within a file"));
        }
        Ok(read)
    }
}

fn text(field: &[u8]) -> io::Result<String> {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    String::from_utf8(field[..end].to_vec()).map_err(|_| wrong("a name in the archive is not UTF-8"))
}

/// A number: octal digits, or bytes where the first has its high bit set.
fn octal(field: &[u8]) -> Option<u64> {
    if field.first()? & 0x80 != 0 {
        let (rest, low) = field.split_at(field.len().checked_sub(8)?);
        (rest.iter().skip(1).all(|b| *b == 0)).then(|| low.try_into().ok().map(u64::from_be_bytes)).flatten()
    } else {
        let digits = field.iter().map(|b| *b as char).collect::<String>();
        u64::from_str_radix(digits.trim_matches(['\0', ' ']), 8).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(name: &str, kind: u8, size: u64) -> Vec<u8> {
        let mut block = vec![0u8; BLOCK];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[124..136].copy_from_slice(format!("{size:011o} ").as_bytes());
        block[156] = kind;
        block[257..262].copy_from_slice(b"ustar");
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum::<u32>() + 8 * 32;
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }

    fn archive() -> Vec<u8> {
        let mut bytes = block("base/1", b'5', 0);
        bytes.extend(block("base/1/112", b'0', 700));
        bytes.extend([7u8; 700]);
        bytes.extend([0u8; 324]);
        bytes.extend(block("PG_VERSION", b'0', 3));
        bytes.extend(b"16\n");
        bytes.extend([0u8; 509]);
        bytes.extend([0u8; 1024]);
        bytes
    }

    #[test]
    fn folders_and_files_come_as_they_were_written() {
        let bytes = archive();
        let mut tar = Archive::new(bytes.as_slice());
        assert_eq!(tar.next().unwrap(), Some(Entry::Folder("base/1".into())));
        assert_eq!(tar.next().unwrap(), Some(Entry::File("base/1/112".into(), 700)));
        // Whoever does not read a file passes it by.
        assert_eq!(tar.next().unwrap(), Some(Entry::File("PG_VERSION".into(), 3)));
        let mut text = String::new();
        tar.read_to_string(&mut text).unwrap();
        assert_eq!(text, "16\n");
        assert_eq!(tar.next().unwrap(), None);
    }

    #[test]
    fn what_leads_out_or_is_no_file_is_refused() {
        for bad in [block("../x", b'0', 0), block("/etc/passwd", b'0', 0), block("pg_tblspc/1", b'2', 0)] {
            assert!(Archive::new(bad.as_slice()).next().is_err());
        }
        let bytes = archive();
        let mut cut = Archive::new(&bytes[..1200]);
        cut.next().unwrap();
        cut.next().unwrap();
        assert!(cut.next().is_err(), "an archive that ends within a file is no archive");
    }

    proptest! {
        #[test]
        fn no_block_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 512..600)) {
            let _ = Archive::new(bytes.as_slice()).next();
        }
    }
}
