//! Changes of a system under which checks must fail: `sabotages.toml` beside the claims. A sabotage never touches a check
//! or what a check reads; it changes what is looked at.

use api::supervisor::{LinkRequest, NetworkStatus};
use serde::Deserialize;

use crate::{Error, Lab, Ledger, Miss, Report, Site, outcome::Outcome, patched};

/// One change of the system.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sabotage {
    /// What is wrong now, in a few words.
    pub name: String,
    #[serde(flatten)]
    pub spoil: Spoil,
    /// The rows that must fail with it. All others that were shown before must still be.
    pub fails: Vec<String>,
}

/// How the system is spoilt.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Spoil {
    /// TOML laid on the manifest before the stamps come up.
    pub manifest: Option<String>,
    /// Statements on the database as the owner of the schema, once the stamps are up.
    pub sql: Option<String>,
    /// A file of a resource's place gets this text at its beginning, and its main process is asked (SIGHUP) to read it.
    pub prepend: Option<Prepend>,
    /// The router of the stamp's closed network lets everything pass.
    #[serde(default)]
    pub bypass: bool,
    /// These links of the stamp's closed network are cut, each between two workloads.
    #[serde(default)]
    pub cut: Vec<(String, String)>,
    /// A file of the application's sources gets this text at its end.
    pub source: Option<Planted>,
    /// The port of this workload is open on the machine's own network as well: we forward it.
    pub forward: Option<String>,
    /// Somebody in one workload's place speaks to another without TLS, again and again.
    pub plain: Option<Plain>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plain {
    pub from: String,
    pub to: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepend {
    pub resource: String,
    /// From the resource's folder, such as `data/conf/pg_hba.conf`.
    pub file: String,
    pub text: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planted {
    /// From the system's folder, such as `src/domain.rs`.
    pub file: String,
    pub text: String,
}

/// All sabotages of a system.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sabotages {
    pub sabotage: Vec<Sabotage>,
    /// Rows with a check that no sabotage makes fail, and why.
    #[serde(default)]
    pub without: Vec<Without>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Without {
    pub claim: String,
    pub why: String,
}

impl Sabotages {
    /// Reads the text of a `sabotages.toml`.
    ///
    /// # Errors
    /// It is not understood.
    pub fn parse(text: &str) -> Result<Self, Error> {
        toml_edit::de::from_str(text).map_err(|e| Error::File { file: "sabotages.toml".into(), what: e.to_string() })
    }

    /// Rows that a sabotage names and that the ledger does not have.
    pub fn strangers<'a>(&'a self, ledger: &Ledger) -> Vec<&'a str> {
        let known = |id: &str| ledger.rows.iter().any(|r| r.id == id);
        let named = self.sabotage.iter().flat_map(|s| &s.fails).chain(self.without.iter().map(|w| &w.claim));
        named.map(String::as_str).filter(|id| !known(id)).collect()
    }

    /// Rows that have a check and that no sabotage makes fail.
    pub fn unpaired<'a>(&self, ledger: &'a Ledger) -> Vec<&'a str> {
        let spoilt = |id: &str| self.sabotage.iter().any(|s| s.fails.iter().any(|f| f == id));
        ledger.rows.iter().filter(|r| r.call.is_some() && !spoilt(&r.id)).map(|r| r.id.as_str()).collect()
    }
}

impl Sabotage {
    /// The manifest with this sabotage laid on.
    ///
    /// # Errors
    /// It would be refused: with it nothing comes up, so that every row fails and none of them says anything.
    pub fn manifest(&self, manifest: &str) -> Result<String, Error> {
        let Some(changes) = &self.spoil.manifest else { return Ok(manifest.into()) };
        let text = patched(manifest, changes)?;
        if let Err(faults) = model::Manifest::parse(&text) {
            let first = faults.first().map(|fault| fault.message.clone()).unwrap_or_default();
            let what = format!("`{}`: the manifest is refused: {first}", self.name);
            return Err(Error::File { file: "sabotages.toml".into(), what });
        }
        Ok(text)
    }

    /// What is spoilt once a stamp is up.
    pub async fn spoil(&self, lab: &Lab, stamp: &str) -> Result<(), Miss> {
        if let Some(sql) = &self.spoil.sql {
            let site = lab.site(stamp).await?;
            as_owner(&site, sql).await?;
        }
        if let Some(planted) = &self.spoil.source {
            lab.spoil_source(&planted.file, &planted.text);
        }
        if self.spoil.bypass {
            let site = lab.site(stamp).await?;
            let place = site.status.resources.iter().find_map(|r| r.place.as_ref());
            let folder = place.and_then(|place| place.namespace.parent());
            let folder = folder.ok_or_else(|| Miss::Failed(format!("{stamp} has no closed network")))?;
            drivers::network::Network::at(folder.to_owned()).bypass()?;
        }
        for (one, other) in &self.spoil.cut {
            let site = lab.site(stamp).await?;
            let api::supervisor::StampRef { system, stamp } = site.of();
            let cut = LinkRequest { system, stamp, one: one.clone(), other: other.clone(), loses: 100, kib_s: 0 };
            let _: NetworkStatus = site.supervisor.post("/network", &cut).await?;
        }
        if let Some(workload) = &self.spoil.forward {
            let site = lab.site(stamp).await?;
            forward(&site, workload).await?;
        }
        if let Some(plain) = &self.spoil.plain {
            let site = lab.site(stamp).await?;
            speak_plainly(&site, plain)?;
        }
        if let Some(prepend) = &self.spoil.prepend {
            let site = lab.site(stamp).await?;
            let place = site.places.get(&prepend.resource);
            let place = place.ok_or_else(|| Miss::Failed(format!("there is no {}", prepend.resource)))?;
            // Its data may lie on a disk that only it sees.
            let shim = site.pids(&prepend.resource).first().copied();
            let path = place.join(&prepend.file);
            let path = shim.map_or(path.clone(), |shim| drivers::volume::inside(shim, &path));
            let text = std::fs::read_to_string(&path)?;
            std::fs::write(&path, format!("{}{text}", prepend.text))?;
            // The shim, its keeper, then what the keeper started.
            let pid = site.pids(&prepend.resource).get(2).and_then(|pid| rustix::process::Pid::from_raw(*pid as i32));
            let pid = pid.ok_or_else(|| Miss::Failed(format!("{} has no process of its own", prepend.resource)))?;
            rustix::process::kill_process(pid, rustix::process::Signal::HUP)?;
        }
        Ok(())
    }

    /// What differs from what was meant: rows that should fail and did not, and rows that failed with it.
    pub fn faults(&self, before: &Report, with: &Report) -> Vec<String> {
        let mut faults = Vec::new();
        for finding in &with.claims {
            let was = before.claims.iter().find(|f| f.id == finding.id).map(|f| f.outcome);
            let meant = self.fails.contains(&finding.id);
            let failed = finding.outcome == Outcome::Failed;
            if !meant && finding.outcome == Outcome::Unchecked {
                continue;
            }
            if meant && !failed {
                faults.push(format!(
                    "{} should fail and is {}: {}",
                    finding.id,
                    finding.outcome.word(),
                    finding.observed
                ));
            } else if !meant && failed && was != Some(Outcome::Failed) {
                faults.push(format!("{} fails as well: {}", finding.id, finding.observed));
            }
        }
        // A run may be about some rows only; one that is about none of these says nothing.
        if !with.claims.iter().any(|f| self.fails.contains(&f.id)) {
            faults.push(format!("none of {} was looked at", self.fails.join(", ")));
        }
        faults
    }
}

/// Takes connections at the loopback address of the workload's number and passes them on, for as long as we run.
async fn forward(site: &Site, workload: &str) -> Result<(), Miss> {
    let (edge, way) = (site.address("edge")?, site.way(workload)?);
    let (std::net::IpAddr::V4(block), std::net::IpAddr::V4(own)) = (edge.ip(), way.address.ip()) else {
        return Err(Miss::Failed("an address is not IPv4".into()));
    };
    let [a, b, c, _] = block.octets();
    let at = std::net::Ipv4Addr::new(a, b, c, own.octets()[3]);
    let listener = tokio::net::TcpListener::bind((at, way.address.port())).await?;
    tokio::spawn(async move {
        while let Ok((mut outer, _)) = listener.accept().await {
            if let Ok(mut inner) = way.connect().await {
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut outer, &mut inner).await });
            }
        }
    });
    Ok(())
}

/// Says the same in the clear from the place of one workload to another, for as long as we run.
fn speak_plainly(site: &Site, plain: &Plain) -> Result<(), Miss> {
    let place = site.status.resources.iter().find(|r| r.name == plain.from).and_then(|r| r.place.as_ref());
    let place = place.ok_or_else(|| Miss::Failed(format!("{} has no place in a closed network", plain.from)))?;
    let (path, to) = (place.namespace.clone(), site.address(&plain.to)?);
    tokio::spawn(async move {
        loop {
            let path = path.clone();
            let said = move || {
                use std::io::Write as _;
                drivers::network::namespace::connect(&path, to)?.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            };
            // The stamp may be gone, or away for a moment.
            let _ = tokio::task::spawn_blocking(said).await;
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    });
    Ok(())
}

/// Runs statements as the owner of the schema.
pub async fn as_owner(site: &Site, sql: &str) -> Result<(), Miss> {
    Ok(owner(site).await?.batch_execute(sql).await?)
}

/// A connection of an owner of the database: a role of its own for this, made by the keeper.
pub async fn owner(site: &Site) -> Result<tokio_postgres::Client, Miss> {
    let way = site.way(&site.first("postgres")?)?;
    owner_by(site, &way).await
}

/// As [`owner`], to the server at the end of `way`, which may be another member.
pub async fn owner_by(site: &Site, way: &crate::site::Way) -> Result<tokio_postgres::Client, Miss> {
    crate::sql::connect_by(&role(site).await?, way).await
}

/// How a program in the place of a service connects as an owner of the database.
pub async fn owner_string(site: &Site) -> Result<String, Miss> {
    let way = site.way(&site.first("postgres")?)?;
    Ok(format!("Host={};Port={};{}", way.name, way.address.port(), role(site).await?))
}

/// Makes the role anew; the string by which it connects, without a host.
async fn role(site: &Site) -> Result<String, Miss> {
    let postgres = site.first("postgres")?;
    let control = site.control(&postgres)?;
    let declared = site.system.databases().find(|(id, _)| id.to_string() == postgres);
    let database = declared.and_then(|(_, p)| p.databases.first().cloned());
    let database = database.ok_or_else(|| Miss::Failed(format!("{postgres} has no database")))?;
    let password = api::Secret::new(uuid::Uuid::new_v4().simple().to_string());
    let body = api::postgres::RoleRequest {
        database: database.clone(),
        right: api::postgres::Right::Owner,
        password: password.clone(),
    };
    let _: serde_json::Value = control.send_secret("PUT", "/roles/saboteur", &body.encode()).await?;
    let ca = site.scratch.join("saboteur-ca.pem");
    std::fs::write(&ca, &site.ca_pem)?;
    Ok(format!(
        "Database={database};Username=saboteur;Password={};Root Certificate={}",
        password.expose(),
        ca.display()
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn every_check_has_a_sabotage_or_says_why_not() {
        let systems = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../systems");
        for entry in std::fs::read_dir(systems).unwrap() {
            let folder = entry.unwrap().path();
            let (Ok(claims), Ok(sabotages)) = (
                std::fs::read_to_string(folder.join("claims.toml")),
                std::fs::read_to_string(folder.join("sabotages.toml")),
            ) else {
                continue;
            };
            let ledger = Ledger::parse("claims.toml", &claims).unwrap();
            let all = Sabotages::parse(&sabotages).unwrap();
            assert_eq!(all.strangers(&ledger), Vec::<&str>::new(), "{}", folder.display());
            let without: Vec<&str> = all.without.iter().map(|w| w.claim.as_str()).collect();
            let mut unpaired = all.unpaired(&ledger);
            unpaired.sort_unstable();
            assert_eq!(unpaired, without, "{}: `[[without]]` in the order of the rows", folder.display());
            let manifest = std::fs::read_to_string(folder.join("system.toml")).unwrap();
            for sabotage in &all.sabotage {
                sabotage.manifest(&manifest).unwrap();
            }
        }
    }
}
