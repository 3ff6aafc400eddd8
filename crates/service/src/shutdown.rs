//! The wish to stop, shared by every task of a role.

use std::sync::Arc;

use tokio::sync::watch;

/// Cloned into every task; [`Shutdown::asked`] resolves once the role should end.
#[derive(Clone)]
pub struct Shutdown {
    sender: Arc<watch::Sender<bool>>,
    receiver: watch::Receiver<bool>,
}

impl Default for Shutdown {
    fn default() -> Self {
        let (sender, receiver) = watch::channel(false);
        Self { sender: Arc::new(sender), receiver }
    }
}

impl Shutdown {
    /// Asks every task to end.
    pub fn ask(&self) {
        self.sender.send_replace(true);
    }

    /// Whether the end was asked for.
    pub fn is_asked(&self) -> bool {
        *self.receiver.borrow()
    }

    /// Waits until the end is asked for.
    pub async fn asked(&self) {
        let mut receiver = self.receiver.clone();
        // The sender lives in `self`, so this cannot fail while somebody waits.
        let _ = receiver.wait_for(|asked| *asked).await;
    }

    /// Asks for the end when the process gets SIGTERM or SIGINT.
    pub fn on_signals(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            shutdown.ask();
        });
        Ok(())
    }
}
