//! What is read and written of people, departments, models and generations: one file a noun.

pub mod departments;
pub mod generations;
pub mod models;
pub mod sessions;
pub mod users;
