//! Listeners inherited from the driver through the shim (`LISTEN_FDS`, `LISTEN_FDNAMES`, as systemd passes them).
//!
//! The listening socket outlives the role: while a role restarts, connections wait in the backlog instead of being refused.

use std::{
    collections::BTreeMap,
    os::fd::{FromRawFd as _, OwnedFd, RawFd},
};

/// A listening socket with its name.
pub enum Listener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// The inherited listeners, each taken once.
#[derive(Default)]
pub struct Listeners(BTreeMap<String, Listener>);

/// The first inherited descriptor, by systemd's convention.
pub const FIRST_FD: RawFd = 3;

impl Listeners {
    /// Takes the listeners of this process over. Call once, before threads start.
    ///
    /// # Safety
    /// Nothing else in the process may own descriptors 3 and on.
    pub unsafe fn inherited() -> std::io::Result<Self> {
        let count: usize = std::env::var("LISTEN_FDS").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut found = BTreeMap::new();
        for (index, name) in names.split(':').take(count).enumerate() {
            let fd = FIRST_FD + index as RawFd;
            // SAFETY: the caller vouches that these descriptors are ours alone.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
            let unix = matches!(rustix::net::sockopt::socket_domain(&fd)?, rustix::net::AddressFamily::UNIX);
            let listener = if unix { Listener::Unix(fd.into()) } else { Listener::Tcp(fd.into()) };
            listener.set_nonblocking()?;
            found.insert(name.to_owned(), listener);
        }
        Ok(Self(found))
    }

    /// Adds a listener (tests).
    pub fn insert(&mut self, name: impl Into<String>, listener: Listener) {
        self.0.insert(name.into(), listener);
    }

    /// Takes the listener called `name`.
    pub fn take(&mut self, name: &str) -> Option<Listener> {
        self.0.remove(name)
    }

    /// Gives all that are left, by name, to be handed on to another process.
    pub fn into_descriptors(self) -> Vec<(String, OwnedFd)> {
        self.0
            .into_iter()
            .map(|(name, listener)| {
                let fd = match listener {
                    Listener::Tcp(l) => l.into(),
                    Listener::Unix(l) => l.into(),
                };
                (name, fd)
            })
            .collect()
    }

    /// Takes all listeners whose names begin with `prefix`, such as `https` and `https-2`.
    pub fn take_all(&mut self, prefix: &str) -> Vec<Listener> {
        let names: Vec<String> = self.0.keys().filter(|n| n.starts_with(prefix)).cloned().collect();
        names.iter().filter_map(|n| self.0.remove(n)).collect()
    }
}

impl Listener {
    fn set_nonblocking(&self) -> std::io::Result<()> {
        match self {
            Self::Tcp(l) => l.set_nonblocking(true),
            Self::Unix(l) => l.set_nonblocking(true),
        }
    }

    /// Where it listens, for logs.
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(l) => l.local_addr().map_or_else(|e| e.to_string(), |a| a.to_string()),
            Self::Unix(l) => l
                .local_addr()
                .ok()
                .and_then(|a| a.as_pathname().map(|p| p.display().to_string()))
                .unwrap_or_else(|| "unix socket".into()),
        }
    }
}
