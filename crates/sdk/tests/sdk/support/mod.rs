//! What tests need around them, for real: a PostgreSQL and an OpenID Connect issuer. Also used by the applications' tests.
#![allow(dead_code, reason = "each test file uses another part of this")]

pub mod issuer;
pub mod scratch;
