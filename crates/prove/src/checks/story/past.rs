//! What a story sees past the application, beside rows of its database: files of shares, the cache, the logs.

use serde::Deserialize;

use super::{Answer, Step, Teller};
use crate::{
    Miss,
    inside::{Ask, Saw},
    miss, must,
};

#[derive(Default, Deserialize)]
pub struct Past {
    /// A file of a resource's place, such as `share.media/data/documents/x.pdf`; a part `*` is the last of its folder by name.
    /// Judged as an answer; the status of one that is not there is 404.
    file: Option<String>,
    /// A command to the Redis of a service; its answer is judged by `rows`, one row a line, or as an answer.
    redis: Option<Vec<String>>,
    /// A question to the telemetry, and its `rows` as text.
    logs: Option<String>,
    /// A path that the service `from` opens (`$NAME` is a variable of its environment); `refused`: that it cannot open.
    open: Option<String>,
    #[serde(default)]
    write_there: bool,
    #[serde(default)]
    refused: bool,
}

impl Teller<'_> {
    pub(super) async fn look_past(&mut self, step: &Step) -> Result<(), Miss> {
        let past = &step.past;
        if let Some(file) = &past.file {
            let file = self.fill(file)?;
            let answer = self.read(&file)?;
            self.judge(step, &file, &answer)?;
        }
        if let Some(words) = &past.redis {
            self.redis(step, words).await?;
        }
        if let Some(sql) = &past.logs {
            let sql = self.fill(sql)?;
            let plain = |value: serde_json::Value| crate::script::plain(&value);
            let rows = self.site.query(&sql).await?;
            let rows: Vec<Vec<String>> = rows.into_iter().map(|row| row.into_iter().map(plain).collect()).collect();
            self.compare(step, &sql, &rows)?;
        }
        if let Some(path) = &past.open {
            let Some(service) = &step.from else { miss!("`open` needs `from`") };
            let ask = Ask::Open { path: self.fill(path)?, write: past.write_there };
            let saw = self.site.inside(service, &[ask]).await?;
            let Some(Saw::Open(opened)) = saw.first() else { miss!("{path}: {saw:?}") };
            must!(opened.is_err() == past.refused, "{service} opens {path}: {opened:?}");
            self.seen.push(format!("{service} opens {path}: {opened:?}"));
        }
        Ok(())
    }

    fn read(&self, file: &str) -> Result<Answer, Miss> {
        let mut parts = file.split('/');
        let resource = parts.next().unwrap_or_default();
        let place = self.site.places.get(resource);
        let mut path = place.ok_or_else(|| Miss::Failed(format!("there is no {resource}")))?.clone();
        for part in parts {
            if part == "*" {
                let mut names: Vec<_> =
                    std::fs::read_dir(&path).into_iter().flatten().flatten().map(|e| e.path()).collect();
                names.sort();
                // Beside sets that are named by their time lies a folder of what they share.
                names.retain(|name| name.file_name().is_some_and(|n| n.as_encoded_bytes()[0].is_ascii_digit()));
                match names.pop() {
                    Some(last) => path = last,
                    None => return Ok(Answer { status: 404, ..Answer::default() }),
                }
            } else {
                path.push(part);
            }
        }
        match std::fs::read(&path) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                Ok(Answer { status: 200, text, ..Answer::default() })
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Ok(Answer { status: 404, ..Answer::default() })
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn redis(&mut self, step: &Step, words: &[String]) -> Result<(), Miss> {
        let mut command = Vec::new();
        for word in words {
            command.push(self.fill(word)?);
        }
        let Some(service) = step.service.as_ref().or(self.story.service.as_ref()) else {
            miss!("`redis` needs a `service`")
        };
        let variable = step.variable.clone().unwrap_or_else(|| "REDIS_URL".into());
        let saw = self.site.inside(service, &[Ask::Redis { variable, commands: vec![command.clone()] }]).await?;
        let Some(Saw::Redis(found)) = saw.first() else { miss!("{command:?}: {saw:?}") };
        let (what, text) = (command.join(" "), found.first().cloned().unwrap_or_default());
        if step.rows.is_some() {
            let rows: Vec<Vec<String>> = text.lines().map(|line| vec![line.to_owned()]).collect();
            return self.compare(step, &what, &rows);
        }
        self.judge(step, &what, &Answer { status: 200, text, ..Answer::default() })
    }
}
