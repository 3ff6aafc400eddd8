//! The SDK against real parts: PostgreSQL, an OpenID Connect issuer, a telemetry receiver.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod by_identity;
mod database;
mod serve;
mod sign_in;
mod support;
mod telemetry;
