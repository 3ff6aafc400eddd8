//! The checksums that clients send with a body: MD5, and Azure's CRC-64.

use axum::http::HeaderMap;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use md5::{Digest as _, Md5};

use crate::{fields, refusal::Refusal};

/// The polynomial of Azure's CRC-64 (NVME's), reflected.
const POLYNOMIAL: u64 = 0x9A6C_9329_AC4B_C9B5;

/// Eight tables, so that eight bytes are taken at once.
const TABLES: [[u64; 256]; 8] = {
    let mut tables = [[0; 256]; 8];
    let mut n = 0;
    while n < 256 {
        let mut value = n as u64;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ POLYNOMIAL } else { value >> 1 };
            bit += 1;
        }
        tables[0][n] = value;
        n += 1;
    }
    let mut t = 1;
    while t < 8 {
        let mut n = 0;
        while n < 256 {
            let before: u64 = tables[t - 1][n];
            tables[t][n] = (before >> 8) ^ tables[0][(before & 0xFF) as usize];
            n += 1;
        }
        t += 1;
    }
    tables
};

/// CRC-64, as it goes.
#[derive(Clone, Copy)]
pub struct Crc64(u64);

impl Crc64 {
    pub const fn new() -> Self {
        Self(!0)
    }

    pub fn update(&mut self, bytes: &[u8]) {
        let mut crc = self.0;
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            let word = crc ^ u64::from_le_bytes(chunk.try_into().expect("a chunk has eight bytes"));
            crc = 0;
            for (n, table) in TABLES.iter().rev().enumerate() {
                crc ^= table[(word >> (8 * n) & 0xFF) as usize];
            }
        }
        for byte in chunks.remainder() {
            crc = (crc >> 8) ^ TABLES[0][((crc ^ u64::from(*byte)) & 0xFF) as usize];
        }
        self.0 = crc;
    }

    pub const fn sum(self) -> u64 {
        !self.0
    }
}

/// What a client says about the body it sends.
#[derive(Clone, Default)]
pub struct Expected {
    md5: Option<Vec<u8>>,
    crc64: Option<u64>,
}

impl Expected {
    pub fn read(headers: &HeaderMap) -> Result<Self, Refusal> {
        let decoded = |name: &'static str, length: usize| -> Result<Option<Vec<u8>>, Refusal> {
            let Some(text) = fields::text(headers, name)? else { return Ok(None) };
            let bytes = STANDARD.decode(text).ok().filter(|bytes| bytes.len() == length);
            let wrong = || Refusal::header(name, format_args!("it is base64 of {length} bytes"));
            bytes.map(Some).ok_or_else(wrong)
        };
        let crc64 = decoded("x-ms-content-crc64", 8)?;
        let crc64 = crc64.and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?)));
        Ok(Self { md5: decoded("content-md5", 16)?, crc64 })
    }

    /// What has to be reckoned for this body.
    pub fn sums(&self) -> Sums {
        Sums { md5: Md5::new(), crc64: self.crc64.map(|_| Crc64::new()) }
    }

    /// Refuses a body that is another than the client says. The MD5 of the body.
    pub fn check(&self, sums: Sums) -> Result<[u8; 16], Refusal> {
        let md5: [u8; 16] = sums.md5.finalize().into();
        if self.md5.as_ref().is_some_and(|said| *said != md5) {
            return Err(Refusal::bad("Md5Mismatch", "the body has another MD5 than `Content-MD5` says"));
        }
        if self.crc64.is_some() && self.crc64 != sums.crc64.map(Crc64::sum) {
            return Err(Refusal::bad("Crc64Mismatch", "the body has another CRC-64 than `x-ms-content-crc64` says"));
        }
        Ok(md5)
    }

    /// The CRC-64 that was sent, and was right.
    pub fn crc64(&self) -> Option<String> {
        self.crc64.map(|sum| STANDARD.encode(sum.to_le_bytes()))
    }
}

/// Sums of what has come.
#[derive(Clone)]
pub struct Sums {
    md5: Md5,
    crc64: Option<Crc64>,
}

impl Sums {
    pub fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        if let Some(crc64) = &mut self.crc64 {
            crc64.update(bytes);
        }
    }
}

/// The MD5 of a part of a blob.
pub fn md5(bytes: &[u8]) -> [u8; 16] {
    Md5::digest(bytes).into()
}

pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crc64(bytes: &[u8]) -> u64 {
        let mut crc = Crc64::new();
        crc.update(bytes);
        crc.sum()
    }

    #[test]
    fn the_check_value_of_crc_64_nvme() {
        assert_eq!(crc64(b"123456789"), 0xAE8B_1486_0A79_9888);
        assert_eq!(crc64(b""), 0);
    }

    proptest::proptest! {
        #[test]
        fn pieces_have_the_sum_of_the_whole(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..100), at in 0_usize..100) {
            let at = at.min(bytes.len());
            let mut crc = Crc64::new();
            crc.update(&bytes[..at]);
            crc.update(&bytes[at..]);
            assert_eq!(crc.sum(), crc64(&bytes));
        }
    }
}
