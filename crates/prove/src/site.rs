//! One live stamp, and the ways a check may look at it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use api::{
    Secret,
    client::{Client, Dial, Target},
    supervisor::{ExecAnswer, ExecRequest, StampRef, Status, TokenRequest},
    telemetry::{QueryAnswer, QueryRequest},
};
use drivers::{Driver as _, Limits, Placement, probe::Machine, process::Process};
use model::System;
use tokio::net::TcpStream;

use crate::{
    Miss,
    browser::Browser,
    inside::{Ask, MARK, Saw},
    must,
};

/// A stamp that runs.
#[derive(Clone)]
pub struct Site {
    pub system: System,
    pub stamp: String,
    /// The manifest it was brought up from.
    pub manifest: String,
    pub supervisor: Client,
    pub status: Status,
    pub ca_pem: Vec<u8>,
    /// Names of the stamp.
    pub hosts: Arc<BTreeMap<String, IpAddr>>,
    /// Control sockets by workload.
    pub controls: BTreeMap<String, PathBuf>,
    /// The folder of each workload: its stored settings, logs and data.
    pub places: BTreeMap<String, PathBuf>,
    /// Isolation that was asked for and this machine does not give, with what was refused.
    pub missing: Vec<String>,
    /// The front door through which people come to it, if its manifest names one.
    pub door: Option<Door>,
    /// Where a check may leave files while it runs.
    pub scratch: PathBuf,
    /// This program, where every user of the stamp may run it.
    pub program: PathBuf,
}

/// The edge of another stamp, before this one's.
#[derive(Clone)]
pub struct Door {
    pub stamp: String,
    pub url: String,
    pub ca_pem: Vec<u8>,
}

/// A way to a workload: where it listens, and, if it lives in a closed network, from inside of that.
pub struct Way {
    pub address: SocketAddr,
    /// What its certificate vouches for: its name, or its address.
    pub name: String,
    pub(crate) dial: Option<Dial>,
}

impl Way {
    /// Opens connections from the same place.
    pub fn dial(&self) -> Option<Dial> {
        self.dial.clone()
    }

    /// A connection.
    pub async fn connect(&self) -> std::io::Result<TcpStream> {
        match &self.dial {
            Some(dial) => dial(self.address).await,
            None => TcpStream::connect(self.address).await,
        }
    }
}

/// How long an inside look may take.
const INSIDE: Duration = Duration::from_secs(30);

impl Site {
    /// The system and stamp, for the supervisor.
    pub fn of(&self) -> StampRef {
        StampRef { system: self.system.name.clone(), stamp: self.stamp.clone() }
    }

    /// The URL of a resource, such as `edge` or `vault.main`.
    pub fn url(&self, resource: &str) -> Result<String, Miss> {
        if !self.status.urls.contains_key(resource)
            && let Some((kind, name)) = resource.split_once('.')
            && let Some(host) = self.hosts.keys().find(|host| host.starts_with(&format!("{name}.{kind}.")))
        {
            let port = self.address(resource)?.port();
            return Ok(if port == 443 { format!("https://{host}") } else { format!("https://{host}:{port}") });
        }
        let known = || self.status.urls.keys().cloned().collect::<Vec<_>>().join(", ");
        let url = self.status.urls.get(resource);
        url.cloned().ok_or_else(|| Miss::Failed(format!("{resource} has no address; known are {}", known())))
    }

    /// The address that a workload was given.
    pub fn address(&self, workload: &str) -> Result<SocketAddr, Miss> {
        let resource = self.status.resources.iter().find(|r| r.name == workload);
        let resource = resource.ok_or_else(|| Miss::Failed(format!("{workload} does not run")))?;
        let first = resource.address.split([',', ' ']).next().unwrap_or_default();
        // Who takes no connections, such as a job, has no port.
        let bare = || first.parse().map(|ip: std::net::IpAddr| SocketAddr::new(ip, 0));
        first
            .parse()
            .or_else(|_| bare())
            .map_err(|_| Miss::Failed(format!("{workload} has the address `{}`", resource.address)))
    }

    /// What sets a workload's place apart from all others of this machine: its address, and the number of its network.
    pub fn seat(&self, workload: &str) -> Result<(SocketAddr, Option<u64>), Miss> {
        let place = self.status.resources.iter().find(|r| r.name == workload).and_then(|r| r.place.as_ref());
        let number = place.and_then(|place| drivers::network::namespace::number(&place.namespace));
        Ok((self.address(workload)?, number))
    }

    /// The way to a workload.
    pub fn way(&self, workload: &str) -> Result<Way, Miss> {
        let address = self.address(workload)?;
        let (kind, name) = workload.split_once('.').unwrap_or((workload, ""));
        let named = self.hosts.keys().find(|host| host.starts_with(&format!("{name}.{kind}.")));
        let dial = self.dial(address.ip());
        let name = named.filter(|_| dial.is_some()).cloned().unwrap_or_else(|| address.ip().to_string());
        Ok(Way { address, name, dial })
    }

    /// How an address of a closed network is reached: from inside the network of whoever has it.
    fn dial(&self, ip: IpAddr) -> Option<Dial> {
        let places = self.status.resources.iter().filter_map(|r| r.place.as_ref());
        let place = places.into_iter().find(|place| IpAddr::V4(place.address) == ip)?;
        Some(drivers::network::namespace::dial(place.namespace.clone()))
    }

    /// Process ids of a workload: shim, workload, children.
    pub fn pids(&self, workload: &str) -> &[u32] {
        self.status.resources.iter().find(|r| r.name == workload).map_or(&[], |r| &r.pids)
    }

    /// A client that trusts this stamp's CA alone and knows its names.
    pub fn client(&self, url: &str) -> Result<Client, Miss> {
        let base: url::Url = url.parse().map_err(|e| Miss::Failed(format!("`{url}` is no URL: {e}")))?;
        let host = base.host_str().unwrap_or_default();
        let ip = self.hosts.get(host).copied().or_else(|| host.parse().ok());
        let dial = ip.and_then(|ip| self.dial(ip));
        let tls = api::client::trust(&self.ca_pem)?;
        let target = Target::Https { base, tls, hosts: self.hosts.clone() };
        Ok(Client::new(target).dialled(dial).timeout(Duration::from_secs(20)))
    }

    /// The client of a role's control socket.
    pub fn control(&self, workload: &str) -> Result<Client, Miss> {
        let path = self.controls.get(workload).ok_or_else(|| Miss::Failed(format!("{workload} does not run")))?;
        Ok(Client::unix(path.clone()))
    }

    /// A token of a workload for an audience, as the supervisor may ask for one.
    pub async fn token(&self, workload: &str, audience: &str) -> Result<Secret, Miss> {
        let StampRef { system, stamp } = self.of();
        let ask = TokenRequest { system, stamp, workload: workload.into(), resource: audience.into() };
        Ok(self.supervisor.post::<_, api::identity::WorkloadToken>("/token", &ask).await?.access_token)
    }

    /// A client of the workload's vault that speaks as it.
    pub async fn vault(&self, workload: &str) -> Result<Client, Miss> {
        self.vault_at(&self.vault_of(workload)?, workload).await
    }

    /// A client of this vault that speaks as a workload.
    pub async fn vault_at(&self, vault: &str, workload: &str) -> Result<Client, Miss> {
        let token = self.token(workload, "https://vault.azure.net").await?;
        Ok(self.client(&self.url(vault)?)?.bearer(token))
    }

    /// The vault that a workload needs; where it needs none, the stamp's first.
    pub fn vault_of(&self, workload: &str) -> Result<String, Miss> {
        let service = self.system.services().find(|(id, _)| id.to_string() == workload);
        let needed =
            service.and_then(|(id, _)| self.system.needs(id).into_iter().find(|n| n.kind == model::Kind::Vault));
        needed.map_or_else(|| self.first("vault"), |vault| Ok(vault.to_string()))
    }

    /// The first workload of a kind, such as `vault`.
    pub fn first(&self, kind: &str) -> Result<String, Miss> {
        let of_kind = |name: &&String| name.split('.').next() == Some(kind);
        self.places.keys().find(of_kind).cloned().ok_or_else(|| Miss::Failed(format!("the stamp has no {kind}")))
    }

    /// Rows of a question to the telemetry.
    pub async fn query(&self, sql: &str) -> Result<Vec<Vec<serde_json::Value>>, Miss> {
        let ask = QueryRequest { sql: sql.into(), days: 2, limit: 5_000 };
        let answer: QueryAnswer = self.control(&self.first("telemetry")?)?.post("/query", &ask).await?;
        Ok(answer.rows)
    }

    /// Waits until a question has rows that fit; what it last answered is in the error.
    pub async fn query_until(
        &self,
        what: &str,
        sql: &str,
        fits: impl Fn(&[Vec<serde_json::Value>]) -> bool,
    ) -> Result<Vec<Vec<serde_json::Value>>, Miss> {
        let rows = until(what, async || {
            let rows = self.query(sql).await?;
            if fits(&rows) { Ok(rows) } else { Err(Miss::Failed(format!("{rows:?}"))) }
        });
        rows.await
    }

    /// The newest audit records of an actor, as events.
    pub async fn audited(&self, actor: &str) -> Result<Vec<api::audit::Event>, Miss> {
        let actor: String =
            percent_encoding::utf8_percent_encode(actor, percent_encoding::NON_ALPHANUMERIC).to_string();
        let client = self.control(&self.first("audit")?)?;
        let answer: serde_json::Value = client.get(&format!("/records?limit=500&actor={actor}")).await?;
        let records = answer.as_array().or_else(|| answer["records"].as_array()).cloned().unwrap_or_default();
        let text = |r: &serde_json::Value| r["event"].as_str().map_or_else(|| r["event"].to_string(), str::to_owned);
        records.iter().map(|r| serde_json::from_str(&text(r)).map_err(Miss::from)).collect()
    }

    /// Somebody new in these groups, signed in at the edge.
    pub async fn signed_in(&self, groups: &[&str]) -> Result<Browser, Miss> {
        self.signed_in_at("", groups).await
    }

    /// As [`Self::signed_in`], at a part of the application that signs people in by itself, such as `/manage`.
    pub async fn signed_in_at(&self, part: &str, groups: &[&str]) -> Result<Browser, Miss> {
        let mut browser = self.person(groups).await?;
        browser.part = part.to_owned();
        browser.sign_in().await?;
        Ok(browser)
    }

    /// Somebody new in these groups, who has a password and is not signed in.
    pub async fn person(&self, groups: &[&str]) -> Result<Browser, Miss> {
        let StampRef { system, stamp } = self.of();
        let id = uuid::Uuid::new_v4().simple().to_string();
        let email = format!("check-{}@example.com", &id[..12]);
        // Not every directory calls everybody `user`: where it does not, the last of its groups is the least.
        let declared = self.system.resources.values().find_map(|resource| match resource {
            model::Resource::Identity(identity) => Some(&identity.groups),
            _ => None,
        });
        let known = |group: &str| declared.is_none_or(|all| all.iter().any(|known| known == group));
        let least = declared.and_then(|all| all.last().cloned());
        let of = |group: &&str| match least.clone() {
            Some(least) if *group == "user" && !known(group) => least,
            _ => (*group).to_owned(),
        };
        let groups: Vec<String> = groups.iter().map(of).collect();
        let name = format!("Check {}", &id[..6]);
        let ask = api::supervisor::UserRequest { system, stamp, email: email.clone(), name, groups };
        let answer: api::identity::UserAnswer = self.supervisor.post("/user", &ask).await?;
        let link = answer.link.ok_or_else(|| Miss::Failed("a new person got no first link".into()))?;
        let mut browser = Browser::new(self, email, Secret::new(id))?;
        browser.id = answer.id;
        browser.set_password(&link).await?;
        Ok(browser)
    }

    /// Looks from the place of a service: its user, its names, its identity, its environment.
    pub async fn inside(&self, service: &str, asks: &[Ask]) -> Result<Vec<Saw>, Miss> {
        let words = serde_json::to_string(asks)?;
        let command = vec![self.program.display().to_string(), "probe".into(), words];
        let said = self.command(service, command).await?;
        let line = said.lines().rev().find_map(|l| l.strip_prefix(MARK));
        let Some(line) = line else { return Err(Miss::Failed(format!("an inside look said only: {}", said.trim()))) };
        let saw: Vec<Saw> = serde_json::from_str(line)?;
        must!(saw.len() == asks.len(), "{} of {} inside looks came back", saw.len(), asks.len());
        Ok(saw)
    }

    /// Runs a command in the place of a service; all that it said.
    pub(crate) async fn command(&self, service: &str, command: Vec<String>) -> Result<String, Miss> {
        let StampRef { system, stamp } = self.of();
        let directory = PathBuf::from("/");
        let ask = ExecRequest { system, stamp, service: service.into(), command, directory };
        let answer: ExecAnswer = self.supervisor.post("/exec", &ask).await?;
        let config = answer.config.clone();
        let log = self.scratch.join(format!("inside-{}", uuid::Uuid::new_v4()));
        let said = self.run_inside(answer, &log).await;
        let _ = std::fs::remove_file(&config);
        let _ = std::fs::remove_file(&log);
        said
    }

    async fn run_inside(&self, answer: ExecAnswer, log: &std::path::Path) -> Result<String, Miss> {
        let driver = Arc::new(Process::new(Machine::probe()));
        let placement = Placement {
            mark: format!("{}/exec", answer.mark),
            program: answer.program,
            arguments: vec!["serve".into(), "shim".into(), "--config".into(), answer.config.display().to_string()],
            environment: Vec::new(),
            directory: answer.directory,
            user: answer.user,
            listeners: Vec::new(),
            secrets: answer.secrets.expose().as_bytes().to_vec(),
            network: answer.network,
            hosts_file: Some(answer.hosts_file),
            limits: Limits::default(),
            volume: None,
            shares: answer.shares.into_iter().map(share).collect(),
            log: Some(log.to_owned()),
        };
        let id = driver.place(placement)?.id;
        let ended = async || if driver.runs(id) { Err(Miss::Failed("it still runs".into())) } else { Ok(()) };
        until_in("an inside look", INSIDE, ended).await?;
        Ok(std::fs::read_to_string(log)?)
    }
}

fn share(mount: api::supervisor::ShareMount) -> drivers::share::Share {
    let api::supervisor::ShareMount { folder, at, write, group } = mount;
    drivers::share::Share { folder, at, write, group }
}

/// Looks again until it holds, for half a minute at most; the last look is in the error.
pub async fn until<T>(what: &str, look: impl AsyncFnMut() -> Result<T, Miss>) -> Result<T, Miss> {
    until_in(what, Duration::from_secs(30), look).await
}

/// As [`until`], for another time.
pub async fn until_in<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<T, Miss>,
) -> Result<T, Miss> {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        match look().await {
            Ok(seen) => return Ok(seen),
            Err(Miss::Failed(last)) if begun.elapsed() >= limit => {
                return Err(Miss::Failed(format!("waited {} s for {what}: {last}", limit.as_secs())));
            }
            Err(Miss::Failed(_)) => {}
            Err(other) => return Err(other),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(250));
    }
}
