//! The keeper of one member of a graph store, and the monitor that only watches. A member keeps an engine that speaks Cypher
//! (FalkorDB in a `redis-server` of its own) behind a Bolt door with TLS, follows whoever leads, and votes on who does.
//!
//! Entry: [`run`]. What it promises: a write is acknowledged once most members have it on their disks; two members never both
//! acknowledge writes of one moment; reads go on with any one member. The engine listens on a socket of the keeper's user alone;
//! who may write is decided by the engine's own access list. No password lies on the disk or on a command line.

mod bolt;
mod compact;
mod error;
mod http;
mod literal;
mod member;
mod monitor;
mod pack;
mod peer;
mod redis;
mod run;
mod tools;
mod tunnel;
mod vote;

pub use error::Error;
pub use run::run;
