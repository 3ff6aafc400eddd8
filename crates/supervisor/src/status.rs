//! What a stamp is now, as seen on the machine.

use std::{collections::BTreeMap, sync::Arc};

use api::{
    client::Client,
    graph::{GraphHealth, GraphPart, GraphState},
    member::Part,
    shim::WorkloadState,
    supervisor::{MemberStatus, ResourceStatus, Status},
};
use model::plan;

use crate::{
    Error,
    compose::Ready,
    failover,
    journal::{StampRow, Wanted},
    layout::Layout,
    lead, network, ready,
    reconcile::{blocking, scene_of, system_of},
    stamp::{Ground, What},
    storage,
};

/// How long a member of a graph store may take to say how it is.
const ASK: std::time::Duration = std::time::Duration::from_secs(1);

/// Looks at every workload of the stamp.
pub async fn status(ground: &Arc<Ground>, row: &StampRow) -> Result<Status, Error> {
    let layout = Layout::read(&ground.home, &ground.journal, &ground.machine, row)?;
    let system = system_of(ground, row)?;
    let composed = scene_of(ground, row, &system, &layout)?;
    let members = members(ground, row, &system, &layout).await?;
    let mut resources = Vec::new();
    let mut all_ready = true;
    for one in &composed {
        let shim = ready::shim(&layout, &one.workload).await;
        let mut awaited = None;
        let state = match &shim {
            None => "stopped".to_owned(),
            Some(status) => match ready::check(&layout, &one.workload, &one.ready, Some(status)).await {
                Ok(()) => "ready".into(),
                Err(_) if status.state == WorkloadState::BackOff => "restarting".into(),
                Err(what) => {
                    awaited = Some(what);
                    "starting".into()
                }
            },
        };
        all_ready &= state == "ready";
        let mut note = shim.as_ref().and_then(|s| s.trouble.clone()).unwrap_or_default();
        if let Some(status) = shim.as_ref().filter(|s| s.restarts > 0 && note.is_empty() && s.last_exit.is_some()) {
            note = format!("ended before with {}", ready::how(status));
        }
        if let Some(awaited) = awaited.filter(|_| note.is_empty()) {
            note = format!("awaited: {awaited}");
        }
        if note.is_empty() && one.template.is_some() && state == "ready" {
            note = crate::backups::note(&layout, &one.workload).await;
        }
        let id: Option<model::ResourceId> = plan::resource_of(&one.workload).parse().ok();
        let declared = id.and_then(|id| match system.resources.get(&id) {
            Some(model::Resource::Postgres(postgres)) => Some((id, postgres.storage)),
            _ => None,
        });
        let storage = declared
            .and_then(|(id, declared)| storage::status(&ground.journal, row, &layout, &id, &one.workload, declared));
        let full = storage.as_ref().map(|s| storage::note(s, &one.workload)).unwrap_or_default();
        if !full.is_empty() {
            note = if state == "ready" { full } else { format!("{full}; {note}") };
        }
        if note.is_empty() && one.workload.starts_with("registry.") && state == "ready" {
            note = crate::images::note(&layout, &one.workload).await;
        }
        let stands = {
            let (ground, row, layout, name) = (ground.clone(), row.clone(), layout.clone(), one.workload.clone());
            let (system, ready) = (system.clone(), state == "ready");
            let look = move || {
                let links = crate::border::trouble(&ground, &row, &system, &layout, &name)?;
                let network = network::trouble(&ground, &row, &layout, &name, ready)?;
                Ok(links.into_iter().chain(network).reduce(|one, other| format!("{one}; {other}")))
            };
            blocking(look).await?
        };
        if let Some(trouble) = stands {
            note = if note.is_empty() { trouble } else { format!("{trouble}; {note}") };
        }
        let (pids, pss) = processes(ground, &layout, &one.workload, shim.as_ref()).await;
        let ip = layout.front(&one.workload)?;
        let address = match (&one.ready, one.listeners.first()) {
            (_, Some((_, at))) => at.to_string(),
            (Ready::Http { at, .. } | Ready::Port(at), None) => at.to_string(),
            _ => own_port(&system, &layout, one).map_or_else(|| ip.to_string(), |port| format!("{ip}:{port}")),
        };
        resources.push(ResourceStatus {
            address,
            place: layout.closed.as_ref().and_then(|closed| closed.place(&one.workload)),
            name: one.workload.clone(),
            state,
            pids,
            pss_bytes: pss,
            restarts: shim.as_ref().map_or(0, |s| s.restarts),
            note,
            storage,
            member: members.get(&one.workload).cloned(),
        });
    }
    for (name, state, note) in crate::jobs::states(ground, row)? {
        let shim = ready::shim(&layout, &name).await;
        let (pids, pss) = match &shim {
            Some(_) => processes(ground, &layout, &name, shim.as_ref()).await,
            None => (Vec::new(), 0),
        };
        resources.push(ResourceStatus {
            address: layout.front(&name).map(|ip| ip.to_string()).unwrap_or_default(),
            place: layout.closed.as_ref().and_then(|closed| closed.place(&name)),
            name,
            state: state.into(),
            pids,
            pss_bytes: pss,
            note,
            ..ResourceStatus::default()
        });
    }
    let busy = ground.stamp(&row.system, &row.stamp).current();
    let state = match (row.wanted, busy.map(|w| w.what), all_ready) {
        (_, Some(What::Down | What::Destroy), _) => "stopping",
        (Wanted::Up, _, true) => "ready",
        (Wanted::Up, Some(What::Up(_)), false) => "starting",
        (Wanted::Up, _, false) => "degraded",
        (_, Some(_), _) => "starting",
        (_, None, _) => "stopped",
    };
    let mut urls = BTreeMap::new();
    for id in system.resources.keys().filter(|id| id.kind.is_open_to_people()) {
        urls.insert(id.to_string(), layout.url(id)?);
    }
    let own = std::process::id();
    Ok(Status {
        system: row.system.clone(),
        stamp: row.stamp.clone(),
        state: state.into(),
        urls,
        ca: layout.ca(),
        groups: groups(&system, &resources),
        resources,
        network: network::in_words(ground, &system, &layout),
        supervisor_pid: own,
        supervisor_pss_bytes: drivers::proc::pss_bytes(own).unwrap_or(0),
    })
}

/// The declared groups, each with those of the workloads that belong to a resource it holds.
fn groups(system: &model::System, resources: &[ResourceStatus]) -> BTreeMap<String, Vec<String>> {
    let of = |group: &model::system::Group| {
        let held = |name: &str| plan::resource_of(name).parse().is_ok_and(|id| group.members.contains(&id));
        resources.iter().filter(|r| held(&r.name)).map(|r| r.name.clone()).collect()
    };
    system.groups.iter().map(|(name, group)| (name.clone(), of(group))).collect()
}

/// How the members of each database with several stand.
async fn members(
    ground: &Ground,
    row: &StampRow,
    system: &model::System,
    layout: &Layout,
) -> Result<BTreeMap<String, MemberStatus>, Error> {
    let mut all = BTreeMap::new();
    for (id, postgres) in lead::groups(system) {
        let leads = lead::primary(ground, layout, id)?;
        let primary = failover::pulse(layout, &leads).await.unwrap_or_default();
        for n in 1..=postgres.members() {
            let workload = plan::workload(id, n);
            let pulse = match workload == leads {
                true => primary.clone(),
                false => failover::pulse(layout, &workload).await.unwrap_or_default(),
            };
            let follower = primary.followers.iter().find(|f| f.name == workload);
            let part = match pulse.part {
                Part::Primary => "primary",
                Part::Standby if postgres.only_reads(n) => "replica",
                Part::Standby => "standby",
                Part::None => "none",
            };
            let doing = match lead::saga(ground, &row.system, &row.stamp, id)? {
                Some(saga) => format!("who leads is changing: {}", saga.why),
                None => pulse.doing,
            };
            let status = MemberStatus {
                part: part.into(),
                zone: postgres.zone(n),
                term: pulse.term,
                timeline: pulse.timeline,
                lag_bytes: follower.map(|f| f.behind_bytes),
                lag_ms: follower.map(|f| f.behind_ms),
                synchronous: primary.synchronous_with.contains(&workload),
                doing,
            };
            all.insert(workload, status);
        }
    }
    graphs(system, layout, &mut all).await;
    Ok(all)
}

/// The port of who opens the listener itself: a database, Redis.
fn own_port(system: &model::System, layout: &Layout, one: &crate::compose::Composed) -> Option<u16> {
    let id: Option<model::ResourceId> = plan::resource_of(&one.workload).parse().ok();
    match system.resources.get(&id?) {
        Some(model::Resource::Redis(redis)) => Some(layout.port(redis.port)),
        _ => database_port(one),
    }
}

/// How the members of each graph store stand, by what they say, and how their monitor sees them.
async fn graphs(system: &model::System, layout: &Layout, all: &mut BTreeMap<String, MemberStatus>) {
    let ask = |workload: &str| Client::unix(layout.control(workload)).timeout(ASK);
    for (id, resource) in &system.resources {
        let model::Resource::Graph(graph) = resource else { continue };
        if graph.members < 2 && !graph.monitor {
            continue;
        }
        let workloads = plan::workloads(id, resource);
        let mut pulses = BTreeMap::new();
        for workload in workloads.iter().filter(|w| !plan::watches(w)) {
            pulses.insert(workload, api::graph::pulse(&ask(workload)).await.unwrap_or_default());
        }
        for workload in &workloads {
            let status = match pulses.get(workload) {
                Some(pulse) => MemberStatus {
                    part: match pulse.part {
                        GraphPart::Leader => "leader",
                        GraphPart::Follower => "follower",
                        GraphPart::Alone => "alone",
                        GraphPart::None => "none",
                    }
                    .into(),
                    zone: graph.zone(plan::number_of(workload)),
                    term: pulse.term,
                    timeline: 0,
                    lag_bytes: None,
                    lag_ms: None,
                    synchronous: pulse.joined,
                    doing: pulse.doing.clone(),
                },
                None => {
                    let seen = api::graph::cluster(&ask(workload)).await;
                    let doing = match seen {
                        Ok(health) => in_words(&health),
                        Err(_) => "it does not answer".into(),
                    };
                    MemberStatus { part: "monitor".into(), doing, ..MemberStatus::default() }
                }
            };
            all.insert(workload.clone(), status);
        }
    }
}

fn in_words(health: &GraphHealth) -> String {
    let state = match health.state {
        GraphState::Healthy => "healthy",
        GraphState::Degraded => "degraded",
        GraphState::Lost => "lost",
    };
    let troubles: Vec<String> = health
        .members
        .iter()
        .filter(|m| !m.functions)
        .map(|m| format!("{} does not function: {}", m.name, m.trouble))
        .collect();
    let leader = health.leader.as_ref().map_or("nobody leads".to_owned(), |l| format!("{l} leads"));
    [vec![format!("the cluster is {state}, {leader}")], troubles].concat().join("; ")
}

fn database_port(one: &crate::compose::Composed) -> Option<u16> {
    one.template.as_ref()?;
    let file: api::context::RoleFile<api::postgres::PostgresConfig> =
        serde_json::from_slice(one.role.as_ref()?).ok()?;
    Some(file.config.port)
}

async fn processes(
    ground: &Arc<Ground>,
    layout: &Layout,
    workload: &str,
    shim: Option<&api::shim::ShimStatus>,
) -> (Vec<u32>, u64) {
    let (ground, mark, user) = (ground.clone(), layout.mark(workload), layout.user(workload));
    let first: Vec<u32> = shim.map(|s| std::iter::once(s.shim_pid).chain(s.pid).collect()).unwrap_or_default();
    let looked = tokio::task::spawn_blocking(move || {
        let mut pids = first.clone();
        pids.extend(ground.driver.processes(&mark, user).into_iter().filter(|p| !first.contains(p)));
        let pss = pids.iter().filter_map(|p| drivers::proc::pss_bytes(*p)).sum();
        (pids, pss)
    });
    looked.await.unwrap_or_default()
}
