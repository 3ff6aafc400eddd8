//! What an HTTP/1 request stream may look like, byte for byte, before hyper sees it.
//!
//! hyper accepts some forms that other servers read differently (`Transfer-Encoding` beside `Content-Length`, repeated
//! lengths, bare LF, space around chunk sizes). Two readings of one stream are how requests are smuggled, so each form
//! that can be read in two ways is refused here. This is a pure state machine: it keeps no body and allocates only for a
//! line that arrives in pieces.

/// Why a stream was refused; the text goes into the log.
pub type Fault = &'static str;

/// The longest chunk-size line, extensions included.
const CHUNK_LINE: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first byte of a request line, or inside it.
    RequestLine,
    Fields,
    Body(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkCr,
    ChunkLf,
    Trailers,
}

/// The position in one connection's request stream.
pub struct Framing {
    state: State,
    /// The begin of a line whose end has not arrived.
    line: Vec<u8>,
    line_limit: usize,
    old_version: bool,
    length: Option<u64>,
    chunked: bool,
}

impl Framing {
    /// `line_limit` bounds one line, in bytes; hyper bounds the whole head (and answers 431), so it should be laxer.
    pub fn new(line_limit: usize) -> Self {
        Self {
            state: State::RequestLine,
            line: Vec::new(),
            line_limit,
            old_version: false,
            length: None,
            chunked: false,
        }
    }

    /// Whether the next byte begins a request.
    pub fn at_start(&self) -> bool {
        self.state == State::RequestLine && self.line.is_empty()
    }

    /// Whether a head has begun and not ended.
    pub fn in_head(&self) -> bool {
        match self.state {
            State::RequestLine => !self.line.is_empty(),
            State::Fields => true,
            _ => false,
        }
    }

    /// Whether the stream is inside a body.
    pub fn in_body(&self) -> bool {
        !matches!(self.state, State::RequestLine | State::Fields)
    }

    /// Takes the next bytes. On a fault, also says how many of `bytes` may still be passed on: those before the request
    /// at fault, or, if it began earlier, before the line at fault.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), (usize, Fault)> {
        let mut request = None;
        self.feed_from(bytes, &mut request).map_err(|(at, fault)| (request.unwrap_or(at), fault))
    }

    fn feed_from(&mut self, bytes: &[u8], request: &mut Option<usize>) -> Result<(), (usize, Fault)> {
        let mut at = 0;
        while at < bytes.len() {
            if self.at_start() {
                *request = Some(at);
            }
            let rest = &bytes[at..];
            match self.state {
                State::Body(left) => {
                    let taken = left.min(rest.len() as u64);
                    at += taken as usize;
                    self.state = if taken == left { State::RequestLine } else { State::Body(left - taken) };
                }
                State::ChunkData(left) => {
                    let taken = left.min(rest.len() as u64);
                    at += taken as usize;
                    self.state = if taken == left { State::ChunkCr } else { State::ChunkData(left - taken) };
                }
                State::ChunkCr => {
                    if rest[0] != b'\r' {
                        return Err((at, "chunk longer than its size"));
                    }
                    at += 1;
                    self.state = State::ChunkLf;
                }
                State::ChunkLf => {
                    if rest[0] != b'\n' {
                        return Err((at, "chunk does not end with CRLF"));
                    }
                    at += 1;
                    self.state = State::ChunkSize;
                }
                State::RequestLine | State::Fields | State::ChunkSize | State::Trailers => {
                    let Some(end) = rest.iter().position(|b| *b == b'\n') else {
                        let limit = if self.state == State::ChunkSize { CHUNK_LINE } else { self.line_limit };
                        if self.line.len() + rest.len() > limit {
                            return Err((at, "line too long"));
                        }
                        self.line.extend_from_slice(rest);
                        return Ok(());
                    };
                    let checked = if self.line.is_empty() {
                        self.line_done(&rest[..=end])
                    } else {
                        let mut line = std::mem::take(&mut self.line);
                        line.extend_from_slice(&rest[..=end]);
                        let checked = self.line_done(&line);
                        line.clear();
                        self.line = line;
                        checked
                    };
                    checked.map_err(|fault| (at, fault))?;
                    at += end + 1;
                }
            }
        }
        Ok(())
    }

    /// One whole line, with its end.
    fn line_done(&mut self, line: &[u8]) -> Result<(), Fault> {
        let Some(line) = line.strip_suffix(b"\r\n") else { return Err("bare LF") };
        match self.state {
            State::RequestLine => self.request_line(line),
            State::ChunkSize => {
                let size = chunk_size(line)?;
                self.state = if size == 0 { State::Trailers } else { State::ChunkData(size) };
                Ok(())
            }
            State::Trailers if line.is_empty() => {
                self.state = State::RequestLine;
                Ok(())
            }
            State::Trailers => {
                let (name, _) = field(line)?;
                if is_length(name) || is_encoding(name) || name.eq_ignore_ascii_case(b"host") {
                    return Err("framing field in trailers");
                }
                Ok(())
            }
            State::Fields if line.is_empty() => self.head_done(),
            _ => self.field_line(line),
        }
    }

    fn request_line(&mut self, line: &[u8]) -> Result<(), Fault> {
        let mut parts = line.split(|b| *b == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("request line is not method, target, version");
        };
        if method.is_empty() || method.len() > 32 || !method.iter().all(|b| is_token(*b)) {
            return Err("method is not a token");
        }
        if target.is_empty() || !target.iter().all(|b| (0x21..0x7f).contains(b) && *b != b'#' && *b != b'\\') {
            return Err("target has a character that must be encoded");
        }
        self.old_version = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            _ => return Err("version is neither HTTP/1.1 nor HTTP/1.0"),
        };
        self.length = None;
        self.chunked = false;
        self.state = State::Fields;
        Ok(())
    }

    fn field_line(&mut self, line: &[u8]) -> Result<(), Fault> {
        let (name, value) = field(line)?;
        if is_length(name) {
            if name.contains(&b'_') {
                return Err("a look-alike of Content-Length");
            }
            if self.length.is_some() {
                return Err("Content-Length twice");
            }
            // 18 digits are an exabyte less one; more would only test for overflows.
            if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
                return Err("Content-Length is not a number");
            }
            self.length = Some(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')));
        } else if is_encoding(name) {
            if name.contains(&b'_') {
                return Err("a look-alike of Transfer-Encoding");
            }
            if self.chunked {
                return Err("Transfer-Encoding twice");
            }
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err("Transfer-Encoding is not chunked");
            }
            self.chunked = true;
        }
        Ok(())
    }

    fn head_done(&mut self) -> Result<(), Fault> {
        self.state = match (self.chunked, self.length) {
            (true, Some(_)) => return Err("Content-Length beside Transfer-Encoding"),
            (true, None) if self.old_version => return Err("Transfer-Encoding in HTTP/1.0"),
            (true, None) => State::ChunkSize,
            (false, Some(length)) if length > 0 => State::Body(length),
            (false, _) => State::RequestLine,
        };
        Ok(())
    }
}

/// A field's name and its value without white space around it.
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err("folded field");
    }
    let Some(colon) = line.iter().position(|b| *b == b':') else { return Err("field without a colon") };
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty() || !name.iter().all(|b| is_token(*b)) {
        return Err("field name is not a token");
    }
    if value.iter().any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f) {
        return Err("control character in a field");
    }
    Ok((name, value.trim_ascii()))
}

fn chunk_size(line: &[u8]) -> Result<u64, Fault> {
    if line.len() > CHUNK_LINE {
        return Err("chunk size line too long");
    }
    let digits = line.iter().position(|b| !b.is_ascii_hexdigit()).unwrap_or(line.len());
    let (size, extension) = line.split_at(digits);
    if size.is_empty() || size.len() > 15 {
        return Err("chunk size is not a hexadecimal number");
    }
    if !extension.is_empty()
        && (extension[0] != b';' || extension.iter().any(|b| (*b < 0x20 && *b != b'\t') || *b >= 0x7f))
    {
        return Err("chunk size is followed by what is no extension");
    }
    Ok(size.iter().fold(0, |sum, digit| (sum << 4) | u64::from((*digit as char).to_digit(16).unwrap_or(0))))
}

/// Whether `name` is, or to a CGI-like server looks like, `Content-Length`.
fn is_length(name: &[u8]) -> bool {
    name.len() == 14 && looks_like(name, b"content-length")
}

fn is_encoding(name: &[u8]) -> bool {
    name.len() == 17 && looks_like(name, b"transfer-encoding")
}

fn looks_like(name: &[u8], wanted: &[u8]) -> bool {
    name.iter().zip(wanted).all(|(a, b)| a.eq_ignore_ascii_case(b) || (*a == b'_' && *b == b'-'))
}

/// RFC 9110 section 5.6.2.
pub fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(bytes: &[u8]) -> Result<bool, Fault> {
        let mut framing = Framing::new(8192);
        framing.feed(bytes).map_err(|(_, fault)| fault)?;
        Ok(framing.at_start())
    }

    #[test]
    fn requests_end_where_their_framing_says() {
        assert_eq!(all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), Ok(true));
        assert_eq!(all(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n"), Ok(true));
        assert_eq!(all(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab"), Ok(false));
        let chunked = b"POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nX-T: 1\r\n\r\n";
        assert_eq!(all(chunked), Ok(true));
    }

    #[test]
    fn a_fault_never_lets_the_end_of_its_line_through() {
        let bytes = b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length : 3\r\n\r\n";
        assert_eq!(Framing::new(8192).feed(bytes), Err((0, "field name is not a token")));
        let two = [&b"GET / HTTP/1.1\r\n\r\n"[..], bytes].concat();
        assert_eq!(Framing::new(8192).feed(&two), Err((18, "field name is not a token")));
        let mut framing = Framing::new(8192);
        assert_eq!(framing.feed(&bytes[..30]), Ok(()));
        assert_eq!(framing.feed(&bytes[30..]), Err((0, "field name is not a token")));
    }

    proptest! {
        #[test]
        fn pieces_and_the_whole_are_judged_alike(
            bytes in proptest::collection::vec(
                prop_oneof![
                    Just(b"GET / HTTP/1.1\r\n".to_vec()), Just(b"Content-Length: 2\r\n".to_vec()), Just(b"\r\n".to_vec()),
                    Just(b"Transfer-Encoding: chunked\r\n".to_vec()), Just(b"2\r\nab\r\n".to_vec()),
                    Just(b"0\r\n\r\n".to_vec()), Just(b"ab".to_vec()), Just(b"\n".to_vec()), Just(b"\r".to_vec()),
                    proptest::collection::vec(any::<u8>(), 0..6),
                ], 0..12),
            size in 1usize..9,
        ) {
            let bytes = bytes.concat();
            let whole = all(&bytes);
            let mut framing = Framing::new(8192);
            let pieces = bytes.chunks(size).try_for_each(|c| framing.feed(c)).map_err(|(_, f)| f);
            prop_assert_eq!(pieces.map(|()| framing.at_start()), whole);
        }
    }
}
