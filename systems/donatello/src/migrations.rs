//! The schema, as ordered SQL files that `donatello migrate` applies.

use sdk::migrations::Migration;

/// All migrations; a test checks that no file of `migrations/` is missing here.
pub const ALL: [Migration; 2] = [
    Migration { version: 1, name: "0001_schema", sql: include_str!("../migrations/0001_schema.sql") },
    Migration { version: 2, name: "0002_seeds", sql: include_str!("../migrations/0002_seeds.sql") },
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
    use super::*;

    #[test]
    fn every_file_of_the_migrations_folder_is_applied() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|f| f.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        files.sort();
        assert_eq!(files, ALL.map(|m| m.name));
    }
}
