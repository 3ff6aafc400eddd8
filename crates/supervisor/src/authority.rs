//! The stamp's certificate authority and root keys: one file that only the supervisor's user reads.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use api::Secret;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, SanType,
};
use serde::Deserialize;

use crate::{Error, files};

const VERSION: u32 = 1;
/// Ten years: whoever imports the CA does so once.
const CA_LIFE: Duration = Duration::from_secs(3650 * 86_400);

/// The root of a stamp's trust.
pub struct Authority {
    pub ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
    keys: Mutex<BTreeMap<String, Secret>>,
    path: PathBuf,
    ca_key: Secret,
}

#[derive(Deserialize)]
struct Stored {
    version: u32,
    ca_cert: String,
    ca_key: Secret,
    keys: BTreeMap<String, Secret>,
}

impl Authority {
    /// Reads the stamp's root file.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("root/keys.json");
        let text = std::fs::read_to_string(&path).map_err(Error::file("read", &path))?;
        Self::read(path, Secret::new(text))
    }

    /// Reads the stamp's root file, or makes it.
    pub fn ensure(folder: &Path, zone: &str, cloud_names: bool) -> Result<Self, Error> {
        if Self::is_there(folder) {
            return Self::open(folder);
        }
        let root = folder.join("root");
        crate::home::make(&root, 0o700).map_err(Error::file("make", &root))?;
        Self::make(root.join("keys.json"), zone, cloud_names)
    }

    /// Whether the stamp has its root file.
    pub fn is_there(folder: &Path) -> bool {
        folder.join("root/keys.json").exists()
    }

    fn read(path: PathBuf, text: Secret) -> Result<Self, Error> {
        let stored: Stored = serde_json::from_str(text.expose()).map_err(|e| Error::File {
            what: "understand",
            path: path.clone(),
            source: std::io::Error::other(e.to_string()),
        })?;
        if stored.version > VERSION {
            return Err(Error::Fault(format!(
                "{} is of version {}; this binary reads {VERSION}",
                path.display(),
                stored.version
            )));
        }
        let failed = |source| Error::Certificate { name: "the stamp's CA".into(), source };
        let key = KeyPair::from_pem(stored.ca_key.expose()).map_err(failed)?;
        let issuer = Issuer::from_ca_cert_pem(&stored.ca_cert, key).map_err(failed)?;
        Ok(Self { ca_pem: stored.ca_cert, issuer, keys: Mutex::new(stored.keys), path, ca_key: stored.ca_key })
    }

    fn make(path: PathBuf, zone: &str, cloud_names: bool) -> Result<Self, Error> {
        let failed = |source| Error::Certificate { name: "the stamp's CA".into(), source };
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::default();
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, format!("Stampwright CA of {zone}"));
        params.distinguished_name = name;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // Whoever trusts this CA trusts it for this stamp only.
        let mut permitted = vec![
            GeneralSubtree::DnsName(zone.to_owned()),
            GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix(Ipv4Addr::new(127, 0, 0, 0).octets(), 8)),
        ];
        if cloud_names {
            permitted.push(GeneralSubtree::DnsName("vault.azure.net".into()));
            permitted.push(GeneralSubtree::DnsName("blob.core.windows.net".into()));
        }
        params.name_constraints =
            Some(NameConstraints { permitted_subtrees: permitted, excluded_subtrees: Vec::new() });
        (params.not_before, params.not_after) = validity(CA_LIFE);
        let cert = params.self_signed(&key).map_err(failed)?;
        let ca_key = Secret::new(key.serialize_pem());
        let ca_pem = cert.pem();
        let issuer = Issuer::new(params, key);
        let made = Self { ca_pem, issuer, keys: Mutex::default(), path, ca_key };
        made.save(&BTreeMap::new())?;
        Ok(made)
    }

    /// Makes the root file of a stamp that takes another's keys over, with a CA of its own; one that is there stays.
    pub fn adopt(folder: &Path, zone: &str, cloud_names: bool, keys: BTreeMap<String, Secret>) -> Result<(), Error> {
        let root = folder.join("root");
        crate::home::make(&root, 0o700).map_err(Error::file("make", &root))?;
        let path = root.join("keys.json");
        if path.exists() {
            return Ok(());
        }
        // Under another name first: with its own, it is whole.
        let half = root.join("keys.adopted");
        let made = Self::make(half.clone(), zone, cloud_names)?;
        made.save(&keys)?;
        std::fs::rename(&half, &path).map_err(Error::file("name", path))
    }

    /// All root keys, as they are sealed for another machine: without the CA, which another stamp has of its own.
    pub fn content(&self, tenant: &str) -> Secret {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let keys: BTreeMap<&str, &str> = keys.iter().map(|(k, v)| (k.as_str(), v.expose())).collect();
        Secret::new(serde_json::json!({ "version": VERSION, "tenant": tenant, "keys": keys }).to_string())
    }

    fn save(&self, keys: &BTreeMap<String, Secret>) -> Result<(), Error> {
        let keys: BTreeMap<&str, &str> = keys.iter().map(|(k, v)| (k.as_str(), v.expose())).collect();
        let text = serde_json::json!({
            "version": VERSION,
            "ca_cert": self.ca_pem,
            "ca_key": self.ca_key.expose(),
            "keys": keys,
        });
        let text = Secret::new(text.to_string());
        files::write(&self.path, text.expose().as_bytes(), 0o600, None).map_err(Error::file("write", &self.path))
    }

    /// The root key called `name`, made at its first use and kept.
    pub fn key(&self, name: &str) -> Result<Secret, Error> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = keys.get(name) {
            return Ok(key.clone());
        }
        let key = Secret::random();
        keys.insert(name.to_owned(), key.clone());
        if let Err(error) = self.save(&keys) {
            // A key that is not on the disk must not be used: after a restart it would be another.
            keys.remove(name);
            return Err(error);
        }
        Ok(key)
    }

    /// The root key called `name`, if it was made.
    pub fn known(&self, name: &str) -> Option<Secret> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Puts another key in the place of the one called `name`.
    pub fn replace(&self, name: &str, key: &Secret) -> Result<(), Error> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = keys.clone();
        changed.insert(name.to_owned(), key.clone());
        self.save(&changed)?;
        *keys = changed;
        Ok(())
    }

    /// A certificate and key (PEM) for these names and this address, from an hour ago until `life` is over: to be shown as a
    /// server, and, if `calls`, as a client too.
    pub fn issue(
        &self,
        names: &[String],
        address: IpAddr,
        life: Duration,
        calls: bool,
    ) -> Result<(Secret, Secret), Error> {
        let shown = names.first().cloned().unwrap_or_else(|| address.to_string());
        let failed = |source| Error::Certificate { name: shown.clone(), source };
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::new(names.to_vec()).map_err(failed)?;
        // Addresses of a closed network are not this CA's to vouch for: others may have them too. There, names are used.
        if address.is_loopback() {
            params.subject_alt_names.push(SanType::IpAddress(address));
        }
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, "stampwright");
        params.distinguished_name = name;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if calls {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = validity(life);
        let cert = params.signed_by(&key, &self.issuer).map_err(failed)?;
        let chain = format!("{}{}", cert.pem(), self.ca_pem);
        Ok((Secret::new(chain), Secret::new(key.serialize_pem())))
    }
}

/// From an hour ago, for clocks that differ, until `life` from now is over.
fn validity(life: Duration) -> (time::OffsetDateTime, time::OffsetDateTime) {
    let now = time::OffsetDateTime::now_utc();
    (now - time::Duration::hours(1), now + life)
}
