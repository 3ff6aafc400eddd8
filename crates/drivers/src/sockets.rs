//! Opens the listeners that workloads inherit.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt as _, net::UnixListener},
    },
    path::Path,
};

use crate::{Error, network::namespace, proc};

/// Opens a TCP listener; a taken port is named with its owner.
pub fn tcp(address: SocketAddr) -> Result<OwnedFd, Error> {
    // std sets SO_REUSEADDR, so that a port in TIME_WAIT does not stop a restart.
    TcpListener::bind(address).map(OwnedFd::from).map_err(|source| {
        let owner = match (source.kind(), address) {
            (io::ErrorKind::AddrInUse, SocketAddr::V4(v4)) => proc::listener_of(v4),
            _ => None,
        };
        Error::Listen { address: address.to_string(), owner, source }
    })
}

/// Opens a TCP listener inside the network that `network` keeps.
pub fn tcp_inside(network: &Path, address: SocketAddr) -> Result<OwnedFd, Error> {
    namespace::listen(network, address).map(OwnedFd::from).map_err(|source| Error::Listen {
        address: format!("{address} inside {}", network.display()),
        owner: None,
        source,
    })
}

/// Opens a unix socket for `user` alone, in place of a stale one.
pub fn unix(path: &Path, user: Option<u32>) -> Result<OwnedFd, Error> {
    let failed = |source| Error::Listen { address: path.display().to_string(), owner: None, source };
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    if let Some(user) = user {
        std::os::unix::fs::chown(path, Some(user), Some(user)).map_err(failed)?;
    }
    Ok(listener.into())
}
