//! Who may change a graph store, and what is left when a member is parted from the others.

use std::time::Duration;

use api::supervisor::{LinkRequest, NetworkStatus};
use rustix::process::Signal;
use serde_json::json;

use super::{
    graph::{healthy, monitor},
    network::{self, place, tries},
};
use crate::{
    Lab, Miss, Seen, Site,
    browser::Browser,
    claim::Call,
    harm::all_of,
    inside::{Ask, Saw},
    miss, must,
    site::until_in,
};

const LONG: Duration = Duration::from_secs(90);
/// Who is stopped answers nothing: nobody waits longer.
const PATIENCE: Duration = Duration::from_secs(4);

/// A statement as a service, with the address in one of its variables: rows, or the words of a refusal.
async fn cypher(
    site: &Site,
    service: &str,
    variable: &str,
    statement: &str,
) -> Result<Result<Vec<Vec<String>>, String>, Miss> {
    let ask = Ask::Sql { variable: variable.into(), statements: vec![statement.into()] };
    match site.inside(service.trim_start_matches("service."), &[ask]).await?.pop() {
        Some(Saw::Sql(mut all)) if all.len() == 1 => Ok(Ok(all.remove(0))),
        Some(Saw::Failed(why)) => Ok(Err(why)),
        saw => Err(Miss::Failed(format!("{statement}: {saw:?}"))),
    }
}

async fn rows(site: &Site, service: &str, variable: &str, statement: &str) -> Result<Vec<Vec<String>>, Miss> {
    cypher(site, service, variable, statement)
        .await?
        .map_err(|why| Miss::Failed(format!("{service}: {statement}: {why}")))
}

/// `graph_writer(GRAPH, WRITER, READER, VARIABLE)`: a CREATE from every part's place with its own credentials, and what the store
/// recorded of writers.
pub async fn graph_writer(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let (graph, writer, reader) = (c.argument(0, "graph.main"), c.argument(1, ""), c.argument(2, ""));
    let variable = c.argument(3, "GRAPH_URL");
    let begun = jiff::Timestamp::now().as_nanosecond() - 1_000_000_000;
    let mark = format!("mark{}", uuid::Uuid::new_v4().simple());
    let create = format!("CREATE (n:Check {{mark: '{mark}'}}) RETURN n.mark");
    let count = format!("MATCH (n:Check {{mark: '{mark}'}}) RETURN count(n)");
    let Err(refused) = cypher(&site, reader, variable, &create).await? else { miss!("{reader} writes to {graph}") };
    must!(refused.contains("Forbidden"), "{reader} is refused, but with: {refused}");
    must!(rows(&site, reader, variable, &count).await? == [["0"]], "{reader}'s refused write is stored");
    must!(rows(&site, writer, variable, &create).await? == [[mark.as_str()]], "{writer} cannot write");
    must!(rows(&site, reader, variable, &count).await? == [["1"]], "{writer}'s write is not read by {reader}");
    rows(&site, writer, variable, &format!("MATCH (n:Check {{mark: '{mark}'}}) DELETE n")).await?;
    // All others have no credentials, and no way to it.
    network::of(&site).await?;
    let at = site.address(graph)?;
    let mut closed = Vec::new();
    for resource in &site.status.resources {
        if [writer, reader].contains(&resource.name.as_str()) || resource.name.starts_with(graph) {
            continue;
        }
        let tried = tries(&place(&site, &resource.name)?, at).await?;
        must!(tried.is_err(), "{} reaches {graph} at {at}", resource.name);
        closed.push(resource.name.as_str());
    }
    must!(closed.len() > 2, "only {closed:?} are neither writer nor reader");
    let sql = format!(
        "SELECT DISTINCT body ->> '$.user' FROM logs WHERE time_ns > {begun} AND source LIKE '{graph}%' \
         AND body LIKE '{{%\"message\":\"wrote\"%'"
    );
    let told = site.query_until("the store's record of the write", &sql, |rows| !rows.is_empty()).await?;
    let users: Vec<&str> = told.iter().filter_map(|row| row[0].as_str()).collect();
    must!(users == [writer], "the store recorded writes of {told:?}");
    Ok(format!(
        "{writer} creates; {reader}: {refused}; no connection from {}; the store recorded writes of {users:?} alone",
        closed.join(", ")
    ))
}

/// A write as a person makes it by the API and by the page's form: the statuses, or that no answer came.
async fn writes(person: &mut Browser, name: &str) -> Result<Vec<String>, Miss> {
    let body = json!({ "kind": "term", "name": name, "why": "a check" }).to_string();
    let form = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("kind", "term")
        .append_pair("name", &format!("{name} by form"))
        .append_pair("why", "a check")
        .append_pair("_csrf", &person.csrf)
        .finish();
    let mut told = Vec::new();
    for (path, kind, body) in
        [("/api/v1/library", "application/json", body), ("/library", "application/x-www-form-urlencoded", form)]
    {
        let answer = tokio::time::timeout(PATIENCE, person.send("POST", path, kind, Some(body))).await;
        told.push(match answer {
            Ok(Ok(page)) => page.status.to_string(),
            Ok(Err(_)) | Err(_) => "no answer".to_owned(),
        });
    }
    Ok(told)
}

/// `only_way_to_write(API, READER, VARIABLE)`: written through the edge and read in the store; with the API stopped by nobody.
pub async fn only_way_to_write(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let (api, reader, variable) = (c.argument(0, ""), c.argument(1, ""), c.argument(2, "GRAPH_URL"));
    let mut person = site.signed_in(&["editor"]).await?;
    let unique = uuid::Uuid::new_v4().simple().to_string()[..10].to_uppercase();
    let named =
        |name: &str| format!("MATCH (n) WHERE n.name STARTS WITH '{name}' RETURN DISTINCT n.name ORDER BY n.name");
    let name = format!("Term {unique}");
    let before = writes(&mut person, &name).await?;
    let stored = rows(&site, reader, variable, &named(&name)).await?;
    must!(stored == [[name.clone()], [format!("{name} by form")]], "written with {before:?}, the store has {stored:?}");
    let late = format!("Late {unique}");
    all_of(&site, api, Signal::STOP)?;
    let while_stopped = async {
        let answers = writes(&mut person, &late).await?;
        must!(
            !answers.iter().any(|a| a.starts_with('2') || a == "303"),
            "with {api} stopped writes answer {answers:?}"
        );
        let create = format!("CREATE (n:Check {{name: '{late}'}})");
        let Err(refused) = cypher(&site, reader, variable, &create).await? else { miss!("{reader} writes") };
        must!(refused.contains("Forbidden"), "{reader} is refused, but with: {refused}");
        let stored = rows(&site, reader, variable, &named(&late)).await?;
        must!(stored.is_empty(), "with {api} stopped {stored:?} was stored");
        Ok::<_, Miss>((answers, refused))
    }
    .await;
    let _ = all_of(&site, api, Signal::CONT);
    lab.restore(on).await?;
    let (answers, refused) = while_stopped?;
    until_in("writes are taken again", LONG, async || {
        let again = writes(&mut person, &format!("Again {}", uuid::Uuid::new_v4().simple())).await?;
        must!(again == ["201", "303"], "they answer {again:?}");
        Ok(())
    })
    .await?;
    Ok(format!(
        "by API and form {before:?}, both in the store; {api} stopped: {answers:?}, {reader}: {refused}, and nothing is stored"
    ))
}

/// `graph_parted(GRAPH)`: the links of one member to all others are cut, and healed.
pub async fn parted(lab: &Lab, on: &str, c: &Call) -> Seen {
    let graph = c.argument(0, "graph.main");
    let site = lab.site(on).await?;
    network::of(&site).await?;
    let all = healthy(&site, graph).await?;
    let Some((victim, _)) = all.iter().find(|(_, m)| m.part == "follower") else { miss!("nobody follows") };
    let link = async |loses: u32| {
        for (other, _) in all.iter().filter(|(other, _)| other != victim) {
            let api::supervisor::StampRef { system, stamp } = site.of();
            let ask = LinkRequest { system, stamp, one: victim.clone(), other: other.clone(), loses, kib_s: 0 };
            let _: NetworkStatus = site.supervisor.post("/network", &ask).await?;
        }
        Ok::<(), Miss>(())
    };
    let cut = link(100).await;
    let told = async {
        cut?;
        until_in("the monitor tells of it", LONG, async || {
            let says = monitor(&site, graph).await?;
            must!(!says.starts_with("the cluster is healthy"), "it says: {says}");
            Ok(says)
        })
        .await
    }
    .await;
    link(0).await?;
    let told = told?;
    healthy(&site, graph).await?;
    lab.restore(on).await?;
    Ok(format!("{victim} parted from the others: `{told}`; healed, the monitor calls the cluster healthy again"))
}
