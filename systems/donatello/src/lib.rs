//! DonatelloAI: people of an organisation make images from prompts, within budgets and rules, with every act on record.
//!
//! It uses `sdk` and nothing else of the platform. `api` serves pages and the JSON API and takes prompts; `worker` carries
//! jobs through their steps; `provider` plays an outside provider for tests and demonstrations. All state is in
//! PostgreSQL and the image store, so any number of each may run, and any of them may be killed at any moment.

#![forbid(unsafe_code)]

pub mod access;
pub mod api;
pub mod app;
pub mod audit;
pub mod breaker;
pub mod budget;
pub mod domain;
pub mod fault;
pub mod image;
pub mod images;
pub mod migrations;
pub mod pages;
pub mod pii;
pub mod progress;
pub mod providers;
pub mod queue;
pub mod render;
pub mod router;
pub mod routes;
pub mod serve;
pub mod standin;
pub mod store;
pub mod submit;
pub mod worker;
