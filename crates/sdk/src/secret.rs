//! Text that must not be seen.

use zeroize::Zeroizing;

/// Text that must not be seen: no `Display`, no `Serialize`, its `Debug` shows nothing, and it is wiped when dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(value: impl Into<String>) -> Secret {
        Secret(Zeroizing::new(value.into()))
    }

    /// The text itself. Call it where the value leaves the program and nowhere else.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Compares in constant time (the length may be learnt).
    pub fn matches(&self, other: &str) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(self.0.as_bytes(), other.as_bytes()).is_ok()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}
