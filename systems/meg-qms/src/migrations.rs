//! The schema, as ordered SQL files that `meg-qms migrate` applies: one of the centre, one of a region.

use sdk::migrations::Migration;

use crate::app::Part;

/// What the centre has.
pub const CENTRE: [Migration; 1] =
    [Migration { version: 1, name: "centre_0001", sql: include_str!("../migrations/centre_0001.sql") }];

/// What a region has, and a site that stands alone.
pub const REGION: [Migration; 2] = [
    Migration { version: 1, name: "region_0001", sql: include_str!("../migrations/region_0001.sql") },
    Migration { version: 2, name: "region_0002_seeds", sql: include_str!("../migrations/region_0002_seeds.sql") },
];

/// The migrations of a part.
pub fn of(part: Part) -> &'static [Migration] {
    if part == Part::Centre { &CENTRE } else { &REGION }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_migrations_folder_is_applied() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|f| f.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        files.sort();
        assert_eq!(files, CENTRE.iter().chain(&REGION).map(|m| m.name).collect::<Vec<_>>());
    }
}
