//! The only place with SQL. A function takes the connection or the transaction it works in.

pub mod catalog;
pub mod entries;
pub mod grid;
pub mod history;
pub mod reports;
pub mod sessions;
pub mod sheets;
pub mod users;
