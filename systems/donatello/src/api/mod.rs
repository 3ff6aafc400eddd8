//! The JSON API under `/api/v1`, as the companion document lists it.
//!
//! Called with `Authorization: Bearer` and an ID token of the issuer for this client (roles from power_user on), or with the
//! session's cookie and, for changes, the token of `GET /api/v1/me` in `X-CSRF-Token`. A fault is
//! `{error, message, details, request_id}`.

mod admin;
mod handlers;
pub mod openapi;

use crate::{
    access::Right,
    pages, progress,
    routes::{Route, route},
};

/// A route with what the OpenAPI document says about it.
pub struct Operation {
    pub route: Route,
    pub summary: &'static str,
    /// Fields of the request's body; those that end with `!` must be there.
    pub takes: &'static [&'static str],
    /// Names of query parameters.
    pub query: &'static [&'static str],
    pub gives: u16,
}

/// The API's routes, and the document's own.
pub fn routes() -> Vec<Route> {
    let mut all: Vec<Route> = operations().into_iter().map(|o| o.route).collect();
    all.push(route("GET", "/openapi.json", Right::Public, async || axum::Json(openapi::document())));
    all
}

/// Everything the API can do. Both the router and the OpenAPI document come from this list.
pub fn operations() -> Vec<Operation> {
    use Right::{Manager, OrgAdmin, Public, SuperAdmin, User};
    use handlers as h;
    const WISH: &[&str] = &[
        "prompt!",
        "model_provider",
        "resolution",
        "required_quality",
        "style",
        "commercial_use",
        "max_cost_aud",
        "required_sla",
        "idempotency_key",
    ];
    type Names = &'static [&'static str];
    fn op(route: Route, summary: &'static str, takes: Names, query: Names, gives: u16) -> Operation {
        Operation { route, summary, takes, query, gives }
    }
    vec![
        op(route("GET", "/api/v1/health", Public, pages::health), "Whether the API can work", &[], &[], 200),
        op(route("GET", "/api/v1/health/liveness", Public, async || "ok"), "Whether the process lives", &[], &[], 200),
        op(route("GET", "/api/v1/health/readiness", Public, pages::health), "Whether the API can work", &[], &[], 200),
        op(route("GET", "/api/v1/me", User, h::me), "Who is calling", &[], &[], 200),
        op(route("GET", "/api/v1/auth/me", User, h::me), "Who is calling", &[], &[], 200),
        op(route("POST", "/api/v1/generate", User, h::generate), "Take a prompt", WISH, &[], 202),
        op(route("POST", "/api/v1/generate/batch", User, h::batch), "Take up to ten prompts", &["requests!"], &[], 202),
        op(
            route("GET", "/api/v1/generations", User, h::generations),
            "The generations of the caller's circle, newest first",
            &[],
            &["page", "limit", "status", "model_provider"],
            200,
        ),
        op(
            route("GET", "/api/v1/generations/{id}", User, h::generation),
            "One generation; `wait` is seconds to wait for its end",
            &[],
            &["wait"],
            200,
        ),
        op(
            route("DELETE", "/api/v1/generations/{id}", User, h::remove),
            "Cancel or delete a generation",
            &[],
            &[],
            200,
        ),
        op(
            route("GET", "/api/v1/generations/{id}/events", User, progress::watch),
            "Progress, by WebSocket",
            &[],
            &[],
            101,
        ),
        op(route("GET", "/api/v1/models", User, h::models), "The models", &[], &[], 200),
        op(
            route("GET", "/api/v1/models/{id}/availability", User, h::availability),
            "Whether a model can be called",
            &[],
            &[],
            200,
        ),
        op(
            route("PATCH", "/api/v1/admin/models/{id}", SuperAdmin, admin::switch_model),
            "Switch a model on or off",
            &["is_active!"],
            &[],
            200,
        ),
        op(
            route("GET", "/api/v1/users/me/spend", User, h::spend),
            "What the caller's circle spent this month",
            &[],
            &[],
            200,
        ),
        op(route("GET", "/api/v1/admin/users", Manager, admin::users), "People of the caller's circle", &[], &[], 200),
        op(
            route("POST", "/api/v1/admin/users", Manager, admin::create_user),
            "Make a person before their first sign-in",
            &["email!", "display_name!", "role!", "department_id"],
            &[],
            201,
        ),
        op(
            route("POST", "/api/v1/admin/users/bulk", Manager, admin::bulk),
            "Make people from CSV: email, display_name, role",
            &["csv!", "department_id"],
            &[],
            200,
        ),
        op(route("GET", "/api/v1/admin/users/{id}", Manager, admin::user), "One person", &[], &[], 200),
        op(
            route("PATCH", "/api/v1/admin/users/{id}", Manager, admin::change_user),
            "Change a person",
            &["role", "department_id", "is_active"],
            &[],
            200,
        ),
        op(route("DELETE", "/api/v1/admin/users/{id}", Manager, admin::deactivate), "Keep a person out", &[], &[], 200),
        op(
            route("POST", "/api/v1/admin/users/{id}/roles", Manager, admin::assign),
            "Give a role",
            &["role!"],
            &[],
            200,
        ),
        op(
            route("GET", "/api/v1/admin/departments", Manager, admin::departments),
            "Departments with budgets",
            &[],
            &[],
            200,
        ),
        op(
            route("POST", "/api/v1/admin/departments", OrgAdmin, admin::create_department),
            "Make a department",
            &["name!", "code!", "monthly_budget_aud!"],
            &[],
            201,
        ),
        op(
            route("GET", "/api/v1/admin/departments/{id}/budget", Manager, admin::budget),
            "A department's budget",
            &[],
            &[],
            200,
        ),
        op(
            route("PATCH", "/api/v1/admin/departments/{id}/budget", Manager, admin::change_budget),
            "Change a department's budget, weights or regions",
            &["monthly_budget_aud", "enforcement_mode", "profile", "regions"],
            &[],
            200,
        ),
        op(
            route("GET", "/api/v1/admin/audit-logs", OrgAdmin, admin::audit_logs),
            "The record of acts, newest first",
            &[],
            &["user_id", "resource_id", "event_type", "before"],
            200,
        ),
        op(route("GET", "/api/v1/admin/queue", Manager, admin::queue), "How deep the queue is", &[], &[], 200),
    ]
}
