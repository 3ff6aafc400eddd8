//! Two people, or one person twice, at the same time: nothing is lost.

use crate::common::{Browser, Office};
use http::{Method, StatusCode};
use serde_json::json;

const CELL: &str = "INTERNAL|DEV|2026-11-17";

async fn set(browser: &mut Browser, sheet: &str, value: &str, base: &str) -> crate::common::Page {
    let (value_name, base_name) = (format!("h|{CELL}"), format!("b|{CELL}"));
    browser.post(&format!("/sheets/{sheet}/grid"), &[(&value_name, value), (&base_name, base)]).await
}

#[tokio::test]
async fn the_second_of_two_writers_sees_both_values_and_chooses() {
    let office = Office::start().await;
    let mut one = office.signed_in("ann").await;
    let mut two = office.signed_in("ann").await;
    let sheet = one.sheet("2026-11-17").await;
    assert_eq!(set(&mut one, &sheet, "4", "").await.status, StatusCode::SEE_OTHER);
    let page = two.get(&format!("/sheets/{sheet}")).await;
    let base = page.field(&format!("b|{CELL}"));
    // Both looked at 4 hours. The first writes 5; the second wants 6, and another cell that nobody else touched.
    assert_eq!(set(&mut one, &sheet, "5", &base).await.status, StatusCode::SEE_OTHER);
    let other = "h|INTERNAL|DEV|2026-11-18";
    let fields = [(format!("h|{CELL}"), "6"), (format!("b|{CELL}"), base.as_str()), (other.to_owned(), "1.5")];
    let fields: Vec<(&str, &str)> = fields.iter().map(|(k, v)| (k.as_str(), *v)).collect();
    let conflict = two.post(&format!("/sheets/{sheet}/grid"), &fields).await;
    assert_eq!(conflict.status, StatusCode::CONFLICT);
    assert!(conflict.text.contains("6 hours") && conflict.text.contains("5 hours"), "{}", conflict.text);
    assert_eq!(
        office.sql(r#"SELECT string_agg("Hours"::text, ',') FROM "TimeEntries""#),
        "5.00",
        "nothing of the second was saved"
    );
    // Choosing one's own value, as the page's form sends it.
    let now = conflict.field(&format!("b|{CELL}"));
    let kept = conflict.field(other);
    let fields = [(format!("h|{CELL}"), "6"), (format!("b|{CELL}"), now.as_str()), (other.to_owned(), kept.as_str())];
    let fields: Vec<(&str, &str)> = fields.iter().map(|(k, v)| (k.as_str(), *v)).collect();
    assert_eq!(two.post(&format!("/sheets/{sheet}/grid"), &fields).await.status, StatusCode::SEE_OTHER);
    assert_eq!(office.sql(r#"SELECT string_agg("Hours"::text, ',' ORDER BY "Hours") FROM "TimeEntries""#), "1.50,6.00");
}

#[tokio::test]
async fn an_old_version_of_an_entry_is_refused_in_the_page_and_in_the_api() {
    let office = Office::start().await;
    let mut ann = office.signed_in("ann").await;
    let sheet = ann.sheet("2026-11-17").await;
    let entry = json!({ "projectCode": "INTERNAL", "workTypeCode": "DEV", "entryDate": "2026-11-17", "hours": 4 });
    let made = ann.api(Method::POST, &format!("/api/v1/time-sheets/{sheet}/time-entries"), &entry).await.json();
    let path = format!("/api/v1/time-entries/{}", made["id"]);
    let mut change = entry.clone();
    change["version"] = made["version"].clone();
    change["hours"] = json!(5);
    assert_eq!(ann.api(Method::PUT, &path, &change).await.status, StatusCode::OK);
    assert_eq!(ann.api(Method::PUT, &path, &change).await.status, StatusCode::CONFLICT);
    assert_eq!(ann.api(Method::DELETE, &format!("{path}?version=1"), &json!(null)).await.status, StatusCode::CONFLICT);
    let form =
        [("project", "INTERNAL"), ("work_type", "DEV"), ("date", "2026-11-17"), ("hours", "6"), ("version", "1")];
    let page = ann.post(&format!("/entries/{}", made["id"]), &form).await;
    assert_eq!(page.status, StatusCode::CONFLICT);
    assert!(page.text.contains("<td>6</td><td>5</td>"), "both values are shown: {}", page.text);
    assert_eq!(page.field("version"), "2", "saving again would replace what is stored");
    assert_eq!(
        ann.api(Method::DELETE, &format!("{path}?version=2"), &json!(null)).await.status,
        StatusCode::NO_CONTENT
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_at_the_same_moment_never_break_a_rule_or_lose_an_acknowledged_entry() {
    let office = Office::start().await;
    let mut ann = office.signed_in("ann").await;
    let sheet = ann.sheet("2026-11-17").await;
    let mut writers = Vec::new();
    for n in 0..12 {
        let mut browser = office.signed_in("ann").await;
        let sheet = sheet.clone();
        // Twelve times 4 hours on one day: six fit. Twelve times the same span: one fits.
        writers.push(tokio::spawn(async move {
            let path = format!("/api/v1/time-sheets/{sheet}/time-entries");
            let plain = json!({ "projectCode": "INTERNAL", "workTypeCode": "DEV", "entryDate": "2026-11-17", "hours": 4, "notes": n.to_string() });
            let timed = json!({ "projectCode": "INTERNAL", "workTypeCode": "DEV", "entryDate": "2026-11-18", "startTime": "09:00", "endTime": "10:00" });
            (browser.api(Method::POST, &path, &plain).await.status, browser.api(Method::POST, &path, &timed).await.status)
        }));
    }
    let (mut fitted, mut alone) = (0, 0);
    for writer in writers {
        let (plain, timed) = writer.await.unwrap();
        assert!(plain == StatusCode::CREATED || plain == StatusCode::BAD_REQUEST, "{plain}");
        assert!(timed == StatusCode::CREATED || timed == StatusCode::BAD_REQUEST, "{timed}");
        fitted += i32::from(plain == StatusCode::CREATED);
        alone += i32::from(timed == StatusCode::CREATED);
    }
    assert_eq!((fitted, alone), (6, 1));
    assert_eq!(office.sql(r#"SELECT count(*) || ' ' || sum("Hours") FROM "TimeEntries""#), "7 25.00");
    assert_eq!(office.sql(r#"SELECT "TotalHours" FROM "TimeSheets""#), "25.00");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sheet_is_made_once_however_many_ask_for_it_first() {
    let office = Office::start().await;
    let mut all = Vec::new();
    for _ in 0..8 {
        let mut browser = office.signed_in("ben").await;
        all.push(tokio::spawn(async move { browser.sheet("2026-11-17").await }));
    }
    let mut ids = Vec::new();
    for one in all {
        ids.push(one.await.unwrap());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert_eq!(office.sql(r#"SELECT count(*) FROM "TimeSheets""#), "1");
}
