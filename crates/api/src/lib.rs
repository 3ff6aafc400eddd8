//! What crosses a process boundary of Stampwright: the configuration each role is started with, wire types, the error
//! body, and typed clients. One module a role. No server code, no storage, and no import of any other crate of ours.
//!
//! Types here are formats: fields are added with a default and never change their meaning. Role configurations accept
//! unknown keys, so that an older binary starts on what a newer one wrote.

pub mod audit;
pub mod backup;
pub mod blob;
pub mod client;
pub mod context;
pub mod database_token;
pub mod engine;
mod error;
pub mod gateway;
pub mod graph;
pub mod identity;
pub mod job;
pub mod member;
pub mod postgres;
pub mod registry;
mod secret;
pub mod shim;
pub mod supervisor;
pub mod telemetry;
pub mod vault;

pub use error::{ErrorBody, WireError};
pub use secret::{Secret, Secrets};
