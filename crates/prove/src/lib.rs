//! Looks at live stamps and says, for every claim of an architecture document, what was measured.
//!
//! Entry: [`run`] takes the rows of a `claims.toml` ([`Ledger`]) and a [`Lab`] that brings stamps up, and gives a
//! [`Report`]. A check asks the running parts (sockets, wire formats, what a service sees from its own place), never the
//! manifest alone. [`Sabotage`]s change the system so that a check must fail; a check without one proves nothing.
//!
//! It never changes a person's stamp: what acts runs on scratch stamps only.

mod bolt;
mod browser;
mod checks;
mod claim;
mod drill;
mod drills;
mod evidence;
mod harm;
pub mod inside;
mod lab;
mod load;
mod outcome;
mod patch;
mod redis;
mod run;
mod sabotage;
mod script;
mod site;
mod sql;
mod tls;

pub use checks::{Check, Effect, all as checks};
pub use claim::{Call, Class, Ledger, Row};
pub use drill::{Declared, Drill, Measured, Moment, all as drills, named as drill, run as run_drill};
pub use evidence::{Evidence, Flat, page};
pub use lab::{Host, Lab, Moved};
pub use outcome::{Finding, Miss, Outcome, Report, Seen};
pub use patch::patched;
pub use run::{Scope, run};
pub use sabotage::{Sabotage, Sabotages, Spoil};
pub use site::Site;

/// What kept a run from beginning, or a file from being understood.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{file} is not understood: {what}")]
    File { file: String, what: String },
    #[error("{id} names the check `{name}`, which there is not; there are {known}")]
    NoCheck { id: String, name: String, known: String },
    #[error("could not make the page")]
    Page(#[from] askama::Error),
    #[error("could not write {path}")]
    Write {
        path: String,
        #[source]
        source: std::io::Error,
    },
}
