//! Key Vault references in settings, whole values only, in both of App Service's spellings:
//! `@Microsoft.KeyVault(VaultName=V;SecretName=S[;SecretVersion=X])` and `@Microsoft.KeyVault(SecretUri=https://...)`.
//! Source: Microsoft's App Service documentation, "Use Key Vault references".

/// A parsed reference.
#[derive(Debug, PartialEq, Eq)]
pub struct Reference {
    /// The vault's name; for a `SecretUri`, the first label of its host.
    pub vault: String,
    pub secret: String,
    pub version: Option<String>,
}

/// `None`: not a reference. `Some(Err)`: meant as one, and wrong.
pub fn parse(value: &str) -> Option<Result<Reference, String>> {
    let inner = value.trim().strip_prefix("@Microsoft.KeyVault(")?;
    let Some(inner) = inner.strip_suffix(')') else { return Some(Err("the closing parenthesis is missing".into())) };
    Some(parse_inner(inner))
}

fn parse_inner(inner: &str) -> Result<Reference, String> {
    let mut fields = std::collections::BTreeMap::new();
    for part in inner.split(';').filter(|p| !p.trim().is_empty()) {
        let (name, value) = part.split_once('=').ok_or_else(|| format!("`{part}` is not NAME=VALUE"))?;
        fields.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
    }
    if let Some(uri) = fields.get("secreturi") {
        let url: url::Url = uri.parse().map_err(|_| format!("`{uri}` is not a URL"))?;
        let host = url.host_str().unwrap_or_default();
        let vault = host.split('.').next().unwrap_or_default().to_owned();
        let mut path = url.path_segments().into_iter().flatten().filter(|s| !s.is_empty());
        if path.next() != Some("secrets") {
            return Err(format!("`{uri}` does not lead to /secrets/NAME"));
        }
        let secret = path.next().ok_or_else(|| format!("`{uri}` names no secret"))?.to_owned();
        return Ok(Reference { vault, secret, version: path.next().map(str::to_owned) });
    }
    let need = |name: &str, shown: &str| {
        fields.get(name).filter(|v| !v.is_empty()).cloned().ok_or_else(|| format!("{shown} is missing"))
    };
    Ok(Reference {
        vault: need("vaultname", "VaultName")?,
        secret: need("secretname", "SecretName")?,
        version: fields.get("secretversion").filter(|v| !v.is_empty()).cloned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(vault: &str, secret: &str, version: Option<&str>) -> Reference {
        Reference { vault: vault.into(), secret: secret.into(), version: version.map(Into::into) }
    }

    #[test]
    fn both_spellings_are_understood() {
        let by_name = parse("@Microsoft.KeyVault(VaultName=main;SecretName=Db--Pass)").unwrap().unwrap();
        assert_eq!(by_name, reference("main", "Db--Pass", None));
        let by_uri =
            parse("@Microsoft.KeyVault(SecretUri=https://main.vault.azure.net/secrets/Db--Pass/0a)").unwrap().unwrap();
        assert_eq!(by_uri, reference("main", "Db--Pass", Some("0a")));
        assert_eq!(
            parse("@Microsoft.KeyVault(SecretUri=https://m.v/secrets/a/)").unwrap().unwrap(),
            reference("m", "a", None)
        );
    }

    #[test]
    fn other_text_is_no_reference_and_broken_ones_say_why() {
        assert!(parse("plain").is_none());
        assert!(parse("x @Microsoft.KeyVault(VaultName=a;SecretName=b)").is_none());
        assert_eq!(parse("@Microsoft.KeyVault(VaultName=a)").unwrap().unwrap_err(), "SecretName is missing");
        assert!(parse("@Microsoft.KeyVault(VaultName=a;SecretName=b").unwrap().is_err());
        assert!(parse("@Microsoft.KeyVault(SecretUri=https://m.v/keys/a)").unwrap().unwrap_err().contains("/secrets/"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}") {
            let _ = parse(&text);
            let _ = parse(&format!("@Microsoft.KeyVault({text})"));
        }
    }
}
