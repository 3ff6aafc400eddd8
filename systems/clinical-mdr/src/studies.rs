//! Studies in the graph: what was selected from the library (each with the version that was approved then), epochs, visits, and
//! which activity is done at which visit. Every change counts the study's revision up and leaves an action in its audit trail, in
//! the same statement.

use sdk::graph::Graph;
use serde_json::{Value, json};

use crate::{access::Person, domain, fault::Fault};

/// The words before a change: the study as the person saw it. `AND` may follow.
const SEEN: &str = "MATCH (s:StudyRoot {uid: $uid}) WHERE s.revision = $expected AND s.status = $status";
/// The words of every change.
const TOLD: &str = "SET s.revision = s.revision + 1 \
    CREATE (s)-[:AUDIT_TRAIL]->(:StudyAction {seq: s.revision, at: timestamp(), author: $author, author_name: $author_name, \
    kind: $act, detail: $detail, why: $why})";

/// All studies, by number.
///
/// # Errors
/// The graph does not answer.
pub async fn list(graph: &Graph) -> Result<Value, Fault> {
    let rows = graph.read("MATCH (s:StudyRoot) RETURN s ORDER BY s.number LIMIT 500", Value::Null).await?;
    Ok(json!({ "items": rows.into_iter().filter_map(|mut r| r.pop()).collect::<Vec<_>>() }))
}

/// A study with everything in it.
///
/// # Errors
/// There is none of that uid, or the graph does not answer.
pub async fn one(graph: &Graph, uid: &str) -> Result<Value, Fault> {
    let of = json!({ "uid": uid });
    let study = graph.read("MATCH (s:StudyRoot {uid: $uid}) RETURN s", of.clone()).await?;
    let mut study = study.into_iter().next().and_then(|mut r| r.pop()).ok_or(Fault::NotFound)?;
    let selections = graph
        .read(
            "MATCH (:StudyRoot {uid: $uid})-[x:HAS_SELECTION]->(v:ItemValue) \
             RETURN x.item, x.kind, x.level, x.version, v.name ORDER BY x.seq",
            of.clone(),
        )
        .await?;
    let of_kind = |kind: &str| -> Vec<Value> {
        let all = selections.iter().filter(|r| r[1] == kind);
        all.map(|r| json!({ "item": r[0], "level": r[2], "version": r[3], "name": r[4] })).collect()
    };
    let epochs = graph
        .read("MATCH (:StudyRoot {uid: $uid})-[:HAS_EPOCH]->(e:Epoch) RETURN e ORDER BY e.seq", of.clone())
        .await?;
    let visits = graph
        .read(
            "MATCH (:StudyRoot {uid: $uid})-[:HAS_EPOCH]->(e:Epoch)-[:HAS_VISIT]->(v:Visit) RETURN v, e.uid ORDER BY e.seq, v.day",
            of.clone(),
        )
        .await?;
    let schedule =
        graph.read("MATCH (:StudyRoot {uid: $uid})-[x:SCHEDULED]->(v:Visit) RETURN x.item, v.uid", of).await?;
    study["objectives"] = of_kind("objective").into();
    study["activities"] = of_kind("activity").into();
    study["epochs"] = epochs.into_iter().filter_map(|mut r| r.pop()).collect();
    study["visits"] = visits
        .into_iter()
        .map(|r| json!({ "uid": r[0]["uid"], "name": r[0]["name"], "day": r[0]["day"], "type": r[0]["type"], "epoch": r[1] }))
        .collect();
    study["schedule"] = schedule.into_iter().map(|r| json!({ "activity": r[0], "visit": r[1] })).collect();
    Ok(study)
}

/// Who did what to a study and why, the newest first.
///
/// # Errors
/// The graph does not answer.
pub async fn audit_trail(graph: &Graph, uid: &str) -> Result<Vec<Value>, Fault> {
    let rows = graph
        .read(
            "MATCH (:StudyRoot {uid: $uid})-[:AUDIT_TRAIL]->(a:StudyAction) RETURN a ORDER BY a.seq DESC LIMIT 1000",
            json!({ "uid": uid }),
        )
        .await?;
    if rows.is_empty() {
        return Err(Fault::NotFound);
    }
    Ok(rows.into_iter().filter_map(|mut r| r.pop()).collect())
}

/// The versions that were locked or released, with all that was in them.
///
/// # Errors
/// The graph does not answer.
pub async fn versions(graph: &Graph, uid: &str) -> Result<Vec<Value>, Fault> {
    let rows = graph
        .read(
            "MATCH (:StudyRoot {uid: $uid})-[h:HAS_VERSION]->(v:StudyValue) RETURN h, v.content ORDER BY h.version DESC",
            json!({ "uid": uid }),
        )
        .await?;
    let version = |row: Vec<Value>| {
        let content = row[1].as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
        json!({ "version": row[0]["version"], "status": row[0]["status"], "since": row[0]["since"],
            "author_name": row[0]["author_name"], "change": row[0]["change"], "content": content })
    };
    Ok(rows.into_iter().map(version).collect())
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub struct NewStudy {
    pub number: String,
    pub acronym: String,
    pub title: String,
    pub why: String,
}

/// Makes a study, empty and as a draft.
///
/// # Errors
/// A field is wrong, the number is taken, or the graph does not answer.
pub async fn create(graph: &Graph, person: &Person, new: &NewStudy) -> Result<Value, Fault> {
    let number = domain::text("number", &new.number, 12, true)?;
    if !number.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return Err(Fault::field("number", "has letters, digits and - only, such as 0042"));
    }
    let acronym = domain::text("acronym", &new.acronym, 40, false)?;
    let title = domain::text("title", &new.title, 400, true)?;
    let why = domain::reason(&new.why)?;
    let uid = format!("Study_{number}");
    let rows = graph
        .write(
            "OPTIONAL MATCH (x:StudyRoot {uid: $uid}) WITH count(x) AS same WHERE same = 0 \
             CREATE (s:StudyRoot {uid: $uid, number: $number, acronym: $acronym, title: $title, status: 'Draft', revision: 1, version: 0}) \
             CREATE (s)-[:AUDIT_TRAIL]->(:StudyAction {seq: 1, at: timestamp(), author: $author, author_name: $author_name, \
             kind: 'create', detail: $title, why: $why}) RETURN s.uid",
            json!({ "uid": uid, "number": number, "acronym": acronym, "title": title, "why": why,
                "author": person.id, "author_name": person.name }),
        )
        .await?;
    if rows.is_empty() {
        return Err(Fault::field("number", "there is a study of this number already"));
    }
    one(graph, &uid).await
}

/// A change of a study: what the person saw, and why.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default)]
pub struct Change {
    pub expected: i64,
    pub why: String,
    pub item: String,
    pub level: String,
    pub name: String,
    pub day: Option<i64>,
    pub epoch: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub visit: String,
    pub activity: String,
    pub on: Option<bool>,
    pub title: String,
    pub acronym: String,
}

/// What is done to a study.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Rename,
    AddObjective,
    AddActivity,
    RemoveSelection,
    AddEpoch,
    AddVisit,
    Schedule,
    Release,
    Lock,
    Unlock,
}

/// Changes a study.
///
/// # Errors
/// It is not there or not as the person saw it, it is locked, what is named is not there, or the graph does not answer.
pub async fn act(graph: &Graph, person: &Person, uid: &str, act: Act, change: &Change) -> Result<Value, Fault> {
    // A tick of the schedule is its own reason; everything else says why.
    let why = match act {
        Act::Schedule if change.why.is_empty() => "schedule".to_owned(),
        _ => domain::reason(&change.why)?,
    };
    let before = one(graph, uid).await?;
    let status = if act == Act::Unlock { "Locked" } else { "Draft" };
    if before["revision"] != change.expected {
        return Err(Fault::Conflict(format!(
            "You saw revision {}; by now it is {}. Reload, and decide anew.",
            change.expected, before["revision"]
        )));
    }
    if before["status"] != status {
        return Err(Fault::Conflict(match act {
            Act::Unlock => "The study is not locked.".into(),
            _ => "The study is locked; it must be unlocked before it is changed.".into(),
        }));
    }
    let mut own = json!({ "uid": uid, "expected": change.expected, "status": status, "author": person.id,
        "author_name": person.name, "why": why });
    let mut set = |name: &str, value: Value| own[name] = value;
    let (kind, detail, statement) = match act {
        Act::Rename => {
            set("title", domain::text("title", &change.title, 400, true)?.into());
            set("acronym", domain::text("acronym", &change.acronym, 40, false)?.into());
            (
                "edit",
                change.title.clone(),
                format!("{SEEN} {TOLD} SET s.title = $title, s.acronym = $acronym RETURN s.revision"),
            )
        }
        Act::AddObjective | Act::AddActivity => {
            let kind = if act == Act::AddObjective { "objective" } else { "activity" };
            if act == Act::AddObjective && !["primary", "secondary", "exploratory"].contains(&change.level.as_str()) {
                return Err(Fault::field("level", "is one of primary, secondary, exploratory"));
            }
            set("item", change.item.clone().into());
            set("kind", kind.into());
            set("level", change.level.clone().into());
            let statement = format!(
                "{SEEN} MATCH (r:ItemRoot {{uid: $item, kind: $kind}})-[h:HAS_VERSION]->(v:ItemValue) \
                 WHERE h.until IS NULL AND h.status = 'Final' \
                 OPTIONAL MATCH (s)-[old:HAS_SELECTION {{item: $item}}]->() \
                 WITH s, h, v, count(old) AS there WHERE there = 0 {TOLD} \
                 CREATE (s)-[:HAS_SELECTION {{item: $item, kind: $kind, level: $level, version: h.version, seq: s.revision}}]->(v) \
                 RETURN s.revision"
            );
            (kind, change.item.clone(), statement)
        }
        Act::RemoveSelection => {
            set("item", change.item.clone().into());
            let statement = format!(
                "{SEEN} MATCH (s)-[x:HAS_SELECTION {{item: $item}}]->() \
                 OPTIONAL MATCH (s)-[y:SCHEDULED {{item: $item}}]->() \
                 WITH s, x, collect(y) AS ys {TOLD} \
                 FOREACH (y IN ys | DELETE y) DELETE x RETURN s.revision"
            );
            ("remove", change.item.clone(), statement)
        }
        Act::AddEpoch => {
            let name = domain::text("name", &change.name, 80, true)?;
            set("name", name.clone().into());
            let statement = format!(
                "{SEEN} OPTIONAL MATCH (s)-[:HAS_EPOCH]->(e:Epoch) WITH s, count(e) AS n, \
                 sum(CASE WHEN toLower(e.name) = toLower($name) THEN 1 ELSE 0 END) AS same WHERE same = 0 {TOLD} \
                 CREATE (s)-[:HAS_EPOCH]->(:Epoch {{uid: s.uid + '_E' + toString(n + 1), name: $name, seq: n + 1}}) RETURN s.revision"
            );
            ("epoch", name, statement)
        }
        Act::AddVisit => {
            let name = domain::text("name", &change.name, 80, true)?;
            let day = change.day.filter(|d| (-1000..=10_000).contains(d));
            let day = day.ok_or_else(|| Fault::field("day", "is a day of the study, -1000 to 10000"))?;
            set("name", name.clone().into());
            set("day", day.into());
            set("epoch", change.epoch.clone().into());
            set("type", domain::text("type", &change.kind, 80, false)?.into());
            let statement = format!(
                "{SEEN} MATCH (s)-[:HAS_EPOCH]->(e:Epoch {{uid: $epoch}}) \
                 OPTIONAL MATCH (s)-[:HAS_EPOCH]->(:Epoch)-[:HAS_VISIT]->(v:Visit) \
                 WITH s, e, count(v) AS n, sum(CASE WHEN v.day = $day THEN 1 ELSE 0 END) AS same WHERE same = 0 {TOLD} \
                 CREATE (e)-[:HAS_VISIT]->(:Visit {{uid: s.uid + '_V' + toString(s.revision), name: $name, day: $day, type: $type}}) \
                 RETURN s.revision"
            );
            ("visit", format!("{name}, day {day}"), statement)
        }
        Act::Schedule => {
            let on = change.on.unwrap_or(true);
            set("item", change.activity.clone().into());
            set("visit", change.visit.clone().into());
            let find = format!(
                "{SEEN} MATCH (s)-[x:HAS_SELECTION {{item: $item, kind: 'activity'}}]->() \
                 MATCH (s)-[:HAS_EPOCH]->(:Epoch)-[:HAS_VISIT]->(v:Visit {{uid: $visit}}) \
                 OPTIONAL MATCH (s)-[y:SCHEDULED {{item: $item}}]->(v)"
            );
            let statement = match on {
                true => format!(
                    "{find} WITH s, v, count(y) AS there WHERE there = 0 {TOLD} CREATE (s)-[:SCHEDULED {{item: $item}}]->(v) RETURN s.revision"
                ),
                false => format!("{find} WITH s, y WHERE y IS NOT NULL {TOLD} DELETE y RETURN s.revision"),
            };
            let kind = if on { "schedule" } else { "unschedule" };
            (kind, format!("{} at {}", change.activity, change.visit), statement)
        }
        Act::Release | Act::Lock => {
            let (kind, becomes) = if act == Act::Lock { ("lock", "Locked") } else { ("release", "Draft") };
            set("content", before.to_string().into());
            set("becomes", becomes.into());
            set("as", if act == Act::Lock { "Locked" } else { "Released" }.into());
            let statement = format!(
                "{SEEN} {TOLD} SET s.status = $becomes, s.version = s.version + 1 \
                 CREATE (s)-[:HAS_VERSION {{version: s.version, status: $as, since: timestamp(), author: $author, \
                 author_name: $author_name, change: $why}}]->(:StudyValue {{content: $content}}) RETURN s.revision"
            );
            (kind, format!("version {}", before["version"].as_i64().unwrap_or(0) + 1), statement)
        }
        Act::Unlock => ("unlock", String::new(), format!("{SEEN} {TOLD} SET s.status = 'Draft' RETURN s.revision")),
    };
    set("act", kind.into());
    set("detail", detail.into());
    let rows = graph.write(&statement, own).await?;
    if rows.is_empty() {
        return Err(refused(act, change, &one(graph, uid).await?));
    }
    one(graph, uid).await
}

/// Why a change found nothing to change.
fn refused(act: Act, change: &Change, now: &Value) -> Fault {
    if now["revision"] != change.expected {
        return Fault::Conflict("Somebody else changed this study just now. Reload, and decide anew.".into());
    }
    match act {
        Act::AddObjective | Act::AddActivity => {
            Fault::field("item", "is not a final definition of this kind, or is in the study already")
        }
        Act::RemoveSelection => Fault::field("item", "is not in the study"),
        Act::AddEpoch => Fault::field("name", "there is an epoch of this name already"),
        Act::AddVisit => Fault::field("day", "there is a visit on this day already, or no such epoch"),
        Act::Schedule => Fault::field("activity", "is not in the study, there is no such visit, or it is so already"),
        _ => Fault::Conflict("The study is not as you saw it. Reload, and decide anew.".into()),
    }
}
