//! What a provider sent, judged before anybody sees it: a whole PNG of the wished size, marked with where it comes from.

use std::io::Cursor;

use aws_lc_rs::digest;

/// Bytes of an image at most.
pub const MOST: usize = 16 * 1024 * 1024;
const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    #[error("it is no PNG")]
    NoPng,
    #[error("it is a broken PNG")]
    Broken,
    #[error("it is {0}x{1}, {2}x{3} was asked for")]
    Size(u32, u32, u32, u32),
    #[error("it shows nothing: every pixel is the same")]
    Blank,
    #[error("it has more than 16 MiB")]
    Large,
}

/// Reads the whole image; it must have this size and show something.
///
/// # Errors
/// See [`ImageError`].
pub fn check(bytes: &[u8], (width, height): (u32, u32)) -> Result<(), ImageError> {
    if bytes.len() > MOST {
        return Err(ImageError::Large);
    }
    if !bytes.starts_with(SIGNATURE) {
        return Err(ImageError::NoPng);
    }
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    // A small file that unpacks to gigabytes must not be unpacked.
    decoder.set_limits(png::Limits { bytes: 64 * 1024 * 1024 });
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(|_| ImageError::Broken)?;
    let (w, h) = (reader.info().width, reader.info().height);
    if (w, h) != (width, height) {
        return Err(ImageError::Size(w, h, width, height));
    }
    let size = reader.output_buffer_size().ok_or(ImageError::Large)?;
    let mut pixels = vec![0; size];
    let frame = reader.next_frame(&mut pixels).map_err(|_| ImageError::Broken)?;
    reader.finish().map_err(|_| ImageError::Broken)?;
    let each = frame.color_type.samples();
    let first = pixels.get(..each).ok_or(ImageError::Broken)?.to_vec();
    if pixels.chunks_exact(each).all(|p| p == first) {
        return Err(ImageError::Blank);
    }
    Ok(())
}

/// Where an image comes from, as iTXt chunks after the header. `bytes` is an image that [`check`] accepted.
pub fn mark(bytes: &[u8], notes: &[(&str, &str)]) -> Vec<u8> {
    // Signature, then IHDR: 4 length, 4 name, 13 data, 4 checksum.
    let at = SIGNATURE.len() + 25;
    let mut marked = Vec::with_capacity(bytes.len() + 512);
    marked.extend_from_slice(&bytes[..at]);
    for (key, text) in notes {
        let mut data = key.as_bytes().to_vec();
        // No compression, no language, no translated key.
        data.extend_from_slice(&[0, 0, 0, 0, 0]);
        data.extend_from_slice(text.as_bytes());
        marked.extend_from_slice(&u32::try_from(data.len()).unwrap_or(0).to_be_bytes());
        let begin = marked.len();
        marked.extend_from_slice(b"iTXt");
        marked.extend_from_slice(&data);
        let sum = crc(&marked[begin..]);
        marked.extend_from_slice(&sum.to_be_bytes());
    }
    marked.extend_from_slice(&bytes[at..]);
    marked
}

/// CRC-32 as PNG has it, bit by bit: it runs over some hundred bytes.
fn crc(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

/// The name of an image: SHA-256 of its bytes, in hexadecimal.
pub fn hash(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA256, bytes).as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
    use super::*;
    use crate::render::render;

    #[test]
    fn a_rendered_image_is_accepted_and_stays_so_when_marked() {
        let png = render("a red boat", "vivid", (64, 96));
        assert_eq!(check(&png, (64, 96)), Ok(()));
        let marked = mark(&png, &[("Software", "DonatelloAI"), ("Comment", "nobody's model")]);
        assert_eq!(check(&marked, (64, 96)), Ok(()));
        let reader = png::Decoder::new(Cursor::new(&marked[..])).read_info().unwrap();
        assert_eq!(reader.info().utf8_text[1].get_text().unwrap(), "nobody's model");
        assert_ne!(hash(&png), hash(&marked));
    }

    #[test]
    fn what_is_no_image_of_that_size_is_refused() {
        let png = render("a red boat", "vivid", (64, 64));
        assert_eq!(check(b"<html>", (64, 64)), Err(ImageError::NoPng));
        assert_eq!(check(&png[..png.len() / 2], (64, 64)), Err(ImageError::Broken));
        assert_eq!(check(&png, (32, 64)), Err(ImageError::Size(64, 64, 32, 64)));
        let mut changed = png.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 0xff;
        assert_eq!(check(&changed, (64, 64)), Err(ImageError::Broken));
    }

    #[test]
    fn an_empty_canvas_is_refused() {
        assert_eq!(check(&crate::render::encode(&[7; 48 * 48 * 3], 48, 48), (48, 48)), Err(ImageError::Blank));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let with = [SIGNATURE, &bytes[..]].concat();
            proptest::prop_assert!(check(&with, (8, 8)).is_err());
        }
    }
}
