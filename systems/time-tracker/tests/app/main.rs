//! The whole application, tested from outside: one program, so that it is linked once.

mod access;
mod api;
mod common;
mod health;
mod journey;
mod together;
