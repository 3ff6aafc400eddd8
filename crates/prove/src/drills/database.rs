//! The database is broken: its primary dies, or somebody makes a mistake.

use std::time::{Duration, Instant};

use api::{backup::Target, supervisor::SwapAct};

use crate::{
    Miss, Seen, Site,
    checks::{backup, members},
    drill::Scene,
    harm::kill,
    inside::{Ask, Saw},
    miss, must,
    sabotage::as_owner,
    site::until_in,
};

const LONG: Duration = Duration::from_secs(90);

fn database(site: &Site) -> Result<String, Miss> {
    let first = site.system.databases().next().map(|(id, _)| id.to_string());
    first.ok_or_else(|| Miss::Failed("the system has no database".into()))
}

/// Every process of the primary, or of the only server there is.
pub async fn primary(scene: &Scene<'_>) -> Seen {
    let site = scene.lab.site(scene.on).await?;
    let database = database(&site)?;
    let status = members::status(&site).await?;
    let all = members::members(&status, &database);
    let old = match all.as_slice() {
        [] => database.clone(),
        several => {
            until_in("a standby has every acknowledged write", LONG, async || {
                let all = members::members(&members::status(&site).await?, &database);
                must!(all.iter().any(|(_, m)| m.part == "standby" && m.synchronous), "{all:?}");
                Ok(())
            })
            .await?;
            let leads = several.iter().find(|(_, m)| m.part == "primary");
            leads.map(|(name, _)| name.clone()).ok_or_else(|| Miss::Failed("nobody leads".into()))?
        }
    };
    let line = status.resources.iter().find(|r| r.name == old);
    let victims = line.map(|r| r.pids.clone()).unwrap_or_default();
    scene.fault(format!("{old} is killed with all its {} processes", victims.len()));
    let killed = victims.iter().filter(|pid| kill(**pid).is_ok()).count();
    must!(killed > 1, "{old} had no processes");
    let begun = Instant::now();
    let leads = until_in("writes are taken again", LONG, async || {
        let tape = scene.load.tape();
        let since = scene.load.now().saturating_sub(begun.elapsed());
        must!(tape.acknowledged().values().any(|at| *at > since), "no write since then");
        let all = members::members(&members::status(&site).await?, &database);
        Ok(all.into_iter().find(|(_, m)| m.part == "primary").map_or_else(|| database.clone(), |(name, _)| name))
    })
    .await?;
    scene.say(format!("{leads} takes writes"));
    if all.is_empty() {
        return Ok(format!("{killed} processes killed; the only server is back"));
    }
    until_in("the old primary follows", LONG, async || {
        let all = members::members(&members::status(&site).await?, &database);
        must!(all.iter().any(|(name, m)| *name == old && m.part == "standby"), "{all:?}");
        Ok(())
    })
    .await?;
    scene.say(format!("{old} is back, and follows"));
    must!(leads != old, "{old} leads again: the standby did not take over");
    Ok(format!("{killed} processes killed; {leads} took over, and {old} follows it"))
}

/// Rows are deleted while people work; the database goes back to the moment before.
pub async fn restore(scene: &Scene<'_>) -> Seen {
    let site = scene.lab.site(scene.on).await?;
    let database = database(&site)?;
    backup::base(&site).await?;
    scene.say("a base backup is there");
    let before = scene.load.tape().acknowledged().len();
    until_in("people write after the backup", LONG, async || {
        let now = scene.load.tape().acknowledged().len();
        must!(now > before + 10, "{now} writes are acknowledged, {before} were before");
        Ok(())
    })
    .await?;
    // What is acknowledged from here on is undone on purpose.
    scene.undone_from_now();
    let moment = now(&site, scene).await?;
    let wreck = scene.load.wreck()?;
    let before: Vec<String> = scene.load.tape().acknowledged().into_keys().map(str::to_owned).collect();
    scene.fault("rows that people wrote are deleted by mistake");
    as_owner(&site, &wreck).await?;
    let left = scene.load.book().stored(&site).await?;
    let left = before.iter().filter(|mark| left.contains(*mark)).count();
    must!(left == 0, "the mistake left {left} of {} rows: there is nothing to bring back", before.len());
    scene.say(format!("{} acknowledged rows are gone", before.len()));
    let restored = backup::restore(&site, Target::Time { ms: moment }).await?;
    let stopped = restored.restore.as_ref().and_then(|r| r.stopped.clone()).unwrap_or_default();
    scene.say(format!("{} is restored beside {database}; recovery stopped {stopped}", restored.name));
    let swapped = backup::swap(&site, SwapAct::Swap).await?;
    let fresh = scene.lab.restore(scene.on).await?;
    scene.mended("it is swapped in");
    let kept = swapped.kept.unwrap_or_default();
    // As a folder, or as the disk it lies on.
    let there = match kept.is_file() {
        true => drivers::volume::holds(&kept, std::path::Path::new("pgdata/PG_VERSION"))?,
        false => kept.join("PG_VERSION").exists(),
    };
    must!(there, "the damaged data is not kept in {}", kept.display());
    backup::swap(&fresh, SwapAct::Forget).await?;
    Ok(format!("restored within {:.1} s to the moment before the mistake", restored.milliseconds as f64 / 1000.0))
}

/// The server's time in milliseconds, later than every write that has been acknowledged by now.
async fn now(site: &Site, scene: &Scene<'_>) -> Result<i64, Miss> {
    let (service, variable) = scene.load.database();
    let statement = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint + 1".to_owned();
    let ask = Ask::Sql { variable, statements: vec![statement] };
    let saw = site.inside(&service, &[ask]).await?;
    let Some(Saw::Sql(rows)) = saw.first() else { miss!("the server's time: {saw:?}") };
    let text = rows.first().and_then(|r| r.first()).and_then(|r| r.first()).cloned().unwrap_or_default();
    text.parse().map_err(|_| Miss::Failed(format!("the server's time is {text}")))
}
