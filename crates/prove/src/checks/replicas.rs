//! Copies of a service, what they share, and what comes before a new one.

use std::{
    collections::BTreeMap,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::telemetry::{list, requests};
use crate::{
    Lab, Miss, Seen, Site,
    claim::Call,
    harm,
    inside::{Ask, Saw},
    miss, must,
    site::{until, until_in},
};

const LONG: Duration = Duration::from_secs(60);
/// So often a client tries again that lost its answer.
const TRIES: usize = 3;

/// Copies of a service that are ready, and the process of each.
fn copies(site: &Site, service: &str) -> BTreeMap<String, u32> {
    let own = |name: &str| name == service || name.strip_prefix(service).is_some_and(|rest| rest.starts_with('+'));
    let all = site.status.resources.iter().filter(|r| own(&r.name) && r.state == "ready");
    all.filter_map(|r| Some((r.name.clone(), *r.pids.get(1)?))).collect()
}

/// `balanced(SERVICE, COPIES, REQUESTS, PATH)`: each copy answers a share of the requests; one is ended, and no request fails that
/// is asked again.
pub async fn balanced(lab: &Lab, on: &str, c: &Call) -> Seen {
    let (service, path) = (c.argument(0, ""), c.argument(3, "/health"));
    let (least, count): (usize, usize) = (c.argument(1, "3").parse()?, c.argument(2, "300").parse()?);
    let site = lab.restore(on).await?;
    let all = copies(&site, service);
    must!(all.len() >= least, "{} copies are ready: {all:?}", all.len());
    let sent = requests(&site, path, count).await?;
    let bad = sent.iter().filter(|s| s.1 >= 400).count();
    must!(bad == 0, "{bad} of {count} requests failed");
    let sql = format!(
        "SELECT json_extract(body, '$.upstream') AS copy, count(*) FROM logs WHERE source = 'edge' AND body LIKE '%{service}%' \
         AND json_extract(body, '$.trace') IN ({}) GROUP BY copy",
        list(&sent)
    );
    let number = |rows: &[Vec<serde_json::Value>]| rows.iter().filter_map(|r| r[1].as_u64()).sum::<u64>();
    let rows = site.query_until("all requests are there", &sql, |rows| number(rows) == count as u64).await?;
    let shares: Vec<String> = rows.iter().map(|r| format!("{} {}", r[0], r[1])).collect();
    must!(rows.len() == all.len(), "of {} copies {} have answered: {shares:?}", all.len(), rows.len());
    let (name, pid) = all.last_key_value().ok_or_else(|| Miss::Failed("no copy is ready".into()))?;
    harm::kill(*pid)?;
    let client = site.client(&site.url("edge")?)?;
    let (begun, mut asked, mut again) = (Instant::now(), 0, 0);
    while begun.elapsed() < Duration::from_secs(5) {
        let mut served = false;
        for _ in 0..TRIES {
            served = client.send("GET", path, None).await.is_ok_and(|a| a.status.is_success());
            if served {
                break;
            }
            again += 1;
        }
        must!(served, "with {name} ended a request failed {TRIES} times");
        asked += 1;
    }
    until_in("the copy runs again", LONG, async || {
        let now = copies(&*lab.restore(on).await?, service);
        must!(now.len() == all.len() && now.get(name).is_some_and(|p| p != pid), "{now:?}");
        Ok(())
    })
    .await?;
    Ok(format!("{}; with {name} ended {asked} requests were served, {again} of them asked again", shares.join(", ")))
}

/// `shared_mount(SERVICE, PATH, READER, READER'S PATH)`: what one copy writes the others read, and READER reads it and cannot write.
pub async fn shared_mount(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let (service, path) = (c.argument(0, ""), c.argument(1, ""));
    let (reader, theirs) = (c.argument(2, ""), c.argument(3, ""));
    let all = copies(&site, service);
    must!(all.len() > 1, "there is one copy of {service}, or none: {all:?}");
    let mark = format!("check-{}", uuid::Uuid::new_v4().simple());
    // As each of them sees its own file system, and whether that is a mount there.
    let at = |pid: u32, path: &str| PathBuf::from(format!("/proc/{pid}/root{path}"));
    let mounted = |pid: u32| {
        let table = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        table.lines().any(|line| line.split(' ').nth(4) == Some(path))
    };
    for (name, pid) in &all {
        must!(mounted(*pid), "{name} has nothing mounted at {path}");
    }
    let (first, writer) = all.first_key_value().ok_or_else(|| Miss::Failed("no copy is ready".into()))?;
    let file = at(*writer, path).join(&mark);
    let ask = Ask::Open { path: format!("{path}/{mark}.try"), write: true };
    let saw = site.inside(service.trim_start_matches("service."), &[ask]).await?;
    must!(matches!(saw.first(), Some(Saw::Open(Ok(())))), "{service} cannot write at {path}: {saw:?}");
    std::fs::write(&file, &mark)?;
    let looked = async {
        let own = std::fs::metadata(&file)?;
        for (name, pid) in &all {
            let read = std::fs::read_to_string(at(*pid, path).join(&mark));
            must!(read.as_deref().is_ok_and(|text| text == mark), "{name} reads {read:?}");
        }
        let (inside, refused) = (format!("{theirs}/{mark}"), format!("{theirs}/{mark}.no"));
        let asks = [Ask::Open { path: inside, write: false }, Ask::Open { path: refused, write: true }];
        let saw = site.inside(reader.trim_start_matches("service."), &asks).await?;
        let reader_pid = copies(&site, reader).into_values().next().unwrap_or_default();
        let seen = std::fs::metadata(at(reader_pid, theirs).join(&mark))?;
        must!(seen.ino() == own.ino(), "{reader} sees another file");
        match &saw[..] {
            [Saw::Open(_), Saw::Open(Err(why))] => Ok(why.clone()),
            _ => miss!("{reader} reads and writes there: {saw:?}"),
        }
    }
    .await;
    std::fs::remove_file(&file)?;
    let why = looked?;
    let names: Vec<&str> = all.keys().map(String::as_str).collect();
    Ok(format!(
        "what {first} wrote at {path} is read by {}; {reader} has it at {theirs} and cannot write: {why}",
        names.join(", ")
    ))
}

/// `migration_first(SERVICE, VARIABLE, TABLE, COLUMN)`: on a fresh stamp the schema was there before the service began; with a migration
/// that fails nothing new begins, and what ran goes on.
pub async fn migration_first(lab: &Lab, on: &str, c: &Call) -> Seen {
    let (service, table, column) = (c.argument(0, "web"), c.argument(2, ""), c.argument(3, ""));
    lab.destroy(on).await?;
    let site = lab.restore(on).await?;
    let workload = format!("service.{service}");
    let sql = format!("SELECT (extract(epoch FROM max(\"{column}\")) * 1000)::bigint::text FROM \"{table}\"");
    let saw = site.inside(service, &[Ask::Sql { variable: c.argument(1, "").into(), statements: vec![sql] }]).await?;
    let Some(Saw::Sql(rows)) = saw.first() else { miss!("{saw:?}") };
    let migrated: i64 = rows[0][0][0].parse()?;
    let pid = site.pids(&workload).first().copied().unwrap_or_default();
    let begun = started_ms(pid)?;
    must!(migrated <= begun, "the last migration is of {migrated}, and {workload} began at {begun}");
    let before = copies(&site, &workload);
    let change = format!(
        "[service.{service}.env]\nCHECK_OF_ORDER = \"new\"\n[service.{service}.migrate]\nrun = [\"/bin/false\"]\n"
    );
    let failed = lab.changed(on, &change).await;
    let now = until("the status", async || {
        let now: api::supervisor::Status = super::members::status(&site).await?;
        Ok(now
            .resources
            .iter()
            .filter(|r| before.contains_key(&r.name))
            .map(|r| (r.name.clone(), r.pids.get(1).copied()))
            .collect::<BTreeMap<_, _>>())
    })
    .await;
    lab.restore(on).await?;
    let Err(Miss::Failed(why)) = failed else { miss!("with a migration that fails the deployment succeeds") };
    let same = now?.iter().all(|(name, pid)| before.get(name) == pid.as_ref());
    must!(same, "with a migration that fails a new copy began");
    let why = why.lines().next().unwrap_or_default().to_owned();
    Ok(format!(
        "the last migration {} ms before {workload} began; one that fails: {why}, and the same processes serve",
        begun - migrated
    ))
}

/// When a process began, in Unix milliseconds: by its age (proc(5): field 22 of `stat`, in ticks since the machine began, and `uptime`).
fn started_ms(pid: u32) -> Result<i64, Miss> {
    let known = drivers::proc::identify(pid).ok_or_else(|| Miss::Failed(format!("process {pid} is gone")))?;
    let uptime = std::fs::read_to_string("/proc/uptime")?;
    let seconds: f64 = uptime.split(' ').next().unwrap_or_default().parse()?;
    let started = known.start_ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    Ok(jiff::Timestamp::now().as_millisecond() - ((seconds - started) * 1000.0) as i64)
}
