//! A manifest with changes laid on: tables merge, everything else is replaced, as an overlay does.

use toml_edit::{DocumentMut, Item, TableLike};

use crate::Error;

/// The manifest `text` with the TOML of `changes` laid on.
///
/// # Errors
/// One of the two is not TOML.
pub fn patched(text: &str, changes: &str) -> Result<String, Error> {
    let read = |file: &str, text: &str| {
        text.parse::<DocumentMut>().map_err(|e| Error::File { file: file.into(), what: e.to_string() })
    };
    let mut whole = read("system.toml", text)?;
    lay(whole.as_table_mut(), read("the change", changes)?.as_table());
    Ok(whole.to_string())
}

fn lay(on: &mut dyn TableLike, changes: &dyn TableLike) {
    for (key, change) in changes.iter() {
        match (on.get_mut(key).and_then(Item::as_table_like_mut), change.as_table_like()) {
            (Some(on), Some(change)) => lay(on, change),
            _ => {
                on.insert(key, change.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_merge_and_the_rest_is_replaced() {
        let text = "a = 1\n[b]\nc = [1, 2]\nd = { e = 1, f = 2 }\n";
        let now: toml_edit::DocumentMut =
            patched(text, "[b]\nc = [3]\nd.e = 9\ng = \"new\"").expect("sound").parse().expect("TOML");
        assert_eq!(now["b"]["c"].as_array().map(|a| a.len()), Some(1));
        assert_eq!(now["b"]["d"]["e"].as_integer(), Some(9));
        assert_eq!(now["b"]["d"]["f"].as_integer(), Some(2));
        assert_eq!(now["b"]["g"].as_str(), Some("new"));
        assert_eq!(now["a"].as_integer(), Some(1));
        assert!(patched("a = ", "").is_err());
    }
}
