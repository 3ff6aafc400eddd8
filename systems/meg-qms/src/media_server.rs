//! `meg-qms media`: files that people sent, to whoever brings a signed address that has not ended. It has the share for reading
//! only, no database and no session.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderMap, StatusCode, header};
use sdk::Settings;

use crate::{
    media::{Shelf, content_type},
    statics,
};

#[derive(serde::Deserialize)]
struct Proof {
    #[serde(default)]
    until: u64,
    #[serde(default)]
    signature: String,
}

/// GET and HEAD of files; anything else is refused.
pub fn router(shelf: Arc<Shelf>) -> Router {
    Router::new()
        .route("/health", get(async || "healthy"))
        .route("/media/{kind}/{file}", get(serve))
        .fallback(async || StatusCode::NOT_FOUND)
        .layer(axum::middleware::from_fn(sdk::telemetry::track))
        .with_state(shelf)
}

async fn serve(
    State(shelf): State<Arc<Shelf>>,
    Path((kind, file)): Path<(String, String)>,
    Query(proof): Query<Proof>,
    headers: HeaderMap,
) -> Response {
    let address = format!("{kind}/{file}");
    let (Some(path), Some(content_type)) = (shelf.path(&address), content_type(&address)) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if !shelf.opens(&address, proof.until, &proof.signature) {
        return (StatusCode::FORBIDDEN, "This address has ended or was changed. Open the page with it again.")
            .into_response();
    }
    // At most 16 MiB: what is read is what was taken.
    let Ok(bytes) = tokio::fs::read(path).await else { return StatusCode::NOT_FOUND.into_response() };
    let fixed = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "private, max-age=3600"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox"),
        (header::ACCEPT_RANGES, "bytes"),
    ];
    let range = headers.get(header::RANGE).and_then(|r| r.to_str().ok()).map(|r| range(r, bytes.len()));
    match range {
        None | Some(None) => (fixed, bytes).into_response(),
        Some(Some(Err(()))) => {
            (StatusCode::RANGE_NOT_SATISFIABLE, [(header::CONTENT_RANGE, format!("bytes */{}", bytes.len()))])
                .into_response()
        }
        Some(Some(Ok((from, to)))) => {
            let said = [(header::CONTENT_RANGE, format!("bytes {from}-{to}/{}", bytes.len()))];
            (StatusCode::PARTIAL_CONTENT, fixed, said, bytes[from..=to].to_vec()).into_response()
        }
    }
}

/// First and last byte of a request for a part, as players of recordings ask; None for what is not understood, which is
/// answered with the whole.
fn range(text: &str, length: usize) -> Option<Result<(usize, usize), ()>> {
    let (from, to) = text.strip_prefix("bytes=")?.split_once('-')?;
    let last = length.checked_sub(1)?;
    let (from, to) = match (from.parse::<usize>(), to.parse::<usize>()) {
        (Ok(from), Ok(to)) => (from, to.min(last)),
        (Ok(from), Err(_)) if to.is_empty() => (from, last),
        (Err(_), Ok(most)) if from.is_empty() && most > 0 => (length.saturating_sub(most), last),
        _ => return None,
    };
    Some(if from <= to && from < length { Ok((from, to)) } else { Err(()) })
}

/// Serves until the process is asked to end.
///
/// # Errors
/// A setting is unusable or the address cannot be listened on.
pub async fn run(settings: &Settings) -> Result<(), crate::serve::ServeError> {
    let shelf = Shelf::required(settings)?;
    Ok(statics::listen(settings, router(Arc::new(shelf))).await?)
}

#[cfg(test)]
mod tests {
    use super::range;

    #[test]
    fn parts_of_files_are_what_players_ask_for() {
        assert_eq!(range("bytes=0-", 10), Some(Ok((0, 9))));
        assert_eq!(range("bytes=2-3", 10), Some(Ok((2, 3))));
        assert_eq!(range("bytes=5-99", 10), Some(Ok((5, 9))));
        assert_eq!(range("bytes=-3", 10), Some(Ok((7, 9))));
        assert_eq!(range("bytes=10-", 10), Some(Err(())));
        assert_eq!(range("bytes=4-2", 10), Some(Err(())));
        assert_eq!(range("lines=1-2", 10), None);
    }
}
