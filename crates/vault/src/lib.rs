//! The vault role: secrets over the Key Vault REST API, sealed on disk, every access audited before it is answered.
//!
//! Entry: [`run`]. It answers nobody without a token of the stamp's identity and a role assignment that allows the act; it
//! never stores a value unsealed, never logs one, and does nothing that it could not first write to its audit spool.

mod acts;
mod backup;
mod bundle;
mod callers;
mod config;
mod error;
mod http;
mod operation;
mod refusal;
mod rows;
mod run;
mod seal;
mod store;
mod vault;

pub use error::Error;
pub use run::run;

#[cfg(test)]
mod tests;
