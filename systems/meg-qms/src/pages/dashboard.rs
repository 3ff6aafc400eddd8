//! The dashboard: compliance by form and ward over time, drawn here, kept in the cache until something changes.

use askama::Template;
use axum::{
    extract::{Query, State},
    response::{IntoResponse, Response},
};
use jiff::{ToSpan, civil::Date};
use serde::Deserialize;

use super::{Head, ok};
use crate::{
    access::Caller,
    app::App,
    domain::{FieldErrors, day},
    fault::Fault,
    store::{
        dashboard::{self, Board, Week},
        forms,
    },
};

/// Counted up by whatever changes the figures: what was cached before is not asked for again.
pub const VERSION: &str = "meg:dashboard:version";
/// Seconds that figures are kept.
const KEPT: u32 = 300;
/// Days in a range at most.
const DAYS: i32 = 1100;

/// A range of days, and a form.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Range {
    #[serde(default)]
    pub from: String,
    #[serde(default)]
    pub to: String,
    #[serde(default)]
    pub form: String,
}

impl Range {
    /// The days and the form; twelve weeks and all forms where nothing is said.
    ///
    /// # Errors
    /// A day is not right, or the range is backwards or too long.
    pub fn check(&self, today: Date) -> Result<(Date, Date, Option<i64>), Fault> {
        let mut errors = FieldErrors::default();
        let mut read = |name: &str, text: &str, default: Date| {
            if text.is_empty() {
                return default;
            }
            day(text).unwrap_or_else(|message| {
                errors.add(name, message);
                default
            })
        };
        let from = read("from", &self.from, today.saturating_sub(83.days()));
        let to = read("to", &self.to, today);
        if to < from {
            errors.add("to", "The last day comes before the first.");
        } else if to > from.saturating_add(DAYS.days()) {
            errors.add("to", "A range has three years at most.");
        }
        let form = if self.form.is_empty() { None } else { self.form.parse().ok() };
        if errors.is_empty() { Ok((from, to, form)) } else { Err(Fault::Invalid(errors)) }
    }
}

/// Says that figures changed.
pub async fn changed(app: &App) {
    if let Some(redis) = &app.redis
        && let Err(error) = redis.count(VERSION).await
    {
        // The figures that are cached end by themselves.
        tracing::warn!(%error, "the cache was not told of a change");
    }
}

/// The figures of a range, and whether they were cached.
///
/// # Errors
/// The range is not right, or no database.
pub async fn figures(app: &App, range: &Range) -> Result<(bool, Board), Fault> {
    let (from, to, form) = range.check(app.today())?;
    let key = match &app.redis {
        None => None,
        // A cache that is away makes the page slower and nothing else.
        Some(redis) => match redis.get(VERSION).await {
            Ok(version) => {
                let version = String::from_utf8(version.unwrap_or_default()).unwrap_or_default();
                Some((redis, format!("meg:dashboard:{version}:{from}:{to}:{}", form.unwrap_or(0))))
            }
            Err(error) => {
                tracing::warn!(%error, "no cache");
                None
            }
        },
    };
    if let Some((redis, key)) = &key
        && let Ok(Some(text)) = redis.get(key).await
        && let Ok(board) = serde_json::from_slice(&text)
    {
        return Ok((true, board));
    }
    let board = dashboard::board(&app.connection().await?, from, to, form).await?;
    if let Some((redis, key)) = &key
        && let Ok(text) = serde_json::to_vec(&board)
        && let Err(error) = redis.set(key, &text, KEPT).await
    {
        tracing::warn!(%error, "the figures were not cached");
    }
    Ok((false, board))
}

/// A line of the chart: a form and its points.
pub struct Series {
    pub name: String,
    pub class: String,
    /// `x,y` pairs of an SVG polyline.
    pub points: String,
    pub dots: Vec<Dot>,
}

pub struct Dot {
    pub x: i64,
    pub y: i64,
    pub title: String,
}

/// A chart of weeks by form, 600 by 200.
pub struct Chart {
    pub series: Vec<Series>,
    pub first: String,
    pub last: String,
}

/// Draws the weeks; None where there is nothing to draw.
pub fn chart(weeks: &[Week]) -> Option<Chart> {
    let mut days: Vec<&str> = weeks.iter().map(|w| w.week.as_str()).collect();
    days.dedup();
    let mut names: Vec<&str> = weeks.iter().map(|w| w.form.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let (first, last) = (days.first()?, days.last()?);
    let steps = i64::try_from(days.len().saturating_sub(1).max(1)).unwrap_or(1);
    let mut series = Vec::new();
    for (number, name) in names.iter().enumerate() {
        let mut dots = Vec::new();
        for week in weeks.iter().filter(|w| w.form == *name) {
            let Some(compliance) = week.compliance else { continue };
            let at = i64::try_from(days.iter().position(|d| *d == week.week).unwrap_or_default()).unwrap_or_default();
            let title = format!("{name}, week of {}: {compliance} % of {} audits", week.week, week.submissions);
            dots.push(Dot { x: 30 + at * 550 / steps, y: 180 - compliance * 160 / 100, title });
        }
        let points: Vec<String> = dots.iter().map(|d| format!("{},{}", d.x, d.y)).collect();
        series.push(Series {
            name: (*name).to_owned(),
            class: format!("s{}", number % 6),
            points: points.join(" "),
            dots,
        });
    }
    Some(Chart { series, first: (*first).to_owned(), last: (*last).to_owned() })
}

#[derive(Template)]
#[template(path = "dashboard.html")]
struct DashboardPage {
    head: Head,
    from: String,
    to: String,
    form: String,
    forms: Vec<forms::Form>,
    board: Board,
    chart: Option<Chart>,
    region: String,
}

pub async fn show(State(app): State<App>, caller: Caller, Query(range): Query<Range>) -> Result<Response, Fault> {
    let (from, to, form) = range.check(app.today())?;
    let (hit, board) = figures(&app, &range).await?;
    let forms = forms::list(&app.connection().await?, false).await?;
    let page = DashboardPage {
        head: Head::new("Dashboard", &caller, "dashboard"),
        chart: chart(&board.weeks),
        from: from.to_string(),
        to: to.to_string(),
        form: form.map_or(String::new(), |f| f.to_string()),
        forms,
        board,
        region: app.name.to_string(),
    };
    let cache = [("x-cache", if hit { "hit" } else { "miss" })];
    Ok((cache, ok(&page)?).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_has_a_line_a_form_and_its_highest_point_is_a_hundred() {
        let week = |week: &str, form: &str, compliance| Week {
            week: week.into(),
            form: form.into(),
            submissions: 1,
            compliance,
        };
        let weeks =
            [week("2026-11-02", "A", Some(100)), week("2026-11-02", "B", None), week("2026-11-09", "A", Some(0))];
        let chart = chart(&weeks).unwrap();
        assert_eq!(chart.series.iter().map(|s| s.points.as_str()).collect::<Vec<_>>(), ["30,20 580,180", ""]);
        assert!(super::chart(&[]).is_none());
    }

    #[test]
    fn a_range_is_twelve_weeks_unless_it_says_otherwise() {
        let today = jiff::civil::date(2026, 11, 23);
        let (from, to, form) = Range::default().check(today).unwrap();
        assert_eq!((from.to_string().as_str(), to, form), ("2026-09-01", today, None));
        let wrong = Range { from: "2026-12-01".into(), ..Range::default() };
        assert!(wrong.check(today).is_err());
    }
}
