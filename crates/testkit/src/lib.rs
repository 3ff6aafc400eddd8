//! For tests only: a `STAMP_HOME` of its own, the `stamp` program run in it, and conditions that are awaited.
//!
//! Entry: [`Stage::new`]. When a stage is dropped, everything it started is ended and removed, also after a panic.

mod stage;
mod wait;

pub use stage::{As, Output, Stage, engines, require, skip};
pub use wait::wait_until;
