//! What an application imports to run on a platform of the App Service kind, and the only thing of ours it may import.
//!
//! Everything here speaks the field's own formats, so an application that uses this crate also runs where no Stampwright is:
//! settings are environment variables, the database is PostgreSQL, sign-in is OpenID Connect, telemetry is OTLP over HTTP.
//!
//! - [`Settings`]: environment variables by name; an error names the variable and never shows its value.
//! - [`database`]: a pool that survives database restarts, TLS always verified, signed in to by password or by identity, each
//!   statement a dependency span.
//! - [`graph`]: Cypher over Bolt, to a store of several members of which some may be lost.
//! - [`migrations`]: ordered SQL files, applied once, guarded by a lock and by checksums.
//! - [`oidc`]: sign-in as a relying party (code flow, PKCE, ID tokens checked by the issuer's keys).
//! - [`telemetry`]: logs on stdout as JSON, and logs, spans and metrics over OTLP without ever blocking a request.
//! - [`identity`]: tokens of the workload's own identity, from the App Service endpoint.
//! - [`blob`]: objects in containers over the Blob REST API, by that identity.
//! - [`mod@serve`]: HTTP at the address that the environment names, with an end that drops no request.
//! - [`access`], [`routes`]: the list of routes, each with the right it needs, and who may call.
//! - [`sign_in`]: a browser's way to the issuer, back with a session, and out again.
//! - [`input`]: JSON and forms, read field by field.
//! - [`fault`]: what the faults of applications have in common, and how they are told.
//! - [`program`]: the main function around a verb of the application.
//! - [`links`]: calls to and from services of other stamps, each side known to the other.
//! - [`https`]: the small HTTPS client that the others use.
//!
//! It opens no listener but in [`serve::bind`], never starts a process and never writes a file.

pub mod access;
pub mod blob;
pub mod database;
pub mod fault;
pub mod graph;
pub mod https;
pub mod identity;
pub mod input;
pub mod links;
pub mod migrations;
pub mod oidc;
pub mod program;
pub mod routes;
pub mod seal;
mod secret;
pub mod serve;
mod settings;
pub mod sign_in;
pub mod telemetry;
mod trust;

pub use secret::Secret;
pub use serve::{ServeError, serve};
pub use settings::{Settings, SettingsError};
pub use trust::{Trust, TrustError};
