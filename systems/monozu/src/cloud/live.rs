//! Security alerts as they come, over a WebSocket.
//!
//! The stream reads the database as its own caller, so the fence holds for it too, and a sign-in that ends ends it. It looks
//! twice a second; sockets are bounded, and one that does not read is closed.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, interval, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message, Utf8Bytes,
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};

use super::{App, access::Caller};
use crate::fault::Fault;

/// Sockets at once, of one process.
const SOCKETS: usize = 200;
const LOOK: Duration = Duration::from_millis(500);
const PING: Duration = Duration::from_secs(30);
/// A reader that takes nothing for so long is closed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Room for sockets, and the bell of whoever tells Management.
pub struct Room {
    sockets: Arc<Semaphore>,
    pub tell_management: Notify,
}

impl Default for Room {
    fn default() -> Room {
        Room { sockets: Arc::new(Semaphore::new(SOCKETS)), tell_management: Notify::new() }
    }
}

pub async fn security(State(app): State<App>, caller: Caller, mut request: Request) -> Result<Response, Fault> {
    let headers = request.headers();
    let key = accept_key(headers)
        .ok_or_else(|| Fault::Invalid("this address speaks WebSocket (RFC 6455, version 13)".into()))?;
    let by_protocol = headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL);
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let upgrade = upgrade.ok_or_else(|| Fault::Invalid("this connection cannot be upgraded".into()))?;
    let room = app.inner.live.sockets.clone().try_acquire_owned().map_err(|_| Fault::TooMany(10))?;
    // Whoever may not read is told so before the upgrade. From then on only what is newer comes.
    let newest = {
        let mut connection = app.connection().await?;
        let entered = caller.enter(&mut connection).await?;
        entered.one("SELECT coalesce(max(id), 0) FROM security_alerts", &[]).await?.get(0)
    };
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => {
                let config = WebSocketConfig::default().max_message_size(Some(4096)).max_frame_size(Some(4096));
                let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
                stream(app, caller, socket, newest, room).await;
            }
            Err(error) => tracing::debug!(%error, "a WebSocket was not opened"),
        }
    });
    let mut answer = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, key);
    if by_protocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("bearer"));
    }
    Ok(answer)
}

fn accept_key(headers: &HeaderMap) -> Option<HeaderValue> {
    let text = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    let websocket = text(header::UPGRADE)?.eq_ignore_ascii_case("websocket");
    let upgrade = text(header::CONNECTION)?.split(',').any(|w| w.trim().eq_ignore_ascii_case("upgrade"));
    let version = text(header::SEC_WEBSOCKET_VERSION)? == "13";
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    (websocket && upgrade && version).then(|| HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok())?
}

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

async fn stream(app: App, caller: Caller, mut socket: Socket, mut newest: i64, _room: OwnedSemaphorePermit) {
    let mut look = interval(LOOK);
    let mut pinged = Instant::now();
    loop {
        tokio::select! {
            came = socket.next() => match came {
                // Pings are answered by the library when it is read from; anything else is not for us.
                Some(Ok(message)) if !message.is_close() => {}
                _ => break,
            },
            _ = look.tick() => {
                let alerts = match newer(&app, &caller, newest).await {
                    Ok(alerts) => alerts,
                    // The database will be back; whoever is no longer let in is not.
                    Err(Fault::Unavailable(_)) => continue,
                    Err(_) => break,
                };
                for (id, alert) in alerts {
                    let text = Message::Text(Utf8Bytes::from(alert.to_string()));
                    if !matches!(timeout(PATIENCE, socket.send(text)).await, Ok(Ok(()))) {
                        return;
                    }
                    newest = id;
                }
                if pinged.elapsed() > PING {
                    pinged = Instant::now();
                    if !matches!(timeout(PATIENCE, socket.send(Message::Ping(Default::default()))).await, Ok(Ok(()))) {
                        return;
                    }
                }
            }
        }
    }
    let _ = timeout(PATIENCE, socket.close(None)).await;
}

async fn newer(app: &App, caller: &Caller, than: i64) -> Result<Vec<(i64, Value)>, Fault> {
    let mut connection = app.connection().await?;
    let entered = caller.enter(&mut connection).await?;
    let sql = "SELECT id, to_jsonb(t) - 'tenant_id' FROM security_alerts t WHERE id > $1 ORDER BY id LIMIT 100";
    Ok(entered.query(sql, &[&than]).await?.iter().map(|r| (r.get(0), r.get(1))).collect())
}
