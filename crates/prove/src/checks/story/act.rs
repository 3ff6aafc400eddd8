//! What a story that runs alone may do: change a secret, end a service so that it starts anew with it, listen in the place of
//! another part. All of it is taken back at its end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::Answer;
use crate::{
    Miss, Site,
    checks::{members::status, vault::call},
    harm::kill,
    miss, must,
    site::until_in,
};

/// Who could not start tries again after pauses that grow.
const STARTS: Duration = Duration::from_secs(120);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Act {
    /// `vault.main/NAME`: gets `value`, or one that nobody knows, until the story ends.
    pub set: Option<String>,
    pub value: Option<String>,
    /// `vault.main/NAME`: deleted until the story ends.
    pub delete: Option<String>,
    /// Services that are ended, and start anew by themselves.
    #[serde(default)]
    pub restart: Vec<String>,
    /// They do not come up again, and their status says this.
    pub note: Option<String>,
    /// A stand-in of this name listens from now on, and answers everything with 200; `{name}` is its address.
    pub listen: Option<String>,
    /// Somebody of `people` who must not get in.
    pub turned_away: Option<String>,
}

struct Changed {
    vault: String,
    path: String,
    value: String,
    deleted: bool,
}

/// A request that a stand-in heard.
struct Request {
    line: String,
    head: String,
    body: String,
}

#[derive(Default)]
pub(super) struct Hands {
    changed: Vec<Changed>,
    ended: BTreeSet<String>,
    heard: BTreeMap<String, Arc<Mutex<Vec<Request>>>>,
}

fn parts(secret: &str) -> Result<(&str, String), Miss> {
    let parted = secret.split_once('/').map(|(vault, name)| (vault, format!("/secrets/{name}")));
    parted.ok_or_else(|| Miss::Failed(format!("`{secret}` is no `vault.main/NAME`")))
}

/// The value of `vault.main/NAME`.
pub(super) async fn value_of(site: &Site, secret: &str) -> Result<String, Miss> {
    let (vault, path) = parts(secret)?;
    let (status, body) = call(&site.vault_at(vault, "supervisor").await?, "GET", &path, Value::Null).await?;
    must!(status == 200, "{secret} is answered {status}");
    Ok(body["value"].as_str().unwrap_or_default().to_owned())
}

impl Hands {
    async fn remember(&mut self, site: &Site, secret: &str, deleted: bool) -> Result<(), Miss> {
        let (vault, path) = parts(secret)?;
        let known = self.changed.iter_mut().find(|c| c.vault == vault && c.path == path);
        if let Some(known) = known {
            known.deleted |= deleted;
            return Ok(());
        }
        let value = value_of(site, secret).await?;
        self.changed.push(Changed { vault: vault.to_owned(), path, value, deleted });
        Ok(())
    }

    pub async fn set(&mut self, site: &Site, secret: &str, value: Option<String>) -> Result<(), Miss> {
        self.remember(site, secret, false).await?;
        let (vault, path) = parts(secret)?;
        let random = || format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        let body = json!({ "value": value.unwrap_or_else(random) });
        let (status, _) = call(&site.vault_at(vault, "supervisor").await?, "PUT", &path, body).await?;
        must!(status == 200, "setting {secret} is answered {status}");
        Ok(())
    }

    pub async fn delete(&mut self, site: &Site, secret: &str) -> Result<(), Miss> {
        self.remember(site, secret, true).await?;
        let (vault, path) = parts(secret)?;
        let (status, _) = call(&site.vault_at(vault, "supervisor").await?, "DELETE", &path, Value::Null).await?;
        must!(status == 200, "deleting {secret} is answered {status}");
        Ok(())
    }

    /// Ends a service. It starts anew; with `note` it must not, and its status says that.
    pub async fn restart(&mut self, site: &Site, service: &str, note: Option<&str>) -> Result<String, Miss> {
        self.ended.insert(service.to_owned());
        let old = end(site, service).await?;
        match note {
            None => started(site, service, old).await.map(|()| format!("{service} started anew")),
            Some(note) => {
                let what = format!("a word of why {service} does not start");
                let told = until_in(&what, Duration::from_secs(60), async || {
                    let (state, _, told) = seen(site, service).await?;
                    must!(state != "ready" && told.contains(note), "it is {state}: {told}");
                    Ok(told)
                });
                Ok(format!("{service} does not start: {}", told.await?))
            }
        }
    }

    pub async fn listen(&mut self, name: &str) -> Result<String, Miss> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let heard = Arc::<Mutex<Vec<Request>>>::default();
        self.heard.insert(name.to_owned(), heard.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(hear(stream, heard.clone()));
            }
        });
        Ok(url)
    }

    /// The newest request `NAME METHOD /path`.
    pub fn heard(&self, what: &str) -> Result<Answer, Miss> {
        let Some((name, line)) = what.split_once(' ') else { miss!("`{what}` is no `NAME METHOD /path`") };
        let Some(heard) = self.heard.get(name) else { miss!("no stand-in is called {name}") };
        let heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(found) = heard.iter().rev().find(|r| r.line.starts_with(line)) else {
            let lines: BTreeSet<&str> = heard.iter().map(|r| r.line.as_str()).collect();
            miss!("{name} heard no {line}, only {lines:?}")
        };
        Ok(Answer { status: 200, head: found.head.clone(), text: found.body.clone() })
    }

    /// Secrets have their values again, and services the secrets.
    pub async fn put_back(&mut self, site: &Site) -> Result<(), Miss> {
        for Changed { vault, path, value, deleted } in self.changed.drain(..).rev() {
            let client = site.vault_at(&vault, "supervisor").await?;
            if deleted {
                call(&client, "POST", &format!("/deleted{}/recover", path.trim_start_matches('/')), Value::Null)
                    .await?;
            }
            let (status, _) = call(&client, "PUT", &path, json!({ "value": value })).await?;
            must!(status == 200, "putting {vault}{path} back is answered {status}");
        }
        for service in std::mem::take(&mut self.ended) {
            // One that could not start may have no process just now.
            let old = end(site, &service).await.unwrap_or_default();
            started(site, &service, old).await?;
        }
        Ok(())
    }
}

/// State, process and note of a service.
async fn seen(site: &Site, service: &str) -> Result<(String, u32, String), Miss> {
    let now = status(site).await?;
    let found = now.resources.into_iter().find(|r| r.name == format!("service.{service}"));
    let found = found.ok_or_else(|| Miss::Failed(format!("there is no service {service}")))?;
    Ok((found.state, found.pids.get(1).copied().unwrap_or_default(), found.note))
}

async fn end(site: &Site, service: &str) -> Result<u32, Miss> {
    let (_, pid, _) = seen(site, service).await?;
    must!(pid != 0, "{service} has no process");
    kill(pid)?;
    Ok(pid)
}

async fn started(site: &Site, service: &str, old: u32) -> Result<(), Miss> {
    until_in(&format!("{service} to start anew"), STARTS, async || {
        let (state, pid, note) = seen(site, service).await?;
        must!(state == "ready" && pid != 0 && pid != old, "it is {state}: {note}");
        Ok(())
    })
    .await
}

/// Reads one request, keeps it, and answers it.
async fn hear(mut stream: TcpStream, heard: Arc<Mutex<Vec<Request>>>) {
    let mut bytes = Vec::new();
    let mut piece = [0; 8192];
    let request = loop {
        let Ok(read @ 1..) = stream.read(&mut piece).await else { return };
        bytes.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let head = head.to_owned();
        let length =
            head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        if body.len() >= length.unwrap_or(0_usize) {
            let line = head.lines().next().unwrap_or_default().to_owned();
            break Request { line, head, body: body.to_owned() };
        }
    };
    heard.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    let answer =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
    let _ = stream.write_all(answer.as_bytes()).await;
}
