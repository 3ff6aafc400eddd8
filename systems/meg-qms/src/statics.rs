//! `meg-qms static`: style sheets, scripts and graphics of the site. It reads no file and opens no connection of its own.

use axum::{
    Router,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, header};
use sdk::{ServeError, Settings, serve};

/// Name, type and content of everything that is served.
pub const ASSETS: [(&str, &str, &str); 4] = [
    ("/static/style.css", "text/css; charset=utf-8", include_str!("../assets/style.css")),
    ("/static/app.js", "text/javascript; charset=utf-8", include_str!("../assets/app.js")),
    ("/static/icon.svg", "image/svg+xml", include_str!("../assets/icon.svg")),
    ("/static/manifest.webmanifest", "application/manifest+json", include_str!("../assets/manifest.webmanifest")),
];

/// Part of every asset's address, so that they may be kept: the digest of what they are.
pub fn version() -> &'static str {
    static VERSION: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    VERSION.get_or_init(|| {
        let all: Vec<&str> = ASSETS.iter().map(|(_, _, text)| *text).collect();
        crate::media::sha256(all.concat().as_bytes())[..12].to_owned()
    })
}

/// GET and HEAD of the assets; anything else is refused.
pub fn router() -> Router {
    let mut router = Router::new().route("/health", get(async || "healthy"));
    for (path, kind, text) in ASSETS {
        router = router.route(path, get(async move || asset(kind, text)));
    }
    router.fallback(async || StatusCode::NOT_FOUND)
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "public, max-age=86400"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, text).into_response()
}

/// Serves until the process is asked to end.
///
/// # Errors
/// The address cannot be listened on.
pub async fn run(settings: &Settings) -> Result<(), ServeError> {
    listen(settings, router()).await
}

/// Serves a router at the process's address.
///
/// # Errors
/// The address cannot be listened on.
pub async fn listen(settings: &Settings, router: Router) -> Result<(), ServeError> {
    let listener = serve::bind(settings).await?;
    tracing::info!(address = %listener.local_addr().map_err(ServeError::Serve)?, "listening");
    sdk::serve(listener, router, serve::asked(), serve::DRAIN).await.map_err(ServeError::Serve)
}
