//! RADIUS (RFC 2865) as far as PostgreSQL speaks it: an Access-Request with a name and a password, and its answer.
//!
//! It is how PostgreSQL asks somebody else whether a password is good. Here both ends are on one loopback and share a secret of
//! 32 random bytes that is made anew with each keeper, so that nobody else can answer, or read a password that passes.

use md5::{Digest as _, Md5};
use zeroize::Zeroizing;

/// The longest packet there is (RFC 2865, section 3).
pub(crate) const LONGEST: usize = 4096;
const HEAD: usize = 20;
const BLOCK: usize = 16;
const REQUEST: u8 = 1;
const USER_NAME: u8 = 1;
const USER_PASSWORD: u8 = 2;

/// Who wants in, and with what.
pub(crate) struct Request {
    id: u8,
    authenticator: [u8; BLOCK],
    pub user: String,
    pub password: Zeroizing<String>,
}

/// The request in a packet; None for what PostgreSQL would not send.
pub(crate) fn read(packet: &[u8], secret: &[u8]) -> Option<Request> {
    let head = packet.get(..HEAD)?;
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    if head[0] != REQUEST || !(HEAD..=LONGEST).contains(&length) {
        return None;
    }
    let authenticator: [u8; BLOCK] = head[4..HEAD].try_into().ok()?;
    let (mut user, mut hidden) = (None, None);
    let mut rest = packet.get(HEAD..length)?;
    while let [kind, size, ..] = *rest {
        let value = rest.get(2..usize::from(size))?;
        match kind {
            USER_NAME => user = Some(value),
            USER_PASSWORD => hidden = Some(value),
            _ => {}
        }
        rest = rest.get(usize::from(size)..)?;
    }
    let password = shown(hidden?, secret, &authenticator)?;
    Some(Request { id: head[1], authenticator, user: std::str::from_utf8(user?).ok()?.to_owned(), password })
}

/// The hidden password (section 5.2): each block was covered by a digest of the secret and the block before.
fn shown(hidden: &[u8], secret: &[u8], authenticator: &[u8; BLOCK]) -> Option<Zeroizing<String>> {
    if hidden.is_empty() || hidden.len() > 128 || !hidden.len().is_multiple_of(BLOCK) {
        return None;
    }
    let mut text = Zeroizing::new(Vec::with_capacity(hidden.len()));
    let mut before: &[u8] = authenticator;
    for block in hidden.chunks(BLOCK) {
        let cover = Md5::new().chain_update(secret).chain_update(before).finalize();
        text.extend(block.iter().zip(cover.iter()).map(|(a, b)| a ^ b));
        before = block;
    }
    let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
    std::str::from_utf8(&text[..end]).ok().map(|t| Zeroizing::new(t.to_owned()))
}

/// Yes or no to a request, in a form that only a holder of the secret can make.
pub(crate) fn answer(request: &Request, yes: bool, secret: &[u8]) -> [u8; HEAD] {
    let mut packet = [0; HEAD];
    packet[0] = if yes { 2 } else { 3 };
    packet[1] = request.id;
    packet[3] = HEAD as u8;
    let proof =
        Md5::new().chain_update(&packet[..4]).chain_update(request.authenticator).chain_update(secret).finalize();
    packet[4..].copy_from_slice(&proof);
    packet
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A request as PostgreSQL makes it (`PerformRadiusTransaction`).
    fn asked(user: &str, password: &str, secret: &[u8], authenticator: [u8; BLOCK]) -> Vec<u8> {
        let mut hidden = password.as_bytes().to_vec();
        hidden.resize(password.len().div_ceil(BLOCK) * BLOCK, 0);
        let mut before = authenticator.to_vec();
        for block in hidden.chunks_mut(BLOCK) {
            let cover = Md5::new().chain_update(secret).chain_update(&before).finalize();
            block.iter_mut().zip(cover.iter()).for_each(|(a, b)| *a ^= b);
            before = block.to_vec();
        }
        let mut packet = vec![REQUEST, authenticator[0], 0, 0];
        packet.extend(authenticator);
        // Service-Type is Authenticate Only.
        packet.extend([6, 6, 0, 0, 0, 8]);
        for (kind, value) in [(USER_NAME, user.as_bytes()), (32, b"postgresql"), (USER_PASSWORD, &hidden)] {
            packet.extend([kind, value.len() as u8 + 2]);
            packet.extend(value);
        }
        let length = (packet.len() as u16).to_be_bytes();
        packet[2..4].copy_from_slice(&length);
        packet
    }

    #[test]
    fn a_request_under_another_secret_gives_another_password() {
        let packet = asked("cloud", "hunter2", b"one", [7; 16]);
        assert_eq!(&**read(&packet, b"one").unwrap().password, "hunter2");
        assert!(read(&packet, b"two").is_none_or(|r| *r.password != "hunter2"));
    }

    #[test]
    fn an_answer_is_bound_to_its_request_and_its_word() {
        let request = |seed: u8| read(&asked("cloud", "p", b"s", [seed; 16]), b"s").unwrap();
        let yes = answer(&request(1), true, b"s");
        assert_eq!((yes[0], yes[1], yes[3]), (2, 1, 20));
        let mut forged = answer(&request(1), false, b"s");
        forged[0] = 2;
        assert_ne!(yes, forged, "a no is not made a yes by its first byte");
        assert_ne!(yes[4..], answer(&request(1), true, b"another")[4..]);
    }

    proptest! {
        #[test]
        fn what_was_asked_is_read(user in "[a-z_]{1,60}", password in "[ -~]{1,128}", seed in any::<[u8; 16]>()) {
            let request = read(&asked(&user, &password, b"secret", seed), b"secret").unwrap();
            prop_assert_eq!(request.user, user);
            prop_assert_eq!(&**request.password, &*password);
        }

        #[test]
        fn arbitrary_packets_never_panic(packet in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&packet, b"secret");
            let mut headed = vec![REQUEST, 0, 0, packet.len().saturating_add(HEAD).min(255) as u8];
            headed.extend([0; 16]);
            headed.extend(packet);
            let _ = read(&headed, b"secret");
        }
    }
}
