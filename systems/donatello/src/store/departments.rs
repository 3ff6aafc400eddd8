//! Departments with their budgets, and what they spent.

use sdk::database::{Connection, Queries};
use serde::Serialize;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::{
    access::{Caller, Meta},
    audit::{self, Act},
    domain::{FieldErrors, aud},
    fault::Fault,
};

pub const PROFILES: [(&str, &str); 3] =
    [("balanced", "Balanced"), ("cost", "Cost-optimised"), ("quality", "Quality-focused")];
pub const MODES: [(&str, &str); 3] =
    [("hard", "Hard: refuse"), ("soft", "Soft: allow and log"), ("warn", "Warn: allow and alert")];

#[derive(Clone, Debug, Serialize)]
pub struct Department {
    pub id: Uuid,
    pub name: String,
    pub code: String,
    pub profile: String,
    pub regions: Vec<String>,
    pub monthly_cents: i64,
    pub spend_cents: i64,
    pub reserved_cents: i64,
    pub mode: String,
    pub reset_date: String,
    pub people: i64,
    pub images: i64,
    /// Thresholds passed this month.
    pub alerts: Vec<i32>,
    /// What the month will cost if it goes on like this.
    pub forecast_cents: i64,
}

impl Department {
    pub fn monthly(&self) -> String {
        aud(self.monthly_cents)
    }

    pub fn spend(&self) -> String {
        aud(self.spend_cents)
    }

    pub fn reserved(&self) -> String {
        aud(self.reserved_cents)
    }

    pub fn left(&self) -> String {
        aud(self.monthly_cents - self.spend_cents - self.reserved_cents)
    }

    pub fn forecast(&self) -> String {
        aud(self.forecast_cents)
    }

    /// Per cent of the budget spent.
    pub fn share(&self) -> i64 {
        if self.monthly_cents == 0 { 100 } else { self.spend_cents * 100 / self.monthly_cents }
    }

    /// As wide as the budget's bar is filled, of 100.
    pub fn spent_width(&self) -> i64 {
        self.share().clamp(0, 100)
    }

    pub fn reserved_width(&self) -> i64 {
        if self.monthly_cents == 0 {
            0
        } else {
            (self.reserved_cents * 100 / self.monthly_cents).clamp(0, 100 - self.spent_width())
        }
    }

    pub fn level(&self) -> &'static str {
        match self.share() {
            ..80 => "calm",
            80..90 => "warm",
            _ => "hot",
        }
    }

    pub fn profile_title(&self) -> &'static str {
        PROFILES.iter().find(|(w, _)| *w == self.profile).map_or("", |(_, t)| *t)
    }

    pub fn regions_text(&self) -> String {
        self.regions.join(", ")
    }
}

const SELECT: &str = "SELECT d.id, d.name, d.code, d.profile, d.regions,
        (b.monthly_budget_aud * 100)::bigint,
        (CASE WHEN b.reset_date <= now()::date THEN 0 ELSE b.current_spend_aud END * 100)::bigint,
        (b.reserved_aud * 100)::bigint, b.enforcement_mode, b.reset_date::text,
        (SELECT count(*) FROM users u WHERE u.department_id = d.id AND u.is_active),
        (SELECT count(*) FROM cost_events c WHERE c.department_id = d.id AND c.\"timestamp\" >= date_trunc('month', now() AT TIME ZONE 'UTC')),
        (SELECT coalesce(array_agg(a.threshold ORDER BY a.threshold), '{}') FROM budget_alerts a
         WHERE a.department_id = d.id AND a.period = date_trunc('month', now())::date),
        (CASE WHEN b.reset_date <= now()::date THEN 0 ELSE b.current_spend_aud END * 100
         * extract(day FROM date_trunc('month', now()) + interval '1 month' - interval '1 day') / extract(day FROM now()))::bigint
    FROM departments d JOIN department_budgets b ON b.department_id = d.id
    WHERE ($1::uuid IS NULL OR d.organization_id = $1) AND ($2::uuid IS NULL OR d.id = $2)
    ORDER BY d.name LIMIT 500";

fn read(r: &Row) -> Department {
    Department {
        id: r.get(0),
        name: r.get(1),
        code: r.get(2),
        profile: r.get(3),
        regions: r.get(4),
        monthly_cents: r.get(5),
        spend_cents: r.get(6),
        reserved_cents: r.get(7),
        mode: r.get(8),
        reset_date: r.get(9),
        people: r.get(10),
        images: r.get(11),
        alerts: r.get(12),
        forecast_cents: r.get(13),
    }
}

/// The departments that a person may see the money of: their own, or those of their circle.
///
/// # Errors
/// No database.
pub async fn list(queries: &impl Queries, by: &Caller) -> Result<Vec<Department>, Fault> {
    let (organization, department, user) = by.circle();
    let department = department.or(user.map(|_| by.department));
    Ok(queries.query(SELECT, &[&organization, &department]).await?.iter().map(read).collect())
}

/// One of these.
///
/// # Errors
/// There is no such department in the caller's circle, or no database.
pub async fn get(queries: &impl Queries, by: &Caller, id: Uuid) -> Result<Department, Fault> {
    let (organization, department, user) = by.circle();
    if department.or(user.map(|_| by.department)).is_some_and(|own| own != id) {
        return Err(Fault::NotFound);
    }
    queries.first(SELECT, &[&organization, &Some(id)]).await?.as_ref().map(read).ok_or(Fault::NotFound)
}

/// What a department is changed to; None leaves it.
#[derive(Clone, Debug, Default)]
pub struct Change {
    pub monthly_cents: Option<i64>,
    pub mode: Option<String>,
    pub profile: Option<String>,
    pub regions: Option<Vec<String>>,
}

fn check(change: &Change) -> Result<(), Fault> {
    let mut errors = FieldErrors::default();
    if change.monthly_cents.is_some_and(|c| !(0..=99_999_999).contains(&c)) {
        errors.add("monthly_budget_aud", "The budget is 0 to 999999.99 AUD.");
    }
    if change.mode.as_deref().is_some_and(|m| MODES.iter().all(|(w, _)| *w != m)) {
        errors.add("enforcement_mode", "Choose hard, soft or warn.");
    }
    if change.profile.as_deref().is_some_and(|p| PROFILES.iter().all(|(w, _)| *w != p)) {
        errors.add("profile", "Choose balanced, cost or quality.");
    }
    let region =
        |r: &String| (2..=40).contains(&r.len()) && r.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    if change.regions.as_ref().is_some_and(|r| r.is_empty() || r.len() > 10 || !r.iter().all(region)) {
        errors.add("regions", "Write one to ten regions such as australiaeast, with commas between them.");
    }
    if errors.is_empty() { Ok(()) } else { Err(Fault::Invalid(errors)) }
}

/// Changes a department. A manager changes the budget and the weights of their own; regions need an organisation admin.
///
/// # Errors
/// A field is not right, or it is not the caller's to change.
pub async fn change(
    connection: &mut Connection,
    by: &Caller,
    meta: &Meta,
    id: Uuid,
    change: &Change,
) -> Result<Department, Fault> {
    check(change)?;
    if change.regions.is_some() && !by.has(crate::access::Right::OrgAdmin) {
        return Err(Fault::Forbidden("Where prompts may go is decided by an organisation admin."));
    }
    let transaction = connection.begin().await?;
    let before = get(&transaction, by, id).await?;
    transaction
        .execute(
            "UPDATE department_budgets SET monthly_budget_aud = coalesce($2::bigint / 100.0, monthly_budget_aud),
                 enforcement_mode = coalesce($3, enforcement_mode) WHERE department_id = $1",
            &[&id, &change.monthly_cents, &change.mode],
        )
        .await?;
    transaction
        .execute(
            "UPDATE departments SET profile = coalesce($2, profile), regions = coalesce($3, regions) WHERE id = $1",
            &[&id, &change.profile, &change.regions],
        )
        .await?;
    let told = serde_json::json!({
        "monthly_budget_aud": change.monthly_cents.map(aud), "enforcement_mode": change.mode, "profile": change.profile,
        "regions": change.regions, "before": { "monthly_budget_aud": before.monthly(), "enforcement_mode": before.mode,
        "profile": before.profile, "regions": before.regions },
    });
    audit::note(
        &transaction,
        Some(by),
        meta,
        Act::done("administration", "department changed", "department").on(id).with(told),
    )
    .await?;
    let after = get(&transaction, by, id).await?;
    transaction.commit().await?;
    Ok(after)
}

/// Makes a department in the caller's organisation.
///
/// # Errors
/// A field is not right, or the code is taken.
pub async fn create(
    connection: &mut Connection,
    by: &Caller,
    meta: &Meta,
    name: &str,
    code: &str,
    monthly_cents: i64,
) -> Result<Department, Fault> {
    let mut errors = FieldErrors::default();
    let (name, code) = (name.trim(), code.trim().to_uppercase());
    if name.is_empty() || name.chars().count() > 100 || name.chars().any(char::is_control) {
        errors.add("name", "The name has 1 to 100 characters.");
    }
    let fits = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '-';
    if code.is_empty() || code.len() > 20 || code.starts_with('-') || !code.chars().all(fits) {
        errors.add("code", "The code has 1 to 20 letters, digits and hyphens.");
    }
    if !errors.is_empty() {
        return Err(Fault::Invalid(errors));
    }
    check(&Change { monthly_cents: Some(monthly_cents), ..Change::default() })?;
    let transaction = connection.begin().await?;
    let made = transaction
        .first(
            "INSERT INTO departments (organization_id, name, code) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING id",
            &[&by.organization, &name, &code],
        )
        .await?;
    let id: Uuid = made.ok_or_else(|| Fault::Conflict("There is a department with this code already.".into()))?.get(0);
    transaction
        .execute(
            "INSERT INTO department_budgets (department_id, monthly_budget_aud) VALUES ($1, $2::bigint / 100.0)",
            &[&id, &monthly_cents],
        )
        .await?;
    audit::note(&transaction, Some(by), meta, Act::done("administration", "department created", "department").on(id))
        .await?;
    let made = get(&transaction, by, id).await?;
    transaction.commit().await?;
    Ok(made)
}

/// A line of the spend of a circle since the month began.
#[derive(Clone, Debug, Serialize)]
pub struct Spend {
    pub department: String,
    pub who: String,
    pub model: String,
    pub images: i64,
    pub cents: i64,
}

impl Spend {
    pub fn cost(&self) -> String {
        aud(self.cents)
    }
}

/// Who spent how much on which model this month, the most first.
///
/// # Errors
/// No database.
pub async fn spend(queries: &impl Queries, by: &Caller) -> Result<Vec<Spend>, Fault> {
    let (organization, department, user) = by.circle();
    let rows = queries
        .query(
            "SELECT d.name, u.display_name, coalesce(m.title, c.model_used), count(*), (sum(c.cost_aud) * 100)::bigint
             FROM cost_events c JOIN departments d ON d.id = c.department_id JOIN users u ON u.id = c.user_id
             LEFT JOIN model_providers m ON m.id = c.model_used
             WHERE c.\"timestamp\" >= date_trunc('month', now() AT TIME ZONE 'UTC')
               AND ($1::uuid IS NULL OR d.organization_id = $1) AND ($2::uuid IS NULL OR c.department_id = $2)
               AND ($3::uuid IS NULL OR c.user_id = $3)
             GROUP BY 1, 2, 3 ORDER BY 5 DESC, 1, 2, 3 LIMIT 200",
            &[&organization, &department, &user],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|r| Spend { department: r.get(0), who: r.get(1), model: r.get(2), images: r.get(3), cents: r.get(4) })
        .collect())
}
