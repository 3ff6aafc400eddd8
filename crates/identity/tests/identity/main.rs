//! The identity role as its callers see it: through real TLS, with a hand-made client.

#![allow(clippy::unwrap_used, reason = "the helpers of tests may panic as the tests do")]

mod flow;
mod kill;
mod outside;
mod people;
mod signing_in;
mod sweep;
mod terminal;
mod workload;
mod world;
