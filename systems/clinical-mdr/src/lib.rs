//! Clinical MDR: a library of versioned definitions, and studies made of them, down to the schedule of activities.
//!
//! Three programs in one binary. `api` alone writes to the graph; `export` reads it with a reader's credentials; `web` shows pages,
//! has no credentials of the graph and only calls the API as the person who uses it. It uses `sdk` and nothing else of the platform.

#![forbid(unsafe_code)]

pub mod access;
pub mod api;
pub mod domain;
pub mod export;
pub mod fault;
pub mod library;
pub mod scanner;
pub mod schedule;
pub mod serve;
pub mod studies;
pub mod web;
