//! The App Service identity endpoint: `GET /msi/token?resource=R&api-version=2019-08-01` with `X-IDENTITY-HEADER`.
//!
//! The header alone proves nothing: the caller must also be a process of this workload, so a header that leaks is of no use
//! elsewhere. Wire facts: research notes of real Azure SDKs (names, error body, `expires_on` as Unix seconds).

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use api::Secret;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use crate::{
    peer,
    tokens::{Tokens, chain},
};

/// Serves the endpoint until the process ends.
pub async fn serve(listener: TcpListener, header: Secret, tokens: Arc<Tokens>, shared_user: bool) {
    let Ok(local) = listener.local_addr() else { return };
    loop {
        let Ok((stream, remote)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        if !peer::is_workload(local, remote, shared_user) {
            tracing::warn!(%remote, "refused the identity endpoint to a process that is not of this workload");
            continue;
        }
        let (header, tokens) = (header.clone(), tokens.clone());
        tokio::spawn(async move {
            let service =
                hyper::service::service_fn(move |request| answer(request, header.clone(), tokens.clone(), remote));
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(std::time::Duration::from_secs(10))
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    request: Request<hyper::body::Incoming>,
    header: Secret,
    tokens: Arc<Tokens>,
    _remote: SocketAddr,
) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(respond(&request, &header, &tokens).await)
}

async fn respond(request: &Request<hyper::body::Incoming>, header: &Secret, tokens: &Tokens) -> Response<Full<Bytes>> {
    if request.uri().path().trim_end_matches('/') != "/msi/token" || request.method() != http::Method::GET {
        return refuse(StatusCode::NOT_FOUND, "Only GET /msi/token is answered here.");
    }
    let given = request.headers().get("x-identity-header").and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !header.matches(given) {
        return refuse(StatusCode::UNAUTHORIZED, "X-IDENTITY-HEADER is missing or wrong.");
    }
    let query = request.uri().query().unwrap_or_default();
    let mut resource = None;
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match name.as_ref() {
            "resource" => resource = Some(value.into_owned()),
            "client_id" | "object_id" | "principal_id" | "mi_res_id" => {
                // Only the system-assigned identity exists here.
                return refuse(
                    StatusCode::BAD_REQUEST,
                    "No User Assigned or Delegated Managed Identity found for specified ClientId/ResourceId/PrincipalId.",
                );
            }
            _ => {}
        }
    }
    let Some(resource) = resource.filter(|r| !r.is_empty()) else {
        return refuse(StatusCode::BAD_REQUEST, "The query needs resource=, the audience of the token.");
    };
    match tokens.token(&resource).await {
        Ok(token) => {
            let body = serde_json::json!({
                "access_token": token.access_token.expose(),
                "expires_on": token.expires_on,
                "resource": token.resource,
                "token_type": token.token_type,
                "client_id": token.client_id,
            });
            json(StatusCode::OK, &body)
        }
        Err(error) => {
            tracing::warn!(error = chain(&error), resource, "identity gave no token");
            match error.status() {
                Some(400..500) => refuse(StatusCode::BAD_REQUEST, &chain(&error)),
                // SDKs try 5xx again, which is right while identity restarts.
                _ => refuse(StatusCode::INTERNAL_SERVER_ERROR, "The identity role does not answer; try again."),
            }
        }
    }
}

fn refuse(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    json(status, &serde_json::json!({ "statusCode": status.as_u16(), "message": message }))
}

fn json(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response.headers_mut().insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    response
}
