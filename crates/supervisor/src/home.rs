//! Where everything of one `STAMP_HOME` lies.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// The folders of one `STAMP_HOME`. All paths are absolute.
#[derive(Clone, Debug)]
pub struct Home {
    root: PathBuf,
    sockets: PathBuf,
    hash: String,
}

impl Home {
    /// The home at `root`; sockets lie in a folder of their own, since their paths must stay under 108 bytes.
    pub fn at(root: PathBuf) -> Self {
        let hash = crate::files::digest(root.as_os_str().as_encoded_bytes())[..8].to_owned();
        let uid = rustix::process::geteuid();
        let sockets = if uid.is_root() {
            PathBuf::from(format!("/run/stampwright-{hash}"))
        } else {
            PathBuf::from(format!("/tmp/stampwright-{}-{hash}", uid.as_raw()))
        };
        Self { root, sockets, hash }
    }

    /// Makes the folders; others may pass through, not look.
    pub fn prepare(&self) -> io::Result<()> {
        for folder in [&self.root, &self.sockets] {
            make(folder, 0o711)?;
            let owner = fs::metadata(folder)?.uid();
            if owner != rustix::process::geteuid().as_raw() {
                let why = format!("{} belongs to user {owner}, not to us", folder.display());
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
            }
        }
        for name in ["bin", "engines", "templates", "stamps", "apps"] {
            let folder = self.root.join(name);
            // Engines may be shared by a link; what it leads to is not ours to change.
            if !folder.is_symlink() {
                // Engines are everybody's: another user's home may link to them, and looks for what is there.
                make(&folder, if name == "engines" { 0o755 } else { 0o711 })?;
            }
        }
        Ok(())
    }

    /// Whether this home is thrown away after a run of checks: its maker has left a file that says so.
    pub fn is_scratch(&self) -> bool {
        self.scratch().exists()
    }

    /// The file that marks a scratch home.
    pub fn scratch(&self) -> PathBuf {
        self.root.join("scratch")
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Eight hex digits that set this home apart on the machine.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    pub fn socket(&self) -> PathBuf {
        self.sockets.join("supervisor.sock")
    }

    pub fn sockets(&self) -> &Path {
        &self.sockets
    }

    pub fn lock(&self) -> PathBuf {
        self.root.join("supervisor.lock")
    }

    pub fn log(&self) -> PathBuf {
        self.root.join("supervisor.log")
    }

    pub fn journal(&self) -> PathBuf {
        self.root.join("journal.db")
    }

    pub fn ballast(&self) -> PathBuf {
        self.root.join("ballast")
    }

    pub fn bin(&self) -> PathBuf {
        self.root.join("bin")
    }

    pub fn engines(&self) -> PathBuf {
        self.root.join("engines")
    }

    pub fn templates(&self) -> PathBuf {
        self.root.join("templates")
    }

    pub fn apps(&self) -> PathBuf {
        self.root.join("apps")
    }

    /// What lies under other regions' labels: further copies of backups.
    pub fn regions(&self) -> PathBuf {
        self.root.join("regions")
    }

    pub fn stamp(&self, system: &str, stamp: &str) -> PathBuf {
        self.root.join("stamps").join(format!("{system}.{stamp}"))
    }
}

/// Makes a folder with a mode, whatever the umask; one that is there gets the mode.
pub fn make(folder: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(mode))
}

/// Makes a folder for `user` alone.
pub fn make_for(folder: &Path, mode: u32, user: Option<u32>) -> io::Result<()> {
    make(folder, mode)?;
    if let Some(user) = user {
        std::os::unix::fs::chown(folder, Some(user), Some(user))?;
    }
    Ok(())
}
