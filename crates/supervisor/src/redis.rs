//! The supervisor's few words with a Redis server, over a unix socket that only the workload's user reaches: whether it serves,
//! a renewed certificate, users anew. Passwords are derived from a root key of the stamp, so that none is kept; the server has
//! their digests alone.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use api::Secret;
use model::{Kind, ResourceId};

use crate::{Error, authority::Authority, compose::Composed, layout::Layout};

/// The supervisor's own user.
pub const ADMIN: &str = "stamp";
/// The file of users.
pub const FILE: &str = "users.acl";
/// It answers at once, or is busy with one long command.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
const LINE_BYTES: u64 = 64 * 1024;

/// Where the server listens for the supervisor.
pub fn socket(layout: &Layout, workload: &str) -> PathBuf {
    layout.sockets.join(format!("{workload}.d/redis.sock"))
}

/// The root key of a server's passwords, by its name in the authority.
pub fn root(id: &ResourceId) -> String {
    format!("redis-root/{}", id.name)
}

/// The password of a user; for workloads their own name is the user's.
pub fn password(authority: &Authority, id: &ResourceId, user: &str) -> Result<Secret, Error> {
    Ok(authority.key(&root(id))?.derive(&format!("redis:{user}")))
}

/// The file of users with the digests of their passwords; None for the file of any other workload.
pub fn filled(layout: &Layout, composed: &Composed, text: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    if composed.role_file != FILE {
        return Ok(None);
    }
    let id = id_of(&composed.workload)?;
    let authority = Authority::open(&layout.folder)?;
    let text = String::from_utf8_lossy(text);
    let mut whole = String::with_capacity(text.len() * 2);
    for line in text.lines() {
        let user = line.split(' ').nth(1).unwrap_or_default();
        let place = format!("#{{{user}}}");
        if line.contains(&place) {
            let digest = crate::files::digest(password(&authority, &id, user)?.expose().as_bytes());
            whole.push_str(&line.replace(&place, &format!("#{digest}")));
        } else {
            whole.push_str(line);
        }
        whole.push('\n');
    }
    Ok(Some(whole.into_bytes()))
}

/// Whether it serves; the error is what is awaited.
pub fn ping(layout: &Layout, workload: &str) -> Result<(), String> {
    let asked = Conversation::open(layout, workload).and_then(|mut c| c.say(&["PING"]));
    match asked {
        Ok(answer) if answer == "+PONG" => Ok(()),
        Ok(answer) => Err(format!("its PONG (it answered {answer})")),
        Err(error) => Err(format!("its PONG: {}", crate::error::chain(&error))),
    }
}

/// Has it read its users anew. Connections of users that are gone are ended by it.
pub fn load_users(layout: &Layout, workload: &str) -> Result<(), Error> {
    Conversation::open(layout, workload)?.must(&["ACL", "LOAD"])
}

/// Has it show the certificate that lies in its files now; connections stay.
pub fn take_certificate(layout: &Layout, workload: &str) -> Result<(), Error> {
    let data = layout.place(workload).join("data");
    let (cert, key) = (data.join("tls.pem").display().to_string(), data.join("tls.key").display().to_string());
    Conversation::open(layout, workload)?.must(&["CONFIG", "SET", "tls-cert-file", &cert, "tls-key-file", &key])
}

fn id_of(workload: &str) -> Result<ResourceId, Error> {
    let id = model::plan::resource_of(workload).parse::<ResourceId>().ok().filter(|id| id.kind == Kind::Redis);
    id.ok_or_else(|| Error::Fault(format!("{workload} is no Redis server")))
}

struct Conversation {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

impl Conversation {
    /// Signs in as the supervisor.
    fn open(layout: &Layout, workload: &str) -> Result<Self, Error> {
        let path = socket(layout, workload);
        let authority = Authority::open(&layout.folder)?;
        let password = password(&authority, &id_of(workload)?, ADMIN)?;
        let stream = UnixStream::connect(&path).map_err(Error::file("connect to", &path))?;
        stream
            .set_read_timeout(Some(ANSWER_WITHIN))
            .and_then(|()| stream.set_write_timeout(Some(ANSWER_WITHIN)))
            .map_err(Error::file("connect to", &path))?;
        let mut own = Self { stream: BufReader::new(stream), path };
        own.must(&["AUTH", ADMIN, password.expose()])?;
        Ok(own)
    }

    fn must(&mut self, words: &[&str]) -> Result<(), Error> {
        let answer = self.say(words)?;
        if answer == "+OK" {
            return Ok(());
        }
        Err(Error::Fault(format!("{} answered {} with {answer}", self.path.display(), words.first().unwrap_or(&""))))
    }

    /// One command; the first line of its answer.
    fn say(&mut self, words: &[&str]) -> Result<String, Error> {
        let failed = Error::file("talk over", &self.path);
        let text = zeroize::Zeroizing::new(command(words));
        let mut line = String::new();
        let talked = self
            .stream
            .get_mut()
            .write_all(text.as_bytes())
            .and_then(|()| self.stream.by_ref().take(LINE_BYTES).read_line(&mut line));
        talked.map_err(failed)?;
        Ok(line.trim_end().to_owned())
    }
}

/// A command as the protocol has it (RESP2): an array of texts with their lengths.
fn command(words: &[&str]) -> String {
    let texts = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
    format!("*{}\r\n{}", words.len(), texts.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_written_with_their_lengths() {
        assert_eq!(command(&["AUTH", "stamp", "ü"]), "*3\r\n$4\r\nAUTH\r\n$5\r\nstamp\r\n$2\r\nü\r\n");
    }
}
