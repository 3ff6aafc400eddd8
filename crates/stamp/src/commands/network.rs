//! `stamp network`: who may talk to whom in a stamp's closed network, and what was refused; links cut and healed.

use std::process::ExitCode;

use api::supervisor::{LinkRequest, NetworkFlow, NetworkStatus};

use crate::{
    arguments::{NetworkVerb, Of},
    connect,
    failure::Failed,
    screen, target,
};

pub async fn run(of: &Of, verb: Option<NetworkVerb>, json: bool) -> anyhow::Result<ExitCode> {
    let system = target::name(&of.system)?;
    let client = connect::supervisor(&connect::home()?).await?;
    let change = match verb {
        None => None,
        Some(NetworkVerb::Cut { one, other }) => Some((one, other, 100, 0)),
        Some(NetworkVerb::Heal { one, other }) => Some((one, other, 0, 0)),
        Some(NetworkVerb::Slow { one, rest, rate }) => {
            let (other, rate) = last(rest, rate);
            let kib_s =
                model::unit::bytes(&rate).ok().and_then(|size| u32::try_from(size.0 >> 10).ok()).filter(|n| *n > 0);
            let kib_s = kib_s.ok_or_else(|| {
                Failed::asked(format!("`{rate}` is no size for each second"), "write 1KiB to 4095GiB, such as 256KiB")
            })?;
            Some((one, other, 0, kib_s))
        }
        Some(NetworkVerb::Lose { one, rest, share }) => {
            let (other, share) = last(rest, share);
            let loses = share.trim_end_matches('%').parse().ok().filter(|n| (1..=100).contains(n));
            let loses = loses.ok_or_else(|| {
                Failed::asked(format!("`{share}` is no share of packets"), "write 1% to 100%, such as 20%")
            })?;
            Some((one, other, loses, 0))
        }
    };
    let answer = match &change {
        None => client.send("GET", &format!("/network?system={system}&stamp={}", of.stamp), None).await?,
        Some((one, other, loses, kib_s)) => {
            let (one, other, loses, kib_s) = (one.clone(), other.clone().unwrap_or_default(), *loses, *kib_s);
            let ask = LinkRequest { system, stamp: of.stamp.clone(), one, other, loses, kib_s };
            let body = serde_json::to_vec(&ask)?;
            client.send("POST", "/network", Some(("application/json", body.into()))).await?
        }
    };
    let status: NetworkStatus = connect::answer(&client, answer)?;
    if json {
        screen::data(&serde_json::to_string(&status)?);
    } else if let Some((one, other, loses, kib_s)) = change {
        let (link, names) = named(&one, other.as_deref().unwrap_or_default());
        let heal = format!("`stamp network {} --stamp {} heal {names}`", of.system, of.stamp);
        screen::talk(&match (loses, kib_s) {
            (0, 0) => format!("{link} is whole"),
            (0, rate) => format!("{link} lets {rate} KiB a second pass; {heal}"),
            (100, _) => format!("{link} is cut; {heal}"),
            _ => format!("{link} loses {loses} % of its packets; {heal}"),
        });
    } else {
        show(&status, &of.system);
    }
    Ok(ExitCode::SUCCESS)
}

fn show(status: &NetworkStatus, system: &str) {
    screen::talk(&format!("{}, closed", screen::bold(&status.space)));
    let subnets: Vec<Vec<String>> = status
        .subnets
        .iter()
        .map(|(name, block)| {
            let there = status.places.iter().filter(|(_, place)| place.subnet == *name);
            let there: Vec<String> = there.map(|(workload, place)| format!("{workload} {}", place.address)).collect();
            vec![name.clone(), block.clone(), there.join(", ")]
        })
        .collect();
    screen::table(&["SUBNET", "BLOCK", "WORKLOADS"], &subnets);
    let flow = |f: &NetworkFlow| {
        let why = if f.closed { format!("{}, closed now", f.why) } else { f.why.clone() };
        vec![f.from.clone(), f.to.clone(), f.port.to_string(), why, f.count.to_string()]
    };
    screen::talk("");
    screen::table(
        &["FROM", "MAY TALK TO", "PORT", "BY", "CONNECTIONS"],
        &status.flows.iter().map(flow).collect::<Vec<_>>(),
    );
    if !status.refused.is_empty() {
        screen::talk("");
        let rows =
            status.refused.iter().map(|f| vec![f.from.clone(), f.to.clone(), f.port.to_string(), f.count.to_string()]);
        screen::table(&["REFUSED FROM", "TO", "PORT", "TIMES"], &rows.collect::<Vec<_>>());
    }
    for link in &status.links {
        let (name, names) = named(&link.one, &link.other);
        let what = match (link.loses, link.kib_s) {
            (0, rate) => format!("lets {rate} KiB a second pass"),
            (100, _) => format!("is cut, {} packets dropped", link.dropped),
            (part, _) => format!("loses {part} %"),
        };
        screen::talk(&format!("{name} {what}; `stamp network {system} heal {names}`"));
    }
}

/// The second name and what is written last; a declared link has no second name.
fn last(rest: String, last: Option<String>) -> (Option<String>, String) {
    match last {
        Some(last) => (Some(rest), last),
        None => (None, rest),
    }
}

/// A link for people, and its names as they are written in a command.
fn named(one: &str, other: &str) -> (String, String) {
    match other {
        "" => (format!("the link {one}"), one.to_owned()),
        other => (format!("the link of {one} and {other}"), format!("{one} {other}")),
    }
}
