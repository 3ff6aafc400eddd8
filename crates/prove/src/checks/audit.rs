//! The record of who did what.

use api::audit::{Event, Outcome};
use serde_json::json;

use crate::{
    Lab, Miss, Seen, Site,
    claim::Call,
    inside::{Ask, Saw},
    miss, must,
    site::until,
};

const DAY_MS: i64 = 86_400_000;

async fn found(site: &Site, actor: &str, what: &str, fits: impl Fn(&Event) -> bool) -> Result<Event, Miss> {
    until(what, async || {
        let events = site.audited(actor).await?;
        let found = events.iter().find(|e| fits(e)).cloned();
        found.ok_or_else(|| Miss::Failed(format!("none among {} records of {actor}", events.len())))
    })
    .await
}

/// `secret_access_audited(SERVICE, READABLE SECRET, OTHER SECRET)`.
pub async fn secret_access(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let (workload, mine, other) = (format!("service.{}", c.argument(0, "web")), c.argument(1, ""), c.argument(2, ""));
    let begun = jiff::Timestamp::now().as_millisecond() - 1_000;
    let client = site.vault(&workload).await?;
    let read = client.send("GET", &format!("/secrets/{mine}?api-version=7.4"), None).await?.status.as_u16();
    let refused = client.send("GET", &format!("/secrets/{other}?api-version=7.4"), None).await?.status.as_u16();
    let name = format!("Check-{}", uuid::Uuid::new_v4().simple());
    let body = ("application/json", json!({ "value": "v" }).to_string().into());
    let operator = site.vault("supervisor").await?;
    let written = operator.send("PUT", &format!("/secrets/{name}?api-version=7.4"), Some(body)).await?;
    let statuses = [read, refused, written.status.as_u16()];
    must!(statuses == [200, 403, 200], "a read, a refused read and a write answer {statuses:?}");
    let mut told = Vec::new();
    for (actor, object, outcome) in [
        (workload.as_str(), mine, Outcome::Ok),
        (workload.as_str(), other, Outcome::Denied),
        ("supervisor", name.as_str(), Outcome::Ok),
    ] {
        let fits = |e: &Event| e.time_ms >= begun && e.object.contains(object) && e.outcome == outcome;
        let event = found(&site, actor, &format!("a record of {object}"), fits).await?;
        told.push(format!("{} {} {} {:?}", event.actor, event.action, event.object, event.outcome));
    }
    Ok(told.join("; "))
}

/// `sign_in_audited(GROUP, GROUP)`: of somebody, and another that they are given.
pub async fn sign_in(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let groups = [c.argument(0, "user"), c.argument(1, "manager")];
    let mut person = site.person(&groups[..1]).await?;
    let begun = jiff::Timestamp::now().as_millisecond() - 1_000;
    person.try_sign_in("not the password").await?;
    let of_person = |e: &Event| e.time_ms >= begun && e.object.ends_with(&format!("/{}", person.id));
    let failed = |e: &Event| of_person(e) && e.action == "session.start" && e.outcome == Outcome::Denied;
    let failed = found(&site, "anonymous", "a record of the failed sign-in", failed).await?;
    let api::supervisor::StampRef { system, stamp } = site.of();
    let groups = groups.map(str::to_owned).to_vec();
    let ask = api::supervisor::UserRequest { system, stamp, email: person.email.clone(), name: "Check".into(), groups };
    let _: api::identity::UserAnswer = site.supervisor.post("/user", &ask).await?;
    let changed = |e: &Event| of_person(e) && e.outcome == Outcome::Ok && e.action.starts_with("person.");
    let changed = found(&site, "supervisor", "a record of the changed role", changed).await?;
    let words = |e: &Event| format!("{} {} {} {:?}", e.actor, e.action, e.object, e.outcome);
    Ok(format!("{}; {}", words(&failed), words(&changed)))
}

/// `query_audited(SERVICE, VARIABLE)`.
pub async fn query(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let mark = format!("mark_{}", uuid::Uuid::new_v4().simple());
    let ask = Ask::Sql {
        variable: c.argument(1, "").into(),
        statements: vec!["SELECT current_user".into(), format!("SELECT 1 AS {mark}")],
    };
    let saw = site.inside(c.argument(0, "web"), &[ask]).await?;
    let Some(Saw::Sql(rows)) = saw.first() else { miss!("{saw:?}") };
    let role = rows[0][0][0].clone();
    let sql = format!("SELECT body, source FROM logs WHERE source LIKE 'postgres.%' AND body LIKE '%{mark}%'");
    let rows = site.query_until("the query is in the record", &sql, |rows| !rows.is_empty()).await?;
    let body = rows[0][0].as_str().unwrap_or_default();
    must!(body.contains(&role), "the record does not say that {role} ran it: {body}");
    Ok(format!("{}: {body}", rows[0][1].as_str().unwrap_or_default()))
}

/// `audit_kept(DAYS)`.
pub async fn kept(lab: &Lab, on: &str, c: &Call) -> Seen {
    let days: i64 = c.argument(0, "90").parse()?;
    let site = lab.site(on).await?;
    let name = format!("Check-{}", uuid::Uuid::new_v4().simple());
    let body = ("application/json", json!({ "value": "v" }).to_string().into());
    let operator = site.vault("supervisor").await?;
    operator.send("PUT", &format!("/secrets/{name}?api-version=7.4"), Some(body)).await?;
    let of = |e: &Event| e.object.contains(&name);
    found(&site, "supervisor", "the record", of).await?;
    let later = async {
        let site = lab.at(on, (days - 1) * DAY_MS).await?;
        found(&site, "supervisor", &format!("the record on day {}", days - 1), of).await?;
        let site = lab.at(on, (days + 1) * DAY_MS).await?;
        until(&format!("the record is gone on day {}", days + 1), async || {
            let events = site.audited("supervisor").await?;
            must!(!events.iter().any(of), "it is still there, among {}", events.len());
            Ok(())
        })
        .await?;
        Ok(format!("there on day {}, gone on day {}", days - 1, days + 1))
    }
    .await;
    lab.restore(on).await?;
    later
}

/// `admin_acts_recorded(SERVICE)`: an act of each kind that the supervisor carries out for people.
pub async fn admin_acts(lab: &Lab, on: &str, c: &Call) -> Seen {
    let service = c.argument(0, "web");
    let begun = jiff::Timestamp::now().as_millisecond() - 1_000;
    let site = lab.restore(on).await?;
    let api::supervisor::StampRef { system, stamp } = site.of();
    let name = format!("Check-{}", uuid::Uuid::new_v4().simple());
    let vault = site.first("vault")?;
    let secret = json!({ "system": system, "stamp": stamp, "vault": vault, "name": name, "value": name });
    site.supervisor.post::<_, serde_json::Value>("/secret", &secret).await?;
    let person = site.person(&["user"]).await?;
    site.inside(service, &[Ask::Environment { names: Vec::new() }]).await?;
    site.token(&format!("service.{service}"), "https://vault.azure.net").await?;
    // What the roles did for it is theirs to tell, and comes to the record that people read.
    let of_person = |e: &Event| e.time_ms >= begun && e.object.ends_with(&format!("/{}", person.id));
    let by_identity = found(&site, "supervisor", "the directory's record of the new person", of_person).await?;
    let of_secret = |e: &Event| e.time_ms >= begun && e.object.contains(&name);
    let by_vault = found(&site, "supervisor", "the vault's record of the new secret", of_secret).await?;
    lab.down(on).await?;
    let site = lab.restore(on).await?;
    let records: Vec<api::audit::Record> =
        site.supervisor.get(&format!("/acts?system={system}&stamp={stamp}&limit=500")).await?;
    let events = records.iter().map(|r| serde_json::from_str(&r.event)).collect::<Result<Vec<Event>, _>>()?;
    let object = format!("{system}/{stamp}");
    let kinds = [
        ("stamp.up", "manifest", None),
        ("stamp.down", "", None),
        ("stamp.secret", "name", Some(name.as_str())),
        ("stamp.user", "email", Some(person.email.as_str())),
        ("stamp.exec", "service", Some(service)),
        ("stamp.token", "workload", None),
    ];
    for (action, key, value) in kinds {
        let fits = |e: &&Event| {
            let detail = e.detail.get(key).and_then(serde_json::Value::as_str);
            e.action == action
                && e.object == object
                && e.actor.starts_with("os:")
                && e.time_ms >= begun
                && (key.is_empty() || detail.is_some())
                && value.is_none_or(|value| detail == Some(value))
        };
        must!(events.iter().any(|e| fits(&e)), "{action} left no record among {}", events.len());
    }
    let text = serde_json::to_string(&records)?;
    // The secret's name is its value here: it may stand there once a record, and no more.
    let named = text.matches(&name).count();
    must!(named == 1, "the value of the secret stands in the record");
    let who = events.first().map(|e| e.actor.clone()).unwrap_or_default();
    Ok(format!(
        "{} kinds of acts by {who}, each with actor, action, target and time; no secret among them; of the roles {} and {}",
        kinds.len(),
        by_identity.action,
        by_vault.action
    ))
}
