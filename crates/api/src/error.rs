//! The one error body of all roles but the vault, which speaks Key Vault's.

use serde::{Deserialize, Serialize};

/// What a caller sees of a failure: a stable code, one sentence, and the id under which the log has the detail.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// A stable word for programs, such as `not_found`.
    pub code: String,
    /// One sentence for people; names the thing and, where there is one, the mend.
    pub message: String,
    /// The request's id in the role's log.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    /// What to do next, where there is something to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Why a call of a typed client failed.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Nothing was sent, or it is safe to send again.
    #[error("could not reach {target}")]
    Connect {
        target: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The request may have been carried out.
    #[error("lost the connection to {target} before its answer was complete")]
    Lost {
        target: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time; the request may have been carried out.
    #[error("{target} did not answer within {seconds} s")]
    Timeout { target: String, seconds: u64 },
    /// The role said no.
    #[error("{target} answered {status}: {}", body.message)]
    Refused { target: String, status: u16, body: ErrorBody },
    /// The answer is not what the format says.
    #[error("{target} answered what is not understood: {detail}")]
    Answer { target: String, detail: String },
}

impl WireError {
    /// Whether the same call may be made again without knowing what became of the first.
    pub fn retry_is_safe(&self) -> bool {
        matches!(self, Self::Connect { .. })
    }

    /// The HTTP status, if the role answered.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}
