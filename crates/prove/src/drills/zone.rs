//! A zone goes dark: everything in it at once, and again whenever it comes back, until the zone is there again.

use std::time::{Duration, Instant};

use api::supervisor::Status;

use crate::{Seen, checks::members, drill::Scene, harm::kill, miss, must, site::until_in};

const LONG: Duration = Duration::from_secs(120);
/// How long the zone stays dark: well beyond the time after which a lost standby counts as lost.
const DARK: Duration = Duration::from_secs(20);
/// How often what has come back in it is ended again.
const AGAIN: Duration = Duration::from_millis(200);

pub async fn loss(scene: &Scene<'_>) -> Seen {
    let site = scene.lab.site(scene.on).await?;
    let several =
        site.system.databases().find(|(_, postgres)| postgres.zone(1) != postgres.zone(2) && postgres.has_standby());
    let Some((database, _)) = several else {
        miss!("{} has no database with a standby in another zone: `high_availability = \"zone-redundant\"`", scene.on)
    };
    let database = database.to_string();
    let (old, zone) = until_in("a standby in another zone has every acknowledged write", LONG, async || {
        let all = members::members(&members::status(&site).await?, &database);
        must!(all.iter().any(|(_, m)| m.part == "standby" && m.synchronous), "{all:?}");
        let Some((name, member)) = all.iter().find(|(_, m)| m.part == "primary") else {
            miss!("nobody leads: {all:?}")
        };
        Ok((name.clone(), member.zone.clone()))
    })
    .await?;
    let inside = |status: &Status| -> Vec<(String, Vec<u32>)> {
        let of_zone = |name: &str| site.system.zone(name).as_deref() == Some(zone.as_str());
        status.resources.iter().filter(|r| of_zone(&r.name)).map(|r| (r.name.clone(), r.pids.clone())).collect()
    };
    let victims = inside(&members::status(&site).await?);
    let named: Vec<&str> = victims.iter().map(|(name, _)| name.as_str()).collect();
    must!(named.contains(&old.as_str()), "zone {zone} has {named:?}, and not {old}");
    scene.fault(format!("zone {zone} goes dark: {}", named.join(", ")));
    let dark = Instant::now();
    let from = scene.load.now();
    let mut killed = victims.iter().flat_map(|(_, pids)| pids).filter(|pid| kill(**pid).is_ok()).count();
    must!(killed > 3, "{named:?} had {killed} processes");
    let mut leads = None;
    while dark.elapsed() < DARK {
        tokio::time::sleep(AGAIN).await;
        let status = members::status(&site).await?;
        killed += inside(&status).iter().flat_map(|(_, pids)| pids).filter(|pid| kill(**pid).is_ok()).count();
        let now = members::members(&status, &database).into_iter().find(|(_, m)| m.part == "primary");
        if let Some((name, member)) = now.filter(|(name, _)| *name != old)
            && leads.is_none()
        {
            scene.say(format!("{name} in zone {} leads", member.zone));
            leads = Some((name, member.zone));
        }
    }
    let to = scene.load.now();
    let tape = scene.load.tape();
    let writes = tape.acknowledged().values().filter(|at| **at > from && **at <= to).count();
    let first = tape.acknowledged().into_values().filter(|at| *at > from).min();
    scene.say(format!("zone {zone} is there again; {writes} writes were acknowledged while it was dark"));
    let Some((leads, other)) = leads else { miss!("nobody took over while zone {zone} was dark") };
    must!(other != zone, "{leads} leads in zone {other}, which was dark");
    must!(writes > 0, "no write was acknowledged in the {} s in which zone {zone} was dark", DARK.as_secs());
    until_in("the zone joins again", LONG, async || {
        let status = members::status(&site).await?;
        let all = members::members(&status, &database);
        must!(all.iter().any(|(name, m)| *name == old && m.part == "standby" && m.synchronous), "{all:?}");
        let ill = status.resources.iter().find(|r| r.state != "ready" && !r.name.starts_with("job."));
        must!(ill.is_none(), "{ill:?}");
        Ok(())
    })
    .await?;
    scene.mended(format!("{old} follows {leads}, and all of zone {zone} is ready"));
    Ok(format!(
        "zone {zone} ({}) dark for {} s, {killed} processes killed; {leads} in zone {other} took over, the first write after {:.1} s, {writes} writes meanwhile; \
         the zone came back and joined",
        named.join(", "),
        DARK.as_secs(),
        first.map_or(0.0, |at| (at - from).as_secs_f64())
    ))
}
