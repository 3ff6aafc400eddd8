//! Tests of the role as a whole, over its router.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod bench;
mod blobs;
mod crash;
mod kept;
mod rights;
mod signed;
