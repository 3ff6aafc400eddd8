//! The formulary from a site's integration engine: the application connects, takes each message, keeps it, and says so.

use std::{sync::Arc, time::Duration};

use rustls::{ClientConfig, pki_types::ServerName};
use sdk::{
    Settings, SettingsError, Trust, TrustError,
    database::{Database, Queries},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use url::Url;

use crate::{
    fault::Fault,
    hl7::{self, Message},
};

const LIMIT: Duration = Duration::from_secs(5);
/// The longest time between two attempts to connect.
const LONGEST: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("MEG_FORMULARY is not an mllp:// or mllps:// address with a port")]
    Address,
    #[error("the certificate authority of the integration engine cannot be used")]
    Trust(#[from] TrustError),
    #[error("the connection to the integration engine failed")]
    Io(#[from] std::io::Error),
    #[error("the integration engine does not answer")]
    Timeout,
    #[error("the integration engine does not speak MLLP: {0}")]
    Frame(&'static str),
    #[error("the formulary cannot be kept")]
    Keep(#[from] Fault),
}

/// Where the integration engine is.
pub struct Feed {
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
}

impl Feed {
    /// Reads `MEG_FORMULARY`; None without it.
    ///
    /// # Errors
    /// The address is unusable.
    pub fn from_settings(settings: &Settings) -> Result<Option<Feed>, FeedError> {
        let Some(text) = settings.optional("MEG_FORMULARY")? else { return Ok(None) };
        let url = Url::parse(text).map_err(|_| FeedError::Address)?;
        let host = url.host_str().ok_or(FeedError::Address)?.trim_matches(['[', ']']).to_owned();
        let tls = match url.scheme() {
            "mllps" => Some(Arc::new(Trust::from_settings(settings, &[])?.client(&[])?)),
            "mllp" => None,
            _ => return Err(FeedError::Address),
        };
        Ok(Some(Feed { host, port: url.port().unwrap_or(2575), tls }))
    }

    /// Listens to the engine for as long as the process lives, and connects again when it goes away.
    pub async fn run(self, database: Database) {
        let mut pause = Duration::from_secs(1);
        loop {
            match self.listen(&database).await {
                Ok(taken) if taken > 0 => pause = Duration::from_secs(1),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, retry_in_s = pause.as_secs(), "no formulary"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST);
        }
    }

    /// One connection: takes messages until the engine closes it; how many were taken.
    ///
    /// # Errors
    /// The engine is away or does not speak MLLP, or there is no database: then nothing was acknowledged, and the engine
    /// sends again.
    pub async fn listen(&self, database: &Database) -> Result<usize, FeedError> {
        let stream = tokio::time::timeout(LIMIT, TcpStream::connect((self.host.as_str(), self.port))).await;
        let stream = stream.map_err(|_| FeedError::Timeout)??;
        let Some(tls) = &self.tls else { return exchange(stream, database).await };
        let name = ServerName::try_from(self.host.clone()).map_err(|_| FeedError::Address)?;
        let shaken =
            tokio::time::timeout(LIMIT, tokio_rustls::TlsConnector::from(tls.clone()).connect(name, stream)).await;
        exchange(shaken.map_err(|_| FeedError::Timeout)??, database).await
    }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, database: &Database) -> Result<usize, FeedError> {
    let (mut buffer, mut taken) = (Vec::new(), 0);
    loop {
        while let Some((bytes, used)) = hl7::frame(&buffer).map_err(FeedError::Frame)? {
            buffer.drain(..used);
            let answer = take(database, &bytes).await?;
            tokio::time::timeout(LIMIT, stream.write_all(&hl7::framed(&answer)))
                .await
                .map_err(|_| FeedError::Timeout)??;
            taken += 1;
        }
        let mut chunk = [0; 16 * 1024];
        let read = stream.read(&mut chunk).await?;
        if read == 0 {
            return Ok(taken);
        }
        buffer.extend_from_slice(&chunk[..read]);
    }
}

/// Keeps what a message says; the acknowledgement to send. AA is said only for what is on the disk.
///
/// # Errors
/// No database.
pub async fn take(database: &Database, bytes: &[u8]) -> Result<String, Fault> {
    let at = jiff::Timestamp::now().strftime("%Y%m%d%H%M%S").to_string();
    let judged = match Message::parse(bytes) {
        Err(why) => Err(("AR", String::new(), why.to_owned())),
        Ok(message) if !message.kind().starts_with("MFN") => {
            Err(("AR", message.control_id().to_owned(), "only MFN messages are taken".to_owned()))
        }
        Ok(message) => match hl7::medicines(&message) {
            Ok(medicines) => Ok((message.control_id().to_owned(), medicines)),
            Err(why) => Err(("AE", message.control_id().to_owned(), why)),
        },
    };
    let mut connection = database.get().await?;
    let transaction = connection.begin().await?;
    let (code, control, detail) = match judged {
        Err(refused) => refused,
        Ok((control, medicines)) => {
            for m in &medicines {
                transaction
                    .execute(
                        r#"INSERT INTO "Formulary" ("Code", "Name", "Strength", "Form", "IsActive") VALUES ($1, $2, $3, $4, $5)
                           ON CONFLICT ("Code") DO UPDATE SET "Name" = $2, "Strength" = $3, "Form" = $4, "IsActive" = $5,
                               "ChangedAt" = now()"#,
                        &[&m.code, &m.name, &m.strength, &m.form, &m.active],
                    )
                    .await?;
            }
            ("AA", control, format!("{} entries", medicines.len()))
        }
    };
    let control: String = control.chars().filter(|c| !c.is_control()).take(50).collect();
    let note = r#"INSERT INTO "FormularyMessages" ("ControlId", "Answer", "Detail") VALUES ($1, $2, $3)"#;
    transaction.execute(note, &[&control, &code, &detail]).await?;
    transaction.commit().await?;
    tracing::info!(control, answer = code, detail, "a message of the integration engine");
    Ok(hl7::acknowledgement(&control, code, if code == "AA" { "" } else { &detail }, &at))
}
