//! A centre that signs people in and regions that keep their data: somebody is added in a region, signs in at the centre, and
//! every step on the way is looked at. The centre is the stamp `eu`; each stamp of the system is a stamp of its own.

use std::collections::BTreeMap;

use serde_json::json;

use super::vault::{files_with, folder};
use crate::{
    Lab, Miss, Seen, Site,
    browser::{Browser, Page},
    claim::Call,
    inside::{Ask, Saw},
    miss, must,
    site::{until, until_in},
};

const CENTRE: &str = "eu";
/// The way in of those who administer a region, by its own directory.
const HERE: &str = "/sign-in/here";
const LONG: std::time::Duration = std::time::Duration::from_secs(60);

/// The centre and regions, all up, and told of each other.
async fn all(lab: &Lab, regions: &[&str]) -> Result<BTreeMap<String, std::sync::Arc<Site>>, Miss> {
    let mut sites = BTreeMap::new();
    for stamp in [CENTRE].iter().chain(regions) {
        lab.site(stamp).await?;
    }
    for stamp in [CENTRE].iter().chain(regions) {
        // A service is started anew once when the other end of its link comes up for the first time.
        let site = until_in("every service is up with its links", LONG, async || {
            let site = lab.restore(stamp).await?;
            let told = site.status.resources.iter().find(|r| r.name == "service.cms").map(|r| r.note.clone());
            let status = site.client(&site.url("edge")?)?.send("GET", "/health", None).await?.status;
            must!(status.is_success(), "{stamp} answers {status}; {told:?}");
            Ok(site)
        })
        .await?;
        sites.insert((*stamp).to_owned(), site);
    }
    Ok(sites)
}

fn host(url: &str) -> String {
    url.parse::<url::Url>().map(|u| u.origin().ascii_serialization()).unwrap_or_default()
}

async fn sql(site: &Site, statement: &str) -> Result<Vec<Vec<String>>, Miss> {
    let variable = "ConnectionStrings__DefaultConnection".to_owned();
    let saw = site.inside("cms", &[Ask::Sql { variable, statements: vec![statement.to_owned()] }]).await?;
    match saw.into_iter().next() {
        Some(Saw::Sql(mut all)) if all.len() == 1 => Ok(all.remove(0)),
        saw => Err(Miss::Failed(format!("{statement}: {saw:?}"))),
    }
}

/// What the centre's mapping says of an address: name, region, whether it stands.
async fn mapped(centre: &Site, email: &str) -> Result<Vec<Vec<String>>, Miss> {
    sql(centre, &format!(r#"SELECT "Name", "Region", "IsActive"::text FROM "Members" WHERE "Email" = '{email}'"#)).await
}

async fn mapped_as(centre: &Site, email: &str, expected: &[&str]) -> Result<(), Miss> {
    until("the centre's mapping", async || {
        let found = mapped(centre, email).await?;
        must!(found.first().is_some_and(|row| row == expected), "{email} is {found:?}, not {expected:?}");
        Ok(())
    })
    .await
}

/// Somebody who administers a region.
async fn admin(region: &Site) -> Result<Browser, Miss> {
    let mut ada = region.person(&["admin"]).await?;
    ada.way_in = HERE.to_owned();
    ada.sign_in().await?;
    Ok(ada)
}

/// Somebody new with an account at the centre, whom a region has added as staff; not signed in.
async fn belongs(centre: &Site, region: &Site, ada: &mut Browser) -> Result<(Browser, String), Miss> {
    let mut person = centre.person(&[]).await?;
    person.knows(region)?;
    let name = format!("Person {}", &person.id[..6.min(person.id.len())]);
    let new = json!({ "email": person.email, "name": name, "roles": ["staff", "auditor"] });
    let made = ada.api("POST", "/api/v1/users", &new).await?;
    must!(made.status == 201, "{} adds a person with {}: {}", region.stamp, made.status, made.text);
    let id = made.json()?["id"].to_string();
    mapped_as(centre, &person.email, &[&name, &region.stamp, "true"]).await?;
    Ok((person, id))
}

/// Signs in at the centre; must land in the region.
async fn enter(person: &mut Browser, region: &Site) -> Result<(), Miss> {
    let (page, at) = person.try_sign_in_own().await?;
    let edge = region.url("edge")?;
    must!(
        page.status == 200 && host(at.as_str()) == host(&edge),
        "the sign-in ends at {at} with {}, not in {}",
        page.status,
        region.stamp
    );
    person.moves(&edge);
    let me = person.get("/api/v1/me").await?;
    must!(me.status == 200 && me.json()?["region"] == *region.stamp, "in {}: {} {}", region.stamp, me.status, me.text);
    person.csrf = me.json()?["csrfToken"].as_str().unwrap_or_default().to_owned();
    Ok(())
}

/// Writes a plan in the region and reads it back.
async fn works(person: &mut Browser, mark: &str) -> Result<(), Miss> {
    let new = json!({ "title": format!("Plan {mark}"), "description": mark, "ward": "ICU" });
    let made: Page = person.api("POST", "/api/v1/qips", &new).await?;
    must!(made.status == 201, "a plan is answered {}: {}", made.status, made.text);
    let read = person.get("/api/v1/qips").await?;
    must!(read.status == 200 && read.text.contains(mark), "plans are answered {} without {mark}", read.status);
    Ok(())
}

fn mark() -> String {
    format!("mark{}", uuid::Uuid::new_v4().simple())
}

/// `one_centre(CENTRE, REGION...)`: one stamp alone is configured as the centre and answers as one.
pub async fn one_centre(lab: &Lab, _: &str, c: &Call) -> Seen {
    let regions: Vec<&str> = c.arguments.iter().skip(1).map(String::as_str).collect();
    let sites = all(lab, &regions).await?;
    let mut told = Vec::new();
    for (stamp, site) in &sites {
        let pid = site.pids("service.cms").get(1).copied().unwrap_or_default();
        let environment = std::fs::read_to_string(format!("/proc/{pid}/environ"))?;
        let role = environment.split('\0').find_map(|e| e.strip_prefix("MEG_ROLE=")).unwrap_or("none").to_owned();
        // What carries user records up ends at the centre; elsewhere there is nothing to call.
        let body = Some(("application/jwt", "x".into()));
        let answer = site.client(&site.url("edge")?)?.send("POST", "/link/users", body).await?.status.as_u16();
        let central = stamp == c.argument(0, CENTRE);
        must!((role == "centre") == central, "the role of {stamp} is {role}");
        must!((answer == 404) != central, "{stamp} answers {answer} to who brings records");
        told.push(format!("{stamp}: {role}, {answer} to records without a key"));
    }
    Ok(told.join("; "))
}

/// `mapping(REGION...)`: the centre knows each person of the regions once; regions have no such table.
pub async fn mapping(lab: &Lab, _: &str, c: &Call) -> Seen {
    let regions: Vec<&str> = c.arguments.iter().map(String::as_str).collect();
    let sites = all(lab, &regions).await?;
    let centre = &sites[CENTRE];
    for region in &regions {
        let mut ada = admin(&sites[*region]).await?;
        belongs(centre, &sites[*region], &mut ada).await?;
        let tables = sql(&sites[*region], "SELECT count(*)::text FROM pg_class WHERE relname = 'Members'").await?;
        must!(tables == [["0"]], "{region} has a mapping of its own");
    }
    let twice = r#"SELECT "Email" FROM "Members" GROUP BY 1 HAVING count(DISTINCT "Region") <> 1"#;
    let twice = sql(centre, twice).await?;
    must!(twice.is_empty(), "without exactly one region: {twice:?}");
    let counts = sql(centre, r#"SELECT "Region", count(*)::text FROM "Members" GROUP BY 1 ORDER BY 1"#).await?;
    let named: Vec<&str> = counts.iter().map(|row| row[0].as_str()).collect();
    must!(regions.iter().all(|r| named.contains(r)), "the mapping knows {named:?}");
    Ok(format!("{counts:?} at the centre, each with one region; no such table in {}", regions.join(", ")))
}

/// `redirected(REGION...)`: whoever signs in at the centre is led to the region that they belong to, and works there. The way is
/// looked at: the first request with a password is the centre's, its answer leads to the region, all after that go there.
pub async fn redirected(lab: &Lab, _: &str, c: &Call) -> Seen {
    let regions: Vec<&str> = c.arguments.iter().map(String::as_str).collect();
    let sites = all(lab, &regions).await?;
    let centre = &sites[CENTRE];
    let mut told = Vec::new();
    for region in &regions {
        let site = &sites[*region];
        let (eu, own) = (host(&centre.url("edge")?), host(&site.url("edge")?));
        let mut ada = admin(site).await?;
        let (mut person, _) = belongs(centre, site, &mut ada).await?;
        enter(&mut person, site).await?;
        let visits = std::mem::take(&mut person.visits);
        let first = visits.iter().find(|v| v.cookie && (host(&v.url) == eu || host(&v.url) == own));
        must!(first.is_some_and(|v| host(&v.url) == eu), "the first request with a session is {first:?}");
        let led = visits.iter().find(|v| host(&v.url) == eu && host(&v.location) == own);
        let Some(led) = led else { miss!("no answer of the centre leads to {region}: {visits:?}") };
        works(&mut person, &mark()).await?;
        let strays: Vec<&str> = person.visits.iter().map(|v| v.url.as_str()).filter(|url| host(url) != own).collect();
        must!(strays.is_empty() && person.visits.len() >= 2, "data was asked of {strays:?}");
        told.push(format!("{}: {} leads to {own}; {} data calls there", region, led.url, person.visits.len()));
    }
    Ok(told.join("; "))
}

/// `handed_down(REGION)`: the region takes what the centre issued, and nothing that it did not.
pub async fn handed_down(lab: &Lab, _: &str, c: &Call) -> Seen {
    let region = c.argument(0, "uk");
    let sites = all(lab, &[region]).await?;
    let (centre, site) = (&sites[CENTRE], &sites[region]);
    let mut ada = admin(site).await?;
    let (mut person, _) = belongs(centre, site, &mut ada).await?;
    enter(&mut person, site).await?;
    let taken = person.visits.iter().find(|v| v.url.contains("/enter?ticket=")).map(|v| v.url.clone());
    let Some(taken) = taken else { miss!("nobody brought a ticket to {region}") };
    // Another browser on its way in brings what it has: a ticket that was used, one changed, one with nobody's signature.
    let mut other = Browser::stranger(site)?;
    other.knows(centre)?;
    let begun = other.get("/sign-in").await?;
    must!(begun.status == 303, "{region} begins a sign-in with {}", begun.status);
    let (base, ticket) = taken.split_once("ticket=").unwrap_or_default();
    let mut parts: Vec<&str> = ticket.split('.').collect();
    let unsigned = parts.pop().map(|_| format!("{}.", parts.join("."))).unwrap_or_default();
    let mut statuses = Vec::new();
    for ticket in [ticket.to_owned(), format!("{ticket}x"), unsigned, "forged".to_owned()] {
        statuses.push(other.get(&format!("{base}ticket={ticket}")).await?.status);
    }
    let me = other.get("/api/v1/me").await?.status;
    must!(statuses == [400; 4] && me == 401, "tickets of others are answered {statuses:?}, and then {me}");
    Ok(format!(
        "{region} lets in whom the centre sent; the same ticket from another browser, changed, unsigned, made up: {statuses:?}"
    ))
}

/// `synchronised(REGION)`: what becomes of a person in the region is known at the centre; nothing comes down by this way.
pub async fn synchronised(lab: &Lab, _: &str, c: &Call) -> Seen {
    let region = c.argument(0, "uk");
    let sites = all(lab, &[region]).await?;
    let (centre, site) = (&sites[CENTRE], &sites[region]);
    let mut ada = admin(site).await?;
    let (mut person, id) = belongs(centre, site, &mut ada).await?;
    enter(&mut person, site).await?;
    let path = format!("/api/v1/users/{id}");
    for (name, active) in [("Renamed Person", true), ("Renamed Person", false)] {
        let change = json!({ "name": name, "roles": ["staff"], "isActive": active });
        let answer = ada.api("PUT", &path, &change).await?;
        must!(answer.status == 200, "a change is answered {}: {}", answer.status, answer.text);
        mapped_as(centre, &person.email, &[name, region, if active { "true" } else { "false" }]).await?;
    }
    let only = format!("only-{}@example.com", &mark()[..12]);
    let statement = format!(
        r#"INSERT INTO "Members" ("Email", "Name", "Region", "Sequence") VALUES ('{only}', 'Only Here', '{region}', 0) RETURNING "Email""#
    );
    sql(centre, &statement).await?;
    // Something that does go over the link after it.
    belongs(centre, site, &mut ada).await?;
    let there = sql(site, &format!(r#"SELECT count(*)::text FROM "Users" WHERE "Email" = '{only}'"#)).await?;
    must!(there == [["0"]], "somebody of the centre's mapping alone is known in {region}");
    Ok(format!(
        "made, renamed and withdrawn in {region}: the centre says each; {only}, of the centre alone, is not in {region}"
    ))
}

/// `region_alone(REGION, OTHER)`: with OTHER stopped people of the region sign in and work; `centre`: the centre is stopped once they
/// have signed in.
pub async fn alone(lab: &Lab, _: &str, c: &Call) -> Seen {
    let (region, other) = (c.argument(0, "uk"), c.argument(1, CENTRE));
    let sites = all(lab, &[region]).await?;
    let (centre, site) = (&sites[CENTRE], &sites[region]);
    lab.site(other).await?;
    let mut ada = admin(site).await?;
    let (mut person, _) = belongs(centre, site, &mut ada).await?;
    if other == CENTRE {
        enter(&mut person, site).await?;
    }
    lab.down(other).await?;
    let seen = async {
        if other != CENTRE {
            enter(&mut person, site).await?;
        }
        let text = mark();
        works(&mut person, &text).await?;
        let rows = sql(site, &format!(r#"SELECT count(*)::text FROM "Qips" WHERE "Description" = '{text}'"#)).await?;
        must!(rows == [["1"]], "the database of {region} has {rows:?}");
        Ok(())
    }
    .await;
    let shares = site.places.contains_key("share.media") && site.places.contains_key(&site.first("postgres")?);
    lab.restore(other).await?;
    seen?;
    must!(shares, "{region} has no database and share of its own");
    Ok(format!("with {other} stopped somebody of {region} wrote a plan and read it, in its own database"))
}

/// `data_stays(REGION, OTHER...)`: what is written in the region lies in no file of the other stamps.
pub async fn data_stays(lab: &Lab, _: &str, c: &Call) -> Seen {
    let region = c.argument(0, "uae");
    let others: Vec<&str> = c.arguments.iter().skip(1).map(String::as_str).collect();
    let regions: Vec<&str> = others.iter().copied().filter(|s| *s != CENTRE).chain([region]).collect();
    let sites = all(lab, &regions).await?;
    let (centre, site) = (&sites[CENTRE], &sites[region]);
    let mut ada = admin(site).await?;
    let (mut person, _) = belongs(centre, site, &mut ada).await?;
    enter(&mut person, site).await?;
    let text = mark();
    works(&mut person, &text).await?;
    let headers = BTreeMap::new();
    let file = format!("%PDF-1.7 {text}");
    let sent =
        person.send_with("POST", "/api/v1/media?kind=documents", "application/pdf", Some(file), &headers).await?;
    must!(sent.status == 201, "a document is answered {}: {}", sent.status, sent.text);
    super::story::run_job(site, "job.backup").await?;
    let own = files_with(&folder(site)?, text.as_bytes());
    // Database or its log, share, backup: else the search would prove nothing.
    must!(own.len() >= 3, "in {region} itself the mark lies in {own:?} only");
    // Logs, traces and records go out in their own time.
    until("the data calls are in the telemetry", async || {
        let rows = site.query("SELECT count(*) FROM requests WHERE name LIKE '%media%'").await?;
        must!(rows[0][0] != 0, "they are not");
        Ok(())
    })
    .await?;
    for other in &others {
        let found = files_with(&folder(&sites[*other])?, text.as_bytes());
        must!(found.is_empty(), "what was written in {region} lies in {found:?}");
    }
    Ok(format!(
        "a plan, a document and a backup in {} files of {region}, in none of {}",
        own.len(),
        others.join(" and ")
    ))
}
