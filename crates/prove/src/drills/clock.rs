//! The clock jumps.

use crate::{Seen, drill::Scene, must};

const DAY_MS: i64 = 86_400_000;

pub async fn jump(scene: &Scene<'_>) -> Seen {
    let site = scene.lab.site(scene.on).await?;
    scene.fault("the clock of all roles jumps a day ahead");
    let ahead = scene.lab.at(scene.on, DAY_MS).await?;
    scene.say("they serve, a day ahead");
    let groups: Vec<&str> = scene.load.groups().iter().map(String::as_str).collect();
    ahead.signed_in(&groups).await?;
    scene.say("somebody signs in");
    let back = scene.lab.restore(scene.on).await?;
    scene.mended("the clock is back, and all serve");
    back.signed_in(&groups).await?;
    let records = back.audited("supervisor").await?.len();
    must!(records > 0, "the audit record is empty after the clock jumped");
    Ok(format!("{} signed people in a day ahead and back again, {records} audit records are readable", site.stamp))
}
