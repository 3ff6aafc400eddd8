//! An integration engine that sends its formulary by MLLP to whoever connects, and waits for each acknowledgement.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use sdk::Settings;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::Line;
use crate::hl7::{self, Medicine, Message};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The formulary that is sent: a built-in one, or a file that may change while this runs.
pub struct Engine {
    file: Option<std::path::PathBuf>,
}

impl Engine {
    /// By `file` or `STAND_IN_FORMULARY`: a file with a medicine a line, `CODE|NAME|STRENGTH|FORM|active` or `...|withdrawn`.
    ///
    /// # Errors
    /// The variable is unusable.
    pub fn from_settings(file: Option<&str>, settings: &Settings) -> Result<Engine> {
        let file = file.or(settings.optional("STAND_IN_FORMULARY")?);
        Ok(Engine { file: file.map(Into::into) })
    }

    /// What is in force, and since when.
    fn read(&self) -> Result<(Vec<Medicine>, Option<SystemTime>)> {
        let Some(file) = &self.file else { return Ok((parse(include_str!("formulary.txt"))?, None)) };
        let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
        Ok((parse(&text)?, file.metadata()?.modified().ok()))
    }
}

fn parse(text: &str) -> Result<Vec<Medicine>> {
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|line| {
            let parts: Vec<&str> = line.split('|').collect();
            let [code, name, strength, form, state] = parts[..] else { anyhow::bail!("`{line}` has not five parts") };
            let (code, name) = (code.to_owned(), name.to_owned());
            Ok(Medicine { code, name, strength: strength.to_owned(), form: form.to_owned(), active: state == "active" })
        })
        .collect()
}

/// Serves until the process ends.
///
/// # Errors
/// The listener cannot be used.
pub async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, engine: Arc<Engine>) -> Result<()> {
    super::accept(listener, tls, move |line| session(line, engine.clone())).await
}

async fn session(mut line: Box<dyn Line>, engine: Arc<Engine>) -> Result<()> {
    let mut sent: Option<Option<SystemTime>> = None;
    let mut number = 0_u32;
    loop {
        let (medicines, changed) = engine.read()?;
        if sent != Some(changed) {
            // Some at a time, so that a message stays small.
            for some in medicines.chunks(50) {
                number += 1;
                let at = jiff::Timestamp::now().strftime("%Y%m%d%H%M%S").to_string();
                let control = format!("R{at}{number}");
                line.write_all(&hl7::framed(&hl7::feed(&control, &at, "MUP", some))).await?;
                let answer = acknowledged(&mut line, &control).await?;
                tracing::info!(control, answer, medicines = some.len(), "sent");
            }
            sent = Some(changed);
        }
        // The other end may go at any time: what it sends outside of an acknowledgement is its end.
        let mut byte = [0];
        if let Ok(read) = tokio::time::timeout(LOOK, line.read(&mut byte)).await {
            ensure!(read? == 0, "something came that is no acknowledgement");
            return Ok(());
        }
    }
}

async fn acknowledged(line: &mut Box<dyn Line>, control: &str) -> Result<String> {
    let mut buffer = Vec::new();
    loop {
        if let Some((bytes, _)) = hl7::frame(&buffer).map_err(anyhow::Error::msg)? {
            let message = Message::parse(&bytes).map_err(anyhow::Error::msg)?;
            let answer = message.segments("MSA").next().context("an acknowledgement has an MSA")?;
            ensure!(hl7::field(answer, 2) == control, "the acknowledgement is of another message");
            return Ok(hl7::field(answer, 1));
        }
        let mut chunk = [0; 4096];
        let read = tokio::time::timeout(Duration::from_secs(30), line.read(&mut chunk)).await??;
        ensure!(read > 0, "no acknowledgement");
        buffer.extend_from_slice(&chunk[..read]);
    }
}
