//! People, as the issuer describes them at their sign-in and as administrators place them.

use sdk::{
    database::{Connection, Queries},
    oidc::Claims,
};
use serde::Serialize;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::{
    access::{Caller, Meta},
    audit::{self, Act},
    domain::{FieldErrors, Role},
    fault::Fault,
};

#[derive(Clone, Debug, Serialize)]
pub struct User {
    pub id: Uuid,
    pub email: String,
    pub display_name: String,
    pub role: String,
    pub department_id: Uuid,
    pub department: String,
    pub is_active: bool,
    pub last_login_at: Option<String>,
    /// Generations and what they cost since the month began.
    pub generations: i64,
    pub spend_cents: i64,
}

impl User {
    pub fn role_title(&self) -> &'static str {
        Role::parse(&self.role).map_or("", Role::title)
    }

    pub fn spend(&self) -> String {
        crate::domain::aud(self.spend_cents)
    }
}

/// A caller of a row: id, name, e-mail, role, organisation, department, its name.
pub fn caller(row: &Row) -> Option<Caller> {
    Some(Caller {
        user: row.get(0),
        name: row.get(1),
        email: row.get(2),
        role: Role::parse(row.get(3))?,
        organization: row.get(4),
        department: row.get(5),
        department_name: row.get(6),
        session: None,
        csrf: String::new(),
    })
}

fn cut(text: &str, most: usize) -> String {
    text.trim().chars().filter(|c| !c.is_control()).take(most).collect()
}

/// Finds or makes the person of these claims and notes the sign-in. The role follows the groups unless an administrator
/// gave another here; without a group of ours there is no role and no entry.
///
/// # Errors
/// The person has no role, is not active, the token has no e-mail address, or no database.
pub async fn sign_in(connection: &mut Connection, claims: &Claims) -> Result<Caller, Fault> {
    let email = cut(claims.email.as_deref().unwrap_or_default(), 254);
    if email.len() < 3 {
        return Err(Fault::Forbidden("Your account has no e-mail address. Ask your administrator to add one."));
    }
    let full = claims.name.clone().or_else(|| {
        Some(format!("{} {}", claims.given_name.as_deref()?, claims.family_name.as_deref().unwrap_or_default()))
    });
    let name = cut(full.as_deref().unwrap_or_default(), 200);
    let name = if name.is_empty() { email.clone() } else { name };
    let group = Role::of_groups(&claims.groups)
        .ok_or(Fault::Forbidden("You are signed in, but have no role in DonatelloAI yet. Ask your administrator."))?;
    let verified = claims.email_verified != Some(false);
    let transaction = connection.begin().await?;
    let known = transaction
        .first(
            "SELECT id, is_active, role_assigned, role FROM users
             WHERE subject = $1 OR (subject IS NULL AND $3 AND lower(email) = lower($2))
             ORDER BY subject NULLS LAST LIMIT 1 FOR UPDATE",
            &[&claims.sub, &email, &verified],
        )
        .await?;
    if known.as_ref().is_some_and(|row| !row.get::<_, bool>(1)) {
        return Err(Fault::Forbidden("Your account in DonatelloAI is not active. Ask your administrator."));
    }
    let id = match known {
        Some(row) => {
            let id: Uuid = row.get(0);
            let role = if row.get(2) { row.get(3) } else { group.word().to_owned() };
            transaction
                .execute(
                    "UPDATE users SET subject = $2, email = $3, display_name = $4, role = $5, last_login_at = now() WHERE id = $1",
                    &[&id, &claims.sub, &email, &name, &role],
                )
                .await
                .map(|_| id)
        }
        None => {
            // A new person belongs to the organisation of their address's domain, else to the first; an administrator
            // moves them to their department.
            let domain = email.rsplit_once('@').map_or("", |(_, d)| d).to_lowercase();
            transaction
                .first(
                    "INSERT INTO users (organization_id, department_id, subject, email, display_name, role, last_login_at)
                     SELECT o.id, d.id, $1, $2, $3, $4, now()
                     FROM organizations o JOIN departments d ON d.organization_id = o.id WHERE o.is_active
                     ORDER BY (o.domain = $5) DESC, o.created_at, o.id, d.code LIMIT 1
                     ON CONFLICT (subject) DO UPDATE SET last_login_at = now() RETURNING id",
                    &[&claims.sub, &email, &name, &group.word(), &domain],
                )
                .await
                .map(|row| row.map(|r| r.get::<_, Uuid>(0)).unwrap_or_default())
        }
    };
    let taken = Fault::Forbidden("Another account already has your e-mail address. Ask your administrator.");
    let id: Uuid = match id {
        Err(error) if error.constraint() == Some("users_email") => return Err(taken),
        other => other?,
    };
    let row = transaction
        .first(
            "SELECT u.id, u.display_name, u.email, u.role, u.organization_id, u.department_id, d.name
             FROM users u JOIN departments d ON d.id = u.department_id WHERE u.id = $1",
            &[&id],
        )
        .await?;
    transaction.commit().await?;
    row.as_ref().and_then(caller).ok_or(Fault::NotFound)
}

const SELECT: &str = "SELECT u.id, u.email, u.display_name, u.role, u.department_id, d.name, u.is_active,
        to_char(u.last_login_at, 'YYYY-MM-DD HH24:MI'),
        (SELECT count(*) FROM generations g WHERE g.user_id = u.id AND g.created_at >= date_trunc('month', now())),
        (SELECT coalesce(sum(c.cost_aud) * 100, 0)::bigint FROM cost_events c WHERE c.user_id = u.id AND c.\"timestamp\" >= date_trunc('month', now() AT TIME ZONE 'UTC'))
    FROM users u JOIN departments d ON d.id = u.department_id
    WHERE ($1::uuid IS NULL OR u.organization_id = $1) AND ($2::uuid IS NULL OR u.department_id = $2)
      AND ($3::uuid IS NULL OR u.id = $3)
    ORDER BY lower(u.display_name), u.id LIMIT 1000";

fn read(row: &Row) -> User {
    User {
        id: row.get(0),
        email: row.get(1),
        display_name: row.get(2),
        role: row.get(3),
        department_id: row.get(4),
        department: row.get(5),
        is_active: row.get(6),
        last_login_at: row.get(7),
        generations: row.get(8),
        spend_cents: row.get(9),
    }
}

/// Everybody in the caller's circle, by name.
///
/// # Errors
/// No database.
pub async fn list(queries: &impl Queries, by: &Caller) -> Result<Vec<User>, Fault> {
    let (organization, department, user) = by.circle();
    Ok(queries.query(SELECT, &[&organization, &department, &user]).await?.iter().map(read).collect())
}

/// One person in the caller's circle.
///
/// # Errors
/// There is no such person there, or no database.
pub async fn get(queries: &impl Queries, by: &Caller, id: Uuid) -> Result<User, Fault> {
    let (organization, department, user) = by.circle();
    if user.is_some_and(|u| u != id) {
        return Err(Fault::NotFound);
    }
    queries.first(SELECT, &[&organization, &department, &Some(id)]).await?.as_ref().map(read).ok_or(Fault::NotFound)
}

/// What a person is made or changed to; None leaves it.
#[derive(Clone, Debug, Default)]
pub struct Change {
    pub role: Option<String>,
    pub department: Option<Uuid>,
    pub is_active: Option<bool>,
}

/// Nobody gives a role above their own, and a department's manager no role that reaches past the department.
fn may_give(by: &Caller, role: Role) -> bool {
    role <= by.role && !(by.role == Role::DeptManager && role == Role::DeptManager)
}

/// The department, if the caller may place people there.
async fn place(queries: &impl Queries, by: &Caller, department: Uuid) -> Result<Uuid, Fault> {
    let (organization, own, _) = by.circle();
    let row = queries
        .first(
            "SELECT organization_id FROM departments WHERE id = $1 AND ($2::uuid IS NULL OR organization_id = $2) AND ($3::uuid IS NULL OR id = $3)",
            &[&department, &organization, &own],
        )
        .await?;
    row.map(|r| r.get(0)).ok_or_else(|| Fault::field("department_id", "There is no such department in your circle."))
}

/// Makes a person before their first sign-in.
///
/// # Errors
/// A field is not right, somebody has the address already, or it is outside the caller's circle.
pub async fn create(
    connection: &mut Connection,
    by: &Caller,
    meta: &Meta,
    email: &str,
    name: &str,
    role: &str,
    department: Uuid,
) -> Result<User, Fault> {
    let mut errors = FieldErrors::default();
    let (email, name) = (email.trim(), name.trim());
    let at = email.split_once('@').is_some_and(|(a, b)| !a.is_empty() && b.contains('.') && !b.contains('@'));
    if !at || email.len() > 254 || email.chars().any(|c| c.is_whitespace() || c.is_control()) {
        errors.add("email", "Write an e-mail address such as ada@harbour.example.");
    }
    if name.is_empty() || name.chars().count() > 200 || name.chars().any(char::is_control) {
        errors.add("display_name", "The name has 1 to 200 characters.");
    }
    let role = Role::parse(role);
    if role.is_none() {
        errors.add("role", "Choose one of the five roles.");
    }
    if !errors.is_empty() {
        return Err(Fault::Invalid(errors));
    }
    let role = role.unwrap_or(Role::StandardUser);
    if !may_give(by, role) {
        return Err(Fault::Forbidden("You cannot give this role."));
    }
    let transaction = connection.begin().await?;
    let organization = place(&transaction, by, department).await?;
    let made = transaction
        .first(
            "INSERT INTO users (organization_id, department_id, email, display_name, role, role_assigned)
             VALUES ($1, $2, $3, $4, $5, true) ON CONFLICT DO NOTHING RETURNING id",
            &[&organization, &department, &email, &name, &role.word()],
        )
        .await?;
    let id: Uuid = made.ok_or_else(|| Fault::Conflict("Somebody has this e-mail address already.".into()))?.get(0);
    let act = Act::done("administration", "user created", "user").on(id);
    audit::note(&transaction, Some(by), meta, act.with(serde_json::json!({ "role": role.word() }))).await?;
    let user = get(&transaction, by, id).await?;
    transaction.commit().await?;
    Ok(user)
}

/// Changes a person; keeping them out ends their sessions at once.
///
/// # Errors
/// There is no such person in the caller's circle, it is oneself or somebody above, or the role is above the caller's.
pub async fn change(
    connection: &mut Connection,
    by: &Caller,
    meta: &Meta,
    id: Uuid,
    change: &Change,
) -> Result<User, Fault> {
    if by.user == id {
        return Err(Fault::Forbidden("You cannot do this to your own account."));
    }
    let role = match change.role.as_deref() {
        None => None,
        Some(word) => Some(Role::parse(word).ok_or_else(|| Fault::field("role", "Choose one of the five roles."))?),
    };
    let transaction = connection.begin().await?;
    let before = get(&transaction, by, id).await?;
    let above = Role::parse(&before.role).is_none_or(|r| !may_give(by, r));
    if above || role.is_some_and(|r| !may_give(by, r)) {
        return Err(Fault::Forbidden("You cannot change this person, or give this role."));
    }
    if let Some(department) = change.department {
        let there = place(&transaction, by, department).await?;
        let same =
            transaction.execute("SELECT 1 FROM users WHERE id = $1 AND organization_id = $2", &[&id, &there]).await?;
        if same == 0 {
            return Err(Fault::field("department_id", "The department is of another organisation."));
        }
    }
    transaction
        .execute(
            "UPDATE users SET role = coalesce($2, role), role_assigned = role_assigned OR $2::text IS NOT NULL,
                 department_id = coalesce($3, department_id), is_active = coalesce($4, is_active) WHERE id = $1",
            &[&id, &role.map(Role::word), &change.department, &change.is_active],
        )
        .await?;
    if change.is_active == Some(false) {
        transaction
            .execute(
                "UPDATE user_sessions SET revoked = true, revoked_at = now(), revoked_reason = 'deactivated', id_token = NULL
                 WHERE user_id = $1 AND NOT revoked",
                &[&id],
            )
            .await?;
    }
    let told = serde_json::json!({ "before": before.role, "role": role.map(Role::word), "department_id": change.department, "is_active": change.is_active });
    audit::note(&transaction, Some(by), meta, Act::done("administration", "user changed", "user").on(id).with(told))
        .await?;
    let user = get(&transaction, by, id).await?;
    transaction.commit().await?;
    Ok(user)
}
