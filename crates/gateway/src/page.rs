//! The gateway's own answers: an error as HTML for browsers and as [`api::ErrorBody`] for programs.

use ::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use bytes::Bytes;

/// An answer that the gateway gives itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    /// A stable word for programs.
    pub code: &'static str,
    /// One sentence for people. It says nothing of what is behind the gateway.
    pub message: &'static str,
    /// Why, for the log.
    pub note: &'static str,
}

macro_rules! refusals {
    ($($name:ident $status:ident $code:literal $message:literal;)*) => {
        $(#[doc = $message] pub fn $name(note: &'static str) -> Refusal {
            Refusal { status: StatusCode::$status, code: $code, message: $message, note }
        })*
    };
}

refusals! {
    bad_request BAD_REQUEST "bad_request" "The request cannot be read in one way only.";
    not_found NOT_FOUND "not_found" "There is nothing at this address.";
    method METHOD_NOT_ALLOWED "method_not_allowed" "This method is not served.";
    timed_out REQUEST_TIMEOUT "request_timeout" "The request did not arrive in time.";
    too_large PAYLOAD_TOO_LARGE "too_large" "The request's body is larger than allowed.";
    expectation EXPECTATION_FAILED "expectation_failed" "The expectation cannot be met.";
    misdirected MISDIRECTED_REQUEST "misdirected" "This host is not served here.";
    too_many_fields REQUEST_HEADER_FIELDS_TOO_LARGE "header_too_large" "The request has too many header fields.";
    broken BAD_GATEWAY "bad_gateway" "The application could not be asked. Try again in a moment.";
    nobody SERVICE_UNAVAILABLE "unavailable" "The application is not available. Try again in a moment.";
    late GATEWAY_TIMEOUT "gateway_timeout" "The application did not answer in time.";
}

impl Refusal {
    /// The page; `trace` lets a person name the request to whoever reads the log.
    pub fn response(&self, accept: Option<&HeaderValue>, trace: &str) -> Response<Bytes> {
        let html = accept.and_then(|a| a.to_str().ok()).is_some_and(|a| a.contains("text/html"));
        let (kind, text) = if html {
            let reason = self.status.canonical_reason().unwrap_or_default();
            let text = format!(
                "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{0} {reason}</title>\n\
                 <h1>{reason}</h1>\n<p>{1}</p>\n<p>Status {0}, request {trace}</p>\n</html>\n",
                self.status.as_u16(),
                self.message
            );
            ("text/html; charset=utf-8", text)
        } else {
            let body = api::ErrorBody {
                code: self.code.into(),
                message: self.message.into(),
                request_id: trace.into(),
                hint: None,
            };
            ("application/json", serde_json::to_string(&body).expect("a struct of texts is JSON"))
        };
        let mut response = Response::new(Bytes::from(text));
        *response.status_mut() = self.status;
        let headers: &mut HeaderMap = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
