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
        Some(NetworkVerb::Cut { one, other }) => Some((one, other, 100)),
        Some(NetworkVerb::Heal { one, other }) => Some((one, other, 0)),
        Some(NetworkVerb::Lose { one, rest, share }) => {
            let (other, share) = match share {
                Some(share) => (Some(rest), share),
                None => (None, rest),
            };
            let loses = share.trim_end_matches('%').parse().ok().filter(|n| (1..=100).contains(n));
            let loses = loses.ok_or_else(|| {
                Failed::asked(format!("`{share}` is no share of packets"), "write 1% to 100%, such as 20%")
            })?;
            Some((one, other, loses))
        }
    };
    let answer = match &change {
        None => client.send("GET", &format!("/network?system={system}&stamp={}", of.stamp), None).await?,
        Some((one, other, loses)) => {
            let (one, other, loses) = (one.clone(), other.clone().unwrap_or_default(), *loses);
            let ask = LinkRequest { system, stamp: of.stamp.clone(), one, other, loses };
            let body = serde_json::to_vec(&ask)?;
            client.send("POST", "/network", Some(("application/json", body.into()))).await?
        }
    };
    let status: NetworkStatus = connect::answer(&client, answer)?;
    if json {
        screen::data(&serde_json::to_string(&status)?);
    } else if let Some((one, other, loses)) = change {
        let (link, names) = named(&one, other.as_deref().unwrap_or_default());
        let heal = format!("`stamp network {} --stamp {} heal {names}`", of.system, of.stamp);
        screen::talk(&match loses {
            0 => format!("{link} is whole"),
            100 => format!("{link} is cut; {heal}"),
            _ => format!("{link} loses {loses} % of its packets"),
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
        let what = match link.loses {
            100 => format!("is cut, {} packets dropped", link.dropped),
            part => format!("loses {part} %"),
        };
        screen::talk(&format!("{name} {what}; `stamp network {system} heal {names}`"));
    }
}

/// A link for people, and its names as they are written in a command.
fn named(one: &str, other: &str) -> (String, String) {
    match other {
        "" => (format!("the link {one}"), one.to_owned()),
        other => (format!("the link of {one} and {other}"), format!("{one} {other}")),
    }
}
