//! Where prompts are written, watched and looked at again.

use askama::Template;
use axum::{
    extract::{Path, Query, State},
    response::Response,
};
use sdk::fault::WebFault as _;
use uuid::Uuid;

use super::{Fields, Head, ok, page, see};
use crate::{
    access::{Caller, Meta},
    app::App,
    domain::{FieldErrors, RESOLUTIONS, Wish, cents},
    fault::Fault,
    progress::{self, Event},
    router::{Choice, Model},
    store::{
        departments::{self, Department},
        generations::{self, Filter, Generation},
        models,
    },
    submit,
};

#[derive(Template)]
#[template(path = "studio.html")]
struct Studio {
    head: Head,
    models: Vec<Model>,
    regions: Vec<String>,
    department: Department,
    recent: Vec<Generation>,
    key: String,
    prompt: String,
    wish: Wish,
    max_cost: String,
    errors: FieldErrors,
    refusal: String,
}

impl Studio {
    /// Why a model cannot be chosen; empty when it can.
    fn why_not(&self, model: &Model) -> String {
        if !self.regions.contains(&model.region) {
            format!("region {} is not allowed", model.region)
        } else if !model.is_active {
            "switched off".into()
        } else if !model.available {
            "not configured".into()
        } else {
            String::new()
        }
    }

    /// Whether anything but the built-in renderer can be chosen.
    fn only_renderer(&self) -> bool {
        self.models.iter().all(|m| m.id == "renderer" || !self.why_not(m).is_empty())
    }
}

async fn view(app: &App, caller: &Caller) -> Result<Studio, Fault> {
    let connection = app.connection().await?;
    let (_, regions) = models::rules(&connection, caller.department).await?;
    let (mut recent, _) =
        generations::list(&connection, caller, &Filter { own: true, ..Filter::default() }, 1, 6).await?;
    generations::open(&app.prompts, caller, &mut recent);
    Ok(Studio {
        head: Head::new("Studio", caller, "studio"),
        models: models::list(&connection).await?,
        regions,
        department: departments::get(&connection, caller, caller.department).await?,
        recent,
        key: Uuid::new_v4().to_string(),
        prompt: String::new(),
        wish: Wish::default(),
        max_cost: String::new(),
        errors: FieldErrors::default(),
        refusal: String::new(),
    })
}

pub async fn show(State(app): State<App>, caller: Caller) -> Result<Response, Fault> {
    ok(&view(&app, &caller).await?)
}

/// Takes the form; a refusal comes back on the same page with all that was typed.
pub async fn generate(State(app): State<App>, caller: Caller, meta: Meta, fields: Fields) -> Result<Response, Fault> {
    let or = |name: &str, default: &str| fields.some(name).unwrap_or(default).to_owned();
    let mut wish = Wish {
        model: or("model_provider", "auto"),
        resolution: or("resolution", RESOLUTIONS[0]),
        required_quality: or("required_quality", "medium"),
        style: or("style", "vivid"),
        commercial_use: fields.get("commercial_use") == "1",
        ..Wish::default()
    };
    // What cannot be read as money is out of the range that is checked.
    wish.max_cost_cents = fields.some("max_cost_aud").map(|t| cents(t).unwrap_or(-1));
    let prompt = fields.get("prompt");
    match submit::submit(&app, &caller, &meta, fields.get("idempotency_key"), prompt, &wish).await {
        Ok(taken) => Ok(see(&format!("/generations/{}", taken.id))),
        Err(fault) if fault.status().is_client_error() => {
            let mut studio = view(&app, &caller).await?;
            (studio.prompt, studio.wish, studio.max_cost) =
                (prompt.to_owned(), wish, fields.get("max_cost_aud").to_owned());
            studio.refusal = match &fault {
                Fault::Personal(found) => {
                    let mut kinds: Vec<&str> = found.iter().map(|f| f.kind.as_str()).collect();
                    kinds.dedup();
                    format!("{fault} Found: {}.", kinds.join(", "))
                }
                other => other.to_string(),
            };
            let status = fault.status();
            if let Fault::Invalid(errors) = fault {
                studio.errors = errors;
            }
            page(status, &studio)
        }
        Err(fault) => Err(fault),
    }
}

#[derive(Template)]
#[template(path = "generation.html")]
struct One {
    head: Head,
    it: Generation,
    choice: Option<Choice>,
    events: Vec<Event>,
    own: bool,
}

impl One {
    /// An event in words.
    fn words(&self, event: &Event) -> String {
        let text = |name: &str| event.detail[name].as_str().unwrap_or_default().to_owned();
        match event.event.as_str() {
            "generation.queued" => format!("Queued; {} AUD reserved", text("reserved_aud")),
            "generation.started" => "A worker took it".into(),
            "generation.chosen" => format!("Chosen: {} ({} points)", text("model"), event.detail["score"]),
            "generation.calling" => {
                format!("Calling {}, attempt {} of {}", text("model"), event.detail["attempt"], event.detail["of"])
            }
            "generation.failed-attempt" => {
                format!("{}: {}. Trying again in {} s", text("model"), text("why"), event.detail["in_seconds"])
            }
            "generation.fallback" => format!(
                "{}: {}. Falling back to {} in {} s",
                text("model"),
                text("why"),
                text("next"),
                event.detail["in_seconds"]
            ),
            "generation.skipped" => format!("{} skipped: {}", text("model"), text("why")),
            "generation.waiting" => format!("Waiting: {}", text("why")),
            "generation.stored" => "Image checked, marked and stored".into(),
            "generation.completed" => format!("Done; {} AUD charged", text("cost_aud")),
            "generation.failed" => format!("Failed: {}. {} AUD given back", text("why"), text("refunded_aud")),
            "generation.cancelled" => format!("Cancelled. {} AUD given back", text("refunded_aud")),
            other => other.to_owned(),
        }
    }

    fn seconds(&self, event: &Event) -> String {
        format!("{:.1} s", event.at_ms as f64 / 1000.0)
    }
}

pub async fn one(State(app): State<App>, caller: Caller, Path(id): Path<Uuid>) -> Result<Response, Fault> {
    let connection = app.connection().await?;
    let mut found = [generations::get(&connection, &caller, id).await?];
    generations::open(&app.prompts, &caller, &mut found);
    let [it] = found;
    let events = progress::of(&connection, id).await?;
    let (choice, own) = (it.choice(), it.user_id == caller.user);
    ok(&One { head: Head::new("Image", &caller, "history"), it, choice, events, own })
}

pub async fn remove(
    State(app): State<App>,
    caller: Caller,
    meta: Meta,
    Path(id): Path<Uuid>,
) -> Result<Response, Fault> {
    generations::remove(&mut app.connection().await?, &caller, &meta, id).await?;
    Ok(see("/history"))
}

#[derive(serde::Deserialize)]
pub struct Wanted {
    #[serde(default)]
    page: i64,
    #[serde(default)]
    status: String,
    /// `own`, or all of the caller's circle.
    #[serde(default)]
    whose: String,
}

#[derive(Template)]
#[template(path = "history.html")]
struct History {
    head: Head,
    all: Vec<Generation>,
    total: i64,
    page: i64,
    pages: i64,
    status: String,
    whose: String,
}

pub async fn history(State(app): State<App>, caller: Caller, Query(wanted): Query<Wanted>) -> Result<Response, Fault> {
    const EACH: i64 = 24;
    let page = wanted.page.clamp(1, 10_000);
    let filter = Filter { status: wanted.status.clone(), own: wanted.whose == "own", ..Filter::default() };
    let (mut all, total) = generations::list(&app.connection().await?, &caller, &filter, page, EACH).await?;
    generations::open(&app.prompts, &caller, &mut all);
    let pages = (total + EACH - 1) / EACH;
    let head = Head::new("History", &caller, "history");
    ok(&History { head, all, total, page, pages, status: wanted.status, whose: wanted.whose })
}
