//! `story(NAME)`: what only an application can show, as steps in a file of the system (`checks/NAME.toml`): API calls as
//! somebody who signed in, calls from the place of a service, jobs, and what is seen past the application: rows, files of shares,
//! the cache, the logs. `story_alone` is the same for what stops or changes parts of the stamp.

mod acts;
mod past;

pub(super) use acts::run_job;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Deserialize;

use crate::{
    Error, Lab, Miss, Seen, Site,
    browser::Browser,
    claim::Call,
    inside::{Ask, Saw},
    miss, must,
    script::{filled, plain},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Story {
    /// The groups of the person who acts unless a step says otherwise; nobody signs in without them.
    #[serde(default)]
    groups: Option<Vec<String>>,
    /// Others, by name; each signs in when first needed.
    #[serde(default)]
    people: BTreeMap<String, Person>,
    /// The service from whose place rows are read, and the variable with its connection string. Without a variable libpq's own
    /// variables say where, and a token of the service's identity is the password.
    service: Option<String>,
    variable: Option<String>,
    step: Vec<Step>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Person {
    groups: Vec<String>,
    /// Where the part of the application lies that they sign in to, such as `/manage`.
    #[serde(default)]
    at: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    /// `GET /path`, `POST /path`; with `from`, `POST $CLOUD_API_URL/path`.
    call: Option<String>,
    /// Who calls: a name of `people`, or one that begins with `nobody`: somebody without session and account.
    r#as: Option<String>,
    /// The service from whose place it is called; `$NAME` in call, headers and body is then a variable of its environment.
    from: Option<String>,
    /// With `from`: a token of the service's own identity for this audience goes along.
    identity: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// JSON unless `type` says otherwise; `{name}` stands for what was kept.
    body: Option<String>,
    r#type: Option<String>,
    /// The status that must come back; 200 where it does not say.
    status: Option<u16>,
    /// Pointers into the answer (RFC 6901) and what must be there.
    #[serde(default)]
    has: BTreeMap<String, String>,
    /// Headers that the answer must have.
    #[serde(default)]
    shows: BTreeMap<String, String>,
    /// Text that must, or must not, be in the answer.
    text: Option<String>,
    without: Option<String>,
    /// Names for values of the answer, by pointer; of a page, by the name of a form's hidden field.
    #[serde(default)]
    keep: BTreeMap<String, String>,
    #[serde(default)]
    field: BTreeMap<String, String>,
    /// Numbers that stand in the answer after these texts: kept under a name, or greater than what is kept under it.
    #[serde(default)]
    count: BTreeMap<String, String>,
    #[serde(default)]
    more: BTreeMap<String, String>,
    /// Called, or asked, again for so many seconds until all of it holds.
    until: Option<u64>,
    /// Done so often; `{time}` counts from 01.
    times: Option<u32>,
    /// A statement past the application, and its rows as text; by this service and variable, if not by the story's.
    sql: Option<String>,
    rows: Option<Vec<Vec<String>>>,
    service: Option<String>,
    variable: Option<String>,
    #[serde(flatten)]
    past: past::Past,
    #[serde(flatten)]
    act: acts::Act,
}

/// An answer, from wherever it was asked.
#[derive(Default)]
struct Answer {
    status: u16,
    headers: http::HeaderMap,
    text: String,
}

struct Teller<'a> {
    lab: &'a Lab,
    on: &'a str,
    site: Arc<Site>,
    story: &'a Story,
    signed_in: BTreeMap<String, Browser>,
    kept: BTreeMap<String, String>,
    seen: Vec<String>,
    undo: acts::Undo,
}

pub async fn tell(lab: &Lab, on: &str, call: &Call) -> Seen {
    told(lab, on, call.argument(0, ""), &mut BTreeMap::new()).await
}

/// As [`tell`], with what another story kept; what this one keeps is added.
pub(super) async fn told(lab: &Lab, on: &str, name: &str, kept: &mut BTreeMap<String, String>) -> Seen {
    let text = lab.file(&format!("checks/{name}.toml"))?;
    let fault = |e: toml_edit::de::Error| Error::File { file: format!("checks/{name}.toml"), what: e.to_string() };
    let story: Story = toml_edit::de::from_str(&text).map_err(fault)?;
    let site = lab.site(on).await?;
    // Different in each telling, so that one does not meet what another left.
    let unique = || uuid::Uuid::new_v4().simple().to_string()[..8].to_uppercase();
    kept.entry("unique".to_owned()).or_insert_with(unique);
    kept.insert("scratch".to_owned(), site.scratch.display().to_string());
    for (workload, place) in &site.places {
        if let Some(share) = workload.strip_prefix("share.") {
            kept.insert(format!("share_{}", share.replace('-', "_")), place.join("data").display().to_string());
        }
    }
    let mut teller = Teller {
        lab,
        on,
        site,
        story: &story,
        signed_in: BTreeMap::new(),
        kept: std::mem::take(kept),
        seen: Vec::new(),
        undo: acts::Undo::default(),
    };
    let told = teller.all().await;
    let undone = teller.undone().await;
    *kept = teller.kept;
    told?;
    undone?;
    Ok(teller.seen.join("; "))
}

impl Teller<'_> {
    async fn all(&mut self) -> Result<(), Miss> {
        let story = self.story;
        if let Some(groups) = &story.groups {
            let person = Person { groups: groups.clone(), at: String::new() };
            let email = self.enter("", &person).await?.email.clone();
            self.kept.insert("email".to_owned(), email);
        }
        for (number, step) in story.step.iter().enumerate() {
            for time in 1..=step.times.unwrap_or(1) {
                self.kept.insert("time".to_owned(), format!("{time:02}"));
                self.one(number, step).await?;
            }
        }
        Ok(())
    }

    /// A step, again and again as long as it may take.
    async fn one(&mut self, number: usize, step: &Step) -> Result<(), Miss> {
        let begun = Instant::now();
        let limit = Duration::from_secs(step.until.unwrap_or(0));
        let told = self.seen.len();
        let mut pause = Duration::from_millis(20);
        loop {
            match self.take(step).await {
                Ok(()) => return Ok(()),
                Err(Miss::Failed(what)) if begun.elapsed() >= limit => miss!("step {}: {what}", number + 1),
                Err(Miss::Failed(_)) => self.seen.truncate(told),
                Err(other) => return Err(other),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    fn fill(&self, text: &str) -> Result<String, Miss> {
        filled(text, &self.kept).map_err(Miss::Failed)
    }

    async fn enter(&mut self, name: &str, person: &Person) -> Result<&mut Browser, Miss> {
        let groups: Vec<&str> = person.groups.iter().map(String::as_str).collect();
        let site = self.site.clone();
        let browser = site.signed_in_at(&person.at, &groups).await?;
        Ok(self.signed_in.entry(name.to_owned()).or_insert(browser))
    }

    async fn who(&mut self, name: &str) -> Result<&mut Browser, Miss> {
        if !self.signed_in.contains_key(name) {
            let browser = match self.story.people.get(name) {
                Some(person) => return self.enter(name, &person.clone()).await,
                None if name.starts_with("nobody") => Browser::stranger(&self.site)?,
                None if name.is_empty() => miss!("it has neither `groups` nor `as`"),
                None => miss!("nobody of `people` is called {name}"),
            };
            self.signed_in.insert(name.to_owned(), browser);
        }
        self.signed_in.get_mut(name).ok_or_else(|| Miss::Failed(format!("{name} is not signed in")))
    }

    async fn take(&mut self, step: &Step) -> Result<(), Miss> {
        self.act(step).await?;
        if let Some(call) = &step.call {
            let call = self.fill(call)?;
            let answer = self.ask(step, &call).await?;
            self.judge(step, &call, &answer)?;
        }
        if let Some(sql) = &step.sql {
            self.look(step, sql).await?;
        }
        self.look_past(step).await
    }

    async fn ask(&mut self, step: &Step, call: &str) -> Result<Answer, Miss> {
        let Some((method, path)) = call.split_once(' ') else { miss!("`{call}` is no `METHOD /path`") };
        let mut headers = BTreeMap::new();
        for (name, value) in &step.headers {
            headers.insert(name.clone(), self.fill(value)?);
        }
        let body = step.body.as_deref().map(|b| self.fill(b)).transpose()?;
        let kind = step.r#type.as_deref().unwrap_or("application/json");
        if let Some(service) = &step.from {
            let ask = Ask::Http {
                method: method.into(),
                url: path.into(),
                resource: step.identity.clone(),
                headers: headers.into_iter().chain([("content-type".to_owned(), kind.to_owned())]).collect(),
                body,
                told: true,
            };
            let saw = self.site.inside(service, &[ask]).await?;
            let Some(Saw::Http { status, text: Some(text), .. }) = saw.first() else { miss!("{call}: {saw:?}") };
            return Ok(Answer { status: *status, text: text.clone(), ..Answer::default() });
        }
        let person = self.who(step.r#as.as_deref().unwrap_or_default()).await?;
        let page = person.send_with(method, path, kind, body, &headers).await?;
        Ok(Answer { status: page.status, headers: page.headers, text: page.text })
    }

    fn judge(&mut self, step: &Step, call: &str, answer: &Answer) -> Result<(), Miss> {
        let begin: String = answer.text.chars().take(300).collect();
        let status = step.status.unwrap_or(200);
        must!(answer.status == status, "{call} answers {}, not {status}: {begin}", answer.status);
        self.seen.push(format!("{call}: {}", answer.status));
        for (name, value) in &step.shows {
            let found = answer.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
            must!(found == value, "{call}: {name} is `{found}`, not `{value}`");
        }
        if let Some(text) = &step.text {
            let text = self.fill(text)?;
            must!(answer.text.contains(&text), "the answer does not say `{text}`: {begin}");
        }
        if let Some(text) = &step.without {
            let text = self.fill(text)?;
            must!(!answer.text.contains(&text), "the answer says `{text}`");
        }
        for (name, field) in &step.field {
            self.kept.insert(name.clone(), crate::browser::field(&answer.text, field)?);
        }
        let number = |after: &String| {
            let rest = answer.text.split_once(after.as_str()).map(|(_, rest)| rest).unwrap_or_default();
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u64>().map_err(|_| Miss::Failed(format!("no number after `{after}`: {begin}")))
        };
        for (name, after) in &step.count {
            self.kept.insert(name.clone(), number(after)?.to_string());
        }
        for (name, after) in &step.more {
            let (now, before) = (number(after)?, self.fill(&format!("{{{name}}}"))?);
            must!(now > before.parse::<u64>()?, "`{after}` is {now} and was {before}");
            self.seen.push(format!("{after} {before}, then {now}"));
        }
        if step.has.is_empty() && step.keep.is_empty() {
            return Ok(());
        }
        let json: serde_json::Value =
            serde_json::from_str(&answer.text).map_err(|e| Miss::Failed(format!("no JSON ({e}): {begin}")))?;
        let value = |pointer: &str| {
            json.pointer(pointer).map(plain).ok_or_else(|| Miss::Failed(format!("no {pointer}: {begin}")))
        };
        for (pointer, expected) in &step.has {
            let (found, expected) = (value(pointer)?, self.fill(expected)?);
            must!(found == expected, "{pointer} is `{found}`, not `{expected}`");
        }
        for (name, pointer) in &step.keep {
            self.kept.insert(name.clone(), value(pointer)?);
        }
        Ok(())
    }

    async fn look(&mut self, step: &Step, sql: &str) -> Result<(), Miss> {
        let sql = self.fill(sql)?;
        let Some(service) = step.service.as_ref().or(self.story.service.as_ref()) else {
            miss!("`sql` needs a `service`")
        };
        // A step that names its own service names its own variable too, or signs in by identity.
        let variable = if step.service.is_some() { &step.variable } else { &self.story.variable };
        let ask = Ask::Sql { variable: variable.clone().unwrap_or_default(), statements: vec![sql.clone()] };
        let saw = self.site.inside(service, &[ask]).await?;
        let Some(Saw::Sql(found)) = saw.first() else { miss!("{sql}: {saw:?}") };
        self.compare(step, &sql, &found[0])
    }

    /// What was found past the application against the rows that the step names.
    fn compare(&mut self, step: &Step, what: &str, found: &[Vec<String>]) -> Result<(), Miss> {
        let mut expected = step.rows.clone().unwrap_or_default();
        for value in expected.iter_mut().flatten() {
            *value = self.fill(value)?;
        }
        must!(found == expected, "{what} gives {found:?}, not {expected:?}");
        self.seen.push(format!("{} row(s) past the application: {found:?}", found.len()));
        Ok(())
    }
}
