//! Volumes: disks of a declared size for the data of one workload. A volume is a sparse file with ext4 in it, seen through a
//! loop device, and mounted in the workload's own mount namespace and nowhere else: when its last process has ended, however
//! that came, the kernel takes mount and device away.
//!
//! The file system is made larger than the volume, and what lies between is withheld by the kernel (`reserved_clusters`, see
//! `Documentation/admin-guide/ext4.rst` of Linux): past its size a write fails as on any full disk, and a volume grows by
//! writing a number, with the data in use. Enlarging ext4 itself (`EXT4_IOC_RESIZE_FS`) asks for CAP_SYS_RESOURCE, which many
//! machines do not give to root.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::{
    fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount,
        fsopen,
    },
};

const GIB: u64 = 1 << 30;
const BLOCK: u64 = 4096;
/// A volume may grow so many times over its first size; beyond, its data is restored into a new one.
const ROOM_TO_GROW: u64 = 16;
const LEAST_ROOM: u64 = 64 * GIB;
/// ext4 ends a file here, and the volume is one.
const MOST_ROOM: u64 = 15 << 40;
/// Files that it can hold; PostgreSQL has about a thousand a database.
const FILES: u32 = 262_144;
/// Where the superblock begins, and in it the state of the file system, whose second bit says that errors were met.
const STATE_AT: u64 = 1024 + 58;
const MET_ERRORS: u16 = 2;
const TOOLS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/bin"];

// From linux/loop.h.
const LOOP_CONFIGURE: u64 = 0x4C0A;
const LOOP_GET_STATUS64: u64 = 0x4C05;
const LOOP_CTL_GET_FREE: u64 = 0x4C82;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;
const LOOP_MAJOR: u32 = 7;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const NO_INFO: LoopInfo = LoopInfo {
    device: 0,
    inode: 0,
    rdevice: 0,
    offset: 0,
    size_limit: 0,
    number: 0,
    encrypt_type: 0,
    encrypt_key_size: 0,
    flags: 0,
    file_name: [0; 64],
    crypt_name: [0; 64],
    encrypt_key: [0; 32],
    init: [0; 2],
};

/// A workload's own disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// What holds it; made when it is not there.
    pub file: PathBuf,
    /// The folder over which the workload sees it.
    pub at: PathBuf,
    pub bytes: u64,
}

/// What a mounted volume holds now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// Its size.
    pub bytes: u64,
    pub used: u64,
    /// What a write finds.
    pub free: u64,
    /// The largest it can grow to.
    pub most: u64,
    /// The disk below it failed or was full, and the kernel takes no writes until it is mounted anew.
    pub broken: bool,
    /// The number of its loop device.
    device: u32,
}

fn refused(what: &str, path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    let what = format!("{what} {}", path.display());
    move |e| io::Error::new(e.kind(), format!("{what}: {e}"))
}

fn tool(name: &str) -> io::Result<PathBuf> {
    let found = TOOLS.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists());
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{name}: not found (Debian: e2fsprogs)")))
}

/// Whether this machine gives volumes; if not, the command that was refused.
///
/// # Errors
/// In words, for people.
pub fn probe() -> Result<(), String> {
    let try_all = || -> io::Result<()> {
        tool("mkfs.ext4")?;
        tool("e2fsck")?;
        let number = free_number()?;
        let device = device(number);
        fs::OpenOptions::new().read(true).write(true).open(&device).map_err(refused("losetup", &device)).map(drop)?;
        let context = fsopen("ext4", FsOpenFlags::FSOPEN_CLOEXEC);
        context.map(drop).map_err(|e| io::Error::other(format!("mount -t ext4: {e}")))
    };
    try_all().map_err(|e| e.to_string())
}

fn device(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/loop{number}"))
}

fn knob(device: u32, name: &str) -> PathBuf {
    PathBuf::from(format!("/sys/fs/ext4/loop{device}/{name}"))
}

fn free_number() -> io::Result<u32> {
    let path = Path::new("/dev/loop-control");
    let control = fs::OpenOptions::new().read(true).write(true).open(path).map_err(refused("losetup --find:", path))?;
    // SAFETY: an ioctl without an argument.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
    u32::try_from(number).map_err(|_| io::Error::last_os_error())
}

/// The file's device if it has one: two devices over one file would each keep a file system of their own in memory.
fn attached(file: &fs::Metadata) -> Option<(u32, fs::File)> {
    for entry in fs::read_dir("/sys/block").ok()?.flatten() {
        let name = entry.file_name();
        let Some(number) = name.to_str().and_then(|n| n.strip_prefix("loop")?.parse::<u32>().ok()) else { continue };
        if !entry.path().join("loop").exists() {
            continue;
        }
        // Once it is open, it does not go away.
        let Ok(open) = fs::OpenOptions::new().read(true).write(true).open(device(number)) else { continue };
        let mut info = NO_INFO;
        // SAFETY: the kernel fills the struct it is made for.
        let asked = unsafe { libc::ioctl(open.as_raw_fd(), LOOP_GET_STATUS64 as _, &raw mut info) };
        if asked == 0 && info.inode == file.ino() && info.device == file.dev() {
            return Some((number, open));
        }
    }
    None
}

/// The loop device of a file, its own or a new one. It goes away with its last user.
fn attach(path: &Path) -> io::Result<(u32, fs::File)> {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).map_err(refused("open", path))?;
    if let Some(found) = attached(&file.metadata()?) {
        return Ok(found);
    }
    mend(path, &file)?;
    // Whoever else attaches at this moment may be quicker.
    for _ in 0..64 {
        let number = free_number()?;
        let device = device(number);
        let open = fs::OpenOptions::new().read(true).write(true).open(&device).map_err(refused("losetup", &device))?;
        let configure = |flags: u32| {
            let info = LoopInfo { flags, ..NO_INFO };
            let config = LoopConfig { fd: file.as_raw_fd() as u32, block_size: BLOCK as u32, info, reserved: [0; 8] };
            // SAFETY: the struct is the one that the call takes, and outlives it.
            match unsafe { libc::ioctl(open.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        // Past the page cache: the file system over it has one, and a flush then waits for less.
        let direct = configure(LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO);
        let done = match direct {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => configure(LO_FLAGS_AUTOCLEAR),
            other => other,
        };
        match done {
            Ok(()) => return Ok((number, open)),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {}
            Err(e) => return Err(refused(&format!("losetup {}", device.display()), path)(e)),
        }
    }
    Err(io::Error::other(format!("losetup {}: every loop device is taken again and again", path.display())))
}

/// A file system that met errors (the disk below it was full) is looked through before it is mounted again.
fn mend(path: &Path, file: &fs::File) -> io::Result<()> {
    let mut state = [0; 2];
    file.read_exact_at(&mut state, STATE_AT).map_err(refused("read", path))?;
    if u16::from_le_bytes(state) & MET_ERRORS == 0 {
        return Ok(());
    }
    let out = Command::new(tool("e2fsck")?).arg("-fy").arg(path).stdin(Stdio::null()).output()?;
    // 1: mended. 4 and more: not.
    match out.status.code() {
        Some(0..=2) => Ok(()),
        _ => Err(io::Error::other(format!("e2fsck -fy {}: {}", path.display(), String::from_utf8_lossy(&out.stdout)))),
    }
}

/// Makes the file; it has its name only once it is complete.
fn make(path: &Path, bytes: u64) -> io::Result<()> {
    let part = path.with_extension("part");
    match fs::remove_file(&part) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(refused("remove", &part)(e)),
        _ => {}
    }
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part);
    let file = file.map_err(refused("make", &part))?;
    let mut room = bytes.saturating_mul(ROOM_TO_GROW).clamp(LEAST_ROOM, MOST_ROOM).max(bytes + bytes / 8);
    while let Err(e) = file.set_len(room) {
        // The disk's file system has a largest file.
        room /= 2;
        if room < bytes + bytes / 8 {
            return Err(refused("truncate", &part)(e));
        }
    }
    // What would be written everywhere is left out or made when it is needed: the file stays small.
    let out = Command::new(tool("mkfs.ext4")?)
        .args(["-q", "-F", "-m", "0", "-b", "4096", "-I", "256", "-G", "256", "-J", "size=64"])
        .args(["-N", &FILES.to_string(), "-O", "^resize_inode,64bit,sparse_super2"])
        .args(["-E", "num_backup_sb=1,lazy_itable_init=1,lazy_journal_init=1,nodiscard,packed_meta_blocks=1"])
        .arg(&part)
        .stdin(Stdio::null())
        .output()?;
    if !out.status.success() {
        let why = String::from_utf8_lossy(&out.stderr).trim().to_owned();
        return Err(io::Error::other(format!("mkfs.ext4 {}: {why}", part.display())));
    }
    file.sync_all().and_then(|()| fs::rename(&part, path)).map_err(refused("put in place", path))
}

/// The volume, made where it is not there, mounted nowhere yet: whoever gets the descriptor may put it in its own place. All
/// in it belongs to `user`.
///
/// # Errors
/// The machine refused; the text says the command that a person would try.
pub fn open(volume: &Volume, user: Option<u32>) -> io::Result<OwnedFd> {
    if !volume.file.exists() {
        make(&volume.file, volume.bytes)?;
    }
    let (number, _held) = attach(&volume.file)?;
    let source = device(number);
    let failed = |e: rustix::io::Errno| refused(&format!("mount -t ext4 {}", source.display()), &volume.at)(e.into());
    let context = fsopen("ext4", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed)?;
    fsconfig_set_string(&context, "source", source.as_path()).map_err(failed)?;
    fsconfig_set_string(&context, "errors", "remount-ro").map_err(failed)?;
    for flag in ["noinit_itable", "discard"] {
        fsconfig_set_flag(&context, flag).map_err(failed)?;
    }
    fsconfig_create(&context).map_err(failed)?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed)?;
    let total = rustix::fs::fstatfs(&mount)?.f_blocks as u64;
    withhold(number, total, volume.bytes)?;
    let root = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
    if let Some(user) = user
        && fs::metadata(&root)?.uid() != user
    {
        // Its root last: what was cut is done again.
        hand_over(&root, user).map_err(refused("hand over", &volume.file))?;
    }
    rustix::fs::chmodat(CWD, &root, Mode::RWXU, AtFlags::empty())?;
    Ok(mount)
}

/// Whether a volume that nobody uses holds a file.
///
/// # Errors
/// As [`open`].
pub fn holds(file: &Path, path: &Path) -> io::Result<bool> {
    let bytes = fs::metadata(file)?.len() / 2;
    let mount = open(&Volume { file: file.to_owned(), at: "/".into(), bytes }, None)?;
    Ok(PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd())).join(path).exists())
}

/// Everything in a folder, then the folder itself, belongs to `user` from then on; links are not followed.
fn hand_over(folder: &Path, user: u32) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if fs::symlink_metadata(&path)?.is_dir() {
            hand_over(&path, user)?;
        } else {
            std::os::unix::fs::lchown(&path, Some(user), Some(user))?;
        }
    }
    let open = rustix::fs::open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::fs::fchown(open, Some(Uid::from_raw(user)), Some(Gid::from_raw(user))).map_err(Into::into)
}

/// Has the kernel keep back what lies beyond `bytes`.
fn withhold(device: u32, total: u64, bytes: u64) -> io::Result<()> {
    let blocks = bytes / BLOCK;
    if blocks >= total {
        let most = total * BLOCK / GIB;
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("the volume was made to hold {most} GiB at most, and {bytes} bytes are asked for"),
        ));
    }
    let path = knob(device, "reserved_clusters");
    fs::write(&path, (total - blocks).to_string()).map_err(refused("echo >", &path))
}

/// A path as process `pid` sees it.
pub fn inside(pid: u32, path: &Path) -> PathBuf {
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// The volume that process `pid` sees at a path; None where it sees none.
pub fn look(pid: u32, at: &Path) -> Option<Use> {
    let path = inside(pid, at);
    let number = fs::metadata(&path).ok()?.dev();
    if rustix::fs::major(number) != LOOP_MAJOR {
        return None;
    }
    let device = rustix::fs::minor(number);
    let count = |name: &str| fs::read_to_string(knob(device, name)).ok()?.trim().parse::<u64>().ok();
    let withheld = count("reserved_clusters")?;
    let system = rustix::fs::statfs(&path).ok()?;
    let (total, free) = (system.f_blocks as u64, system.f_bfree as u64);
    Some(Use {
        bytes: total.saturating_sub(withheld) * BLOCK,
        used: total.saturating_sub(free) * BLOCK,
        free: system.f_bavail as u64 * BLOCK,
        most: total.saturating_sub(1) * BLOCK,
        broken: count("errors_count").unwrap_or_default() > 0,
        device,
    })
}

/// Gives a mounted volume another size, while it is in use.
///
/// # Errors
/// It was made for less, or the machine refused.
pub fn resize(seen: &Use, bytes: u64) -> io::Result<()> {
    withhold(seen.device, seen.most / BLOCK + 1, bytes)
}
