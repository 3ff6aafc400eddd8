//! Asks shims: one line there, one line back.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use api::shim::{Ask, ShimStatus};

const TIMEOUT: Duration = Duration::from_secs(2);

/// Asks the shim at `socket`; None if there is none, or it does not answer.
pub fn ask(socket: &Path, ask: &Ask) -> Option<ShimStatus> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(TIMEOUT)).ok()?;
    stream.set_write_timeout(Some(TIMEOUT)).ok()?;
    let mut line = serde_json::to_string(ask).ok()?;
    line.push('\n');
    stream.write_all(line.as_bytes()).ok()?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).ok()?;
    serde_json::from_str(&answer).ok()
}
