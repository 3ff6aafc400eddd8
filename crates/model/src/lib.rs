//! What a system is declared to be. Pure: no IO, no async, no clock.
//!
//! Entry: [`Manifest::parse`] reads a `system.toml`, [`Manifest::resolve`] gives one stamp of it as a [`System`], every
//! field typed and checked. Both gather all faults as [`Diagnostic`]s, never only the first.

pub mod cron;
pub mod diagnostic;
pub mod failover;
pub mod id;
pub mod manifest;
pub mod plan;
pub mod region;
pub mod resource;
mod suggest;
pub mod system;
pub mod unit;
pub mod value;

pub use diagnostic::{Code, Diagnostic, render_all};
pub use id::{Kind, NotAResource, Principal, ResourceId, is_name};
pub use manifest::{Manifest, reference, schema};
pub use resource::Resource;
pub use system::System;

/// The commented example that `stamp init` writes. It is parsed by the tests, so that it is never wrong.
pub const EXAMPLE: &str = include_str!("../example.toml");
