//! A department's month: money is reserved before work begins and settled or given back when it ends, each in the
//! transaction that also says so elsewhere.

use sdk::database::{Error, Queries, Transaction};
use serde::Serialize;
use uuid::Uuid;

use crate::domain::aud;

/// Where a department stands.
#[derive(Clone, Debug, Serialize)]
pub struct Budget {
    pub monthly_cents: i64,
    pub spend_cents: i64,
    pub reserved_cents: i64,
    pub mode: String,
    pub reset_date: String,
}

impl Budget {
    /// What is left, below zero when it was let through.
    pub fn left(&self) -> i64 {
        self.monthly_cents - self.spend_cents - self.reserved_cents
    }

    /// What a router may spend on one image: nothing limits it unless the mode is hard.
    pub fn room(&self) -> Option<i64> {
        (self.mode == "hard").then(|| self.left())
    }
}

/// What became of a wish to reserve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reserved {
    Yes,
    /// Over the budget and let through: mode `soft` logs it, mode `warn` raises an alert as well.
    Over {
        mode: String,
    },
    /// Over the budget and refused.
    No {
        left: i64,
    },
}

/// Where a department stands this month. Begins a new month where one has come; locks the row to the end of the
/// transaction.
///
/// # Errors
/// The database does not answer.
pub async fn lock(transaction: &Transaction<'_>, department: Uuid) -> Result<Option<Budget>, Error> {
    transaction
        .execute(
            "UPDATE department_budgets SET current_spend_aud = 0, last_reset_at = now(),
                 reset_date = (date_trunc('month', now()) + interval '1 month')::date
             WHERE department_id = $1 AND reset_date <= now()::date",
            &[&department],
        )
        .await?;
    let row = transaction
        .first(
            "SELECT (monthly_budget_aud * 100)::bigint, (current_spend_aud * 100)::bigint, (reserved_aud * 100)::bigint,
                    enforcement_mode, reset_date::text
             FROM department_budgets WHERE department_id = $1 FOR UPDATE",
            &[&department],
        )
        .await?;
    Ok(row.map(|r| Budget {
        monthly_cents: r.get(0),
        spend_cents: r.get(1),
        reserved_cents: r.get(2),
        mode: r.get(3),
        reset_date: r.get(4),
    }))
}

/// Reserves `cents` of a locked budget, or does not.
///
/// # Errors
/// The database does not answer.
pub async fn reserve(
    transaction: &Transaction<'_>,
    department: Uuid,
    budget: &Budget,
    cents: i64,
) -> Result<Reserved, Error> {
    let over = budget.spend_cents + budget.reserved_cents + cents > budget.monthly_cents;
    if over && budget.mode == "hard" {
        return Ok(Reserved::No { left: budget.left() });
    }
    transaction
        .execute(
            "UPDATE department_budgets SET reserved_aud = reserved_aud + $2::bigint / 100.0 WHERE department_id = $1",
            &[&department, &cents],
        )
        .await?;
    if !over {
        return Ok(Reserved::Yes);
    }
    tracing::warn!(
        event.name = "budget-exceeded",
        mode = budget.mode,
        left = aud(budget.left()),
        "a prompt was let through over the budget"
    );
    if budget.mode == "warn" {
        alert(transaction, department, 101).await?;
    }
    Ok(Reserved::Over { mode: budget.mode.clone() })
}

/// Turns a reservation into spend. The caller makes sure that it happens once: by the lease and by the unique cost event.
///
/// # Errors
/// The database does not answer.
pub async fn settle(transaction: &Transaction<'_>, department: Uuid, reserved: i64, cost: i64) -> Result<(), Error> {
    transaction
        .execute(
            "UPDATE department_budgets SET reserved_aud = reserved_aud - $2::bigint / 100.0,
                 current_spend_aud = current_spend_aud + $3::bigint / 100.0 WHERE department_id = $1",
            &[&department, &reserved, &cost],
        )
        .await?;
    let share = transaction
        .first(
            "SELECT CASE WHEN monthly_budget_aud = 0 THEN 100 ELSE floor(current_spend_aud * 100 / monthly_budget_aud)::integer END
             FROM department_budgets WHERE department_id = $1",
            &[&department],
        )
        .await?;
    let share = share.map_or(0, |r| r.get::<_, i32>(0));
    for threshold in [80, 90, 100] {
        if share >= threshold {
            alert(transaction, department, threshold).await?;
        }
    }
    Ok(())
}

/// Gives a reservation back.
///
/// # Errors
/// The database does not answer.
pub async fn release(transaction: &Transaction<'_>, department: Uuid, reserved: i64) -> Result<(), Error> {
    transaction
        .execute(
            "UPDATE department_budgets SET reserved_aud = reserved_aud - $2::bigint / 100.0 WHERE department_id = $1",
            &[&department, &reserved],
        )
        .await?;
    Ok(())
}

/// Raises an alert, once a month and threshold.
async fn alert(transaction: &Transaction<'_>, department: Uuid, threshold: i32) -> Result<(), Error> {
    let raised = transaction
        .execute(
            "INSERT INTO budget_alerts (department_id, period, threshold)
             VALUES ($1, date_trunc('month', now())::date, $2) ON CONFLICT DO NOTHING",
            &[&department, &threshold],
        )
        .await?;
    if raised > 0 {
        tracing::warn!(event.name = "budget-alert", department = %department, threshold, "a department's budget has passed a threshold");
        sdk::telemetry::metrics().add("budget_alerts", 1, &[]);
    }
    Ok(())
}
