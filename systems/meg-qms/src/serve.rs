//! `meg-qms cms`: listens, sends what goes up and out, ends in order.

use std::time::Duration;

use sdk::{Settings, database::Queries, serve};

use crate::{
    app::{App, AppError, Part},
    formulary::{Feed, FeedError},
    link::sync,
    mail::{self, MailError, Post},
    routes,
    store::sessions,
};

/// How often connections are counted and expired sessions deleted.
const TIDY: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the application cannot be set up")]
    App(#[from] AppError),
    #[error("mail cannot be used")]
    Mail(#[from] MailError),
    #[error("the formulary cannot be used")]
    Feed(#[from] FeedError),
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
    let mut beside = vec![tokio::spawn(tidy(app.clone()))];
    if app.part == Part::Region {
        beside.push(tokio::spawn(sync::run(app.database.clone(), app.links.clone())));
    }
    if let Some(post) = Post::from_settings(settings)? {
        beside.push(tokio::spawn(mail::run(app.database.clone(), post)));
    }
    if let Some(feed) = Feed::from_settings(settings)? {
        beside.push(tokio::spawn(feed.run(app.database.clone())));
    }
    let result = serve::until_asked(listener, routes::router(app)).await;
    beside.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(result?)
}

async fn tidy(app: App) {
    let mut tick = tokio::time::interval(TIDY);
    loop {
        tick.tick().await;
        app.database.measure();
        if let Err(error) = count(&app).await {
            tracing::debug!(error = %error, "expired sessions were not deleted");
        }
    }
}

/// Deletes expired sessions.
async fn count(app: &App) -> Result<(), sdk::database::Error> {
    app.database.get().await?.execute(sessions::EXPIRE, &[]).await.map(|_| ())
}
