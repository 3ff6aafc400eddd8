//! Several members of one database, each with a keeper, a user's folder and an address of its own; the test plays the
//! supervisor, and writes who leads.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use api::{
    Secret,
    context::secret,
    member::{LEAD, Lead, Member, MemberConfig, Part, Pulse, SAFE_WITH, SafeWith},
};

use super::{Bed, WORKLOAD_UID, as_root, until};

pub struct Group {
    pub members: Vec<Bed>,
    pub lead: Lead,
}

pub fn name(index: usize) -> String {
    if index == 0 { "postgres.main".into() } else { format!("postgres.main+{}", index + 1) }
}

impl Group {
    /// Beds of `count` members, the first leading; nothing is started yet.
    pub fn new(count: usize, synchronous: bool, go_on_after: Option<Duration>) -> anyhow::Result<Self> {
        let mut members = Vec::new();
        let (admin, replication) = (Secret::random(), Secret::random());
        let authority = super::Authority::new()?;
        for index in 0..count {
            let address = IpAddr::V4(Ipv4Addr::new(127, 77, 1, 20 + index as u8));
            let mut bed = Bed::at(&["app"], address, &authority)?;
            bed.secrets.insert(secret::POSTGRES_ADMIN, admin.clone());
            bed.secrets.insert(secret::POSTGRES_REPLICATION, replication.clone());
            members.push(bed);
        }
        let all: Vec<Member> = members
            .iter()
            .enumerate()
            .map(|(index, bed)| Member {
                name: name(index),
                zone: (index + 1).to_string(),
                address: bed.config.address,
                port: bed.config.port,
                only_reads: index > 1,
            })
            .collect();
        for (index, bed) in members.iter_mut().enumerate() {
            bed.config.member = Some(MemberConfig {
                record: None,
                name: name(index),
                lead: bed.data().join("..").join(LEAD),
                ca: bed.ca_file()?,
                all: all.clone(),
                synchronous,
                go_on_after_ms: go_on_after.map(|d| d.as_millis() as u64),
            });
        }
        let group = Self { members, lead: Lead { term: 1, primary: name(0) } };
        for index in 0..count {
            group.hand_out(index)?;
        }
        Ok(group)
    }

    /// Writes the present word beside a member, as the supervisor does.
    pub fn hand_out(&self, index: usize) -> anyhow::Result<()> {
        let path = self.members[index].data().join("..").join(LEAD);
        let beside = path.with_extension("new");
        fs::write(&beside, serde_json::to_vec(&self.lead)?)?;
        if as_root() {
            std::os::unix::fs::chown(&beside, Some(WORKLOAD_UID), Some(WORKLOAD_UID))?;
        }
        Ok(fs::rename(beside, path)?)
    }

    /// Another member is to lead: the new word, not handed out.
    pub fn call(&mut self, index: usize) {
        self.lead = Lead { term: self.lead.term + 1, primary: name(index) };
    }

    /// Hands the present word to a running member.
    pub async fn tell(&self, index: usize) -> anyhow::Result<()> {
        self.hand_out(index)?;
        Ok(api::member::read_lead(&self.members[index].control()).await?)
    }

    pub async fn pulse(&self, index: usize) -> Result<Pulse, String> {
        api::member::pulse(&self.members[index].control()).await.map_err(|e| format!("{e:?}"))
    }

    /// Waits until a member's pulse is as wanted.
    pub async fn becomes(&self, index: usize, what: &str, wanted: impl Fn(&Pulse) -> bool) -> anyhow::Result<Pulse> {
        let ask = || async {
            let pulse = self.pulse(index).await?;
            if wanted(&pulse) { Ok(pulse) } else { Err(format!("{pulse:?}")) }
        };
        until(&format!("{} {what}", name(index)), ask).await
    }

    /// Starts all, and waits until the first leads and the others follow.
    pub async fn up(&mut self) -> anyhow::Result<()> {
        for bed in &mut self.members {
            bed.start()?;
        }
        self.becomes(0, "leads", |p| p.part == Part::Primary && p.settled).await?;
        for index in 1..self.members.len() {
            self.becomes(index, "follows", |p| p.part == Part::Standby && p.streaming).await?;
        }
        Ok(())
    }

    /// With whom a member's record says every acknowledged write is safe; read from the file, as after a death.
    pub fn safe_with(&self, index: usize) -> Vec<String> {
        let text = fs::read(self.members[index].data().join(SAFE_WITH)).unwrap_or_default();
        serde_json::from_slice::<SafeWith>(&text).map(|s| s.members).unwrap_or_default()
    }

    /// All of a member at once, as a machine dies.
    pub fn kill_all_of(&mut self, index: usize) -> anyhow::Result<()> {
        let bed = &mut self.members[index];
        let _ = bed.kill_keeper();
        bed.kill_server()
    }
}
