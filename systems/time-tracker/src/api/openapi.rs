//! The OpenAPI 3.1 document, made from the list of operations that the router is made from. Tests hold the schemas against
//! live answers.

use serde_json::{Map, Value, json};

use super::{Gives, Operation, operations};
use crate::access::Right;

/// The document at `/openapi.json`.
pub fn document() -> Value {
    let mut paths = Map::new();
    for operation in operations() {
        let path = paths.entry(operation.route.path).or_insert_with(|| json!({}));
        path[operation.route.method.to_lowercase()] = described(&operation);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Time Tracker", "version": env!("CARGO_PKG_VERSION"),
            "description": "Time recording in two-week sheets. Changes name the version they were made from and get 409 when it is old.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": [{ "bearer": [] }, { "session": [], "csrf": [] }],
        "paths": paths,
        "components": { "schemas": schemas(), "securitySchemes": {
            "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "An ID token of the issuer for this client." },
            "session": { "type": "apiKey", "in": "cookie", "name": sdk::access::SESSION_COOKIE },
            "csrf": { "type": "apiKey", "in": "header", "name": "X-CSRF-Token", "description": "For changes with the session's cookie: csrfToken of GET /api/v1/me." },
        } },
    })
}

fn described(operation: &Operation) -> Value {
    let json_body = |schema: Value| json!({ "application/json": { "schema": schema } });
    let schema = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    let problem = |text: &str| json!({ "description": text, "content": { "application/problem+json": { "schema": schema("Problem") } } });
    let (status, answer) = match operation.gives {
        Gives::One(status, name) => {
            (status.as_u16(), json!({ "description": operation.summary, "content": json_body(schema(name)) }))
        }
        Gives::Many(name) => {
            let list = json!({ "type": "object", "required": ["items"], "additionalProperties": false,
                "properties": { "items": { "type": "array", "items": schema(name) } } });
            (200, json!({ "description": operation.summary, "content": json_body(list) }))
        }
        Gives::Nothing => (204, json!({ "description": "Done" })),
    };
    let mut parameters: Vec<Value> = operation
        .route
        .path
        .split('/')
        .filter_map(|p| p.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| {
            let kind = if name == "id" {
                json!({ "type": "integer", "format": "int64" })
            } else {
                json!({ "type": "string" })
            };
            json!({ "name": name, "in": "path", "required": true, "schema": kind })
        })
        .collect();
    let empty = json!({ "type": "string", "maxLength": 0 });
    for name in operation.query {
        let (kind, required) = match *name {
            "version" => (json!({ "type": "integer" }), true),
            // Empty is as good as left out, as forms send it.
            "status" => (json!({ "anyOf": [schema("Status"), empty] }), false),
            _ => (json!({ "anyOf": [{ "type": "string", "format": "date" }, empty] }), false),
        };
        parameters.push(json!({ "name": name, "in": "query", "required": required, "schema": kind }));
    }
    let needs = match operation.route.right {
        Right::Manager => "Needs the role manager or admin.",
        Right::Admin => "Needs the role admin.",
        Right::Public | Right::SignedIn | Right::User => "Needs any role.",
    };
    // What cannot be read in one way only is refused at the edge, before it comes here, and in the edge's form.
    let mut bad = problem("A field is not right");
    bad["content"]["application/json"] = json!({ "schema": schema("Refusal") });
    let mut described = json!({
        "summary": operation.summary, "description": needs, "operationId": id(operation), "parameters": parameters,
        "responses": {
            status.to_string(): answer,
            "400": bad, "401": problem("Not signed in"), "403": problem("Not allowed"),
            "404": problem("Not there, or not yours"), "409": problem("Changed meanwhile, or not possible now"),
            "503": problem("The database does not answer"),
        },
    });
    if let Some(takes) = operation.takes {
        described["requestBody"] = json!({ "required": true, "content": json_body(schema(takes)) });
    }
    described
}

/// `GET /api/v1/time-sheets/{id}` as `get_time_sheets_id`.
fn id(operation: &Operation) -> String {
    let path = operation.route.path.trim_start_matches("/api/v1/").replace(['/', '-'], "_").replace(['{', '}'], "");
    format!("{}_{path}", operation.route.method.to_lowercase())
}

/// An object of which `required` must be there and nothing else than `properties` may.
fn object(required: &[&str], properties: Value) -> Value {
    json!({ "type": "object", "required": required, "additionalProperties": false, "properties": properties })
}

fn schemas() -> Value {
    let text = |most: u32| json!({ "type": "string", "maxLength": most });
    let date = json!({ "type": "string", "format": "date" });
    let code = json!({ "type": "string", "pattern": "^[A-Z0-9][A-Z0-9-]{0,19}$" });
    let whole = json!({ "type": "integer" });
    let flag = json!({ "type": "boolean" });
    let hours = json!({ "type": "number", "minimum": 0.25, "maximum": 24, "multipleOf": 0.25 });
    let time = json!({ "type": ["string", "null"], "pattern": "^[0-2][0-9]:[0-5][0-9]$" });
    let item = object(
        &["code", "name", "description", "isActive", "version"],
        json!({ "code": code, "name": text(100), "description": text(500), "isActive": flag, "version": whole }),
    );
    let new_item = object(
        &["code", "name"],
        json!({ "code": code, "name": text(100), "description": text(500), "isActive": flag }),
    );
    let item_change = object(
        &["name", "isActive", "version"],
        json!({ "name": text(100), "description": text(500), "isActive": flag, "version": whole }),
    );
    let typed = json!({
        "projectCode": code, "workTypeCode": code, "entryDate": date, "hours": { "type": "number", "description": "Rounded to 0.25; left out with both times, it is what lies between them." },
        "startTime": time, "endTime": time, "notes": text(1000),
    });
    let mut changed = typed.clone();
    changed["version"] = whole.clone();
    json!({
        "Status": { "type": "string", "enum": ["Open", "Submitted", "Approved", "Closed"] },
        "Me": object(&["id", "name", "email", "roles", "csrfToken"], json!({ "id": whole, "name": text(201), "email": text(254),
            "roles": { "type": "array", "items": { "type": "string", "enum": ["user", "manager", "admin"] } }, "csrfToken": text(100) })),
        "User": object(&["id", "email", "firstName", "lastName", "isActive", "roles", "lastSignInAt"], json!({ "id": whole,
            "email": text(254), "firstName": text(100), "lastName": text(100), "isActive": flag,
            "roles": { "type": "array", "items": { "type": "string" } }, "lastSignInAt": { "type": ["string", "null"] } })),
        "NewUser": object(&["email", "firstName"], json!({ "email": text(254), "firstName": text(100), "lastName": text(100) })),
        "UserChange": object(&["isActive"], json!({ "isActive": flag })),
        "Project": item, "NewProject": new_item, "ProjectChange": item_change,
        "WorkType": item, "NewWorkType": new_item, "WorkTypeChange": item_change,
        "TimeSheet": object(&["id", "userId", "userName", "startDate", "endDate", "status", "totalHours", "version"], json!({
            "id": whole, "userId": whole, "userName": text(201), "startDate": date, "endDate": date,
            "status": { "$ref": "#/components/schemas/Status" }, "totalHours": { "type": "number", "minimum": 0 }, "version": whole })),
        "NewTimeSheet": object(&["date"], json!({ "date": date })),
        "StatusChange": object(&["action", "version"], json!({ "action": { "type": "string", "enum": ["submit", "take-back", "approve", "close", "reopen"] },
            "version": whole, "comment": text(500) })),
        "TimeEntry": object(&["id", "timeSheetId", "projectCode", "workTypeCode", "entryDate", "hours", "startTime", "endTime", "notes", "version"], json!({
            "id": whole, "timeSheetId": whole, "projectCode": code, "workTypeCode": code, "entryDate": date, "hours": hours,
            "startTime": time, "endTime": time, "notes": text(1000), "version": whole })),
        "NewTimeEntry": object(&["projectCode", "workTypeCode", "entryDate"], typed),
        "TimeEntryChange": object(&["projectCode", "workTypeCode", "entryDate", "version"], changed),
        "ReportLine": object(&["projectCode", "projectName", "userId", "userName", "hours"], json!({
            "projectCode": code, "projectName": text(100), "userId": whole, "userName": text(201), "hours": { "type": "number" } })),
        "Problem": object(&["type", "title", "status", "detail"], json!({ "type": text(100), "title": text(100), "status": whole, "detail": text(2000),
            "errors": { "type": "array", "items": object(&["field", "message"], json!({ "field": text(100), "message": text(500) })) } })),
        "Refusal": object(&["code", "message"], json!({ "code": text(100), "message": text(500), "request_id": text(100) })),
    })
}
