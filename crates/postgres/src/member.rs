//! What one member knows of who leads, and the durable records beside its data.
//!
//! Three small files lie beside `pgdata`, each written whole: `term` (the newest term this member ever heard of: an older word
//! is not followed), `safe-with.json` ([`api::member::SafeWith`]) and `rewinding` (its data is between two states and must be
//! fetched anew).

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use api::{
    Secret,
    member::{Lead, Member, MemberConfig, Part, Pulse, SAFE_WITH, SafeWith},
};
use tokio::sync::watch;

use crate::{Error, config::Checked, settings};

/// The role by which members follow each other.
pub(crate) const REPLICATOR: &str = "replicator";
/// A silent connection between members is given up after this.
const SILENCE: &str = "10s";
/// The log kept at most for a member that is away; one that is away for longer is made anew.
const KEPT_LOG: &str = "1GB";
/// How often the lead file is looked at without being told to: who tells may have died before it did.
const LOOK: Duration = Duration::from_millis(500);

/// A member's own view.
pub(crate) struct Membership {
    pub config: MemberConfig,
    /// Names of the stamp, and where they lead.
    hosts: Arc<BTreeMap<String, IpAddr>>,
    password: Secret,
    data: PathBuf,
    lead: watch::Sender<Option<Lead>>,
    pulse: watch::Sender<(Pulse, Instant)>,
    /// The data is to be fetched anew before the next start.
    rebuild: watch::Sender<Rebuild>,
}

/// How a standby that cannot follow is mended: the cheaper way first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Rebuild {
    #[default]
    No,
    Rewind,
    Copy,
}

impl Membership {
    pub fn new(config: MemberConfig, hosts: Arc<BTreeMap<String, IpAddr>>, password: Secret, data: PathBuf) -> Self {
        Self {
            config,
            hosts,
            password,
            data,
            lead: watch::Sender::new(None),
            pulse: watch::Sender::new((Pulse::default(), Instant::now())),
            rebuild: watch::Sender::new(Rebuild::No),
        }
    }

    /// Reads who leads. A word older than one heard before is not followed: its writer was cut off, or a copy was put back.
    pub fn read_lead(&self) -> Result<(), Error> {
        let text = match fs::read(&self.config.lead) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(Error::io("read", &self.config.lead))?,
        };
        let lead: Lead = serde_json::from_slice(&text)
            .map_err(|e| Error::Config(format!("{} cannot be read: {e}", self.config.lead.display())))?;
        let known = self.known_term();
        if lead.term < known {
            return Err(Error::OldTerm { told: lead.term, known });
        }
        if lead.term > known {
            settings::replace(&self.data.join("term"), lead.term.to_string().as_bytes())?;
        }
        self.lead.send_if_modified(|now| {
            let news = now.as_ref() != Some(&lead);
            if news {
                tracing::info!(term = lead.term, primary = lead.primary, "who leads");
                *now = Some(lead);
            }
            news
        });
        Ok(())
    }

    fn known_term(&self) -> u64 {
        fs::read_to_string(self.data.join("term")).ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0)
    }

    /// Who leads, waited for.
    pub async fn word(&self) -> Result<Lead, Error> {
        loop {
            self.read_lead()?;
            let lead = self.lead.borrow().clone();
            match lead {
                Some(lead) => return Ok(lead),
                None => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// The next word that is another than `old`.
    pub async fn other_word(&self, old: &Lead) -> Lead {
        let mut lead = self.lead.subscribe();
        loop {
            if let Err(error) = self.read_lead() {
                tracing::warn!(error = error.chain(), "could not read who leads");
            }
            let now = lead.borrow_and_update().clone();
            match now {
                Some(now) if now != *old => return now,
                _ => {
                    // The sender lives in self.
                    let _ = tokio::time::timeout(LOOK, lead.changed()).await;
                }
            }
        }
    }

    /// The word that a third one leads: neither `old`'s nor this member.
    pub async fn turned_to_another(&self, old: &Lead) -> Lead {
        let mut known = old.clone();
        loop {
            let news = self.other_word(&known).await;
            if news.primary != known.primary && !self.leads(&news) {
                return news;
            }
            known = news;
        }
    }

    pub fn leads(&self, lead: &Lead) -> bool {
        lead.primary == self.config.name
    }

    pub fn member(&self, name: &str) -> Result<&Member, Error> {
        let found = self.config.all.iter().find(|m| m.name == name);
        found.ok_or_else(|| Error::Config(format!("{name} is no member of this database")))
    }

    /// Everybody but this one.
    pub fn others(&self) -> impl Iterator<Item = &Member> {
        self.config.all.iter().filter(|m| m.name != self.config.name)
    }

    /// The one member that writes may wait for: the one besides this that can take over.
    pub fn partner(&self) -> Option<&Member> {
        let own = self.member(&self.config.name).ok()?;
        self.others().find(|m| !m.only_reads && !own.only_reads)
    }

    /// The slot that keeps the log for a member.
    pub fn slot(name: &str) -> String {
        format!("member_{}", name.split_once('+').map_or("1", |(_, n)| n))
    }

    pub fn data(&self, file: &str) -> PathBuf {
        self.data.join(file)
    }

    fn records(&self) -> &std::path::Path {
        self.config.record.as_deref().unwrap_or(&self.data)
    }

    /// With whom every acknowledged write is safe, as the record says.
    pub fn safe_with(&self) -> Vec<String> {
        let text = fs::read(self.records().join(SAFE_WITH)).unwrap_or_default();
        serde_json::from_slice::<SafeWith>(&text).map(|s| s.members).unwrap_or_default()
    }

    /// Writes the record down; on the disk when it returns.
    pub fn record(&self, term: u64, members: Vec<String>) -> Result<(), Error> {
        let text = serde_json::to_vec(&SafeWith { version: 1, term, members }).expect("a record is JSON");
        let folder = self.records();
        let path = folder.join(SAFE_WITH);
        settings::replace(&path, &text)?;
        fs::File::open(folder).and_then(|f| f.sync_all()).map_err(Error::io("flush", folder))
    }

    /// The settings that change while a server runs: whom it follows, and whom it waits for.
    pub fn write_settings(&self, checked: &Checked, lead: &Lead, waits_for: &[String]) -> Result<(), Error> {
        let mut text = String::from("# Written by the keeper as members come and go.\n");
        let mut line = |name: &str, value: &str| text.push_str(&settings::line(name, value));
        line("cluster_name", &self.config.name);
        line("hot_standby", "on");
        line("max_slot_wal_keep_size", KEPT_LOG);
        line("wal_sender_timeout", SILENCE);
        line("wal_receiver_timeout", SILENCE);
        line("wal_receiver_status_interval", "1s");
        line("wal_retrieve_retry_interval", "200ms");
        if self.leads(lead) {
            let names: Vec<String> = waits_for.iter().map(|n| format!("\"{n}\"")).collect();
            let names = if names.is_empty() { String::new() } else { format!("ANY 1 ({})", names.join(", ")) };
            line("synchronous_standby_names", &names);
        } else {
            let leader = self.member(&lead.primary)?;
            line("primary_conninfo", &self.conninfo(checked, leader, &self.config.name, None));
            line("primary_slot_name", &Self::slot(&self.config.name));
        }
        settings::replace(&checked.conf.join("member.conf"), text.as_bytes())?;
        let pass = Secret::new(format!("*:*:*:{REPLICATOR}:{}\n", self.password.expose()));
        settings::replace(&checked.conf.join("passfile"), pass.expose().as_bytes())
    }

    /// How another member is reached. The password is not in it; it lies in a file that only this user reads.
    pub fn conninfo(&self, checked: &Checked, leader: &Member, as_name: &str, database: Option<&str>) -> String {
        let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
        let path = |path: &Path| quoted(&path.display().to_string());
        // A certificate names what its server is called; in a closed network it does not name the address.
        let called = self.hosts.iter().find(|(_, address)| **address == leader.address).map(|(name, _)| name.clone());
        let mut text = format!(
            "host={} hostaddr={} port={} user={REPLICATOR} sslmode=verify-full sslrootcert={} passfile={} application_name={} \
             connect_timeout=5 tcp_user_timeout=10000",
            called.unwrap_or_else(|| leader.address.to_string()),
            leader.address,
            leader.port,
            path(&self.config.ca),
            path(&checked.conf.join("passfile")),
            quoted(as_name),
        );
        if let Some(database) = database {
            text.push_str(&format!(" dbname={database}"));
        }
        text
    }

    /// The password with which the others come.
    pub fn password(&self) -> &Secret {
        &self.password
    }

    pub fn tell(&self, pulse: Pulse) {
        self.pulse.send_replace((pulse, Instant::now()));
    }

    /// Nobody is served, and why.
    pub fn tell_down(&self, doing: &str) {
        self.tell(Pulse { doing: doing.into(), ..Pulse::default() });
    }

    pub fn pulse(&self) -> Pulse {
        let (mut pulse, at) = self.pulse.borrow().clone();
        pulse.age_ms = at.elapsed().as_millis() as u64;
        pulse.term = self.lead.borrow().as_ref().map_or_else(|| self.known_term(), |l| l.term);
        pulse
    }

    /// Whether it follows: the log streams in.
    pub fn follows(&self) -> bool {
        let (pulse, _) = &*self.pulse.borrow();
        pulse.part == Part::Primary || pulse.streaming
    }

    /// Asks for the data to be fetched anew: by a rewind, and if that was tried, by a copy.
    pub fn ask_rebuild(&self) {
        self.rebuild.send_modify(|now| *now = if *now == Rebuild::No { Rebuild::Rewind } else { Rebuild::Copy });
    }

    pub fn rebuild(&self) -> Rebuild {
        *self.rebuild.borrow()
    }

    /// Waits until a rebuild is asked for that was not when this was called.
    pub async fn rebuild_asked(&self) {
        let mut rebuild = self.rebuild.subscribe();
        // The sender lives in self.
        while rebuild.changed().await.is_ok() && *rebuild.borrow_and_update() == Rebuild::No {}
    }

    /// It follows: whatever was tried has helped.
    pub fn mended(&self) {
        self.rebuild.send_if_modified(|now| std::mem::take(now) != Rebuild::No);
    }
}
