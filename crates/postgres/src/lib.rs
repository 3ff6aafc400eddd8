//! The keeper of one PostgreSQL server: makes its data directory, starts the server as its child, starts it again when it
//! dies, adopts it when the keeper itself was killed, and makes databases and roles with the least right that serves. It archives
//! the log continuously, takes base backups, and restores from them; everything stored is sealed.
//!
//! Entry: [`run`]. It runs as the workload's own user. [`make_template`] is for whoever places the workload, once an engine.
//! It never keeps a password on disk or puts one on a command line, never listens on anything but the declared address and
//! a socket only its user can reach, and never reads or changes an application's rows.

mod admin;
mod ahead;
mod archive;
mod backups;
mod base;
mod config;
mod copy;
pub mod engine;
mod error;
mod http;
mod identities;
mod identity_roles;
mod keeper;
mod member;
mod name;
mod one_database;
mod postmaster;
mod radius;
mod replica;
mod repository;
mod restore;
mod roles;
mod run;
mod scram;
mod seal;
mod settings;
mod space;
mod sync;
mod tar;
mod template;
mod tools;
mod wal;

pub use archive::{archive, fetch};
pub use error::Error;
pub use run::run;
pub use template::make_template;
