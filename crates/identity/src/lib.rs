//! The identity role: workload tokens, and an OpenID Connect provider for people.
//!
//! It promises that a token it signed can be checked with the keys it publishes, that a session which was ended or a
//! person who was disabled gets nothing from then on, and that what it acknowledged survives a `kill -9`.
//!
//! Entry: [`run`]. It serves the https listener ([`http`]) and the control socket ([`control`]), looks after its keys, and
//! reads its configuration again on SIGHUP. State is one SQLite file; [`store`] has the tables.
//!
//! It never keeps a password, a link, a code, a refresh token or a cookie in plain, never stores a private key unsealed,
//! never redirects a browser to an address that is not registered or an outside issuer's, and asks another role only to take its
//! audit records, and the vault for the secrets it needs at an outside issuer or a directory.

mod account;
mod administration;
mod authorize;
mod config;
mod control;
mod directory;
mod discovery;
mod error;
mod form;
mod grants;
mod http;
mod keys;
mod limit;
mod logout;
mod outside;
mod outsiders;
mod pages;
mod password;
mod people;
mod run;
mod sessions;
mod sign_in;
mod state;
mod store;
mod token;
mod tokens;
mod userinfo;
mod visit;
mod workload;

pub use config::Settings;
pub use error::Error;
pub use http::{Guard, routes};
pub use run::run;
pub use visit::Right;
