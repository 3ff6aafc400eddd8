//! A disk that fills under a writing client, with a real server on a small file system of its own.

mod bed;

use std::{fs, io::Write as _};

use api::postgres::Right;
use bed::{Bed, until};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
    thread::{UnshareFlags, unshare_unsafe},
};

/// A file system of 140 MiB over the bed's data folder, seen by this test and what it starts only.
fn small_disk(bed: &Bed) -> rustix::io::Result<()> {
    // SAFETY: a mount namespace of its own changes no memory and no descriptor of this process.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount("none", bed.data(), "tmpfs", MountFlags::empty(), c"size=140m,mode=0777")
}

#[tokio::test]
async fn a_full_disk_loses_nothing_is_named_and_mends_without_a_hand() -> anyhow::Result<()> {
    let mut bed = Bed::new(&["app"])?;
    if let Err(error) = small_disk(&bed) {
        let required = std::env::var("STAMP_REQUIRE").is_ok_and(|r| r.split(',').any(|word| word == "mount"));
        assert!(!required, "mount -t tmpfs: {error}");
        println!("SKIP: a disk of its own needs `mount -t tmpfs`: {error}");
        return Ok(());
    }
    bed.start()?;
    bed.ready().await?;
    let password = bed.role("web", "app", Right::Owner).await?;
    let client = bed.connect("web", &password, "app").await?;
    client.batch_execute("CREATE TABLE written (n bigint PRIMARY KEY)").await?;

    // All but 10 MiB are taken by somebody else; WAL cannot have its next file then.
    let ballast = bed.data().join("ballast");
    let mut file = fs::File::create(&ballast)?;
    let free = || rustix::fs::statvfs(bed.data()).map(|s| s.f_bavail * s.f_frsize);
    while free()? > 10 << 20 {
        file.write_all(&[0; 1 << 20])?;
    }
    // Who does not insist is refused before the disk refuses, and reads on.
    let polite = bed.connect("web", &password, "app").await?;
    let refused = || async {
        let tried = polite.batch_execute("INSERT INTO written VALUES (0); DELETE FROM written WHERE n = 0").await;
        match tried {
            Err(error) if error.code().is_some_and(|code| code.code() == "25006") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    };
    until("writes are refused on a disk that is nearly full", refused).await?;
    assert_eq!(polite.query("SELECT n FROM written", &[]).await?.len(), 0);
    client.batch_execute("SET default_transaction_read_only = off").await?;
    let mut acknowledged = 0_i64;
    let refused = loop {
        let next = acknowledged + 1;
        if let Err(error) = client.execute("INSERT INTO written VALUES ($1)", &[&next]).await {
            break error;
        }
        acknowledged = next;
        // WAL without a table that grows.
        let fill = "SELECT pg_logical_emit_message(true, 'fill', repeat('x', 1000000))";
        if let Err(error) = client.batch_execute(fill).await {
            break error;
        }
        anyhow::ensure!(acknowledged < 200, "the disk did not fill");
    };
    println!("{acknowledged} rows were acknowledged before: {refused}");

    let control = bed.control();
    let named = || async {
        match control.get::<serde_json::Value>("/health").await {
            Err(error) if error.to_string().contains("is full") => Ok(error.to_string()),
            other => Err(format!("{other:?}")),
        }
    };
    println!("the keeper says: {}", until("the keeper names the disk", named).await?);
    assert!(bed.log().contains("No space left on device"), "the disk was not full");

    drop(file);
    fs::remove_file(&ballast)?;
    bed.ready().await?;
    let reader = bed.connect("web", &password, "app").await?;
    let kept: i64 = reader.query_one("SELECT count(*) FROM written", &[]).await?.get(0);
    assert!(kept == acknowledged || kept == acknowledged + 1, "{kept} kept of {acknowledged}");
    assert!(bed.stop_keeper()?.success());
    unmount(bed.data(), UnmountFlags::DETACH)?;
    Ok(())
}
