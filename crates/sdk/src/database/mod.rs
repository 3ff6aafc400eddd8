//! The application's database: a pool of PostgreSQL connections that survives restarts of the database.
//!
//! At most `max` connections are open; a request waits at most [`WAIT`] for one. A connection that died is found out before
//! it is handed out and replaced. Each statement is a client span, so it shows as a dependency of its request.
//!
//! A connection string without a password signs in by identity, where the platform gives one: by a token of the identity endpoint.

mod identity;
mod target;

use std::{
    error::Error as _,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime};
use tokio::sync::Mutex;
use tokio_postgres::{Row, error::SqlState, types::ToSql};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::{Instrument, Span, field::Empty};

pub use identity::{TokenError, TokensError};
pub use target::{Target, TargetError};

use crate::{Settings, SettingsError, Trust, TrustError, telemetry};
use identity::{ByIdentity, Tokens};

/// How long a request waits for a free connection, and for a new one to be made.
pub const WAIT: Duration = Duration::from_secs(3);
/// Connections at most, when the connection string says nothing.
const CONNECTIONS: usize = 10;
/// Limits of each session: a statement, a wait for a lock, and an open transaction that does nothing.
const LIMITS: &str =
    "-c statement_timeout=10000 -c lock_timeout=5000 -c idle_in_transaction_session_timeout=15000 -c timezone=UTC";

/// A value bound to a statement.
pub type Param<'a> = &'a (dyn ToSql + Sync);

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("the database's certificate authority is unusable")]
    Trust(#[from] TrustError),
    #[error("the database is signed in to by identity, and there is none")]
    Identity(#[from] TokensError),
    #[error("no token for the database")]
    Token(#[from] TokenError),
    #[error("the pool cannot be built")]
    Pool(#[from] deadpool_postgres::BuildError),
    #[error("cannot connect to the database")]
    Connect(#[from] tokio_postgres::Error),
}

/// Why a statement gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database is not there or closed the connection; a retry is safe when nothing was sent.
    #[error("the database does not answer")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The database refused the statement.
    #[error("the database refused a statement")]
    Refused(#[source] tokio_postgres::Error),
}

impl Error {
    /// The SQLSTATE of a refusal.
    pub fn code(&self) -> Option<&SqlState> {
        match self {
            Error::Refused(error) => error.code(),
            Error::Unavailable(_) => None,
        }
    }

    /// The name of the constraint that a row would have broken.
    pub fn constraint(&self) -> Option<&str> {
        match self {
            Error::Refused(error) => error.as_db_error().and_then(|e| e.constraint()),
            Error::Unavailable(_) => None,
        }
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Error {
        // Class 57P: the server is shutting down, was crashed, or is starting up.
        let going = error.code().is_some_and(|c| c.code().starts_with("57P") || c.code().starts_with("08"));
        if going || error.is_closed() || (error.as_db_error().is_none() && is_io(&error)) {
            return Error::Unavailable(Box::new(error));
        }
        Error::Refused(error)
    }
}

fn is_io(error: &tokio_postgres::Error) -> bool {
    error.source().is_some_and(|s| s.is::<std::io::Error>())
}

impl From<PoolError> for Error {
    fn from(error: PoolError) -> Error {
        match error {
            PoolError::Backend(error) => Error::Unavailable(Box::new(error)),
            other => Error::Unavailable(Box::new(other)),
        }
    }
}

/// The pool. Cloning shares it.
#[derive(Clone)]
pub struct Database {
    pool: Pool,
    probe: Probe,
    /// None: it has a password.
    tokens: Option<Arc<Tokens>>,
    name: Arc<str>,
}

/// A connection of its own for the question whether the database answers: a busy application is not a sick database.
#[derive(Clone)]
struct Probe {
    pool: Pool,
    /// When it was asked last, and the answer. Locked while asking, so that many askers cost one question.
    last: Arc<Mutex<Option<(Instant, bool)>>>,
}

/// An answer about the database's health holds for this long; anybody may ask, and a flood of askers must not matter.
const HEALTH_LIFE: Duration = Duration::from_millis(100);

impl Database {
    /// A pool for the connection string in the variable `name`. Opens no connection yet: the application starts while its
    /// database is still starting, and its health says so.
    ///
    /// # Errors
    /// The variable is missing or unreadable, or the named certificate authority is.
    pub fn from_settings(settings: &Settings, name: &'static str) -> Result<Database, OpenError> {
        let target =
            Target::parse(settings.required(name, "the database's connection string (Host=...;Database=...;...)")?)?;
        Self::to(settings, target)
    }

    /// As [`Database::from_settings`], where libpq's own variables say where the database is: `PGHOST`, `PGPORT`, `PGDATABASE`,
    /// `PGUSER`, and `PGPASSWORD` unless it is signed in to by identity.
    ///
    /// # Errors
    /// A variable is missing or unreadable.
    pub fn from_libpq(settings: &Settings) -> Result<Database, OpenError> {
        Self::to(settings, Target::from_libpq(settings)?)
    }

    fn to(settings: &Settings, target: Target) -> Result<Database, OpenError> {
        let (config, way) = prepare(settings, &target)?;
        let pool = |size: usize| {
            let manager = ManagerConfig { recycling_method: RecyclingMethod::Fast };
            let manager = match way.clone() {
                Way::Token(tls, tokens) => Manager::from_connect(config.clone(), ByIdentity { tls, tokens }, manager),
                Way::Tls(tls) => Manager::from_config(config.clone(), tls, manager),
                Way::Plain => Manager::from_config(config.clone(), tokio_postgres::NoTls, manager),
            };
            Pool::builder(manager)
                .max_size(size)
                .wait_timeout(Some(WAIT))
                .create_timeout(Some(WAIT))
                .recycle_timeout(Some(WAIT))
                .runtime(Runtime::Tokio1)
                .build()
        };
        let (probe, pool) = (pool(1)?, pool(target.max_pool_size.unwrap_or(CONNECTIONS).clamp(1, 100))?);
        let tokens = match way {
            Way::Token(_, tokens) => Some(tokens),
            Way::Tls(_) | Way::Plain => None,
        };
        Ok(Database { pool, probe: Probe { pool: probe, last: Arc::default() }, tokens, name: target.database.into() })
    }

    /// A connection for one piece of work.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when none is free or can be made within [`WAIT`].
    pub async fn get(&self) -> Result<Connection, Error> {
        let object = self.pool.get().await.map_err(|error| match self.tokens.as_ref().and_then(|t| t.why()) {
            Some(why) => Error::Unavailable(Box::new(why)),
            None => error.into(),
        })?;
        Ok(Connection { object, name: self.name.clone() })
    }

    /// Whether the database answers a statement within `limit`, as of a tenth of a second ago at most.
    pub async fn answers_within(&self, limit: Duration) -> bool {
        let mut last = self.probe.last.lock().await;
        if let Some((_, answer)) = last.filter(|(at, _)| at.elapsed() < HEALTH_LIFE) {
            return answer;
        }
        let ask = async { self.probe.pool.get().await?.simple_query("SELECT 1").await.map_err(Error::from) };
        let answer = matches!(tokio::time::timeout(limit, ask).await, Ok(Ok(_)));
        *last = Some((Instant::now(), answer));
        answer
    }

    /// Connections open now, and those of them in use.
    pub fn connections(&self) -> (usize, usize) {
        let status = self.pool.status();
        (status.size, status.size.saturating_sub(status.available))
    }

    /// Tells them as the gauges `db.client.connections.open` and `db.client.connections.used`; call it every few seconds.
    pub fn measure(&self) {
        let (open, used) = self.connections();
        #[expect(clippy::cast_precision_loss, reason = "a handful of connections")]
        for (name, value) in [("db.client.connections.open", open), ("db.client.connections.used", used)] {
            telemetry::metrics().set(name, value as f64, &[]);
        }
    }
}

/// One connection outside a pool and without statement limits, for migrations.
///
/// # Errors
/// The variable is missing or unreadable, or the database cannot be reached.
pub async fn connect_alone(settings: &Settings, name: &'static str) -> Result<tokio_postgres::Client, OpenError> {
    let target = Target::parse(settings.required(name, "the connection string of the schema's owner")?)?;
    alone(settings, &target).await
}

/// As [`connect_alone`], by libpq's own variables as [`Database::from_libpq`].
///
/// # Errors
/// As [`connect_alone`].
pub async fn connect_alone_from_libpq(settings: &Settings) -> Result<tokio_postgres::Client, OpenError> {
    alone(settings, &Target::from_libpq(settings)?).await
}

async fn alone(settings: &Settings, target: &Target) -> Result<tokio_postgres::Client, OpenError> {
    let (mut config, way) = prepare(settings, target)?;
    config.options("-c lock_timeout=60000 -c timezone=UTC");
    match way {
        Way::Token(tls, tokens) => {
            let made = ByIdentity { tls, tokens: tokens.clone() }.made(&config).await;
            match (made, tokens.why()) {
                (Ok((client, _)), _) => Ok(client),
                (Err(_), Some(why)) => Err(why.into()),
                (Err(error), None) => Err(error.into()),
            }
        }
        Way::Tls(tls) => drive(config.connect(tls).await?),
        Way::Plain => drive(config.connect(tokio_postgres::NoTls).await?),
    }
}

/// How a connection is made.
#[derive(Clone)]
enum Way {
    Plain,
    Tls(MakeRustlsConnect),
    Token(MakeRustlsConnect, Arc<Tokens>),
}

fn drive<S, T>(
    made: (tokio_postgres::Client, tokio_postgres::Connection<S, T>),
) -> Result<tokio_postgres::Client, OpenError>
where
    tokio_postgres::Connection<S, T>: Future + Send + 'static,
    <tokio_postgres::Connection<S, T> as Future>::Output: Send,
{
    // The connection's own task ends when the client is dropped; its error also reaches the client's pending statement.
    tokio::spawn(made.1);
    Ok(made.0)
}

fn prepare(settings: &Settings, target: &Target) -> Result<(tokio_postgres::Config, Way), OpenError> {
    let mut config = tokio_postgres::Config::new();
    config.host(&target.host).port(target.port).dbname(&target.database).user(&target.user);
    config.application_name("sdk").connect_timeout(WAIT).options(LIMITS);
    config.keepalives(true).keepalives_idle(Duration::from_secs(30)).tcp_user_timeout(Duration::from_secs(20));
    if let Some(password) = &target.password {
        config.password(password.reveal());
    }
    if !target.tls {
        // Neither does a token go out in the clear.
        return Ok((config, Way::Plain));
    }
    config.ssl_mode(tokio_postgres::config::SslMode::Require);
    let trust = match &target.root_certificate {
        Some(path) => Trust::from_file(path)?,
        None => Trust::from_settings(settings, &[])?,
    };
    let tls = MakeRustlsConnect::new(trust.client(&[])?);
    let tokens = if target.password.is_none() { Tokens::from_settings(settings)? } else { None };
    Ok((config, tokens.map_or_else(|| Way::Tls(tls.clone()), |tokens| Way::Token(tls.clone(), tokens))))
}

/// A connection taken from the pool; given back when dropped.
pub struct Connection {
    object: Object,
    name: Arc<str>,
}

/// A transaction; rolled back unless [`Transaction::commit`] is called.
pub struct Transaction<'a> {
    inner: deadpool_postgres::Transaction<'a>,
    name: Arc<str>,
}

impl Connection {
    /// Begins a transaction.
    ///
    /// # Errors
    /// The database is gone.
    pub async fn begin(&mut self) -> Result<Transaction<'_>, Error> {
        Ok(Transaction { inner: self.object.transaction().await?, name: self.name.clone() })
    }
}

impl Transaction<'_> {
    /// Makes the transaction's changes durable.
    ///
    /// # Errors
    /// A deferred constraint, or the database went away: then it is unknown whether the changes were made.
    pub async fn commit(self) -> Result<(), Error> {
        let span = span(&self.name, "COMMIT");
        finish(self.inner.commit().instrument(span.clone()).await.map_err(Error::from), &span)
    }
}

/// Statements, on a connection or in a transaction. SQL is always a literal of the program; values are always bound.
pub trait Queries: Sync {
    /// All rows.
    fn query(&self, sql: &'static str, params: &[Param<'_>]) -> impl Future<Output = Result<Vec<Row>, Error>> + Send;

    /// Runs a statement; how many rows it changed.
    fn execute(&self, sql: &'static str, params: &[Param<'_>]) -> impl Future<Output = Result<u64, Error>> + Send;

    /// The first row, if there is one.
    fn first(
        &self,
        sql: &'static str,
        params: &[Param<'_>],
    ) -> impl Future<Output = Result<Option<Row>, Error>> + Send {
        async move { Ok(self.query(sql, params).await?.into_iter().next()) }
    }
}

macro_rules! queries {
    ($type:ty, $field:ident) => {
        impl Queries for $type {
            async fn query(&self, sql: &'static str, params: &[Param<'_>]) -> Result<Vec<Row>, Error> {
                let span = span(&self.name, sql);
                let work = async {
                    let statement = self.$field.prepare_cached(sql).await?;
                    Ok(self.$field.query(&statement, params).await?)
                };
                finish(work.instrument(span.clone()).await, &span)
            }

            async fn execute(&self, sql: &'static str, params: &[Param<'_>]) -> Result<u64, Error> {
                let span = span(&self.name, sql);
                let work = async {
                    let statement = self.$field.prepare_cached(sql).await?;
                    Ok(self.$field.execute(&statement, params).await?)
                };
                finish(work.instrument(span.clone()).await, &span)
            }
        }
    };
}
queries!(Connection, object);
queries!(Transaction<'_>, inner);

fn span(database: &str, sql: &'static str) -> Span {
    let operation = sql.split_whitespace().next().unwrap_or("SQL");
    tracing::info_span!(
        "sql",
        otel.name = operation,
        otel.kind = "client",
        db.system.name = "postgresql",
        db.namespace = database,
        db.operation.name = operation,
        db.query.text = sql,
        error.type = Empty,
    )
}

fn finish<T>(result: Result<T, Error>, span: &Span) -> Result<T, Error> {
    if let Err(error) = &result {
        let code = error.code().map_or("unavailable", |c| c.code());
        span.record("error.type", code);
    }
    result
}
