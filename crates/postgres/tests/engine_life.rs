//! The keeper and a real server: start, death, adoption, end.

mod bed;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Instant,
};

use api::{Secret, context::secret, postgres::Right};
use bed::{Bed, until};

/// Inserts 1, 2, 3, ... one by one; `acknowledged` is the last that the server said is safe.
async fn write(
    client: tokio_postgres::Client,
    acknowledged: Arc<AtomicI64>,
    enough: Arc<AtomicBool>,
) -> anyhow::Result<()> {
    let insert = client.prepare("INSERT INTO written VALUES ($1)").await?;
    let mut next = 1_i64;
    while !enough.load(Ordering::Relaxed) {
        client.execute(&insert, &[&next]).await?;
        acknowledged.store(next, Ordering::Relaxed);
        next += 1;
    }
    Ok(())
}

async fn reach(acknowledged: &AtomicI64, number: i64) -> anyhow::Result<()> {
    let enough =
        || async { (acknowledged.load(Ordering::Relaxed) >= number).then_some(()).ok_or("too few rows".to_owned()) };
    until("rows are written", enough).await
}

#[tokio::test]
async fn a_new_server_is_ready_and_says_what_it_is() -> anyhow::Result<()> {
    let mut bed = Bed::new(&["app"])?;
    let begun = Instant::now();
    bed.start()?;
    let status = bed.ready().await?;
    // How fast is for `bench/stamp` to say: a test beside others would measure them.
    println!("cold start, template to ready with one database: {} ms", begun.elapsed().as_millis());
    assert!(status.ready && status.starts == 1 && !status.version.is_empty(), "{status:?}");
    Ok(())
}

#[test]
fn a_template_is_made_whole_and_once() -> anyhow::Result<()> {
    let bed = Bed::new(&[])?;
    let folder = tempfile::tempdir()?;
    let template = folder.path().join("new/template");
    let begun = Instant::now();
    postgres::make_template(&bed.config.bin, &template)?;
    println!("made a template within {} ms", begun.elapsed().as_millis());
    std::fs::write(template.join("seen"), "")?;
    postgres::make_template(&bed.config.bin, &template)?;
    assert!(template.join("seen").exists(), "it was made a second time");
    assert_eq!(std::fs::read_dir(folder.path().join("new"))?.count(), 1, "unfinished work was left");
    let other = folder.path().join("none/template");
    assert!(postgres::make_template(folder.path(), &other).is_err());
    assert!(!other.exists());
    Ok(())
}

#[tokio::test]
async fn a_server_outlives_its_keeper_and_the_next_keeper_adopts_it() -> anyhow::Result<()> {
    let mut bed = Bed::up(&["app"]).await?;
    let password = bed.role("web", "app", Right::Owner).await?;
    let client = bed.connect("web", &password, "app").await?;
    client.batch_execute("CREATE TABLE written (n bigint PRIMARY KEY)").await?;
    let before = bed.ready().await?;
    let (acknowledged, enough) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicBool::new(false)));
    let writer = tokio::spawn(write(client, acknowledged.clone(), enough.clone()));
    reach(&acknowledged, 20).await?;

    bed.kill_keeper()?;
    let at_kill = acknowledged.load(Ordering::Relaxed);
    reach(&acknowledged, at_kill + 20).await?;
    let begun = Instant::now();
    bed.start()?;
    let after = bed.ready().await?;
    println!(
        "adopted within {} ms, {} rows were written meanwhile",
        begun.elapsed().as_millis(),
        acknowledged.load(Ordering::Relaxed) - at_kill
    );
    assert_eq!((after.pid, after.starts), (before.pid, 0), "another server was started");
    let at_adoption = acknowledged.load(Ordering::Relaxed);
    reach(&acknowledged, at_adoption + 20).await?;
    enough.store(true, Ordering::Relaxed);
    writer.await??;

    let reader = bed.connect("web", &password, "app").await?;
    let kept: i64 = reader.query_one("SELECT count(*) FROM written", &[]).await?.get(0);
    assert_eq!(kept, acknowledged.load(Ordering::Relaxed));
    // The keeper that adopted it can end it.
    assert!(bed.stop_keeper()?.success());
    assert_eq!(bed.processes(), Vec::<i32>::new());
    Ok(())
}

#[tokio::test]
async fn a_killed_server_comes_back_with_all_it_acknowledged() -> anyhow::Result<()> {
    let bed = Bed::up(&["app"]).await?;
    let password = bed.role("web", "app", Right::Owner).await?;
    let client = bed.connect("web", &password, "app").await?;
    client.batch_execute("CREATE TABLE written (n bigint PRIMARY KEY)").await?;
    let before = bed.ready().await?;
    let acknowledged = Arc::new(AtomicI64::new(0));
    let writer = tokio::spawn(write(client, acknowledged.clone(), Arc::default()));
    reach(&acknowledged, 50).await?;

    let postmaster = rustix::process::Pid::from_raw(i32::try_from(before.pid)?).unwrap();
    rustix::process::kill_process(postmaster, rustix::process::Signal::KILL)?;
    let begun = Instant::now();
    assert!(writer.await?.is_err(), "the writer's session ended with the server");
    let again = || async {
        let status = api::postgres::status(&bed.control()).await.map_err(|e| e.to_string())?;
        if status.ready && status.pid != before.pid { Ok(status) } else { Err(format!("{status:?}")) }
    };
    let after = until("the server is back", again).await?;
    println!("back within {} ms", begun.elapsed().as_millis());
    assert_eq!(after.starts, 2);
    let reader = bed.connect("web", &password, "app").await?;
    let kept: i64 = reader.query_one("SELECT count(*) FROM written", &[]).await?.get(0);
    let promised = acknowledged.load(Ordering::Relaxed);
    // One more may have been written whose acknowledgement was cut off.
    assert!(kept == promised || kept == promised + 1, "{kept} kept of {promised}");
    Ok(())
}

#[tokio::test]
async fn a_server_and_its_keeper_that_die_at_once_come_back_even_without_the_locks_content() -> anyhow::Result<()> {
    let mut bed = Bed::up(&["app"]).await?;
    let password = bed.role("web", "app", Right::Owner).await?;
    let client = bed.connect("web", &password, "app").await?;
    client.batch_execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)").await?;
    bed.kill_keeper()?;
    for pid in bed.processes() {
        let _ =
            rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL);
    }
    // As a full disk leaves it: made, and its content lost.
    std::fs::write(bed.pgdata().join("postmaster.pid"), [0; 90])?;
    bed.start()?;
    bed.ready().await?;
    let row = bed.connect("web", &password, "app").await?.query_one("SELECT n FROM kept", &[]).await?;
    assert_eq!(row.get::<_, i32>(0), 7);
    Ok(())
}

#[tokio::test]
async fn a_changed_administrator_password_is_taken_over() -> anyhow::Result<()> {
    let mut bed = Bed::up(&["app"]).await?;
    assert!(bed.stop_keeper()?.success());
    bed.secrets.insert(secret::POSTGRES_ADMIN, Secret::random());
    bed.start()?;
    bed.ready().await?;
    // Again on a running server, by the next keeper.
    bed.kill_keeper()?;
    bed.secrets.insert(secret::POSTGRES_ADMIN, Secret::random());
    bed.start()?;
    bed.ready().await?;
    let rules = std::fs::read_to_string(bed.pgdata().with_file_name("conf").join("pg_hba.conf"))?;
    assert!(!rules.contains("trust"), "{rules}");
    assert!(bed.connect_locally("guess").await.is_err(), "the socket lets the administrator in unasked");
    Ok(())
}

#[tokio::test]
async fn an_end_leaves_no_process_and_no_lock() -> anyhow::Result<()> {
    let mut bed = Bed::up(&["app"]).await?;
    assert!(bed.processes().len() > 3);
    let begun = Instant::now();
    let status = bed.stop_keeper()?;
    println!("ended within {} ms", begun.elapsed().as_millis());
    assert!(status.success(), "{status}");
    assert_eq!(bed.processes(), Vec::<i32>::new());
    assert!(!bed.pgdata().join("postmaster.pid").exists(), "the server was not ended in order");
    Ok(())
}

#[tokio::test]
async fn a_server_that_cannot_start_is_tried_again_and_says_why() -> anyhow::Result<()> {
    let mut bed = Bed::new(&["app"])?;
    bed.config.settings.insert("shared_buffers".into(), "much".into());
    bed.start()?;
    let control = bed.control();
    let said = || async {
        match control.get::<serde_json::Value>("/health").await {
            Err(error) if error.to_string().contains("the server ended") => Ok(error.to_string()),
            other => Err(format!("{other:?}")),
        }
    };
    let said = until("the keeper says why", said).await?;
    assert!(said.contains("503"), "{said}");
    assert!(bed.log().contains("invalid value for parameter"), "the server's own words are missing");
    let tries =
        || async { (bed.log().matches("trying again in").count() >= 2).then_some(()).ok_or("one try".to_owned()) };
    until("it is tried again", tries).await?;
    assert!(bed.stop_keeper()?.success());
    Ok(())
}
