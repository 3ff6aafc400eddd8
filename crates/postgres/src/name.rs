//! Names that may become identifiers in SQL, and how they are written there.

use crate::Error;

const LONGEST: usize = 52;

/// Checks the name of a database or a login role.
///
/// The alphabet is narrow on purpose: what is let through needs no thought about case folding, quoting in connection
/// strings, or PostgreSQL's 63-byte limit with the suffix of a group. `:` is not in it, so that no name meets a group's.
pub(crate) fn check<'a>(kind: &'static str, name: &'a str) -> Result<&'a str, Error> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    let rest = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
    let reserved = name.starts_with("pg_")
        || matches!(name, "postgres" | "replicator" | "public" | "none" | "template0" | "template1");
    if first && rest && !reserved && name.len() <= LONGEST {
        Ok(name)
    } else {
        let shown = name.chars().take(64).map(|c| if c.is_control() { '?' } else { c }).collect();
        Err(Error::Name { kind, name: shown })
    }
}

/// A quoted identifier.
pub(crate) fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A quoted text. Right for `standard_conforming_strings = on` only, which is the default and is not ours to change.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reserved_and_odd_names_are_refused() {
        for name in ["", "postgres", "pg_monitor", "public", "1a", "a:owner", "a\"b", "A", "a b", "é", "none", "-a"] {
            assert!(check("role", name).is_err(), "{name:?} was let through");
        }
        assert!(check("role", &"a".repeat(53)).is_err());
        for name in ["web", "time-tracker", "a_1"] {
            assert!(check("role", name).is_ok(), "{name:?} was refused");
        }
    }

    proptest! {
        #[test]
        fn a_quoted_identifier_cannot_be_left(name in "\\PC*") {
            let quoted = ident(&name);
            let inside = &quoted[1..quoted.len() - 1];
            prop_assert_eq!(inside.replace("\"\"", "").contains('"'), false);
            prop_assert_eq!(inside.replace("\"\"", "\""), name);
        }

        #[test]
        fn what_is_let_through_needs_no_quotes_in_a_literal(name in "\\PC{0,50}") {
            if check("role", &name).is_ok() {
                prop_assert_eq!(literal(&name), format!("'{name}'"));
            }
        }
    }
}
