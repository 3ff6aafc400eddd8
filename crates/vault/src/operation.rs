//! What a request asks for: method and path, read without trusting them.

use axum::http::Method;
use percent_encoding::percent_decode_str;

use crate::refusal::Refusal;

/// The longest name of a secret.
const NAME_CHARS: usize = 127;

/// One operation of the API. Names are as the caller spelled them; they are compared without regard to case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    Set {
        name: String,
    },
    /// Version None: the latest.
    Get {
        name: String,
        version: Option<String>,
    },
    Update {
        name: String,
        version: Option<String>,
    },
    List,
    ListVersions {
        name: String,
    },
    Delete {
        name: String,
    },
    ListDeleted,
    GetDeleted {
        name: String,
    },
    Recover {
        name: String,
    },
    Purge {
        name: String,
    },
    Backup {
        name: String,
    },
    Restore,
    /// Anything of the keys API.
    Keys {
        create: bool,
    },
}

/// Every route, as method and a path that it takes. Tests call each one without a right.
#[cfg(test)]
pub const ROUTES: &[(&str, &str)] = &[
    ("PUT", "/secrets/a"),
    ("GET", "/secrets/a"),
    ("GET", "/secrets/a/"),
    ("GET", "/secrets/a/0123456789abcdef0123456789abcdef"),
    ("PATCH", "/secrets/a"),
    ("PATCH", "/secrets/a/0123456789abcdef0123456789abcdef"),
    ("GET", "/secrets"),
    ("GET", "/secrets/a/versions"),
    ("DELETE", "/secrets/a"),
    ("GET", "/deletedsecrets"),
    ("GET", "/deletedsecrets/a"),
    ("POST", "/deletedsecrets/a/recover"),
    ("DELETE", "/deletedsecrets/a"),
    ("POST", "/secrets/a/backup"),
    ("POST", "/secrets/restore"),
    ("POST", "/keys/a/create"),
    ("GET", "/keys"),
];

impl Operation {
    /// Reads a request's method and path; the path still percent-encoded. A trailing slash changes nothing.
    pub fn parse(method: &Method, path: &str) -> Result<Self, Refusal> {
        let mut parts = Vec::new();
        for part in path.trim_matches('/').split('/') {
            parts.push(
                percent_decode_str(part)
                    .decode_utf8()
                    .map_err(|_| Refusal::bad("The path is not UTF-8."))?
                    .into_owned(),
            );
        }
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let (get, put, post) = (*method == Method::GET, *method == Method::PUT, *method == Method::POST);
        let (patch, delete) = (*method == Method::PATCH, *method == Method::DELETE);
        let found = match parts.as_slice() {
            ["secrets"] if get => Self::List,
            ["secrets", "restore"] if post => Self::Restore,
            ["secrets", n] if put => Self::Set { name: name(n)? },
            ["secrets", n] if get => Self::Get { name: name(n)?, version: None },
            ["secrets", n] if patch => Self::Update { name: name(n)?, version: None },
            ["secrets", n] if delete => Self::Delete { name: name(n)? },
            ["secrets", n, "versions"] if get => Self::ListVersions { name: name(n)? },
            ["secrets", n, "backup"] if post => Self::Backup { name: name(n)? },
            ["secrets", n, v] if get => Self::Get { name: name(n)?, version: Some(version(v)?) },
            ["secrets", n, v] if patch => Self::Update { name: name(n)?, version: Some(version(v)?) },
            ["deletedsecrets"] if get => Self::ListDeleted,
            ["deletedsecrets", n] if get => Self::GetDeleted { name: name(n)? },
            ["deletedsecrets", n] if delete => Self::Purge { name: name(n)? },
            ["deletedsecrets", n, "recover"] if post => Self::Recover { name: name(n)? },
            ["keys", _, "create"] if post => Self::Keys { create: true },
            ["keys" | "deletedkeys" | "rng" | "certificates", ..] => Self::Keys { create: false },
            ["secrets" | "deletedsecrets", ..] if parts.len() <= 3 => return Err(Refusal::no_method()),
            _ => return Err(Refusal::no_route()),
        };
        Ok(found)
    }

    /// The action in audit records.
    pub fn action(&self) -> &'static str {
        match self {
            Self::Set { .. } => "secret.set",
            Self::Get { .. } => "secret.get",
            Self::Update { .. } => "secret.update",
            Self::List => "secret.list",
            Self::ListVersions { .. } => "secret.list-versions",
            Self::Delete { .. } => "secret.delete",
            Self::ListDeleted => "secret.list-deleted",
            Self::GetDeleted { .. } => "secret.get-deleted",
            Self::Recover { .. } => "secret.recover",
            Self::Purge { .. } => "secret.purge",
            Self::Backup { .. } => "secret.backup",
            Self::Restore => "secret.restore",
            Self::Keys { .. } => "key.any",
        }
    }

    /// The one secret it is about.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Set { name }
            | Self::Get { name, .. }
            | Self::Update { name, .. }
            | Self::ListVersions { name }
            | Self::Delete { name }
            | Self::GetDeleted { name }
            | Self::Recover { name }
            | Self::Purge { name }
            | Self::Backup { name } => Some(name),
            Self::List | Self::ListDeleted | Self::Restore | Self::Keys { .. } => None,
        }
    }
}

/// A secret's name: 1 to 127 letters, digits and hyphens, as Azure has it, and underscores, which it refuses: documents name
/// secrets like the variables they fill (docs/decisions/0025-a-tenant-is-shown-not-named.md).
pub fn name(text: &str) -> Result<String, Refusal> {
    let fits = (1..=NAME_CHARS).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if fits {
        Ok(text.to_owned())
    } else {
        Err(Refusal::bad(
            "The request URI contains an invalid name: 1 to 127 letters, digits, hyphens and underscores are allowed.",
        ))
    }
}

/// A version: 32 hexadecimal digits.
fn version(text: &str) -> Result<String, Refusal> {
    if text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(Refusal::bad("The request URI contains an invalid version: 32 hexadecimal digits are expected."))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_route_is_an_operation_with_or_without_a_trailing_slash() {
        for (method, path) in ROUTES {
            let method: Method = method.parse().unwrap();
            let found = Operation::parse(&method, path).unwrap();
            assert_eq!(Operation::parse(&method, &format!("{}/", path.trim_end_matches('/'))).unwrap(), found);
        }
    }

    #[test]
    fn a_wrong_method_and_an_unknown_path_are_told_apart() {
        assert_eq!(Operation::parse(&Method::POST, "/secrets/a").unwrap_err().status.as_u16(), 405);
        assert_eq!(Operation::parse(&Method::GET, "/elsewhere").unwrap_err().status.as_u16(), 404);
    }

    proptest! {
        #[test]
        fn no_path_yields_a_name_outside_the_allowed_characters(path in "/(secrets|deletedsecrets)/[ -~]{0,40}(/[a-z0-9%]{0,34})?", verb in 0..5usize) {
            let method = [Method::GET, Method::PUT, Method::POST, Method::PATCH, Method::DELETE][verb].clone();
            if let Ok(operation) = Operation::parse(&method, &path)
                && let Some(name) = operation.name()
            {
                prop_assert!(!name.is_empty() && name.len() <= 127);
                prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
            }
        }
    }
}
