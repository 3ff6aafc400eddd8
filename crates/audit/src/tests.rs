//! Chains as they are shipped, stored, shown and checked.

mod shipping;
mod stored;

use std::path::Path;

use api::{
    Secret,
    audit::{Event, Head, Outcome, Record},
};
use service::Clock;

use crate::store::Store;

const DAY_MS: i64 = 86_400_000;

fn event(time_ms: i64, actor: &str, number: u64) -> String {
    let event = Event {
        time_ms,
        actor: actor.into(),
        action: "secret.get".into(),
        object: format!("vault.main/secrets/s{number}"),
        outcome: Outcome::Ok,
        detail: serde_json::Map::new(),
    };
    serde_json::to_string(&event).unwrap()
}

/// Records that follow `head`, one a second from `time_ms` on.
fn records(head: &Head, count: u64, time_ms: i64) -> Vec<Record> {
    let mut head = head.clone();
    let mut made = Vec::new();
    for number in 0..count {
        let record = Record::after(&head, event(time_ms + 1000 * number as i64, "service.web", head.seq + 1));
        head = record.head();
        made.push(record);
    }
    made
}

fn root() -> Secret {
    Secret::new("a root key of the tests")
}

fn open(dir: &Path, clock: &Clock) -> Store {
    try_open(dir, clock).unwrap()
}

fn try_open(dir: &Path, clock: &Clock) -> Result<Store, crate::Error> {
    Store::open(dir, "audit.main", &["vault.main".into(), "edge".into()], &root(), 90, clock.clone())
}
