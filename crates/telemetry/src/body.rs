//! Bounded unpacking of request bodies.

use std::io::Read as _;

/// Why a body could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("the body is not gzip")]
    Gzip(#[source] std::io::Error),
    #[error("the body is larger than {0} bytes once unpacked")]
    TooLarge(usize),
}

/// Unpacks gzip to at most `limit` bytes. A body that packs gigabytes costs no more than `limit` bytes of output.
pub fn unpack(packed: &[u8], limit: usize) -> Result<Vec<u8>, UnpackError> {
    let mut whole = Vec::new();
    let mut reader = flate2::read::MultiGzDecoder::new(packed).take(limit as u64 + 1);
    reader.read_to_end(&mut whole).map_err(UnpackError::Gzip)?;
    if whole.len() > limit {
        return Err(UnpackError::TooLarge(limit));
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn pack(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_body_is_unpacked_up_to_its_limit_and_no_further() {
        let packed = pack(&[b'x'; 1000]);
        assert_eq!(unpack(&packed, 1000).unwrap().len(), 1000);
        assert!(matches!(unpack(&packed, 999), Err(UnpackError::TooLarge(999))));
        assert!(matches!(unpack(b"no gzip", 1000), Err(UnpackError::Gzip(_))));
        assert!(matches!(unpack(&packed[..packed.len() - 9], 1000), Err(UnpackError::Gzip(_))));
    }
}
