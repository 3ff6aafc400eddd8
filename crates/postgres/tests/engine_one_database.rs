//! One database of a real server: dumped where it was restored, loaded beside the one there is, swapped, and let go.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod bed;

use api::{
    backup::Target,
    postgres::{Right, drop_aside, dump_database, load_database, swap_database},
};
use bed::Bed;

async fn count(bed: &Bed, user: &str, password: &api::Secret, database: &str) -> i64 {
    let client = bed.connect(user, password, database).await.unwrap();
    client.query_one("SELECT count(*) FROM things", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn one_database_goes_back_while_the_others_go_on() -> anyhow::Result<()> {
    let mut bed = Bed::new(&["one", "two"])?;
    if !bed.has_tools() {
        return Ok(());
    }
    bed.keep_backups()?;
    bed.start()?;
    bed.ready().await?;
    let owner = bed.role("web_migrate", "one", Right::Owner).await?;
    let web = bed.role("web", "one", Right::ReadWrite).await?;
    let other = bed.role("other", "two", Right::Owner).await?;
    let made = "CREATE TABLE things (id int PRIMARY KEY, word text); INSERT INTO things SELECT n, 'x' FROM generate_series(1, 1000) n; \
                ALTER TABLE things ENABLE ROW LEVEL SECURITY; ALTER TABLE things FORCE ROW LEVEL SECURITY; \
                CREATE POLICY all_of_it ON things USING (true)";
    bed.connect("web_migrate", &owner, "one").await?.batch_execute(made).await?;
    bed.connect("other", &other, "two").await?.batch_execute("CREATE TABLE things (n int)").await?;
    bed.back_up().await?;
    let point = api::backup::BackupRequest { point: Some("before".into()) };
    api::backup::back_up(&bed.control(), &point).await?;

    // The mistake, and what goes on in the other database.
    bed.connect("web", &web, "one").await?.batch_execute("DELETE FROM things").await?;
    let held = bed.connect("other", &other, "two").await?;
    held.batch_execute("INSERT INTO things VALUES (1)").await?;
    api::backup::close_log(&bed.control()).await?;

    let mut restored = bed.restored(Target::Point { name: "before".into() })?;
    restored.start()?;
    restored.ready().await?;
    // Both run as one user here, so that one folder serves both.
    let file = restored.data().join("database.dump");
    dump_database(&restored.control(), "one", &file).await?;
    assert_eq!(dump_database(&restored.control(), "absent", &file).await.expect_err("absent").status(), Some(404));
    let loaded = load_database(&bed.control(), "one", &file).await?;
    assert_eq!(loaded.database, "one-restored");

    // It stands beside, with the roles and the rights of the one there is.
    assert_eq!(count(&bed, "web", &web, "one").await, 0, "the origin was not touched");
    assert_eq!(count(&bed, "web", &web, "one-restored").await, 1000);
    let refused = bed.connect("web", &web, "one-restored").await?.batch_execute("DROP TABLE things").await;
    assert!(refused.is_err(), "a reader and writer owns nothing there either");
    let beside = bed.connect("web_migrate", &owner, "one-restored").await?;
    beside.batch_execute("ALTER TABLE things ADD COLUMN more text").await?;
    assert!(bed.connect("other", &other, "one-restored").await.is_err(), "it is closed to whom the origin is");

    // Loaded again it is made anew, whoever looks at it.
    load_database(&bed.control(), "one", &file).await?;
    assert!(beside.simple_query("SELECT 1").await.is_err());

    // The swap ends sessions of this database alone.
    let mine = bed.connect("web", &web, "one").await?;
    let swapped = swap_database(&bed.control(), "one", "one-old-1").await?;
    assert_eq!(swapped.kept, ["one-old-1"]);
    assert!(mine.simple_query("SELECT 1").await.is_err());
    held.batch_execute("INSERT INTO things VALUES (2)").await?;
    assert_eq!(count(&bed, "web", &web, "one").await, 1000);
    assert!(bed.connect("web", &web, "one-old-1").await.is_err(), "what is kept is closed");
    // Whoever owned by its group still does.
    bed.connect("web_migrate", &owner, "one").await?.batch_execute("CREATE TABLE more (n int)").await?;
    bed.connect("web", &web, "one").await?.batch_execute("INSERT INTO more VALUES (1)").await?;
    assert_eq!(swap_database(&bed.control(), "one", "one-old-2").await.expect_err("none beside").status(), Some(404));

    assert_eq!(drop_aside(&bed.control(), "one", true).await?.kept, ["one-old-1"]);
    assert!(drop_aside(&bed.control(), "one", true).await?.kept.is_empty(), "once");

    assert!(drop_aside(&bed.control(), "one", false).await?.kept.is_empty(), "nothing stands beside");

    // A file that is none makes nothing.
    std::fs::write(&file, "no dump")?;
    let broken = load_database(&bed.control(), "one", &file).await.expect_err("no dump");
    assert!(broken.to_string().contains("pg_restore"), "{broken}");
    assert!(bed.connect("web", &web, "one-restored").await.is_err(), "half a database is of no use");

    // A keeper that comes after a swap that was cut opens what is declared.
    let admin = bed.connect_locally(bed.secrets.get(api::context::secret::POSTGRES_ADMIN).unwrap().expose()).await?;
    admin.batch_execute("ALTER DATABASE one ALLOW_CONNECTIONS false").await?;
    bed.kill_keeper()?;
    bed.start()?;
    bed.ready().await?;
    assert_eq!(count(&bed, "web", &web, "one").await, 1000);
    Ok(())
}
