//! What workloads see of shares.

use drivers::share::{Share, is_possible};
use model::resource::Mount;

use super::*;

impl Composer<'_> {
    /// The shares of a workload, as the driver takes them.
    pub fn shares(&self, mounts: &[Mount]) -> Result<Vec<Share>, Error> {
        let share = |mount: &Mount| {
            let workload = mount.share.to_string();
            Ok(Share {
                folder: folder(self.layout, &mount.share),
                at: PathBuf::from(&mount.path),
                write: mount.write,
                group: self.layout.row(&workload)?.user,
            })
        };
        mounts.iter().map(share).collect()
    }

    /// `MOUNT_NAME` for each: the declared path where the workload sees the share there, else where it lies.
    pub(super) fn mount_settings(&self, mounts: &[Mount], env: &mut BTreeMap<String, String>) {
        for mount in mounts {
            let name = mount.share.name.to_ascii_uppercase().replace('-', "_");
            let declared = Path::new(&mount.path);
            let seen = match self.layout.names && is_possible(declared) {
                true => declared.to_owned(),
                false => folder(self.layout, &mount.share),
            };
            env.insert(format!("MOUNT_{name}"), seen.display().to_string());
        }
    }
}

/// Where a share lies.
fn folder(layout: &Layout, share: &ResourceId) -> PathBuf {
    layout.place(&share.to_string()).join("data")
}

/// Makes the folders of all shares; what is in them stays. Each is of a group of its own, whose members use it together.
pub fn make(layout: &Layout, system: &System) -> Result<(), Error> {
    for id in system.resources.keys().filter(|id| id.kind == Kind::Share) {
        let (place, folder) = (layout.place(&id.to_string()), folder(layout, id));
        crate::home::make(&place, 0o711).map_err(Error::file("make", &place))?;
        // What is made in it is the group's, whoever makes it.
        crate::home::make_for(&folder, 0o2770, layout.user(&id.to_string())).map_err(Error::file("make", &folder))?;
    }
    Ok(())
}
