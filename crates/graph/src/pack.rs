//! PackStream: the values of the Bolt protocol, read and written.

/// A value. Maps keep their order; a structure is its signature and fields.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Pack {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Pack>),
    Map(Vec<(String, Pack)>),
    Struct(u8, Vec<Pack>),
}

/// How deep values may lie in one another.
const DEPTH: usize = 64;

impl Pack {
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub fn get(&self, key: &str) -> Option<&Pack> {
        match self {
            Self::Map(all) => all.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    pub fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// Appends the value.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.push(0xC0),
            Self::Bool(false) => out.push(0xC2),
            Self::Bool(true) => out.push(0xC3),
            Self::Int(n) => write_int(*n, out),
            Self::Float(n) => {
                out.push(0xC1);
                out.extend_from_slice(&n.to_be_bytes());
            }
            Self::Text(text) => {
                head(text.len(), Some(0x80), [0xD0, 0xD1, 0xD2], out);
                out.extend_from_slice(text.as_bytes());
            }
            Self::Bytes(bytes) => {
                head(bytes.len(), None, [0xCC, 0xCD, 0xCE], out);
                out.extend_from_slice(bytes);
            }
            Self::List(all) => {
                head(all.len(), Some(0x90), [0xD4, 0xD5, 0xD6], out);
                all.iter().for_each(|value| value.write(out));
            }
            Self::Map(all) => {
                head(all.len(), Some(0xA0), [0xD8, 0xD9, 0xDA], out);
                for (key, value) in all {
                    head(key.len(), Some(0x80), [0xD0, 0xD1, 0xD2], out);
                    out.extend_from_slice(key.as_bytes());
                    value.write(out);
                }
            }
            Self::Struct(signature, fields) => {
                out.push(0xB0 | (fields.len() as u8 & 0x0F));
                out.push(*signature);
                fields.iter().for_each(|value| value.write(out));
            }
        }
    }

    /// Reads a whole message; None: it is none.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader { rest: bytes };
        let value = reader.value(0)?;
        reader.rest.is_empty().then_some(value)
    }
}

fn write_int(n: i64, out: &mut Vec<u8>) {
    match n {
        -16..=127 => out.push(n as i8 as u8),
        -128..=-17 => out.extend_from_slice(&[0xC8, n as i8 as u8]),
        _ if i16::try_from(n).is_ok() => {
            out.push(0xC9);
            out.extend_from_slice(&(n as i16).to_be_bytes());
        }
        _ if i32::try_from(n).is_ok() => {
            out.push(0xCA);
            out.extend_from_slice(&(n as i32).to_be_bytes());
        }
        _ => {
            out.push(0xCB);
            out.extend_from_slice(&n.to_be_bytes());
        }
    }
}

fn head(length: usize, tiny: Option<u8>, marks: [u8; 3], out: &mut Vec<u8>) {
    match (tiny, length) {
        (Some(tiny), 0..=15) => out.push(tiny | length as u8),
        (_, 0..=0xFF) => out.extend_from_slice(&[marks[0], length as u8]),
        (_, 0x100..=0xFFFF) => {
            out.push(marks[1]);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(marks[2]);
            out.extend_from_slice(&(length as u32).to_be_bytes());
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn take(&mut self, length: usize) -> Option<&[u8]> {
        let (head, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(head)
    }

    fn number(&mut self, length: usize) -> Option<usize> {
        Some(self.take(length)?.iter().fold(0, |n, byte| n << 8 | usize::from(*byte)))
    }

    fn text(&mut self, length: usize) -> Option<String> {
        String::from_utf8(self.take(length)?.to_vec()).ok()
    }

    fn list(&mut self, length: usize, depth: usize) -> Option<Vec<Pack>> {
        // Each value takes a byte at least: what is announced beyond that is never made room for.
        (length <= self.rest.len()).then_some(())?;
        (0..length).map(|_| self.value(depth + 1)).collect()
    }

    fn map(&mut self, length: usize, depth: usize) -> Option<Pack> {
        (length <= self.rest.len()).then_some(())?;
        let pair = |reader: &mut Self| match reader.value(depth + 1)? {
            Pack::Text(key) => Some((key, reader.value(depth + 1)?)),
            _ => None,
        };
        (0..length).map(|_| pair(self)).collect::<Option<_>>().map(Pack::Map)
    }

    fn value(&mut self, depth: usize) -> Option<Pack> {
        (depth < DEPTH).then_some(())?;
        let mark = self.take(1)?[0];
        let low = usize::from(mark & 0x0F);
        Some(match mark {
            0x00..=0x7F | 0xF0..=0xFF => Pack::Int(i64::from(mark as i8)),
            0x80..=0x8F => Pack::Text(self.text(low)?),
            0x90..=0x9F => Pack::List(self.list(low, depth)?),
            0xA0..=0xAF => self.map(low, depth)?,
            0xB0..=0xBF => {
                let signature = self.take(1)?[0];
                Pack::Struct(signature, self.list(low, depth)?)
            }
            0xC0 => Pack::Null,
            0xC1 => Pack::Float(f64::from_be_bytes(self.take(8)?.try_into().ok()?)),
            0xC2 => Pack::Bool(false),
            0xC3 => Pack::Bool(true),
            0xC8 => Pack::Int(i64::from(self.take(1)?[0] as i8)),
            0xC9 => Pack::Int(i64::from(i16::from_be_bytes(self.take(2)?.try_into().ok()?))),
            0xCA => Pack::Int(i64::from(i32::from_be_bytes(self.take(4)?.try_into().ok()?))),
            0xCB => Pack::Int(i64::from_be_bytes(self.take(8)?.try_into().ok()?)),
            0xCC..=0xCE => {
                let length = self.number(1 << (mark - 0xCC))?;
                Pack::Bytes(self.take(length)?.to_vec())
            }
            0xD0..=0xD2 => {
                let length = self.number(1 << (mark - 0xD0))?;
                Pack::Text(self.text(length)?)
            }
            0xD4..=0xD6 => {
                let length = self.number(1 << (mark - 0xD4))?;
                Pack::List(self.list(length, depth)?)
            }
            0xD8..=0xDA => {
                let length = self.number(1 << (mark - 0xD8))?;
                self.map(length, depth)?
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any() -> impl Strategy<Value = Pack> {
        let leaf = prop_oneof![
            Just(Pack::Null),
            proptest::bool::ANY.prop_map(Pack::Bool),
            proptest::num::i64::ANY.prop_map(Pack::Int),
            (-200i64..70_000).prop_map(Pack::Int),
            (-1e9..1e9f64).prop_map(Pack::Float),
            "\\PC{0,300}".prop_map(Pack::Text),
            proptest::collection::vec(proptest::num::u8::ANY, 0..300).prop_map(Pack::Bytes),
        ];
        leaf.prop_recursive(3, 40, 20, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..20).prop_map(Pack::List),
                proptest::collection::vec(("[a-z]{1,20}", inner.clone()), 0..20).prop_map(Pack::Map),
                (0u8..0x7F, proptest::collection::vec(inner, 0..8)).prop_map(|(s, f)| Pack::Struct(s, f)),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(value in any()) {
            let mut bytes = Vec::new();
            value.write(&mut bytes);
            prop_assert_eq!(Pack::read(&bytes), Some(value));
        }

        #[test]
        fn no_bytes_make_the_reader_fall(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            let _ = Pack::read(&bytes);
        }
    }

    #[test]
    fn a_list_that_announces_more_than_there_is_is_none() {
        assert_eq!(Pack::read(&[0xD6, 0xFF, 0xFF, 0xFF, 0xFF]), None);
        assert_eq!(Pack::read(&vec![0x91; 10_000]), None, "too deep");
    }
}
