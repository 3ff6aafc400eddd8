//! The OpenAPI 3.1 document, made from the list of operations that the router is made from.

use serde_json::{Map, Value, json};

use super::{Operation, operations};
use crate::{access::Right, domain, media};

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
            "title": "MEG QMS", "version": env!("CARGO_PKG_VERSION"),
            "description": "Audits for apps, and figures for business intelligence. A submission's id is made by the client: sent again, it is the same submission.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer", "description": "A token made under Tokens: `app` for the feed, `bi` for business intelligence." } },
            "schemas": schemas(),
        },
    })
}

fn described(operation: &Operation) -> Value {
    let reference = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    let content = |name: &str| json!({ "application/json": { "schema": reference(name) } });
    let mut parameters: Vec<Value> = Vec::new();
    if operation.route.path.contains("{id}") {
        parameters.push(json!({ "name": "id", "in": "path", "required": true, "schema": { "type": "string" } }));
    }
    for name in operation.query {
        let required = *name == "kind";
        let schema =
            if required { json!({ "type": "string", "enum": media::KINDS }) } else { json!({ "type": "string" }) };
        parameters.push(json!({ "name": name, "in": "query", "required": required, "schema": schema }));
    }
    let status = if operation.route.method == "POST" { "201" } else { "200" };
    let problem = json!({ "description": "Why not", "content": { "application/problem+json": { "schema": reference("Problem") } } });
    let mut out = json!({
        "summary": operation.summary,
        "description": format!("Needs: {}.", match operation.route.right {
            Right::Public => "nothing",
            Right::SignedIn => "a session",
            Right::Staff => "a session with a role",
            Right::Auditor => "a session of an auditor",
            Right::Admin => "a session of an administrator",
            Right::Feed => "a token `app`, or a session with a role",
            Right::Bi => "a token `bi`, or a session of an administrator",
        }),
        "security": [{ "token": [] }],
        "parameters": parameters,
        "responses": { status: { "description": "Done", "content": content(operation.gives) }, "default": problem },
    });
    if let Some(body) = operation.takes {
        out["requestBody"] = json!({ "required": true, "content": content(body) });
    }
    if operation.route.path == "/api/v1/media" {
        let types = [
            "image/jpeg",
            "image/png",
            "image/webp",
            "audio/ogg",
            "audio/mpeg",
            "audio/mp4",
            "audio/webm",
            "audio/wav",
            "application/pdf",
        ];
        let bodies: Map<String, Value> = types
            .iter()
            .map(|t| ((*t).to_owned(), json!({ "schema": { "type": "string", "format": "binary" } })))
            .collect();
        out["requestBody"] = json!({ "required": true, "content": bodies });
    }
    out
}

fn object(required: &[&str], properties: Value) -> Value {
    json!({ "type": "object", "required": required, "properties": properties, "additionalProperties": false })
}

fn schemas() -> Value {
    let text = |most: u32| json!({ "type": "string", "maxLength": most });
    let (whole, flag, day) =
        (json!({ "type": "integer" }), json!({ "type": "boolean" }), json!({ "type": "string", "format": "date" }));
    let addresses = json!({ "type": "array", "items": { "type": "string", "description": "The address that sending the file was answered with." } });
    let kinds: Vec<&str> = domain::Kind::ALL.iter().map(|(_, word, _)| *word).collect();
    let question = json!({ "text": text(500), "help": text(500), "kind": { "type": "string", "enum": kinds }, "weight": whole, "isCritical": flag,
        "low": { "type": ["number", "null"] }, "high": { "type": ["number", "null"] }, "choices": { "type": "array", "items": text(100) },
        "photo": { "type": ["string", "null"] } });
    let mut asked = question.clone();
    asked["id"] = whole.clone();
    asked["position"] = whole.clone();
    let mut new_question = question;
    new_question["version"] = whole.clone();
    let form = object(
        &["id", "title", "version", "questions"],
        json!({ "id": whole, "title": text(150), "description": text(1000),
        "isPublished": flag, "version": whole, "questions": { "type": "array", "items": object(&["id", "text", "kind"], asked) } }),
    );
    let answer = object(
        &["questionId"],
        json!({ "questionId": whole, "value": text(1000), "note": text(1000), "media": addresses }),
    );
    let roles = json!({ "type": "array", "items": { "type": "string", "enum": domain::ROLES } });
    let anything = json!({ "type": "object" });
    let list =
        json!({ "type": "object", "properties": { "items": { "type": "array", "items": { "type": "object" } } } });
    json!({
        "Me": object(&["id", "name", "email", "roles", "region", "csrfToken"], json!({ "id": whole, "name": text(200), "email": text(254), "roles": roles, "region": text(30), "csrfToken": text(100) })),
        "Form": form, "NewForm": object(&["title"], json!({ "title": text(150), "description": text(1000), "isPublished": flag })),
        "NewQuestion": object(&["version", "text", "kind"], new_question),
        "Feed": object(&["region", "forms", "wards", "formulary"], json!({ "region": text(30), "forms": { "type": "array", "items": { "$ref": "#/components/schemas/Form" } },
            "wards": { "type": "array", "items": object(&["code", "name"], json!({ "code": text(20), "name": text(100) })) }, "formulary": { "type": "array", "items": anything } })),
        "Media": object(&["address", "contentType", "bytes", "url"], json!({ "address": text(100), "contentType": text(50), "bytes": whole, "url": text(300) })),
        "NewSubmission": object(&["id", "formId", "formVersion", "ward", "auditedOn", "answers"], json!({ "id": { "type": "string", "format": "uuid" },
            "formId": whole, "formVersion": whole, "ward": text(20), "auditedOn": day, "notes": text(2000), "answers": { "type": "array", "items": answer }, "media": addresses })),
        "Taken": object(&["id", "again", "score", "critical"], json!({ "id": { "type": "string" }, "again": flag, "score": { "type": ["integer", "null"] }, "critical": whole })),
        "NewQip": object(&["title", "ward"], json!({ "title": text(150), "description": text(2000), "ward": text(20), "ownerId": { "type": ["integer", "null"] },
            "dueOn": { "type": ["string", "null"], "format": "date" }, "submissionId": { "type": ["string", "null"] } })),
        "NewReport": object(&["slug", "title", "formId", "firstDay", "lastDay"], json!({ "slug": text(60), "title": text(150), "intro": text(2000), "formId": whole,
            "firstDay": day, "lastDay": day, "isPublished": flag })),
        "Attachment": object(&["address"], json!({ "address": text(100) })),
        "NewUser": object(&["email", "name"], json!({ "email": text(254), "name": text(200), "roles": roles })),
        "UserChange": object(&["name", "roles", "isActive"], json!({ "name": text(200), "roles": roles, "isActive": flag })),
        "User": anything, "NewToken": object(&["name", "scope"], json!({ "name": text(100), "scope": { "type": "string", "enum": ["app", "bi"] } })),
        "Token": object(&["token"], json!({ "token": text(100) })), "Made": object(&["id"], json!({ "id": whole })),
        "Maintained": object(&["deleted", "revised"], json!({ "deleted": whole, "revised": whole })),
        "Board": anything, "Submission": anything, "Lines": list, "Forms": list, "Qips": list, "Users": list, "Jobs": list, "Medicines": list, "Counts": list,
        "Nothing": anything,
        "Problem": object(&["type", "title", "status", "detail"], json!({ "type": text(100), "title": text(100), "status": whole, "detail": text(2000),
            "errors": { "type": "array", "items": object(&["field", "message"], json!({ "field": text(100), "message": text(500) })) } })),
    })
}
