//! `story(NAME)`: what only an application can show, as steps in a file of the system (`checks/NAME.toml`): API calls as
//! somebody who signed in, calls from the place of a service, jobs, and rows that are read past the application.
//! `story_alone(NAME)` is the same for what changes what others meet: parts are changed and ended, a provider fails.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use api::job::{JobRequest, JobRun, JobStatus};
use serde::Deserialize;

use crate::{
    Error, Lab, Miss, Seen, Site,
    browser::Browser,
    claim::Call,
    harm::kill,
    inside::{Ask, Saw},
    miss, must,
    script::{filled, plain},
    site::until_in,
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
    /// Taken at the end, however the story went: what others meet is put back.
    #[serde(default)]
    finally: Vec<Step>,
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
    /// Who calls: a name of `people`, or `nobody`, who has neither session nor account.
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
    /// Text that must, or must not, be in the answer.
    text: Option<String>,
    without: Option<String>,
    /// Headers of the answer, each with texts that must be in it.
    #[serde(default)]
    says: BTreeMap<String, Vec<String>>,
    /// SHA-256 of the answer's body, hex; a person's calls only.
    digest: Option<String>,
    /// Names for values of the answer, by pointer; of a page, by the name of a form's hidden field.
    #[serde(default)]
    keep: BTreeMap<String, String>,
    #[serde(default)]
    field: BTreeMap<String, String>,
    /// Called, or asked, again for so many seconds until all of it holds.
    until: Option<u64>,
    /// A job to run now; it must succeed.
    job: Option<String>,
    /// A statement past the application, and its rows as text; by this service and variable, if not by the story's.
    sql: Option<String>,
    rows: Option<Vec<Vec<String>>>,
    service: Option<String>,
    variable: Option<String>,
    /// A question to the telemetry; its rows are compared with `rows` as well.
    telemetry: Option<String>,
    /// TOML laid on the manifest, in place of what was laid on it before; empty is the manifest as it is. Only alone.
    change: Option<String>,
    /// The process of a service, in each of its copies, is ended at once. Only alone.
    kill: Option<String>,
    /// Text of the refusal with which the statement, or the change, must be answered.
    refused: Option<String>,
}

impl Step {
    /// A step that judges what it did not ask for would hold whatever happens.
    fn fault(&self) -> Option<&'static str> {
        let of_call = self.r#as.is_some()
            || self.from.is_some()
            || self.body.is_some()
            || self.status.is_some()
            || self.text.is_some()
            || self.without.is_some()
            || self.digest.is_some()
            || !(self.has.is_empty() && self.says.is_empty() && self.keep.is_empty() && self.field.is_empty());
        let rows = self.sql.is_some() || self.telemetry.is_some();
        let acts = self.call.is_some() || self.job.is_some() || self.change.is_some() || self.kill.is_some();
        match () {
            () if !acts && !rows => Some("it does nothing"),
            () if of_call && self.call.is_none() => Some("it judges a call and makes none"),
            () if self.rows.is_some() && !rows => Some("it has `rows` and asks for none"),
            () if self.refused.is_some() && self.sql.is_none() && self.change.is_none() => {
                Some("`refused` is of a statement or a change")
            }
            () => None,
        }
    }
}

/// An answer, from wherever it was asked.
struct Answer {
    status: u16,
    text: String,
    headers: http::HeaderMap,
    digest: String,
}

struct Teller<'a> {
    lab: &'a Lab,
    on: &'a str,
    site: Arc<Site>,
    story: &'a Story,
    alone: bool,
    changed: bool,
    signed_in: BTreeMap<String, Browser>,
    kept: BTreeMap<String, String>,
    seen: Vec<String>,
}

pub async fn tell(lab: &Lab, on: &str, call: &Call) -> Seen {
    told(lab, on, call, false).await
}

pub async fn tell_alone(lab: &Lab, on: &str, call: &Call) -> Seen {
    told(lab, on, call, true).await
}

async fn told(lab: &Lab, on: &str, call: &Call, alone: bool) -> Seen {
    let name = call.argument(0, "");
    let text = lab.file(&format!("checks/{name}.toml"))?;
    let fault = |e: toml_edit::de::Error| Error::File { file: format!("checks/{name}.toml"), what: e.to_string() };
    let story: Story = toml_edit::de::from_str(&text).map_err(fault)?;
    must!(!story.step.is_empty(), "checks/{name}.toml tells nothing");
    for (number, step) in story.step.iter().chain(&story.finally).enumerate() {
        if let Some(what) = step.fault() {
            miss!("checks/{name}.toml, step {}: {what}", number + 1);
        }
    }
    let site = lab.site(on).await?;
    // Different in each telling, so that one does not meet what another left.
    let unique = uuid::Uuid::new_v4().simple().to_string()[..8].to_uppercase();
    let kept = BTreeMap::from([("unique".to_owned(), unique)]);
    let (signed_in, seen) = (BTreeMap::new(), Vec::new());
    let mut teller = Teller { lab, on, site, story: &story, alone, changed: false, signed_in, kept, seen };
    if let Some(groups) = &story.groups {
        let person = Person { groups: groups.clone(), at: String::new() };
        let email = teller.enter("", &person).await?.email.clone();
        teller.kept.insert("email".to_owned(), email);
    }
    let told = teller.all(&story.step, "step").await;
    let put_back = teller.all(&story.finally, "final step").await;
    if teller.changed {
        lab.restore(on).await?;
    }
    told?;
    put_back?;
    Ok(teller.seen.join("; "))
}

impl Teller<'_> {
    async fn all(&mut self, steps: &[Step], word: &str) -> Result<(), Miss> {
        for (number, step) in steps.iter().enumerate() {
            let begun = Instant::now();
            let limit = Duration::from_secs(step.until.unwrap_or(0));
            let told = self.seen.len();
            let mut pause = Duration::from_millis(20);
            loop {
                match self.take(step).await {
                    Ok(()) => break,
                    Err(Miss::Failed(what)) if begun.elapsed() >= limit => miss!("{word} {}: {what}", number + 1),
                    Err(Miss::Failed(_)) => self.seen.truncate(told),
                    Err(other) => return Err(other),
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(500));
            }
        }
        Ok(())
    }

    fn fill(&self, text: &str) -> Result<String, Miss> {
        filled(text, &self.kept).map_err(Miss::Failed)
    }

    async fn enter(&mut self, name: &str, person: &Person) -> Result<&mut Browser, Miss> {
        let groups: Vec<&str> = person.groups.iter().map(String::as_str).collect();
        let browser = self.site.signed_in_at(&person.at, &groups).await?;
        Ok(self.signed_in.entry(name.to_owned()).or_insert(browser))
    }

    async fn who(&mut self, name: &str) -> Result<&mut Browser, Miss> {
        if !self.signed_in.contains_key(name) {
            let browser = match self.story.people.get(name) {
                Some(person) => return self.enter(name, &person.clone()).await,
                None if name == "nobody" => Browser::stranger(&self.site)?,
                None if name.is_empty() => miss!("it has neither `groups` nor `as`"),
                None => miss!("nobody of `people` is called {name}"),
            };
            self.signed_in.insert(name.to_owned(), browser);
        }
        self.signed_in.get_mut(name).ok_or_else(|| Miss::Failed(format!("{name} is not signed in")))
    }

    async fn take(&mut self, step: &Step) -> Result<(), Miss> {
        must!(self.alone || (step.change.is_none() && step.kill.is_none()), "`change` and `kill` need `story_alone`");
        if let Some(change) = &step.change {
            self.change(step, change).await?;
        }
        if let Some(service) = &step.kill {
            self.kill(service).await?;
        }
        if let Some(job) = &step.job {
            self.run(job).await?;
        }
        if let Some(call) = &step.call {
            let call = self.fill(call)?;
            let answer = self.ask(step, &call).await?;
            self.judge(step, &call, &answer)?;
        }
        if let Some(sql) = &step.sql {
            self.look(step, sql).await?;
        }
        if let Some(sql) = &step.telemetry {
            let sql = self.fill(sql)?;
            let rows = self.site.query(&sql).await?;
            let found = rows.iter().map(|row| row.iter().map(plain).collect()).collect();
            self.compare(step, &sql, found)?;
        }
        Ok(())
    }

    /// Lays TOML on the manifest; what is refused leaves all as it was.
    async fn change(&mut self, step: &Step, change: &str) -> Result<(), Miss> {
        let change = self.fill(change)?;
        self.changed = true;
        let changed = self.lab.changed(self.on, &change).await;
        match (&step.refused, changed) {
            (None, changed) => self.site = changed?,
            (Some(text), Err(Miss::Failed(why))) => {
                let text = self.fill(text)?;
                must!(why.contains(&text), "it is refused, but not with `{text}`: {why}");
                let line = why.lines().find(|line| line.contains(&text)).unwrap_or_default();
                self.seen.push(format!("`{change}` is refused: {}", line.trim()));
                return Ok(());
            }
            (Some(_), Err(other)) => return Err(other),
            (Some(text), Ok(_)) => miss!("`{change}` is not refused with `{text}`"),
        }
        self.seen.push(format!("with `{}`", change.trim().replace('\n', "; ")));
        Ok(())
    }

    async fn kill(&mut self, service: &str) -> Result<(), Miss> {
        // Each copy: its shim comes first, then the program.
        self.site = self.lab.restore(self.on).await?;
        let copies = self.site.status.resources.iter();
        let copies = copies.filter(|r| r.name == service || r.name.starts_with(&format!("{service}+")));
        let pids: Vec<u32> = copies.filter_map(|r| r.pids.get(1).copied()).collect();
        must!(!pids.is_empty(), "{service} does not run");
        for pid in &pids {
            kill(*pid)?;
        }
        self.seen.push(format!("{} process(es) of {service} ended", pids.len()));
        Ok(())
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
            let (headers, digest) = Default::default();
            return Ok(Answer { status: *status, text: text.clone(), headers, digest });
        }
        let person = self.who(step.r#as.as_deref().unwrap_or_default()).await?;
        let page = person.send_with(method, path, kind, body, &headers).await?;
        Ok(Answer { status: page.status, text: page.text, headers: page.headers, digest: page.digest })
    }

    fn judge(&mut self, step: &Step, call: &str, answer: &Answer) -> Result<(), Miss> {
        let begin: String = answer.text.chars().take(300).collect();
        let status = step.status.unwrap_or(200);
        must!(answer.status == status, "{call} answers {}, not {status}: {begin}", answer.status);
        self.seen.push(format!("{call}: {}", answer.status));
        if let Some(text) = &step.text {
            let text = self.fill(text)?;
            must!(answer.text.contains(&text), "the answer does not say `{text}`: {begin}");
        }
        if let Some(text) = &step.without {
            let text = self.fill(text)?;
            must!(!answer.text.contains(&text), "the answer says `{text}`");
        }
        for (name, texts) in &step.says {
            let found = answer.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
            for text in texts {
                let text = self.fill(text)?;
                must!(found.contains(&text), "the header {name} is `{found}`, without `{text}`");
            }
        }
        if let Some(digest) = &step.digest {
            let digest = self.fill(digest)?;
            must!(answer.digest == digest, "the answer has the digest {}, not {digest}", answer.digest);
        }
        for (name, field) in &step.field {
            self.kept.insert(name.clone(), crate::browser::field(&answer.text, field)?);
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
        match (saw.into_iter().next(), &step.refused) {
            (Some(Saw::Sql(mut found)), None) => self.compare(step, &sql, found.remove(0)),
            (Some(Saw::Failed(why)), Some(text)) => {
                let text = self.fill(text)?;
                must!(why.contains(&text), "{sql} is refused, but not with `{text}`: {why}");
                self.seen.push(format!("refused: {why}"));
                Ok(())
            }
            (saw, None) => miss!("{sql}: {saw:?}"),
            (saw, Some(text)) => miss!("{sql} is not refused with `{text}`: {saw:?}"),
        }
    }

    fn compare(&mut self, step: &Step, asked: &str, found: Vec<Vec<String>>) -> Result<(), Miss> {
        let mut expected = step.rows.clone().unwrap_or_default();
        for value in expected.iter_mut().flatten() {
            *value = self.fill(value)?;
        }
        must!(found == expected, "{asked} gives {found:?}, not {expected:?}");
        self.seen.push(format!("{} row(s) past the application: {found:?}", found.len()));
        Ok(())
    }

    async fn run(&mut self, job: &str) -> Result<(), Miss> {
        let api::supervisor::StampRef { system, stamp } = self.site.of();
        let ask = JobRequest { system: system.clone(), stamp: stamp.clone(), name: job.into() };
        let begun: JobRun = self.site.supervisor.post("/job/run", &ask).await?;
        let path = format!("/jobs?system={system}&stamp={stamp}&name={job}");
        let ended = async || {
            let jobs: Vec<JobStatus> = self.site.supervisor.get(&path).await?;
            let run = jobs.into_iter().flat_map(|j| j.runs).find(|run| run.number == begun.number);
            run.filter(JobRun::is_over).ok_or_else(|| Miss::Failed(format!("{job} still runs")))
        };
        let run = until_in("a job's end", Duration::from_secs(60), ended).await?;
        must!(run.outcome == "done", "{job}: {} {}", run.outcome, run.note);
        self.seen.push(format!("{job} ran and succeeded"));
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn fault(step: &str) -> Option<&'static str> {
        toml_edit::de::from_str::<Step>(step).unwrap().fault()
    }

    #[test]
    fn a_step_that_judges_nothing_is_no_step() {
        assert_eq!(fault("call = 'GET /'\ntext = 'Hello'"), None);
        assert_eq!(fault("sql = 'SELECT 1'\nrows = [['1']]"), None);
        assert_eq!(fault("change = 'a = 1'\nrefused = 'a'"), None);
        for step in ["", "text = 'Hello'", "sql = 'SELECT 1'\nhas = { '/a' = 'b' }", "call = 'GET /'\nrows = [['1']]"] {
            assert!(fault(step).is_some(), "{step}");
        }
        assert!(fault("call = 'GET /'\nrefused = 'no'").is_some());
    }
}
