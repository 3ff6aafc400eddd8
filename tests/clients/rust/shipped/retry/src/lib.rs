//! Microsoft's Key Vault tests ask for this package, which is not published: how long to wait between attempts.

use std::time::Duration;

/// Pauses that grow: 1 s, 2 s, 4 s, ..., eight of them unless told otherwise.
pub struct Retry {
    pause: Option<Duration>,
    left: u32,
}

impl Retry {
    /// Attempts without a pause.
    pub fn immediate() -> Self {
        Self { pause: None, left: 8 }
    }

    /// Attempts with pauses that double; `most` of them, 8 if not given.
    pub fn progressive(most: Option<u32>) -> Self {
        Self { pause: Some(Duration::from_secs(1)), left: most.unwrap_or(8) }
    }

    /// The pause that comes next.
    pub fn duration(&self) -> Option<Duration> {
        self.pause
    }

    /// Waits; None when there were enough attempts.
    pub async fn next(&mut self) -> Option<()> {
        self.left = self.left.checked_sub(1)?;
        if let Some(pause) = &mut self.pause {
            // What is awaited cannot be seen from here: the tests ask again.
            let _ = tokio::time::timeout(*pause, std::future::pending::<()>()).await;
            *pause *= 2;
        }
        Some(())
    }
}
