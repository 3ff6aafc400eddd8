//! The main function of an application: a verb, with telemetry around it and one line on standard error when it fails.

use std::{fmt::Display, io, process::ExitCode};

use crate::{
    Settings,
    telemetry::{self, TelemetryError},
};

/// Threads of the runtime: an application waits far more than it computes.
const THREADS: usize = 2;

/// Runs `verb` and waits for it; `service` and `version` name the application in its telemetry. An error is told as
/// `error: ` and its causes (`{:#}`), and gives exit code 1.
pub fn run<E>(service: &str, version: &str, settings: &Settings, verb: impl Future<Output = Result<(), E>>) -> ExitCode
where
    E: Display + From<io::Error> + From<TelemetryError>,
{
    let work = async {
        let telemetry = telemetry::start(settings, service, version)?;
        let result = verb.await;
        telemetry.finish().await;
        result
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    match runtime.map_err(E::from).and_then(|runtime| runtime.block_on(work)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Tells how the program is to be called; gives exit code 2, as is usual for a command line that cannot be read.
pub fn misused(usage: &str) -> ExitCode {
    complain(usage);
    ExitCode::from(2)
}

fn complain(text: &str) {
    use io::Write;
    // Nobody is left to tell when stderr is gone.
    let _ = writeln!(io::stderr(), "{text}");
}
