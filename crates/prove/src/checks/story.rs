//! `story(NAME)`: what only an application can show, as steps in a file of the system (`checks/NAME.toml`): API calls as
//! somebody who signed in, calls from the place of a service, jobs, and what is seen past the application ([`past`]).
//! `story_alone(NAME)` is the same for what changes what others meet: parts are changed and ended, a provider fails ([`act`]).

mod act;
mod past;

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
    /// Where signing in leads to, if not to the first page there.
    home: Option<String>,
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
    /// Numbers that stand in the answer after these texts: kept under a name, or greater than what is kept under it.
    #[serde(default)]
    count: BTreeMap<String, String>,
    #[serde(default)]
    more: BTreeMap<String, String>,
    /// Called, or asked, again for so many seconds until all of it holds.
    until: Option<u64>,
    /// Done so often; `{time}` counts from 01.
    times: Option<u32>,
    /// A job to run now; it must succeed.
    job: Option<String>,
    /// Text of the refusal with which the statement, or the change, must be answered.
    refused: Option<String>,
    #[serde(flatten)]
    past: past::Past,
    #[serde(flatten)]
    act: act::Act,
}

impl Step {
    /// A step that judges what it did not ask for would hold whatever happens.
    fn fault(&self) -> Option<&'static str> {
        let answers = self.call.is_some() || self.past.answers();
        let from = self.from.is_some() && self.past.opens().is_none();
        let of_call = self.r#as.is_some() || from || self.body.is_some() || self.digest.is_some();
        let of_answer = self.status.is_some()
            || self.text.is_some()
            || self.without.is_some()
            || !(self.has.is_empty() && self.says.is_empty() && self.keep.is_empty() && self.field.is_empty())
            || !(self.count.is_empty() && self.more.is_empty());
        match () {
            () if !(answers || self.past.looks() || self.job.is_some() || self.act.acts()) => Some("it does nothing"),
            () if of_call && self.call.is_none() => Some("it is about a call and makes none"),
            () if of_answer && !answers => Some("it judges an answer and gets none"),
            () if self.past.rows.iter().flatten().any(|row| row.iter().all(|cell| cell == "*")) => {
                Some("a row of `*` alone judges nothing")
            }
            () if self.past.rows.is_some() && !self.past.gives_rows() => Some("it has `rows` and asks for none"),
            () if self.refused.is_some() && self.past.sql.is_none() && self.act.change.is_none() => {
                Some("`refused` is of a statement or a change")
            }
            () => self.act.fault(),
        }
    }
}

/// An answer, from wherever it was asked.
#[derive(Default)]
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
    done: act::Done,
    signed_in: BTreeMap<String, Browser>,
    /// Who will try to sign in and must not.
    invited: BTreeMap<String, Browser>,
    kept: BTreeMap<String, String>,
    seen: Vec<String>,
}

pub async fn tell(lab: &Lab, on: &str, call: &Call) -> Seen {
    told(lab, on, call.argument(0, ""), &mut BTreeMap::new(), false).await
}

/// As [`tell`], with what another story kept; what this one keeps is added.
pub async fn go_on(lab: &Lab, on: &str, name: &str, kept: &mut BTreeMap<String, String>) -> Seen {
    told(lab, on, name, kept, false).await
}

pub async fn tell_alone(lab: &Lab, on: &str, call: &Call) -> Seen {
    told(lab, on, call.argument(0, ""), &mut BTreeMap::new(), true).await
}

async fn told(lab: &Lab, on: &str, name: &str, kept: &mut BTreeMap<String, String>, alone: bool) -> Seen {
    let story = read(lab, name)?;
    must!(!story.step.is_empty(), "checks/{name}.toml tells nothing");
    for (number, step) in story.step.iter().chain(&story.finally).enumerate() {
        if let Some(what) = step.fault() {
            miss!("checks/{name}.toml, step {}: {what}", number + 1);
        }
        must!(alone || !step.act.acts(), "checks/{name}.toml, step {}: only a `story_alone` does that", number + 1);
    }
    let site = lab.site(on).await?;
    let mut names = known(&site);
    names.append(kept);
    let (signed_in, invited, done) = (BTreeMap::new(), BTreeMap::new(), act::Done::default());
    let mut teller = Teller { lab, on, site, story: &story, done, signed_in, invited, kept: names, seen: Vec::new() };
    let told = teller.whole().await;
    let put_back = teller.all(&story.finally, "final step").await;
    // Whatever was seen: the next check finds the stamp as it was.
    let undone = teller.undo().await;
    *kept = teller.kept;
    told?;
    put_back?;
    undone?;
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
/// another left; `{stamp}`; `{scratch}`, a folder that every workload may read; the address of each resource, such as
/// `{url_blob_main}`; and where the files of each share lie, such as `{share_media}`.
fn known(site: &Site) -> BTreeMap<String, String> {
    let unique = uuid::Uuid::new_v4().simple().to_string()[..8].to_uppercase();
    let mut kept = BTreeMap::from([
        ("lower".to_owned(), unique.to_lowercase()),
        ("unique".to_owned(), unique),
        ("stamp".to_owned(), site.stamp.clone()),
        ("scratch".to_owned(), site.scratch.display().to_string()),
    ]);
    for (name, place) in &site.places {
        if let Some(share) = name.strip_prefix("share.") {
            kept.insert(format!("share_{}", share.replace('-', "_")), place.join("data").display().to_string());
        }
        if let Ok(url) = site.url(name) {
            kept.insert(format!("url_{}", name.replace(['.', '-', '+'], "_")), url.trim_end_matches('/').to_owned());
        }
    }
    kept
}

impl Teller<'_> {
    async fn whole(&mut self) -> Result<(), Miss> {
        let story = self.story;
        if let Some(groups) = &story.groups {
            let person = Person { groups: groups.clone(), at: String::new(), home: None };
            let email = self.enter("", &person).await?.email.clone();
            self.kept.insert("email".to_owned(), email);
        }
        // Before anything is broken: that an invitation fails would say nothing of the sign-in.
        for name in story.step.iter().filter_map(|step| step.act.turned_away.as_ref()) {
            let Some(person) = story.people.get(name) else { miss!("nobody of `people` is called {name}") };
            let invited = self.invite(person).await?;
            self.invited.insert(name.clone(), invited);
        }
        self.all(&story.step, "step").await
    }

    async fn all(&mut self, steps: &[Step], word: &str) -> Result<(), Miss> {
        for (number, step) in steps.iter().enumerate() {
            let (told, times) = (self.seen.len(), step.times.unwrap_or(1));
            for time in 1..=times {
                self.seen.truncate(told);
                self.kept.insert("time".to_owned(), format!("{time:02}"));
                self.one(step, &format!("{word} {}", number + 1)).await?;
            }
            if times > 1 {
                self.seen.push(format!("{times} times the same"));
            }
        }
        Ok(())
    }

    /// A step, again and again as long as it may take.
    async fn one(&mut self, step: &Step, name: &str) -> Result<(), Miss> {
        let begun = Instant::now();
        let limit = Duration::from_secs(step.until.unwrap_or(0));
        let told = self.seen.len();
        let mut pause = Duration::from_millis(20);
        loop {
            self.kept.insert("now".to_owned(), jiff::Timestamp::now().as_second().to_string());
            match self.take(step).await {
                Ok(()) => return Ok(()),
                Err(Miss::Failed(what)) if begun.elapsed() >= limit => miss!("{name}: {what}"),
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

    /// Somebody new, who has a password and has not signed in.
    async fn invite(&self, person: &Person) -> Result<Browser, Miss> {
        let groups: Vec<&str> = person.groups.iter().map(String::as_str).collect();
        let mut browser = self.site.person(&groups).await?;
        browser.part.clone_from(&person.at);
        browser.home.clone_from(&person.home);
        Ok(browser)
    }

    async fn enter(&mut self, name: &str, person: &Person) -> Result<&mut Browser, Miss> {
        let mut browser = self.invite(person).await?;
        browser.sign_in().await?;
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
        if let Some(job) = &step.job {
            let run = run_job(&self.site, job).await?;
            self.seen.push(format!("{job} ran as number {} and succeeded", run.number));
        }
        // What a call is about may be known only by asking for it.
        self.show(step).await?;
        if let Some(call) = &step.call {
            let call = self.fill(call)?;
            let answer = self.ask(step, &call).await?;
            self.judge(step, &call, &answer)?;
        }
        self.look(step).await
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
        let number = |after: &str| {
            let rest = answer.text.split_once(after).map(|(_, rest)| rest).unwrap_or_default();
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u64>().map_err(|_| Miss::Failed(format!("no number after `{after}`: {begin}")))
        };
        for (name, after) in &step.count {
            self.kept.insert(name.clone(), number(after)?.to_string());
        }
        for (name, after) in &step.more {
            let (now, before) = (number(after)?, self.fill(&format!("{{{name}}}"))?);
            must!(before.parse().is_ok_and(|before: u64| now > before), "`{after}` is {now} and was {before}");
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
}

/// Runs a job now, to its end; it must succeed.
pub(super) async fn run_job(site: &Site, job: &str) -> Result<JobRun, Miss> {
    let api::supervisor::StampRef { system, stamp } = site.of();
    let ask = JobRequest { system: system.clone(), stamp: stamp.clone(), name: job.into() };
    let begun: JobRun = site.supervisor.post("/job/run", &ask).await?;
    let path = format!("/jobs?system={system}&stamp={stamp}&name={job}");
    let ended = async || {
        let jobs: Vec<JobStatus> = site.supervisor.get(&path).await?;
        let run = jobs.into_iter().flat_map(|j| j.runs).find(|run| run.number == begun.number);
        run.filter(JobRun::is_over).ok_or_else(|| Miss::Failed(format!("{job} still runs")))
    };
    let run = until_in("a job's end", Duration::from_secs(60), ended).await?;
    must!(run.outcome == "done", "{job}: {} {}", run.outcome, run.note);
    Ok(run)
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
        assert_eq!(fault("sql = 'SELECT 1'\nrows = [['t', '*']]"), None);
        assert!(fault("sql = 'SELECT 1'\nrows = [['t'], ['*', '*']]").is_some());
        assert!(fault("call = 'GET /'\nrefused = 'no'").is_some());
        assert!(fault("set = 'vault.main/A'\nnote = 'A'").is_some());
        assert!(fault("call = 'GET /'\nvalue = 'b'").is_some());
    }

    #[test]
    fn a_word_that_no_step_knows_is_refused() {
        let step = toml_edit::de::from_str::<Step>("call = 'GET /'\nstatsu = 200").err().unwrap();
        assert!(step.to_string().contains("statsu"), "{step}");
    }
}
