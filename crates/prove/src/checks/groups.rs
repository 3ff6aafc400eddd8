//! Resource groups of a live stamp: what they hold of what runs, and what goes on with only one of them, or without it.

use std::collections::{BTreeMap, BTreeSet};

use rustix::process::Signal;

use super::members::status;
use crate::{Lab, Miss, Seen, Site, claim::Call, harm::all_of, miss, must};

type Groups = BTreeMap<String, Vec<String>>;

/// The groups as the stamp tells them, by what runs.
async fn told(site: &Site) -> Result<Groups, Miss> {
    let groups = status(site).await?.groups;
    must!(!groups.is_empty(), "the stamp tells of no groups");
    Ok(groups)
}

fn words(groups: &Groups) -> String {
    groups.iter().map(|(name, all)| format!("{name} ({})", all.join(", "))).collect::<Vec<_>>().join("; ")
}

/// `groups_are(COUNT, NAME, ...)`: so many groups, and these among them, each with something that runs.
pub async fn are(lab: &Lab, on: &str, c: &Call) -> Seen {
    let groups = told(&*lab.site(on).await?).await?;
    let count: usize = c.argument(0, "").parse()?;
    must!(groups.len() == count, "there are {} groups: {}", groups.len(), words(&groups));
    for name in c.arguments.iter().skip(1) {
        let Some(holds) = groups.get(name) else { miss!("there is no group {name}: {}", words(&groups)) };
        must!(!holds.is_empty(), "{name} holds nothing that runs");
    }
    Ok(words(&groups))
}

/// Every workload that runs is in exactly one group.
pub async fn every_resource(lab: &Lab, on: &str, _: &Call) -> Seen {
    let site = lab.site(on).await?;
    let groups = told(&site).await?;
    let running = status(&site).await?.resources;
    must!(running.len() > 3, "only {} workloads run", running.len());
    for resource in &running {
        let of: Vec<&String> =
            groups.iter().filter(|(_, all)| all.contains(&resource.name)).map(|(name, _)| name).collect();
        must!(of.len() == 1, "{} is in the groups {of:?}", resource.name);
    }
    Ok(format!("{} workloads, each in one group: {}", running.len(), words(&groups)))
}

/// Whether a workload is of a kind, such as `vault` or `edge`.
fn is(workload: &str, kind: &str) -> bool {
    workload.split('.').next() == Some(kind)
}

fn holds<'a>(groups: &'a Groups, name: &str, kinds: &[String]) -> Result<&'a [String], Miss> {
    let Some(all) = groups.get(name) else { miss!("there is no group {name}: {}", words(groups)) };
    for kind in kinds {
        must!(all.iter().any(|workload| is(workload, kind)), "{name} holds no {kind}: {all:?}");
    }
    Ok(all)
}

/// `group_has_all(GROUP, KIND, ...)`: workloads of these kinds run in the group, and in no other.
pub async fn has_all(lab: &Lab, on: &str, c: &Call) -> Seen {
    let groups = told(&*lab.site(on).await?).await?;
    let (name, kinds) = (c.argument(0, ""), c.arguments.get(1..).unwrap_or_default());
    let all = holds(&groups, name, kinds)?.to_vec();
    for (other, theirs) in groups.iter().filter(|(other, _)| *other != name) {
        let strays: Vec<_> = theirs.iter().filter(|w| kinds.iter().any(|kind| is(w, kind))).collect();
        must!(strays.is_empty(), "{strays:?} are in {other}");
    }
    Ok(format!("{name} holds {}, and no other group holds {}", all.join(", "), kinds.join(", ")))
}

/// Somebody who is signed in works while what is named does not run.
async fn without(
    lab: &Lab,
    on: &str,
    site: &Site,
    stopped: &BTreeSet<String>,
    group: &str,
    page: &str,
) -> Result<usize, Miss> {
    must!(!stopped.is_empty(), "nothing would be stopped");
    let mut person = site.signed_in(&[group]).await?;
    let mut processes = 0;
    for workload in stopped {
        processes += all_of(site, workload, Signal::STOP)?.len();
    }
    let served = async {
        for _ in 0..5 {
            let answer = person.get(page).await?;
            must!(answer.status == 200, "with {stopped:?} stopped {page} answers {}", answer.status);
        }
        Ok::<(), Miss>(())
    }
    .await;
    for workload in stopped {
        let _ = all_of(site, workload, Signal::CONT);
    }
    lab.restore(on).await?;
    served?;
    Ok(processes)
}

/// `group_alone(GROUP, PEOPLE'S GROUP, PAGE, KIND, ...)`: it holds these kinds, and with everything else stopped people are served.
pub async fn alone(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let groups = told(&site).await?;
    let all = holds(&groups, c.argument(0, ""), c.arguments.get(3..).unwrap_or_default())?.to_vec();
    let running = status(&site).await?.resources.into_iter().filter(|r| !r.pids.is_empty()).map(|r| r.name);
    let others: BTreeSet<String> = running.filter(|name| !all.contains(name)).collect();
    let processes = without(lab, on, &site, &others, c.argument(1, ""), c.argument(2, "/")).await?;
    Ok(format!(
        "it holds {}; with the {processes} processes of {others:?} stopped {} is served",
        all.join(", "),
        c.argument(2, "/")
    ))
}

/// `group_stopped(GROUP, PEOPLE'S GROUP, PAGE, KIND, ...)`: it holds these kinds, and with all of it stopped people are served.
pub async fn stopped(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let groups = told(&site).await?;
    let all = holds(&groups, c.argument(0, ""), c.arguments.get(3..).unwrap_or_default())?.to_vec();
    let own: BTreeSet<String> = all.iter().cloned().collect();
    let processes = without(lab, on, &site, &own, c.argument(1, ""), c.argument(2, "/")).await?;
    Ok(format!("it holds {}; with its {processes} processes stopped {} is served", all.join(", "), c.argument(2, "/")))
}
