//! The night's set: made with rights that only read, changed by nobody unseen, and restored into an empty database.

use http::Method;
use meg_qms::{app::Part, backup};
use sdk::Settings;
use serde_json::json;

use crate::common::{World, listener, photo};

#[tokio::test]
async fn a_set_comes_back_whole_and_a_changed_one_is_refused() {
    let world = World::start().await;
    let site = world.stamp("site", Part::Alone, listener().await, &[]).await;
    let mut mia = site.signed_in("mia").await;
    let csrf = mia.csrf.clone();
    let sent = mia
        .send(
            Method::POST,
            "/api/v1/media?kind=qip-photos",
            &[("content-type", "image/png"), ("x-csrf-token", &csrf)],
            photo("kept"),
        )
        .await
        .json();
    let address = sent["address"].as_str().unwrap();
    let made =
        mia.api(Method::POST, "/api/v1/qips", &json!({ "title": "Tab\there\\and \"there\"", "ward": "ED" })).await;
    assert_eq!(made.status.as_u16(), 400, "a title is one line");
    let made = mia
        .api(
            Method::POST,
            "/api/v1/qips",
            &json!({ "title": "A \\ and \"quotes\"", "description": "Two\nlines", "ward": "ED" }),
        )
        .await
        .json();
    let attached =
        mia.api(Method::POST, &format!("/api/v1/qips/{}/media", made["id"]), &json!({ "address": address })).await;
    assert_eq!(attached.status.as_u16(), 200, "{}", attached.text);
    world.sql("site", "CREATE ROLE backup LOGIN; GRANT USAGE ON SCHEMA public TO backup; GRANT SELECT ON ALL TABLES IN SCHEMA public TO backup");
    let reader = Settings::from_pairs([("ConnectionStrings__DefaultConnection", world.connection("backup", "site"))]);
    let mut client = sdk::database::connect_alone(&reader, "ConnectionStrings__DefaultConnection").await.unwrap();
    assert!(client.execute(r#"DELETE FROM "Qips""#, &[]).await.is_err(), "the backup only reads");
    let backups = tempfile::tempdir().unwrap();
    let (set, manifest) = backup::make(&mut client, site.share.path(), backups.path()).await.unwrap();
    assert_eq!(
        (manifest.media.len(), manifest.tables["Qips"].rows, manifest.tables.contains_key("Sessions")),
        (1, 1, false)
    );
    // Into an empty database.
    world.database("other", Part::Alone).await;
    let owner = Settings::from_pairs([("MIGRATIONS_CONNECTION", world.connection("app_owner", "other"))]);
    let mut owner = sdk::database::connect_alone(&owner, "MIGRATIONS_CONNECTION").await.unwrap();
    let share = tempfile::tempdir().unwrap();
    backup::restore::restore(&mut owner, &set, share.path()).await.unwrap();
    for table in ["Qips", "Users", "Forms", "Questions", "Media", "QipMedia", "Revisions"] {
        let rows = format!(r#"SELECT t::text FROM "{table}" t ORDER BY 1"#);
        assert_eq!(world.sql("site", &rows), world.sql("other", &rows), "{table}");
    }
    assert_eq!(std::fs::read(share.path().join(address)).unwrap(), photo("kept"));
    world.sql("other", r#"INSERT INTO "Qips" ("Title", "WardCode") VALUES ('the next number', 'ED')"#);
    // Not into one that has rows; and not a set that somebody changed.
    assert!(backup::restore::restore(&mut owner, &set, share.path()).await.is_err());
    let dump = set.join("tables/Wards.copy");
    let changed = std::fs::read_to_string(&dump).unwrap().replace("Paediatrics", "Somewhere");
    std::fs::write(&dump, changed).unwrap();
    let refused = backup::restore::restore(&mut owner, &set, share.path()).await.unwrap_err();
    assert!(refused.to_string().contains("the dump of Wards was changed"), "{refused:#}");
}
