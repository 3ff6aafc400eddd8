//! Doing an audit in a browser: the client app of a site, and of whoever has no telephone at hand.

use askama::Template;
use axum::{
    extract::{Path, State},
    response::Response,
};
use uuid::Uuid;

use super::{Fields, Head, dashboard, ok, see};
use crate::{
    access::Caller,
    app::App,
    fault::Fault,
    queue,
    store::{
        forms::{self, Form, Ward},
        submissions::{self, AnswerInput, Input},
    },
};

#[derive(Template)]
#[template(path = "audits.html")]
struct ChoosePage {
    head: Head,
    forms: Vec<Form>,
}

pub async fn choose(State(app): State<App>, caller: Caller) -> Result<Response, Fault> {
    ok(&ChoosePage {
        head: Head::new("Audit", &caller, "audit"),
        forms: forms::list(&app.connection().await?, true).await?,
    })
}

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditPage {
    head: Head,
    form: Form,
    wards: Vec<Ward>,
    medicines: Vec<super::formulary::Entry>,
    today: String,
    id: Uuid,
}

pub async fn show(State(app): State<App>, caller: Caller, Path(id): Path<i64>) -> Result<Response, Fault> {
    let connection = app.connection().await?;
    let mut form = forms::get(&connection, id).await?;
    if !form.is_published {
        return Err(Fault::NotFound);
    }
    for photo in form.questions.iter_mut().filter_map(|q| q.photo.as_mut()) {
        *photo = app.media.signed(photo);
    }
    ok(&AuditPage {
        head: Head::new(form.title.clone(), &caller, "audit"),
        wards: forms::wards(&connection).await?,
        medicines: super::formulary::active(&connection).await?,
        today: app.today().to_string(),
        id: Uuid::new_v4(),
        form,
    })
}

/// The form as it comes from a browser; files were sent before by the script, and are named in it.
pub async fn save(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
    fields: Fields,
) -> Result<Response, Fault> {
    let mut connection = app.connection().await?;
    let form = forms::get(&connection, id).await?;
    let answers = form.questions.iter().map(|q| AnswerInput {
        question_id: q.id,
        value: fields.get(&format!("q{}", q.id)).trim().to_owned(),
        note: fields.get(&format!("n{}", q.id)).to_owned(),
        media: fields.all(&format!("m{}", q.id)),
    });
    let input = Input {
        id: fields
            .get("id")
            .parse()
            .map_err(|_| Fault::Malformed("The form is not complete. Please reload the page."))?,
        form_id: id,
        form_version: fields.number("version")?,
        ward: fields.get("ward").to_owned(),
        audited_on: fields.get("audited_on").to_owned(),
        notes: fields.lines("notes"),
        answers: answers.collect(),
        media: fields.all("media"),
    };
    // What makes two sendings the same is what was filled in, not the session's token.
    let body: Vec<String> = fields.0.iter().filter(|(n, _)| n != "_csrf").map(|(n, v)| format!("{n}={v}\n")).collect();
    let taken = submissions::take(&mut connection, caller.user, "web", &input, body.concat().as_bytes()).await?;
    if let Some(job) = &taken.job {
        dashboard::changed(&app).await;
        queue::offer(app.redis.as_ref(), job).await;
    }
    Ok(see(&format!("/submissions/{}", taken.id)))
}
