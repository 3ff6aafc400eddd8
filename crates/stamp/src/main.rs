//! `stamp`: brings a system up from its `system.toml`, and everything a person or a script asks of it after.
//!
//! Here: parse, one match, print what failed once, exit. The verbs are in `commands/`, a file each.

mod arguments;
mod commands;
mod connect;
mod env;
mod evidence;
mod failure;
mod live;
mod scratch;
mod screen;
mod target;

use std::process::ExitCode;

use clap::Parser as _;

use crate::{arguments::Arguments, failure::Failed};

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are asked for; anything else was asked wrongly.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let json = arguments.json;
    match commands::run(arguments) {
        Ok(code) => code,
        Err(error) => {
            let failed = Failed::from(error);
            failed.show(json);
            ExitCode::from(failed.exit())
        }
    }
}
