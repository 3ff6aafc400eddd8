//! Network namespaces: made, entered, kept by a name in the file system, forgotten.
//!
//! A thread enters a namespace by itself; the others of the process stay where they are. So what must be done inside is
//! done on a thread of its own, which ends after it: none of ours is ever left in a foreign namespace.

use std::{
    ffi::CString,
    fs, io,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

/// A connection that is not made within this is not made.
const CONNECT: Duration = Duration::from_secs(5);
/// `statfs` says this of a namespace's file.
const NSFS: libc::c_long = 0x6E73_6673;

/// Whether a namespace is kept at `path`.
pub fn is_kept(path: &Path) -> bool {
    let Ok(name) = text(path) else { return false };
    // SAFETY: the structure is filled by the call, and the text outlives it.
    unsafe {
        let mut found: libc::statfs = std::mem::zeroed();
        libc::statfs(name.as_ptr(), &mut found) == 0 && found.f_type as libc::c_long == NSFS
    }
}

/// Keeps a new namespace at `path`, unless one is there. It lives until [`forget`], whoever ends meanwhile.
pub fn keep(path: &Path) -> io::Result<()> {
    if is_kept(path) {
        return Ok(());
    }
    fs::File::create(path)?;
    let path = path.to_owned();
    on_a_thread(move || {
        // SAFETY: plain system calls of this thread, with texts that outlive them.
        unsafe {
            check(libc::unshare(libc::CLONE_NEWNET))?;
            let (from, to) = (c"/proc/thread-self/ns/net", text(&path)?);
            let none = std::ptr::null();
            check(libc::mount(from.as_ptr(), to.as_ptr(), none, libc::MS_BIND, none.cast()))
        }
    })
}

/// Lets go of the namespace at `path`; it ends with the last process in it.
pub fn forget(path: &Path) -> io::Result<()> {
    while is_kept(path) {
        let name = text(path)?;
        // SAFETY: the text outlives the call.
        unsafe { check(libc::umount2(name.as_ptr(), libc::MNT_DETACH))? };
    }
    // Workloads with mounts of their own hold copies of the mount; with its file, those go as well.
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// The thread that calls enters the namespace.
pub fn enter(namespace: &OwnedFd) -> io::Result<()> {
    // SAFETY: a plain system call that changes this thread alone.
    unsafe { check(libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET)) }
}

pub fn open(path: &Path) -> io::Result<OwnedFd> {
    if !is_kept(path) {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no network at {}", path.display())));
    }
    fs::File::open(path).map(Into::into)
}

/// Does something on a thread of its own.
pub fn on_a_thread<T: Send + 'static>(act: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let thread = std::thread::Builder::new().name("inside".into()).stack_size(256 * 1024).spawn(act)?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("a look inside a network failed")))
}

/// Does something inside the namespace at `path`.
pub fn inside<T: Send + 'static>(path: &Path, act: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let namespace = open(path)?;
    on_a_thread(move || {
        enter(&namespace)?;
        act()
    })
}

/// A connection from inside the namespace at `path`: its socket belongs there, whoever holds it.
pub fn connect(path: &Path, to: SocketAddr) -> io::Result<TcpStream> {
    inside(path, move || TcpStream::connect_timeout(&to, CONNECT))
}

/// A listener inside the namespace at `path`.
pub fn listen(path: &Path, at: SocketAddr) -> io::Result<TcpListener> {
    inside(path, move || TcpListener::bind(at))
}

/// A connection being made.
pub type Dialling = Pin<Box<dyn Future<Output = io::Result<tokio::net::TcpStream>> + Send>>;

/// Connects from inside the namespace at `path`, for clients that run outside.
pub fn dial(path: PathBuf) -> Arc<dyn Fn(SocketAddr) -> Dialling + Send + Sync> {
    Arc::new(move |to| {
        let path = path.clone();
        Box::pin(async move {
            let made = tokio::task::spawn_blocking(move || connect(&path, to)).await.map_err(io::Error::other)??;
            made.set_nonblocking(true)?;
            tokio::net::TcpStream::from_std(made)
        })
    })
}

/// Writes a setting of the thread's network, such as `ipv4/ip_forward`; one that the kernel does not have is left.
pub fn set(name: &str, value: &str) -> io::Result<()> {
    match fs::write(Path::new("/proc/sys/net").join(name), value) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The number by which the kernel tells namespaces apart.
pub fn number(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    is_kept(path).then(|| fs::metadata(path).ok().map(|m| m.ino()))?
}

fn text(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_encoded_bytes()).map_err(io::Error::other)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The same namespace, for another thread.
pub fn again(namespace: &OwnedFd) -> io::Result<OwnedFd> {
    namespace.as_fd().try_clone_to_owned()
}
