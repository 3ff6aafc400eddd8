//! The export: tables of the library and of schedules, read from the graph with a reader's credentials. Who may have them it asks
//! the API, with the cookie or the token that it was sent; it changes nothing and could not.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use sdk::{
    Settings, SettingsError, Trust, TrustError,
    graph::{Graph, OpenError},
    https::Client,
};
use url::Url;

use crate::{
    fault::Fault,
    library::{self, Filter},
    schedule::{Grid, plain},
    serve, studies,
};

#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("the graph store cannot be used")]
    Graph(#[from] OpenError),
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// Cloning shares everything.
#[derive(Clone)]
pub struct Export {
    graph: Graph,
    client: Client,
    me: Arc<Url>,
}

impl Export {
    /// # Errors
    /// A variable is missing or unusable; nothing is connected yet.
    pub fn from_settings(settings: &Settings) -> Result<Export, ExportError> {
        let wrong = SettingsError::Wrong { name: "API_URL", expected: "the address of the API" };
        let api = Url::parse(settings.required("API_URL", "the address of the API")?);
        let me = api.and_then(|url| url.join("/api/v1/me")).map_err(|_| wrong)?;
        Ok(Export {
            graph: Graph::from_settings(settings, "GRAPH_URL")?,
            client: Client::new(&Trust::from_settings(settings, &[])?)?,
            me: Arc::new(me),
        })
    }

    /// Whoever the API lets read.
    async fn admit(&self, headers: &HeaderMap) -> Result<(), Fault> {
        let mut own = HeaderMap::new();
        for name in [header::COOKIE, header::AUTHORIZATION] {
            headers.get_all(&name).iter().for_each(|value| {
                own.append(name.clone(), value.clone());
            });
        }
        let answer = self.client.send(Method::GET, &self.me, own, Bytes::new()).await;
        let answer = answer.map_err(|error| Fault::Unavailable(error.to_string()))?;
        let person: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        match answer.status {
            StatusCode::OK if person["reads"] == true => Ok(()),
            StatusCode::OK => Err(Fault::Forbidden("You are in none of the groups reader, editor and admin.")),
            StatusCode::UNAUTHORIZED => Err(Fault::SignIn),
            status => Err(Fault::Unavailable(format!("the API answered {status}"))),
        }
    }
}

/// The whole export.
pub fn router(export: Export) -> Router {
    let router = Router::new()
        .route("/export/health", get(health))
        .route("/export/library.csv", get(of_library))
        .route("/export/studies/{uid}/schedule.json", get(schedule_json))
        .route("/export/studies/{uid}/schedule.csv", get(schedule_csv))
        .with_state(export);
    serve::around(router, "default-src 'none'; frame-ancestors 'none'")
}

async fn health(State(export): State<Export>) -> (StatusCode, &'static str) {
    match export.graph.answers_within(std::time::Duration::from_secs(3)).await {
        true => (StatusCode::OK, "healthy"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "unhealthy"),
    }
}

fn table(name: &str, text: String) -> Response {
    let disposition = format!("attachment; filename=\"{name}\"");
    ([(header::CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()), (header::CONTENT_DISPOSITION, disposition)], text)
        .into_response()
}

async fn schedule_json(
    State(export): State<Export>,
    Path(uid): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    export.admit(&headers).await?;
    Ok(Json(Grid::of(&studies::one(&export.graph, &uid).await?)).into_response())
}

async fn schedule_csv(
    State(export): State<Export>,
    Path(uid): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    export.admit(&headers).await?;
    let study = studies::one(&export.graph, &uid).await?;
    let name: String = uid.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_' || *c == '-').collect();
    Ok(table(&format!("{name}-schedule.csv"), Grid::of(&study).csv()))
}

async fn of_library(
    State(export): State<Export>,
    Query(mut filter): Query<Filter>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    export.admit(&headers).await?;
    let mut writer = csv::Writer::from_writer(Vec::new());
    let fields = ["uid", "kind", "name", "code", "definition", "status", "version", "author_name"];
    // Into memory: it cannot fail.
    let _ = writer.write_record(fields);
    filter.size = Some(200);
    for page in 1.. {
        filter.page = Some(page);
        let found = library::list(&export.graph, &filter).await?;
        let items = found["items"].as_array().map_or(&[][..], Vec::as_slice);
        for item in items {
            let _ = writer.write_record(fields.iter().map(|f| plain(item[*f].as_str().unwrap_or_default())));
        }
        if items.len() < 200 {
            break;
        }
    }
    Ok(table("library.csv", String::from_utf8(writer.into_inner().unwrap_or_default()).unwrap_or_default()))
}
