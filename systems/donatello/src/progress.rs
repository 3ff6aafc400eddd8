//! Progress by WebSocket: one reader of the table of events a process, any number of people who watch.

use std::{collections::BTreeSet, time::Duration};

use axum::{
    extract::{
        Path, State,
        ws::{Message, WebSocket, WebSocketUpgrade},
    },
    response::Response,
};
use http::{HeaderMap, header};
use sdk::database::{Error, Queries};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::broadcast;
use uuid::Uuid;

use crate::{access::Caller, app::App, fault::Fault, store::generations};

/// Between two looks at the table.
const LOOK: Duration = Duration::from_millis(250);
/// A watcher is sent a ping this often, so that proxies keep the connection and gone ones are noticed.
const PING: Duration = Duration::from_secs(20);
/// A watcher is let go after this; a page opens another.
const LONGEST: Duration = Duration::from_secs(900);

/// A step of a generation.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    #[serde(skip)]
    pub generation: Uuid,
    pub id: i64,
    /// Milliseconds since it was asked for.
    pub at_ms: i64,
    /// `generation.queued`, `generation.completed` and so on.
    pub event: String,
    pub detail: Value,
}

impl Event {
    pub fn is_last(&self) -> bool {
        ["generation.completed", "generation.failed", "generation.cancelled"].contains(&self.event.as_str())
    }
}

/// Where watchers listen.
#[derive(Clone)]
pub struct Progress {
    sender: broadcast::Sender<Event>,
}

impl Default for Progress {
    fn default() -> Progress {
        Progress { sender: broadcast::Sender::new(1024) }
    }
}

impl Progress {
    /// Waits until a generation has ended, and no longer than `most`.
    pub async fn end_of(&self, app: &App, id: Uuid, most: Duration) {
        let mut events = self.sender.subscribe();
        let ended = async {
            // What ended before anybody listened is only in the table.
            let past = async { of(&app.database.get().await?, id).await };
            if past.await.is_ok_and(|past| past.iter().any(Event::is_last)) {
                return;
            }
            loop {
                match events.recv().await {
                    Ok(event) if event.generation == id && event.is_last() => return,
                    // Who fell behind looks for themselves.
                    Err(_) => return,
                    Ok(_) => {}
                }
            }
        };
        // That it did not end in time is what the caller finds when looking again.
        let _ = tokio::time::timeout(most, ended).await;
    }
}

fn read(row: &tokio_postgres::Row) -> Event {
    Event {
        generation: row.get(0),
        id: row.get(1),
        at_ms: row.get(2),
        event: format!("generation.{}", row.get::<_, String>(3)),
        detail: row.get(4),
    }
}

/// All that happened to a generation, in order.
///
/// # Errors
/// The database does not answer.
pub async fn of(queries: &impl Queries, id: Uuid) -> Result<Vec<Event>, Error> {
    let select = "SELECT e.generation_id, e.id, (extract(epoch FROM e.at - g.created_at) * 1000)::bigint, e.kind, e.detail
         FROM generation_events e JOIN generations g ON g.id = e.generation_id WHERE e.generation_id = $1 ORDER BY e.id";
    Ok(queries.query(select, &[&id]).await?.iter().map(read).collect())
}

/// Hands new events to whoever watches; reads nothing while nobody does. Looks back ten seconds each time: a transaction
/// that was slow to commit must not be missed. Never ends by itself.
pub async fn follow(app: App) {
    let mut seen: BTreeSet<i64> = BTreeSet::new();
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tick.tick().await;
        if app.progress.sender.receiver_count() == 0 {
            continue;
        }
        let looked = async {
            let select = "SELECT e.generation_id, e.id, (extract(epoch FROM e.at - g.created_at) * 1000)::bigint, e.kind, e.detail
                 FROM generation_events e JOIN generations g ON g.id = e.generation_id
                 WHERE e.at > now() - interval '10 seconds' ORDER BY e.id";
            app.database.get().await?.query(select, &[]).await
        };
        match looked.await {
            Ok(rows) => {
                let events: Vec<Event> = rows.iter().map(read).collect();
                for event in events.iter().filter(|e| !seen.contains(&e.id)) {
                    // Nobody listening any more is no fault.
                    let _ = app.progress.sender.send(event.clone());
                }
                seen = events.iter().map(|e| e.id).collect();
            }
            Err(error) => tracing::debug!(%error, "events were not read"),
        }
    }
}

/// `GET /api/v1/generations/{id}/events`: what happened so far, then what happens, to the end.
///
/// # Errors
/// The generation is not the caller's to see, or another site's page asks.
pub async fn watch(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Fault> {
    // Browsers send cookies with a WebSocket of any site, and no other guard sees it.
    let origin = headers.get(header::ORIGIN).and_then(|o| o.to_str().ok());
    if caller.session.is_some() && origin != Some(&*app.origin) {
        return Err(Fault::Forbidden("This page is not of this site."));
    }
    generations::get(&app.connection().await?, &caller, id).await?;
    Ok(upgrade.max_message_size(1024).on_upgrade(move |socket| async move {
        if let Err(error) = tokio::time::timeout(LONGEST, tell(app, id, socket)).await {
            tracing::debug!(%error, "a watcher was let go");
        }
    }))
}

async fn tell(app: App, id: Uuid, mut socket: WebSocket) {
    // Listening begins before the past is read: nothing falls between, and what comes twice is known by its id.
    let mut events = app.progress.sender.subscribe();
    let mut last = 0;
    let mut again = true;
    let mut ping = tokio::time::interval(PING);
    loop {
        if again {
            again = false;
            let past = async { of(&app.database.get().await?, id).await };
            let Ok(past) = past.await else { return };
            for event in past.into_iter().filter(|e| e.id > last) {
                last = event.id;
                if !send(&mut socket, &event).await || event.is_last() {
                    return;
                }
            }
        }
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) if event.generation == id && event.id > last => {
                    last = event.id;
                    if !send(&mut socket, &event).await || event.is_last() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => again = true,
                Err(broadcast::error::RecvError::Closed) => return,
            },
            message = socket.recv() => match message {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
            _ = ping.tick() => {
                if socket.send(Message::Ping(bytes::Bytes::new())).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn send(socket: &mut WebSocket, event: &Event) -> bool {
    let text = serde_json::to_string(event).unwrap_or_default();
    let sent = socket.send(Message::Text(text.into())).await.is_ok();
    if sent && event.is_last() {
        let _ = socket.send(Message::Close(None)).await;
    }
    sent
}
