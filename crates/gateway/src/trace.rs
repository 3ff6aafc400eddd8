//! W3C trace context: a valid `traceparent` is continued, anything else gets a new trace.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ::http::HeaderValue;

/// The trace a request belongs to, as the `traceparent` that is forwarded: `00-TRACE-SPAN-FLAGS`.
#[derive(Clone)]
pub struct Trace {
    text: [u8; 55],
    /// The span of whoever asked, as hexadecimal digits.
    parent: Option<[u8; 16]>,
}

/// Random ids for one worker: seeded from the system's generator, then SplitMix64. Ids are to be unique, not secret.
pub struct Ids(AtomicU64);

impl Ids {
    /// Seeds from the operating system.
    pub fn new() -> Self {
        let mut seed = [0; 8];
        aws_lc_rs::rand::fill(&mut seed).expect("the operating system's random generator answers");
        Self(AtomicU64::new(u64::from_ne_bytes(seed)))
    }

    fn next(&self) -> u64 {
        let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // An id of zeros is invalid.
        (z ^ (z >> 31)) | 1
    }
}

impl Trace {
    /// Continues `received` with a span of our own, or begins a trace. The flag says which: whether it was continued.
    pub fn next(received: Option<&HeaderValue>, ids: &Ids) -> (Self, bool) {
        let valid = received.and_then(|value| valid(value.as_bytes()));
        let mut parent = None;
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
        match valid {
            Some(old) => {
                text.copy_from_slice(old);
                parent = old[36..52].try_into().ok();
            }
            None => {
                hex(&mut text[3..19], ids.next());
                hex(&mut text[19..35], ids.next());
            }
        }
        hex(&mut text[36..52], ids.next());
        (Self { text, parent }, valid.is_some())
    }

    /// The trace id: 32 hexadecimal digits.
    pub fn id(&self) -> &str {
        std::str::from_utf8(&self.text[3..35]).expect("only digits and dashes are in it")
    }

    /// The gateway's own span: 16 hexadecimal digits.
    pub fn span(&self) -> &str {
        std::str::from_utf8(&self.text[36..52]).expect("only digits and dashes are in it")
    }

    /// The span of whoever asked, if it was told: 16 hexadecimal digits.
    pub fn parent(&self) -> Option<&str> {
        self.parent.as_ref().and_then(|parent| std::str::from_utf8(parent).ok())
    }

    /// Whether spans of this trace are to be kept.
    pub fn is_sampled(&self) -> bool {
        // The lowest bit of the last digit.
        matches!(self.text[54], b'1' | b'3' | b'5' | b'7' | b'9' | b'b' | b'd' | b'f')
    }

    /// The header's value.
    pub fn header(&self) -> HeaderValue {
        HeaderValue::from_bytes(&self.text).expect("only digits and dashes are in it")
    }
}

fn hex(to: &mut [u8], value: u64) {
    for (index, digit) in to.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[((value >> (60 - 4 * index)) & 15) as usize];
    }
}

/// Version 00 only: a later one may mean something else by its parts.
fn valid(value: &[u8]) -> Option<&[u8]> {
    let known = value.get(..55)?;
    let digits = |range: std::ops::Range<usize>| known[range].iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let fits = value.len() == 55
        && &known[..3] == b"00-"
        && known[35] == b'-'
        && known[52] == b'-'
        && digits(3..35)
        && digits(36..52)
        && digits(53..55)
        && known[3..35].iter().any(|b| *b != b'0')
        && known[36..52].iter().any(|b| *b != b'0');
    fits.then_some(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_trace_is_continued_and_another_is_not() {
        let ids = Ids::new();
        let good = HeaderValue::from_static("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");
        let (trace, continued) = Trace::next(Some(&good), &ids);
        assert!(continued);
        assert_eq!(trace.id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(trace.header().to_str().unwrap().ends_with("-00"));
        assert_ne!(trace.header(), good);
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-x",
        ] {
            let (trace, continued) = Trace::next(Some(&HeaderValue::from_static(bad)), &ids);
            assert!(!continued, "{bad}");
            assert_ne!(trace.id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        }
        assert_ne!(Trace::next(None, &ids).0.id(), Trace::next(None, &ids).0.id());
    }
}
