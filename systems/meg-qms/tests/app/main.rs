//! The whole application, tested from outside: one program, so that it is linked once.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod audits;
mod backups;
mod common;
mod regions;
mod site;
