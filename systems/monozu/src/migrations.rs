//! The two schemas, as ordered SQL files that `monozu migrate` applies.

use sdk::migrations::Migration;

/// Of the cloud database; a test checks that no file of `migrations/cloud/` is missing here.
pub const CLOUD: [Migration; 3] = [
    Migration { version: 1, name: "0001_fence", sql: include_str!("../migrations/cloud/0001_fence.sql") },
    Migration { version: 2, name: "0002_tenants_own", sql: include_str!("../migrations/cloud/0002_tenants_own.sql") },
    Migration { version: 3, name: "0003_doors", sql: include_str!("../migrations/cloud/0003_doors.sql") },
];

/// Of the management database.
pub const MANAGE: [Migration; 1] =
    [Migration { version: 1, name: "0001_schema", sql: include_str!("../migrations/manage/0001_schema.sql") }];

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_migrations_folders_is_applied() {
        for (folder, all) in [("cloud", &CLOUD[..]), ("manage", &MANAGE[..])] {
            let path = format!("{}/migrations/{folder}", env!("CARGO_MANIFEST_DIR"));
            let mut files: Vec<String> = std::fs::read_dir(path)
                .unwrap()
                .map(|f| f.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
                .collect();
            files.sort();
            assert_eq!(files, all.iter().map(|m| m.name).collect::<Vec<_>>());
        }
    }
}
