//! Settings from the environment.

use std::{collections::BTreeMap, str::FromStr};

use crate::Secret;

/// The application's environment, read once at the start.
#[derive(Clone)]
pub struct Settings {
    values: BTreeMap<String, String>,
}

/// What is wrong with the environment. Names the variable, never its value: it may be a secret.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("the environment variable {name} is not set; it holds {holds}")]
    Missing { name: &'static str, holds: &'static str },
    #[error("the environment variable {name} is not {expected}")]
    Wrong { name: &'static str, expected: &'static str },
    #[error("the environment variable {name} still holds a vault reference: the platform could not resolve it")]
    Unresolved { name: &'static str },
}

impl Settings {
    /// Reads the process's environment. A variable that is not UTF-8 counts as not set.
    pub fn from_environment() -> Settings {
        let text =
            |(k, v): (std::ffi::OsString, std::ffi::OsString)| Some((k.into_string().ok()?, v.into_string().ok()?));
        Settings { values: std::env::vars_os().filter_map(text).collect() }
    }

    /// Settings given in the program, for tests and embedding.
    pub fn from_pairs<K: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (K, V)>) -> Settings {
        Settings { values: pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect() }
    }

    /// The variable's value as it is, for names that are made while the program runs.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|value| value.trim())
    }

    /// The variable's value; None when it is not set or empty.
    ///
    /// # Errors
    /// A value that still begins with `@Microsoft.KeyVault(`: App Service leaves the text in place when it cannot resolve it,
    /// and using it as a password would only fail later and less clearly.
    pub fn optional(&self, name: &'static str) -> Result<Option<&str>, SettingsError> {
        match self.values.get(name).map(|v| v.trim()).filter(|v| !v.is_empty()) {
            Some(value) if value.starts_with("@Microsoft.KeyVault(") => Err(SettingsError::Unresolved { name }),
            other => Ok(other),
        }
    }

    /// The variable's value; `holds` says in the error what belongs there.
    ///
    /// # Errors
    /// The variable is not set or empty, or an unresolved vault reference.
    pub fn required(&self, name: &'static str, holds: &'static str) -> Result<&str, SettingsError> {
        self.optional(name)?.ok_or(SettingsError::Missing { name, holds })
    }

    /// As [`Settings::required`], for values that must not be seen.
    ///
    /// # Errors
    /// As [`Settings::required`].
    pub fn secret(&self, name: &'static str, holds: &'static str) -> Result<Secret, SettingsError> {
        self.required(name, holds).map(Secret::new)
    }

    /// The variable as a number, address or the like; `default` when it is not set.
    ///
    /// # Errors
    /// The value cannot be read as `T`; `expected` says what it should be.
    pub fn parsed<T: FromStr>(
        &self,
        name: &'static str,
        expected: &'static str,
        default: T,
    ) -> Result<T, SettingsError> {
        match self.optional(name)? {
            None => Ok(default),
            Some(value) => value.parse().map_err(|_| SettingsError::Wrong { name, expected }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_variable_and_hides_its_value() {
        let settings = Settings::from_pairs([("PORT", "hunter2"), ("KEY", "@Microsoft.KeyVault(SecretName=hunter2)")]);
        let wrong = settings.parsed::<u16>("PORT", "a port number", 1).unwrap_err().to_string();
        assert!(wrong.contains("PORT") && !wrong.contains("hunter2"), "{wrong}");
        let unresolved = settings.required("KEY", "a key").unwrap_err().to_string();
        assert!(unresolved.contains("KEY") && !unresolved.contains("hunter2"), "{unresolved}");
        let missing = settings.required("NOWHERE", "the answer").unwrap_err().to_string();
        assert_eq!(missing, "the environment variable NOWHERE is not set; it holds the answer");
    }

    #[test]
    fn an_empty_variable_counts_as_not_set() {
        let settings = Settings::from_pairs([("A", "  ")]);
        assert!(settings.optional("A").unwrap().is_none());
        assert_eq!(settings.parsed("A", "a number", 7_u8).unwrap(), 7);
    }
}
