//! The little XML that this API has: text is escaped when it is written, and flat lists are read.

/// What every document begins with.
pub const HEAD: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>";

/// Text as it stands in an element. Control characters that no XML can hold are left out.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for sign in text.chars() {
        match sign {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\r' => out.push_str("&#13;"),
            sign if is_text(sign) => out.push(sign),
            _ => {}
        }
    }
    out
}

/// Whether XML 1.0 can hold it.
pub fn is_text(sign: char) -> bool {
    matches!(sign, '\t' | '\n' | '\r' | ' '..='\u{FFFD}' | '\u{10000}'..)
}

/// Appends `<name>text</name>`.
pub fn element(out: &mut String, name: &str, text: &str) {
    out.push('<');
    out.push_str(name);
    out.push('>');
    out.push_str(&escaped(text));
    out.push_str("</");
    out.push_str(name);
    out.push('>');
}

/// The children of `root`, in their order: name and text. A document with anything else in it, such as an entity of its own
/// or an element in a child, is none (`Err` says why).
pub fn children<'a>(text: &'a str, root: &str) -> Result<Vec<(&'a str, String)>, &'static str> {
    let mut rest = text.trim_start_matches('\u{FEFF}').trim();
    if let Some(after) = rest.strip_prefix("<?xml") {
        rest = after.split_once("?>").ok_or("its declaration does not end")?.1.trim_start();
    }
    let (name, empty, mut rest) = opened(rest)?;
    if name != root {
        return Err("its root is another element");
    }
    let mut found = Vec::new();
    if empty {
        return if rest.trim().is_empty() { Ok(found) } else { Err("something stands behind its root") };
    }
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix("</") {
            let (name, after) = after.split_once('>').ok_or("a tag does not end")?;
            if name.trim_end() != root || !after.trim().is_empty() {
                return Err("its root does not end it");
            }
            return Ok(found);
        }
        let (name, empty, after) = opened(rest)?;
        if empty {
            found.push((name, String::new()));
            rest = after;
            continue;
        }
        let (inner, after) = after.split_once("</").ok_or("an element does not end")?;
        let (end, after) = after.split_once('>').ok_or("a tag does not end")?;
        if end.trim_end() != name {
            return Err("an element ends as another");
        }
        found.push((name, plain(inner)?));
        rest = after;
    }
}

/// The name of a start tag, whether it is an empty element, and what stands behind it.
fn opened(text: &str) -> Result<(&str, bool, &str), &'static str> {
    let text = text.strip_prefix('<').ok_or("an element is expected")?;
    let (tag, after) = text.split_once('>').ok_or("a tag does not end")?;
    let (tag, empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
    let (name, attributes) = tag.split_once(char::is_whitespace).unwrap_or((tag, ""));
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric());
    // Clients name a namespace at most.
    if !is_name || !(attributes.trim().is_empty() || attributes.contains('=')) {
        return Err("a tag is not one of this format");
    }
    Ok((name, empty, after))
}

fn plain(text: &str) -> Result<String, &'static str> {
    if text.contains('<') {
        return Err("an element stands in an element");
    }
    let mut out = String::with_capacity(text.len());
    let mut parts = text.split('&');
    out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let (entity, rest) = part.split_once(';').ok_or("an entity does not end")?;
        out.push(match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            number => {
                let number = number.strip_prefix('#').ok_or("it has an entity of its own")?;
                let read = match number.strip_prefix('x') {
                    Some(hex) => u32::from_str_radix(hex, 16),
                    None => number.parse(),
                };
                read.ok().and_then(char::from_u32).ok_or("a character of it is none")?
            }
        });
        out.push_str(rest);
    }
    Ok(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn a_block_list_is_read_and_nothing_else() {
        let list = "\u{FEFF}<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<BlockList xmlns=\"x\">\n <Latest>QQ==</Latest><Committed>a&amp;b</Committed> </BlockList>\n";
        assert_eq!(
            children(list, "BlockList").unwrap(),
            [("Latest", "QQ==".to_owned()), ("Committed", "a&b".to_owned())]
        );
        assert_eq!(children("<BlockList/>", "BlockList").unwrap(), []);
        for bad in [
            "",
            "<Other></Other>",
            "<BlockList>",
            "<BlockList></BlockList>x",
            "<BlockList><Latest><b>x</b></Latest></BlockList>",
            "<BlockList><Latest>&own;</Latest></BlockList>",
            "<!DOCTYPE a [<!ENTITY b \"c\">]><BlockList></BlockList>",
            "<BlockList><Latest>x</Committed></BlockList>",
        ] {
            assert!(children(bad, "BlockList").is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(text in "\\PC{0,60}") {
            let _ = children(&text, "BlockList");
            let _ = children(&format!("<BlockList>{text}</BlockList>"), "BlockList");
        }

        #[test]
        fn what_is_written_is_read_again(text in "[ -~äöü\\n]{0,40}") {
            let mut document = String::from("<A>");
            element(&mut document, "B", &text);
            document.push_str("</A>");
            assert_eq!(children(&document, "A").unwrap(), [("B", text)]);
        }
    }
}
