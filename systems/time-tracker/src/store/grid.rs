//! Saving a grid: many cells at once, all or none, and nobody's change is lost.

use jiff::civil::Date;
use sdk::database::Connection;

use super::{entries, entries::Entry, sheets};
use crate::{
    access::Caller,
    domain::{EntryValues, Quarters},
    fault::Fault,
};

/// One changed cell.
#[derive(Clone, Debug)]
pub struct CellChange {
    pub project: String,
    pub work_type: String,
    pub date: Date,
    /// The entry that was shown in the cell, with its version; None for an empty cell.
    pub base: Option<(i64, i32)>,
    /// None empties the cell.
    pub hours: Option<Quarters>,
}

/// A cell that somebody else changed meanwhile.
#[derive(Clone, Debug)]
pub struct Conflict {
    pub mine: CellChange,
    /// What is there now; None when it was emptied.
    pub theirs: Option<Entry>,
}

/// Saves all changes; conflicts, if there are any, and then nothing was saved.
///
/// # Errors
/// The sheet takes no change or a rule is broken; a fault's field is the cell's name (`PROJECT|WORK-TYPE|DATE`).
pub async fn save(
    connection: &mut Connection,
    caller: &Caller,
    sheet: i64,
    changes: &[CellChange],
) -> Result<Vec<Conflict>, Fault> {
    let transaction = connection.begin().await?;
    let sheet = sheets::lock_to_write(&transaction, caller, sheet).await?;
    let now = entries::of(&transaction, sheet.id).await?;
    let mut conflicts = Vec::new();
    for change in changes {
        let of_cell =
            |e: &&Entry| e.project == change.project && e.work_type == change.work_type && e.date == change.date;
        let there = match change.base {
            Some((id, _)) => now.iter().find(|e| e.id == id),
            None => now.iter().find(of_cell),
        };
        // Both wrote the same: nothing to decide.
        if there.map(|e| e.hours) == change.hours {
            continue;
        }
        if there.map(|e| (e.id, e.version)) != change.base {
            conflicts.push(Conflict { mine: change.clone(), theirs: there.cloned() });
            continue;
        }
        let named = |fault| match fault {
            Fault::Invalid(errors) => {
                let text = errors.0.into_iter().map(|(_, m)| m).collect::<Vec<_>>().join(" ");
                Fault::field(&change.name(), &text)
            }
            other => other,
        };
        match (there, change.hours) {
            (Some(entry), None) => drop(entries::delete(&transaction, entry.id, entry.version).await?),
            (Some(entry), Some(hours)) => {
                let values = change.values(hours, Some(entry)).map_err(named)?;
                entries::update(&transaction, entry.id, entry.version, &values).await.map_err(named)?;
            }
            (None, Some(hours)) => {
                entries::insert(&transaction, &sheet, &change.values(hours, None)?).await.map_err(named)?;
            }
            (None, None) => {}
        }
    }
    if conflicts.is_empty() {
        entries::settle(&transaction, &sheet).await?;
        transaction.commit().await?;
    }
    Ok(conflicts)
}

impl CellChange {
    /// The cell's name in forms and faults.
    pub fn name(&self) -> String {
        format!("{}|{}|{}", self.project, self.work_type, self.date)
    }

    fn values(&self, hours: Quarters, known: Option<&Entry>) -> Result<EntryValues, Fault> {
        let times = known.and_then(|e| e.times);
        if times.is_some_and(|(start, end)| hours.0 * 15 > end.0 - start.0 + 7) {
            return Err(Fault::field(
                "hours",
                "This entry has a start and an end, and the hours are more than lies between.",
            ));
        }
        Ok(EntryValues {
            project: self.project.clone(),
            work_type: self.work_type.clone(),
            date: self.date,
            hours,
            times,
            notes: known.map(|e| e.notes.clone()).unwrap_or_default(),
        })
    }
}
