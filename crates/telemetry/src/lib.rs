//! The telemetry role: logs, metrics and spans come in by OTLP/HTTP, are kept in one SQLite file a day, and are read
//! with SQL.
//!
//! What it promises: a request that was answered 200 is on disk and survives `kill -9` and power loss; what could not
//! be understood is counted in the answer, never dropped silently; a full disk is answered 503 and mends itself; a day
//! is deleted as a whole file, by the stamp's clock. Delivery is at least once: a sender that saw no answer sends again.
//!
//! Entry: [`run`]. It never calls anybody, starts no process, and has no way to change or delete a stored row.

mod body;
mod config;
mod day;
mod error;
mod http;
mod ingest;
mod json;
mod live;
mod logs;
mod otlp;
mod query;
mod retention;
mod row;
mod run;
mod store;
mod tables;
mod traces;
mod writer;

pub use error::Error;
pub use run::run;

/// The decoders of outside input, for property tests.
#[doc(hidden)]
pub mod decode {
    pub use crate::{
        body::unpack,
        otlp::{Encoding, Signal, decode},
        row::{Arrival, Rows},
    };
}
