//! Time Tracker: people record their time in two-week sheets, managers approve them, the office sees where time went.
//!
//! It uses `sdk` and nothing else of the platform. All state is in PostgreSQL, so any number of instances serve alike.
//! `serve` never changes the schema; `migrate` does nothing else.

#![forbid(unsafe_code)]

pub mod access;
pub mod api;
pub mod app;
pub mod domain;
pub mod fault;
pub mod migrations;
pub mod pages;
pub mod routes;
pub mod serve;
pub mod store;
