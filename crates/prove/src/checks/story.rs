//! `story(NAME)`: what only an application can show, as steps in a file of the system (`checks/NAME.toml`): API calls as
//! somebody who signed in, calls from the place of a service, jobs, rows that are read past the application, and what the
//! telemetry and the audit record say of it. `story_alone(NAME)` may also change secrets and end services (`act`).

mod act;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use api::job::{JobRequest, JobRun, JobStatus};
use serde::Deserialize;

use crate::{
    Error, Lab, Miss, Seen, Site,
    browser::Browser,
    claim::Call,
    inside::{Ask, Saw},
    miss, must,
    script::{filled, plain},
    site::until_in,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Story {
    /// Another story that is told first: what it kept, and its people, are there afterwards.
    begins: Option<String>,
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
    /// Where signing in leads to, if not to the first page there.
    home: Option<String>,
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
    /// Text that must be in a header of the answer, as `name: value`.
    head: Option<String>,
    /// Names for values of the answer, by pointer; of a page, by the name of a form's hidden field.
    #[serde(default)]
    keep: BTreeMap<String, String>,
    #[serde(default)]
    field: BTreeMap<String, String>,
    /// Called, or asked, again for so many seconds until all of it holds.
    until: Option<u64>,
    /// A job to run now; it must succeed.
    job: Option<String>,
    /// A file of the system, such as `docs/rules.md`: its text is the answer.
    file: Option<String>,
    /// A statement past the application, and its rows as text; by this service and variable, if not by the story's.
    sql: Option<String>,
    rows: Option<Vec<Vec<String>>>,
    /// The statement must be refused, and the refusal say this.
    refused: Option<String>,
    /// A question to the telemetry, and its `rows`.
    query: Option<String>,
    /// What the audit record must have.
    record: Option<Recorded>,
    /// Names for values of secrets that are none to an application's users, such as a client's id: `vault.main/NAME`.
    #[serde(default)]
    show: BTreeMap<String, String>,
    /// What only a story that runs alone may do.
    act: Option<act::Act>,
    /// `NAME METHOD /path`: the newest such request that the stand-in of this name has heard is the answer.
    heard: Option<String>,
    service: Option<String>,
    variable: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recorded {
    actor: String,
    action: String,
    /// What the object ends with.
    object: String,
    outcome: api::audit::Outcome,
}

/// An answer, from wherever it was asked.
struct Answer {
    status: u16,
    head: String,
    text: String,
}

struct Teller<'a> {
    lab: &'a Lab,
    site: &'a Site,
    story: &'a Story,
    hands: act::Hands,
    signed_in: BTreeMap<String, Browser>,
    kept: BTreeMap<String, String>,
    seen: Vec<String>,
}

pub async fn tell(lab: &Lab, on: &str, call: &Call) -> Seen {
    let name = call.argument(0, "");
    let story = read(lab, name)?;
    let alone = call.name == "story_alone";
    must!(alone || story.step.iter().all(|step| step.act.is_none()), "checks/{name}.toml acts: it is a `story_alone`");
    let site = lab.site(on).await?;
    let mut teller = Teller {
        lab,
        site: &site,
        story: &story,
        hands: act::Hands::default(),
        signed_in: BTreeMap::new(),
        kept: known(&site),
        seen: Vec::new(),
    };
    let told = teller.steps().await;
    // Whatever was seen: the next check finds the stamp as it was.
    let back = teller.hands.put_back(&site).await;
    if alone {
        lab.restore(on).await?;
    }
    told?;
    back?;
    Ok(teller.seen.join("; "))
}

/// A story, with what it begins with.
fn read(lab: &Lab, name: &str) -> Result<Story, Miss> {
    let file = format!("checks/{name}.toml");
    let text = lab.file(&file)?;
    let mut story: Story =
        toml_edit::de::from_str(&text).map_err(|e| Error::File { file: file.clone(), what: e.to_string() })?;
    if let Some(begins) = story.begins.take() {
        let mut first = read(lab, &begins)?;
        first.step.append(&mut story.step);
        story.step = first.step;
        first.people.append(&mut story.people);
        story.people = first.people;
    }
    Ok(story)
}

/// What a story can name from its beginning: `{unique}` and `{lower}` differ in each telling, so that one does not meet what
/// another left; `{stamp}`; and the address of each resource, such as `{url_blob_main}`.
fn known(site: &Site) -> BTreeMap<String, String> {
    let unique = uuid::Uuid::new_v4().simple().to_string()[..8].to_uppercase();
    let mut kept = BTreeMap::from([
        ("lower".to_owned(), unique.to_lowercase()),
        ("unique".to_owned(), unique),
        ("stamp".to_owned(), site.stamp.clone()),
    ]);
    for name in site.places.keys() {
        if let Ok(url) = site.url(name) {
            kept.insert(format!("url_{}", name.replace(['.', '-', '+'], "_")), url.trim_end_matches('/').to_owned());
        }
    }
    kept
}

impl Teller<'_> {
    async fn steps(&mut self) -> Result<(), Miss> {
        let story = self.story;
        if let Some(groups) = &story.groups {
            let person = Person { groups: groups.clone(), at: String::new(), home: None };
            let email = self.enter("", &person).await?.email.clone();
            self.kept.insert("email".to_owned(), email);
        }
        for (number, step) in story.step.iter().enumerate() {
            let begun = Instant::now();
            let limit = Duration::from_secs(step.until.unwrap_or(0));
            let told = self.seen.len();
            let mut pause = Duration::from_millis(20);
            loop {
                self.kept.insert("now".to_owned(), jiff::Timestamp::now().as_second().to_string());
                match self.take(step).await {
                    Ok(()) => break,
                    Err(Miss::Failed(what)) if begun.elapsed() >= limit => miss!("step {}: {what}", number + 1),
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
        let mut browser = self.site.person(&groups).await?;
        browser.part.clone_from(&person.at);
        browser.home.clone_from(&person.home);
        browser.sign_in().await?;
        Ok(self.signed_in.entry(name.to_owned()).or_insert(browser))
    }

    async fn who(&mut self, name: &str) -> Result<&mut Browser, Miss> {
        if !self.signed_in.contains_key(name) {
            let browser = match self.story.people.get(name) {
                Some(person) => return self.enter(name, &person.clone()).await,
                None if name == "nobody" => Browser::stranger(self.site)?,
                None if name.is_empty() => miss!("it has neither `groups` nor `as`"),
                None => miss!("nobody of `people` is called {name}"),
            };
            self.signed_in.insert(name.to_owned(), browser);
        }
        self.signed_in.get_mut(name).ok_or_else(|| Miss::Failed(format!("{name} is not signed in")))
    }

    async fn take(&mut self, step: &Step) -> Result<(), Miss> {
        for (name, secret) in &step.show {
            let value = act::value_of(self.site, secret).await?;
            self.kept.insert(name.clone(), value);
        }
        if let Some(act) = &step.act {
            self.act(act).await?;
        }
        if let Some(heard) = &step.heard {
            let answer = self.hands.heard(&self.fill(heard)?)?;
            self.judge(step, heard, &answer)?;
        }
        if let Some(file) = &step.file {
            let answer = Answer { status: 200, head: String::new(), text: self.lab.file(file)? };
            self.judge(step, file, &answer)?;
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
        if let Some(query) = &step.query {
            let query = self.fill(query)?;
            let found = self.site.query(&query).await?;
            let found: Vec<Vec<String>> = found.iter().map(|row| row.iter().map(plain).collect()).collect();
            self.compare(step, &query, &found)?;
            self.seen.push(format!("the telemetry says {found:?}"));
        }
        if let Some(wanted) = &step.record {
            let (actor, object) = (self.fill(&wanted.actor)?, self.fill(&wanted.object)?);
            let events = self.site.audited(&actor).await?;
            let of = |e: &&api::audit::Event| {
                e.action == wanted.action && e.object.ends_with(&object) && e.outcome == wanted.outcome
            };
            let Some(event) = events.iter().find(of) else {
                miss!("no {} of {object} among {} records of {actor}", wanted.action, events.len())
            };
            self.seen.push(format!("recorded: {} {} {} {:?}", event.actor, event.action, event.object, event.outcome));
        }
        Ok(())
    }

    async fn act(&mut self, act: &act::Act) -> Result<(), Miss> {
        if let Some(name) = &act.listen {
            let url = self.hands.listen(name).await?;
            self.kept.insert(name.clone(), url);
        }
        if let Some(secret) = &act.set {
            let value = act.value.as_deref().map(|value| self.fill(value)).transpose()?;
            self.hands.set(self.site, secret, value).await?;
        }
        if let Some(secret) = &act.delete {
            self.hands.delete(self.site, secret).await?;
        }
        for service in &act.restart {
            let note = self.hands.restart(self.site, service, act.note.as_deref()).await?;
            self.seen.push(note);
        }
        if let Some(name) = &act.turned_away {
            let Some(person) = self.story.people.get(name) else { miss!("nobody of `people` is called {name}") };
            let got_in = self.enter(name, &person.clone()).await.map(drop);
            match got_in {
                Err(Miss::Failed(why)) => self.seen.push(format!("{name} is turned away: {why}")),
                Err(other) => return Err(other),
                Ok(_) => miss!("{name} signs in"),
            }
        }
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
            return Ok(Answer { status: *status, head: String::new(), text: text.clone() });
        }
        let person = self.who(step.r#as.as_deref().unwrap_or_default()).await?;
        let page = person.send_with(method, path, kind, body, &headers).await?;
        let line = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
            format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
        };
        let head = page.headers.iter().map(line).collect::<Vec<_>>().join("\n");
        Ok(Answer { status: page.status, head, text: page.text })
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
        if let Some(text) = &step.head {
            let text = self.fill(text)?;
            must!(answer.head.contains(&text), "the answer's head does not say `{text}`: {}", answer.head);
        }
        if let Some(text) = &step.without {
            let text = self.fill(text)?;
            must!(!answer.text.contains(&text), "the answer says `{text}`");
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
        let variable = self.fill(variable.as_deref().unwrap_or_default())?;
        let ask = Ask::Sql { variable, statements: vec![sql.clone()] };
        let saw = self.site.inside(service, &[ask]).await?;
        if let Some(refused) = &step.refused {
            let Some(Saw::Failed(why)) = saw.first() else { miss!("{sql} is not refused: {saw:?}") };
            must!(why.contains(&self.fill(refused)?), "{sql} is refused, but with: {why}");
            self.seen.push(format!("refused: {why}"));
            return Ok(());
        }
        let Some(Saw::Sql(found)) = saw.first() else { miss!("{sql}: {saw:?}") };
        self.compare(step, &sql, &found[0])?;
        self.seen.push(format!("{} row(s) past the application: {:?}", found[0].len(), found[0]));
        Ok(())
    }

    /// Whether these are the rows that the step wants.
    fn compare(&self, step: &Step, asked: &str, found: &[Vec<String>]) -> Result<(), Miss> {
        let mut expected = step.rows.clone().unwrap_or_default();
        for value in expected.iter_mut().flatten() {
            *value = self.fill(value)?;
        }
        must!(*found == expected, "{asked} gives {found:?}, not {expected:?}");
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
