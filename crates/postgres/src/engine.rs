//! Which PostgreSQL engines are there; the supervisor, which may not import this crate, asks the same.

pub use api::engine::{Engine, choose, installed};
