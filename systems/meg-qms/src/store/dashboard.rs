//! The figures of the dashboard, of public reports and of the business intelligence: compliance by form, ward and week.

use jiff::civil::Date;
use sdk::database::Queries;
use serde::{Deserialize, Serialize};

use crate::{domain::percent, fault::Fault};

/// Compliance of something: submissions, and points reached of those possible.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Figure {
    pub key: String,
    pub name: String,
    pub submissions: i64,
    pub reached: i64,
    pub possible: i64,
    pub critical: i64,
    pub compliance: Option<i64>,
}

/// A week of a form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Week {
    /// Its Monday.
    pub week: String,
    pub form: String,
    pub submissions: i64,
    pub compliance: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Board {
    pub forms: Vec<Figure>,
    pub wards: Vec<Figure>,
    pub weeks: Vec<Week>,
    pub submissions: i64,
    pub compliance: Option<i64>,
    pub critical: i64,
}

fn figure(r: &tokio_postgres::Row) -> Figure {
    let (reached, possible) = (r.get(3), r.get(4));
    Figure {
        key: r.get(0),
        name: r.get(1),
        submissions: r.get(2),
        reached,
        possible,
        critical: r.get(5),
        compliance: percent(reached, possible),
    }
}

/// All figures of these days, of one form if one is named.
///
/// # Errors
/// No database.
pub async fn board(queries: &impl Queries, from: Date, to: Date, form: Option<i64>) -> Result<Board, Fault> {
    let forms = r#"SELECT f."Id"::text, f."Title", count(*), sum(s."Reached")::bigint, sum(s."Possible")::bigint, sum(s."Critical")::bigint
        FROM "Submissions" s JOIN "Forms" f ON f."Id" = s."FormId"
        WHERE s."AuditedOn" BETWEEN $1 AND $2 AND ($3::bigint IS NULL OR s."FormId" = $3) GROUP BY 1, 2 ORDER BY 2"#;
    let wards = r#"SELECT w."Code", w."Name", count(*), sum(s."Reached")::bigint, sum(s."Possible")::bigint, sum(s."Critical")::bigint
        FROM "Submissions" s JOIN "Wards" w ON w."Code" = s."WardCode"
        WHERE s."AuditedOn" BETWEEN $1 AND $2 AND ($3::bigint IS NULL OR s."FormId" = $3) GROUP BY 1, 2 ORDER BY 2"#;
    let weeks = r#"SELECT to_char(date_trunc('week', s."AuditedOn"), 'YYYY-MM-DD'), f."Title", count(*), sum(s."Reached")::bigint, sum(s."Possible")::bigint
        FROM "Submissions" s JOIN "Forms" f ON f."Id" = s."FormId"
        WHERE s."AuditedOn" BETWEEN $1 AND $2 AND ($3::bigint IS NULL OR s."FormId" = $3) GROUP BY 1, 2 ORDER BY 1, 2"#;
    let values: [sdk::database::Param<'_>; 3] = [&from, &to, &form];
    let forms: Vec<Figure> = queries.query(forms, &values).await?.iter().map(figure).collect();
    let wards = queries.query(wards, &values).await?.iter().map(figure).collect();
    let weeks = queries.query(weeks, &values).await?;
    let week = |r: &tokio_postgres::Row| Week {
        week: r.get(0),
        form: r.get(1),
        submissions: r.get(2),
        compliance: percent(r.get(3), r.get(4)),
    };
    let sum = |of: fn(&Figure) -> i64| forms.iter().map(of).sum::<i64>();
    Ok(Board {
        submissions: sum(|f| f.submissions),
        compliance: percent(sum(|f| f.reached), sum(|f| f.possible)),
        critical: sum(|f| f.critical),
        weeks: weeks.iter().map(week).collect(),
        wards,
        forms,
    })
}
