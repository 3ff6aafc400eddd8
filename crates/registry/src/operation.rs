//! What a request asks for, read from its method and path.

use axum::http::Method;

use crate::{
    names::{Digest, Reference, is_repository},
    refusal::Refusal,
};

/// One thing of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `GET /v2/`
    Base,
    Catalog,
    Tags {
        name: String,
    },
    GetManifest {
        name: String,
        reference: Reference,
    },
    PutManifest {
        name: String,
        reference: Reference,
    },
    DeleteManifest {
        name: String,
        reference: Reference,
    },
    GetBlob {
        name: String,
        digest: Digest,
    },
    DeleteBlob {
        name: String,
        digest: Digest,
    },
    StartUpload {
        name: String,
    },
    LookAtUpload {
        name: String,
        id: String,
    },
    Append {
        name: String,
        id: String,
    },
    Finish {
        name: String,
        id: String,
    },
    Cancel {
        name: String,
        id: String,
    },
    Referrers {
        name: String,
        digest: Digest,
    },
}

/// The right that an operation needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Only to be somebody.
    Known,
    /// The list of all repositories.
    Catalog,
    Pull,
    Push,
    Delete,
}

impl Right {
    /// The word of scopes.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Known => "",
            Self::Catalog => "*",
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }
}

impl Operation {
    /// Reads a path that begins with `/v2`.
    pub fn parse(method: &Method, path: &str) -> Result<Self, Refusal> {
        let reads = matches!(*method, Method::GET | Method::HEAD);
        let rest = path.strip_prefix("/v2").unwrap_or_default();
        if rest.is_empty() || rest == "/" {
            return if reads { Ok(Self::Base) } else { Err(Refusal::no_method()) };
        }
        if rest == "/_catalog" {
            return if *method == Method::GET { Ok(Self::Catalog) } else { Err(Refusal::no_method()) };
        }
        let rest = rest.strip_prefix('/').ok_or_else(Refusal::no_route)?;
        let parts: Vec<&str> = rest.split('/').collect();
        // The name may hold slashes and the words below: what counts stands at the end.
        let (name, tail): (&[&str], &[&str]) = match parts.as_slice() {
            [name @ .., "blobs", "uploads", ""] => (name, &["uploads"]),
            [name @ .., "blobs", "uploads"] => (name, &["uploads"]),
            [name @ .., "blobs", "uploads", _] => (name, &parts[parts.len() - 2..]),
            [name @ .., "tags" | "manifests" | "blobs" | "referrers", _] => (name, &parts[parts.len() - 2..]),
            _ => return Err(Refusal::no_route()),
        };
        let name = name.join("/");
        if !is_repository(&name) {
            return Err(Refusal::name_invalid(&name));
        }
        let digest = |text: &str| Digest::parse(text).ok_or_else(|| Refusal::digest_invalid(text));
        Ok(match *tail {
            ["uploads"] if *method == Method::POST => Self::StartUpload { name },
            ["uploads", id] => {
                let id = id.to_owned();
                match *method {
                    Method::GET | Method::HEAD => Self::LookAtUpload { name, id },
                    Method::PATCH => Self::Append { name, id },
                    Method::PUT => Self::Finish { name, id },
                    Method::DELETE => Self::Cancel { name, id },
                    _ => return Err(Refusal::no_method()),
                }
            }
            ["tags", "list"] if reads => Self::Tags { name },
            ["manifests", text] => {
                let reference = Reference::parse(text).ok_or_else(|| Refusal::reference_invalid(text))?;
                match *method {
                    Method::GET | Method::HEAD => Self::GetManifest { name, reference },
                    Method::PUT => Self::PutManifest { name, reference },
                    Method::DELETE => Self::DeleteManifest { name, reference },
                    _ => return Err(Refusal::no_method()),
                }
            }
            ["blobs", text] => match *method {
                Method::GET | Method::HEAD => Self::GetBlob { name, digest: digest(text)? },
                Method::DELETE => Self::DeleteBlob { name, digest: digest(text)? },
                _ => return Err(Refusal::no_method()),
            },
            ["referrers", text] if reads => Self::Referrers { name, digest: digest(text)? },
            ["uploads" | "referrers" | "tags", ..] => return Err(Refusal::no_method()),
            _ => return Err(Refusal::no_route()),
        })
    }

    /// The repository it is about.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Base | Self::Catalog => None,
            Self::Tags { name }
            | Self::GetManifest { name, .. }
            | Self::PutManifest { name, .. }
            | Self::DeleteManifest { name, .. }
            | Self::GetBlob { name, .. }
            | Self::DeleteBlob { name, .. }
            | Self::StartUpload { name }
            | Self::LookAtUpload { name, .. }
            | Self::Append { name, .. }
            | Self::Finish { name, .. }
            | Self::Cancel { name, .. }
            | Self::Referrers { name, .. } => Some(name),
        }
    }

    pub fn right(&self) -> Right {
        match self {
            Self::Base => Right::Known,
            Self::Catalog => Right::Catalog,
            Self::Tags { .. } | Self::GetManifest { .. } | Self::GetBlob { .. } | Self::Referrers { .. } => Right::Pull,
            Self::PutManifest { .. }
            | Self::StartUpload { .. }
            | Self::LookAtUpload { .. }
            | Self::Append { .. }
            | Self::Finish { .. }
            | Self::Cancel { .. } => Right::Push,
            Self::DeleteManifest { .. } | Self::DeleteBlob { .. } => Right::Delete,
        }
    }

    /// What audit records call it.
    pub fn action(&self) -> &'static str {
        match self {
            Self::Base => "registry.look",
            Self::Catalog | Self::Tags { .. } | Self::Referrers { .. } => "image.list",
            Self::GetManifest { .. } => "image.pull",
            Self::PutManifest { .. } => "image.push",
            Self::DeleteManifest { .. } => "image.delete",
            Self::GetBlob { .. } => "blob.pull",
            Self::DeleteBlob { .. } => "blob.delete",
            Self::StartUpload { .. }
            | Self::LookAtUpload { .. }
            | Self::Append { .. }
            | Self::Finish { .. }
            | Self::Cancel { .. } => "blob.push",
        }
    }

    /// What audit records say it was done to, such as `time-tracker:latest`.
    pub fn object(&self) -> String {
        match self {
            Self::GetManifest { name, reference }
            | Self::PutManifest { name, reference }
            | Self::DeleteManifest { name, reference } => match reference {
                Reference::Tag(tag) => format!("{name}:{tag}"),
                Reference::Digest(digest) => format!("{name}@{digest}"),
            },
            Self::GetBlob { name, digest } | Self::DeleteBlob { name, digest } | Self::Referrers { name, digest } => {
                format!("{name}@{digest}")
            }
            other => other.name().unwrap_or_default().to_owned(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn names_may_hold_the_words_of_the_api() {
        let read = Operation::parse(&Method::GET, "/v2/tags/list/manifests/latest").unwrap();
        assert_eq!(read.name(), Some("tags/list"));
        let read = Operation::parse(&Method::POST, "/v2/blobs/uploads/blobs/uploads/").unwrap();
        assert_eq!(read, Operation::StartUpload { name: "blobs/uploads".into() });
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_asked_for_names_a_repository_or_is_refused(path in "/v2(/[a-zA-Z0-9.:_%-]{0,12}){0,6}") {
            for method in [Method::GET, Method::PUT, Method::POST, Method::PATCH, Method::DELETE] {
                if let Ok(operation) = Operation::parse(&method, &path) {
                    assert!(operation.name().is_none_or(is_repository));
                    assert!(operation.name().is_some() || matches!(operation.right(), Right::Known | Right::Catalog));
                }
            }
        }
    }
}
