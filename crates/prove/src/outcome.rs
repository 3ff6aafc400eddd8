//! What a run found.

use serde::Serialize;

/// How a row came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Proven,
    Substituted,
    Partly,
    NotProvable,
    OutOfReach,
    Future,
    Failed,
    Unchecked,
}

impl Outcome {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 8] = [
        Self::Proven,
        Self::Substituted,
        Self::Partly,
        Self::NotProvable,
        Self::OutOfReach,
        Self::Future,
        Self::Failed,
        Self::Unchecked,
    ];

    /// As it is written in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Substituted => "substituted",
            Self::Partly => "partly",
            Self::NotProvable => "not_provable",
            Self::OutOfReach => "out_of_reach",
            Self::Future => "future",
            Self::Failed => "failed",
            Self::Unchecked => "unchecked",
        }
    }
}

/// Why a check did not see what the row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// It looked, and it is not so.
    Failed(String),
    /// This machine does not let it look; the command that was refused.
    NotHere { why: String, command: String },
    /// Another part than the one named does it; which.
    Substituted(String),
}

/// What a check saw.
pub type Seen = Result<String, Miss>;

impl<E: std::error::Error> From<E> for Miss {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(next) = cause {
            text.push_str(&format!(": {next}"));
            cause = next.source();
        }
        Self::Failed(text)
    }
}

/// Ends a check that did not see what the row says.
#[macro_export]
macro_rules! miss {
    ($($words:tt)*) => {
        return Err($crate::Miss::Failed(format!($($words)*)))
    };
}

/// Goes on if the condition holds, else ends the check as failed.
#[macro_export]
macro_rules! must {
    ($holds:expr, $($words:tt)*) => {
        let holds: bool = $holds;
        if !holds {
            return Err($crate::Miss::Failed(format!($($words)*)));
        }
    };
}

/// One row, looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    pub id: String,
    pub area: String,
    pub outcome: Outcome,
    /// `name(arguments)`; empty without one.
    pub check: String,
    /// What was seen, or why nothing was.
    pub observed: String,
    pub seconds: f64,
    pub text: String,
    /// Lines of the document.
    pub source: String,
    pub proof: String,
    /// What it was looked at on.
    pub stamp: String,
}

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub system: String,
    pub claims: Vec<Finding>,
}

impl Report {
    /// How many rows came out so.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.claims.iter().filter(|f| f.outcome == outcome).count()
    }

    /// Areas in the order of their first row, each with its counts in the order of [`Outcome::ALL`].
    pub fn areas(&self) -> Vec<(String, [usize; 8])> {
        let mut areas: Vec<(String, [usize; 8])> = Vec::new();
        for finding in &self.claims {
            let at = match areas.iter().position(|(name, _)| *name == finding.area) {
                Some(at) => at,
                None => {
                    areas.push((finding.area.clone(), [0; 8]));
                    areas.len() - 1
                }
            };
            areas[at].1[finding.outcome as usize] += 1;
        }
        areas
    }
}
