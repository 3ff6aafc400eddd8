//! A small client of redis: the few commands that a cache and a queue need, over TLS, bounded in time and size.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use rustls::{ClientConfig, pki_types::ServerName};
use sdk::{Secret, Settings, SettingsError, Trust, TrustError};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use url::Url;

/// A command takes no longer, connecting included; a waiting one as long again as it was told to wait.
const LIMIT: Duration = Duration::from_secs(3);
/// Bytes of one value at most.
const LARGEST: usize = 1024 * 1024;
/// Values in one answer at most.
const MOST: usize = 10_000;
/// Connections kept for the next command.
const KEPT: usize = 4;

#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(
        "the address of redis cannot be read: it is rediss://USER:PASSWORD@HOST:PORT/0 (redis:// for loopback only)"
    )]
    Address,
    #[error("the certificate authority of redis cannot be used")]
    Trust(#[from] TrustError),
    #[error("redis does not answer in time")]
    Timeout,
    #[error("the connection to redis failed")]
    Io(#[from] std::io::Error),
    #[error("redis says: {0}")]
    Refused(String),
    #[error("redis answers with something else than was asked for")]
    Answer,
}

/// What redis answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Nil,
    Number(i64),
    Text(Vec<u8>),
    List(Vec<Value>),
}

trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}
type Connection = BufReader<Box<dyn Stream>>;

struct Inner {
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
    user: String,
    password: Option<Secret>,
    kept: Mutex<Vec<Connection>>,
}

/// Cloning shares the connections.
#[derive(Clone)]
pub struct Redis {
    inner: Arc<Inner>,
}

impl Redis {
    /// Reads `REDIS_URL`; None without it. Nothing is connected yet.
    ///
    /// # Errors
    /// The address cannot be read, or asks for less than TLS of another machine.
    pub fn from_settings(settings: &Settings) -> Result<Option<Redis>, RedisError> {
        let Some(text) = settings.optional("REDIS_URL")? else { return Ok(None) };
        let url = Url::parse(text).map_err(|_| RedisError::Address)?;
        let host = url.host_str().ok_or(RedisError::Address)?.trim_matches(['[', ']']).to_owned();
        let local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let tls = match url.scheme() {
            "rediss" => Some(Arc::new(Trust::from_settings(settings, &[])?.client(&[])?)),
            "redis" if local => None,
            _ => return Err(RedisError::Address),
        };
        let plain = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        let inner = Inner {
            host,
            port: url.port().unwrap_or(6379),
            tls,
            user: plain(url.username()),
            password: url.password().map(|p| Secret::new(plain(p))),
            kept: Mutex::default(),
        };
        Ok(Some(Redis { inner: Arc::new(inner) }))
    }

    /// One command.
    ///
    /// # Errors
    /// Redis is away or refuses.
    pub async fn ask(&self, words: &[&[u8]]) -> Result<Value, RedisError> {
        self.ask_within(words, LIMIT).await
    }

    async fn ask_within(&self, words: &[&[u8]], limit: Duration) -> Result<Value, RedisError> {
        let work = async {
            let kept = self.inner.kept.lock().ok().and_then(|mut k| k.pop());
            // A kept connection may have died since; a command is then asked again on a new one. All of ours may be repeated
            // but the taking of a job, which uses a connection of its own making.
            if let Some(mut connection) = kept
                && let Ok(answer) = exchange(&mut connection, words).await
            {
                self.keep(connection);
                return answer;
            }
            let mut connection = self.connect().await?;
            let answer = exchange(&mut connection, words).await?;
            self.keep(connection);
            answer
        };
        tokio::time::timeout(limit, work).await.map_err(|_| RedisError::Timeout)?
    }

    fn keep(&self, connection: Connection) {
        if let Ok(mut kept) = self.inner.kept.lock()
            && kept.len() < KEPT
        {
            kept.push(connection);
        }
    }

    async fn connect(&self) -> Result<Connection, RedisError> {
        let Inner { host, port, .. } = &*self.inner;
        let stream = TcpStream::connect((host.as_str(), *port)).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match &self.inner.tls {
            None => Box::new(stream),
            Some(tls) => {
                let name = ServerName::try_from(host.clone()).map_err(|_| RedisError::Address)?;
                Box::new(tokio_rustls::TlsConnector::from(tls.clone()).connect(name, stream).await?)
            }
        };
        let mut connection = BufReader::new(stream);
        if let Some(password) = &self.inner.password {
            let mut words: Vec<&[u8]> = vec![b"AUTH"];
            if !self.inner.user.is_empty() {
                words.push(self.inner.user.as_bytes());
            }
            words.push(password.reveal().as_bytes());
            exchange(&mut connection, &words).await??;
        }
        Ok(connection)
    }

    /// Whether redis answers.
    pub async fn answers(&self) -> bool {
        self.ask(&[b"PING"]).await.is_ok()
    }

    /// The value of a key.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, RedisError> {
        match self.ask(&[b"GET", key.as_bytes()]).await? {
            Value::Nil => Ok(None),
            Value::Text(text) => Ok(Some(text)),
            _ => Err(RedisError::Answer),
        }
    }

    /// Keeps a value for some seconds.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn set(&self, key: &str, value: &[u8], seconds: u32) -> Result<(), RedisError> {
        self.ask(&[b"SET", key.as_bytes(), value, b"EX", seconds.to_string().as_bytes()]).await.map(|_| ())
    }

    /// Takes a key for some seconds if nobody has it; whether it is ours.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn claim(&self, key: &str, seconds: u32) -> Result<bool, RedisError> {
        let seconds = seconds.to_string();
        let words: [&[u8]; 6] = [b"SET", key.as_bytes(), b"1", b"EX", seconds.as_bytes(), b"NX"];
        Ok(self.ask(&words).await? != Value::Nil)
    }

    /// Counts a key up; its new value.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn count(&self, key: &str) -> Result<i64, RedisError> {
        match self.ask(&[b"INCR", key.as_bytes()]).await? {
            Value::Number(number) => Ok(number),
            _ => Err(RedisError::Answer),
        }
    }

    /// Moves the oldest entry of a list to another one and gives it; None when none came in `seconds`.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn take(&self, from: &str, to: &str, seconds: u32) -> Result<Option<Vec<u8>>, RedisError> {
        let wait = seconds.to_string();
        let words: [&[u8]; 6] = [b"BLMOVE", from.as_bytes(), to.as_bytes(), b"RIGHT", b"LEFT", wait.as_bytes()];
        // A connection of its own: one that died in between must not take a second entry unseen.
        let work = async {
            let mut connection = self.connect().await?;
            exchange(&mut connection, &words).await?
        };
        let limit = LIMIT + Duration::from_secs(u64::from(seconds));
        match tokio::time::timeout(limit, work).await.map_err(|_| RedisError::Timeout)?? {
            Value::Nil => Ok(None),
            Value::Text(text) => Ok(Some(text)),
            _ => Err(RedisError::Answer),
        }
    }
}

/// Outer: the connection broke. Inner: redis refused, and the connection is good.
async fn exchange(connection: &mut Connection, words: &[&[u8]]) -> Result<Result<Value, RedisError>, RedisError> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    connection.write_all(&out).await?;
    connection.flush().await?;
    match read(connection, 0).await {
        Err(RedisError::Refused(text)) => Ok(Err(RedisError::Refused(text))),
        Err(error) => Err(error),
        Ok(value) => Ok(Ok(value)),
    }
}

async fn read<R: AsyncRead + Unpin + Send>(from: &mut BufReader<R>, depth: u8) -> Result<Value, RedisError> {
    let mut line = Vec::new();
    (&mut *from).take(64 * 1024).read_until(b'\n', &mut line).await?;
    let line = line.strip_suffix(b"\r\n").ok_or_else(|| std::io::Error::from(std::io::ErrorKind::UnexpectedEof))?;
    let (kind, rest) = line.split_first().ok_or(RedisError::Answer)?;
    let rest = std::str::from_utf8(rest).map_err(|_| RedisError::Answer)?;
    let number = || rest.parse::<i64>().map_err(|_| RedisError::Answer);
    match kind {
        b'+' => Ok(Value::Text(rest.as_bytes().to_vec())),
        b'-' => Err(RedisError::Refused(rest.chars().take(200).collect())),
        b':' => Ok(Value::Number(number()?)),
        b'_' => Ok(Value::Nil),
        b'$' => {
            let length = number()?;
            if length < 0 {
                return Ok(Value::Nil);
            }
            let length = usize::try_from(length).ok().filter(|l| *l <= LARGEST).ok_or(RedisError::Answer)?;
            let mut text = vec![0; length + 2];
            from.read_exact(&mut text).await?;
            text.truncate(length);
            Ok(Value::Text(text))
        }
        b'*' if depth < 4 => {
            let length = number()?;
            if length < 0 {
                return Ok(Value::Nil);
            }
            let length = usize::try_from(length).ok().filter(|l| *l <= MOST).ok_or(RedisError::Answer)?;
            let mut list = Vec::new();
            for _ in 0..length {
                list.push(Box::pin(read(from, depth + 1)).await?);
            }
            Ok(Value::List(list))
        }
        _ => Err(RedisError::Answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn parsed(bytes: &[u8]) -> Result<Value, RedisError> {
        read(&mut BufReader::new(bytes), 0).await
    }

    #[tokio::test]
    async fn answers_of_each_sort_are_read() {
        assert_eq!(parsed(b"+OK\r\n").await.unwrap(), Value::Text(b"OK".to_vec()));
        assert_eq!(parsed(b":7\r\n").await.unwrap(), Value::Number(7));
        assert_eq!(parsed(b"$-1\r\n").await.unwrap(), Value::Nil);
        assert_eq!(parsed(b"$3\r\na\r\n\r\n").await.unwrap(), Value::Text(b"a\r\n".to_vec()));
        assert_eq!(
            parsed(b"*2\r\n:1\r\n*0\r\n").await.unwrap(),
            Value::List(vec![Value::Number(1), Value::List(vec![])])
        );
        assert!(matches!(parsed(b"-NOPERM no\r\n").await, Err(RedisError::Refused(text)) if text == "NOPERM no"));
        assert!(
            parsed(b"$99999999999\r\n").await.is_err()
                && parsed(b"").await.is_err()
                && parsed(b"$5\r\nab").await.is_err()
        );
    }

    #[test]
    fn another_machine_is_spoken_to_by_tls_only() {
        let of = |url| Redis::from_settings(&Settings::from_pairs([("REDIS_URL", url)]));
        assert!(of("redis://127.0.0.1:6379").unwrap().is_some());
        assert!(of("redis://cache.example:6379").is_err());
        assert!(of("nonsense").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_answer_breaks_the_reader(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..80)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(parsed(&bytes));
        }
    }
}
