//! MEG QMS: hospitals audit their wards, see where they stand, and plan what is to become better.
//!
//! It uses `sdk` and nothing else of the platform. One program, several processes: pages and API (`cms`), jobs (`worker`,
//! `scheduler`), files (`static`, `media`), one-shot verbs (`migrate`, `maintain`, `back-up`), and stand-ins for what a site has
//! already. All state is in PostgreSQL and on the share, so any number of instances serve alike.

#![forbid(unsafe_code)]

pub mod access;
pub mod api;
pub mod app;
pub mod backup;
pub mod centre;
pub mod directory;
pub mod domain;
pub mod fault;
pub mod formulary;
pub mod hl7;
pub mod link;
pub mod mail;
pub mod maintain;
pub mod media;
pub mod media_server;
pub mod migrations;
pub mod pages;
pub mod queue;
pub mod redis;
pub mod routes;
pub mod scheduler;
pub mod serve;
pub mod stand_in;
pub mod statics;
pub mod store;
pub mod worker;
