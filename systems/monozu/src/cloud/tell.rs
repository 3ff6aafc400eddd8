//! Beside the requests: tells Management of new tenants until it took the word, and removes what has expired.

use std::time::Duration;

use http::{HeaderValue, Method, header};
use sdk::{database::Queries, telemetry::metrics};
use serde_json::json;
use uuid::Uuid;

use super::App;
use crate::fault::Fault;

/// How often it is looked whether something waits; a new tenant rings at once.
const LOOK: Duration = Duration::from_secs(2);
/// Rounds between two sweeps.
const SWEEP: u32 = 30;

/// Runs until it is aborted.
pub async fn beside(app: App) {
    for round in 0_u32.. {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = app.inner.live.tell_management.notified() => {}
        }
        if let Err(fault) = tell(&app).await {
            tracing::debug!(error = %fault, "Management was not told of new tenants");
        }
        if round % SWEEP == 0
            && let Err(fault) = sweep(&app).await
        {
            tracing::debug!(error = %fault, "what has expired was not removed");
        }
        let (open, used) = app.database.connections();
        #[expect(clippy::cast_precision_loss, reason = "a handful of connections")]
        for (name, value) in [("db.client.connections.open", open), ("db.client.connections.used", used)] {
            metrics().set(name, value as f64, &[]);
        }
    }
}

async fn sweep(app: &App) -> Result<(), Fault> {
    app.connection().await?.query("SELECT sweep()", &[]).await?;
    Ok(())
}

async fn tell(app: &App) -> Result<(), Fault> {
    let connection = app.connection().await?;
    let rows = connection.query("SELECT tenant_id, account, name, email FROM outbox_take()", &[]).await?;
    let url = app.inner.management.join("/internal/v1/webhooks/tenant").map_err(Fault::internal)?;
    for row in rows {
        let tenant: Uuid = row.get(0);
        let (account, name, email): (String, String, String) = (row.get(1), row.get(2), row.get(3));
        let body = json!({ "event": "tenant.registered", "tenant_id": tenant, "account": account, "name": name, "email": email });
        let body = body.to_string();
        let mut headers = app.inner.signer.sign(body.as_bytes());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let answer =
            app.inner.https.send(Method::POST, &url, headers, body.into()).await.map_err(Fault::unavailable)?;
        if answer.status.is_success() {
            connection.query("SELECT outbox_done($1)", &[&tenant]).await?;
        } else {
            tracing::warn!(status = answer.status.as_u16(), tenant = %tenant, "Management did not take a new tenant; it is told again");
        }
    }
    Ok(())
}
