//! The audit role: keeps the records that acting roles ship, unchanged and for as long as was promised.
//!
//! Entry: [`run`]. It takes records only with a source's ship key and only if they follow what it holds (`POST /ship`),
//! writes them durably before it says so, and shows them to the owner of the control socket alone. [`verify`] checks a
//! directory of records with nothing but its files. It never changes a record, and removes only whole segments whose time
//! is over.

mod config;
mod error;
mod heads;
mod http;
mod run;
mod store;
mod verify;

pub use error::Error;
pub use run::run;
pub use verify::{Broken, Report, SourceReport, verify};

#[cfg(test)]
mod tests;
