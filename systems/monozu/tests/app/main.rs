//! All of Monozu on a real PostgreSQL, tested from outside: one program, so that it is linked once.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;
mod fence;
mod flood;
mod flow;
mod operators;
mod secrets;
mod sweep;
