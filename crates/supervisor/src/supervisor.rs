//! A supervisor as a value: what [`crate::run`] serves on its socket, and tests hold in their hands.

use std::{path::PathBuf, sync::Arc};

use api::supervisor::{StampRef, Status, UpRequest};
use drivers::probe::Machine;

use crate::{
    Error, Home,
    journal::Journal,
    reconcile, run,
    stamp::{Feed, Ground, Seams},
    status,
};

/// The supervisor of one home. At most one at a time; [`crate::run`] holds the home's lock for that.
pub struct Supervisor {
    ground: Arc<Ground>,
}

impl Supervisor {
    /// Makes the home's folders and opens its journal. Shims and roles run from `stamp_binary`, whose digest is `digest`.
    pub fn open(
        home: Home,
        driver: drivers::Shared,
        machine: Machine,
        stamp_binary: PathBuf,
        digest: String,
        seams: Seams,
    ) -> Result<Self, Error> {
        home.prepare().map_err(Error::file("make", home.root()))?;
        let journal = Journal::open(&home.journal())?;
        Ok(Self { ground: Arc::new(Ground::new(home, journal, driver, machine, stamp_binary, digest, seams)) })
    }

    pub(crate) fn ground(&self) -> &Arc<Ground> {
        &self.ground
    }

    /// Begins bringing a stamp up, or joins the work that does so already.
    pub async fn up(&self, request: UpRequest) -> Result<Arc<Feed>, Error> {
        Ok(reconcile::up(&self.ground, request).await?.feed)
    }

    /// Begins taking a stamp down; `destroy` removes all of it.
    pub async fn end(&self, stamp: StampRef, destroy: bool) -> Result<Arc<Feed>, Error> {
        Ok(reconcile::end(&self.ground, stamp, destroy).await?.feed)
    }

    /// Looks once at every stamp, as is done at the start (`first`) and again and again after it: goes on with what the
    /// journal has begun, and mends what ended by itself. Returns the work that is under way then.
    pub async fn look(&self, first: bool) -> Result<Vec<Arc<Feed>>, Error> {
        let mut under_way = Vec::new();
        for row in self.ground.journal.stamps()? {
            let stamp = self.ground.stamp(&row.system, &row.stamp);
            run::look(&self.ground, row, first).await;
            under_way.extend(stamp.current().map(|work| work.feed));
        }
        Ok(under_way)
    }

    /// What a stamp is now.
    pub async fn status(&self, stamp: &StampRef) -> Result<Status, Error> {
        let no_stamp = || Error::NoStamp { system: stamp.system.clone(), stamp: stamp.stamp.clone() };
        let row = self.ground.journal.stamp(&stamp.system, &stamp.stamp)?.ok_or_else(no_stamp)?;
        status::status(&self.ground, &row).await
    }
}
