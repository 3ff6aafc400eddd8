//! `story(NAME)`: what only an application can show, as steps in a file of the system (`checks/NAME.toml`): API calls as
//! somebody who signed in, and rows that are read past the application.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{
    Error, Lab, Miss, Seen,
    claim::Call,
    inside::{Ask, Saw},
    miss, must,
    script::{ApiCall, filled, plain},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Story {
    /// The groups of the person who acts.
    groups: Vec<String>,
    /// The service from whose place rows are read, and the variable with its connection string.
    service: String,
    variable: String,
    step: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    /// `GET /path`, `POST /path`.
    call: Option<String>,
    /// JSON; `{name}` stands for what was kept.
    body: Option<String>,
    /// The status that must come back.
    status: Option<u16>,
    /// Pointers into the answer (RFC 6901) and what must be there.
    #[serde(default)]
    has: BTreeMap<String, String>,
    /// Text that must, or must not, be in the answer.
    text: Option<String>,
    without: Option<String>,
    /// Names for values of the answer, by pointer.
    #[serde(default)]
    keep: BTreeMap<String, String>,
    /// A statement past the application, and its rows as text.
    sql: Option<String>,
    rows: Option<Vec<Vec<String>>>,
}

pub async fn tell(lab: &Lab, on: &str, call: &Call) -> Seen {
    let name = call.argument(0, "");
    let text = lab.file(&format!("checks/{name}.toml"))?;
    let fault = |e: toml_edit::de::Error| Error::File { file: format!("checks/{name}.toml"), what: e.to_string() };
    let story: Story = toml_edit::de::from_str(&text).map_err(fault)?;
    let site = lab.site(on).await?;
    let groups: Vec<&str> = story.groups.iter().map(String::as_str).collect();
    let mut person = site.signed_in(&groups).await?;
    // Different in each telling, so that one does not meet what another left.
    let unique = uuid::Uuid::new_v4().simple().to_string()[..8].to_uppercase();
    let mut kept = BTreeMap::from([("unique".to_owned(), unique), ("email".to_owned(), person.email.clone())]);
    let mut seen = Vec::new();
    for (number, step) in story.step.iter().enumerate() {
        let at = |what: String| Miss::Failed(format!("step {}: {what}", number + 1));
        if let Some(call) = &step.call {
            let call = ApiCall { call: call.clone(), body: step.body.clone(), status: None, keep: step.keep.clone() };
            let page = call.make(&mut person, &kept).await?;
            let call_text = filled(&call.call, &kept).map_err(at)?;
            let begin: String = page.text.chars().take(300).collect();
            let status = step.status.unwrap_or(200);
            must!(
                page.status == status,
                "step {}: {call_text} answers {}, not {status}: {begin}",
                number + 1,
                page.status
            );
            seen.push(format!("{call_text}: {}", page.status));
            if let Some(text) = &step.text {
                let text = filled(text, &kept).map_err(at)?;
                must!(page.text.contains(&text), "step {}: the answer does not say `{text}`: {begin}", number + 1);
            }
            if let Some(text) = &step.without {
                must!(!page.text.contains(text), "step {}: the answer says `{text}`", number + 1);
            }
            if !step.has.is_empty() {
                let json = page.json()?;
                let value = |pointer: &str| {
                    json.pointer(pointer).map(plain).ok_or_else(|| at(format!("no {pointer}: {begin}")))
                };
                for (pointer, expected) in &step.has {
                    let (found, expected) = (value(pointer)?, filled(expected, &kept).map_err(at)?);
                    must!(found == expected, "step {}: {pointer} is `{found}`, not `{expected}`", number + 1);
                }
            }
            call.keep(&page, &mut kept)?;
        }
        if let Some(sql) = &step.sql {
            let sql = filled(sql, &kept).map_err(at)?;
            let ask = Ask::Sql { variable: story.variable.clone(), statements: vec![sql.clone()] };
            let saw = site.inside(&story.service, &[ask]).await?;
            let Some(Saw::Sql(found)) = saw.first() else { miss!("step {}: {sql}: {saw:?}", number + 1) };
            let mut expected = step.rows.clone().unwrap_or_default();
            for value in expected.iter_mut().flatten() {
                *value = filled(value, &kept).map_err(at)?;
            }
            must!(found[0] == expected, "step {}: {sql} gives {:?}, not {expected:?}", number + 1, found[0]);
            seen.push(format!("{} row(s) past the application: {:?}", found[0].len(), found[0]));
        }
    }
    Ok(seen.join("; "))
}
