//! The only place with SQL of pages and API. A function takes the connection or the transaction it works in.

pub mod dashboard;
pub mod forms;
pub mod members;
pub mod qips;
pub mod reports;
pub mod sessions;
pub mod submissions;
pub mod tokens;
pub mod users;
