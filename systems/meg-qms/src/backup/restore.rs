//! `meg-qms restore FOLDER`: a set into an empty database and an empty share, with every digest checked first.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures_util::SinkExt;
use sdk::Settings;
use tokio_postgres::Client;

use super::{Manifest, write};
use crate::{app::mount, media};

/// Restores the set in `folder` with the rights of the schema's owner (`MIGRATIONS_CONNECTION`), after `meg-qms migrate`.
///
/// # Errors
/// The set is not whole or was changed, or the database is not empty.
pub async fn run(settings: &Settings, folder: &Path) -> Result<()> {
    let share = mount(settings, "MOUNT_MEDIA", "the folder of the share `media`")?;
    let mut client = sdk::database::connect_alone(settings, "MIGRATIONS_CONNECTION").await?;
    let manifest = restore(&mut client, folder, &share).await?;
    tracing::info!(
        made_at = manifest.made_at,
        tables = manifest.tables.len(),
        files = manifest.media.len(),
        "restored"
    );
    Ok(())
}

/// As [`run`], on a connection.
///
/// # Errors
/// As [`run`]; nothing is changed then.
pub async fn restore(client: &mut Client, folder: &Path, share: &Path) -> Result<Manifest> {
    let text = std::fs::read(folder.join("manifest.json")).context("the set has no manifest: it is not whole")?;
    let manifest: Manifest = serde_json::from_slice(&text).context("the manifest cannot be read")?;
    ensure!(manifest.version == 1, "the set is of version {}, and this program reads 1", manifest.version);
    let mut contents = Vec::new();
    for (name, table) in &manifest.tables {
        let content = std::fs::read(folder.join("tables").join(format!("{name}.copy")))?;
        ensure!(media::sha256(&content) == table.sha256, "the dump of {name} was changed");
        contents.push((name, table, content));
    }
    let kept = folder.parent().context("no folder")?.join("media");
    for (address, sha256) in &manifest.media {
        ensure!(media::is_address(address), "`{address}` is no address");
        let bytes =
            std::fs::read(kept.join(address)).with_context(|| format!("the file {address} is not in the backups"))?;
        ensure!(media::sha256(&bytes) == *sha256, "the file {address} was changed");
        write(&share.join(address), &bytes)?;
    }
    let transaction = client.transaction().await?;
    for table in ["Submissions", "Qips", "Users"] {
        let row = transaction.query_one(&format!("SELECT EXISTS (SELECT FROM \"{table}\")"), &[]).await?;
        if row.get(0) {
            bail!("the database has rows in {table}: a set goes into an empty one");
        }
    }
    // The tables refer to one another: all checks at the end, by the owner of the tables.
    let names: Vec<String> = contents.iter().map(|(name, ..)| format!("\"{name}\"")).collect();
    let orders = "SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname),
                         format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
                  FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace";
    let foreign = transaction.query(orders, &[]).await?;
    for row in &foreign {
        transaction.batch_execute(row.get(0)).await?;
    }
    transaction.batch_execute(&format!("TRUNCATE {}", names.join(", "))).await?;
    for (name, table, content) in contents {
        let known = "SELECT count(*) = $2 FROM information_schema.columns WHERE table_name::text = $1 AND column_name::text = ANY ($3)";
        let count = i64::try_from(table.columns.len())?;
        let same: bool = transaction.query_one(known, &[name, &count, &table.columns]).await?.get(0);
        ensure!(same, "{name} has other columns by now");
        let list: Vec<String> = table.columns.iter().map(|c| format!("\"{c}\"")).collect();
        let sink = transaction.copy_in(&format!("COPY \"{name}\" ({}) FROM STDIN", list.join(", "))).await?;
        let mut sink = std::pin::pin!(sink);
        sink.send(Bytes::from(content)).await?;
        let rows = sink.finish().await?;
        ensure!(rows == table.rows, "{name}: {rows} rows came back of {}", table.rows);
    }
    for row in &foreign {
        transaction.batch_execute(row.get(1)).await?;
    }
    let counters = "SELECT format('SELECT setval(%L, greatest(1, (SELECT coalesce(max(%I), 0) FROM %I.%I)))',
                        pg_get_serial_sequence(quote_ident(table_schema) || '.' || quote_ident(table_name), column_name), column_name, table_schema, table_name)
                    FROM information_schema.columns WHERE table_schema = 'public' AND is_identity = 'YES'";
    for row in transaction.query(counters, &[]).await? {
        transaction.batch_execute(row.get(0)).await?;
    }
    transaction.commit().await?;
    Ok(manifest)
}
