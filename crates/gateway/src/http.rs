//! What the control socket answers. Only the gateway's own user can connect to it.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use axum::{Json, Router, extract::State, routing::get};
use serde_json::{Value, json};

use crate::run::{Gateway, Phase};

/// `GET /health`, `GET /targets`.
pub fn routes(gateway: Arc<Gateway>) -> Router {
    Router::new().route("/health", get(health)).route("/targets", get(targets)).with_state(gateway)
}

/// Whether the gateway serves. It says nothing of what is behind it: restarting the gateway would not mend that.
async fn health(State(gateway): State<Arc<Gateway>>) -> Json<Value> {
    let status = if gateway.phase() == Phase::Serving { "serving" } else { "draining" };
    let spans = gateway.spans.as_ref().map(|spans| {
        let (sent, dropped) = spans.counts();
        json!({ "sent": sent, "dropped": dropped })
    });
    Json(json!({ "status": status, "spans": spans }))
}

async fn targets(State(gateway): State<Arc<Gateway>>) -> Json<Value> {
    let table = gateway.table.load();
    let all = table.groups.values().flat_map(|group| {
        group.targets.iter().map(|target| {
            json!({
                "upstream": group.name,
                "address": target.address,
                "healthy": target.healthy.load(Relaxed),
                "available": target.available(),
                "open": target.open.load(Relaxed),
            })
        })
    });
    Json(json!({ "targets": all.collect::<Vec<_>>(), "held": gateway.held.load(Relaxed) }))
}
