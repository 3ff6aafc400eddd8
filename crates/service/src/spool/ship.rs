//! The shipper: posts the spool's records, in order, to the audit role.

use std::time::Duration;

use api::{
    WireError,
    audit::{Conflict, Head, Record, Ship, Shipped},
    client::Client,
};
use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{Order, Spool, segments, segments::Reader};
use crate::Shutdown;

/// Waited after the first record, so that a batch is more than one.
const GATHER: Duration = Duration::from_millis(200);
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
const BATCH_RECORDS: usize = 1000;
const BATCH_BYTES: usize = 1024 * 1024;

/// `shipped.json`: how far the audit role has acknowledged. If it is lost, all is shipped again, and taken once.
#[derive(Serialize, Deserialize)]
struct Cursor {
    format: u32,
    seq: u64,
}

enum Sent {
    /// Everything up to here is durable at the audit role.
    Up(u64),
    /// The audit role holds another end than our batch follows.
    Conflict(Head),
    Failed(WireError),
}

impl Spool {
    /// Ships to `client`, which carries the ship key, until the end is asked for. Continues where it was after a restart;
    /// while the audit role is away, it tries again with growing pauses (up to 15 s), and the spool grows.
    pub async fn ship(&self, client: Client, shutdown: Shutdown) {
        let file = self.inner.dir.join("shipped.json");
        let stored = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice::<Cursor>(&text).ok());
        let mut cursor = stored.map_or(0, |c| c.seq.min(self.durable()));
        let mut durable = self.inner.durable.clone();
        let mut reader = Reader::new(&self.inner.dir);
        let (mut wait, mut failing) = (FIRST_WAIT, false);
        loop {
            let more = async {
                // The writer lives as long as this spool does.
                let _ = durable.wait_for(|seq| *seq > cursor).await;
                if self.durable() - cursor < BATCH_RECORDS as u64 {
                    tokio::time::sleep(GATHER).await;
                }
            };
            tokio::select! {
                () = more => {}
                () = shutdown.asked() => return,
            }
            let until = self.durable();
            let read = tokio::task::spawn_blocking(move || {
                let batch = reader.read(cursor, until, BATCH_RECORDS, BATCH_BYTES);
                (reader, batch)
            });
            let batch = match read.await {
                Ok((back, batch)) => {
                    reader = back;
                    batch
                }
                // The runtime ends.
                Err(_) => return,
            };
            let sent = match batch {
                Ok(batch) if batch.is_empty() => {
                    tracing::error!(cursor, until, "the audit spool lacks records that it wrote");
                    Err(())
                }
                Ok(batch) => Ok(self.post(&client, batch).await),
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "could not read the audit spool");
                    Err(())
                }
            };
            match sent {
                Ok(Sent::Up(seq)) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!(seq, "the audit role takes records again");
                    }
                    if seq > until {
                        tracing::error!(seq, until, "the audit role holds records that this spool has lost");
                    }
                    cursor = seq.min(until).max(cursor);
                    wait = FIRST_WAIT;
                    let text = serde_json::to_vec(&Cursor { format: api::audit::FORMAT, seq: cursor });
                    if let Err(error) = segments::replace(&file, &text.expect("a cursor is JSON")) {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "could not keep how far audit records were shipped"
                        );
                    }
                    if let Some(sender) = &self.inner.sender {
                        let _ = sender.send(Order::Acknowledged(cursor));
                    }
                    continue;
                }
                Ok(Sent::Conflict(have)) => {
                    if have.seq < cursor || (have.seq > cursor && have.seq <= until) {
                        tracing::warn!(
                            have = have.seq,
                            cursor,
                            "the audit role holds another end; shipping from there"
                        );
                        cursor = have.seq;
                    } else if !std::mem::replace(&mut failing, true) {
                        tracing::error!(
                            have = have.seq,
                            cursor,
                            "this spool and the audit role hold different chains; records are kept here until that is settled"
                        );
                    }
                }
                Ok(Sent::Failed(error)) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "could not ship audit records; they are kept"
                        );
                    }
                }
                Err(()) => {}
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shutdown.asked() => return,
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    async fn post(&self, client: &Client, records: Vec<Record>) -> Sent {
        let body = serde_json::to_vec(&Ship { source: self.inner.source.clone(), records }).expect("records are JSON");
        let answer = match client.send("POST", "/ship", Some(("application/json", Bytes::from(body)))).await {
            Ok(answer) => answer,
            Err(error) => return Sent::Failed(error),
        };
        if answer.status == StatusCode::CONFLICT
            && let Ok(conflict) = serde_json::from_slice::<Conflict>(&answer.body)
        {
            return Sent::Conflict(conflict.have);
        }
        match client.read::<Shipped>(answer) {
            Ok(shipped) => Sent::Up(shipped.seq),
            Err(error) => Sent::Failed(error),
        }
    }
}
