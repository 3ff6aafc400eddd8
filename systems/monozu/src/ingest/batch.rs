//! A batch: read with bounds, stored in one statement.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{fault::Fault, store::Entered};

/// Events of a batch.
pub const MOST: usize = 500;
/// Bytes of an event's body.
const BODY: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Telemetry,
    Log,
    SecurityAlert,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Low,
    Medium,
    High,
    Critical,
}

/// One thing that a device saw.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    pub kind: Kind,
    /// When; the time it came if not given.
    pub at: Option<Timestamp>,
    /// Of a security alert.
    pub severity: Option<Severity>,
    /// Of a security alert: what people read first.
    pub title: Option<String>,
    pub body: Option<Map<String, Value>>,
}

/// Reads a batch; all of it is right or none is taken.
///
/// # Errors
/// Too many or too large, or something in it is not right, named by its place.
pub fn read(body: &[u8]) -> Result<Vec<Event>, Fault> {
    let events: Vec<Event> = serde_json::from_slice(body).map_err(|error| Fault::Invalid(error.to_string()))?;
    if events.is_empty() {
        return Err(Fault::Invalid("the batch is empty".into()));
    }
    if events.len() > MOST {
        return Err(Fault::TooLarge);
    }
    for (place, event) in events.iter().enumerate() {
        let wrong = |what: &str| Fault::Invalid(format!("event {place}: {what}"));
        let alert = event.kind == Kind::SecurityAlert;
        if alert != event.severity.is_some() || alert != event.title.is_some() {
            return Err(wrong("a security_alert has severity and title, other kinds have neither"));
        }
        if event.title.as_ref().is_some_and(|t| t.is_empty() || t.chars().count() > 200 || t.contains('\0')) {
            return Err(wrong("title: 1 to 200 characters"));
        }
        let body = serde_json::to_string(&event.body).map_err(Fault::internal)?;
        if body.len() > BODY {
            return Err(wrong("body: an object of 16 KiB at most"));
        }
        // PostgreSQL's jsonb keeps no zero character, and would refuse the whole batch without saying where.
        if body.contains("\\u0000") {
            return Err(wrong("body: no zero character"));
        }
    }
    Ok(events)
}

/// Stores a batch in the tenant, and as the device, of the shown key.
///
/// # Errors
/// The database refuses it or does not answer.
pub async fn store(entered: &Entered<'_>, events: &[Event]) -> Result<(), Fault> {
    let events = serde_json::to_value(events).map_err(Fault::internal)?;
    let fields = "WITH g AS (SELECT * FROM jsonb_to_recordset($1) AS g(kind text, at timestamptz, severity text, title text, body jsonb)), \
        events AS (INSERT INTO ingest_events (kind, at, body) SELECT kind, coalesce(at, now()), coalesce(body, '{}') FROM g), \
        alerts AS (INSERT INTO security_alerts (at, severity, title, body) \
            SELECT coalesce(at, now()), severity, title, coalesce(body, '{}') FROM g WHERE kind = 'security_alert') \
        UPDATE devices SET last_seen_at = now() WHERE last_seen_at IS NULL OR last_seen_at < now() - interval '10 s'";
    entered.execute(fields, &[&events]).await?;
    Ok(())
}

/// For the OpenAPI document.
pub fn schema() -> Value {
    json!({ "type": "array", "minItems": 1, "maxItems": MOST, "items": {
        "type": "object", "required": ["kind"], "additionalProperties": false,
        "properties": {
            "kind": { "enum": ["telemetry", "log", "security_alert"] },
            "at": { "type": "string", "format": "date-time" },
            "severity": { "enum": ["low", "medium", "high", "critical"], "description": "of a security_alert" },
            "title": { "type": "string", "maxLength": 200, "description": "of a security_alert" },
            "body": { "type": "object", "description": "16 KiB at most" },
        },
    } })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn a_batch_of_all_kinds_is_read() {
        let text = r#"[{"kind": "telemetry", "body": {"temperature": 21.5}}, {"kind": "log", "at": "2026-11-01T12:00:00Z"},
            {"kind": "security_alert", "severity": "high", "title": "door forced"}]"#;
        assert_eq!(read(text.as_bytes()).unwrap().len(), 3);
    }

    #[test]
    fn what_is_wrong_is_named_by_its_place() {
        for (text, says) in [
            ("[]", "empty"),
            ("{}", "sequence"),
            (r#"[{"kind": "log"}, {"kind": "gossip"}]"#, "gossip"),
            (r#"[{"kind": "log"}, {"kind": "log", "title": "x"}]"#, "event 1"),
            (r#"[{"kind": "security_alert", "title": "x"}]"#, "event 0"),
            (r#"[{"kind": "log", "tenant_id": "other"}]"#, "tenant_id"),
            (r#"[{"kind": "log", "body": [1]}]"#, "map"),
            (r#"[{"kind": "log", "body": {"a": "\u0000"}}]"#, "zero"),
        ] {
            let error = read(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        let many = format!("[{}]", vec![r#"{"kind":"log"}"#; MOST + 1].join(","));
        assert!(matches!(read(many.as_bytes()), Err(Fault::TooLarge)));
    }

    proptest::proptest! {
        #[test]
        fn reading_arbitrary_bytes_never_panics(bytes: Vec<u8>) {
            let _ = read(&bytes);
        }
    }
}
