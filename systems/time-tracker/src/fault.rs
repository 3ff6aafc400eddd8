//! Why a request gave no result, and how it is told: a page for people, problem+json (RFC 9457) for programs.

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use sdk::{
    database,
    fault::{self, Cause, Common, FieldErrors, WebFault},
    oidc::OidcError,
};

use crate::{app::App, pages};

#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("There is nothing here, or it is not yours.")]
    NotFound,
    #[error("You are not signed in.")]
    SignIn,
    #[error("{0}")]
    Forbidden(&'static str),
    #[error("Some fields are not right.")]
    Invalid(FieldErrors),
    #[error("{0}")]
    Malformed(&'static str),
    #[error("{0}")]
    Conflict(String),
    #[error("This is more than Time Tracker takes at once.")]
    TooLarge,
    #[error("This took too long. Nothing may have been saved: look before you try again.")]
    TooLong,
    #[error("Time Tracker cannot reach a part it needs. Nothing was saved; please try again in a minute.")]
    Unavailable(#[source] Cause),
    #[error("Something went wrong here. Nothing was saved.")]
    Internal {
        source: Cause,
        /// Where it happened; for the log only.
        stack: String,
    },
}

impl Fault {
    /// One field's fault.
    pub fn field(field: &str, message: &str) -> Fault {
        Fault::Invalid(FieldErrors::one(field, message))
    }

    pub fn internal(error: impl std::error::Error + Send + Sync + 'static) -> Fault {
        Fault::Internal { source: Box::new(error), stack: fault::stack() }
    }
}

impl WebFault for Fault {
    fn status(&self) -> StatusCode {
        match self {
            Fault::NotFound => StatusCode::NOT_FOUND,
            Fault::SignIn => StatusCode::UNAUTHORIZED,
            Fault::Forbidden(_) => StatusCode::FORBIDDEN,
            Fault::Invalid(_) | Fault::Malformed(_) => StatusCode::BAD_REQUEST,
            Fault::Conflict(_) => StatusCode::CONFLICT,
            Fault::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Fault::TooLong | Fault::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Fault::Internal { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Fault::Unavailable(_) => "unavailable",
            Fault::TooLong => "timeout",
            _ => "internal",
        }
    }

    fn fields(&self) -> Option<&[(String, String)]> {
        if let Fault::Invalid(errors) = self { Some(&errors.0) } else { None }
    }

    fn stack(&self) -> Option<&str> {
        Some(if let Fault::Internal { stack, .. } = self { stack } else { "" })
    }
}

impl From<Common> for Fault {
    fn from(common: Common) -> Fault {
        match common {
            Common::NotFound => Fault::NotFound,
            Common::Forbidden(text) => Fault::Forbidden(text),
            Common::Malformed(text) => Fault::Malformed(text),
            Common::Invalid(errors) => Fault::Invalid(errors),
            Common::Conflict(text) => Fault::Conflict(text),
            Common::TooLarge => Fault::TooLarge,
            Common::TooLong => Fault::TooLong,
            Common::Unavailable(source) => Fault::Unavailable(source),
            Common::Internal(source) => Fault::Internal { source, stack: fault::stack() },
        }
    }
}

impl From<database::Error> for Fault {
    fn from(error: database::Error) -> Fault {
        let overlap = "This overlaps with another entry of yours on that day.";
        match error.constraint() {
            Some("EX_TimeEntries_Overlap") => return Fault::field("start", overlap),
            Some("TR_TimeEntries_Open") => return Fault::Conflict("This sheet is not open any more.".into()),
            _ => {}
        }
        Common::from(error).into()
    }
}

impl From<OidcError> for Fault {
    fn from(error: OidcError) -> Fault {
        Common::from(error).into()
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        fault::raise(self)
    }
}

/// Gives every fault its words and every answer its security headers. Outermost but for telemetry.
pub async fn render(State(app): State<App>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let program = path.starts_with("/api/");
    let tell = |fault: &Fault| if program { fault::problem(fault) } else { pages::fault(fault, &path) };
    let mut response = fault::told(next.run(request).await, tell);
    fault::secure(response.headers_mut(), &app.policy);
    response
}
