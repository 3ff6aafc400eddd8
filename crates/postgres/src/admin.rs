//! The keeper's own way into the server: as administrator, by the unix socket.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use api::Secret;
use tokio::sync::Mutex;
use tokio_postgres::{Client, Config, NoTls, error::SqlState};

use crate::{Error, name::literal, scram};

/// How long the server may take to answer a question of one row.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct Admin {
    socket_dir: PathBuf,
    port: u16,
    password: RwLock<Secret>,
    /// One connection that is kept for health and status, so that asking does not fill the log with comings and goings.
    /// Nothing else is done on it: a session keeps the memory of the largest thing it ever did.
    kept: Mutex<Option<Arc<Client>>>,
}

/// What came of a try to sign in.
pub(crate) enum SignIn {
    Done(Box<Client>),
    /// The server has another password, or none yet.
    WrongPassword,
    /// It starts, recovers, or is not there.
    NotYet(String),
}

impl Admin {
    pub fn new(socket_dir: PathBuf, port: u16, password: Secret) -> Self {
        Self { socket_dir, port, password: RwLock::new(password), kept: Mutex::default() }
    }

    /// A new connection to a database.
    pub async fn connect(&self, database: &str) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = Config::new()
            .host_path(&self.socket_dir)
            .port(self.port)
            .user("postgres")
            .password(self.password().expose())
            .dbname(database)
            .application_name("keeper")
            // Passwords and databases are seen to on a full disk too.
            .options("-c default_transaction_read_only=off")
            .connect_timeout(PATIENCE)
            .connect(NoTls)
            .await?;
        // It ends when the client is dropped; its error reaches whoever uses the client.
        tokio::spawn(connection);
        Ok(client)
    }

    pub async fn sign_in(&self) -> SignIn {
        match self.connect("postgres").await {
            Ok(client) => SignIn::Done(Box::new(client)),
            Err(error) if error.code() == Some(&SqlState::INVALID_PASSWORD) => SignIn::WrongPassword,
            Err(error) => SignIn::NotYet(match error.as_db_error() {
                Some(said) => said.message().to_owned(),
                None => "it does not answer yet".into(),
            }),
        }
    }

    /// Whether the administrator's password is ours.
    pub async fn has_password(&self, client: &Client) -> Result<bool, Error> {
        let stored = client.query_one("SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'", &[]).await;
        let stored: Option<String> = stored.map_err(Error::sql("look at the administrator's password"))?.get(0);
        Ok(stored.is_some_and(|stored| scram::matches(&self.password(), &stored)))
    }

    /// Sets the administrator's password to ours.
    pub async fn set_password(&self, client: &mut Client) -> Result<(), Error> {
        let sql = Error::sql("set the administrator's password");
        set_verifier(client, "ALTER ROLE postgres", &scram::verifier(&self.password())?).await.map_err(sql)
    }

    /// Has another password from now on. The server is told too, unless it `follows`: it then gets the change by the log.
    /// Connections that are open stay.
    pub async fn change_password(&self, new: Secret, follows: bool) -> Result<(), Error> {
        if !follows {
            let sql = || Error::sql("change the administrator's password");
            let mut client = self.connect("postgres").await.map_err(sql())?;
            set_verifier(&mut client, "ALTER ROLE postgres", &scram::verifier(&new)?).await.map_err(sql())?;
        }
        *self.password.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    pub fn password(&self) -> Secret {
        self.password.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The kept connection, opened when it is first needed and when it was lost.
    pub async fn kept(&self) -> Result<Arc<Client>, Error> {
        let mut kept = self.kept.lock().await;
        match kept.as_ref() {
            Some(client) if !client.is_closed() => Ok(client.clone()),
            _ => {
                let client = self.connect("postgres").await.map_err(Error::sql("connect as administrator"))?;
                // What only looks is not what a log of statements is kept for: it would be a line a second.
                let quiet = client.batch_execute("SET log_statement = 'none'; SET log_min_duration_statement = -1");
                quiet.await.map_err(Error::sql("quieten the looking"))?;
                let client = Arc::new(client);
                *kept = Some(client.clone());
                Ok(client)
            }
        }
    }

    /// Whether the server answers a query in time.
    pub async fn ping(&self) -> Result<(), Error> {
        let ask = async { self.kept().await?.simple_query("SELECT 1").await.map_err(Error::sql("query the server")) };
        match tokio::time::timeout(PATIENCE, ask).await {
            Ok(answer) => answer.map(drop),
            Err(_) => Err(Error::NotReady(format!("no answer to a query within {} s", PATIENCE.as_secs()))),
        }
    }
}

/// `statement PASSWORD '...'` in a transaction that neither logs the statement nor shows it when it fails: a verifier is no
/// password, but nobody needs it.
pub(crate) async fn set_verifier(
    client: &mut Client,
    statement: &str,
    verifier: &Secret,
) -> Result<(), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    transaction.batch_execute("SET LOCAL log_statement = 'none'; SET LOCAL log_min_error_statement = 'panic'").await?;
    transaction.batch_execute(&format!("{statement} PASSWORD {}", literal(verifier.expose()))).await?;
    transaction.commit().await
}
