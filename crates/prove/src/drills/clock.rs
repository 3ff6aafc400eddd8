//! The clock jumps.

use crate::{Seen, drill::Scene};

const DAY_MS: i64 = 86_400_000;

pub async fn jump(scene: &Scene<'_>) -> Seen {
    let site = scene.lab.site(scene.on).await?;
    scene.fault("the clock of all roles jumps a day ahead");
    let ahead = scene.lab.at(scene.on, DAY_MS).await?;
    scene.say("they serve, a day ahead");
    ahead.signed_in(&["user"]).await?;
    scene.say("somebody signs in");
    let back = scene.lab.restore(scene.on).await?;
    scene.mended("the clock is back, and all serve");
    back.signed_in(&["user"]).await?;
    let records = back.audited("supervisor").await.map(|r| r.len()).unwrap_or_default();
    Ok(format!("{} signed people in a day ahead and back again, {records} audit records are readable", site.stamp))
}
