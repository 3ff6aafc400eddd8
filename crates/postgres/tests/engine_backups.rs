//! The archive of the log, base backups and restores, with a real server.

mod bed;

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use api::{
    Secret,
    backup::{Backups, Target},
    context::secret,
};
use bed::{Bed, until};
use tokio_postgres::Client;

async fn admin(bed: &Bed) -> anyhow::Result<Client> {
    let password = bed.secrets.get(secret::POSTGRES_ADMIN).context("a password")?.expose().to_owned();
    Ok(bed.connect_locally(&password).await?)
}

async fn kept() -> anyhow::Result<Option<(Bed, Client)>> {
    let mut bed = Bed::new(&["app"])?;
    if !bed.has_tools() {
        return Ok(None);
    }
    bed.keep_backups()?;
    bed.start()?;
    bed.ready().await?;
    let client = admin(&bed).await?;
    client
        .batch_execute("CREATE TABLE written (n bigint PRIMARY KEY, at timestamptz DEFAULT clock_timestamp())")
        .await?;
    Ok(Some((bed, client)))
}

async fn write(client: &Client, numbers: std::ops::Range<i64>) -> anyhow::Result<()> {
    for n in numbers {
        client.execute("INSERT INTO written VALUES ($1)", &[&n]).await?;
    }
    Ok(())
}

async fn rows(bed: &Bed) -> anyhow::Result<Vec<i64>> {
    let rows = admin(bed).await?.query("SELECT n FROM written ORDER BY n", &[]).await?;
    Ok(rows.iter().map(|r| r.get(0)).collect())
}

async fn now_ms(client: &Client) -> anyhow::Result<i64> {
    let row = client.query_one("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint", &[]).await?;
    Ok(row.get(0))
}

/// Waits until the server's clock has passed a millisecond: what comes after is after it by the clock too.
async fn passed(client: &Client, ms: i64) -> anyhow::Result<()> {
    let later = || async {
        let now = now_ms(client).await.map_err(|e| e.to_string())?;
        (now > ms + 1).then_some(()).ok_or_else(|| now.to_string())
    };
    until("the clock goes on", later).await
}

async fn listed(bed: &Bed) -> anyhow::Result<Backups> {
    Ok(api::backup::backups(&bed.control()).await?)
}

#[tokio::test]
async fn a_restore_to_a_moment_has_exactly_the_rows_up_to_it_and_leaves_the_original_alone() -> anyhow::Result<()> {
    let Some((bed, client)) = kept().await? else { return Ok(()) };
    write(&client, 0..50).await?;
    let taken = bed.back_up().await?;
    let base = &taken.bases[0];
    println!("base backup {}: {} bytes, {} stored", base.name, base.bytes, base.stored_bytes);
    assert!(base.stored_bytes < base.bytes && base.files > 900, "{base:?}");
    write(&client, 50..90).await?;
    let moment = now_ms(&client).await?;
    passed(&client, moment).await?;
    // The mistake, and what came after it.
    client.batch_execute("DELETE FROM written WHERE n % 2 = 0").await?;
    write(&client, 1000..1005).await?;
    api::backup::close_log(&bed.control()).await?;

    let begun = Instant::now();
    let mut restored = bed.restored(Target::Time { ms: moment })?;
    restored.start()?;
    let status = restored.ready().await?;
    println!("restored within {} ms: {:?}", begun.elapsed().as_millis(), status.restore);
    assert_eq!(rows(&restored).await?, (0..90).collect::<Vec<_>>());
    let how = status.restore.context("it tells how it was restored")?;
    assert!(how.stopped.as_ref().is_some_and(|s| s.contains("before 20")), "{how:?}");
    assert!(how.last_commit_ms.is_some_and(|at| at <= moment), "{how:?}");
    assert_eq!(rows(&bed).await?.len(), 45 + 5, "the original was touched");
    // It takes rows, and archives none of its own: it is for looking.
    write(&admin(&restored).await?, 5000..5003).await?;
    assert!(!restored.data().join("backups/wal").read_dir()?.flatten().any(|_| true));

    // To the latest: everything.
    let mut latest = bed.restored(Target::Latest)?;
    latest.start()?;
    latest.ready().await?;
    assert_eq!(rows(&latest).await?, rows(&bed).await?);
    Ok(())
}

#[tokio::test]
async fn a_named_point_is_gone_back_to_and_an_unknown_moment_is_refused_with_the_window() -> anyhow::Result<()> {
    let Some((bed, client)) = kept().await? else { return Ok(()) };
    let ask = api::backup::BackupRequest { point: Some("before-release".into()) };
    let early = api::backup::back_up(&bed.control(), &ask).await.unwrap_err().to_string();
    assert!(early.contains("no base backup"), "{early}");
    bed.back_up().await?;
    write(&client, 0..10).await?;
    let point = api::backup::back_up(&bed.control(), &ask).await?.point.context("a point")?;
    assert_eq!(point.name, "before-release");
    let again = api::backup::back_up(&bed.control(), &ask).await.unwrap_err().to_string();
    assert!(again.contains("already") || again.contains("409"), "{again}");
    write(&client, 10..20).await?;
    api::backup::close_log(&bed.control()).await?;
    let mut restored = bed.restored(Target::Point { name: "before-release".into() })?;
    restored.start()?;
    let status = restored.ready().await?;
    assert_eq!(rows(&restored).await?, (0..10).collect::<Vec<_>>(), "{:?}", status.restore);

    let window = listed(&bed).await?.window.context("a window")?;
    for target in [
        Target::Time { ms: window.from_ms - 60_000 },
        Target::Time { ms: window.to_ms + 3_600_000 },
        Target::Point { name: "never".into() },
    ] {
        let mut refused = bed.restored(target)?;
        refused.start()?;
        let control = refused.control();
        let failed = || async {
            let status = api::postgres::status(&control).await.map_err(|e| e.to_string())?;
            status.restore.and_then(|r| r.failed).ok_or_else(|| format!("{:?}", status.trouble))
        };
        let why = until("the restore is refused", failed).await?;
        println!("refused: {why}");
        assert!(why.contains(" to 20") || why.contains("'never'"), "{why}");
        assert!(!refused.pgdata().exists());
    }
    Ok(())
}

#[tokio::test]
async fn a_keeper_killed_while_it_archives_and_backs_up_loses_no_file_of_the_log() -> anyhow::Result<()> {
    let Some((mut bed, client)) = kept().await? else { return Ok(()) };
    write(&client, 0..5).await?;
    bed.back_up().await?;
    for turn in 0..3 {
        // A base backup under way, and files of the log that nobody takes.
        let _ = api::backup::back_up(&bed.control(), &api::backup::BackupRequest::default()).await?;
        bed.kill_keeper()?;
        client.batch_execute("SELECT pg_switch_wal()").await?;
        write(&client, 100 * (turn + 1)..100 * (turn + 1) + 20).await?;
        client.batch_execute("SELECT pg_switch_wal()").await?;
        bed.start()?;
        bed.ready().await?;
    }
    api::backup::close_log(&bed.control()).await?;
    let all = listed(&bed).await?;
    let stray: Vec<_> = fs::read_dir(bed.data().join("backups/base"))?.flatten().map(|e| e.file_name()).collect();
    println!("{} base backups; in the folder: {stray:?}", all.bases.len());
    assert!(!stray.iter().any(|n| n.to_string_lossy().starts_with('.')), "what was cut is still there: {stray:?}");
    let mut restored = bed.restored(Target::Latest)?;
    restored.start()?;
    restored.ready().await?;
    assert_eq!(rows(&restored).await?, rows(&bed).await?);
    Ok(())
}

#[tokio::test]
async fn a_broken_or_missing_file_of_the_archive_is_named_and_never_passed_over() -> anyhow::Result<()> {
    let Some((bed, client)) = kept().await? else { return Ok(()) };
    bed.back_up().await?;
    let mut closed = Vec::new();
    for turn in 0..3 {
        write(&client, 10 * turn..10 * turn + 10).await?;
        let row = client.query_one("SELECT pg_walfile_name(pg_current_wal_lsn())", &[]).await?;
        closed.push(row.get::<_, String>(0));
        api::backup::close_log(&bed.control()).await?;
    }
    let path = bed.data().join("backups/wal").join(&closed[1]);
    let whole = fs::read(&path)?;
    let mut changed = whole.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    for (case, content) in [("changed", Some(&changed)), ("missing", None)] {
        match content {
            Some(content) => fs::write(&path, content)?,
            None => fs::remove_file(&path)?,
        }
        let mut restored = bed.restored(Target::Latest)?;
        restored.start()?;
        let control = restored.control();
        let failed = || async {
            let status = api::postgres::status(&control).await.map_err(|e| e.to_string())?;
            assert!(!status.ready, "it serves without {case} {}", closed[1]);
            status.restore.and_then(|r| r.failed).ok_or_else(|| format!("{:?}", status.trouble))
        };
        let why = until("the restore fails", failed).await?;
        println!("{case}: {why}");
        assert!(why.contains(&closed[1]), "{case}: {why}");
    }
    fs::write(&path, whole)?;
    let mut restored = bed.restored(Target::Latest)?;
    restored.start()?;
    restored.ready().await?;
    assert_eq!(rows(&restored).await?.len(), 30);
    Ok(())
}

#[tokio::test]
async fn days_go_by_and_backups_come_by_themselves_and_go_with_the_retention() -> anyhow::Result<()> {
    let Some((mut bed, client)) = kept().await? else { return Ok(()) };
    write(&client, 0..3).await?;
    let first = bed.back_up().await?.bases[0].name.clone();
    drop(client);
    for day in 1..=3 {
        bed.stop_keeper()?;
        bed.move_clock(day);
        bed.start()?;
        bed.ready().await?;
        let count = || async {
            let all = listed(&bed).await.map_err(|e| e.to_string())?;
            let own = all.bases.iter().filter(|b| b.scheduled).count() as i64;
            (own == day && all.running.is_none()).then_some(()).ok_or_else(|| format!("{own} scheduled: {all:?}"))
        };
        until("the day's backup is there", count).await?;
    }
    for (day, there) in [(6, true), (9, false)] {
        bed.stop_keeper()?;
        bed.move_clock(day);
        bed.start()?;
        bed.ready().await?;
        let gone = || async {
            let all = listed(&bed).await.map_err(|e| e.to_string())?;
            let has = all.bases.iter().any(|b| b.name == first);
            let newest = all.bases.last().map(|b| b.begun_ms).unwrap_or_default();
            let taken = all.running.is_none() && newest > all.bases[0].begun_ms + (day - 2) * 86_400_000;
            (has == there && taken).then_some(()).ok_or_else(|| format!("{:?}", all.bases))
        };
        until("the retention is kept", gone).await?;
    }
    let mut restored = bed.restored(Target::Latest)?;
    restored.start()?;
    restored.ready().await?;
    assert_eq!(rows(&restored).await?, [0, 1, 2]);
    Ok(())
}

#[tokio::test]
async fn what_is_stored_shows_nothing_of_the_rows_and_opens_under_its_own_key_only() -> anyhow::Result<()> {
    let Some((bed, client)) = kept().await? else { return Ok(()) };
    client.batch_execute("CREATE TABLE words (t text); INSERT INTO words SELECT 'correct-horse-battery' FROM generate_series(1,2000)").await?;
    bed.back_up().await?;
    api::backup::close_log(&bed.control()).await?;
    let mut files = Vec::new();
    for folder in ["wal", "base", "point"] {
        files.extend(fs::read_dir(bed.data().join("backups").join(folder))?.flatten().map(|e| e.path()));
    }
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let bytes = fs::read(&file)?;
        assert!(!bytes.windows(13).any(|w| w == b"correct-horse"), "{} shows rows", file.display());
    }
    let mut other = bed.restored(Target::Latest)?;
    other.secrets.insert(secret::BACKUP_KEY, Secret::random());
    other.start()?;
    let control = other.control();
    let refused = || async {
        let status = api::postgres::status(&control).await.map_err(|e| e.to_string())?;
        status.restore.and_then(|r| r.failed).ok_or_else(|| format!("{:?}", status.trouble))
    };
    let why = until("another key opens nothing", refused).await?;
    assert!(why.contains("another key"), "{why}");
    Ok(())
}

#[tokio::test]
async fn with_another_password_of_the_administrator_backups_go_on() -> anyhow::Result<()> {
    let Some((bed, client)) = kept().await? else { return Ok(()) };
    write(&client, 0..3).await?;
    let body = api::postgres::AdminPassword { password: Secret::random() }.encode();
    let _: serde_json::Value = bed.control().send_secret("PUT", "/admin-password", &body).await?;
    bed.back_up().await?;
    let _: String = bed.control().post("/check", &()).await?;
    Ok(())
}

#[tokio::test]
async fn an_archive_that_cannot_be_written_is_told_of_and_the_server_goes_on() -> anyhow::Result<()> {
    let Some((bed, client)) = kept().await? else { return Ok(()) };
    bed.back_up().await?;
    // Another server has used this archive: what it holds under the next name is not this log.
    let next: String = client.query_one("SELECT pg_walfile_name(pg_current_wal_lsn())", &[]).await?.get(0);
    let folder = bed.data().join("backups/wal");
    fs::rename(&folder, folder.with_file_name("away"))?;
    write(&client, 0..5).await?;
    client.batch_execute("SELECT pg_switch_wal()").await?;
    let control = bed.control();
    let told = || async {
        let status = api::postgres::status(&control).await.map_err(|e| e.to_string())?;
        let archive = status.archive.ok_or("no archive")?;
        let known = status.ready && archive.failures > 0 && archive.waiting > 0;
        archive.trouble.clone().filter(|_| known).ok_or_else(|| format!("{archive:?}"))
    };
    println!("told: {}", until("the failure is told", told).await?);
    write(&client, 5..10).await?;
    fs::rename(folder.with_file_name("away"), &folder)?;
    let mended = || async {
        let status = api::postgres::status(&control).await.map_err(|e| e.to_string())?;
        let archive = status.archive.ok_or("no archive")?;
        (archive.trouble.is_none() && folder.join(&next).exists()).then_some(()).ok_or_else(|| format!("{archive:?}"))
    };
    // PostgreSQL asks again within a minute.
    let begun = Instant::now();
    while mended().await.is_err() && begun.elapsed() < Duration::from_secs(90) {
        let _ = until("the archive is mended", mended).await;
    }
    mended().await.map_err(anyhow::Error::msg)
}
