//! Letters to a site's mail server. They wait in the database until the server has taken or refused each; a refusal is told to
//! whoever looks at the plan that the letter is about.

use std::time::Duration;

use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
    transport::smtp::{
        authentication::Credentials,
        client::{Tls, TlsParameters},
    },
};
use sdk::{
    Settings, SettingsError,
    database::{Database, Queries},
};
use url::Url;

use crate::fault::Fault;

const LIMIT: Duration = Duration::from_secs(8);
const PAUSE: Duration = Duration::from_secs(2);
/// A letter that nobody took for so many attempts (two days) is given up.
const ATTEMPTS: i32 = 60;

#[derive(Debug, thiserror::Error)]
pub enum MailError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(
        "MEG_MAIL is not an smtps:// or smtp:// address (smtp:// without STARTTLS is taken for loopback addresses only)"
    )]
    Address,
    #[error("MEG_MAIL_FROM is not an e-mail address")]
    From,
    #[error("TLS to the mail server cannot be set up")]
    Tls(#[source] lettre::transport::smtp::Error),
}

/// A site's mail server.
pub struct Post {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

/// What became of a letter.
#[derive(Debug, PartialEq, Eq)]
pub enum Sent {
    Taken,
    /// The server will never take it: in its words.
    Bounced(String),
    /// Perhaps later.
    Later(String),
}

impl Post {
    /// Reads `MEG_MAIL`, `MEG_MAIL_FROM`, `MEG_MAIL_USER` and `MEG_MAIL_PASSWORD`; None without the first.
    ///
    /// # Errors
    /// A variable is unusable.
    pub fn from_settings(settings: &Settings) -> Result<Option<Post>, MailError> {
        let Some(text) = settings.optional("MEG_MAIL")? else { return Ok(None) };
        let url = Url::parse(text).map_err(|_| MailError::Address)?;
        let host = url.host_str().ok_or(MailError::Address)?.trim_matches(['[', ']']).to_owned();
        let local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let parameters = || TlsParameters::new_rustls(host.clone()).map_err(MailError::Tls);
        let (tls, port) = match url.scheme() {
            "smtps" => (Tls::Wrapper(parameters()?), 465),
            "smtp" if local => (Tls::None, 25),
            "smtp" => (Tls::Required(parameters()?), 25),
            _ => return Err(MailError::Address),
        };
        let builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&host);
        let mut builder = builder.port(url.port().unwrap_or(port)).tls(tls).timeout(Some(LIMIT));
        if let Some(user) = settings.optional("MEG_MAIL_USER")? {
            let password = settings.secret("MEG_MAIL_PASSWORD", "the password at the mail server")?;
            builder = builder.credentials(Credentials::new(user.to_owned(), password.reveal().to_owned()));
        }
        let from = settings.optional("MEG_MAIL_FROM")?.unwrap_or("MEG QMS <meg-qms@localhost.localdomain>");
        Ok(Some(Post { transport: builder.build(), from: from.parse().map_err(|_| MailError::From)? }))
    }

    /// Gives one letter to the server.
    pub async fn send(&self, to: &str, subject: &str, body: &str) -> Sent {
        let Ok(to) = to.parse::<Mailbox>() else { return Sent::Bounced("the address cannot be written to".into()) };
        let letter = Message::builder().from(self.from.clone()).to(to).subject(subject).header(ContentType::TEXT_PLAIN);
        let letter = match letter.body(body.to_owned()) {
            Ok(letter) => letter,
            Err(error) => return Sent::Bounced(error.to_string()),
        };
        match self.transport.send(letter).await {
            Ok(_) => Sent::Taken,
            Err(error) if error.is_permanent() => Sent::Bounced(words(&error)),
            Err(error) => Sent::Later(words(&error)),
        }
    }
}

/// An error with its causes, on one line.
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = error.source();
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}

/// Notes a letter, in the transaction whose change it is about.
///
/// # Errors
/// No database.
pub async fn note(queries: &impl Queries, to: &str, subject: &str, body: &str, qip: Option<i64>) -> Result<(), Fault> {
    let sql = r#"INSERT INTO "Mails" ("Recipient", "Subject", "Body", "QipId") VALUES ($1, $2, $3, $4)"#;
    queries.execute(sql, &[&to, &subject, &body, &qip]).await?;
    Ok(())
}

/// Sends what waits, for as long as the process lives.
pub async fn run(database: Database, post: Post) {
    loop {
        match deliver(&database, &post).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "letters cannot be read"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Sends one letter that is due; whether there was one.
///
/// # Errors
/// No database. A letter may then go twice: it was given before that was written down.
pub async fn deliver(database: &Database, post: &Post) -> Result<bool, Fault> {
    let mut connection = database.get().await?;
    let transaction = connection.begin().await?;
    let row = transaction
        .first(
            r#"SELECT "Id", "Recipient", "Subject", "Body", "Attempts" FROM "Mails" WHERE "Status" = 'waiting' AND "NextAt" <= now()
               ORDER BY "NextAt" LIMIT 1 FOR UPDATE SKIP LOCKED"#,
            &[],
        )
        .await?;
    let Some(row) = row else { return Ok(false) };
    let (id, attempts): (i64, i32) = (row.get(0), row.get::<_, i32>(4) + 1);
    let sent = post.send(row.get(1), row.get(2), row.get(3)).await;
    let (status, detail) = match sent {
        Sent::Taken => ("sent", String::new()),
        Sent::Bounced(why) => ("bounced", why),
        Sent::Later(why) if attempts >= ATTEMPTS => ("bounced", format!("given up after {attempts} attempts: {why}")),
        Sent::Later(why) => ("waiting", why),
    };
    // From two seconds to an hour.
    let pause = f64::from(3600.min(2_i32.pow(attempts.clamp(1, 11).unsigned_abs())));
    transaction
        .execute(
            r#"UPDATE "Mails" SET "Status" = $2, "Detail" = $3, "Attempts" = $4, "NextAt" = now() + make_interval(secs => $5),
                   "EndedAt" = CASE WHEN $2 = 'waiting' THEN NULL ELSE now() END WHERE "Id" = $1"#,
            &[&id, &status, &detail, &attempts, &pause],
        )
        .await?;
    transaction.commit().await?;
    if status != "sent" {
        tracing::warn!(letter = id, status, error = %detail, "a letter did not go");
    }
    Ok(true)
}
