//! The engine's own program. The only file of this crate that starts a process.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
};

use api::{
    Secret,
    graph::{GraphRight, GraphUser},
};

/// The engine's user for the keeper itself.
pub(crate) const KEEPER: &str = "keeper";
/// The engine's user for members that follow.
pub(crate) const FOLLOWER: &str = "follower";
/// Counts writes.
pub(crate) const WRITES: &str = "stamp:writes";
/// The term whose leader wrote last.
pub(crate) const TERM: &str = "stamp:term";

/// What the engine is started with.
pub(crate) struct Engine {
    pub bin: PathBuf,
    pub data: PathBuf,
    pub socket: PathBuf,
}

impl Engine {
    /// Writes the engine's settings and access list anew. Of passwords the list holds digests only.
    pub fn write(&self, users: &[GraphUser], graph: &str, root: &Secret, keeper: &Secret) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.data)?;
        if let Some(folder) = self.socket.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        private(&self.data.join("users.acl"), &access(users, graph, root, keeper))?;
        let settings = format!(
            "port 0\nunixsocket {}\nunixsocketperm 700\ndir {}\naclfile {}\nloadmodule {} THREAD_COUNT 2 OMP_THREAD_COUNT 1 EFFECTS_THRESHOLD 0\n\
             appendonly yes\nappendfsync always\nsave \"\"\nrepl-diskless-sync-delay 0\nrepl-rdb-channel no\nrepl-timeout 15\nrepl-ping-replica-period 2\n\
             masteruser {FOLLOWER}\nmaxclients 512\nproc-title-template \"{{title}} {{listen-addr}}\"\nlogfile \"\"\n\
             enable-debug-command no\nenable-module-command no\ncrash-memcheck-enabled no\n",
            self.socket.display(),
            self.data.display(),
            self.data.join("users.acl").display(),
            self.bin.join("falkordb.so").display(),
        );
        private(&self.data.join("redis.conf"), &settings)
    }

    /// Starts it as a child that ends with the keeper: a member without a keeper must not go on taking writes.
    pub fn start(&self) -> io::Result<tokio::process::Child> {
        let _ = fs::remove_file(&self.socket);
        let mut command = tokio::process::Command::new(self.bin.join("redis-server"));
        command.arg(self.data.join("redis.conf")).env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8");
        // An engine that was unpacked brings its libraries beside it.
        if let Some(lib) = self.bin.parent().map(|engine| engine.join("lib")).filter(|lib| lib.is_dir()) {
            command.env("LD_LIBRARY_PATH", lib);
        }
        if let Some(mark) = std::env::var_os(api::context::MARK) {
            command.env(api::context::MARK, mark);
        }
        command.current_dir(&self.data).stdin(Stdio::null()).stdout(Stdio::inherit()).kill_on_drop(true);
        // SAFETY: prctl is a plain system call, allowed between fork and exec.
        unsafe {
            command.pre_exec(|| {
                rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
                Ok(())
            });
        }
        command.spawn()
    }

    /// Ends an engine that a keeper before this one left behind. It would hold the data.
    pub fn has_left_behind(&self) -> bool {
        std::os::unix::net::UnixStream::connect(&self.socket).is_ok()
    }
}

fn private(path: &Path, text: &str) -> io::Result<()> {
    use io::Write as _;
    let part = path.with_extension("part");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(part, path)
}

/// Nobody but those that are named, and each no more than its right. A reader has the one command that the engine itself holds to
/// reading; a writer also counts its writes and asks whether they are safe.
fn access(users: &[GraphUser], graph: &str, root: &Secret, keeper: &Secret) -> String {
    let mut text = String::from("user default off resetpass resetkeys resetchannels -@all\n");
    text.push_str(&format!("user {KEEPER} on #{} ~* &* +@all\n", digest(keeper)));
    let follower = replication(root);
    text.push_str(&format!(
        "user {FOLLOWER} on #{} resetkeys resetchannels -@all +psync +replconf +ping\n",
        digest(&follower)
    ));
    for user in users {
        let rights = match user.right {
            GraphRight::Read => "+graph.ro_query +ping".to_owned(),
            GraphRight::Write => {
                format!("+graph.ro_query +graph.query +ping +waitaof (-@all +incr ~{WRITES})")
            }
        };
        let digest = digest(&api::graph::password(root, &user.name));
        text.push_str(&format!("user {} on #{digest} resetkeys ~{graph} resetchannels -@all {rights}\n", user.name));
    }
    text
}

/// The password of members that follow.
pub(crate) fn replication(root: &Secret) -> Secret {
    root.derive("replication")
}

fn digest(password: &Secret) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, password.expose().as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_access_list_holds_no_password_and_a_reader_cannot_write() {
        let (root, keeper) = (Secret::random(), Secret::random());
        let users = [
            GraphUser { name: "service.api".into(), right: GraphRight::Write },
            GraphUser { name: "service.export".into(), right: GraphRight::Read },
        ];
        let text = access(&users, "neo4j", &root, &keeper);
        assert!(!text.contains(keeper.expose()) && !text.contains(api::graph::password(&root, "service.api").expose()));
        let reader = text.lines().find(|l| l.starts_with("user service.export ")).unwrap_or_default();
        assert!(
            reader.contains("+graph.ro_query") && !reader.contains("graph.query ") && !reader.contains("+@all"),
            "{reader}"
        );
        assert!(text.starts_with("user default off"));
    }
}
