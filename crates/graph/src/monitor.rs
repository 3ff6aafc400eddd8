//! The monitor: asks each member how it is, and says how the cluster is. It holds no right in the store and takes no part in
//! votes; with it gone nothing changes but that nobody watches.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use api::graph::{GraphConfig, GraphHealth, GraphPart, GraphPulse, GraphState, SeenMember};
use service::Shutdown;

use crate::{
    peer::{Ask, Links, Reply},
    vote::most,
};

/// A look at all members this often.
const LOOK: Duration = Duration::from_secs(1);

/// What was seen last.
#[derive(Default)]
pub(crate) struct Monitor {
    seen: Mutex<GraphHealth>,
}

impl Monitor {
    pub fn health(&self) -> GraphHealth {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks until the end is asked for; tells each change.
    pub async fn watch(&self, config: &GraphConfig, links: &Links, shutdown: &Shutdown) {
        loop {
            let mut asked = tokio::task::JoinSet::new();
            for (n, member) in config.members.iter().cloned().enumerate() {
                let links = links.clone();
                asked.spawn(async move { (n, links.ask(&member, &Ask::Pulse).await) });
            }
            let mut pulses: Vec<Result<GraphPulse, String>> =
                vec![Err("it was not asked".into()); config.members.len()];
            while let Some(answer) = asked.join_next().await {
                let Ok((n, answer)) = answer else { continue };
                pulses[n] = match answer {
                    Ok(Reply::Pulse(pulse)) => Ok(pulse),
                    Ok(_) => Err("it answers something else".into()),
                    Err(error) => Err(format!("it does not answer: {error}")),
                };
            }
            let now = judge(config, &pulses);
            let before = std::mem::replace(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner), now.clone());
            tell(&before, &now);
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = shutdown.asked() => return,
            }
        }
    }
}

fn tell(before: &GraphHealth, now: &GraphHealth) {
    for member in &now.members {
        let was = before.members.iter().find(|m| m.name == member.name).is_none_or(|m| m.functions);
        match (was, member.functions) {
            (true, false) => tracing::error!(
                member = member.name,
                zone = member.zone,
                trouble = member.trouble,
                "a member does not function"
            ),
            (false, true) => tracing::warn!(member = member.name, zone = member.zone, "a member functions again"),
            _ => {}
        }
    }
    if before.state != now.state || before.leader != now.leader {
        tracing::warn!(state = ?now.state, leader = now.leader.as_deref().unwrap_or("nobody"), "the cluster has changed");
    }
}

/// The cluster by what its members say. Who leads is who says so of the newest term and has most behind it.
pub(crate) fn judge(config: &GraphConfig, pulses: &[Result<GraphPulse, String>]) -> GraphHealth {
    let newest = pulses.iter().flatten().map(|p| p.term).max().unwrap_or(0);
    let leads = |p: &GraphPulse| p.part == GraphPart::Leader && p.term == newest && p.joined;
    let at = pulses.iter().position(|p| p.as_ref().is_ok_and(leads));
    let ahead = at.and_then(|n| pulses[n].as_ref().ok()).map_or(0, |p| p.position);
    let members: Vec<SeenMember> = config
        .members
        .iter()
        .zip(pulses)
        .map(|(member, pulse)| {
            let (name, zone) = (member.name.clone(), member.zone.clone());
            match pulse {
                Err(trouble) => SeenMember { name, zone, trouble: trouble.clone(), ..SeenMember::default() },
                Ok(pulse) => {
                    let functions = matches!(pulse.part, GraphPart::Leader | GraphPart::Follower) && pulse.joined;
                    let trouble = if functions { String::new() } else { pulse.doing.clone() };
                    let behind = ahead.saturating_sub(pulse.position);
                    SeenMember { name, zone, functions, pulse: pulse.clone(), behind, trouble }
                }
            }
        })
        .collect();
    let well = members.iter().filter(|m| m.functions).count();
    let state = match at {
        Some(_) if well == members.len() => GraphState::Healthy,
        Some(_) if well >= most(members.len()) => GraphState::Degraded,
        _ => GraphState::Lost,
    };
    GraphHealth { state, leader: at.map(|n| config.members[n].name.clone()), members }
}

/// The monitor as a task's companion.
pub(crate) type Watching = Arc<Monitor>;
