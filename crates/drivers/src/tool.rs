//! Programs of the machine that are run to their end, such as a build's analysis.

use std::{
    io,
    path::Path,
    process::{Command, Output, Stdio},
};

/// Runs `program` in `folder` with `further` variables and no input; what it said.
///
/// # Errors
/// It could not be started, such as for not being there.
pub fn run(program: &str, arguments: &[&str], folder: &Path, further: &[(&str, &Path)]) -> io::Result<Output> {
    let mut command = Command::new(program);
    command.args(arguments).envs(further.iter().copied()).current_dir(folder).stdin(Stdio::null()).output()
}
