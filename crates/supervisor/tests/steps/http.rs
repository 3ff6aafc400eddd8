//! As much of an HTTP server as the supervisor's own calls need: one request a connection.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// A request, read whole.
pub struct Request {
    pub method: String,
    /// Without the query.
    pub path: String,
    pub body: Vec<u8>,
}

impl Request {
    /// Such as `PUT /roles/web`.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Reads one request; None when the caller went away.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Request> {
    let mut bytes = Vec::with_capacity(1024);
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let mut lines = text.lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok())
        .unwrap_or(0);
    while bytes.len() < head + 4 + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let path = target.split('?').next()?.to_owned();
    Some(Request { method, path, body: bytes[head + 4..].to_vec() })
}

/// Answers it.
pub async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), status: u16, body: &serde_json::Value) {
    let body = body.to_string();
    let text = format!(
        "HTTP/1.1 {status} ANSWER\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    // Whoever asked may have been killed meanwhile.
    let _ = stream.write_all(text.as_bytes()).await;
    // It closes first: a port would else be remembered for a minute for each of many thousand calls.
    let _ = stream.read_to_end(&mut Vec::new()).await;
}
