//! What a request asks for, read from its method, its host, its path and its query.

use axum::http::{HeaderMap, Method, Uri};
use percent_encoding::percent_decode_str;

use crate::{
    config::{ROOT, Settings, is_container},
    fields::Query,
    refusal::Refusal,
    xml,
};

/// Characters of a blob's name, as on Azure.
const NAME_CHARS: usize = 1024;

/// What it is about: the account, a container, or a blob in one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    pub container: Option<String>,
    pub blob: Option<String>,
}

/// One thing of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    AccountInfo,
    ServiceProperties,
    ListContainers,
    DelegationKey,
    CreateContainer,
    LookAtContainer,
    SetContainerMetadata,
    DeleteContainer,
    LeaseContainer,
    ContainerAccess,
    List,
    Put,
    Get,
    Look,
    Delete,
    PutBlock,
    PutBlockList,
    GetBlockList,
    SetMetadata,
    SetProperties,
    SetTier,
    Lease,
    Copy,
    Snapshot,
    Undelete,
}

/// The right that an act needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    Read,
    List,
    Write,
    Delete,
    /// Delete a version rather than the blob.
    DeleteVersion,
    /// What is known of an account or a container, but for its blobs.
    Look,
    /// Make and change containers.
    Manage,
    /// Have a key for signatures in one's own name.
    Delegate,
}

impl Right {
    /// What a refusal says was wanted.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Read => "reading",
            Self::List => "listing",
            Self::Write => "writing",
            Self::Delete => "deleting",
            Self::DeleteVersion => "deleting versions",
            Self::Look => "looking at it",
            Self::Manage => "making or changing containers",
            Self::Delegate => "signing in one's own name",
        }
    }
}

impl Target {
    /// Reads a path. Where the host is an address, its first part names the account.
    pub fn read(settings: &Settings, host: Option<&str>, uri: &Uri) -> Result<Self, Refusal> {
        let path = uri.path();
        let name =
            host.and_then(|host| host.rsplit_once(':').map_or(Some(host), |(name, _)| Some(name))).unwrap_or_default();
        let by_address = name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok();
        let rest = if by_address {
            let account = settings.config.account.as_str();
            let rest = path.strip_prefix('/').and_then(|path| path.strip_prefix(account));
            let rest = rest.filter(|rest| rest.is_empty() || rest.starts_with('/'));
            rest.ok_or_else(|| {
                let message = format!("at an address, the path begins with the account: /{account}/CONTAINER/BLOB");
                Refusal::bad("InvalidUri", message)
            })?
        } else {
            path
        };
        Self::parse(rest.strip_prefix('/').unwrap_or(rest))
    }

    /// Reads what stands behind the account: `CONTAINER/BLOB`. A blob's name may hold slashes, encoded or not.
    pub fn parse(path: &str) -> Result<Self, Refusal> {
        if path.is_empty() {
            return Ok(Self::default());
        }
        let (container, blob) = path.split_once('/').unwrap_or((path, ""));
        if container != ROOT && !is_container(container) {
            let shown: String = container.chars().take(80).collect();
            let message =
                format!("`{shown}` cannot be a container: 3 to 63 lower-case letters, digits and single hyphens");
            return Err(Refusal::bad("InvalidResourceName", message));
        }
        if container == ROOT {
            return Err(Refusal::not_here("the root container"));
        }
        let container = Some(container.to_owned());
        if blob.is_empty() {
            return Ok(Self { container, blob: None });
        }
        let blob = percent_decode_str(blob).decode_utf8();
        let blob = blob.map_err(|_| Refusal::bad("InvalidUri", "the blob's name is not UTF-8"))?.into_owned();
        if blob.chars().count() > NAME_CHARS {
            let message = format!("the blob's name has more than {NAME_CHARS} characters");
            return Err(Refusal::bad("InvalidResourceName", message));
        }
        if !blob.chars().all(|sign| xml::is_text(sign) && !sign.is_control()) {
            return Err(Refusal::bad("InvalidResourceName", "the blob's name has a control character"));
        }
        Ok(Self { container, blob: Some(blob) })
    }

    /// What audit records say it was done to, such as `photos/2026/a.jpg`.
    pub fn object(&self) -> String {
        match (&self.container, &self.blob) {
            (None, _) => String::new(),
            (Some(container), None) => container.clone(),
            (Some(container), Some(blob)) => format!("{container}/{blob}"),
        }
    }
}

impl Act {
    /// What is asked of `target`.
    pub fn read(method: &Method, target: &Target, query: &Query, headers: &HeaderMap) -> Result<Self, Refusal> {
        let (restype, comp) = (query.get("restype").unwrap_or_default(), query.get("comp").unwrap_or_default());
        let reads = matches!(*method, Method::GET | Method::HEAD);
        if restype == "account" && comp == "properties" {
            return if reads { Ok(Self::AccountInfo) } else { Err(Refusal::no_method()) };
        }
        match (&target.container, &target.blob) {
            (None, _) => match (method, restype, comp) {
                (&Method::GET, "", "list") => Ok(Self::ListContainers),
                (&Method::GET, "service", "properties") => Ok(Self::ServiceProperties),
                (&Method::PUT, "service", "properties") => {
                    Err(Refusal::not_here("changing the account (it is declared in system.toml)"))
                }
                (&Method::POST, "service", "userdelegationkey") => Ok(Self::DelegationKey),
                (_, _, "batch") => Err(Refusal::not_here("a batch")),
                (_, _, "blobs") => Err(Refusal::not_here("finding blobs by tags")),
                _ => Err(Refusal::query("comp", "the account has nothing of this name for this method")),
            },
            (Some(_), None) => {
                if restype != "container" {
                    return Err(Refusal::not_here("the root container"));
                }
                match (method, comp) {
                    (&Method::PUT, "") => Ok(Self::CreateContainer),
                    (_, "" | "metadata") if reads => Ok(Self::LookAtContainer),
                    (&Method::PUT, "metadata") => Ok(Self::SetContainerMetadata),
                    (&Method::DELETE, "") => Ok(Self::DeleteContainer),
                    (&Method::PUT, "lease") => Ok(Self::LeaseContainer),
                    (&Method::GET, "list") => Ok(Self::List),
                    (_, "acl") if reads => Ok(Self::ContainerAccess),
                    (&Method::PUT, "acl") => {
                        Err(Refusal::not_here("changing who may read a container (it is declared in system.toml)"))
                    }
                    (&Method::PUT, "undelete") => Err(Refusal::not_here("bringing back a container")),
                    (_, "batch") => Err(Refusal::not_here("a batch")),
                    _ => Err(Refusal::query("comp", "a container has nothing of this name for this method")),
                }
            }
            (Some(_), Some(_)) => match (method, comp) {
                (&Method::PUT, "") if headers.contains_key("x-ms-copy-source") => Ok(Self::Copy),
                (&Method::PUT, "") => Ok(Self::Put),
                (&Method::GET, "") => Ok(Self::Get),
                (&Method::HEAD, "") => Ok(Self::Look),
                (_, "metadata") if reads => Ok(Self::Look),
                (&Method::DELETE, "") => Ok(Self::Delete),
                (&Method::PUT, "block") => Ok(Self::PutBlock),
                (&Method::PUT, "blocklist") => Ok(Self::PutBlockList),
                (&Method::GET, "blocklist") => Ok(Self::GetBlockList),
                (&Method::PUT, "metadata") => Ok(Self::SetMetadata),
                (&Method::PUT, "properties") => Ok(Self::SetProperties),
                (&Method::PUT, "tier") => Ok(Self::SetTier),
                (&Method::PUT, "lease") => Ok(Self::Lease),
                (&Method::PUT, "snapshot") => Ok(Self::Snapshot),
                (&Method::PUT, "undelete") => Ok(Self::Undelete),
                (_, "tags") => Err(Refusal::not_here("tags of blobs")),
                (_, "appendblock" | "page" | "pagelist" | "seal") => Err(Refusal::not_here("an append or page blob")),
                (_, "immutabilitypolicies" | "legalhold") => {
                    Err(Refusal::not_here("immutability of one blob (it is declared for its container)"))
                }
                (_, "query") => Err(Refusal::not_here("a query of a blob's content")),
                (_, "copy") => {
                    Err(Refusal::conflict("NoPendingCopyOperation", "every copy is done when it is answered"))
                }
                _ => Err(Refusal::query("comp", "a blob has nothing of this name for this method")),
            },
        }
    }

    pub fn right(self, query: &Query) -> Right {
        match self {
            Self::AccountInfo | Self::ServiceProperties | Self::LookAtContainer | Self::ContainerAccess => Right::Look,
            Self::ListContainers | Self::List => Right::List,
            Self::DelegationKey => Right::Delegate,
            Self::CreateContainer | Self::SetContainerMetadata | Self::LeaseContainer => Right::Manage,
            Self::Get | Self::Look | Self::GetBlockList => Right::Read,
            Self::Delete if query.has("versionid") => Right::DeleteVersion,
            Self::Delete | Self::DeleteContainer => Right::Delete,
            Self::Put
            | Self::PutBlock
            | Self::PutBlockList
            | Self::SetMetadata
            | Self::SetProperties
            | Self::SetTier
            | Self::Lease
            | Self::Copy
            | Self::Snapshot
            | Self::Undelete => Right::Write,
        }
    }

    /// What audit records call it.
    pub const fn action(self) -> &'static str {
        match self {
            Self::AccountInfo | Self::ServiceProperties => "blob.account.look",
            Self::ListContainers => "blob.containers.list",
            Self::DelegationKey => "blob.delegate",
            Self::CreateContainer => "blob.container.create",
            Self::LookAtContainer | Self::ContainerAccess => "blob.container.look",
            Self::SetContainerMetadata => "blob.container.set",
            Self::DeleteContainer => "blob.container.delete",
            Self::LeaseContainer => "blob.container.lease",
            Self::List => "blob.list",
            Self::Put | Self::PutBlockList => "blob.put",
            Self::PutBlock => "blob.block.put",
            Self::Get => "blob.get",
            Self::Look | Self::GetBlockList => "blob.look",
            Self::Delete => "blob.delete",
            Self::SetMetadata | Self::SetProperties => "blob.set",
            Self::SetTier => "blob.tier",
            Self::Lease => "blob.lease",
            Self::Copy => "blob.copy",
            Self::Snapshot => "blob.snapshot",
            Self::Undelete => "blob.undelete",
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn a_slash_of_a_name_may_be_encoded() {
        let plain = Target::parse("photos/d/x%20y.txt").unwrap();
        assert_eq!(plain, Target::parse("photos/d%2Fx%20y.txt").unwrap());
        assert_eq!(plain.object(), "photos/d/x y.txt");
        for bad in ["Photos/x", "ph/x", "photos/%FF", "photos/a%00b", "../etc/passwd", "%2e%2e/x"] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_asked_for_is_about_a_container_or_refused(path in "[a-z0-9$%./-]{0,30}", comp in "[a-z]{0,10}") {
            let Ok(target) = Target::parse(&path) else { return Ok(()) };
            assert!(target.container.as_deref().is_none_or(is_container));
            assert!(target.container.is_some() || target.blob.is_none());
            for method in [Method::GET, Method::PUT, Method::POST, Method::DELETE, Method::PATCH] {
                let query = Query::read(&format!("restype=container&comp={comp}")).unwrap();
                let _ = Act::read(&method, &target, &query, &HeaderMap::new());
            }
        }
    }
}
