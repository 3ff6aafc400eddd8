//! Passwords: Argon2id with OWASP's parameters, at most two at a time, and which ones are refused.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use api::Secret;
use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher as _, PasswordVerifier as _, phc::PasswordHash},
};
use tokio::sync::Semaphore;

use crate::error::Error;

/// OWASP Password Storage Cheat Sheet: m = 19 MiB, t = 2, p = 1.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Each hash takes 19 MiB while it runs; two at a time keep two cores busy and the memory bounded.
const AT_A_TIME: usize = 2;
/// Sign-ins that may wait for their turn; at 2 x 20 a second that is a wait of about 2 s.
const WAITING: usize = 64;

pub const LEAST_CHARACTERS: usize = 12;
/// Longer ones are refused before they are hashed.
pub const MOST_BYTES: usize = 512;

/// Hashes and checks passwords on a bounded number of threads.
#[derive(Clone)]
pub struct Passwords {
    places: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    /// The hash of nobody's password: checked when there is no person, so that the answer takes as long.
    dummy: Arc<str>,
}

fn hasher() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).expect("these parameters are in range");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

fn hash_here(password: &Secret) -> Result<String, Error> {
    hasher().hash_password(password.expose().as_bytes()).map(|h| h.to_string()).map_err(|e| Error::Hash(e.to_string()))
}

impl Passwords {
    /// Hashes one password nobody has, for [`Passwords::matches`] of nobody.
    pub fn new() -> Result<Self, Error> {
        keep_no_freed_memory();
        let dummy = hash_here(&Secret::random())?.into();
        Ok(Self { places: Arc::new(Semaphore::new(AT_A_TIME)), waiting: Arc::default(), dummy })
    }

    /// The PHC string to store for `password`.
    ///
    /// # Errors
    /// [`Error::Busy`] if too many wait.
    pub async fn hash(&self, password: Secret) -> Result<String, Error> {
        self.in_turn(move || hash_here(&password)).await
    }

    /// Whether `password` is the one of `hash`; with no hash it takes as long and is false.
    ///
    /// # Errors
    /// [`Error::Busy`] if too many wait.
    pub async fn matches(&self, password: Secret, hash: Option<String>) -> Result<bool, Error> {
        let dummy = self.dummy.clone();
        self.in_turn(move || {
            let text = hash.as_deref().unwrap_or(&dummy);
            let parsed = PasswordHash::new(text).map_err(|e| Error::Hash(e.to_string()))?;
            // The parameters are those in the hash, so older hashes keep working when ours change.
            let right = hasher().verify_password(password.expose().as_bytes(), &parsed).is_ok();
            Ok(right && hash.is_some())
        })
        .await
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Error::Busy);
        }
        let place = tokio::time::timeout(Duration::from_secs(10), self.places.clone().acquire_owned()).await;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let Ok(Ok(place)) = place else { return Err(Error::Busy) };
        tokio::task::spawn_blocking(move || {
            let _place = place;
            work()
        })
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }
}

/// Argon2's work memory must go back to the system when a hash is done. glibc raises its threshold for `mmap` after the
/// first large block is freed and would keep the next ones; a fixed threshold stops that.
fn keep_no_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` takes two integers and may be called at any time; 1 MiB is within its range.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1024 * 1024);
    }
}

/// Why a password is refused, as a sentence for the person.
pub fn fault(password: &str, email: &str, name: &str) -> Option<&'static str> {
    if password.chars().count() < LEAST_CHARACTERS {
        return Some("Use at least 12 characters. A few unrelated words make a good password.");
    }
    if password.len() > MOST_BYTES {
        return Some("This password is too long. Use at most 500 characters.");
    }
    let plain = password.to_lowercase();
    let local = email.split('@').next().unwrap_or_default().to_lowercase();
    let own = |word: &str| word.chars().count() >= 3 && core(&plain) == core(&word.to_lowercase());
    if plain == email.to_lowercase() || own(&local) || own(name) || own(&name.replace(' ', "")) {
        return Some("Do not use your own name or e-mail address as the password.");
    }
    if common(&plain) {
        return Some("This is one of the passwords that everybody tries first. Choose another.");
    }
    None
}

/// A password without the digits and signs people add to make it count as a good one.
fn core(plain: &str) -> &str {
    plain.trim_matches(|c: char| !c.is_alphabetic())
}

/// Bases of the commonest passwords of twelve characters or more.
const BASES: &[&str] = &[
    "password",
    "passwort",
    "motdepasse",
    "contraseña",
    "passw0rd",
    "p@ssword",
    "p@ssw0rd",
    "pa$$word",
    "qwerty",
    "qwertyuiop",
    "qwertyuiopasdfghjkl",
    "azertyuiop",
    "qwertzuiop",
    "asdfghjkl",
    "zxcvbnm",
    "iloveyou",
    "letmein",
    "welcome",
    "admin",
    "administrator",
    "football",
    "baseball",
    "basketball",
    "princess",
    "sunshine",
    "superman",
    "batman",
    "dragon",
    "monkey",
    "master",
    "shadow",
    "michael",
    "jennifer",
    "trustno",
    "whatever",
    "starwars",
    "changeme",
    "changeit",
    "secret",
    "test",
    "testing",
    "testtest",
    "default",
    "company",
    "summer",
    "winter",
    "spring",
    "autumn",
    "january",
    "february",
    "december",
    "november",
    "monday",
    "liverpool",
    "chelsea",
    "arsenal",
    "correct horse battery staple",
    "correcthorsebatterystaple",
    "correct-horse-battery-staple",
];

/// Stretches that fingers walk along without thinking.
const WALKS: &[&str] = &[
    "abcdefghijklmnopqrstuvwxyz",
    "01234567890123456789",
    "qwertyuiopasdfghjklzxcvbnm",
    "qwertzuiopasdfghjklyxcvbnm",
    "azertyuiopqsdfghjklmwxcvbn",
    "1q2w3e4r5t6y7u8i9o0p",
    "1qaz2wsx3edc4rfv5tgb6yhn7ujm",
    "qazwsxedcrfvtgbyhnujm",
];

fn common(plain: &str) -> bool {
    let letters = core(plain);
    if letters.is_empty() && plain.chars().all(|c| c.is_ascii_digit()) {
        // Only digits: birthdays, telephone numbers and counting, all tried first.
        return true;
    }
    if BASES.contains(&letters) || BASES.contains(&plain) {
        return true;
    }
    let characters: Vec<char> = plain.chars().collect();
    let distinct: std::collections::BTreeSet<char> = characters.iter().copied().collect();
    if distinct.len() < 5 {
        return true;
    }
    // The same short piece again and again.
    if (1..=characters.len() / 2).any(|size| characters.chunks(size).all(|c| characters.starts_with(c))) {
        return true;
    }
    let backwards: String = plain.chars().rev().collect();
    WALKS.iter().any(|walk| walk.contains(plain) || walk.contains(&backwards))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_own_and_common_passwords_are_refused() {
        for bad in [
            "short",
            "elevenchars",
            "password1234",
            "Password1234!",
            "123456789012",
            "qwertyuiopas",
            "aaaaaaaaaaaa",
            "abcabcabcabc",
            "ada@example.org",
            "Ada Lovelace 1815",
            "adalovelace!!",
            "correct horse battery staple",
            "1q2w3e4r5t6y",
            "abcdefghijklm",
            "201512241990",
        ] {
            assert!(fault(bad, "ada@example.org", "Ada Lovelace").is_some(), "{bad}");
        }
        assert!(fault(&"x y".repeat(200), "a@b", "A").is_some());
        for good in ["violet tractor seven", "mQ9$kdLw2#zz", "ünïcödé wörter"] {
            assert_eq!(fault(good, "ada@example.org", "Ada Lovelace"), None, "{good}");
        }
    }

    #[tokio::test]
    async fn a_password_matches_its_own_hash_and_nobody_matches() {
        let passwords = Passwords::new().unwrap();
        let hash = passwords.hash(Secret::new("violet tractor seven")).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(passwords.matches(Secret::new("violet tractor seven"), Some(hash.clone())).await.unwrap());
        assert!(!passwords.matches(Secret::new("violet tractor eight"), Some(hash)).await.unwrap());
        assert!(!passwords.matches(Secret::new("violet tractor seven"), None).await.unwrap());
    }

    proptest::proptest! {
        #[test]
        fn judging_a_password_never_panics(password in "\\PC{0,40}", email in "\\PC{0,20}", name in "\\PC{0,20}") {
            let _ = fault(&password, &email, &name);
        }
    }
}
