//! The recovery key: made with a stamp, shown once, kept nowhere. The root keys lie sealed under it beside every backup (the
//! box of keys), so that a stamp whose machine is lost is brought up again from a copy of its backups and this key alone.
//!
//! What is stored is a public key: root keys that are made later are sealed as well, without the key that opens them.

use std::path::{Path, PathBuf};

use api::Secret;
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    agreement::{PrivateKey, UnparsedPublicKey, X25519, agree},
    hkdf, rand,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{Error, files};

const VERSION: u32 = 1;
/// 160 bits: nobody guesses them, and a person can write them down.
const BYTES: usize = 20;
/// Crockford's digits: without I, L, O and U, which are read as others.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// The name of the box of keys in a repository of backups.
pub const BOX: &str = "keys.box";

/// What the stamp keeps: a file that only the supervisor's user reads.
#[derive(Deserialize)]
struct Kept {
    version: u32,
    public: String,
    /// The key itself, until a person was shown it.
    #[serde(default)]
    pending: Option<Secret>,
}

/// What lies beside backups.
#[derive(Serialize, Deserialize)]
struct Box {
    version: u32,
    /// Of which stamp, for a person who looks.
    stamp: String,
    /// Which recovery key opens it.
    public: String,
    ephemeral: String,
    sealed: String,
    /// Of what is sealed, keyed: whether it must be sealed anew.
    digest: String,
}

/// The private half that a recovery key stands for.
struct Pair(PrivateKey);

impl Pair {
    fn of(bytes: &[u8]) -> Result<Self, Error> {
        let mut seed = Zeroizing::new([0u8; 32]);
        derive(bytes, b"stampwright recovery key 1", b"x25519", &mut seed);
        PrivateKey::from_private_key(&X25519, seed.as_slice()).map(Self).map_err(|_| fault("make a recovery key"))
    }

    fn public(&self) -> Result<Vec<u8>, Error> {
        Ok(self.0.compute_public_key().map_err(|_| fault("make a recovery key"))?.as_ref().to_vec())
    }
}

fn fault(what: &str) -> Error {
    Error::Fault(format!("could not {what}"))
}

fn derive(bytes: &[u8], salt: &[u8], info: &[u8], into: &mut [u8; 32]) {
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(bytes)
        .expand(&[info], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(into))
        .expect("HKDF-SHA-256 gives 32 bytes");
}

/// The key as a person writes it down: nine groups of four, the last a check of the others.
fn written(bytes: &[u8]) -> Secret {
    let mut text = Zeroizing::new(digits(bytes));
    text.push_str(&check(bytes));
    let groups: Vec<&str> = (0..text.len()).step_by(4).map(|at| &text[at..at + 4]).collect();
    Secret::new(groups.join("-"))
}

fn digits(bytes: &[u8]) -> String {
    let mut text = String::new();
    let (mut held, mut bits) = (0u32, 0);
    for byte in bytes {
        held = held << 8 | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(DIGITS[(held >> bits & 31) as usize] as char);
        }
    }
    text
}

fn check(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digits(&digest.as_ref()[..5])[..4].to_owned()
}

/// Reads what a person wrote down: in any case, with or without dashes, O for 0 and I or L for 1.
fn parse(text: &Secret) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    let (mut held, mut bits, mut count) = (0u32, 0, 0);
    let mut rest = String::new();
    for letter in text.expose().chars().filter(|c| !c.is_whitespace() && *c != '-') {
        let letter = match letter.to_ascii_uppercase() {
            'O' => '0',
            'I' | 'L' => '1',
            other => other,
        };
        let digit = DIGITS.iter().position(|d| *d as char == letter)?;
        count += 1;
        if count > BYTES * 8 / 5 {
            rest.push(letter);
            continue;
        }
        held = (held << 5 | digit as u32) & 0xFFFF;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits & 0xFF) as u8);
        }
    }
    (bytes.len() == BYTES && rest == check(&bytes)).then_some(bytes)
}

fn path(folder: &Path) -> PathBuf {
    folder.join("root/recovery.json")
}

fn read(folder: &Path) -> Result<Option<Kept>, Error> {
    let path = path(folder);
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let text = Secret::new(text);
            let kept: Kept =
                serde_json::from_str(text.expose()).map_err(|e| Error::Fault(format!("{}: {e}", path.display())))?;
            if kept.version > VERSION {
                return Err(Error::Fault(format!("{} is of version {}", path.display(), kept.version)));
            }
            Ok(Some(kept))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::file("read", path)(e)),
    }
}

fn write(folder: &Path, public: &str, pending: Option<&Secret>) -> Result<(), Error> {
    let mut value = serde_json::json!({ "version": VERSION, "public": public });
    if let Some(pending) = pending {
        value["pending"] = pending.expose().into();
    }
    let (text, path) = (Secret::new(value.to_string()), path(folder));
    files::write(&path, text.expose().as_bytes(), 0o600, None).map_err(Error::file("write", path))
}

/// Makes the stamp's recovery key, unless there is one. It waits in the root folder until [`shown`].
pub fn ensure(folder: &Path) -> Result<(), Error> {
    if read(folder)?.is_some() {
        return Ok(());
    }
    let mut bytes = Zeroizing::new([0u8; BYTES]);
    rand::fill(bytes.as_mut()).map_err(|_| fault("make a recovery key"))?;
    let public = URL_SAFE_NO_PAD.encode(Pair::of(bytes.as_ref())?.public()?);
    write(folder, &public, Some(&written(bytes.as_ref())))
}

/// The key, while nobody was shown it.
pub fn pending(folder: &Path) -> Result<Option<Secret>, Error> {
    Ok(read(folder)?.and_then(|kept| kept.pending))
}

/// A person has it: it is kept no longer.
pub fn shown(folder: &Path) -> Result<(), Error> {
    match read(folder)? {
        Some(Kept { public, pending: Some(_), .. }) => write(folder, &public, None),
        _ => Ok(()),
    }
}

/// Writes the box of keys with `content` into `repository`, unless the one there holds the same.
pub fn put_box(
    folder: &Path,
    repository: &Path,
    stamp: &str,
    content: &Secret,
    user: Option<u32>,
) -> Result<(), Error> {
    let Some(kept) = read(folder)? else { return Ok(()) };
    let path = repository.join(BOX);
    // Under a key of the content itself: the digest tells nobody else anything.
    let digest = content.derive("stampwright box of keys 1").expose().to_owned();
    let there = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Box>(&text).ok());
    if there.is_some_and(|there| there.digest == digest && there.public == kept.public) {
        return Ok(());
    }
    let mut once = Zeroizing::new([0u8; 32]);
    rand::fill(once.as_mut()).map_err(|_| fault("seal the root keys"))?;
    let once = Pair::of(once.as_ref())?;
    let public = URL_SAFE_NO_PAD.decode(&kept.public).map_err(|_| fault("read the public recovery key"))?;
    let ephemeral = once.public()?;
    let key = shared(&once.0, &public, &ephemeral)?;
    let mut sealed = content.expose().as_bytes().to_vec();
    // The key is new each time, so that one nonce serves.
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key([0; NONCE_LEN]), Aad::from(stamp), &mut sealed)
        .map_err(|_| fault("seal the root keys"))?;
    let made = Box {
        version: VERSION,
        stamp: stamp.to_owned(),
        public: kept.public,
        ephemeral: URL_SAFE_NO_PAD.encode(ephemeral),
        sealed: URL_SAFE_NO_PAD.encode(sealed),
        digest,
    };
    let text = serde_json::to_vec_pretty(&made).map_err(|e| Error::Fault(e.to_string()))?;
    files::write(&path, &text, 0o644, user).map_err(Error::file("write", path))
}

/// Seals the state of roles: for whoever has the recovery key, not for us. `name` is what it is, and opens under that only.
pub fn seal(folder: &Path, name: &str, content: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    let Some(kept) = read(folder)? else { return Ok(None) };
    let mut once = Zeroizing::new([0u8; 32]);
    rand::fill(once.as_mut()).map_err(|_| fault("seal the state of roles"))?;
    let once = Pair::of(once.as_ref())?;
    let public = URL_SAFE_NO_PAD.decode(&kept.public).map_err(|_| fault("read the public recovery key"))?;
    let ephemeral = once.public()?;
    let key = shared(&once.0, &public, &ephemeral)?;
    let mut sealed = content.to_vec();
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key([0; NONCE_LEN]), Aad::from(name), &mut sealed)
        .map_err(|_| fault("seal the state of roles"))?;
    Ok(Some([SEALED, ephemeral.as_slice(), sealed.as_slice()].concat()))
}

/// Opens what [`seal`] made.
pub fn unseal(name: &str, sealed: &[u8], recovery_key: &Secret) -> Option<Zeroizing<Vec<u8>>> {
    let rest = sealed.strip_prefix(SEALED)?;
    let (ephemeral, sealed) = rest.split_at_checked(32)?;
    let pair = Pair::of(&parse(recovery_key)?).ok()?;
    let key = shared(&pair.0, ephemeral, ephemeral).ok()?;
    let mut plain = Zeroizing::new(sealed.to_vec());
    let length =
        key.open_in_place(Nonce::assume_unique_for_key([0; NONCE_LEN]), Aad::from(name), &mut plain).ok()?.len();
    plain.truncate(length);
    Some(plain)
}

const SEALED: &[u8] = b"stampwright state 1\n";

/// Opens the box of keys in a copy of the backups.
pub fn open_box(repository: &Path, recovery_key: &Secret) -> Result<Secret, Error> {
    let refuse =
        |what: String| Error::Asked { what, hint: Some("the recovery key was shown at the stamp's first `up`".into()) };
    let path = repository.join(BOX);
    let text = std::fs::read(&path).map_err(Error::file("read", &path))?;
    let found: Box =
        serde_json::from_slice(&text).map_err(|_| refuse(format!("{} is no box of keys", path.display())))?;
    let bytes =
        parse(recovery_key).ok_or_else(|| refuse("this is no recovery key: a letter is wrong or missing".into()))?;
    let pair = Pair::of(&bytes)?;
    if URL_SAFE_NO_PAD.encode(pair.public()?) != found.public {
        return Err(refuse(format!("this is not the recovery key of {}", found.stamp)));
    }
    let decode =
        |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| refuse(format!("{} is changed", path.display())));
    let (ephemeral, mut sealed) = (decode(&found.ephemeral)?, Zeroizing::new(decode(&found.sealed)?));
    let key = shared(&pair.0, &ephemeral, &ephemeral)?;
    let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
    let opened = key.open_in_place(nonce, Aad::from(found.stamp.as_str()), &mut sealed);
    let opened = opened.map_err(|_| refuse(format!("{} is changed", path.display())))?;
    String::from_utf8(opened.to_vec()).map(Secret::new).map_err(|_| refuse(format!("{} is changed", path.display())))
}

fn shared(own: &PrivateKey, other: &[u8], ephemeral: &[u8]) -> Result<LessSafeKey, Error> {
    let failed = fault("agree on a key");
    agree(own, UnparsedPublicKey::new(&X25519, other), failed, |secret| {
        let mut key = Zeroizing::new([0u8; 32]);
        derive(secret, ephemeral, b"stampwright box of keys 1", &mut key);
        UnboundKey::new(&AES_256_GCM, key.as_ref()).map(LessSafeKey::new).map_err(|_| fault("agree on a key"))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stamp() -> (tempfile::TempDir, Secret) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        ensure(dir.path()).unwrap();
        let key = pending(dir.path()).unwrap().unwrap();
        (dir, key)
    }

    #[test]
    fn the_key_is_shown_once_and_opens_what_is_sealed_after_it_was_forgotten() {
        let (dir, key) = stamp();
        assert!(pending(dir.path()).unwrap().unwrap().matches(key.expose()), "it waits until it was shown");
        shown(dir.path()).unwrap();
        ensure(dir.path()).unwrap();
        assert!(pending(dir.path()).unwrap().is_none());
        let stored = std::fs::read_to_string(path(dir.path())).unwrap();
        assert!(!stored.contains(key.expose()));

        let keys = Secret::new("{\"vault-kek\":\"secret of the vault\"}");
        put_box(dir.path(), dir.path(), "s/dev", &keys, None).unwrap();
        let sealed = std::fs::read(dir.path().join(BOX)).unwrap();
        assert!(!String::from_utf8_lossy(&sealed).contains("secret of the vault"));
        assert!(open_box(dir.path(), &key).unwrap().matches(keys.expose()));
        let sloppy = Secret::new(key.expose().to_lowercase().replace('-', " ").replace('0', "o"));
        assert!(open_box(dir.path(), &sloppy).unwrap().matches(keys.expose()));
        // The same keys again: the file stays, and no copy of it is due.
        put_box(dir.path(), dir.path(), "s/dev", &keys, None).unwrap();
        assert_eq!(std::fs::read(dir.path().join(BOX)).unwrap(), sealed);
        put_box(dir.path(), dir.path(), "s/dev", &Secret::new("{}"), None).unwrap();
        assert!(open_box(dir.path(), &key).unwrap().matches("{}"));
    }

    #[test]
    fn another_key_a_slip_of_the_pen_and_a_changed_box_are_refused() {
        let (dir, key) = stamp();
        put_box(dir.path(), dir.path(), "s/dev", &Secret::new("keys"), None).unwrap();
        let (_other, other) = stamp();
        let text = |error: Error| error.to_string();
        assert!(text(open_box(dir.path(), &other).err().unwrap()).contains("not the recovery key of s/dev"));
        let mut slip: Vec<char> = key.expose().chars().collect();
        slip[0] = if slip[0] == '7' { '8' } else { '7' };
        let slip = Secret::new(slip.into_iter().collect::<String>());
        assert!(text(open_box(dir.path(), &slip).err().unwrap()).contains("a letter is wrong"));
        let file = dir.path().join(BOX);
        let changed = std::fs::read_to_string(&file).unwrap().replace("s/dev", "s/prod");
        std::fs::write(&file, changed).unwrap();
        assert!(text(open_box(dir.path(), &key).err().unwrap()).contains("changed"));
    }

    #[test]
    fn the_state_of_roles_opens_under_its_own_name_and_the_recovery_key_only() {
        let (dir, key) = stamp();
        let sealed = seal(dir.path(), "roles-1", b"people and secrets").unwrap().unwrap();
        assert!(!sealed.windows(6).any(|w| w == b"people"));
        assert_eq!(unseal("roles-1", &sealed, &key).unwrap().as_slice(), b"people and secrets");
        assert!(unseal("roles-2", &sealed, &key).is_none());
        assert!(unseal("roles-1", &sealed, &stamp().1).is_none());
        assert!(unseal("roles-1", &sealed[..20], &key).is_none());
    }

    proptest! {
        #[test]
        fn a_key_is_what_was_written(bytes in proptest::collection::vec(any::<u8>(), BYTES..=BYTES)) {
            let text = written(&bytes);
            prop_assert_eq!(text.expose().len(), 9 * 4 + 8);
            prop_assert_eq!(parse(&text).map(|b| b.to_vec()), Some(bytes));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,60}") {
            let _ = parse(&Secret::new(text));
        }
    }
}
