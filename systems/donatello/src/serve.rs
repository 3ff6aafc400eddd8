//! `donatello api`: listens, measures, ends in order.

use std::time::Duration;

use sdk::{Settings, serve};

use crate::{
    app::{App, AppError},
    progress, routes,
    store::sessions,
};

/// How often sessions are counted and expired ones ended.
const TIDY: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the application cannot be set up")]
    App(#[from] AppError),
    #[error(transparent)]
    Serve(#[from] sdk::ServeError),
}

/// Serves until the process is asked to end.
///
/// # Errors
/// A setting is unusable or the address cannot be listened on.
pub async fn run(settings: &Settings) -> Result<(), ServeError> {
    let app = App::from_settings(settings)?;
    let listener = serve::bind(settings).await?;
    let tidy = tokio::spawn(tidy(app.clone()));
    let follow = tokio::spawn(progress::follow(app.clone()));
    let result = serve::until_asked(listener, routes::router(app)).await;
    tidy.abort();
    follow.abort();
    Ok(result?)
}

async fn tidy(app: App) {
    let mut tick = tokio::time::interval(TIDY);
    loop {
        tick.tick().await;
        app.database.measure();
        if let Err(error) = count(&app).await {
            tracing::debug!(error = %error, "sessions were not counted");
        }
    }
}

/// Ends expired sessions and reports how many are left.
async fn count(app: &App) -> Result<(), sdk::database::Error> {
    let connection = app.database.get().await?;
    sessions::expire(&connection).await?;
    sessions::measure(&connection).await
}
