//! What tests need around them, for real: a PostgreSQL, an OpenID Connect issuer, a browser without a screen. Also used by
//! the applications' tests.
#![allow(dead_code, reason = "each test file uses another part of this")]

pub mod browser;
pub mod issuer;
pub mod scratch;
