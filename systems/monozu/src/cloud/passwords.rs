//! Passwords of tenants' people: derived here with Argon2id, compared in the database.

use argon2::{Algorithm, Argon2, Params, Version};
use sdk::Secret;
use tokio::sync::Semaphore;

use crate::fault::Fault;

/// OWASP Password Storage Cheat Sheet: m = 19 MiB, t = 2, p = 1.
const COST: (u32, u32, u32) = (19_456, 2, 1);
/// Derivations at once: each takes its memory and a core for some twenty milliseconds.
const AT_ONCE: usize = 2;
/// Those that may wait; more are told to come back.
const WAITING: usize = 32;

/// Derives, a few at a time.
pub struct Passwords {
    at_once: Semaphore,
    all: Semaphore,
}

impl Default for Passwords {
    fn default() -> Passwords {
        Passwords { at_once: Semaphore::new(AT_ONCE), all: Semaphore::new(WAITING) }
    }
}

impl Passwords {
    /// What the database compares.
    ///
    /// # Errors
    /// Too many wait already.
    pub async fn derive(&self, password: &Secret, salt: Vec<u8>) -> Result<Vec<u8>, Fault> {
        let _waiting = self.all.try_acquire().map_err(|_| Fault::TooMany(2))?;
        let _turn = self.at_once.acquire().await.map_err(Fault::internal)?;
        let password = password.clone();
        let work = tokio::task::spawn_blocking(move || -> Result<Vec<u8>, argon2::Error> {
            let params = Params::new(COST.0, COST.1, COST.2, Some(32))?;
            let mut derived = vec![0_u8; 32];
            Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into(
                password.reveal().as_bytes(),
                &salt,
                &mut derived,
            )?;
            Ok(derived)
        });
        match work.await {
            Ok(Ok(derived)) => Ok(derived),
            Ok(Err(error)) => Err(Fault::Internal(error.to_string().into())),
            Err(error) => Err(Fault::internal(error)),
        }
    }
}

/// Refuses what anybody guesses.
///
/// # Errors
/// Fewer than 12 characters, or more than 200.
pub fn judge(password: &Secret) -> Result<(), Fault> {
    let length = password.reveal().chars().count();
    if (12..=200).contains(&length) {
        return Ok(());
    }
    Err(Fault::Invalid("password: 12 to 200 characters".into()))
}
