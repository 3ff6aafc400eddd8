//! The registry role: images over the OCI Distribution Specification 1.1, stored by digest, every push and pull audited.
//!
//! Entry: [`run`]. It answers nobody without credentials and a role assignment that allows the act. What was acknowledged is
//! on disk and whole: a blob is seen once its digest was verified, a manifest once all it names is there. It never runs an
//! image, never fetches one from elsewhere, and never moves a release tag.

mod blobs;
mod caller;
mod config;
mod content;
mod error;
mod http;
mod manifests;
mod names;
mod operation;
mod parse;
mod refusal;
mod registry;
mod rows;
mod run;
mod sweep;
mod token;

pub use error::Error;
pub use run::run;

#[cfg(test)]
mod tests;
