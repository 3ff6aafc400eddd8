//! SCRAM-SHA-256 verifiers (RFC 5802, RFC 7677) in the form that PostgreSQL stores, made here so that no password is ever
//! part of an SQL statement, where a log could catch it.

use std::num::NonZeroU32;

use api::Secret;
use aws_lc_rs::{constant_time, digest, hmac, pbkdf2, rand};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::Error;

/// PostgreSQL's own default. Our passwords are 256 random bits, so that more rounds would only cost time at each sign-in.
const ROUNDS: NonZeroU32 = NonZeroU32::new(4096).expect("4096 is not zero");
const SALT_BYTES: usize = 16;

/// Makes a verifier with a new salt.
pub(crate) fn verifier(password: &Secret) -> Result<Secret, Error> {
    let mut salt = [0; SALT_BYTES];
    rand::fill(&mut salt).expect("the operating system's random generator answers");
    with_salt(password, &salt, ROUNDS)
}

/// Whether `stored`, a role's `rolpassword`, is a verifier of this password.
pub(crate) fn matches(password: &Secret, stored: &str) -> bool {
    let parsed = || {
        let (rounds, rest) = stored.strip_prefix("SCRAM-SHA-256$")?.split_once(':')?;
        let (salt, _) = rest.split_once('$')?;
        let rounds: NonZeroU32 = rounds.parse().ok()?;
        // A verifier with absurd rounds must not keep the keeper busy; it is simply replaced.
        (rounds.get() <= 1_000_000).then_some(())?;
        Some((rounds, STANDARD.decode(salt).ok()?))
    };
    let Some((rounds, salt)) = parsed() else { return false };
    with_salt(password, &salt, rounds)
        .is_ok_and(|own| constant_time::verify_slices_are_equal(own.expose().as_bytes(), stored.as_bytes()).is_ok())
}

fn with_salt(password: &Secret, salt: &[u8], rounds: NonZeroU32) -> Result<Secret, Error> {
    let text = password.expose();
    // For printable ASCII SASLprep changes nothing (RFC 4013, 2.2), so that it is not needed.
    if text.is_empty() || text.len() > 256 || !text.bytes().all(|b| (0x20..0x7f).contains(&b)) {
        return Err(Error::Password);
    }
    let mut salted = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, text.as_bytes(), &mut salted);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let client_key = hmac::sign(&key, b"Client Key");
    let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
    let server_key = hmac::sign(&key, b"Server Key");
    Ok(Secret::new(format!(
        "SCRAM-SHA-256${rounds}:{}${}:{}",
        STANDARD.encode(salt),
        STANDARD.encode(stored_key.as_ref()),
        STANDARD.encode(server_key.as_ref()),
    )))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // RFC 7677, section 3: user "user", password "pencil", its salt and rounds; the keys were computed from it by Python's
    // hashlib and hmac.
    #[test]
    fn the_example_of_the_rfc_gives_its_keys() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let made = with_salt(&Secret::new("pencil"), &salt, ROUNDS).unwrap();
        assert_eq!(
            made.expose(),
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        );
    }

    #[test]
    fn a_verifier_matches_its_password_only() {
        let (one, other) = (Secret::random(), Secret::random());
        let made = verifier(&one).unwrap();
        assert!(matches(&one, made.expose()));
        assert!(!matches(&other, made.expose()));
        assert!(!matches(&one, "md53175bce1d3201d16594cebf9d7eb3f9d"));
    }

    #[test]
    fn passwords_that_saslprep_would_change_are_refused() {
        for text in ["", "pässword", "tab\there"] {
            assert!(verifier(&Secret::new(text)).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_stored_text_makes_it_fail(stored in "(SCRAM-SHA-256\\$)?\\PC{0,40}") {
            prop_assume!(!stored.starts_with("SCRAM-SHA-256$9"));
            matches(&Secret::new("pencil"), &stored);
        }
    }
}
