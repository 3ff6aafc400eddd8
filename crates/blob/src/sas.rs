//! Shared access signatures: a URL that carries its own right. Of the account, of a container or a blob by the account's key,
//! and of the same by a key that was delegated to somebody, whose own rights bound it.

use api::Secret;
use aws_lc_rs::hmac;

use crate::{
    config::{Settings, Who},
    fields::Query,
    operation::{Right, Target},
    shared_key, time,
};

/// The oldest version whose signatures are read: of before, they sign less than they say.
const OLDEST: &str = "2018-11-09";
/// From this version on an encryption scope is signed too.
const SCOPES: &str = "2020-12-06";
/// A delegated key lives no longer, as on Azure.
pub const DELEGATED_SECONDS: i64 = 7 * 86_400;

/// A signature that is good: what it opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sas {
    permissions: String,
    /// Of the account: the kinds of resources, `s`, `c`, `o`.
    kinds: Option<String>,
    /// Of a container or a blob: which.
    scope: Option<Target>,
    /// Of one version or snapshot.
    mark: Option<String>,
    /// Who delegated it.
    pub by: Option<Who>,
}

/// Why a signature is not taken.
pub type Why = &'static str;

/// The names of a key that was delegated.
pub struct Delegation<'a> {
    pub subject: &'a str,
    pub tenant: &'a str,
    pub start: &'a str,
    pub expiry: &'a str,
    pub version: &'a str,
}

impl Delegation<'_> {
    /// The key: it derives from the role's root key and all that it is named by, so that nothing is kept of it.
    pub fn key(&self, root: &Secret) -> Secret {
        use base64::{
            Engine as _,
            engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
        };
        let Self { subject, tenant, start, expiry, version } = self;
        let derived = root.derive(&format!("delegation\n{subject}\n{tenant}\n{start}\n{expiry}\n{version}"));
        let bytes = URL_SAFE_NO_PAD.decode(derived.expose()).expect("a derived secret is base64url");
        Secret::new(STANDARD.encode(bytes))
    }
}

/// Reads and verifies the signature of a query.
pub fn read(
    settings: &Settings,
    root: &Secret,
    account_key: &hmac::Key,
    target: &Target,
    query: &Query,
    client: Option<std::net::IpAddr>,
    now_s: i64,
) -> Result<Sas, Why> {
    let get = |name: &str| query.get(name).unwrap_or_default();
    let (version, signature) = (get("sv"), get("sig"));
    let dated = version.len() == 10 && version.is_ascii();
    if !dated || version < OLDEST {
        return Err("`sv` is not a version whose signatures are taken here");
    }
    let account = settings.config.account.as_str();
    let sas = if query.has("ss") || query.has("srt") {
        by_key(settings)?;
        let mut text = String::new();
        for part in [account, get("sp"), get("ss"), get("srt"), get("st"), get("se"), get("sip"), get("spr"), version] {
            text.push_str(part);
            text.push('\n');
        }
        if version >= SCOPES {
            text.push_str(get("ses"));
            text.push('\n');
        }
        if !shared_key::is_signed(account_key, &text, signature) {
            return Err("the signature is not one of this account");
        }
        if !get("ss").contains('b') {
            return Err("it is for another service than blobs");
        }
        Sas { permissions: get("sp").into(), kinds: Some(get("srt").into()), scope: None, mark: None, by: None }
    } else {
        of_resource(settings, root, account_key, target, query, now_s)?
    };
    let ends = time::of_sas(get("se")).ok_or("`se` is not a time")?;
    let begins = query.get("st").map(|text| time::of_sas(text).ok_or("`st` is not a time")).transpose()?;
    if ends <= now_s {
        return Err("its time is over");
    }
    if begins.is_some_and(|begins| begins > now_s) {
        return Err("its time has not come");
    }
    if let Some(range) = query.get("sip")
        && !client.is_some_and(|client| lies_in(client, range))
    {
        return Err("it is for other addresses than yours");
    }
    if !get("ses").is_empty() {
        return Err("encryption scopes are not provided here");
    }
    Ok(sas)
}

fn by_key(settings: &Settings) -> Result<(), Why> {
    if settings.config.shared_key {
        Ok(())
    } else {
        Err("the key of this account opens nothing: no secret in system.toml asks for it")
    }
}

fn of_resource(
    settings: &Settings,
    root: &Secret,
    account_key: &hmac::Key,
    target: &Target,
    query: &Query,
    now_s: i64,
) -> Result<Sas, Why> {
    let get = |name: &str| query.get(name).unwrap_or_default();
    let (version, account) = (get("sv"), settings.config.account.as_str());
    let container = target.container.as_deref().ok_or("it is for a container or a blob")?;
    let (scope, mark) = match get("sr") {
        "c" => (Target { container: Some(container.into()), blob: None }, ""),
        "b" => (target.clone(), ""),
        "bv" => (target.clone(), get("versionid")),
        "bs" => (target.clone(), get("snapshot")),
        _ => return Err("`sr` is none of c, b, bv, bs"),
    };
    if get("sr") != "c" && (target.blob.is_none() || (get("sr") != "b" && mark.is_empty())) {
        return Err("it is for a blob, and the request names none");
    }
    let resource = format!("/blob/{account}/{}", scope.object());
    let mut parts = vec![get("sp"), get("st"), get("se"), &resource];
    let delegated = query.has("skoid");
    if delegated {
        if version < SCOPES {
            return Err("`sv` is not a version whose delegated signatures are taken here");
        }
        parts.extend(["skoid", "sktid", "skt", "ske", "sks", "skv", "saoid", "suoid", "scid"].map(get));
        if version >= "2025-07-05" {
            parts.extend([get("skdutid"), get("sduoid")]);
        }
    } else {
        by_key(settings)?;
        if query.has("si") {
            return Err("stored access policies are not provided here");
        }
        parts.push("");
    }
    parts.extend([get("sip"), get("spr"), version, get("sr"), mark]);
    if version >= SCOPES {
        parts.push(get("ses"));
    }
    if delegated && version >= "2026-04-06" {
        // Fields and queries that must be there: none is provided, and a signature that names some is another.
        parts.extend(["", ""]);
    }
    parts.extend(["rscc", "rscd", "rsce", "rscl", "rsct"].map(get));
    let text = parts.join("\n");
    let by = if delegated { Some(delegation(root, query, &text, now_s)?) } else { None };
    if by.is_none() && !shared_key::is_signed(account_key, &text, get("sig")) {
        return Err("the signature is not one of this account");
    }
    let mark = Some(mark.to_owned()).filter(|mark| !mark.is_empty());
    Ok(Sas { permissions: get("sp").into(), kinds: None, scope: Some(scope), mark, by })
}

fn delegation(root: &Secret, query: &Query, text: &str, now_s: i64) -> Result<Who, Why> {
    let get = |name: &str| query.get(name).unwrap_or_default();
    let of = Delegation {
        subject: get("skoid"),
        tenant: get("sktid"),
        start: get("skt"),
        expiry: get("ske"),
        version: get("skv"),
    };
    let key = shared_key::key(&of.key(root)).ok_or("the key of the signature is none")?;
    if !shared_key::is_signed(&key, text, get("sig")) {
        return Err("the signature is not one of a key of this account");
    }
    if ["saoid", "suoid", "skdutid", "sduoid"].iter().any(|name| query.has(name)) {
        return Err("signatures for one other person are not provided here");
    }
    let (begins, ends) = (time::of_sas(of.start), time::of_sas(of.expiry));
    if get("sks") != "b" || begins.is_none_or(|b| b > now_s) || ends.is_none_or(|e| e <= now_s) {
        return Err("the time of the key of the signature is over, or has not come");
    }
    Ok(Who { subject: of.subject.to_owned(), groups: Vec::new() })
}

fn lies_in(client: std::net::IpAddr, range: &str) -> bool {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    match (first.parse::<std::net::IpAddr>(), last.parse::<std::net::IpAddr>()) {
        (Ok(first), Ok(last)) => first <= client && client <= last,
        _ => false,
    }
}

impl Sas {
    /// Whether it opens this act; and if it does for new blobs only, `only_new`.
    pub fn allows(&self, settings: &Settings, right: Right, target: &Target, query: &Query) -> Option<Opened> {
        if let Some(by) = &self.by
            && !settings.allows(by, right, target.container.as_deref())
        {
            return None;
        }
        let has = |letter: char| self.permissions.contains(letter);
        let kind = match (&target.container, &target.blob) {
            (None, _) => 's',
            (Some(_), None) => 'c',
            (Some(_), Some(_)) => 'o',
        };
        match (&self.kinds, &self.scope) {
            (Some(kinds), _) if kinds.contains(kind) => {}
            (None, Some(scope)) => {
                let within = scope.container == target.container && (scope.blob.is_none() || scope.blob == target.blob);
                // It opens what is in a container, not the container itself.
                if !within || (kind == 'c' && right != Right::List) {
                    return None;
                }
            }
            _ => return None,
        }
        let asked = query.get("versionid").or(query.get("snapshot"));
        let of_one = self.scope.as_ref().is_some_and(|scope| scope.blob.is_some());
        // Of a blob it opens what is current and nothing of before; of a version that version alone.
        if of_one && asked != self.mark.as_deref() {
            return None;
        }
        let fully = match right {
            Right::Read | Right::Look => has('r'),
            Right::List => has('l'),
            Right::Write => has('w'),
            Right::Delete => has('d'),
            Right::DeleteVersion => has('x'),
            Right::Manage => has('w') || (has('c') && query.get("comp").is_none()),
            Right::Delegate => false,
        };
        match (fully, right) {
            (true, _) => Some(Opened::Fully),
            (false, Right::Write) if has('c') => Some(Opened::OnlyNew),
            _ => None,
        }
    }
}

/// How far a signature opens an act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    Fully,
    /// As long as there is no blob of this name.
    OnlyNew,
}
