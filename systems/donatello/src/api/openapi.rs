//! The OpenAPI document, made from the list of operations.

use serde_json::{Map, Value, json};

use super::operations;
use crate::access::Right;

/// OpenAPI 3.0.3.
pub fn document() -> Value {
    let mut paths = Map::new();
    for operation in operations() {
        let route = &operation.route;
        let mut parameters: Vec<Value> = route
            .path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
            .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
            .collect();
        parameters.extend(
            operation.query.iter().map(|name| json!({ "name": name, "in": "query", "schema": { "type": "string" } })),
        );
        let mut responses = Map::new();
        responses.insert(operation.gives.to_string(), json!({ "description": operation.summary }));
        let fault = json!({ "description": "A fault", "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Fault" } } } });
        responses.insert("default".into(), fault);
        let mut entry = json!({ "summary": operation.summary, "parameters": parameters, "responses": responses });
        if route.right == Right::Public {
            entry["security"] = json!([]);
        }
        if !operation.takes.is_empty() {
            let names = operation.takes.iter().map(|t| (t.trim_end_matches('!').to_owned(), json!({})));
            let needed: Vec<&str> = operation.takes.iter().filter_map(|t| t.strip_suffix('!')).collect();
            let mut schema =
                json!({ "type": "object", "properties": names.collect::<Map<_, _>>(), "additionalProperties": false });
            if !needed.is_empty() {
                schema["required"] = json!(needed);
            }
            entry["requestBody"] = json!({ "required": true, "content": { "application/json": { "schema": schema } } });
        }
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.to_lowercase()] = entry;
    }
    let fault = json!({
        "type": "object",
        "required": ["error", "message", "details", "request_id"],
        "properties": {
            "error": { "type": "string" }, "message": { "type": "string" }, "details": { "type": "array", "items": {} },
            "request_id": { "type": "string", "format": "uuid" },
        },
    });
    json!({
        "openapi": "3.0.3",
        "info": { "title": "DonatelloAI", "version": env!("CARGO_PKG_VERSION") },
        "security": [{ "bearer": [] }],
        "paths": paths,
        "components": { "schemas": { "Fault": fault }, "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" } } },
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
    use super::*;

    #[test]
    fn every_operation_is_described_and_guarded() {
        let document = document();
        let count: usize = document["paths"].as_object().unwrap().values().map(|p| p.as_object().unwrap().len()).sum();
        assert_eq!(count, operations().len());
        for operation in operations().iter().filter(|o| o.route.right == Right::Public) {
            assert!(operation.route.path.starts_with("/api/v1/health"), "{} is public", operation.route.path);
        }
    }
}
