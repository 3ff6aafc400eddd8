//! The API as callers meet it, through the router and, in `socket`, through TLS.

mod bench;
mod crash;
mod lifecycle;
mod rights;
mod secrets;
mod socket;
