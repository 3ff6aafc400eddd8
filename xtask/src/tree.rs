//! The files that git has or would take, and the faults found in them.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

/// One file, its path relative to the root with `/`. Files that are not text have an empty text.
pub struct File {
    pub path: String,
    pub text: String,
}

pub struct Tree {
    pub root: PathBuf,
    pub files: Vec<File>,
}

/// What is wrong where; line 0 is the whole file.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    pub path: String,
    pub line: usize,
    pub what: String,
}

impl Fault {
    pub fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.into(), line, what: what.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.what),
            line => write!(f, "{}:{line}: {}", self.path, self.what),
        }
    }
}

impl Tree {
    /// Reads what is committed and what `git add` would take.
    pub fn read() -> anyhow::Result<Self> {
        let root =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the repository")?.to_path_buf();
        let list = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(&root)
            .output()
            .context("start git")?;
        anyhow::ensure!(list.status.success(), "git ls-files failed: {}", String::from_utf8_lossy(&list.stderr));
        let mut files = Vec::new();
        for path in String::from_utf8(list.stdout).context("a path is not UTF-8")?.split_terminator('\0') {
            // Deleted but not yet committed, or a symlink to a folder.
            let Ok(bytes) = std::fs::read(root.join(path)) else { continue };
            files.push(File { path: path.into(), text: String::from_utf8(bytes).unwrap_or_default() });
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self { root, files })
    }

    pub fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|f| f.path == path)
    }

    /// Whether a file or a folder of that path is there.
    pub fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        self.files.iter().any(|f| f.path == path || f.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('/')))
    }

    #[cfg(test)]
    pub fn of(files: &[(&str, &str)]) -> Self {
        let files = files.iter().map(|(path, text)| File { path: (*path).into(), text: (*text).into() }).collect();
        Self { root: PathBuf::new(), files }
    }
}

impl File {
    /// Lines with their numbers, from 1.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// A source of the product: neither its tests, wherever they stand, nor examples.
    pub fn is_product(&self) -> bool {
        let parts: Vec<&str> = self.path.split('/').collect();
        let of_tests = parts.iter().any(|part| matches!(*part, "tests" | "tests.rs") || part.ends_with("_tests.rs"));
        self.is_rust() && !of_tests && matches!(parts[..], ["crates" | "systems", _, "src", ..])
    }
}
