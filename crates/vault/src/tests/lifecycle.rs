use api::Secret;
use serde_json::{Value, json};

use super::bench::{Bench, DAY_MS, config, open};
use crate::Error;

#[tokio::test]
async fn a_deleted_secret_is_recoverable_on_day_6_and_gone_on_day_8() {
    let bench = Bench::new();
    bench.set("kept", "v1").await;
    bench.set("lost", "v2").await;
    for name in ["kept", "lost"] {
        let deleted = bench.by("supervisor", "DELETE", &format!("/secrets/{name}"), Value::Null).await;
        let (from, to) =
            (deleted.json["deletedDate"].as_i64().unwrap(), deleted.json["scheduledPurgeDate"].as_i64().unwrap());
        assert_eq!((to - from, deleted.json.get("value")), (7 * 86_400, None));
        assert!(deleted.json["recoveryId"].as_str().unwrap().ends_with(&format!("/deletedsecrets/{name}")));
        assert_eq!(bench.get(name).await.status, 404);
    }
    let taken = bench.by("supervisor", "PUT", "/secrets/KEPT", json!({ "value": "x" })).await;
    assert_eq!(
        (taken.status.as_u16(), taken.code(), taken.inner()),
        (409, "Conflict", "ObjectIsDeletedButRecoverable")
    );
    let listed = bench.by("supervisor", "GET", "/deletedsecrets", Value::Null).await;
    assert_eq!(listed.json["value"].as_array().unwrap().len(), 2);
    assert_eq!(bench.by("supervisor", "GET", "/secrets", Value::Null).await.json["value"], json!([]));

    bench.clock.set_offset_ms(6 * DAY_MS);
    assert_eq!(bench.by("supervisor", "GET", "/deletedsecrets/kept", Value::Null).await.status, 200);
    assert_eq!(bench.by("supervisor", "POST", "/deletedsecrets/kept/recover", Value::Null).await.status, 200);
    assert_eq!(bench.get("kept").await.json["value"], "v1");

    bench.clock.set_offset_ms(8 * DAY_MS);
    let gone = bench.by("supervisor", "POST", "/deletedsecrets/lost/recover", Value::Null).await;
    assert_eq!((gone.status.as_u16(), gone.code()), (404, "SecretNotFound"));
    let purged = bench.events().into_iter().find(|e| e.action == "secret.purge").unwrap();
    assert_eq!((purged.actor.as_str(), purged.object.as_str()), ("vault.main", "vault.main/secrets/lost"));
    bench.set("lost", "new").await;
}

#[tokio::test]
async fn a_purge_without_protection_removes_at_once() {
    let bench = Bench::new();
    bench.set("a", "v").await;
    assert_eq!(bench.by("supervisor", "DELETE", "/deletedsecrets/a", Value::Null).await.status, 404, "not deleted yet");
    bench.by("supervisor", "DELETE", "/secrets/a", Value::Null).await;
    assert_eq!(bench.by("supervisor", "DELETE", "/deletedsecrets/a", Value::Null).await.status, 204);
    assert_eq!(bench.by("supervisor", "GET", "/deletedsecrets/a", Value::Null).await.status, 404);
}

#[tokio::test]
async fn purge_protection_refuses_even_an_administrator_until_the_retention_ends() {
    let bench = Bench::with(api::vault::VaultConfig { purge_protection: true, ..config() });
    bench.set("a", "v").await;
    bench.by("supervisor", "DELETE", "/secrets/a", Value::Null).await;
    let refused = bench.by("supervisor", "DELETE", "/deletedsecrets/a", Value::Null).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (403, "Forbidden"));
    assert_eq!(bench.by("supervisor", "GET", "/deletedsecrets/a", Value::Null).await.status, 200);
    bench.clock.set_offset_ms(8 * DAY_MS);
    assert_eq!(bench.by("supervisor", "GET", "/deletedsecrets/a", Value::Null).await.status, 404);
}

#[tokio::test]
async fn a_backup_is_restored_with_all_versions_and_opens_under_no_other_key() {
    let bench = Bench::new();
    let first = bench.set("a", "one \"1\"").await;
    bench.set("a", "two").await;
    let backup = bench.by("supervisor", "POST", "/secrets/a/backup", Value::Null).await;
    assert!(!backup.json["value"].as_str().unwrap().is_empty());
    assert_eq!(
        bench.by("supervisor", "POST", "/secrets/restore", backup.json.clone()).await.status,
        409,
        "it is still there"
    );
    bench.renew().await;
    bench.by("supervisor", "DELETE", "/secrets/a", Value::Null).await;
    bench.by("supervisor", "DELETE", "/deletedsecrets/a", Value::Null).await;
    assert_eq!(bench.by("supervisor", "POST", "/secrets/restore", backup.json.clone()).await.status, 200);
    assert_eq!(bench.last_event().2, "vault.main/secrets/a");
    assert_eq!(bench.get("a").await.json["value"], "two");
    let id = first.json["id"].as_str().unwrap();
    assert_eq!(bench.get(id.split("/secrets/").nth(1).unwrap()).await.json["value"], "one \"1\"");

    let other = Bench::new();
    assert_eq!(other.by("supervisor", "POST", "/secrets/restore", backup.json.clone()).await.status, 400);
    let mut text = backup.json["value"].as_str().unwrap().to_owned();
    text.replace_range(20..21, if &text[20..21] == "A" { "B" } else { "A" });
    assert_eq!(bench.by("supervisor", "POST", "/secrets/restore", json!({ "value": text })).await.status, 400);
}

#[tokio::test]
async fn no_file_holds_a_value_and_all_is_there_after_a_restart() {
    let bench = Bench::new();
    bench.set("a", "correct-horse-battery").await;
    bench.set("a", "staple-and-some-more").await;
    bench.by("supervisor", "POST", "/secrets/a/backup", Value::Null).await;
    bench.get("a").await;
    let bench = bench.reopen();
    assert_eq!(bench.get("a").await.json["value"], "staple-and-some-more");
    let mut files = 0;
    let mut folders = vec![bench.dir.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            for value in ["correct-horse", "staple-and", bench.kek.expose()] {
                assert!(!bytes.windows(value.len()).any(|w| w == value.as_bytes()), "{} holds a value", path.display());
            }
            files += 1;
        }
    }
    assert!(files >= 3, "the database, its log and the spool were searched");
}

#[tokio::test]
async fn a_renewed_data_key_seals_everything_anew() {
    let bench = Bench::new();
    bench.set("a", "v").await;
    bench.get("a").await;
    let before = crate::rows::version(&bench.vault.store.db(), "a", None).unwrap().unwrap();
    assert_eq!(bench.renew().await, 2);
    let after = crate::rows::version(&bench.vault.store.db(), "a", None).unwrap().unwrap();
    assert_eq!((before.key, after.key), (1, 2));
    assert_ne!(before.sealed, after.sealed);
    assert_eq!(bench.get("a").await.json["value"], "v");
    let bench = bench.reopen();
    assert_eq!(bench.get("a").await.json["value"], "v");
    assert_eq!(crate::rows::data_keys(&bench.vault.store.db()).unwrap().len(), 1, "the old key is gone");
}

#[tokio::test]
async fn another_vaults_key_is_a_start_error_and_changes_nothing() {
    let bench = Bench::new();
    bench.set("a", "v").await;
    let Bench { dir, kek, clock, signer, vault, router } = bench;
    drop((vault, router));
    let error = open(dir.path(), &Secret::random(), &clock, &signer, config()).err().unwrap();
    assert!(matches!(error, Error::Kek { id: 1 }), "{error}");
    let vault = open(dir.path(), &kek, &clock, &signer, config()).unwrap();
    assert_eq!(vault.status().unwrap().secrets, 1);
}

#[tokio::test]
async fn rows_that_were_swapped_or_changed_in_the_database_do_not_open() {
    let bench = Bench::new();
    bench.set("a", "for-a").await;
    bench.set("b", "for-b").await;
    bench
        .vault
        .store
        .db()
        .execute_batch(
            "UPDATE versions SET sealed = (SELECT sealed FROM versions v WHERE v.name = 'b'),
             version = (SELECT version FROM versions v WHERE v.name = 'b') WHERE name = 'a'",
        )
        .unwrap();
    bench.vault.store.forget();
    let read = bench.get("a").await;
    assert_eq!((read.status.as_u16(), read.json.get("value")), (500, None));
    assert_eq!(bench.get("b").await.json["value"], "for-b");
}
