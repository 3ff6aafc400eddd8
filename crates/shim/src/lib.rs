//! One shim per workload: it owns the log pipe, the exit status and the back-off, resolves vault references with the
//! workload's identity, and answers the App Service identity endpoint to that workload alone. So the supervisor can die
//! without breaking a pipe or losing an exit status.
//!
//! Entry: [`run`], on a thread that lives as long as the process (the workload dies with it). It never talks to the
//! supervisor first: it is asked through its control socket.

mod certificate;
mod child;
mod endpoint;
mod error;
mod front;
mod log;
mod peer;
mod proc;
mod references;
mod run;
mod ship;
mod tokens;

pub use error::Error;
pub use run::run;
