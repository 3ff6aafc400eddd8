//! W3C trace context: whose request this is, over process borders.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use http::HeaderValue;

/// The trace that a request belongs to, as in the `traceparent` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    pub trace: [u8; 16],
    /// The caller's span; zero for the first of a trace.
    pub parent: [u8; 8],
}

impl TraceContext {
    /// A new trace.
    pub fn fresh() -> TraceContext {
        TraceContext { trace: random(), parent: [0; 8] }
    }

    /// Reads `00-TRACE-SPAN-FLAGS`; None for what the standard calls invalid.
    pub fn parse(text: &str) -> Option<TraceContext> {
        let mut parts = text.split('-');
        let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let lower = |t: &str| t.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if version.len() != 2
            || version == "ff"
            || flags.len() != 2
            || ![version, trace, parent, flags].into_iter().all(lower)
        {
            return None;
        }
        if version == "00" && parts.next().is_some() {
            return None;
        }
        let context = TraceContext { trace: unhex(trace)?, parent: unhex(parent)? };
        (context.trace != [0; 16] && context.parent != [0; 8]).then_some(context)
    }

    /// The value of a `traceparent` header.
    pub fn header(&self) -> String {
        format!("00-{}-{}-01", hex(&self.trace), hex(&self.parent))
    }
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0_u8; N];
    // Without random numbers a trace is not told from another; nothing worse.
    let _ = SystemRandom::new().fill(&mut bytes);
    bytes
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(super) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0_u8; N];
    if text.len() != N * 2 || !text.is_ascii() {
        return None;
    }
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// The `traceparent` of the current span, for an outgoing call. None outside a span that is sent.
pub fn traceparent() -> Option<HeaderValue> {
    let context = super::layer::current_context()?;
    HeaderValue::from_str(&context.header()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_and_written_alike() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(TraceContext::parse(text).unwrap().header(), text);
    }

    #[test]
    fn what_the_standard_calls_invalid_is_refused() {
        for bad in [
            "",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        ] {
            assert_eq!(TraceContext::parse(bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn reading_arbitrary_text_never_panics(text in "\\PC{0,80}") {
            let _ = TraceContext::parse(&text);
        }
    }
}
