//! The steps of a plan, on machines that are played: each fails once, each is carried out twice, and the supervisor is
//! killed at every kind of moment.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod check;
mod cuts;
mod each;
mod http;
mod story;
mod world;
