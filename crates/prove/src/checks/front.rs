//! A front door before stamps: who answers is asked of the stamps themselves, by the traces of the requests.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{
    Lab, Miss, Seen, Site,
    checks::telemetry::{list, requests},
    claim::Call,
    miss, must,
    site::until_in,
};

const LONG: Duration = Duration::from_secs(60);
/// Requests of one look.
const MANY: usize = 40;

/// Sends requests through the door; how many of them each stamp says it has answered. Each must have been answered well.
async fn answered(door: &Site, path: &str, stamps: &[&Site]) -> Result<BTreeMap<String, usize>, Miss> {
    let sent = requests(door, path, MANY).await?;
    let bad: Vec<u16> = sent.iter().map(|s| s.1).filter(|status| *status != 200).collect();
    must!(bad.is_empty(), "{} of {MANY} requests were answered {bad:?}", bad.len());
    let sql = format!(
        "SELECT count(DISTINCT trace_id) FROM requests WHERE source LIKE 'service.%' AND trace_id IN ({})",
        list(&sent)
    );
    until_in("every request is found at a stamp", LONG, async || {
        let mut counts = BTreeMap::new();
        for site in stamps {
            let rows = site.query(&sql).await?;
            let count = rows.first().and_then(|r| r.first()).and_then(serde_json::Value::as_u64).unwrap_or_default();
            counts.insert(site.stamp.clone(), count as usize);
        }
        must!(counts.values().sum::<usize>() == MANY, "of {MANY} the stamps have {counts:?}");
        Ok(counts)
    })
    .await
}

async fn once(door: &Site, path: &str) -> Result<(), Miss> {
    let answer = door.client(&door.url("edge")?)?.send("GET", path, None).await?;
    must!(answer.status == 200, "it answers {}", answer.status);
    Ok(())
}

/// Until every named stamp is in, as the door sees it.
async fn all_in(door: &Site, count: usize) -> Result<(), Miss> {
    until_in("the door sees its stamps", LONG, async || {
        let seen: serde_json::Value = door.control("edge")?.get("/targets").await?;
        let well =
            seen["targets"].as_array().into_iter().flatten().filter(|t| t["healthy"] == true && t["available"] == true);
        must!(well.count() == count, "{seen}");
        Ok(())
    })
    .await
}

/// `front_door(ONE, OTHER, PATH)`: on the stamp that is the door.
pub async fn front_door(lab: &Lab, on: &str, c: &Call) -> Seen {
    let (one, two, path) = (c.argument(0, "one"), c.argument(1, "two"), c.argument(2, "/health"));
    let (first, second) = (lab.site(one).await?, lab.site(two).await?);
    let door = lab.site(on).await?;
    let looked = async {
        all_in(&door, 2).await?;
        let both = answered(&door, path, &[&first, &second]).await?;
        must!(both.values().all(|count| *count > 0), "with both up they answered {both:?}");
        let mut alone = Vec::new();
        for (stopped, stays, other) in [(one, two, &second), (two, one, &first)] {
            lab.down(stopped).await?;
            let begun = Instant::now();
            until_in("an answer with one stopped", LONG, async || once(&door, path).await).await?;
            let gap = begun.elapsed();
            let counts = answered(&door, path, &[other]).await?;
            alone.push(format!(
                "with {stopped} stopped {stays} answered all {} ({} ms to the first)",
                counts[stays],
                gap.as_millis()
            ));
            lab.restore(stopped).await?;
            all_in(&door, 2).await?;
        }
        Ok(format!("{MANY} requests to {}: {both:?}; {}", door.url("edge")?, alone.join("; ")))
    }
    .await;
    for stamp in [on, one, two] {
        lab.down(stamp).await?;
    }
    looked
}

/// `gateway(STAMP, PATH)`: on the door of one stamp. Requests through it are found at the stamp by the id that the client gave them; with the
/// door stopped nobody is answered at its address, though the stamp is healthy.
pub async fn gateway(lab: &Lab, on: &str, c: &Call) -> Seen {
    let (stamp, path) = (c.argument(0, "one"), c.argument(1, "/health"));
    let behind = lab.site(stamp).await?;
    let door = lab.site(on).await?;
    all_in(&door, 1).await?;
    let url = door.url("edge")?;
    let counts = answered(&door, path, &[&behind]).await?;
    let sql = format!("SELECT count(DISTINCT source) FROM spans WHERE time_ns > {} AND source = 'edge'", now_ns());
    let _ = once(&door, path).await;
    behind.query_until("the ingress has a span of its own", &sql, |rows| rows[0][0] != 0).await?;
    lab.down(on).await?;
    let without = once(&door, path).await;
    let healthy = behind.client(&behind.url("edge")?)?.send("GET", path, None).await.map(|a| a.status.as_u16());
    let again = lab.restore(on).await?;
    let Err(Miss::Failed(why)) = without else { miss!("with the gateway stopped {url} is answered") };
    must!(healthy.as_ref().is_ok_and(|s| *s == 200), "{stamp} behind it is answered {healthy:?}");
    all_in(&again, 1).await?;
    until_in("an answer with the gateway started", LONG, async || once(&again, path).await).await?;
    Ok(format!(
        "{url}: {counts:?} by the ids that the client gave; stopped: {why}, with {stamp} healthy; started: answered"
    ))
}

fn now_ns() -> i128 {
    jiff::Timestamp::now().as_nanosecond()
}

/// `name_moves(ONE, OTHER, PATH, SECONDS)`: on the door; the same address leads from the one stamp to the other.
pub async fn name_moves(lab: &Lab, on: &str, c: &Call) -> Seen {
    let (one, two, path) = (c.argument(0, "one"), c.argument(1, "two"), c.argument(2, "/health"));
    let within = Duration::from_secs(c.argument(3, "60").parse()?);
    let (first, second) = (lab.site(one).await?, lab.site(two).await?);
    let leads = |to: &str| format!("[stamps.{on}.edge]\norigins = [\"{to}\"]\n");
    let looked = async {
        let door = lab.changed(on, &leads(one)).await?;
        all_in(&door, 1).await?;
        let url = door.url("edge")?;
        let before = answered(&door, path, &[&first]).await?;
        // The region is lost, then the name is led elsewhere.
        lab.down(one).await?;
        let moved = Instant::now();
        let after = lab.changed(on, &leads(two)).await?;
        must!(after.url("edge")? == url && after.ca_pem == door.ca_pem, "the name or its certificate has changed");
        until_in("an answer of the other stamp", within, async || once(&door, path).await).await?;
        let took = moved.elapsed();
        let counts = answered(&door, path, &[&second]).await?;
        must!(took <= within, "it took {took:?}");
        must!(door.pids("edge").first() == after.pids("edge").first(), "the door was started anew");
        Ok(format!(
            "{url}: {before:?}; {one} stopped and the route changed: {counts:?}, {} ms after the change began, {} s are allowed",
            took.as_millis(),
            within.as_secs()
        ))
    }
    .await;
    for stamp in [on, one, two] {
        lab.down(stamp).await?;
    }
    looked
}

/// Runs drills against the clock: `recovered_within(MINUTES, LOAD, DRILL, STAMP, DRILL, STAMP, ...)`.
pub async fn recovered_within(lab: &Lab, _: &str, c: &Call) -> Seen {
    let minutes: u64 = c.argument(0, "60").parse()?;
    let mix = c.argument(1, "signed-in-mix");
    let mut seen = Vec::new();
    for pair in c.arguments.get(2..).unwrap_or_default().chunks(2) {
        let [name, stamp] = pair else { miss!("a drill without a stamp: {pair:?}") };
        let Some(drill) = crate::drill::named(name) else { miss!("there is no drill {name}") };
        let measured = lab.drilled(drill, stamp, mix).await?;
        must!(measured.met, "{name} on {stamp}: {}", measured.failed.join("; "));
        must!(
            measured.rto_ms < minutes * 60_000,
            "{name} on {stamp}: people were served again after {} ms",
            measured.rto_ms
        );
        seen.push(format!("{name} on {stamp}: {:.1} s", measured.rto_ms as f64 / 1000.0));
    }
    must!(!seen.is_empty(), "no scenario is named");
    Ok(format!("from the fault until people are served: {}; {minutes} min are allowed", seen.join(", ")))
}

/// `lost_less_than(SECONDS, LOAD, DRILL)`: what the drill on this stamp lost, by the ledger of acknowledged writes.
pub async fn lost_less_than(lab: &Lab, on: &str, c: &Call) -> Seen {
    let seconds: u64 = c.argument(0, "300").parse()?;
    let (mix, name) = (c.argument(1, "signed-in-mix"), c.argument(2, "region-loss"));
    let Some(drill) = crate::drill::named(name) else { miss!("there is no drill {name}") };
    let measured = lab.drilled(drill, on, mix).await?;
    must!(measured.met, "{name} on {on}: {}", measured.failed.join("; "));
    must!(measured.rpo_ms < seconds * 1000, "{name} on {on}: what is gone spans {} ms", measured.rpo_ms);
    Ok(format!(
        "{} of {} acknowledged writes are gone, they span {:.1} s, {seconds} s are allowed; {}",
        measured.lost,
        measured.acknowledged,
        measured.rpo_ms as f64 / 1000.0,
        measured.observed
    ))
}
