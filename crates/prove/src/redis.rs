//! A few commands to a Redis server as an application asks it: TLS, the password of its address, answers as text.

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::{Miss, must};

/// Bytes of one value at most.
const LARGEST: usize = 4 << 20;

trait Line: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Line for T {}
type Stream = BufReader<Box<dyn Line>>;

/// What the server at `url` says to each command, the values of a list on lines of their own.
pub async fn answers(url: &str, authority: &[u8], commands: &[Vec<String>]) -> Result<Vec<String>, Miss> {
    let url: url::Url = url.parse().map_err(|e| Miss::Failed(format!("the address of Redis: {e}")))?;
    let host = url.host_str().unwrap_or_default().to_owned();
    let stream = TcpStream::connect((host.as_str(), url.port().unwrap_or(6379))).await?;
    let stream: Box<dyn Line> = match url.scheme() {
        "rediss" => {
            let name = ServerName::try_from(host).map_err(|e| Miss::Failed(e.to_string()))?;
            let tls = tokio_rustls::TlsConnector::from(api::client::trust(authority)?);
            Box::new(tls.connect(name, stream).await?)
        }
        _ => Box::new(stream),
    };
    let mut stream = BufReader::new(stream);
    if let Some(password) = url.password() {
        let plain = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        let mut words = vec!["AUTH".to_owned()];
        words.extend(Some(plain(url.username())).filter(|user| !user.is_empty()));
        words.push(plain(password));
        ask(&mut stream, &words).await?;
    }
    let mut all = Vec::new();
    for words in commands {
        all.push(ask(&mut stream, words).await?);
    }
    Ok(all)
}

async fn ask(stream: &mut Stream, words: &[String]) -> Result<String, Miss> {
    let mut text = format!("*{}\r\n", words.len());
    for word in words {
        text.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    stream.write_all(text.as_bytes()).await?;
    stream.flush().await?;
    let mut lines = Vec::new();
    // How many values are still to come; a list brings its own.
    let mut open = 1_usize;
    while open > 0 {
        open -= 1;
        let mut line = String::new();
        must!(stream.read_line(&mut line).await? > 0, "Redis closed the connection");
        let line = line.trim_end();
        let (kind, rest) = line.split_at(line.len().min(1));
        match kind {
            "-" => return Err(Miss::Failed(format!("Redis says: {rest}"))),
            "$" if !rest.starts_with('-') => {
                let length: usize = rest.parse()?;
                must!(length <= LARGEST, "a value of {length} bytes");
                let mut value = vec![0; length + 2];
                stream.read_exact(&mut value).await?;
                value.truncate(length);
                lines.push(String::from_utf8_lossy(&value).into_owned());
            }
            "*" if !rest.starts_with('-') => open += rest.parse::<usize>()?.min(100_000),
            "$" | "*" | "_" => lines.push(String::new()),
            _ => lines.push(rest.to_owned()),
        }
    }
    Ok(lines.join("\n"))
}
