//! Cloud's OpenAPI document, from the same list as its router.

use serde_json::{Map, Value, json};

use super::{access::Right, routes};

pub fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in routes::all() {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        let parameters: Vec<Value> = route
            .path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
            .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
            .collect();
        path[route.method.to_lowercase()] = json!({
            "summary": route.about,
            "parameters": parameters,
            "security": security(route.right),
            "responses": { "default": { "description": "JSON; a fault is {error, message}" } },
        });
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Monozu Cloud", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": { "securitySchemes": {
            "person": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" },
            "device": { "type": "apiKey", "in": "header", "name": "X-Device-Key" },
            "internal": { "type": "apiKey", "in": "header", "name": "X-Internal-Token" },
            "webhook": { "type": "apiKey", "in": "header", "name": "X-Hmac-Signature" },
            "publisher": { "type": "http", "scheme": "bearer" },
            "staff": { "type": "apiKey", "in": "cookie", "name": "__Host-staff" },
        } },
    })
}

fn security(right: Right) -> Value {
    match right {
        Right::Public => json!([]),
        Right::Person | Right::Admin => json!([{ "person": [] }]),
        Right::Device => json!([{ "device": [] }]),
        Right::PersonOrDevice => json!([{ "person": [] }, { "device": [] }]),
        Right::InternalOrPublisher => json!([{ "internal": [] }, { "publisher": [] }]),
        Right::Webhook => json!([{ "webhook": [] }]),
        Right::Publisher => json!([{ "publisher": [] }]),
        Right::Staff => json!([{ "staff": [] }]),
    }
}
