//! PackStream, the values of the Bolt protocol, as JSON: nodes and relationships become objects of their properties.

use serde_json::{Map, Value, json};

/// How deep values may lie in one another.
const DEPTH: usize = 64;

/// Appends a value.
pub fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(0xC0),
        Value::Bool(b) => out.push(if *b { 0xC3 } else { 0xC2 }),
        Value::Number(n) => match n.as_i64() {
            Some(n) if (-16..=127).contains(&n) => out.push(n as i8 as u8),
            Some(n) => {
                out.push(0xCB);
                out.extend_from_slice(&n.to_be_bytes());
            }
            None => {
                out.push(0xC1);
                out.extend_from_slice(&n.as_f64().unwrap_or(f64::NAN).to_be_bytes());
            }
        },
        Value::String(text) => write_text(text, out),
        Value::Array(all) => {
            head(all.len(), 0x90, 0xD6, out);
            all.iter().for_each(|v| write(v, out));
        }
        Value::Object(all) => {
            head(all.len(), 0xA0, 0xDA, out);
            for (key, value) in all {
                write_text(key, out);
                write(value, out);
            }
        }
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    head(text.len(), 0x80, 0xD2, out);
    out.extend_from_slice(text.as_bytes());
}

fn head(length: usize, tiny: u8, large: u8, out: &mut Vec<u8>) {
    if length < 16 {
        out.push(tiny | length as u8);
    } else {
        out.push(large);
        out.extend_from_slice(&(length as u32).to_be_bytes());
    }
}

/// A message: its signature and fields. None: the bytes are none.
pub fn message(bytes: &[u8]) -> Option<(u8, Vec<Value>)> {
    let mut reader = Reader { rest: bytes };
    let count = reader.take(1)?[0];
    (count & 0xF0 == 0xB0).then_some(())?;
    let signature = reader.take(1)?[0];
    let fields = reader.list(usize::from(count & 0x0F), 0)?;
    reader.rest.is_empty().then_some((signature, fields))
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

    fn list(&mut self, length: usize, depth: usize) -> Option<Vec<Value>> {
        (length <= self.rest.len()).then_some(())?;
        (0..length).map(|_| self.value(depth + 1)).collect()
    }

    fn map(&mut self, length: usize, depth: usize) -> Option<Value> {
        (length <= self.rest.len()).then_some(())?;
        let mut all = Map::new();
        for _ in 0..length {
            let Value::String(key) = self.value(depth + 1)? else { return None };
            all.insert(key, self.value(depth + 1)?);
        }
        Some(Value::Object(all))
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        (depth < DEPTH).then_some(())?;
        let mark = self.take(1)?[0];
        let low = usize::from(mark & 0x0F);
        Some(match mark {
            0x00..=0x7F | 0xF0..=0xFF => json!(mark as i8),
            0x80..=0x8F => Value::String(self.text(low)?),
            0x90..=0x9F => Value::Array(self.list(low, depth)?),
            0xA0..=0xAF => self.map(low, depth)?,
            0xB0..=0xBF => {
                let signature = self.take(1)?[0];
                let mut fields = self.list(low, depth)?;
                // Of a node and of a relationship, what was stored; of anything else all there is.
                match signature {
                    b'N' if fields.len() > 2 => fields.swap_remove(2),
                    b'R' if fields.len() > 4 => fields.swap_remove(4),
                    b'r' if fields.len() > 2 => fields.swap_remove(2),
                    _ => Value::Array(fields),
                }
            }
            0xC0 => Value::Null,
            0xC1 => json!(f64::from_be_bytes(self.take(8)?.try_into().ok()?)),
            0xC2 => Value::Bool(false),
            0xC3 => Value::Bool(true),
            0xC8 => json!(self.take(1)?[0] as i8),
            0xC9 => json!(i16::from_be_bytes(self.take(2)?.try_into().ok()?)),
            0xCA => json!(i32::from_be_bytes(self.take(4)?.try_into().ok()?)),
            0xCB => json!(i64::from_be_bytes(self.take(8)?.try_into().ok()?)),
            0xD0..=0xD2 => {
                let length = self.number(1 << (mark - 0xD0))?;
                Value::String(self.text(length)?)
            }
            0xD4..=0xD6 => {
                let length = self.number(1 << (mark - 0xD4))?;
                Value::Array(self.list(length, depth)?)
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_written_is_read(text in "\\PC{0,400}", n in proptest::num::i64::ANY, many in 0usize..40) {
            let value = json!({ "text": text, "n": n, "f": 1.5, "none": null, "yes": true, "list": vec![text.clone(); many] });
            let mut bytes = vec![0xB1, 0x70];
            write(&value, &mut bytes);
            prop_assert_eq!(message(&bytes), Some((0x70, vec![value])));
        }

        #[test]
        fn no_bytes_make_the_reader_fall(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = message(&bytes);
        }
    }
}
