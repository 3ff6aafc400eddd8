//! What a story that runs alone may do: have parts changed, stopped, ended and made anew, secrets set, a stand-in listen in the
//! place of another part. All of it is taken back at its end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use api::supervisor::GroupsRequest;
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{Answer, Step, Teller};
use crate::{
    Miss, Site,
    checks::{members::status, vault::call},
    harm, miss, must,
    site::until_in,
};

/// What could not start tries again after pauses that grow.
const STARTS: Duration = Duration::from_secs(120);

#[derive(Default, Deserialize)]
pub(super) struct Act {
    /// TOML laid on the manifest, in place of what was laid on it before; empty is the manifest as it is.
    pub change: Option<String>,
    /// The process of a resource, in each of its copies, is ended at once.
    kill: Option<String>,
    /// So are those of each of these, and it is waited for until every copy runs anew.
    #[serde(default)]
    restart: Vec<String>,
    /// They do not come up again, and their status says this.
    note: Option<String>,
    /// Every process of a workload is stopped (SIGSTOP), or goes on.
    pause: Option<String>,
    resume: Option<String>,
    /// The stamp is taken down, the folders of these workloads are removed with all they hold, and it comes up again.
    #[serde(default)]
    recreate: Vec<String>,
    /// A file in `{scratch}` and its text.
    write: Option<(String, String)>,
    /// `vault.main/NAME`: gets `value`, or one that nobody knows.
    set: Option<String>,
    value: Option<String>,
    /// `vault.main/NAME`: is deleted.
    delete: Option<String>,
    /// A stand-in of this name listens from now on, and answers everything with 200; `{name}` is its address.
    listen: Option<String>,
    /// Somebody of `people` who must not get in.
    pub turned_away: Option<String>,
    /// Somebody of `people` is in exactly these groups from now on, and signs in anew, wherever that leads.
    #[serde(default)]
    regroup: BTreeMap<String, Vec<String>>,
}

impl Act {
    pub fn acts(&self) -> bool {
        let words = [&self.change, &self.kill, &self.pause, &self.resume, &self.set, &self.delete, &self.listen];
        words.iter().any(|word| word.is_some())
            || self.write.is_some()
            || self.turned_away.is_some()
            || !(self.restart.is_empty() && self.recreate.is_empty() && self.regroup.is_empty())
    }

    pub fn fault(&self) -> Option<&'static str> {
        match () {
            () if self.note.is_some() && self.restart.is_empty() => Some("`note` is of a `restart`"),
            () if self.value.is_some() && self.set.is_none() => Some("`value` is of a `set`"),
            () => None,
        }
    }
}

/// What is to be put back.
#[derive(Default)]
pub(super) struct Done {
    changed: bool,
    /// What is laid on the manifest now.
    laid: String,
    paused: Vec<(String, Vec<u32>)>,
    secrets: Vec<Secret>,
    /// What has read a changed secret, or could not start.
    restarted: BTreeSet<String>,
    heard: BTreeMap<String, Arc<Mutex<Vec<Request>>>>,
}

/// A secret as it was.
struct Secret {
    vault: String,
    path: String,
    value: String,
    deleted: bool,
}

/// A request that a stand-in heard.
struct Request {
    line: String,
    headers: http::HeaderMap,
    body: String,
}

impl Teller<'_> {
    pub(super) async fn act(&mut self, step: &Step) -> Result<(), Miss> {
        let act = &step.act;
        if let Some((name, text)) = &act.write {
            use std::os::unix::fs::PermissionsExt as _;
            let (path, text) = (self.site.scratch.join(name), self.fill(text)?);
            std::fs::write(&path, text)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))?;
        }
        if let Some(change) = &act.change {
            self.change(step, change).await?;
        }
        if let Some(name) = &act.listen {
            let url = self.done.listen(name).await?;
            self.kept.insert(name.clone(), url);
        }
        if let Some(secret) = &act.set {
            let value = act.value.as_deref().map(|value| self.fill(value)).transpose()?;
            self.done.set(&self.site, secret, value).await?;
            self.seen.push(format!("{secret} is another"));
        }
        if let Some(secret) = &act.delete {
            self.done.delete(&self.site, secret).await?;
            self.seen.push(format!("{secret} is deleted"));
        }
        if let Some(resource) = &act.kill {
            let ended = end(&self.site, resource).await?;
            self.seen.push(format!("{} process(es) of {resource} ended", ended.len()));
        }
        if let Some(workload) = &act.pause {
            // Whoever was ended before has another process by now.
            self.site = match self.done.laid.as_str() {
                "" => self.lab.restore(self.on).await?,
                laid => self.lab.changed(self.on, laid).await?,
            };
            let sent = harm::all_of(&self.site, workload, Signal::STOP)?;
            self.seen.push(format!("{workload} stopped ({} processes)", sent.len()));
            self.done.paused.push((workload.clone(), sent));
        }
        if let Some(workload) = &act.resume {
            self.done.go_on(Some(workload));
            self.seen.push(format!("{workload} goes on"));
        }
        for resource in &act.restart {
            self.restart(resource, act.note.as_deref()).await?;
        }
        if !act.recreate.is_empty() {
            self.recreate(&act.recreate).await?;
        }
        for (name, groups) in &act.regroup {
            let email = self.who(name).await?.email.clone();
            let api::supervisor::StampRef { system, stamp } = self.site.of();
            let ask = GroupsRequest { system, stamp, email, groups: groups.clone() };
            let user: api::identity::User = self.site.supervisor.post("/user/groups", &ask).await?;
            must!(user.groups == *groups, "{name} is in {:?}, not in {groups:?}", user.groups);
            self.who(name).await?.sign_in_anew().await?;
            self.seen.push(format!("{name} is in {groups:?} and has signed in anew"));
        }
        if let Some(name) = &act.turned_away {
            let Some(person) = self.invited.get_mut(name) else { miss!("{name} was not invited") };
            match person.sign_in().await {
                Err(Miss::Failed(why)) => self.seen.push(format!("{name} is turned away: {why}")),
                Err(other) => return Err(other),
                Ok(()) => miss!("{name} signs in"),
            }
        }
        Ok(())
    }

    /// Lays TOML on the manifest; what is refused leaves all as it was.
    async fn change(&mut self, step: &Step, change: &str) -> Result<(), Miss> {
        let change = self.fill(change)?;
        self.done.changed = true;
        let changed = self.lab.changed(self.on, &change).await;
        match (&step.refused, changed) {
            (None, changed) => {
                self.site = changed?;
                self.done.laid.clone_from(&change);
            }
            (Some(text), Err(Miss::Failed(why))) => {
                let text = self.fill(text)?;
                must!(why.contains(&text), "it is refused, but not with `{text}`: {why}");
                let line = why.lines().find(|line| line.contains(&text)).unwrap_or_default();
                self.seen.push(format!("`{change}` is refused: {}", line.trim()));
                return Ok(());
            }
            (Some(_), Err(other)) => return Err(other),
            (Some(text), Ok(_)) => miss!("`{change}` is not refused with `{text}`"),
        }
        self.seen.push(format!("with `{}`", change.trim().replace('\n', "; ")));
        Ok(())
    }

    /// Ends the copies of a resource. They start anew; with `note` they must not, and the status says that.
    async fn restart(&mut self, resource: &str, note: Option<&str>) -> Result<(), Miss> {
        self.done.restarted.insert(resource.to_owned());
        let before = end(&self.site, resource).await?;
        match note {
            None => started(&self.site, resource, &before).await?,
            Some(note) => {
                let what = format!("a word of why {resource} does not start");
                let told = until_in(&what, Duration::from_secs(60), async || {
                    let copies = copies(&self.site, resource).await?;
                    let Some((state, _, told)) = copies.first() else { miss!("there is no {resource}") };
                    must!(state != "ready" && told.contains(note), "it is {state}: {told}");
                    Ok(told.clone())
                });
                self.seen.push(format!("{resource} does not start: {}", told.await?));
                return Ok(());
            }
        }
        self.seen.push(format!("{} process(es) of {resource} ended and started anew", before.len()));
        Ok(())
    }

    async fn recreate(&mut self, workloads: &[String]) -> Result<(), Miss> {
        let places: Vec<_> = workloads.iter().filter_map(|name| self.site.places.get(name)).cloned().collect();
        must!(places.len() == workloads.len(), "not all of {workloads:?} are there");
        self.lab.down(self.on).await?;
        for place in &places {
            std::fs::remove_dir_all(place)?;
        }
        self.site = self.lab.restore(self.on).await?;
        self.seen.push(format!("{} were removed with their folders and made anew", workloads.join(", ")));
        Ok(())
    }

    /// Puts everything back: who was stopped goes on, secrets have their values again, and who read them is started anew.
    pub(super) async fn undo(&mut self) -> Result<(), Miss> {
        self.done.go_on(None);
        for Secret { vault, path, value, deleted } in self.done.secrets.drain(..).rev() {
            let client = self.site.vault_at(&vault, "supervisor").await?;
            if deleted {
                call(&client, "POST", &format!("/deleted{}/recover", path.trim_start_matches('/')), Value::Null)
                    .await?;
            }
            let (status, _) = call(&client, "PUT", &path, json!({ "value": value })).await?;
            must!(status == 200, "putting {vault}{path} back is answered {status}");
        }
        for resource in std::mem::take(&mut self.done.restarted) {
            // One that could not start may have no process just now.
            let old = end(&self.site, &resource).await.unwrap_or_default();
            started(&self.site, &resource, &old).await?;
        }
        if self.done.changed {
            self.lab.restore(self.on).await?;
        }
        Ok(())
    }
}

/// The vault and the path of `vault.main/NAME`.
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

impl Done {
    async fn remember(&mut self, site: &Site, secret: &str, deleted: bool) -> Result<(), Miss> {
        let (vault, path) = parts(secret)?;
        if let Some(known) = self.secrets.iter_mut().find(|c| c.vault == vault && c.path == path) {
            known.deleted |= deleted;
            return Ok(());
        }
        let value = value_of(site, secret).await?;
        self.secrets.push(Secret { vault: vault.to_owned(), path, value, deleted });
        Ok(())
    }

    async fn set(&mut self, site: &Site, secret: &str, value: Option<String>) -> Result<(), Miss> {
        self.remember(site, secret, false).await?;
        let (vault, path) = parts(secret)?;
        let random = || format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        let body = json!({ "value": value.unwrap_or_else(random) });
        let (status, _) = call(&site.vault_at(vault, "supervisor").await?, "PUT", &path, body).await?;
        must!(status == 200, "setting {secret} is answered {status}");
        Ok(())
    }

    async fn delete(&mut self, site: &Site, secret: &str) -> Result<(), Miss> {
        self.remember(site, secret, true).await?;
        let (vault, path) = parts(secret)?;
        let (status, _) = call(&site.vault_at(vault, "supervisor").await?, "DELETE", &path, Value::Null).await?;
        must!(status == 200, "deleting {secret} is answered {status}");
        Ok(())
    }

    async fn listen(&mut self, name: &str) -> Result<String, Miss> {
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
        Ok(Answer { status: 200, headers: found.headers.clone(), text: found.body.clone(), ..Answer::default() })
    }

    /// Lets a workload go on, or all of them.
    fn go_on(&mut self, workload: Option<&str>) {
        self.paused.retain(|(name, pids)| {
            let meant = workload.is_none_or(|workload| workload == name);
            if meant {
                for pid in pids {
                    // One that has ended meanwhile needs nothing.
                    let _ = harm::signal(*pid, Signal::CONT);
                }
            }
            !meant
        });
    }
}

/// State, process and note of each copy of a resource.
async fn copies(site: &Site, resource: &str) -> Result<Vec<(String, u32, String)>, Miss> {
    let now = status(site).await?;
    let own = |name: &str| name == resource || name.strip_prefix(resource).is_some_and(|rest| rest.starts_with('+'));
    let of = now.resources.into_iter().filter(|r| own(&r.name));
    // Its shim comes first, then the program.
    Ok(of.map(|r| (r.state, r.pids.get(1).copied().unwrap_or_default(), r.note)).collect())
}

/// Ends the process of each copy at once; which these were.
async fn end(site: &Site, resource: &str) -> Result<Vec<u32>, Miss> {
    let copies = copies(site, resource).await?;
    let pids: Vec<u32> = copies.iter().map(|(_, pid, _)| *pid).filter(|pid| *pid != 0).collect();
    must!(!pids.is_empty() && pids.len() == copies.len(), "{resource} does not run: {copies:?}");
    for pid in &pids {
        harm::kill(*pid)?;
    }
    Ok(pids)
}

async fn started(site: &Site, resource: &str, old: &[u32]) -> Result<(), Miss> {
    until_in(&format!("every copy of {resource} to run anew"), STARTS, async || {
        let now = copies(site, resource).await?;
        let anew = |(state, pid, _): &(String, u32, String)| state == "ready" && *pid != 0 && !old.contains(pid);
        must!(!now.is_empty() && now.iter().all(anew), "{old:?} are {now:?}");
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
        let mut lines = head.lines();
        let line = lines.next().unwrap_or_default().to_owned();
        let pairs = lines.filter_map(|line| line.split_once(':'));
        let headers: http::HeaderMap =
            pairs.filter_map(|(name, value)| Some((name.parse().ok()?, value.trim().parse().ok()?))).collect();
        let length = headers.get(http::header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        if body.len() >= length.unwrap_or(0_usize) {
            break Request { line, headers, body: body.to_owned() };
        }
    };
    heard.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    let answer =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
    let _ = stream.write_all(answer.as_bytes()).await;
}
