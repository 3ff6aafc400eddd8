//! One person's way through the application, and another's approval.

use crate::common::Office;
use http::StatusCode;

#[tokio::test]
async fn a_person_enters_a_fortnight_and_a_manager_approves_and_closes_it() {
    let office = Office::start().await;
    let mut ann = office.signed_in("ann").await;
    let sheet = ann.sheet("2026-11-17").await;
    let path = format!("/sheets/{sheet}");

    // The grid: two cells of a new row.
    let saved = ann
        .post(
            &format!("{path}/grid"),
            &[
                ("np", "PROJECT-A"),
                ("nw", "DEV"),
                ("h|||2026-11-16", "7,5"),
                ("h|||2026-11-17", "7:10"),
                ("h|||2026-11-18", ""),
            ],
        )
        .await;
    assert_eq!(saved.status, StatusCode::SEE_OTHER, "{}", saved.text);
    let page = ann.get(&path).await;
    assert_eq!(page.field("h|PROJECT-A|DEV|2026-11-16"), "7.5");
    assert_eq!(page.field("h|PROJECT-A|DEV|2026-11-17"), "7.25", "rounded to a quarter");

    // A cell is emptied, another changed.
    let (one, two) = (page.field("b|PROJECT-A|DEV|2026-11-16"), page.field("b|PROJECT-A|DEV|2026-11-17"));
    let fields = [
        ("h|PROJECT-A|DEV|2026-11-16", ""),
        ("b|PROJECT-A|DEV|2026-11-16", one.as_str()),
        ("h|PROJECT-A|DEV|2026-11-17", "8"),
        ("b|PROJECT-A|DEV|2026-11-17", two.as_str()),
    ];
    assert_eq!(ann.post(&format!("{path}/grid"), &fields).await.status, StatusCode::SEE_OTHER);
    assert_eq!(office.sql(r#"SELECT "Hours" FROM "TimeEntries""#), "8.00");

    // Many days in one go, pasted lines, one entry with times and a note.
    let bulk = [
        ("project", "INTERNAL"),
        ("work_type", "MEET"),
        ("hours", "0.5"),
        ("day", "2026-11-19"),
        ("day", "2026-11-20"),
        ("notes", "=1+1 <b>"),
    ];
    assert_eq!(ann.post(&format!("{path}/bulk"), &bulk).await.status, StatusCode::SEE_OTHER);
    let lines = "2026-11-23\tTRAINING\tTRAIN\t2\tcourse\n2026-11-24\tTRAINING\tTRAIN\t3,5";
    assert_eq!(ann.post(&format!("{path}/paste"), &[("lines", lines)]).await.status, StatusCode::SEE_OTHER);
    let timed = [
        ("project", "INTERNAL"),
        ("work_type", "SUPPORT"),
        ("date", "2026-11-25"),
        ("start", "9:00"),
        ("end", "11:30"),
        ("hours", ""),
    ];
    assert_eq!(ann.post(&format!("{path}/entries"), &timed).await.status, StatusCode::SEE_OTHER);
    assert_eq!(office.sql(r#"SELECT "TotalHours" FROM "TimeSheets" WHERE "Id" = 1"#), "17.00");

    // The page escapes, the file cannot run a formula.
    let page = ann.get(&path).await;
    assert!(page.text.contains("=1+1 &#60;b&#62;") && !page.text.contains("<b>"), "{}", page.text);
    let file = ann.get(&format!("{path}/csv")).await;
    assert!(file.text.contains(",'=1+1 <b>"), "{}", file.text);
    assert!(file.headers["content-type"].to_str().unwrap().starts_with("text/csv"));

    // Submit; a submitted sheet takes no change; another person approves and closes.
    let version = page.field("version");
    assert_eq!(
        ann.post(&format!("{path}/status"), &[("action", "submit"), ("version", &version)]).await.status,
        StatusCode::SEE_OTHER
    );
    assert_eq!(ann.post(&format!("{path}/entries"), &timed).await.status, StatusCode::CONFLICT);
    let mut mia = office.signed_in("mia").await;
    let waiting = mia.get("/approvals").await;
    assert!(waiting.text.contains("Ann Archer"), "{}", waiting.text);
    let version = waiting.field("version");
    let approve = [("action", "approve"), ("version", version.as_str()), ("back", "approvals")];
    assert_eq!(mia.post(&format!("{path}/status"), &approve).await.location(), "/approvals");
    let version = mia.get(&path).await.field("version");
    assert_eq!(
        mia.post(&format!("{path}/status"), &[("action", "close"), ("version", &version)]).await.status,
        StatusCode::SEE_OTHER
    );
    assert_eq!(office.sql(r#"SELECT "Status" FROM "TimeSheets" WHERE "Id" = 1"#), "Closed");
    // Closed is read-only, also for a statement past the program.
    let direct = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| office.sql(r#"DELETE FROM "TimeEntries""#)));
    assert!(direct.is_err(), "the database itself refuses to change a closed sheet");

    // Reopening needs a reason, and the reason is shown.
    let version = mia.get(&path).await.field("version");
    let without =
        mia.post(&format!("{path}/status"), &[("action", "reopen"), ("version", &version), ("comment", " ")]).await;
    assert_eq!(without.status, StatusCode::BAD_REQUEST);
    let reason = [("action", "reopen"), ("version", version.as_str()), ("comment", "Wednesday is missing")];
    assert_eq!(mia.post(&format!("{path}/status"), &reason).await.status, StatusCode::SEE_OTHER);
    assert!(ann.get(&path).await.text.contains("Wednesday is missing"));

    // The report: a manager sees everybody, Ann herself only.
    let report = mia.get("/reports/project-time?from=2026-11-01&to=2026-11-30").await;
    assert!(report.text.contains("Ann Archer") && report.text.contains("17"), "{}", report.text);
    let file = mia.get("/reports/project-time/csv?from=2026-11-01&to=2026-11-30").await;
    assert!(file.text.contains("PROJECT-A,Project A,Ann Archer,8"), "{}", file.text);
    let mut ben = office.signed_in("ben").await;
    let own = ben.get("/reports/project-time?from=2026-11-01&to=2026-11-30").await;
    assert!(!own.text.contains("Ann Archer"));
}

#[tokio::test]
async fn faults_stand_beside_their_fields_and_nothing_typed_is_lost() {
    let office = Office::start().await;
    let mut ann = office.signed_in("ann").await;
    let sheet = ann.sheet("2026-11-17").await;
    let path = format!("/sheets/{sheet}");
    let page = ann
        .post(
            &format!("{path}/grid"),
            &[("np", "PROJECT-A"), ("nw", "DEV"), ("h|||2026-11-16", "25"), ("h|||2026-11-17", "4")],
        )
        .await;
    assert_eq!(page.status, StatusCode::BAD_REQUEST);
    assert_eq!((page.field("h|||2026-11-16"), page.field("h|||2026-11-17")), ("25".into(), "4".into()));
    assert!(page.text.contains("A day has 24 hours."));
    let entry = [
        ("project", "INTERNAL"),
        ("work_type", "DEV"),
        ("date", "2026-12-24"),
        ("hours", "-1"),
        ("notes", "kept text"),
    ];
    let page = ann.post(&format!("{path}/entries"), &entry).await;
    assert_eq!(page.status, StatusCode::BAD_REQUEST);
    assert!(page.text.contains("This sheet holds 2026-11-16 to 2026-11-29."), "{}", page.text);
    assert!(page.text.contains("Hours must be at least 0.25.") && page.text.contains("kept text"));
    // Overlapping times of one person, and more than a day.
    let timed = |start, end| {
        [("project", "INTERNAL"), ("work_type", "DEV"), ("date", "2026-11-16"), ("start", start), ("end", end)]
    };
    assert_eq!(ann.post(&format!("{path}/entries"), &timed("9:00", "12:00")).await.status, StatusCode::SEE_OTHER);
    let page = ann.post(&format!("{path}/entries"), &timed("11:45", "13:00")).await;
    assert_eq!(page.status, StatusCode::BAD_REQUEST);
    assert!(page.text.contains("This overlaps with another entry of yours"), "{}", page.text);
    assert_eq!(
        ann.post(&format!("{path}/entries"), &timed("12:00", "24:00")).await.status,
        StatusCode::SEE_OTHER,
        "touching is fine"
    );
    let much = [("project", "INTERNAL"), ("work_type", "DEV"), ("date", "2026-11-16"), ("hours", "10")];
    let page = ann.post(&format!("{path}/entries"), &much).await;
    assert!(page.status == StatusCode::BAD_REQUEST && page.text.contains("a day has 24"), "{}", page.text);
    assert_eq!(office.sql(r#"SELECT count(*) FROM "TimeEntries""#), "2");
    // Another person's work at the same time is no overlap.
    let mut ben = office.signed_in("ben").await;
    let other = ben.sheet("2026-11-17").await;
    assert_eq!(
        ben.post(&format!("/sheets/{other}/entries"), &timed("9:00", "12:00")).await.status,
        StatusCode::SEE_OTHER
    );
}
