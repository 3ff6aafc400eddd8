//! What a story sees past the application: rows of its database, the cache, files of shares, the telemetry, the audit record, what a
//! stand-in heard, texts of the system's folder.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Answer, Step, Teller, act};
use crate::{
    Miss,
    inside::{Ask, Saw},
    miss, must,
    script::plain,
};

#[derive(Default, Deserialize)]
pub(super) struct Past {
    /// A statement, and its rows as text; by this service and variable, if not by the story's.
    pub sql: Option<String>,
    /// A cell `*` may be anything: it is told, and judged in another cell.
    pub rows: Option<Vec<Vec<String>>>,
    service: Option<String>,
    variable: Option<String>,
    /// A question to the telemetry; its rows are compared with `rows` as well.
    telemetry: Option<String>,
    /// What the audit record must have.
    record: Option<Recorded>,
    /// `NAME METHOD /path`: the newest such request that the stand-in of this name has heard is the answer.
    heard: Option<String>,
    /// A file of the system, such as `docs/rules.md`: its text is the answer.
    document: Option<String>,
    /// A file of a resource's place, such as `share.media/data/documents/x.pdf`; a part `*` is the last of its folder by name.
    /// Judged as an answer; the status of one that is not there is 404.
    file: Option<String>,
    /// A command to the Redis of a service; its answer is judged by `rows`, one row a line, or as an answer.
    redis: Option<Vec<String>>,
    /// A path (`$NAME` is a variable of its environment) that the service `from` can open, or cannot; for writing a new file there
    /// with `write_there`.
    open: Option<String>,
    shut: Option<String>,
    #[serde(default)]
    write_there: bool,
    /// Names for values of secrets that are none to an application's users, such as a client's id: `vault.main/NAME`.
    #[serde(default)]
    show: BTreeMap<String, String>,
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

impl Past {
    /// Whether it gets an answer that can be judged.
    pub fn answers(&self) -> bool {
        self.heard.is_some() || self.document.is_some() || self.file.is_some() || self.redis.is_some()
    }

    pub fn gives_rows(&self) -> bool {
        self.sql.is_some() || self.telemetry.is_some() || self.redis.is_some()
    }

    pub fn looks(&self) -> bool {
        self.gives_rows() || self.record.is_some() || self.opens().is_some() || !self.show.is_empty()
    }

    /// The path that is tried, and whether it is to open.
    pub fn opens(&self) -> Option<(&str, bool)> {
        self.open.as_deref().map(|path| (path, true)).or_else(|| self.shut.as_deref().map(|path| (path, false)))
    }
}

impl Teller<'_> {
    pub(super) async fn show(&mut self, step: &Step) -> Result<(), Miss> {
        for (name, secret) in &step.past.show {
            let value = act::value_of(&self.site, secret).await?;
            self.kept.insert(name.clone(), value);
        }
        Ok(())
    }

    pub(super) async fn look(&mut self, step: &Step) -> Result<(), Miss> {
        let past = &step.past;
        if let Some(heard) = &past.heard {
            let answer = self.done.heard(&self.fill(heard)?)?;
            self.judge(step, heard, &answer)?;
        }
        if let Some(file) = &past.document {
            let answer = Answer { status: 200, text: self.lab.file(file)?, ..Answer::default() };
            self.judge(step, file, &answer)?;
        }
        if let Some(file) = &past.file {
            let file = self.fill(file)?;
            let answer = self.read(&file)?;
            self.judge(step, &file, &answer)?;
        }
        if let Some(words) = &past.redis {
            self.ask_redis(step, words).await?;
        }
        if let Some((path, opens)) = past.opens() {
            let Some(service) = &step.from else { miss!("`open` needs `from`") };
            let ask = Ask::Open { path: self.fill(path)?, write: past.write_there };
            let saw = self.site.inside(service, &[ask]).await?;
            let Some(Saw::Open(opened)) = saw.first() else { miss!("{path}: {saw:?}") };
            must!(opened.is_ok() == opens, "{service} opens {path}: {opened:?}");
            self.seen.push(format!("{service} opens {path}: {opened:?}"));
        }
        if let Some(sql) = &past.sql {
            self.ask_database(step, sql).await?;
        }
        if let Some(sql) = &past.telemetry {
            let sql = self.fill(sql)?;
            let rows = self.site.query(&sql).await?;
            let found = rows.iter().map(|row| row.iter().map(plain).collect()).collect();
            self.compare(step, &sql, found)?;
        }
        if let Some(wanted) = &past.record {
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

    async fn ask_database(&mut self, step: &Step, sql: &str) -> Result<(), Miss> {
        let sql = self.fill(sql)?;
        let Some(service) = step.past.service.as_ref().or(self.story.service.as_ref()) else {
            miss!("`sql` needs a `service`")
        };
        // A step that names its own service names its own variable too, or signs in by identity.
        let variable = if step.past.service.is_some() { &step.past.variable } else { &self.story.variable };
        let variable = self.fill(variable.as_deref().unwrap_or_default())?;
        let ask = Ask::Sql { variable, statements: vec![sql.clone()] };
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

    fn read(&self, file: &str) -> Result<Answer, Miss> {
        let mut parts = file.split('/');
        let resource = parts.next().unwrap_or_default();
        let place = self.site.places.get(resource);
        let mut path = place.ok_or_else(|| Miss::Failed(format!("there is no {resource}")))?.clone();
        let missing = Answer { status: 404, ..Answer::default() };
        for part in parts {
            if part != "*" {
                path.push(part);
                continue;
            }
            let mut names: Vec<_> =
                std::fs::read_dir(&path).into_iter().flatten().flatten().map(|e| e.path()).collect();
            // Beside sets that are named by their time lies a folder of what they share.
            names.retain(|name| name.file_name().is_some_and(|n| n.as_encoded_bytes()[0].is_ascii_digit()));
            let Some(last) = names.into_iter().max() else { return Ok(missing) };
            path = last;
        }
        match std::fs::read(&path) {
            Ok(bytes) => {
                Ok(Answer { status: 200, text: String::from_utf8_lossy(&bytes).into_owned(), ..Answer::default() })
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(missing),
            Err(error) => Err(error.into()),
        }
    }

    async fn ask_redis(&mut self, step: &Step, words: &[String]) -> Result<(), Miss> {
        let command = words.iter().map(|word| self.fill(word)).collect::<Result<Vec<_>, _>>()?;
        let Some(service) = step.past.service.as_ref().or(self.story.service.as_ref()) else {
            miss!("`redis` needs a `service`")
        };
        let variable = step.past.variable.clone().unwrap_or_else(|| "REDIS_URL".into());
        let saw = self.site.inside(service, &[Ask::Redis { variable, commands: vec![command.clone()] }]).await?;
        let Some(Saw::Redis(found)) = saw.first() else { miss!("{command:?}: {saw:?}") };
        let (what, text) = (command.join(" "), found.first().cloned().unwrap_or_default());
        if step.past.rows.is_some() {
            let rows = text.lines().map(|line| vec![line.to_owned()]).collect();
            return self.compare(step, &what, rows);
        }
        self.judge(step, &what, &Answer { status: 200, text, ..Answer::default() })
    }

    /// What was found past the application against the rows that the step names.
    fn compare(&mut self, step: &Step, asked: &str, found: Vec<Vec<String>>) -> Result<(), Miss> {
        let mut expected = step.past.rows.clone().unwrap_or_default();
        for (row, found) in expected.iter_mut().zip(&found) {
            for (value, found) in row.iter_mut().zip(found) {
                // A figure for whoever reads the evidence: it is judged in a cell of its own.
                *value = if value == "*" { found.clone() } else { self.fill(value)? };
            }
        }
        must!(found == expected, "{asked} gives {found:?}, not {expected:?}");
        self.seen.push(format!("{} row(s) past the application: {found:?}", found.len()));
        Ok(())
    }
}
