//! A mail server that takes letters by SMTP and keeps them in a folder, and refuses as a real one does when it is told to.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Result, ensure};
use sdk::Settings;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::Line;

/// Bytes of a letter, and of a line.
const LETTER: usize = 1 << 20;
const LINE: u64 = 4096;

/// Where letters go, and which are refused.
pub struct Box_ {
    folder: Option<PathBuf>,
    /// Addresses that begin so are refused for good, or for now.
    bounce: String,
    later: String,
}

impl Box_ {
    /// Reads `STAND_IN_MAIL` (a folder; without it, letters are told in the log alone). `bounce` and `later` before an address's
    /// `@` are refused, unless `STAND_IN_BOUNCE` and `STAND_IN_LATER` say other beginnings.
    ///
    /// # Errors
    /// A variable is unusable.
    pub fn from_settings(settings: &Settings) -> Result<Box_> {
        Ok(Box_ {
            folder: settings.optional("STAND_IN_MAIL")?.map(Into::into),
            bounce: settings.optional("STAND_IN_BOUNCE")?.unwrap_or("bounce").to_owned(),
            later: settings.optional("STAND_IN_LATER")?.unwrap_or("later").to_owned(),
        })
    }
}

/// Serves until the process ends.
///
/// # Errors
/// The listener cannot be used.
pub async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, mails: Arc<Box_>) -> Result<()> {
    super::accept(listener, tls, move |line| session(line, mails.clone())).await
}

async fn session(line: Box<dyn Line>, mails: Arc<Box_>) -> Result<()> {
    let mut line = BufReader::new(line);
    let (mut from, mut to) = (None, Vec::new());
    line.write_all(b"220 stand-in ESMTP, letters end here\r\n").await?;
    loop {
        let mut text = Vec::new();
        if (&mut line).take(LINE).read_until(b'\n', &mut text).await? == 0 {
            return Ok(());
        }
        ensure!(text.ends_with(b"\n"), "a line has more than {LINE} bytes");
        let text = String::from_utf8_lossy(&text).trim_end().to_owned();
        let verb = text.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        let answer = match verb.as_str() {
            "EHLO" => "250-stand-in\r\n250-8BITMIME\r\n250 SIZE 1048576",
            "HELO" | "NOOP" => "250 stand-in",
            "RSET" => {
                (from, to) = (None, Vec::new());
                "250 forgotten"
            }
            "MAIL" => {
                from = Some(address(&text));
                to.clear();
                "250 fine"
            }
            "RCPT" if from.is_none() => "503 who writes",
            "RCPT" => {
                let recipient = address(&text);
                if recipient.starts_with(&mails.bounce) {
                    "550 5.1.1 no such mailbox here"
                } else if recipient.starts_with(&mails.later) {
                    "451 4.3.0 try again later"
                } else {
                    to.push(recipient);
                    "250 fine"
                }
            }
            "DATA" if to.is_empty() => "503 to whom",
            "DATA" => {
                line.write_all(b"354 end with a dot alone\r\n").await?;
                let letter = letter(&mut line).await?;
                keep(&mails, &to, &letter)?;
                tracing::info!(to = to.join(" "), bytes = letter.len(), "a letter");
                (from, to) = (None, Vec::new());
                "250 kept"
            }
            "QUIT" => {
                line.write_all(b"221 goodbye\r\n").await?;
                return Ok(());
            }
            _ => "502 not here",
        };
        line.write_all(format!("{answer}\r\n").as_bytes()).await?;
    }
}

/// What stands between the angle brackets, in lower case.
fn address(text: &str) -> String {
    let inner = text.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or("", |(inner, _)| inner);
    inner.to_lowercase()
}

async fn letter(line: &mut BufReader<Box<dyn Line>>) -> Result<Vec<u8>> {
    let mut letter = Vec::new();
    loop {
        let mut text = Vec::new();
        ensure!((&mut *line).take(LINE).read_until(b'\n', &mut text).await? > 0, "the letter does not end");
        if text == b".\r\n" {
            return Ok(letter);
        }
        // A dot at the begin of a line was doubled (RFC 5321, 4.5.2).
        letter.extend_from_slice(text.strip_prefix(b".").unwrap_or(&text));
        ensure!(letter.len() <= LETTER, "a letter has more than 1 MiB");
    }
}

fn keep(mails: &Box_, to: &[String], letter: &[u8]) -> Result<()> {
    let Some(folder) = &mails.folder else { return Ok(()) };
    std::fs::create_dir_all(folder)?;
    let head = format!("X-Stand-In-To: {}\r\n", to.join(", "));
    let name = format!("{}.eml", uuid::Uuid::now_v7().simple());
    std::fs::write(folder.join(name), [head.as_bytes(), letter].concat())?;
    Ok(())
}
