//! What every role does alike: start, listen, TLS, who is calling, audit, clock, shutdown, logs.
//!
//! Entry: [`start`] reads the role's file, inherited listeners and secrets ([`api::context`]) and gives a [`Context`];
//! [`serve`] answers on a listener until [`Shutdown`] is asked for. It never opens a listener, never starts a process and
//! never reads the wall clock but through [`Clock`].

pub mod answer;
mod caller;
pub mod certificate;
mod clock;
mod context;
mod listen;
pub mod log;
mod serve;
mod shutdown;
pub mod spool;
pub mod tls;

pub use caller::{Caller, Denied, Verifier};
pub use certificate::Certificate;
pub use clock::Clock;
pub use context::{Context, StartError, inherited_secrets, read, start};
pub use listen::{Listener, Listeners};
pub use serve::{Limits, Peer, may_command, serve};
pub use shutdown::Shutdown;
pub use spool::Spool;
