//! A system small enough to come up ten thousand times, and one life of a supervisor over it.

use std::sync::Arc;

use api::supervisor::{Event, StampRef, UpRequest};
use supervisor::Supervisor;

use super::{
    check::{STAMP, SYSTEM},
    world::World,
};

/// What changes from one `up` to the next: a setting (replaces the service), an access (the vault reloads), one service more
/// or less, a copy more, another migration.
pub const VARIANTS: usize = 4;

pub fn manifest(variant: usize) -> String {
    let greeting = ["one", "two", "one", "one"][variant];
    let migration = ["0", "0", "1", "0"][variant];
    let copies = [1, 1, 2, 1][variant];
    let worker =
        if variant == 1 { "[service.worker]\nrun = [\"sleep\", \"1000\"]\nneeds = [\"vault.main\"]\n" } else { "" };
    let access = if variant == 3 { ", \"Key\"" } else { "" };
    format!(
        r#"stamp = 1
system = "{SYSTEM}"
[stamps.{STAMP}]
[edge]
routes = [{{ path = "/", to = "service.web" }}]
[service.web]
run = ["sleep", "1000"]
port = 8080
health = "/health"
needs = ["postgres.main", "vault.main"]
scale = {{ min = {copies}, max = 2 }}
[service.web.env]
GREETING = "{greeting}"
DATABASE = "@Microsoft.KeyVault(VaultName=main;SecretName=Db)"
[service.web.migrate]
run = ["sleep", "{migration}"]
env = {{ DATABASE = "@Microsoft.KeyVault(VaultName=main;SecretName=Db--Owner)" }}
{worker}
[postgres.main]
version = {{ want = 16 }}
access = [{{ to = "service.web", right = "read-write" }}, {{ to = "service.web.migrate", right = "owner" }}]
[vault.main]
access = [
  {{ to = "service.web", role = "Key Vault Secrets User", secrets = ["Db"{access}] }},
  {{ to = "service.web.migrate", role = "Key Vault Secrets User", secrets = ["Db--Owner"] }},
]
[vault.main.secrets]
Db = {{ from = "postgres.main", what = "connection-string", for = "service.web" }}
Db--Owner = {{ from = "postgres.main", what = "connection-string", for = "service.web.migrate" }}
Key = {{ generate = "32B" }}
[identity.main]
groups = ["admin"]
admin_group = "admin"
"#
    )
}

/// What runs once a variant is up, sorted.
pub fn workloads(variant: usize) -> Vec<&'static str> {
    let mut all = vec!["edge", "identity.main", "postgres.main", "service.web", "vault.main"];
    match variant {
        1 => all.push("service.worker"),
        2 => all.push("service.web+2"),
        _ => {}
    }
    all.sort_unstable();
    all
}

pub fn request(world: &World, manifest: String) -> UpRequest {
    UpRequest {
        folder: world.home.root().into(),
        manifest,
        stamp: STAMP.into(),
        programs: Vec::new(),
        clock_offset_ms: 0,
        certificate_seconds: 0,
    }
}

pub fn stamp() -> StampRef {
    StampRef { system: SYSTEM.into(), stamp: STAMP.into() }
}

/// What a person does in one life of a supervisor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wish {
    Up(usize),
    Down,
    Destroy,
    /// Nothing: the supervisor goes on by itself.
    Rest,
}

/// How a wish ended.
#[derive(Debug)]
pub enum End {
    Told(Event),
    /// There is no such stamp.
    Nothing,
    Killed,
}

/// One life: the supervisor starts over what the last one left, looks (unless the person is quicker), and does as wished.
pub fn live(world: &Arc<World>, kill_at: Option<u64>, quick: bool, wish: Wish) -> End {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let supervisor = world.supervisor(kill_at, true, false);
    // Killed, it drops every task where it stands; its threads end at their next act, which is refused.
    runtime.block_on(async {
        tokio::select! {
            biased;
            () = world.death() => End::Killed,
            end = wished(world, &supervisor, quick, wish) => if world.killed() { End::Killed } else { end },
        }
    })
}

async fn wished(world: &World, supervisor: &Supervisor, quick: bool, wish: Wish) -> End {
    let going_on = if quick { Vec::new() } else { supervisor.look(true).await.unwrap() };
    let feed = match wish {
        Wish::Up(variant) => supervisor.up(request(world, manifest(variant))).await,
        Wish::Down => supervisor.end(stamp(), false).await,
        Wish::Destroy => supervisor.end(stamp(), true).await,
        Wish::Rest => match going_on.into_iter().next() {
            Some(feed) => Ok(feed),
            None => return End::Nothing,
        },
    };
    match feed {
        Ok(feed) => End::Told(feed.end().await.unwrap()),
        Err(supervisor::Error::NoStamp { .. }) => End::Nothing,
        // Killed before it could answer; anything else is for the test to judge.
        Err(error) => End::Told(Event::Failed(error.failure())),
    }
}

/// The steps of the plan that a fresh supervisor makes, and how it ended.
pub fn again(world: &Arc<World>, manifest: String, alone: bool, twice: bool) -> (Vec<String>, Event) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let supervisor = world.supervisor(None, alone, twice);
    runtime.block_on(async {
        let feed = supervisor.up(request(world, manifest)).await.unwrap();
        let end = feed.end().await.unwrap();
        let Some(Event::Plan { steps }) = feed.at(0).await else { return (Vec::new(), end) };
        (steps.into_iter().map(|step| step.id).collect(), end)
    })
}
