//! The SDK against real parts: PostgreSQL, an OpenID Connect issuer, a telemetry receiver.

mod database;
mod sign_in;
mod support;
mod telemetry;
