//! Audit records: the format of the spool that each acting role keeps, and of what it ships to the audit role.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AuditConfig {
    /// Days that records are kept.
    pub retention_days: u32,
    /// Resources whose spool is taken, such as `vault.main`.
    pub sources: Vec<String>,
}

/// What happened, said by the role that did it. Times are Unix milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Event {
    pub time_ms: i64,
    /// Who: the token's `sub`, or `anonymous`.
    pub actor: String,
    /// What: verb and noun, such as `secret.get`.
    pub action: String,
    /// To what, such as `vault.main/secrets/NAME`.
    pub object: String,
    pub outcome: Outcome,
    /// Anything else worth keeping; never a secret's value.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub detail: serde_json::Map<String, serde_json::Value>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Ok,
    Denied,
    Failed,
}

/// One link of a source's chain. `hash` is SHA-256, lower-case hex, over `previous`, a newline, and the event's text.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Record {
    /// 1 for the first record of a source, then one more each.
    pub seq: u64,
    /// The hash of the record before; 64 zeros for the first.
    pub previous: String,
    pub hash: String,
    /// The event, as the exact text that was hashed.
    pub event: String,
}

/// `POST /ship` with `Authorization: Bearer SHIP-KEY`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ship {
    pub source: String,
    pub records: Vec<Record>,
}

/// All records of `source` up to `seq` are durable at the audit role.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shipped {
    pub seq: u64,
}

/// The version of the segments, headers and head files in which chains are stored.
pub const FORMAT: u32 = 1;

/// What stands for the hash before the first record.
pub const START: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The end of a chain: its last record's place and hash.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Head {
    /// 0 where there is no record yet.
    pub seq: u64,
    /// SHA-256, lower-case hex; [`START`] where there is no record yet.
    pub hash: String,
}

impl Default for Head {
    fn default() -> Self {
        Self { seq: 0, hash: START.to_owned() }
    }
}

impl Record {
    /// The record that follows `head` and says `event`.
    pub fn after(head: &Head, event: String) -> Self {
        Self { seq: head.seq + 1, previous: head.hash.clone(), hash: hash(&head.hash, &event), event }
    }

    /// Why this record is not the one that follows `head`; None when it is.
    pub fn fault_after(&self, head: &Head) -> Option<String> {
        if self.seq != head.seq + 1 {
            return Some(format!("record {} stands where {} belongs", self.seq, head.seq + 1));
        }
        if self.previous != head.hash {
            return Some("it does not name the hash of the record before".to_owned());
        }
        if self.hash != hash(&self.previous, &self.event) {
            return Some("its hash is not that of its event".to_owned());
        }
        None
    }

    /// The chain's end once this record stands.
    pub fn head(&self) -> Head {
        Head { seq: self.seq, hash: self.hash.clone() }
    }
}

/// SHA-256 over `previous`, a newline and `event`, in lower-case hex.
pub fn hash(previous: &str, event: &str) -> String {
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    digest.update(previous.as_bytes());
    digest.update(b"\n");
    digest.update(event.as_bytes());
    hex(digest.finish().as_ref())
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)].into());
        text.push(DIGITS[usize::from(byte & 15)].into());
    }
    text
}

/// The answer 409 to `POST /ship`: the records do not follow what the audit role has of this source.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Conflict {
    #[serde(flatten)]
    pub error: crate::ErrorBody,
    /// The end of the chain that the audit role holds.
    pub have: Head,
}

/// `GET /heads` on the audit role's control socket.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct SourceHead {
    pub source: String,
    /// The oldest record still held; 0 when there is none.
    pub first: u64,
    pub head: Head,
    /// When the last batch was taken, Unix milliseconds; 0 before the first since the role started.
    pub received_ms: i64,
}

/// One line of `GET /records` on the audit role's control socket.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct SourceRecord {
    pub source: String,
    pub seq: u64,
    pub hash: String,
    pub event: Event,
}
