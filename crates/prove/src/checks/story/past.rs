//! What a story sees past the application: rows of its database, the telemetry, the audit record, what a stand-in heard, texts of
//! the system's folder.

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
        self.heard.is_some() || self.document.is_some()
    }

    pub fn gives_rows(&self) -> bool {
        self.sql.is_some() || self.telemetry.is_some()
    }

    pub fn looks(&self) -> bool {
        self.gives_rows() || self.record.is_some() || !self.show.is_empty()
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

    /// What was found past the application against the rows that the step names.
    fn compare(&mut self, step: &Step, asked: &str, found: Vec<Vec<String>>) -> Result<(), Miss> {
        let mut expected = step.past.rows.clone().unwrap_or_default();
        for value in expected.iter_mut().flatten() {
            *value = self.fill(value)?;
        }
        must!(found == expected, "{asked} gives {found:?}, not {expected:?}");
        self.seen.push(format!("{} row(s) past the application: {found:?}", found.len()));
        Ok(())
    }
}
