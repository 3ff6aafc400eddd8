//! What was spent: each department's budget as a bar, and who spent it on what.

use askama::Template;
use axum::{extract::State, response::Response};

use super::{Head, ok};
use crate::{
    access::Caller,
    app::App,
    fault::Fault,
    store::departments::{self, Department, Spend},
};

#[derive(Template)]
#[template(path = "spend.html")]
struct SpendPage {
    head: Head,
    departments: Vec<Department>,
    lines: Vec<Spend>,
}

pub async fn show(State(app): State<App>, caller: Caller) -> Result<Response, Fault> {
    let connection = app.connection().await?;
    let departments = departments::list(&connection, &caller).await?;
    let lines = departments::spend(&connection, &caller).await?;
    ok(&SpendPage { head: Head::new("Spend", &caller, "spend"), departments, lines })
}
