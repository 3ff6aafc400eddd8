//! The whole application, tested from outside: one program, so that it is linked once.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod access;
mod api;
mod common;
mod health;
mod journey;
mod together;
