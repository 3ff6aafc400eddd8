//! The schedule of activities: a grid of what is done at which visit, made of a study, and its CSV.

use serde::Serialize;
use serde_json::Value;

/// A visit above the grid.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Column {
    pub visit: String,
    pub name: String,
    pub day: i64,
    pub epoch: String,
}

/// An activity and its crosses, one a column.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Line {
    pub activity: String,
    pub name: String,
    pub version: String,
    pub at: Vec<bool>,
}

#[derive(Clone, Debug, Default, Serialize, PartialEq, Eq)]
pub struct Grid {
    pub study: String,
    pub title: String,
    pub status: String,
    pub columns: Vec<Column>,
    pub lines: Vec<Line>,
}

impl Grid {
    /// The grid of a study as [`crate::studies::one`] gives it.
    pub fn of(study: &Value) -> Grid {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = |name: &str| study[name].as_array().map_or(&[][..], Vec::as_slice);
        let epoch =
            |uid: &Value| list("epochs").iter().find(|e| e["uid"] == *uid).map_or(String::new(), |e| text(&e["name"]));
        let columns: Vec<Column> = list("visits")
            .iter()
            .map(|v| Column {
                visit: text(&v["uid"]),
                name: text(&v["name"]),
                day: v["day"].as_i64().unwrap_or(0),
                epoch: epoch(&v["epoch"]),
            })
            .collect();
        let lines = list("activities")
            .iter()
            .map(|a| Line {
                activity: text(&a["item"]),
                name: text(&a["name"]),
                version: text(&a["version"]),
                at: columns
                    .iter()
                    .map(|c| list("schedule").iter().any(|s| s["activity"] == a["item"] && s["visit"] == *c.visit))
                    .collect(),
            })
            .collect();
        Grid {
            study: text(&study["uid"]),
            title: text(&study["title"]),
            status: text(&study["status"]),
            columns,
            lines,
        }
    }

    /// Comma-separated, with a line for the epochs, one for the visits and one an activity.
    pub fn csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let head = |first: &str, rest: &mut dyn Iterator<Item = String>| {
            let mut row = vec![first.to_owned()];
            row.extend(rest.map(|text| plain(&text)));
            row
        };
        let rows = [
            head("Epoch", &mut self.columns.iter().map(|c| c.epoch.clone())),
            head("Activity", &mut self.columns.iter().map(|c| format!("{} (day {})", c.name, c.day))),
        ];
        let lines = self.lines.iter().map(|line| {
            let mut row = vec![plain(&line.name)];
            row.extend(line.at.iter().map(|x| if *x { "X".to_owned() } else { String::new() }));
            row
        });
        for row in rows.into_iter().chain(lines) {
            // Into memory: it cannot fail.
            let _ = writer.write_record(row);
        }
        String::from_utf8(writer.into_inner().unwrap_or_default()).unwrap_or_default()
    }
}

/// What a spreadsheet would take for a formula gets a mark before it.
pub fn plain(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_study_becomes_a_grid_and_the_grid_a_table() {
        let study = json!({
            "uid": "Study_1", "title": "T", "status": "Draft",
            "epochs": [{ "uid": "E1", "name": "Treatment" }],
            "visits": [{ "uid": "V1", "name": "Visit 1", "day": 1, "epoch": "E1" }, { "uid": "V2", "name": "Visit 2", "day": 8, "epoch": "E1" }],
            "activities": [{ "item": "A1", "name": "=Weight", "version": "1.0" }, { "item": "A2", "name": "Height, sitting", "version": "2.0" }],
            "schedule": [{ "activity": "A1", "visit": "V2" }],
        });
        let grid = Grid::of(&study);
        assert_eq!(grid.lines[0].at, [false, true]);
        assert_eq!(
            grid.csv(),
            "Epoch,Treatment,Treatment\nActivity,Visit 1 (day 1),Visit 2 (day 8)\n'=Weight,,X\n\"Height, sitting\",,\n"
        );
        assert_eq!(Grid::of(&json!({})).csv(), "Epoch\nActivity\n");
    }
}
