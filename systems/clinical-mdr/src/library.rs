//! The library in the graph: `(:ItemRoot)-[:HAS_VERSION]->(:ItemValue)`. Nothing is overwritten: a change ends the version that
//! was, and adds one. Each act is one statement that does nothing unless what it changes is still what the person saw.

use sdk::graph::{Graph, Row};
use serde_json::{Value, json};

use crate::{
    access::Person,
    domain::{self, Act, Content, Status, Version},
    fault::Fault,
};

/// What of a list is wanted.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default)]
pub struct Filter {
    pub kind: String,
    pub status: String,
    pub q: String,
    pub page: Option<u32>,
    pub size: Option<u32>,
}

const NOW: &str = "MATCH (r:ItemRoot)-[h:HAS_VERSION]->(v:ItemValue) WHERE h.until IS NULL";
/// A page has at most so many.
const LARGEST: u32 = 200;

fn item(row: &Row) -> Value {
    let (head, h, v) = (&row[0], &row[1], &row[2]);
    json!({
        "uid": head["uid"], "kind": head["kind"],
        "name": v["name"], "definition": v["definition"], "code": v["code"],
        "status": h["status"], "version": h["version"], "since": h["since"], "until": h["until"],
        "author": h["author"], "author_name": h["author_name"], "change": h["change"],
    })
}

/// A page of the library as it is now.
///
/// # Errors
/// The graph does not answer, or the page is none.
pub async fn list(graph: &Graph, filter: &Filter) -> Result<Value, Fault> {
    let (page, size) = (filter.page.unwrap_or(1), filter.size.unwrap_or(50));
    if page == 0 || size == 0 || size > LARGEST || page > 1_000_000 {
        return Err(Fault::Malformed(format!("page counts from 1, and size is 1 to {LARGEST}")));
    }
    let rest = "AND ($kind = '' OR r.kind = $kind) AND ($status = '' OR h.status = $status) \
                AND ($q = '' OR toLower(v.name) CONTAINS $q OR toLower(v.definition) CONTAINS $q OR toLower(v.code) CONTAINS $q)";
    let parameters = json!({
        "kind": filter.kind, "status": filter.status, "q": filter.q.trim().to_lowercase(),
        "skip": (page - 1) * size, "size": size,
    });
    let total = graph.read(&format!("{NOW} {rest} RETURN count(r)"), parameters.clone()).await?;
    let rows = graph
        .read(
            &format!("{NOW} {rest} RETURN r, h, v ORDER BY r.kind, toLower(v.name), r.uid SKIP $skip LIMIT $size"),
            parameters,
        )
        .await?;
    let items: Vec<Value> = rows.iter().map(item).collect();
    Ok(json!({ "items": items, "total": total.first().map_or(&Value::Null, |r| &r[0]), "page": page, "size": size }))
}

/// One definition as it is now.
///
/// # Errors
/// There is none of that uid, or the graph does not answer.
pub async fn one(graph: &Graph, uid: &str) -> Result<Value, Fault> {
    let rows = graph.read(&format!("{NOW} AND r.uid = $uid RETURN r, h, v"), json!({ "uid": uid })).await?;
    rows.first().map(item).ok_or(Fault::NotFound)
}

/// All versions, the newest first: what was said, by whom, when and why.
///
/// # Errors
/// There is none of that uid, or the graph does not answer.
pub async fn versions(graph: &Graph, uid: &str) -> Result<Vec<Value>, Fault> {
    let rows = graph
        .read(
            "MATCH (r:ItemRoot {uid: $uid})-[h:HAS_VERSION]->(v:ItemValue) RETURN r, h, v ORDER BY h.seq DESC",
            json!({ "uid": uid }),
        )
        .await?;
    if rows.is_empty() {
        return Err(Fault::NotFound);
    }
    Ok(rows.iter().map(item).collect())
}

/// The fields in which two versions differ.
///
/// # Errors
/// One of the versions is not there, or the graph does not answer.
pub async fn diff(graph: &Graph, uid: &str, from: &str, to: &str) -> Result<Value, Fault> {
    let all = versions(graph, uid).await?;
    let find = |field: &'static str, version: &str| {
        let found = all.iter().find(|v| v["version"] == version);
        found.ok_or_else(|| Fault::field(field, format!("{uid} has no version `{version}`")))
    };
    let (old, new) = (find("from", from)?, find("to", to)?);
    let changes: Vec<Value> = ["name", "definition", "code", "status"]
        .into_iter()
        .filter(|field| old[*field] != new[*field])
        .map(|field| json!({ "field": field, "from": old[field], "to": new[field] }))
        .collect();
    Ok(json!({ "uid": uid, "from": from, "to": to, "changes": changes }))
}

/// Makes a definition, as draft 0.1.
///
/// # Errors
/// A field is wrong, there is one of that name, or the graph does not answer.
pub async fn create(graph: &Graph, person: &Person, kind: &str, content: &Content, why: &str) -> Result<Value, Fault> {
    let (prefix, content, why) = (domain::prefix(kind)?, content.checked()?, domain::reason(why)?);
    let rows = graph
        .write(
            "OPTIONAL MATCH (x:ItemRoot {kind: $kind})-[old:HAS_VERSION]->(y:ItemValue) \
             WHERE old.until IS NULL AND toLower(y.name) = toLower($name) \
             WITH count(x) AS same WHERE same = 0 \
             MERGE (c:Counter {of: $prefix}) ON CREATE SET c.n = 1 ON MATCH SET c.n = c.n + 1 \
             WITH c.n AS n \
             CREATE (r:ItemRoot {uid: $prefix + '_' + right('000000' + toString(n), 6), kind: $kind}) \
             CREATE (r)-[:HAS_VERSION {seq: 1, version: '0.1', status: 'Draft', since: timestamp(), author: $author, \
             author_name: $author_name, change: $why}]->(:ItemValue {name: $name, definition: $definition, code: $code}) \
             RETURN r.uid",
            json!({
                "kind": kind, "prefix": prefix, "name": content.name, "definition": content.definition, "code": content.code,
                "author": person.id, "author_name": person.name, "why": why,
            }),
        )
        .await?;
    match rows.first() {
        Some(row) => one(graph, row[0].as_str().unwrap_or_default()).await,
        None => Err(Fault::field("name", format!("there is a {kind} of this name already"))),
    }
}

/// Does something to a definition. `expected` is the version that the person saw.
///
/// # Errors
/// It is not there, has changed since, cannot be acted on so, or the graph does not answer.
pub async fn act(
    graph: &Graph,
    person: &Person,
    uid: &str,
    act: Act,
    expected: &str,
    content: Option<&Content>,
    why: &str,
) -> Result<Value, Fault> {
    let why = domain::reason(why)?;
    let now = one(graph, uid).await?;
    let status: Status = serde_json::from_value(now["status"].clone()).map_err(|e| Fault::Internal(e.to_string()))?;
    let version = now["version"].as_str().and_then(Version::read);
    let version = version.ok_or_else(|| Fault::Internal(format!("{uid} has a version that cannot be read")))?;
    if expected != version.to_string() {
        return Err(stale(expected, &now));
    }
    let (next_status, next) = domain::after(status, version, act)?;
    let content = match content {
        Some(content) => content.checked()?,
        None => serde_json::from_value(now.clone()).map_err(|e| Fault::Internal(e.to_string()))?,
    };
    let rows = graph
        .write(
            "MATCH (r:ItemRoot {uid: $uid})-[h:HAS_VERSION]->(v:ItemValue) \
             WHERE h.until IS NULL AND h.version = $expected AND h.status = $status \
             SET h.until = timestamp() WITH r, h.seq AS seq \
             CREATE (r)-[:HAS_VERSION {seq: seq + 1, version: $next, status: $next_status, since: timestamp(), author: $author, \
             author_name: $author_name, change: $why}]->(:ItemValue {name: $name, definition: $definition, code: $code}) \
             RETURN r.uid",
            json!({
                "uid": uid, "expected": expected, "status": status.word(), "next": next.to_string(),
                "next_status": next_status.word(), "name": content.name, "definition": content.definition, "code": content.code,
                "author": person.id, "author_name": person.name, "why": why,
            }),
        )
        .await?;
    let after = one(graph, uid).await?;
    if rows.is_empty() { Err(stale(expected, &after)) } else { Ok(after) }
}

fn stale(expected: &str, now: &Value) -> Fault {
    let text = |key: &str| now[key].as_str().unwrap_or_default().to_owned();
    Fault::Conflict(format!(
        "You saw version {expected}; by now it is {} ({}), changed by {}. Reload, and decide anew.",
        text("version"),
        text("status"),
        text("author_name")
    ))
}
