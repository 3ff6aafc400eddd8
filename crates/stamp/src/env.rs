//! Every environment variable that `stamp` reads of its own accord.

use std::path::PathBuf;

/// Moves all state: journal, stamps, engines, sockets.
pub const STAMP_HOME: &str = "STAMP_HOME";
/// What the person typed to get here, such as `./stampw`; it is shown in what to type next.
pub const STAMP_CALLED: &str = "STAMP_CALLED";
/// Any value switches colours off (no-color.org).
pub const NO_COLOR: &str = "NO_COLOR";

/// `STAMP_HOME`, or `/var/lib/stampwright` for root and the user's data folder for others.
pub fn home() -> anyhow::Result<PathBuf> {
    if let Some(home) = std::env::var_os(STAMP_HOME).filter(|h| !h.is_empty()) {
        let home = PathBuf::from(home);
        return Ok(if home.is_absolute() { home } else { std::env::current_dir()?.join(home) });
    }
    if rustix::process::geteuid().is_root() {
        return Ok("/var/lib/stampwright".into());
    }
    if let Some(data) = std::env::var_os("XDG_DATA_HOME").filter(|d| !d.is_empty()) {
        return Ok(PathBuf::from(data).join("stampwright"));
    }
    let home = std::env::var_os("HOME").ok_or_else(|| anyhow::anyhow!("neither STAMP_HOME nor HOME is set"))?;
    Ok(PathBuf::from(home).join(".local/share/stampwright"))
}
