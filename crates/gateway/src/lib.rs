//! The stamp's edge: TLS, routes by host and path, replicas with health, and nothing a client could smuggle past it.
//!
//! Entry: [`run()`]. It serves what it was started with until it is asked to end, and takes changed routes over without
//! dropping a connection. It never reads a body it need not count, never forwards a request that can be read in two
//! ways, never repeats one that may have been carried out, never takes a client's word for who the client is, and never
//! sends to a target that is known to be ill.
//!
//! A request's way: [`worker`] accepts, [`screen`] checks the bytes ([`framing`]), hyper parses, [`proxy`] checks and
//! routes ([`path`], [`table`], [`headers`]), [`forward`] sends ([`target`], [`pool`], [`origin`]), [`body`] streams, [`access`] logs.

mod access;
mod body;
mod config;
mod conn;
mod dial;
mod error;
mod forward;
mod framing;
mod headers;
mod health;
mod hold;
mod http;
mod origin;
mod page;
mod path;
mod pool;
mod proxy;
mod run;
mod screen;
mod spans;
mod table;
mod target;
mod trace;
mod tunnel;
mod worker;

pub use config::check;
pub use error::Error;
pub use run::{run, run_with_log};
