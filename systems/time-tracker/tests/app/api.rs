//! The API does what its OpenAPI document says, and refuses bad input field by field.

use std::collections::BTreeSet;

use crate::common::{Browser, Office, Page};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use time_tracker::{
    api::{Gives, openapi, operations},
    routes,
};

/// Whether `value` fits a JSON Schema, as far as our document uses the language.
fn fits(value: &Value, schema: &Value, document: &Value) -> Result<(), String> {
    if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
        let target = document.pointer(name.trim_start_matches('#')).ok_or(format!("{name} leads nowhere"))?;
        return fits(value, target, document);
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_i64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let allowed = match &schema["type"] {
        Value::String(one) => vec![one.as_str()],
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        _ => return Err(format!("the schema {schema} has no type")),
    };
    let whole_number = kind == "integer" && allowed.contains(&"number");
    if !allowed.contains(&kind) && !whole_number {
        return Err(format!("{value} is not {allowed:?}"));
    }
    if schema.get("enum").is_some_and(|all| !all.as_array().unwrap().contains(value)) {
        return Err(format!("{value} is none of {}", schema["enum"]));
    }
    if let Value::Array(items) = value {
        return items.iter().try_for_each(|item| fits(item, &schema["items"], document));
    }
    let Value::Object(fields) = value else { return Ok(()) };
    for name in schema["required"].as_array().unwrap() {
        fields.get(name.as_str().unwrap()).ok_or(format!("{name} is missing in {value}"))?;
    }
    for (name, field) in fields {
        let schema = schema["properties"].get(name).ok_or(format!("{name} is not in the schema"))?;
        fits(field, schema, document).map_err(|e| format!("{name}: {e}"))?;
    }
    Ok(())
}

#[test]
fn the_document_holds_exactly_the_routers_api_routes_and_all_references_lead_somewhere() {
    let document = openapi::document();
    let of = |method: &str, path: &str| format!("{} {path}", method.to_uppercase());
    let routed: BTreeSet<String> =
        routes::all().iter().filter(|r| r.path.starts_with("/api/")).map(|r| of(r.method, r.path)).collect();
    let paths = document["paths"].as_object().unwrap();
    let written: BTreeSet<String> =
        paths.iter().flat_map(|(p, ops)| ops.as_object().unwrap().keys().map(move |m| of(m, p))).collect();
    assert_eq!(routed, written);
    let text = document.to_string();
    for part in text.split("\"$ref\":\"#").skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(document.pointer(name).is_some(), "{name}");
    }
    let ids: BTreeSet<&str> = paths
        .values()
        .flat_map(|o| o.as_object().unwrap().values())
        .map(|o| o["operationId"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), routed.len(), "each operation has an id of its own");
}

/// Calls an operation and holds the answer against its schema.
async fn checked(browser: &mut Browser, method: &str, path: &str, concrete: &str, body: Value) -> Page {
    let document = openapi::document();
    let operation = operations().into_iter().find(|o| o.route.method == method && o.route.path == path).unwrap();
    if let Some(takes) = operation.takes {
        fits(&body, &json!({ "$ref": format!("#/components/schemas/{takes}") }), &document).unwrap();
    }
    let answer = browser.api(method.parse().unwrap(), concrete, &body).await;
    let schema = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    match operation.gives {
        Gives::One(status, name) => {
            assert_eq!(answer.status, status, "{method} {concrete}: {}", answer.text);
            fits(&answer.json(), &schema(name), &document).unwrap_or_else(|e| panic!("{method} {concrete}: {e}"));
        }
        Gives::Many(name) => {
            assert_eq!(answer.status, StatusCode::OK, "{method} {concrete}: {}", answer.text);
            let items = answer.json()["items"].as_array().unwrap().clone();
            assert!(!items.is_empty(), "{concrete} is empty, which proves nothing");
            items
                .iter()
                .for_each(|i| fits(i, &schema(name), &document).unwrap_or_else(|e| panic!("{method} {concrete}: {e}")));
        }
        Gives::Nothing => assert_eq!(answer.status, StatusCode::NO_CONTENT, "{method} {concrete}: {}", answer.text),
    }
    answer
}

#[tokio::test]
async fn every_operation_answers_as_the_document_says() {
    let office = Office::start().await;
    let mut ada = office.signed_in("ada").await;
    let mut ann = office.signed_in("ann").await;
    let v1 = |path: &str| format!("/api/v1/{path}");
    checked(&mut ann, "GET", "/api/v1/me", "/api/v1/me", Value::Null).await;
    let user = json!({ "email": "eve@example.com", "firstName": "Eve", "lastName": "Evans" });
    let made = checked(&mut ada, "POST", "/api/v1/users", "/api/v1/users", user).await.json();
    let one = v1(&format!("users/{}", made["id"]));
    checked(&mut ada, "GET", "/api/v1/users/{id}", &one, Value::Null).await;
    checked(&mut ada, "PUT", "/api/v1/users/{id}", &one, json!({ "isActive": false })).await;
    checked(&mut ada, "GET", "/api/v1/users", "/api/v1/users", Value::Null).await;
    assert_eq!(office.sql(r#"SELECT "FirstName" FROM "Users" WHERE "Email" = 'eve@example.com'"#), "Eve");
    for (list, table) in [("projects", "Projects"), ("work-types", "WorkTypes")] {
        let (all, each) = (v1(list), v1(&format!("{list}/{{code}}")));
        checked(&mut ada, "POST", &all, &all, json!({ "code": "NEW-1", "name": "New" })).await;
        checked(&mut ann, "GET", &all, &all, Value::Null).await;
        checked(&mut ann, "GET", &each, &v1(&format!("{list}/NEW-1")), Value::Null).await;
        let change = json!({ "name": "Newer", "isActive": false, "version": 1 });
        checked(&mut ada, "PUT", &each, &v1(&format!("{list}/NEW-1")), change.clone()).await;
        let stale = ada.api(Method::PUT, &v1(&format!("{list}/NEW-1")), &change).await;
        assert_eq!(stale.status, StatusCode::CONFLICT, "{}", stale.text);
        assert_eq!(office.sql(&format!(r#"SELECT "Name" FROM "{table}" WHERE "Code" = 'NEW-1'"#)), "Newer");
    }
    let sheet =
        checked(&mut ann, "POST", "/api/v1/time-sheets", "/api/v1/time-sheets", json!({ "date": "2026-11-17" }))
            .await
            .json();
    assert_eq!((sheet["startDate"].as_str(), sheet["endDate"].as_str()), (Some("2026-11-16"), Some("2026-11-29")));
    checked(&mut ann, "GET", "/api/v1/time-sheets", "/api/v1/time-sheets", Value::Null).await;
    let one = v1(&format!("time-sheets/{}", sheet["id"]));
    checked(&mut ann, "GET", "/api/v1/time-sheets/{id}", &one, Value::Null).await;
    let entries = format!("{one}/time-entries");
    let entry = json!({ "projectCode": "PROJECT-A", "workTypeCode": "DEV", "entryDate": "2026-11-18", "hours": 7.4, "startTime": "09:00", "endTime": "17:00", "notes": "ünï" });
    let made = checked(&mut ann, "POST", "/api/v1/time-sheets/{id}/time-entries", &entries, entry.clone()).await.json();
    assert_eq!(made["hours"], 7.5, "rounded to a quarter");
    checked(&mut ann, "GET", "/api/v1/time-sheets/{id}/time-entries", &entries, Value::Null).await;
    let this = v1(&format!("time-entries/{}", made["id"]));
    checked(&mut ann, "GET", "/api/v1/time-entries/{id}", &this, Value::Null).await;
    let mut change = entry.clone();
    change["version"] = json!(1);
    change["hours"] = json!(6);
    checked(&mut ann, "PUT", "/api/v1/time-entries/{id}", &this, change).await;
    let row = office.sql(r#"SELECT "TimeSheetId", "ProjectCode", "WorkTypeCode", "Hours" FROM "TimeEntries""#);
    assert_eq!(row, format!("{}|PROJECT-A|DEV|6.00", sheet["id"]));
    checked(
        &mut ann,
        "GET",
        "/api/v1/reports/project-time",
        "/api/v1/reports/project-time?from=2026-11-01&to=2026-11-30",
        Value::Null,
    )
    .await;
    let version = ann.get(&one).await.json()["version"].clone();
    let submit = json!({ "action": "submit", "version": version });
    checked(&mut ann, "POST", "/api/v1/time-sheets/{id}/status", &format!("{one}/status"), submit).await;
    checked(&mut ada, "GET", "/api/v1/time-sheets", "/api/v1/time-sheets?status=Submitted", Value::Null).await;
    let version = ann.get(&one).await.json()["version"].clone();
    checked(
        &mut ann,
        "POST",
        "/api/v1/time-sheets/{id}/status",
        &format!("{one}/status"),
        json!({ "action": "take-back", "version": version }),
    )
    .await;
    checked(&mut ann, "DELETE", "/api/v1/time-entries/{id}", &format!("{this}?version=2"), Value::Null).await;
}

#[tokio::test]
async fn bad_input_is_answered_400_with_a_field_and_stores_nothing() {
    let office = Office::start().await;
    let mut ada = office.signed_in("ada").await;
    let sheet = ada.sheet("2026-11-17").await;
    let entries = format!("/api/v1/time-sheets/{sheet}/time-entries");
    let good = json!({ "projectCode": "INTERNAL", "workTypeCode": "DEV", "entryDate": "2026-11-17", "hours": 1 });
    let with = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        body
    };
    let long = "x".repeat(2000);
    let status = format!("/api/v1/time-sheets/{sheet}/status");
    let bad: Vec<(&str, &str, Value, &str)> = vec![
        ("POST", &entries, with("hours", json!(-1)), "hours"),
        ("POST", &entries, with("hours", json!(0.1)), "hours"),
        ("POST", &entries, with("hours", json!(1e300)), "hours"),
        ("POST", &entries, with("hours", json!("many")), "hours"),
        ("POST", &entries, with("notes", json!(long)), "notes"),
        ("POST", &entries, with("notes", json!("a\u{0}b")), "notes"),
        ("POST", &entries, with("notes", json!(7)), "notes"),
        ("POST", &entries, with("entryDate", json!("2026-02-30")), "entryDate"),
        ("POST", &entries, with("entryDate", json!("2026-12-30")), "entryDate"),
        ("POST", &entries, with("projectCode", json!("'; DROP TABLE \"Users\"; --")), "projectCode"),
        ("POST", &entries, with("projectCode", json!("NO-SUCH")), "projectCode"),
        ("POST", &entries, with("workTypeCode", json!(["DEV"])), "workTypeCode"),
        ("POST", &entries, with("startTime", json!("25:00")), "endTime"),
        ("POST", &entries, with("isAdmin", json!(true)), "isAdmin"),
        ("POST", &entries, json!([1]), "body"),
        ("POST", "/api/v1/time-sheets", json!({ "date": "yesterday" }), "date"),
        ("POST", "/api/v1/time-sheets", json!({ "date": 5 }), "date"),
        ("POST", &status, json!({ "action": "explode", "version": 1 }), "action"),
        ("POST", &status, json!({ "action": "submit", "version": "1" }), "version"),
        ("POST", "/api/v1/users", json!({ "email": "<script>", "firstName": "" }), "email"),
        ("POST", "/api/v1/users", json!({ "email": "a@b.c", "firstName": long }), "firstName"),
        ("PUT", "/api/v1/users/1", json!({ "isActive": "no" }), "isActive"),
        ("POST", "/api/v1/projects", json!({ "code": "a b", "name": "x" }), "code"),
        ("POST", "/api/v1/projects", json!({ "code": "OK", "name": long }), "name"),
        ("PUT", "/api/v1/projects/INTERNAL", json!({ "name": "x", "isActive": true, "version": 1.5 }), "version"),
        ("POST", "/api/v1/work-types", json!({ "code": "OK", "name": "" }), "name"),
        ("PUT", "/api/v1/work-types/DEV", json!({ "name": "x", "isActive": 1, "version": 1 }), "isActive"),
        ("GET", "/api/v1/reports/project-time?from=x", Value::Null, "from"),
        ("GET", "/api/v1/reports/project-time?from=2026-02-01&to=2026-01-01", Value::Null, "to"),
        ("GET", "/api/v1/time-sheets?status=Lost", Value::Null, "status"),
    ];
    let count = r#"SELECT (SELECT count(*) FROM "TimeEntries") + (SELECT count(*) FROM "Users") + (SELECT count(*) FROM "Projects")
        + (SELECT count(*) FROM "WorkTypes") + (SELECT count(*) FROM "TimeSheets")"#;
    let before = office.sql(count);
    for (method, path, body, field) in bad {
        let answer = ada.api(method.parse().unwrap(), path, &body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{method} {path} {body}: {}", answer.text);
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        let errors = answer.json()["errors"].clone();
        assert!(errors.as_array().unwrap().iter().any(|e| e["field"] == field), "{method} {path} {body}: {errors}");
    }
    assert_eq!(office.sql(count), before);
    // A form sends what was not filled in as empty, and the document says so.
    for path in ["/api/v1/time-sheets?status=", "/api/v1/reports/project-time?from=&to="] {
        assert_eq!(ada.api(Method::GET, path, &Value::Null).await.status, StatusCode::OK, "{path}");
    }
    let document = openapi::document();
    for (path, at) in [("time-sheets", 0), ("reports~1project-time", 0), ("reports~1project-time", 1)] {
        let schema = document.pointer(&format!("/paths/~1api~1v1~1{path}/get/parameters/{at}/schema")).unwrap();
        assert_eq!(schema["anyOf"][1], json!({ "type": "string", "maxLength": 0 }), "{path}");
    }
    // Text that looks like code is text.
    let made = ada
        .api(Method::POST, &entries, &with("notes", json!("Robert'); DROP TABLE \"TimeEntries\";-- <script>")))
        .await;
    assert_eq!(made.status, StatusCode::CREATED);
    let much = ada.api(Method::POST, &entries, &with("notes", json!("x".repeat(300_000)))).await;
    assert_eq!(much.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(ada.get("/api/v1/time-entries/99999999999999999999").await.status, StatusCode::BAD_REQUEST);
}
