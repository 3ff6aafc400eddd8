//! Programs that refuse to begin: without what they need, or over a history that is not theirs.

use crate::{
    Lab, Miss, Seen, Site,
    claim::Call,
    must,
    sabotage::{as_owner, owner},
    site::until,
};

/// `starts_only_with(SERVICE, VARIABLE, HEALTH PATH)`.
pub async fn only_with(lab: &Lab, on: &str, c: &Call) -> Seen {
    let (service, variable, path) = (c.argument(0, ""), c.argument(1, ""), c.argument(2, "/health"));
    let site = lab.site(on).await?;
    let health = async |site: &Site| {
        Ok::<_, Miss>(site.client(&site.url("edge")?)?.send("GET", path, None).await?.status.as_u16())
    };
    let before = health(&site).await?;
    must!(before == 200, "with {variable} {path} answers {before}");
    // What a stamp says of itself counts more than what all stamps say.
    let change = format!("[stamps.{on}.service.{service}]\nstart_within = \"5s\"\nenv.{variable} = \"\"\n");
    let seen = match lab.changed(on, &change).await {
        Ok(_) => Err(Miss::Failed(format!("service.{service} starts without {variable}"))),
        Err(Miss::Failed(why)) => {
            why.lines().find(|l| l.contains(variable)).map(|l| l.trim().to_owned()).ok_or_else(|| {
                Miss::Failed(format!("without {variable} it does not start, but says nothing of it: {why}"))
            })
        }
        Err(other) => Err(other),
    };
    let site = lab.restore(on).await?;
    let after = until("it serves again", async || {
        let status = health(&site).await?;
        must!(status == 200, "{path} answers {status}");
        Ok(status)
    })
    .await?;
    Ok(format!("with {variable} {before}; without it: {}; with it again {after}", seen?))
}

/// `migration_stays(SERVICE, HISTORY TABLE)`: the checksum of the first migration is made another one's, and put back.
pub async fn migration_stays(lab: &Lab, on: &str, c: &Call) -> Seen {
    let (service, table) = (c.argument(0, ""), c.argument(1, ""));
    let site = lab.site(on).await?;
    let client = owner(&site).await?;
    let sql = format!("SELECT \"Version\", \"Checksum\" FROM \"{table}\" ORDER BY 1");
    let history = crate::sql::rows(&client, &sql).await?;
    let sound = |row: &Vec<String>| row[1].len() == 64 && row[1].bytes().all(|b| b.is_ascii_hexdigit());
    must!(!history.is_empty() && history.iter().all(sound), "the history is {history:?}");
    let set = |checksum: &str| {
        format!("UPDATE \"{table}\" SET \"Checksum\" = '{checksum}' WHERE \"Version\" = {}", history[0][0])
    };
    as_owner(&site, &set(&"0".repeat(64))).await?;
    // Another setting of the job is another job: it runs anew.
    let changed = lab.changed(on, &format!("[service.{service}.migrate.env]\nMIGRATION_NOTE = \"again\"\n")).await;
    let refused = match changed {
        Ok(_) => Err(Miss::Failed("a migration that was changed is taken".into())),
        Err(Miss::Failed(why)) => {
            let told = why.lines().find(|line| line.contains("was changed after it was applied"));
            told.map(|line| line.trim().to_owned())
                .ok_or_else(|| Miss::Failed(format!("it is refused, but not for its checksum: {why}")))
        }
        Err(other) => Err(other),
    };
    as_owner(&site, &set(&history[0][1])).await?;
    let site = lab.restore(on).await?;
    let again = crate::sql::rows(&owner(&site).await?, &sql).await?;
    must!(again == history, "the history went from {history:?} to {again:?}");
    let line = refused?;
    Ok(format!("{} migrations, each with its checksum; with another checksum in the history: {line}", history.len()))
}
