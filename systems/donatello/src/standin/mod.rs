//! `donatello provider`: plays an outside provider over its own wire format, on demand slowly, wrongly or not at all.
//!
//! Every answer carries `x-stand-in`, so that nobody takes its pictures for a model's. How it behaves is changed by
//! `POST /stand-in` with the same key that the provider's own requests need; `GET /stand-in` with it tells which calls there
//! were of late, and when.

mod openai;
mod replicate;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::State,
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use sdk::{Secret, ServeError, Settings, serve};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    providers::STAND_IN,
    render::{in_turn, render},
};

/// How it behaves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Manner {
    /// `ok`; `limited` (429 with Retry-After), `broken` (500), `garbage` (200 and no JSON), `hang` (no answer), `wrong` (an image
    /// of another size), `html` (a page for an image), `refuse` (the provider's own refusal of a prompt).
    pub mode: String,
    /// Seconds that an answer takes: at least and at most.
    pub least: f64,
    pub most: f64,
    /// After so many answers in `mode`, the next are `ok`; 0 is never.
    pub times: u64,
    /// What `limited` says in Retry-After.
    pub retry_after: u64,
    /// Draw one of so many pictures again instead of one for each prompt; 0 is never.
    pub reuse: u64,
}

/// Characters of a key at least.
const LEAST_KEY: usize = 16;
pub const MODES: [&str; 8] = ["ok", "limited", "broken", "garbage", "hang", "wrong", "html", "refuse"];

impl Default for Manner {
    fn default() -> Manner {
        Manner { mode: "ok".into(), least: 0.0, most: 0.0, times: 0, retry_after: 3, reuse: 0 }
    }
}

/// A call that was made with the right key.
#[derive(Clone, Debug, Serialize)]
struct Noted {
    /// Since the stand-in began, in milliseconds.
    at_ms: u64,
    prompt: String,
    mode: String,
}

/// Calls that are told of.
const NOTED: usize = 50;

/// A stand-in's state. Cloning shares it.
#[derive(Clone)]
pub struct StandIn {
    inner: Arc<Inner>,
    /// Of the addresses that it gives.
    scheme: &'static str,
}

struct Inner {
    /// The key that callers must show; without one, the first that is long enough is kept to.
    key: OnceLock<Secret>,
    manner: Mutex<Manner>,
    calls: AtomicU64,
    /// Calls with a wrong key, or none.
    refused: AtomicU64,
    begun: Instant,
    noted: Mutex<VecDeque<Noted>>,
    drawn: Mutex<std::collections::HashMap<(u64, u32, u32), Vec<u8>>>,
    predictions: Mutex<replicate::Predictions>,
}

impl StandIn {
    pub fn new(key: Option<Secret>, manner: Manner) -> StandIn {
        let inner = Inner {
            key: key.map_or_else(OnceLock::new, OnceLock::from),
            manner: Mutex::new(manner),
            calls: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            begun: Instant::now(),
            noted: Mutex::default(),
            drawn: Mutex::default(),
            predictions: Mutex::default(),
        };
        StandIn { inner: Arc::new(inner), scheme: "http" }
    }

    /// Somebody ends TLS in front of it: the addresses that it gives are theirs.
    #[must_use]
    pub fn behind_tls(self) -> StandIn {
        StandIn { scheme: "https", ..self }
    }

    /// Whether a key is the one that callers must show.
    fn knows(&self, key: &str) -> bool {
        key.len() >= LEAST_KEY && self.inner.key.get_or_init(|| Secret::new(key)).matches(key)
    }

    /// Calls that were made of it.
    pub fn calls(&self) -> u64 {
        self.inner.calls.load(Ordering::Relaxed)
    }

    pub fn set(&self, manner: Manner) {
        *self.manner() = manner;
    }

    fn manner(&self) -> std::sync::MutexGuard<'_, Manner> {
        self.inner.manner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A key that is not the one is counted.
    fn refuse(&self) {
        self.inner.refused.fetch_add(1, Ordering::Relaxed);
    }

    fn noted(&self) -> std::sync::MutexGuard<'_, VecDeque<Noted>> {
        self.inner.noted.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn note(&self, prompt: &str, mode: &str) {
        let at_ms = u64::try_from(self.inner.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut noted = self.noted();
        noted.push_back(Noted { at_ms, prompt: prompt.to_owned(), mode: mode.to_owned() });
        if noted.len() > NOTED {
            noted.pop_front();
        }
    }

    /// Counts a call, waits as long as it takes, and gives the mode of this call.
    async fn call(&self, prompt: &str) -> (String, u64) {
        let number = self.inner.calls.fetch_add(1, Ordering::Relaxed);
        let (mode, seconds, retry) = {
            let mut manner = self.manner();
            let mode = manner.mode.clone();
            if manner.times > 0 && mode != "ok" {
                manner.times -= 1;
                if manner.times == 0 {
                    manner.mode = "ok".into();
                }
            }
            // Spread evenly without a source of chance: the same run behaves the same way.
            let part = (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f64 / (1_u64 << 24) as f64;
            (mode, manner.least + (manner.most - manner.least).max(0.0) * part, manner.retry_after)
        };
        self.note(prompt, &mode);
        tokio::time::sleep(Duration::from_secs_f64(seconds.clamp(0.0, 600.0))).await;
        if mode == "hang" {
            std::future::pending::<()>().await;
        }
        (mode, retry)
    }

    /// A picture of the prompt, or one of a few.
    async fn draw(&self, prompt: &str, size: (u32, u32)) -> Vec<u8> {
        let reuse = self.manner().reuse;
        let key = (reuse > 0).then(|| (self.calls() % reuse.max(1), size.0, size.1));
        if let Some(key) = key
            && let Some(bytes) = self.drawings().get(&key)
        {
            return bytes.clone();
        }
        let prompt = key.map_or(prompt.to_owned(), |(n, ..)| format!("harbour at sunset {n}"));
        let bytes = in_turn(move || render(&prompt, "vivid", size)).await.unwrap_or_default();
        if let Some(key) = key {
            self.drawings().insert(key, bytes.clone());
        }
        bytes
    }

    fn drawings(&self) -> std::sync::MutexGuard<'_, std::collections::HashMap<(u64, u32, u32), Vec<u8>>> {
        self.inner.drawn.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The answer of a mode that is the same in both formats; None when the call goes on.
    fn spoilt(mode: &str, retry: u64) -> Option<Response> {
        match mode {
            "limited" => Some(
                (
                    StatusCode::TOO_MANY_REQUESTS,
                    [(header::RETRY_AFTER, retry.to_string())],
                    Json(json!({ "error": { "code": "429", "message": "rate limit" } })),
                )
                    .into_response(),
            ),
            "broken" => Some((StatusCode::INTERNAL_SERVER_ERROR, "internal error").into_response()),
            "garbage" => Some((StatusCode::OK, "<<<\u{0} not json").into_response()),
            _ => None,
        }
    }
}

/// The size of `1024x1024`, within what is drawn here.
fn size(text: &str) -> (u32, u32) {
    let (w, h) = text.split_once('x').unwrap_or(("1024", "1024"));
    let part = |t: &str| t.parse().unwrap_or(1024_u32).clamp(16, 2048);
    (part(w), part(h))
}

fn told(it: &StandIn) -> Value {
    let refused = it.inner.refused.load(Ordering::Relaxed);
    json!({ "manner": *it.manner(), "calls": it.calls(), "refused": refused })
}

/// Prompts are told to who has the key.
async fn show(State(it): State<StandIn>, headers: HeaderMap) -> Json<Value> {
    let mut told = told(&it);
    if openai::allowed(&it, &headers) || replicate::allowed(&it, &headers) {
        told["log"] = it.noted().iter().rev().map(|noted| json!(noted)).collect();
    }
    Json(told)
}

async fn change(State(it): State<StandIn>, headers: HeaderMap, Json(manner): Json<Manner>) -> Response {
    if !openai::allowed(&it, &headers) && !replicate::allowed(&it, &headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let seconds = |s: f64| s.is_finite() && (0.0..=600.0).contains(&s);
    if !MODES.contains(&manner.mode.as_str()) || !seconds(manner.least) || !seconds(manner.most) {
        let text = format!("mode is one of {}; least and most are 0 to 600 seconds", MODES.join(", "));
        return (StatusCode::BAD_REQUEST, text).into_response();
    }
    tracing::info!(?manner, "the stand-in behaves otherwise now");
    it.set(manner);
    Json(told(&it)).into_response()
}

/// The stand-in's routes for `openai` or `replicate`.
pub fn router(kind: &str, it: StandIn) -> Router {
    let own = if kind == "replicate" { replicate::routes() } else { openai::routes() };
    own.route("/stand-in", get(show).post(change))
        .route("/health", get(async || "ok"))
        .layer(map_response(async |mut response: Response| {
            response.headers_mut().insert(STAND_IN, HeaderValue::from_static("procedural, no AI model"));
            response
        }))
        .with_state(it)
}

/// How a stand-in behaves by its command line: `[MODE] [LEAST-MOST]`, such as `ok 1-3`.
///
/// # Errors
/// What is wrong with it.
pub fn manner(words: &[&str]) -> Result<Manner, String> {
    let mut manner = Manner::default();
    let (mode, seconds) = (words.first(), words.get(1));
    if let Some(mode) = mode {
        if !MODES.contains(mode) {
            return Err(format!("`{mode}` is no mode; there are {}", MODES.join(", ")));
        }
        (*mode).clone_into(&mut manner.mode);
    }
    if let Some(text) = seconds {
        let wrong = || format!("`{text}` are no seconds such as 5-30");
        let (least, most) = text.split_once('-').ok_or_else(wrong)?;
        let read = |t: &str| t.parse::<f64>().ok().filter(|s| (0.0..=600.0).contains(s));
        (manner.least, manner.most) = (read(least).ok_or_else(wrong)?, read(most).ok_or_else(wrong)?);
    }
    if words.len() > 2 { Err("there are two words at most: MODE and LEAST-MOST".into()) } else { Ok(manner) }
}

/// `donatello provider KIND [MODE] [LEAST-MOST] [https]`: serves until it is asked to end.
///
/// # Errors
/// A setting is unusable or the address cannot be listened on.
pub async fn run(settings: &Settings, kind: &str, mut manner: Manner, behind_tls: bool) -> Result<(), ServeError> {
    let key = settings.optional("PROVIDER_KEY")?.map(Secret::new);
    manner.reuse = settings.parsed("STAND_IN_REUSE", "a number", manner.reuse)?;
    let listener = serve::bind(settings).await?;
    let address = listener.local_addr().map_err(ServeError::Serve)?;
    tracing::info!(%address, kind, ?manner, "a stand-in for a provider listens");
    let it = StandIn::new(key, manner);
    let app = router(kind, if behind_tls { it.behind_tls() } else { it });
    sdk::serve(listener, app, serve::asked(), Duration::from_secs(2)).await.map_err(ServeError::Serve)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
    use super::*;

    #[test]
    fn a_manner_is_read_from_words() {
        assert_eq!(
            manner(&["broken", "5-30"]).unwrap(),
            Manner { mode: "broken".into(), least: 5.0, most: 30.0, ..Manner::default() }
        );
        assert!(manner(&["asleep"]).unwrap_err().contains("no mode"));
        assert!(manner(&["ok", "30"]).unwrap_err().contains("5-30"));
    }

    #[test]
    fn the_last_calls_are_told_and_no_more() {
        let it = StandIn::new(None, Manner::default());
        for number in 0..60 {
            it.note(&format!("prompt {number}"), "ok");
        }
        let noted = it.noted();
        assert_eq!((noted.len(), noted[0].prompt.as_str()), (NOTED, "prompt 10"));
    }

    #[test]
    fn without_a_key_of_its_own_it_keeps_to_the_first() {
        let it = StandIn::new(None, Manner::default());
        assert!(!it.knows("short"));
        assert!(it.knows("the first key that is long"));
        assert!(!it.knows("another key that is long"));
    }
}
