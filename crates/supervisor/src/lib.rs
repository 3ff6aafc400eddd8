//! The supervisor: observes, plans, records, applies; keeps workloads running; one per `STAMP_HOME`.
//!
//! Entry: [`run`] serves the socket and looks after every stamp that is wanted up. It is not in the path of any request:
//! with it dead, everything it placed goes on. Restarted, it adopts what runs (process number and start, never by name) and
//! finishes what its journal says was begun.
//!
//! The order of reading: `reconcile.rs` (what is wanted, what is seen, the plan), `apply.rs` (a step after the other),
//! `compose.rs` (what a workload is started with), `place.rs` (the driver's side of it).

mod acts;
mod apply;
mod authority;
mod backups;
mod border;
mod compose;
mod doors;
mod error;
mod exec;
mod failover;
mod files;
mod home;
mod http;
mod identity_roles;
mod images;
mod jobs;
mod journal;
mod layout;
mod lead;
mod network;
mod people;
mod place;
mod places;
mod ready;
mod reconcile;
mod recovery;
mod redis;
mod region;
mod renew;
mod rotate;
mod run;
mod secrets;
mod shims;
mod stamp;
mod state;
mod status;
mod storage;
mod supervisor;
mod verify;
mod watch;

pub use error::Error;
pub use files::{digest, keep};
pub use home::Home;
pub use journal::Cut;
pub use places::Places;
pub use reconcile::resolve;
pub use run::run;
pub use stamp::{Feed, Seams};
pub use supervisor::Supervisor;
