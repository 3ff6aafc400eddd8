//! The application on a real PostgreSQL, with a real sign-in, real workers and stand-ins of the providers.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod access;
mod common;
mod crash;
mod journey;
mod money;
mod providers;
