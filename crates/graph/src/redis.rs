//! The engine's wire format (RESP 2) over its socket, no more of it than the keeper speaks.

use std::{io, path::Path};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
};

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Nil,
    Int(i64),
    Text(Vec<u8>),
    List(Vec<Value>),
    /// An error inside of a list; one that is the whole answer is [`Answer::Refused`].
    Error(String),
}

/// What a command came to.
pub(crate) type Answer = Result<Value, Refusal>;

/// Why a command came to nothing.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The engine's own words.
    Refused(String),
    Broken(io::Error),
}

impl From<Refusal> for crate::Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Refused(words) => Self::Refused(words),
            Refusal::Broken(error) => Self::Engine(error),
        }
    }
}

impl Value {
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Text(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Self::Int(n) => Some(n.to_string()),
            _ => None,
        }
    }

    pub fn int(&self) -> Option<i64> {
        match self {
            Self::Int(n) => Some(*n),
            Self::Text(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
            _ => None,
        }
    }

    pub fn list(&self) -> &[Value] {
        if let Self::List(all) = self { all } else { &[] }
    }
}

/// One connection; commands go one after another.
pub(crate) struct Connection {
    stream: BufReader<UnixStream>,
}

/// The longest text the engine may answer with.
const LONGEST: i64 = 512 * 1024 * 1024;

impl Connection {
    pub async fn open(socket: &Path) -> io::Result<Self> {
        Ok(Self { stream: BufReader::new(UnixStream::connect(socket).await?) })
    }

    /// Opens and signs in.
    pub async fn signed_in(socket: &Path, user: &str, password: &str) -> Result<Self, Refusal> {
        let mut connection = Self::open(socket).await.map_err(Refusal::Broken)?;
        connection.call(&["AUTH", user, password]).await?;
        Ok(connection)
    }

    /// Sends a command and reads its answer.
    pub async fn call(&mut self, command: &[&str]) -> Answer {
        let mut text = format!("*{}\r\n", command.len()).into_bytes();
        for part in command {
            text.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
            text.extend_from_slice(part.as_bytes());
            text.extend_from_slice(b"\r\n");
        }
        let exchange = async {
            self.stream.get_mut().write_all(&text).await?;
            self.read().await
        };
        match exchange.await {
            Ok(Value::Error(words)) => Err(Refusal::Refused(words)),
            Ok(value) => Ok(value),
            Err(error) => Err(Refusal::Broken(error)),
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).await?;
        match line.strip_suffix(b"\r\n") {
            Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Reads one value; lists nest, so their heads are kept on a stack instead of in a recursion.
    async fn read(&mut self) -> io::Result<Value> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "not an answer of the engine");
        let mut open: Vec<(usize, Vec<Value>)> = Vec::new();
        loop {
            let line = self.line().await?;
            let (kind, rest) = line.split_at_checked(1).ok_or_else(wrong)?;
            let number = || rest.parse::<i64>().map_err(|_| wrong());
            let mut value = match kind {
                "+" => Value::Text(rest.as_bytes().to_vec()),
                "-" => Value::Error(rest.to_owned()),
                ":" => Value::Int(number()?),
                "$" => match number()? {
                    length if length < 0 => Value::Nil,
                    length if length > LONGEST => return Err(wrong()),
                    length => {
                        let mut text = vec![0; length as usize + 2];
                        self.stream.read_exact(&mut text).await?;
                        text.truncate(length as usize);
                        Value::Text(text)
                    }
                },
                "*" => match number()? {
                    length if length < 0 => Value::Nil,
                    0 => Value::List(Vec::new()),
                    length => {
                        open.push((length as usize, Vec::new()));
                        continue;
                    }
                },
                _ => return Err(wrong()),
            };
            loop {
                let Some((length, mut all)) = open.pop() else { return Ok(value) };
                all.push(value);
                if all.len() < length {
                    open.push((length, all));
                    break;
                }
                value = Value::List(all);
            }
        }
    }
}
