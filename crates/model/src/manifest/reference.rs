//! What may stand inside a text: `{stamp}`, `{postgres.main.host}`, `@Microsoft.KeyVault(...)`.

use std::ops::Range;

use super::{
    node::{Entry, Node},
    read::Reader,
};
use crate::{
    diagnostic::{Code, Diagnostic},
    id::{Kind, ResourceId},
    suggest,
    value::{Output, Segment, Value, VaultReference},
};

/// What `{...}` can stand for in any text.
const WORDS: [&str; 3] = ["stamp", "system", "region"];

/// A `{...}` that stands for nothing.
pub(crate) struct BadBrace {
    message: String,
    hint: String,
}

impl BadBrace {
    pub fn at(self, span: Range<usize>) -> Diagnostic {
        Diagnostic::new(Code::S0111, span, self.message).hint(self.hint)
    }
}

enum Part<'t> {
    Text(&'t str),
    Brace(&'t str),
}

/// Cuts a text at its braces; `{{` and `}}` stand for one brace.
fn parts(text: &str) -> Result<Vec<Part<'_>>, BadBrace> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (head, tail) = rest.split_at(at);
        if !head.is_empty() {
            parts.push(Part::Text(head));
        }
        if tail.starts_with("{{") || tail.starts_with("}}") {
            parts.push(Part::Text(&tail[..1]));
            rest = &tail[2..];
        } else if tail.starts_with('{') {
            let Some(end) = tail.find('}') else {
                return Err(BadBrace {
                    message: "a `{` is not closed".into(),
                    hint: "write `{{` for the brace itself".into(),
                });
            };
            parts.push(Part::Brace(tail[1..end].trim()));
            rest = &tail[end + 1..];
        } else {
            return Err(BadBrace {
                message: "a `}` was not opened".into(),
                hint: "write `}}` for the brace itself".into(),
            });
        }
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest));
    }
    Ok(parts)
}

/// A text whose braces hold words of the stamp only.
pub(crate) fn fill(text: &str, word: impl Fn(&str) -> Option<String>) -> Result<String, BadBrace> {
    let mut filled = String::new();
    for part in parts(text)? {
        match part {
            Part::Text(text) => filled.push_str(text),
            Part::Brace(name) => filled.push_str(&word(name).ok_or_else(|| unknown_word(name))?),
        }
    }
    Ok(filled)
}

fn unknown_word(name: &str) -> BadBrace {
    if name == "region" {
        return BadBrace {
            message: "`{region}` stands for nothing: the stamp has no region".into(),
            hint: "give the stamp a `region`".into(),
        };
    }
    let hint = if name.contains('.') {
        "outputs of resources can be used in environment variables only".to_owned()
    } else if let Some(near) = suggest::nearest(name, WORDS) {
        format!("did you mean `{{{near}}}`?")
    } else {
        "here `{stamp}`, `{system}` and `{region}` can be used; write `{{` for the brace itself".to_owned()
    };
    BadBrace { message: format!("`{{{name}}}` stands for nothing here"), hint }
}

/// The value of an environment variable.
pub(crate) fn value(reader: &Reader<'_>, entry: &Entry) -> Option<Value> {
    let text = entry.node.as_text()?;
    let span = entry.node.span.clone();
    if text.get(..20).is_some_and(|head| head.eq_ignore_ascii_case("@Microsoft.KeyVault("))
        || text.starts_with("@Microsoft.KeyVault")
    {
        return vault_reference(reader, &entry.node).map(Value::Vault);
    }
    let parts = match parts(text) {
        Ok(parts) => parts,
        Err(fault) => {
            reader.fault(fault.at(span));
            return None;
        }
    };
    let mut segments: Vec<Segment> = Vec::new();
    let push_text = |segments: &mut Vec<Segment>, text: &str| match segments.last_mut() {
        Some(Segment::Text(before)) => before.push_str(text),
        _ => segments.push(Segment::Text(text.to_owned())),
    };
    let mut whole = true;
    for part in parts {
        match part {
            Part::Text(text) => push_text(&mut segments, text),
            Part::Brace(name) => match reader.word_of_stamp(name) {
                Some(text) => push_text(&mut segments, &text),
                None => match output(reader, name, &span) {
                    Some(segment) => segments.push(segment),
                    None => whole = false,
                },
            },
        }
    }
    if let [Segment::Text(text)] = segments.as_slice() {
        refuse_secret(reader, entry, text);
    }
    whole.then_some(Value::Template(segments))
}

/// `RESOURCE.OUTPUT`.
fn output(reader: &Reader<'_>, name: &str, span: &Range<usize>) -> Option<Segment> {
    let wrong = |message: String, hint: String| {
        reader.fault(Diagnostic::new(Code::S0111, span.clone(), message).hint(hint));
        None
    };
    let Some((resource, word)) = name.rsplit_once('.') else {
        reader.fault(match name {
            "region" => unknown_word(name).at(span.clone()),
            _ => Diagnostic::new(Code::S0111, span.clone(), format!("`{{{name}}}` stands for nothing")).hint(match suggest::nearest(name, WORDS) {
                Some(near) => format!("did you mean `{{{near}}}`?"),
                None => "write `{stamp}`, `{system}`, `{region}`, or `{RESOURCE.OUTPUT}` such as `{postgres.main.host}`; `{{` for the brace itself".to_owned(),
            }),
        });
        return None;
    };
    let Ok(id) = resource.parse::<ResourceId>() else {
        let message = format!("`{{{name}}}` stands for nothing: `{resource}` is not the name of a resource");
        return wrong(message, "write `{KIND.NAME.OUTPUT}`, such as `{postgres.main.host}` or `{edge.url}`".into());
    };
    if !reader.known.contains(&id) {
        reader.unknown_resource(&id, span.clone());
        return None;
    }
    let outputs = Output::of(id.kind);
    let Some(output) = outputs.iter().find(|o| o.word() == word) else {
        let words: Vec<&str> = outputs.iter().map(|o| o.word()).collect();
        let hint = match suggest::nearest(word, words.iter().copied()) {
            Some(near) => format!("did you mean `{{{id}.{near}}}`?"),
            None if words.is_empty() => format!("a {} gives out nothing", id.kind),
            None => format!("it gives out {}", words.join(", ")),
        };
        return wrong(format!("`{id}` does not give out `{word}`"), hint);
    };
    Some(Segment::Output { resource: id, output: *output })
}

/// `@Microsoft.KeyVault(VaultName=..;SecretName=..[;SecretVersion=..])` or `@Microsoft.KeyVault(SecretUri=https://..)`.
pub(crate) fn vault_reference(reader: &Reader<'_>, node: &Node) -> Option<VaultReference> {
    let text = reader.filled(node)?;
    let wrong = |why: &str| {
        let fault = Diagnostic::new(Code::S0112, node.span.clone(), "cannot read the vault reference").note(why);
        reader.fault(fault.hint("write `@Microsoft.KeyVault(VaultName=main;SecretName=NAME)` or `@Microsoft.KeyVault(SecretUri=https://main.vault.azure.net/secrets/NAME)`"));
        None
    };
    let Some(inside) = text.strip_prefix("@Microsoft.KeyVault(").and_then(|t| t.strip_suffix(')')) else {
        return wrong("it starts with `@Microsoft.KeyVault(` and ends with `)`, in these letters");
    };
    let (mut vault, mut secret, mut version, mut uri) = (None, None, None, None);
    for part in inside.split(';').filter(|part| !part.trim().is_empty()) {
        let Some((key, value)) = part.split_once('=') else {
            return wrong(&format!("`{part}` is not KEY=VALUE"));
        };
        let place = match key.trim().to_ascii_lowercase().as_str() {
            "vaultname" => &mut vault,
            "secretname" => &mut secret,
            "secretversion" => &mut version,
            "secreturi" => &mut uri,
            _ => return wrong(&format!("`{key}` is none of VaultName, SecretName, SecretVersion, SecretUri")),
        };
        if place.replace(value.trim().to_owned()).is_some() {
            return wrong(&format!("`{key}` stands there twice"));
        }
    }
    let (vault, secret, version) = match (uri, vault, secret) {
        (Some(uri), None, None) if version.is_none() => {
            let Some(parts) = split_uri(&uri, reader) else {
                return wrong("SecretUri is `https://NAME.vault.azure.net/secrets/SECRET[/VERSION]`");
            };
            parts
        }
        (None, Some(vault), Some(secret)) => (vault, secret, version),
        _ => return wrong("it has VaultName and SecretName, or SecretUri alone"),
    };
    if vault.is_empty() || secret.is_empty() {
        return wrong("a name is empty");
    }
    let version = version.filter(|v| !v.is_empty());
    let Some(id) = find_vault(reader, &vault) else {
        let vaults: Vec<&str> =
            reader.known.iter().filter(|id| id.kind == Kind::Vault).map(|id| id.name.as_str()).collect();
        let fault = Diagnostic::new(Code::S0113, node.span.clone(), format!("no vault `{vault}` is declared"));
        let mut fault = suggest::hint(fault, &vault, vaults.iter().copied());
        if fault.hint.is_none() {
            fault.hint = Some(match vaults.as_slice() {
                [] => "declare one, such as `[vault.main]`".to_owned(),
                _ => format!("the vaults are {}; a name it had in the cloud is its `cloud_name`", vaults.join(", ")),
            });
        }
        reader.fault(fault);
        return None;
    };
    let secrets = reader.root.get("vault").and_then(|v| v.get(&id.name)?.get("secrets")).map_or(&[][..], Node::entries);
    // Names of secrets are one whatever their case, as in Key Vault.
    let Some(found) = secrets.iter().find(|s| s.key.eq_ignore_ascii_case(&secret)) else {
        let fault = Diagnostic::new(Code::S0113, node.span.clone(), format!("`{id}` has no secret `{secret}`"));
        let mut fault = suggest::hint(fault, &secret, secrets.iter().map(|s| s.key.as_str()));
        if fault.hint.is_none() {
            fault.hint =
                Some(format!("say where its value comes from: `[{id}.secrets]`, `{secret} = {{ ask = true }}`"));
        }
        reader.fault(fault);
        return None;
    };
    Some(VaultReference { vault: id, secret: found.key.clone(), version, text })
}

/// Vault, secret and version of a secret's URI. Hosts are Azure's, or this stamp's own.
fn split_uri(uri: &str, reader: &Reader<'_>) -> Option<(String, String, Option<String>)> {
    let rest = uri.strip_prefix("https://")?;
    let (host, path) = rest.split_once('/')?;
    let host = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let own = format!(".vault.{}.{}.internal", reader.stamp, reader.manifest.name());
    let vault = host.strip_suffix(".vault.azure.net").or_else(|| host.strip_suffix(own.as_str()))?;
    let mut path = path.strip_prefix("secrets/")?.trim_end_matches('/').split('/');
    let secret = path.next().filter(|s| !s.is_empty())?;
    let version = path.next().map(str::to_owned);
    path.next().is_none().then(|| (vault.to_owned(), secret.to_owned(), version))
}

/// The vault called `name`, by its own name or the one it had in the cloud.
fn find_vault(reader: &Reader<'_>, name: &str) -> Option<ResourceId> {
    let own = ResourceId::new(Kind::Vault, name);
    if reader.known.contains(&own) {
        return Some(own);
    }
    let vaults = reader.root.get("vault").map_or(&[][..], Node::entries);
    let found = vaults.iter().find(|entry| {
        let cloud = entry.node.get("cloud_name").and_then(Node::as_text);
        let cloud = cloud.and_then(|text| fill(text, |word| reader.word_of_stamp(word)).ok());
        cloud.is_some_and(|cloud| cloud.eq_ignore_ascii_case(name))
    })?;
    Some(ResourceId::new(Kind::Vault, found.key.clone()))
}

/// Refuses what looks like a secret in plain text.
fn refuse_secret(reader: &Reader<'_>, entry: &Entry, text: &str) {
    const NAMES: [&str; 7] = ["PASSWORD", "PASSWD", "SECRET", "API_KEY", "APIKEY", "ACCESS_KEY", "PRIVATE_KEY"];
    const PARTS: [&str; 4] = ["password=", "pwd=", "accountkey=", "sharedaccesskey="];
    let name = entry.key.to_ascii_uppercase();
    let lower = text.to_ascii_lowercase().replace(' ', "");
    let login = text.split_once("://").is_some_and(|(_, rest)| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        authority
            .rsplit_once('@')
            .is_some_and(|(user, _)| user.split_once(':').is_some_and(|(_, password)| !password.is_empty()))
    });
    let by_name = !text.is_empty() && NAMES.iter().any(|end| name.ends_with(end));
    if by_name || login || PARTS.iter().any(|part| lower.contains(part)) || text.contains("-----BEGIN") {
        let fault = Diagnostic::new(
            Code::S0120,
            entry.key_span.clone(),
            format!("`{}` looks like a secret in plain text", entry.key),
        );
        let name: String = entry.key.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        reader.fault(fault.note("a manifest holds no secret; a vault does, and a person or the platform puts it there").hint(format!(
            "declare `[vault.main.secrets]`, `{name} = {{ ask = true }}`, and refer to it: `@Microsoft.KeyVault(VaultName=main;SecretName={name})`"
        )));
    }
}
