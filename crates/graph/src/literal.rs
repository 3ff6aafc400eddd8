//! Parameters of a statement as the engine takes them: written before it as Cypher literals.

use crate::pack::Pack;

/// The statement with its parameters before it.
///
/// # Errors
/// A parameter that Cypher has no literal for; in words for the client.
pub(crate) fn with_parameters(statement: &str, parameters: &[(String, Pack)]) -> Result<String, String> {
    if parameters.is_empty() {
        return Ok(statement.to_owned());
    }
    let mut text = String::from("CYPHER ");
    for (name, value) in parameters {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(plain) || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(format!("`{name}` cannot be the name of a parameter: letters, digits and _ only"));
        }
        text.push_str(name);
        text.push('=');
        write(value, &mut text).map_err(|what| format!("the parameter {name} {what}"))?;
        text.push(' ');
    }
    text.push_str(statement);
    Ok(text)
}

fn write(value: &Pack, out: &mut String) -> Result<(), &'static str> {
    match value {
        Pack::Null => out.push_str("null"),
        Pack::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Pack::Int(n) => out.push_str(&n.to_string()),
        Pack::Float(n) if n.is_finite() => out.push_str(&format!("{n:?}")),
        Pack::Float(_) => return Err("is no finite number"),
        Pack::Text(text) => quote(text, out)?,
        Pack::List(all) => {
            out.push('[');
            for (n, value) in all.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                write(value, out)?;
            }
            out.push(']');
        }
        Pack::Map(all) => {
            out.push('{');
            for (n, (key, value)) in all.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                if key.contains(['`', '\0']) || key.is_empty() {
                    return Err("has a key that cannot be quoted");
                }
                out.push('`');
                out.push_str(key);
                out.push_str("`:");
                write(value, out)?;
            }
            out.push('}');
        }
        Pack::Bytes(_) => return Err("is bytes, which this store does not keep"),
        Pack::Struct(..) => return Err("is a structure, which this store does not take"),
    }
    Ok(())
}

/// Nothing in a text can end it: the engine knows `\` as its only escape.
fn quote(text: &str, out: &mut String) -> Result<(), &'static str> {
    out.push('"');
    for c in text.chars() {
        match c {
            '\0' => return Err("holds a zero character"),
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            _ => out.push(c),
        }
    }
    out.push('"');
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn a_text_cannot_leave_its_quotes() {
        let text = |t: &str| with_parameters("RETURN $a", &[("a".into(), Pack::text(t))]);
        assert_eq!(text("x").unwrap(), "CYPHER a=\"x\" RETURN $a");
        assert_eq!(text("\" DELETE n //\\").unwrap(), "CYPHER a=\"\\\" DELETE n //\\\\\" RETURN $a");
        assert!(text("a\0").unwrap_err().contains("zero"));
        assert!(with_parameters("RETURN 1", &[("a=1 b".into(), Pack::Null)]).is_err());
        let map = Pack::Map(vec![("a`b".into(), Pack::Null)]);
        assert!(with_parameters("RETURN 1", &[("a".into(), map)]).is_err());
    }
}
