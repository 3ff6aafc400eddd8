//! A database of several members, broken as a zone breaks.

use std::time::{Duration, Instant};

use api::supervisor::{MemberStatus, Status};

use crate::{
    Error, Lab, Miss, Seen, Site,
    claim::Call,
    harm::kill,
    inside::{Ask, Saw},
    miss, must,
    site::until_in,
};

const LONG: Duration = Duration::from_secs(90);

/// A row that is written and counted: `{unique}` is different each time.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Marks {
    write: String,
    count: String,
}

/// The stamp's status now.
pub async fn status(site: &Site) -> Result<Status, Miss> {
    let of = site.of();
    Ok(site.supervisor.get(&format!("/status?system={}&stamp={}", of.system, of.stamp)).await?)
}

/// The members of a database.
pub fn members(status: &Status, database: &str) -> Vec<(String, MemberStatus)> {
    let of_it = |name: &str| name.split('+').next() == Some(database);
    status
        .resources
        .iter()
        .filter(|r| of_it(&r.name))
        .filter_map(|r| Some((r.name.clone(), r.member.clone()?)))
        .collect()
}

async fn one(site: &Site, service: &str, variable: &str, sql: &str) -> Result<Vec<Vec<String>>, Miss> {
    let ask = Ask::Sql { variable: variable.into(), statements: vec![sql.into()] };
    match site.inside(service, &[ask]).await?.into_iter().next() {
        Some(Saw::Sql(mut all)) if all.len() == 1 => Ok(all.remove(0)),
        saw => Err(Miss::Failed(format!("{sql}: {saw:?}"))),
    }
}

/// `zone_lost(DATABASE, SERVICE, VARIABLE, FILE OF STATEMENTS)`.
pub async fn zone_lost(lab: &Lab, on: &str, c: &Call) -> Seen {
    let (database, service, variable) = (c.argument(0, "postgres.main"), c.argument(1, "web"), c.argument(2, ""));
    let file = format!("checks/{}.toml", c.argument(3, "own_database"));
    let fault = |what: String| Error::File { file: file.clone(), what };
    let marks: Marks = toml_edit::de::from_str(&lab.file(&file)?).map_err(|e| fault(e.to_string()))?;
    let site = lab.site(on).await?;
    let edge = site.client(&site.url("edge")?)?;
    let first = members(&status(&site).await?, database);
    must!(first.len() > 1, "{database} has one server: {:?}", first.iter().map(|(n, _)| n).collect::<Vec<_>>());
    let (old, before, after) = until_in("a standby in another zone has everything", LONG, async || {
        let all = members(&status(&site).await?, database);
        let primary = all.iter().find(|(_, m)| m.part == "primary");
        let standby = all.iter().find(|(_, m)| m.part == "standby" && m.synchronous);
        let (Some(primary), Some(standby)) = (primary, standby) else { miss!("{all:?}") };
        Ok((primary.0.clone(), primary.1.zone.clone(), standby.1.zone.clone()))
    })
    .await?;
    must!(before != after, "primary and standby are both in zone {before}");

    let unique = || uuid::Uuid::new_v4().simple().to_string()[..10].to_uppercase();
    let mut committed = Vec::new();
    for _ in 0..5 {
        let mark = unique();
        one(&site, service, variable, &marks.write.replace("{unique}", &mark)).await?;
        committed.push(mark);
    }
    let unlogged = one(&site, service, variable, "SELECT count(*) FROM pg_class WHERE relpersistence = 'u'").await?;
    must!(unlogged == [["0"]], "{unlogged:?} tables and indexes are not in the log: no standby has their rows");
    // Everything of the primary's zone at once; nobody does anything by hand after this.
    let victims: Vec<u32> =
        status(&site).await?.resources.iter().filter(|r| r.name == old).flat_map(|r| r.pids.clone()).collect();
    must!(victims.len() > 3, "{old} has only the processes {victims:?}");
    let begun = Instant::now();
    for pid in victims {
        let _ = kill(pid);
    }
    let mark = unique();
    until_in("a write is committed again", LONG, async || {
        one(&site, service, variable, &marks.write.replace("{unique}", &mark)).await.map(drop)
    })
    .await?;
    let writes = begun.elapsed();
    committed.push(mark);
    until_in("the application is healthy again", LONG, async || {
        let answer = edge.send("GET", "/health", None).await?.status.as_u16();
        must!(answer == 200, "/health answers {answer}");
        Ok(())
    })
    .await?;
    for mark in &committed {
        let count = one(&site, service, variable, &marks.count.replace("{unique}", mark)).await?;
        must!(count == [["1"]], "the committed row {mark} is there {count:?} times");
    }
    let all = members(&status(&site).await?, database);
    let Some((new, now)) = all.iter().find(|(_, m)| m.part == "primary") else { miss!("nobody leads: {all:?}") };
    must!(*new != old && now.zone == after, "{new} in zone {} leads, after {old} in zone {before}", now.zone);
    let told = format!(
        "{old} (zone {before}) killed with all its processes; {new} (zone {after}) takes writes, a new one was committed after {} ms, \
         all {} committed rows are there, the application is healthy",
        writes.as_millis(),
        committed.len()
    );
    // The others find the stamp as it was declared: both members there.
    until_in("the old one follows", LONG, async || {
        let all = members(&status(&site).await?, database);
        must!(all.iter().any(|(name, m)| *name == old && m.part == "standby" && m.synchronous), "{all:?}");
        Ok(())
    })
    .await?;
    lab.restore(on).await?;
    Ok(told)
}
