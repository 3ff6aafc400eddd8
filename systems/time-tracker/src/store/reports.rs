//! Where time went: totals by project and person over a range of days.

use jiff::civil::Date;
use sdk::database::{Error, Queries};
use serde::Serialize;

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    pub project_code: String,
    pub project_name: String,
    pub user_id: i64,
    pub user_name: String,
    pub hours: f64,
}

/// Totals by project and person, both days included; of one person only when `user` is given.
///
/// # Errors
/// No database.
pub async fn by_project(queries: &impl Queries, from: Date, to: Date, user: Option<i64>) -> Result<Vec<Line>, Error> {
    let rows = queries
        .query(
            r#"SELECT e."ProjectCode", p."Name", u."Id", u."FirstName" || ' ' || u."LastName", sum(e."Hours")::float8
               FROM "TimeEntries" e JOIN "Projects" p ON p."Code" = e."ProjectCode" JOIN "Users" u ON u."Id" = e."CreatedBy"
               WHERE e."EntryDate" BETWEEN $1 AND $2 AND ($3::bigint IS NULL OR e."CreatedBy" = $3)
               GROUP BY 1, 2, 3, 4 ORDER BY 1, lower(u."FirstName" || ' ' || u."LastName"), 3 LIMIT 10000"#,
            &[&from, &to, &user],
        )
        .await?;
    let read = |r: &tokio_postgres::Row| Line {
        project_code: r.get(0),
        project_name: r.get(1),
        user_id: r.get(2),
        user_name: r.get::<_, String>(3).trim().to_owned(),
        hours: r.get(4),
    };
    Ok(rows.iter().map(read).collect())
}
