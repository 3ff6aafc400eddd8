//! Where the parts of a stamp are, for the command line: read from the journal, so that it works with the supervisor dead.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use api::supervisor::UpRequest;
use drivers::probe::Machine;

use crate::{
    Error, Home,
    journal::{Journal, StampRow, Wanted},
    layout::Layout,
};

/// The places of one stamp.
pub struct Places(Layout, StampRow);

impl Places {
    /// Looks a stamp up in the journal.
    pub fn of(home: &Home, system: &str, stamp: &str) -> Result<Self, Error> {
        let no_stamp = || Error::NoStamp { system: system.into(), stamp: stamp.into() };
        if !home.journal().exists() {
            return Err(no_stamp());
        }
        let journal = Journal::open(&home.journal())?;
        let row = journal.stamp(system, stamp)?.ok_or_else(no_stamp)?;
        Ok(Self(Layout::read(home, &journal, &Machine::probe(), &row)?, row))
    }

    /// What would bring the stamp up as it is, whatever its folder says by now.
    pub fn request(&self) -> UpRequest {
        let row = &self.1;
        UpRequest {
            folder: row.folder.clone(),
            manifest: row.manifest.clone(),
            stamp: row.stamp.clone(),
            programs: row.programs.clone(),
            clock_offset_ms: 0,
            certificate_seconds: 0,
        }
    }

    /// Whether it is wanted up.
    pub fn is_wanted_up(&self) -> bool {
        self.1.wanted == Wanted::Up
    }

    /// All workloads, by name.
    pub fn workloads(&self) -> Vec<String> {
        self.0.workloads().map(|w| w.workload.clone()).collect()
    }

    /// The first workload of a kind.
    pub fn first(&self, kind: &str) -> Option<String> {
        self.workloads().into_iter().find(|w| w.split('.').next() == Some(kind))
    }

    /// A role's control socket.
    pub fn control(&self, workload: &str) -> PathBuf {
        self.0.control(workload)
    }

    /// The folder of a workload: its settings, logs and data.
    pub fn place(&self, workload: &str) -> PathBuf {
        self.0.place(workload)
    }

    /// Names of the stamp, and where they lead.
    pub fn hosts(&self, system: &model::System) -> Result<BTreeMap<String, IpAddr>, Error> {
        self.0.hosts(system)
    }

    /// The folder of a workload's log files.
    pub fn log(&self, workload: &str) -> PathBuf {
        self.0.place(workload).join("log")
    }

    /// The folder of a workload's data.
    pub fn data(&self, workload: &str) -> PathBuf {
        self.0.place(workload).join("data")
    }
}
