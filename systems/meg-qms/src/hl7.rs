//! HL7 version 2: frames (MLLP), messages, and their acknowledgements. Only what a formulary needs.

/// What begins and ends a message on the wire.
pub const BEGIN: u8 = 0x0B;
pub const END: [u8; 2] = [0x1C, 0x0D];
/// Bytes of a message at most.
pub const LARGEST: usize = 256 * 1024;

/// One frame out of what was received, and how many bytes it took; None while it is not whole.
///
/// # Errors
/// What was received cannot become a frame.
pub fn frame(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, &'static str> {
    match bytes.first() {
        None => return Ok(None),
        Some(&BEGIN) => {}
        Some(_) => return Err("a frame does not begin with 0x0B"),
    }
    match bytes.windows(2).position(|w| w == END) {
        Some(at) => Ok(Some((bytes[1..at].to_vec(), at + 2))),
        None if bytes.len() > LARGEST => Err("a frame has more than 256 KiB"),
        None => Ok(None),
    }
}

/// A message as a frame.
pub fn framed(message: &str) -> Vec<u8> {
    [&[BEGIN], message.as_bytes(), &END].concat()
}

/// A message: segments of fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    segments: Vec<Vec<String>>,
}

impl Message {
    /// Reads a message with the usual separators (`|^~\&`).
    ///
    /// # Errors
    /// It does not begin with a header as it should.
    pub fn parse(bytes: &[u8]) -> Result<Message, &'static str> {
        let text = std::str::from_utf8(bytes).map_err(|_| "the message is not UTF-8")?;
        let segments: Vec<Vec<String>> = text
            .split(['\r', '\n'])
            .filter(|line| !line.is_empty())
            .map(|line| line.split('|').map(str::to_owned).collect())
            .collect();
        let header = segments.first().filter(|s| s[0] == "MSH").ok_or("the message does not begin with MSH")?;
        if header.get(1).map(String::as_str) != Some("^~\\&") {
            return Err("the separators are not ^~\\&");
        }
        let message = Message { segments };
        if message.control_id().is_empty() {
            return Err("the message has no control id (MSH-10)");
        }
        Ok(message)
    }

    /// MSH-9, such as `MFN^M13`. (MSH-1 is the separator itself, so field n of a header lies at n - 1.)
    pub fn kind(&self) -> &str {
        self.header(9)
    }

    /// MSH-10.
    pub fn control_id(&self) -> &str {
        self.header(10)
    }

    fn header(&self, field: usize) -> &str {
        self.segments.first().and_then(|s| s.get(field - 1)).map_or("", String::as_str)
    }

    /// The segments of a name, in order.
    pub fn segments<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [String]> {
        self.segments.iter().filter(move |s| s[0] == name).map(Vec::as_slice)
    }
}

/// Field n of a segment, its escapes undone.
pub fn field(segment: &[String], n: usize) -> String {
    let raw = segment.get(n).map_or("", String::as_str);
    let (mut text, mut rest) = (String::with_capacity(raw.len()), raw);
    // One escape after the other: the end of one and the beginning of the next could be read as a third.
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let stands_for = match rest.as_bytes().get(at + 1..at + 3) {
            Some(b"F\\") => '|',
            Some(b"S\\") => '^',
            Some(b"T\\") => '&',
            Some(b"R\\") => '~',
            Some(b"E\\") => '\\',
            _ => {
                text.push('\\');
                rest = &rest[at + 1..];
                continue;
            }
        };
        text.push(stands_for);
        rest = &rest[at + 3..];
    }
    text.push_str(rest);
    text
}

/// A text as it may stand in a field.
pub fn escaped(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    clean.replace('\\', "\\E\\").replace('|', "\\F\\").replace('^', "\\S\\").replace('&', "\\T\\").replace('~', "\\R\\")
}

/// An acknowledgement: AA taken, AE not taken because of its content, AR not a message for us.
pub fn acknowledgement(of: &str, code: &str, why: &str, at: &str) -> String {
    let error = if why.is_empty() { String::new() } else { format!("ERR|||207|E|||{}\r", escaped(why)) };
    format!("MSH|^~\\&|MEG|MEG|RHAPSODY|SITE|{at}||ACK|{of}-A|P|2.5.1\rMSA|{code}|{of}\r{error}")
}

/// An entry of the formulary: what a ZFM segment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Medicine {
    pub code: String,
    pub name: String,
    pub strength: String,
    pub form: String,
    pub active: bool,
}

/// The medicines of a message about the formulary: an MFE segment each, with a ZFM segment after it.
///
/// # Errors
/// A sentence for the sender.
pub fn medicines(message: &Message) -> Result<Vec<Medicine>, String> {
    let about = message.segments("MFI").next().map(|s| field(s, 1)).unwrap_or_default();
    if !about.starts_with("FRM") {
        return Err("MFI-1 does not say FRM".into());
    }
    let events: Vec<&[String]> = message.segments("MFE").collect();
    let details: Vec<&[String]> = message.segments("ZFM").collect();
    if events.is_empty() || events.len() != details.len() {
        return Err(format!("{} MFE and {} ZFM segments: each MFE needs one", events.len(), details.len()));
    }
    let mut all = Vec::new();
    for (event, detail) in events.iter().zip(&details) {
        let code = field(detail, 1);
        let name = field(detail, 2);
        if code.is_empty() || code.chars().count() > 40 || name.is_empty() || name.chars().count() > 200 {
            return Err("ZFM-1 is a code of 1 to 40 characters and ZFM-2 a name of 1 to 200".into());
        }
        let active = match field(event, 1).as_str() {
            "MAD" | "MUP" | "MAC" => true,
            "MDL" | "MDC" => false,
            other => return Err(format!("MFE-1 is `{}`: MAD, MUP, MAC, MDL and MDC are known", escaped(other))),
        };
        let cut = |n| field(detail, n).chars().take(100).collect();
        all.push(Medicine { code, name, strength: cut(3), form: cut(4), active });
    }
    Ok(all)
}

/// A message with medicines, as an integration engine sends it.
pub fn feed(control: &str, at: &str, event: &str, medicines: &[Medicine]) -> String {
    let mut text = format!("MSH|^~\\&|RHAPSODY|SITE|MEG|MEG|{at}||MFN^M13|{control}|P|2.5.1\rMFI|FRM|MEG|UPD|||AL\r");
    for m in medicines {
        let event = if m.active { event } else { "MDC" };
        let (code, name) = (escaped(&m.code), escaped(&m.name));
        text.push_str(&format!(
            "MFE|{event}|{control}|{at}|{code}|CWE\rZFM|{code}|{name}|{}|{}\r",
            escaped(&m.strength),
            escaped(&m.form)
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aspirin() -> Medicine {
        Medicine {
            code: "A|1".into(),
            name: "Aspirin ^ & co".into(),
            strength: "100 mg".into(),
            form: "tablet".into(),
            active: true,
        }
    }

    #[test]
    fn a_feed_is_read_as_it_was_written() {
        let withdrawn = Medicine { code: "B".into(), active: false, ..aspirin() };
        let text = feed("7", "20261123", "MUP", &[aspirin(), withdrawn.clone()]);
        let (bytes, taken) = frame(&framed(&text)).unwrap().unwrap();
        assert_eq!(taken, framed(&text).len());
        let message = Message::parse(&bytes).unwrap();
        assert_eq!((message.kind(), message.control_id()), ("MFN^M13", "7"));
        assert_eq!(medicines(&message).unwrap(), [aspirin(), withdrawn]);
    }

    #[test]
    fn a_frame_waits_for_its_end_and_nonsense_is_refused() {
        assert_eq!(frame(b"").unwrap(), None);
        assert_eq!(frame(b"\x0bMSH").unwrap(), None);
        assert!(frame(b"GET / HTTP/1.1").is_err());
        assert!(frame(&[&[BEGIN][..], &vec![b'x'; LARGEST]].concat()).is_err());
        assert!(Message::parse(b"PID|1").is_err() && Message::parse(b"MSH|#~\\&|").is_err());
        let empty = Message::parse(feed("7", "20261123", "MUP", &[]).as_bytes()).unwrap();
        assert!(medicines(&empty).is_err());
        let odd = Message::parse(feed("7", "20261123", "XXX", &[aspirin()]).as_bytes()).unwrap();
        assert!(medicines(&odd).unwrap_err().contains("XXX"));
    }

    #[test]
    fn an_acknowledgement_names_what_it_answers() {
        let no = acknowledgement("7", "AE", "bad | code", "20261123");
        let message = Message::parse(no.as_bytes()).unwrap();
        let answer = message.segments("MSA").next().unwrap();
        assert_eq!((field(answer, 1).as_str(), field(answer, 2).as_str()), ("AE", "7"));
        assert_eq!(field(message.segments("ERR").next().unwrap(), 7), "bad | code");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = frame(&bytes);
            if let Ok(message) = Message::parse(&bytes) {
                let _ = medicines(&message);
            }
        }

        #[test]
        fn what_is_escaped_comes_back(text in "[ -~]{0,60}") {
            let segment = ["ZFM".to_owned(), escaped(&text)];
            proptest::prop_assert_eq!(field(&segment, 1), text);
        }
    }
}
