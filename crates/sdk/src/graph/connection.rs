//! One connection to one member.

use std::{io, time::Duration};

use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufStream},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Row, pack};
use crate::Secret;

/// Connecting, TLS and sign-in.
const OPENING: Duration = Duration::from_secs(3);
/// One statement.
const ANSWER: Duration = Duration::from_secs(10);
/// The longest message of an answer.
const LONGEST: usize = 16 * 1024 * 1024;

/// Why a statement gave no rows.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Nothing was sent.
    #[error("{0}")]
    Away(String),
    /// It was sent, and what came of it is not known.
    #[error("{0}")]
    Lost(String),
    #[error("{message}")]
    Refused { code: String, message: String },
}

pub struct Connection {
    stream: BufStream<TlsStream<TcpStream>>,
    /// An answer of before was a refusal, after which the other end waits for this to be taken note of.
    failed: bool,
}

impl Connection {
    pub async fn open(
        tls: &TlsConnector,
        host: &str,
        port: u16,
        user: &str,
        password: &Secret,
    ) -> Result<Self, Trouble> {
        let at = format!("{host}:{port}");
        let opening = async {
            let stream = TcpStream::connect((host, port)).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
            let mut stream = BufStream::new(tls.connect(name, stream).await?);
            // Bolt 5.4 down to 5.1.
            stream.write_all(&[0x60, 0x60, 0xB0, 0x17, 0, 3, 4, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await?;
            stream.flush().await?;
            let mut version = [0; 4];
            stream.read_exact(&mut version).await?;
            if version[3] != 5 {
                return Err(io::Error::other("it does not speak Bolt 5"));
            }
            let mut connection = Self { stream, failed: false };
            let agent = concat!("stampwright-sdk/", env!("CARGO_PKG_VERSION"));
            connection.send(0x01, &[json!({ "user_agent": agent })]).await?;
            connection
                .send(0x6A, &[json!({ "scheme": "basic", "principal": user, "credentials": password.reveal() })])
                .await?;
            connection.stream.flush().await?;
            for _ in 0..2 {
                if let Err(refused) = connection.summary().await? {
                    return Ok(Err(refused));
                }
            }
            Ok(Ok(connection))
        };
        match tokio::time::timeout(OPENING, opening).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => Err(Trouble::Away(format!("{at}: {error}"))),
            Err(_) => Err(Trouble::Away(format!("{at} does not answer"))),
        }
    }

    /// Whether the other end has not closed; what it closed has something to read: the end.
    pub fn is_alive(&self) -> bool {
        let mut byte = [0; 1];
        let (tcp, _) = self.stream.get_ref().get_ref();
        matches!(tcp.try_read(&mut byte), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }

    /// Runs a statement and fetches all its rows.
    pub async fn run(
        &mut self,
        database: &str,
        statement: &str,
        parameters: &Value,
        reads: bool,
    ) -> Result<Vec<Row>, Trouble> {
        let parameters = if parameters.is_null() { json!({}) } else { parameters.clone() };
        let mode = if reads { json!({ "db": database, "mode": "r" }) } else { json!({ "db": database }) };
        let exchange = async {
            self.reset().await?;
            self.send(0x10, &[json!(statement), parameters, mode]).await?;
            self.send(0x3F, &[json!({ "n": -1 })]).await?;
            self.stream.flush().await?;
            if let Err(refused) = self.summary().await? {
                // The fetch that was sent behind it is passed over.
                let _ = self.message().await?;
                self.failed = true;
                return Ok(Err(refused));
            }
            let mut rows = Vec::new();
            loop {
                let (kind, mut fields) = self.message().await?;
                match (kind, fields.pop()) {
                    (0x71, Some(Value::Array(row))) => rows.push(row),
                    (0x70, _) => return Ok(Ok(rows)),
                    (0x7F, Some(fault)) => {
                        self.failed = true;
                        return Ok(Err(refused(&fault)));
                    }
                    _ => return Err(unexpected()),
                }
            }
        };
        answered(tokio::time::timeout(ANSWER, exchange).await)
    }

    async fn reset(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.failed) {
            self.send(0x0F, &[]).await?;
            self.stream.flush().await?;
            let _ = self.summary().await?;
        }
        Ok(())
    }

    async fn send(&mut self, signature: u8, fields: &[Value]) -> io::Result<()> {
        let mut bytes = vec![0xB0 | fields.len() as u8, signature];
        fields.iter().for_each(|field| pack::write(field, &mut bytes));
        for chunk in bytes.chunks(0xFFFF) {
            self.stream.write_all(&(chunk.len() as u16).to_be_bytes()).await?;
            self.stream.write_all(chunk).await?;
        }
        self.stream.write_all(&[0, 0]).await
    }

    async fn message(&mut self) -> io::Result<(u8, Vec<Value>)> {
        let mut whole = Vec::new();
        loop {
            let length = usize::from(self.stream.read_u16().await?);
            if length == 0 && whole.is_empty() {
                continue;
            }
            if length == 0 {
                return pack::message(&whole).ok_or_else(unexpected);
            }
            if whole.len() + length > LONGEST {
                return Err(io::Error::other("the answer is too long"));
            }
            let begin = whole.len();
            whole.resize(begin + length, 0);
            self.stream.read_exact(&mut whole[begin..]).await?;
        }
    }

    /// The answer to one message that has no rows.
    async fn summary(&mut self) -> io::Result<Result<Value, Trouble>> {
        let (kind, mut fields) = self.message().await?;
        let field = fields.pop().unwrap_or(Value::Null);
        match kind {
            0x70 => Ok(Ok(field)),
            0x7F => Ok(Err(refused(&field))),
            _ => Err(unexpected()),
        }
    }
}

fn answered<T>(outcome: Result<io::Result<Result<T, Trouble>>, tokio::time::error::Elapsed>) -> Result<T, Trouble> {
    match outcome {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(Trouble::Lost(error.to_string())),
        Err(_) => Err(Trouble::Lost("no answer in time".into())),
    }
}

fn refused(fault: &Value) -> Trouble {
    let text = |key: &str| fault[key].as_str().unwrap_or_default().to_owned();
    Trouble::Refused { code: text("code"), message: text("message") }
}

fn unexpected() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not an answer of a graph store")
}
