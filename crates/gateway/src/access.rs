//! The access log: one JSON line a request, written by a thread of its own.
//!
//! Workers append to a buffer and never wait for whoever reads stdout. When the reader stalls for so long that
//! [`MOST`] bytes wait, further lines are counted and left out, and a line says how many: serving goes before logging.

use std::{
    fmt::Write as _,
    io::Write,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use service::Clock;

/// Bytes that may wait for the writer.
const MOST: usize = 8 * 1024 * 1024;
/// Bytes that wake the writer before its time.
const ENOUGH: usize = 64 * 1024;
/// How long a line waits at most.
const FLUSH: Duration = Duration::from_millis(500);

/// One request, as its line tells it.
pub struct Line<'a> {
    pub method: &'a str,
    pub host: &'a str,
    /// Without the query: queries hold personal data and tokens.
    pub path: &'a str,
    pub protocol: &'static str,
    pub status: u16,
    /// Body bytes to the client.
    pub bytes: u64,
    /// Body bytes from the client.
    pub received: u64,
    /// From the request's head to the response's last byte.
    pub microseconds: u64,
    pub upstream: &'a str,
    pub trace: &'a str,
    /// An address.
    pub client: &'a str,
    /// Why the gateway itself answered or cut the request; empty: it went its way.
    pub note: &'a str,
}

#[derive(Default)]
struct Waiting {
    text: String,
    left_out: u64,
    ended: bool,
    second: i64,
    stamp: String,
}

/// Takes lines from all workers.
pub struct AccessLog {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    clock: Clock,
    on: bool,
}

impl AccessLog {
    /// Starts the writer. Join the handle after [`AccessLog::end`] so that the last lines are out.
    pub fn start(
        on: bool,
        clock: Clock,
        mut out: Box<dyn Write + Send>,
    ) -> std::io::Result<(Arc<Self>, std::thread::JoinHandle<()>)> {
        let log = Arc::new(Self { waiting: Mutex::default(), wake: Condvar::new(), clock, on });
        let writer = log.clone();
        let thread = std::thread::Builder::new().name("access-log".into()).spawn(move || writer.write_on(&mut out))?;
        Ok((log, thread))
    }

    /// Appends a line.
    pub fn append(&self, line: &Line<'_>) {
        if !self.on {
            return;
        }
        let now = self.clock.now_ms();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.text.len() > MOST {
            waiting.left_out += 1;
            return;
        }
        let Waiting { text, second, stamp, .. } = &mut *waiting;
        if *second != now.div_euclid(1000) || stamp.is_empty() {
            *second = now.div_euclid(1000);
            *stamp = seconds(*second);
        }
        let before = text.len();
        line.write(text, stamp, now.rem_euclid(1000));
        if before < ENOUGH && text.len() >= ENOUGH {
            self.wake.notify_one();
        }
    }

    /// Asks the writer to write what waits and end.
    pub fn end(&self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.wake.notify_one();
    }

    fn write_on(&self, out: &mut dyn Write) {
        let mut text = String::new();
        loop {
            let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let (mut waiting, _) = self
                .wake
                .wait_timeout_while(waiting, FLUSH, |w| !w.ended && w.text.len() < ENOUGH)
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut text, &mut waiting.text);
            let (left_out, ended) = (std::mem::take(&mut waiting.left_out), waiting.ended);
            drop(waiting);
            if left_out > 0 {
                let _ = writeln!(text, "{{\"note\":\"left out\",\"lines\":{left_out}}}");
            }
            if !text.is_empty()
                && let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush())
            {
                tracing::warn!(%error, "could not write the access log");
            }
            // A burst's buffer is given back.
            text = if text.capacity() > 4 * ENOUGH { String::new() } else { text };
            text.clear();
            if ended {
                return;
            }
        }
    }
}

impl Line<'_> {
    fn write(&self, to: &mut String, stamp: &str, ms: i64) {
        to.push_str("{\"time\":\"");
        to.push_str(stamp);
        to.push('.');
        for place in [100, 10, 1] {
            to.push((b'0' + (ms / place % 10) as u8) as char);
        }
        to.push_str("Z\",\"method\":\"");
        escape(to, self.method);
        to.push_str("\",\"host\":\"");
        escape(to, self.host);
        to.push_str("\",\"path\":\"");
        escape(to, self.path);
        to.push_str("\",\"protocol\":\"");
        to.push_str(self.protocol);
        to.push_str("\",\"status\":");
        number(to, self.status.into());
        to.push_str(",\"bytes\":");
        number(to, self.bytes);
        to.push_str(",\"received\":");
        number(to, self.received);
        to.push_str(",\"us\":");
        number(to, self.microseconds);
        to.push_str(",\"upstream\":\"");
        escape(to, self.upstream);
        to.push_str("\",\"trace\":\"");
        to.push_str(self.trace);
        to.push_str("\",\"client\":\"");
        to.push_str(self.client);
        if !self.note.is_empty() {
            to.push_str("\",\"note\":\"");
            escape(to, self.note);
        }
        to.push_str("\"}\n");
    }
}

/// Digits without the formatting machinery.
fn number(to: &mut String, value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut left = value;
    loop {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    to.push_str(std::str::from_utf8(&digits[at..]).expect("digits are text"));
}

fn escape(to: &mut String, text: &str) {
    // Without a branch a byte, so that it is done many bytes at once.
    if !text.bytes().fold(false, |found, b| found | (b < 0x20) | (b == b'"') | (b == b'\\')) {
        to.push_str(text);
        return;
    }
    for c in text.chars() {
        match c {
            '"' => to.push_str("\\\""),
            '\\' => to.push_str("\\\\"),
            c if (c as u32) < 0x20 => {
                let _ = write!(to, "\\u{:04x}", c as u32);
            }
            c => to.push(c),
        }
    }
}

/// `YYYY-MM-DDTHH:MM:SS` of seconds since the Unix epoch. The calendar arithmetic counts years from March, so that the
/// leap day is a year's last, in eras of 400 years.
fn seconds(since: i64) -> String {
    let (day, time) = (since.div_euclid(86_400) + 719_468, since.rem_euclid(86_400));
    let (era, of_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year + era * 400 + next;
    format!("{year:04}-{month:02}-{date:02}T{:02}:{:02}:{:02}", time / 3_600, time / 60 % 60, time % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_the_calendar_s() {
        assert_eq!(seconds(0), "1970-01-01T00:00:00");
        assert_eq!(seconds(951_782_400), "2000-02-29T00:00:00");
        assert_eq!(seconds(1_709_251_199), "2024-02-29T23:59:59");
        assert_eq!(seconds(4_107_542_400), "2100-03-01T00:00:00");
    }

    #[test]
    fn a_line_is_json_whatever_a_client_sent() {
        let line = Line {
            method: "GET",
            host: "a",
            path: "/\"\\\u{1}é",
            protocol: "HTTP/1.1",
            status: 200,
            bytes: 0,
            received: u64::MAX,
            microseconds: 10,
            upstream: "",
            trace: "",
            client: "127.0.0.1",
            note: "x\ny",
        };
        let mut text = String::new();
        line.write(&mut text, "T", 7);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["path"], "/\"\\\u{1}é");
        assert_eq!(value["note"], "x\ny");
        assert_eq!(value["received"], u64::MAX);
        assert_eq!(value["time"], "T.007Z");
        assert_eq!(text.lines().count(), 1);
    }
}
