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

/// `read_replica(DATABASE)`, on a stamp of its own with one.
pub async fn read_replica(lab: &Lab, _: &str, c: &Call) -> Seen {
    let database = c.argument(0, "postgres.main");
    let site = lab.changed("reader", &format!("[stamps.reader]\n{database}.read_replicas = 1\n")).await?;
    let told = read_from(&site, database).await;
    lab.down("reader").await?;
    told
}

async fn read_from(site: &Site, database: &str) -> Result<String, Miss> {
    const READS: u64 = 200;
    const ROWS: u64 = 500;
    let replica = until_in("a replica follows", LONG, async || {
        let all = members(&status(site).await?, database);
        let replica = all.iter().find(|(_, m)| m.part == "replica" && m.lag_bytes.is_some());
        replica.map(|(name, _)| name.clone()).ok_or_else(|| Miss::Failed(format!("{all:?}")))
    })
    .await?;
    // Its certificate names the member.
    let number = replica.split('+').nth(1).unwrap_or("1").to_owned();
    let (kind, name) = database.split_once('.').unwrap_or_default();
    let mut way = site.way(&replica)?;
    if let Some(host) = site.hosts.keys().find(|host| host.starts_with(&format!("{name}-{number}.{kind}."))) {
        way.name = host.clone();
    }
    let primary = crate::sabotage::owner(site).await?;
    primary
        .batch_execute(&format!(
            "CREATE TABLE IF NOT EXISTS check_replica (n bigint); TRUNCATE check_replica; \
             INSERT INTO check_replica SELECT generate_series(1, {ROWS})"
        ))
        .await?;
    let begun = Instant::now();
    let count =
        async |client: &tokio_postgres::Client| crate::sql::rows(client, "SELECT count(*) FROM check_replica").await;
    let reader =
        until_in("the replica lets the role in", LONG, async || crate::sabotage::owner_by(site, &way).await).await?;
    until_in("fresh rows on the replica", Duration::from_secs(10), async || {
        let rows = count(&reader).await?;
        must!(rows == [[ROWS.to_string()]], "{rows:?} of {ROWS}");
        Ok(())
    })
    .await?;
    let fresh = begun.elapsed();
    let refused = match reader.batch_execute("INSERT INTO check_replica VALUES (0)").await {
        Ok(()) => miss!("the replica took a write"),
        Err(error) => error.as_db_error().map_or_else(|| error.to_string(), |said| said.message().to_owned()),
    };
    must!(refused.contains("read-only"), "a write was refused with: {refused}");
    // What the primary read of the table, as it counts that itself.
    let load = async || -> Result<u64, Miss> {
        let sql = "SELECT pg_stat_force_next_flush()";
        primary.batch_execute(sql).await?;
        let sql = "SELECT coalesce(sum(seq_tup_read), 0) FROM pg_stat_user_tables WHERE relname = 'check_replica'";
        Ok(crate::sql::rows(&primary, sql).await?[0][0].parse()?)
    };
    let mut loads = Vec::new();
    for client in [&primary, &reader] {
        let before = load().await?;
        for _ in 0..READS {
            count(client).await?;
        }
        let mut read = 0;
        until_in("the primary has counted", Duration::from_secs(5), async || {
            read = load().await? - before;
            must!(!loads.is_empty() || read >= READS * ROWS, "{read} rows");
            Ok(())
        })
        .await?;
        loads.push(read);
    }
    must!(loads[1] * 10 < loads[0], "{READS} reads cost the primary {} rows, by the replica {}", loads[0], loads[1]);
    Ok(format!(
        "{replica}: {ROWS} fresh rows after {} ms; a write: {refused}; {READS} reads cost the primary {} rows read, on the replica {}",
        fresh.as_millis(),
        loads[0],
        loads[1]
    ))
}
