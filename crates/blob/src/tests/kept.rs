//! What is kept of what was overwritten or deleted, and what time does.

use api::blob::{BlobConfig, ContainerConfig};

use super::bench::{Bench, DAY_MS, config, with_photos};
use crate::sweep::sweep;

fn soft() -> BlobConfig {
    BlobConfig { soft_delete_seconds: 7 * 86_400, ..config() }
}

fn versioned() -> BlobConfig {
    BlobConfig { versioning: true, ..config() }
}

/// The tokens of before have expired where the clock was moved.
fn moved(bench: &mut Bench, ms: i64) {
    bench.clock.set_offset_ms(ms);
    bench.owner = bench.by("service.owner", &[]);
}

#[tokio::test]
async fn what_was_deleted_comes_back_until_its_time_is_over() {
    let mut bench = Bench::with(soft());
    bench.put("/photos/a", "one").await;
    bench.put("/photos/a", "two").await;
    assert_eq!(bench.delete("/photos/a").await.status, 202);
    assert_eq!(bench.get("/photos/a").await.said(), (404, "BlobNotFound"));
    let list = bench.get("/photos?restype=container&comp=list&include=deleted,snapshots").await.text();
    assert_eq!(list.matches("<Deleted>true</Deleted>").count(), 2, "{list}");
    assert!(
        list.contains("<RemainingRetentionDays>6</RemainingRetentionDays>")
            || list.contains("<RemainingRetentionDays>7<")
    );
    assert!(!bench.get("/photos?restype=container&comp=list").await.text().contains("<Blob>"));
    assert_eq!(bench.act("/photos/a?comp=undelete", &[]).await.status, 200);
    assert_eq!(bench.get("/photos/a").await.body, "two");
    let list = bench.get("/photos?restype=container&comp=list&include=snapshots").await.text();
    let mark = list.split("<Snapshot>").nth(1).unwrap().split('<').next().unwrap();
    assert_eq!(
        bench.get(&format!("/photos/a?snapshot={mark}")).await.body,
        "one",
        "what was overwritten is a snapshot"
    );
    assert_eq!(bench.delete("/photos/a").await.said(), (409, "SnapshotsPresent"));
    let with = [("x-ms-delete-snapshots", "include")];
    assert_eq!(bench.call(&bench.owner, "DELETE", "/photos/a", &with, "").await.status, 202);
    moved(&mut bench, 8 * DAY_MS);
    sweep(&bench.store).await.unwrap();
    assert_eq!(bench.act("/photos/a?comp=undelete", &[]).await.said(), (404, "BlobNotFound"));
    assert_eq!(bench.files(), 0);
    assert_eq!(bench.events().iter().filter(|e| e.action == "blob.purge").count(), 2);
}

#[tokio::test]
async fn of_several_deletions_the_last_comes_back() {
    let bench = Bench::with(soft());
    for content in ["one", "two"] {
        bench.put("/photos/a", content).await;
        bench.delete("/photos/a").await;
    }
    bench.act("/photos/a?comp=undelete", &[]).await;
    assert_eq!(bench.get("/photos/a").await.body, "two");
    bench.act("/photos/a?comp=undelete", &[]).await;
    assert_eq!(bench.get("/photos/a").await.body, "two", "done twice, it is the same");
}

#[tokio::test]
async fn every_overwrite_is_a_version() {
    let bench = Bench::with(versioned());
    let first = bench.put("/photos/a", "one").await.field("x-ms-version-id").to_owned();
    let second = bench.put("/photos/a", "two").await.field("x-ms-version-id").to_owned();
    assert!(first < second);
    assert_eq!(bench.get(&format!("/photos/a?versionid={first}")).await.body, "one");
    let set = bench.act("/photos/a?comp=metadata", &[("x-ms-meta-m", "v")]).await;
    let third = set.field("x-ms-version-id").to_owned();
    assert!(third > second);
    assert_eq!(bench.get("/photos/a").await.field("x-ms-is-current-version"), "true");
    let list = bench.get("/photos?restype=container&comp=list&include=versions").await.text();
    for mark in [&first, &second, &third] {
        assert!(list.contains(&format!("<VersionId>{mark}</VersionId>")), "{list}");
    }
    assert_eq!(list.matches("<IsCurrentVersion>true").count(), 1);
    let root = bench.delete(&format!("/photos/a?versionid={third}")).await;
    assert_eq!(root.said(), (403, "OperationNotAllowedOnRootBlob"));
    assert_eq!(bench.delete(&format!("/photos/a?versionid={second}")).await.status, 202);
    assert_eq!(bench.get(&format!("/photos/a?versionid={second}")).await.said(), (404, "BlobNotFound"));
    assert_eq!(bench.delete("/photos/a").await.status, 202);
    assert_eq!(bench.get("/photos/a").await.said(), (404, "BlobNotFound"));
    assert_eq!(bench.get(&format!("/photos/a?versionid={third}")).await.body, "two", "deleted is a version as well");
    let source = format!("https://{}/photos/a?versionid={first}", super::bench::HOST);
    assert_eq!(bench.act("/photos/a", &[("x-ms-copy-source", &source)]).await.status, 202);
    assert_eq!(bench.get("/photos/a").await.body, "one", "brought back by a copy");
}

#[tokio::test]
async fn nobody_changes_what_is_immutable() {
    let hour =
        ContainerConfig { immutable_seconds: Some(3600), delete_after_seconds: Some(60), ..ContainerConfig::default() };
    for versioning in [false, true] {
        let mut bench = Bench::with(BlobConfig { versioning, ..with_photos(hour.clone()) });
        let put = bench.put("/photos/a", "kept").await;
        let mark = put.field("x-ms-version-id").to_owned();
        let refused = (409, "BlobImmutableDueToPolicy");
        for _ in 0..2 {
            assert_eq!(bench.put("/photos/a", "other").await.said(), refused);
            assert_eq!(bench.delete("/photos/a").await.said(), refused);
            assert_eq!(bench.act("/photos/a?comp=metadata", &[]).await.said(), refused);
            assert_eq!(bench.act("/photos/a?comp=properties", &[]).await.said(), refused);
            let source = format!("https://{}/photos/a", super::bench::HOST);
            assert_eq!(bench.act("/photos/a", &[("x-ms-copy-source", &source)]).await.said(), refused);
            let list = "<BlockList></BlockList>";
            assert_eq!(bench.call(&bench.owner, "PUT", "/photos/a?comp=blocklist", &[], list).await.said(), refused);
            if versioning {
                assert_eq!(bench.delete(&format!("/photos/a?versionid={mark}")).await.status, 403);
            }
            // Neither age nor a manifest that says less takes it away.
            let mut less = BlobConfig { versioning, ..config() };
            less.containers.get_mut("photos").unwrap().delete_after_seconds = Some(60);
            bench.store.reconfigure(less).await.unwrap();
            moved(&mut bench, 3_000_000);
            sweep(&bench.store).await.unwrap();
            assert_eq!(bench.get("/photos/a").await.body, "kept");
        }
        moved(&mut bench, 3_700_000);
        assert_eq!(bench.put("/photos/a", "other").await.status, 201);
    }
}

#[tokio::test]
async fn blobs_cool_are_archived_and_deleted_by_age() {
    let day = 86_400;
    let aging = ContainerConfig {
        cool_after_seconds: Some(30 * day),
        archive_after_seconds: Some(90 * day),
        delete_after_seconds: Some(365 * day),
        ..ContainerConfig::default()
    };
    let mut bench = Bench::with(with_photos(aging));
    bench.put("/photos/a", "old").await;
    for (days, tier) in [(29, "Hot"), (31, "Cool"), (91, "Archive"), (364, "Archive")] {
        moved(&mut bench, days * DAY_MS);
        sweep(&bench.store).await.unwrap();
        assert_eq!(bench.head("/photos/a").await.field("x-ms-access-tier"), tier, "after {days} days");
    }
    // Somebody needs it again: it stays where they moved it.
    bench.act("/photos/a?comp=tier", &[("x-ms-access-tier", "Hot")]).await;
    sweep(&bench.store).await.unwrap();
    assert_eq!(bench.get("/photos/a").await.body, "old");
    moved(&mut bench, 366 * DAY_MS);
    sweep(&bench.store).await.unwrap();
    assert_eq!(bench.get("/photos/a").await.said(), (404, "BlobNotFound"));
    assert!(bench.events().iter().any(|e| e.action == "blob.expire" && e.actor == "blob.files"));
}

#[tokio::test]
async fn blocks_that_no_list_names_are_let_go_after_a_week() {
    let mut bench = Bench::new();
    bench.call(&bench.owner, "PUT", "/photos/a?comp=block&blockid=QQ%3D%3D", &[], "x").await;
    moved(&mut bench, 6 * DAY_MS);
    sweep(&bench.store).await.unwrap();
    assert_eq!(bench.files(), 1);
    moved(&mut bench, 8 * DAY_MS);
    sweep(&bench.store).await.unwrap();
    assert_eq!(bench.files(), 0);
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let bench = Bench::with(versioned());
    let first = bench.put("/photos/a", "one").await.field("x-ms-version-id").to_owned();
    bench.put("/photos/a", "two").await;
    bench.call(&bench.owner, "PUT", "/photos/b?comp=block&blockid=QQ%3D%3D", &[], "x").await;
    std::fs::write(bench.dir.path().join("content/00/00000000000000000000000000000000"), "left by a cut").unwrap();
    let bench = bench.reopen(versioned());
    assert_eq!(bench.get("/photos/a").await.body, "two");
    assert_eq!(bench.get(&format!("/photos/a?versionid={first}")).await.body, "one");
    let list = "<BlockList><Latest>QQ==</Latest></BlockList>";
    assert_eq!(bench.call(&bench.owner, "PUT", "/photos/b?comp=blocklist", &[], list).await.status, 201);
    assert_eq!(bench.files(), 3, "what nobody knows is gone");
}
