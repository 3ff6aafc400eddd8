//! Which engines are there: folders `postgresql-VERSION/bin` and `redis-VERSION/bin` as `./stampw` brings them.

use std::path::{Path, PathBuf};

/// One engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    /// Such as `16.14`.
    pub version: String,
    /// Such as 16.
    pub major: u32,
    /// The folder with `initdb` and `postgres`.
    pub bin: PathBuf,
}

impl Engine {
    /// The name of the template of this engine: another version, or another way to make templates, has another name.
    pub fn template_name(&self) -> String {
        format!("postgresql-{}-template-1", self.version)
    }
}

/// Where a client tool of the engine with this `bin` is: beside the server, or in a folder of their own beside `bin` where the
/// engine's package left them out.
pub fn tool(bin: &Path, name: &str) -> Option<PathBuf> {
    let own = bin.parent().unwrap_or(bin).join("tools/bin");
    [bin, &own].into_iter().map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// All complete engines in a folder, newest first. A folder that is not there has none.
pub fn installed(engines: &Path) -> Vec<Engine> {
    let mut found: Vec<(Vec<u32>, Engine)> = std::fs::read_dir(engines)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = name.strip_prefix("postgresql-")?;
            let numbers: Vec<u32> = version.split('.').map(|n| n.parse().ok()).collect::<Option<_>>()?;
            let bin = entry.path().join("bin");
            (bin.join("postgres").exists() && bin.join("initdb").exists()).then_some(())?;
            Some((numbers.clone(), Engine { version: version.to_owned(), major: *numbers.first()?, bin }))
        })
        .collect();
    found.sort_by(|a, b| b.0.cmp(&a.0));
    found.into_iter().map(|(_, engine)| engine).collect()
}

/// The `bin` of the newest graph engine: folders `falkordb-VERSION` with `redis-server` and its module.
pub fn graph(engines: &Path) -> Option<PathBuf> {
    let mut found: Vec<(Vec<u32>, PathBuf)> = std::fs::read_dir(engines)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = name.strip_prefix("falkordb-")?;
            let numbers = version.split('.').map(|n| n.parse().ok()).collect::<Option<_>>()?;
            let bin = entry.path().join("bin");
            (bin.join("redis-server").exists() && bin.join("falkordb.so").exists()).then_some((numbers, bin))
        })
        .collect();
    found.sort();
    found.pop().map(|(_, bin)| bin)
}

/// The engine for a resource: the newest of major version `want`, else of the first accepted major version that is there.
pub fn choose(engines: &Path, want: u32, accept: &[u32]) -> Option<Engine> {
    let all = installed(engines);
    std::iter::once(&want).chain(accept).find_map(|major| all.iter().find(|e| e.major == *major).cloned())
}

/// A Redis server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redis {
    /// Such as `7.0.15`.
    pub version: String,
    pub server: PathBuf,
    /// Libraries that came with it; a folder that may not be there.
    pub lib: PathBuf,
}

/// The newest Redis in a folder of engines.
pub fn redis(engines: &Path) -> Option<Redis> {
    let found = std::fs::read_dir(engines).into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let version = name.strip_prefix("redis-")?;
        let numbers: Vec<u32> = version.split('.').map(|n| n.parse().ok()).collect::<Option<_>>()?;
        let server = entry.path().join("bin/redis-server");
        let redis = Redis { version: version.to_owned(), lib: entry.path().join("lib"), server };
        redis.server.exists().then_some((numbers, redis))
    });
    found.max_by(|a, b| a.0.cmp(&b.0)).map(|(_, redis)| redis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lay(engines: &Path, name: &str, files: &[&str]) {
        let bin = engines.join(name).join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        for file in files {
            std::fs::write(bin.join(file), "").unwrap();
        }
    }

    #[test]
    fn the_newest_of_the_wanted_major_version_is_chosen() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["postgresql-16.9", "postgresql-16.14", "postgresql-15.18", "postgresql-odd", "psql"] {
            lay(dir.path(), name, &["postgres", "initdb"]);
        }
        lay(dir.path(), "postgresql-17.1", &["postgres"]);
        assert_eq!(choose(dir.path(), 16, &[15]).unwrap().version, "16.14");
        assert_eq!(choose(dir.path(), 18, &[17, 15, 16]).unwrap().version, "15.18", "half an engine is none");
        assert_eq!(choose(dir.path(), 14, &[]), None);
        assert_eq!(choose(&dir.path().join("none"), 16, &[]), None);
    }

    #[test]
    fn the_newest_redis_is_chosen() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(redis(dir.path()), None);
        for name in ["redis-7.0.9", "redis-7.0.15", "redis-odd"] {
            lay(dir.path(), name, &["redis-server"]);
        }
        lay(dir.path(), "redis-8.0.0", &["redis-cli"]);
        assert_eq!(redis(dir.path()).unwrap().version, "7.0.15");
    }
}
