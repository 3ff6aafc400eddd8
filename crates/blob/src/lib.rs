//! The blob role: containers of blobs over the Blob REST API of Azure Storage, every act audited.
//!
//! Entry: [`run`]. It answers nobody without credentials and a right to the act, but where the manifest opens a container to
//! readers. What was acknowledged is on disk and whole; a blob is seen once all of it came. It never holds a whole blob in
//! memory, never fetches from elsewhere, and lets nobody change or delete what the manifest calls immutable before its time.

mod act;
mod answers;
mod blobs;
mod blocks;
mod caller;
mod conditions;
mod config;
mod containers;
mod content;
mod copies;
mod error;
mod fields;
mod files;
mod http;
mod lease;
mod leases;
mod list;
mod operation;
mod refusal;
mod rows;
mod run;
mod sas;
mod shared_key;
mod store;
mod sums;
mod sweep;
mod time;
mod upload;
mod xml;

pub use error::Error;
pub use run::run;

#[cfg(test)]
mod tests;
