//! Why a request gave no result, told as problem+json (RFC 9457). The pages make words of it.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use sdk::{fault::plain_problem, graph, oidc::OidcError};

#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("There is nothing here.")]
    NotFound,
    #[error("You are not signed in.")]
    SignIn,
    #[error("{0}")]
    Forbidden(&'static str),
    /// Fields and what is wrong with each.
    #[error("Some fields are not right.")]
    Invalid(Vec<(&'static str, String)>),
    #[error("{0}")]
    Malformed(String),
    #[error("{0}")]
    Conflict(String),
    #[error("A part that this needs cannot be reached. Nothing was saved; please try again in a minute.")]
    Unavailable(String),
    #[error("This may or may not have been saved: look before you try again.")]
    Unknown(String),
    #[error("Something went wrong here.")]
    Internal(String),
}

impl Fault {
    pub fn status(&self) -> StatusCode {
        match self {
            Fault::NotFound => StatusCode::NOT_FOUND,
            Fault::SignIn => StatusCode::UNAUTHORIZED,
            Fault::Forbidden(_) => StatusCode::FORBIDDEN,
            Fault::Invalid(_) | Fault::Malformed(_) => StatusCode::BAD_REQUEST,
            Fault::Conflict(_) => StatusCode::CONFLICT,
            Fault::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Fault::Unknown(_) => StatusCode::GATEWAY_TIMEOUT,
            Fault::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// One field's fault.
    pub fn field(field: &'static str, message: impl Into<String>) -> Fault {
        Fault::Invalid(vec![(field, message.into())])
    }
}

impl From<graph::Error> for Fault {
    fn from(error: graph::Error) -> Fault {
        match error {
            graph::Error::Unavailable(why) => Fault::Unavailable(why),
            graph::Error::Unknown(why) => Fault::Unknown(why),
            graph::Error::Refused { code, message } => Fault::Internal(format!("{code}: {message}")),
        }
    }
}

impl From<OidcError> for Fault {
    fn from(error: OidcError) -> Fault {
        match error {
            OidcError::State => {
                Fault::Malformed("This sign-in has expired or was already finished. Please sign in again.".into())
            }
            OidcError::Refused(_) => {
                Fault::Forbidden("The sign-in was refused. Please try again or ask your administrator.")
            }
            other if other.is_outage() => Fault::Unavailable(other.to_string()),
            other => {
                tracing::warn!(error = %other, "a sign-in brought what is not acceptable");
                Fault::SignIn
            }
        }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        if let Fault::Unavailable(why) | Fault::Unknown(why) | Fault::Internal(why) = &self {
            tracing::error!(exception.message = why, "request failed");
        }
        let fields = if let Fault::Invalid(errors) = &self { Some(&errors[..]) } else { None };
        plain_problem(self.status(), &self.to_string(), fields)
    }
}
