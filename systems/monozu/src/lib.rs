//! Monozu: tenants' devices report to an Ingestor, people of the tenants see it in Cloud, operators let tenants in with
//! Management, and a pipeline publishes the snaps that devices download.
//!
//! It uses `sdk` and nothing else of the platform. Four programs in one binary, which meet by HTTP and in the database only:
//! [`cloud`] and [`ingest`] share the cloud database, [`manage`] has one of its own, [`pipeline`] has none. None of them ever
//! changes a schema; [`migrations`] does nothing else. Tenants are fenced by the database (README.md).

#![forbid(unsafe_code)]

pub mod cloud;
pub mod digest;
pub mod fault;
pub mod ingest;
pub mod login;
pub mod manage;
pub mod migrations;
pub mod pipeline;
pub mod serve;
pub mod staff;
pub mod store;
pub mod webhook;
