//! The rules of versions, pure. A definition begins as draft 0.1; each change of a draft counts its minor number up; approval makes
//! it final and counts the major number up; what is final changes only by a new draft of it.

use serde::{Deserialize, Serialize};

use crate::fault::Fault;

/// What a definition of the library can be. The word, for people, and the beginning of its uid.
pub const KINDS: [(&str, &str, &str); 7] = [
    ("objective", "Objective", "Objective"),
    ("endpoint", "Endpoint", "Endpoint"),
    ("activity", "Activity", "Activity"),
    ("visit-type", "Visit type", "VisitType"),
    ("unit", "Unit", "Unit"),
    ("criterion", "Criterion", "Criterion"),
    ("term", "Term of a codelist", "Term"),
];

/// The beginning of the uids of a kind.
///
/// # Errors
/// There is no such kind; the field's fault says which there are.
pub fn prefix(kind: &str) -> Result<&'static str, Fault> {
    let known = KINDS.iter().find(|(word, ..)| *word == kind).map(|(.., prefix)| *prefix);
    known.ok_or_else(|| {
        let words: Vec<&str> = KINDS.iter().map(|(word, ..)| *word).collect();
        Fault::field("kind", format!("is one of {}", words.join(", ")))
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    Draft,
    Final,
    Retired,
}

impl Status {
    pub fn word(self) -> &'static str {
        match self {
            Status::Draft => "Draft",
            Status::Final => "Final",
            Status::Retired => "Retired",
        }
    }
}

/// What a person may do with a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Edit,
    Approve,
    NewVersion,
    Retire,
    Reactivate,
}

impl Act {
    fn word(self) -> &'static str {
        match self {
            Act::Edit => "edited",
            Act::Approve => "approved",
            Act::NewVersion => "given a new version",
            Act::Retire => "retired",
            Act::Reactivate => "reactivated",
        }
    }
}

/// A version such as 1.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl Version {
    pub const FIRST: Version = Version { major: 0, minor: 1 };

    /// None: the text is no version.
    pub fn read(text: &str) -> Option<Version> {
        let (major, minor) = text.split_once('.')?;
        Some(Version { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Status and version after an act.
///
/// # Errors
/// What has this status cannot be acted on so.
pub fn after(status: Status, version: Version, act: Act) -> Result<(Status, Version), Fault> {
    let Version { major, minor } = version;
    match (status, act) {
        (Status::Draft, Act::Edit) => Ok((Status::Draft, Version { major, minor: minor + 1 })),
        (Status::Draft, Act::Approve) => Ok((Status::Final, Version { major: major + 1, minor: 0 })),
        (Status::Final, Act::NewVersion) => Ok((Status::Draft, Version { major, minor: minor + 1 })),
        (Status::Final, Act::Retire) => Ok((Status::Retired, version)),
        (Status::Retired, Act::Reactivate) => Ok((Status::Final, version)),
        _ => Err(Fault::Conflict(format!("What is {} cannot be {}.", status.word().to_lowercase(), act.word()))),
    }
}

/// What a definition says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub definition: String,
    #[serde(default)]
    pub code: String,
}

/// A text without its spaces around, of at most so many characters and without control characters.
///
/// # Errors
/// The field's fault.
pub fn text(field: &'static str, value: &str, most: usize, needed: bool) -> Result<String, Fault> {
    let value = value.trim();
    if needed && value.is_empty() {
        return Err(Fault::field(field, "is needed"));
    }
    if value.chars().count() > most {
        return Err(Fault::field(field, format!("is longer than {most} characters")));
    }
    if value.chars().any(|c| c.is_control() && c != '\n' && c != '\r' && c != '\t') {
        return Err(Fault::field(field, "holds a character that cannot be shown"));
    }
    Ok(value.replace("\r\n", "\n"))
}

impl Content {
    /// As it is stored.
    ///
    /// # Errors
    /// The faults of all fields at once.
    pub fn checked(&self) -> Result<Content, Fault> {
        let mut faults = Vec::new();
        let mut take = |result: Result<String, Fault>| match result {
            Ok(text) => text,
            Err(Fault::Invalid(mut of_field)) => {
                faults.append(&mut of_field);
                String::new()
            }
            Err(_) => String::new(),
        };
        let name = take(text("name", &self.name, 200, true));
        let definition = take(text("definition", &self.definition, 4000, false));
        let code = take(text("code", &self.code, 40, false));
        if !code.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
            faults.push(("code", "has letters, digits and . _ - only".to_owned()));
        }
        if faults.is_empty() { Ok(Content { name, definition, code }) } else { Err(Fault::Invalid(faults)) }
    }
}

/// The reason of a change.
///
/// # Errors
/// It is missing: every change says why.
pub fn reason(why: &str) -> Result<String, Fault> {
    text("why", why, 500, true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_definition_goes_from_draft_to_final_to_a_new_draft() {
        let mut at = (Status::Draft, Version::FIRST);
        let mut seen = vec![at.1.to_string()];
        for act in [Act::Edit, Act::Approve, Act::NewVersion, Act::Edit, Act::Approve, Act::Retire, Act::Reactivate] {
            at = after(at.0, at.1, act).unwrap_or_else(|fault| panic!("{act:?}: {fault}"));
            seen.push(at.1.to_string());
        }
        assert_eq!(seen, ["0.1", "0.2", "1.0", "1.1", "1.2", "2.0", "2.0", "2.0"]);
        assert_eq!(at.0, Status::Final);
    }

    #[test]
    fn what_is_final_or_retired_is_not_edited() {
        for (status, act) in [
            (Status::Final, Act::Edit),
            (Status::Final, Act::Approve),
            (Status::Retired, Act::Edit),
            (Status::Retired, Act::NewVersion),
            (Status::Draft, Act::Retire),
            (Status::Draft, Act::NewVersion),
        ] {
            assert!(after(status, Version::FIRST, act).is_err(), "{status:?} {act:?}");
        }
    }

    #[test]
    fn all_faults_of_a_content_are_told_at_once() {
        let content = Content { name: " ".into(), definition: "x".repeat(5000), code: "a b".into() };
        let Err(Fault::Invalid(faults)) = content.checked() else { panic!("it was taken") };
        assert_eq!(faults.iter().map(|(f, _)| *f).collect::<Vec<_>>(), ["name", "definition", "code"]);
    }

    proptest! {
        #[test]
        fn versions_only_grow_and_are_read_as_written(major in 0u32..1000, minor in 0u32..1000) {
            let version = Version { major, minor };
            prop_assert_eq!(Version::read(&version.to_string()), Some(version));
            for act in [Act::Edit, Act::Approve] {
                if let Ok((_, next)) = after(Status::Draft, version, act) { prop_assert!(next > version) }
            }
        }
    }
}
