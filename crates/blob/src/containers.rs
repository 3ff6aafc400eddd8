//! Containers: made, looked at, deleted; and what is known of the account.

use api::blob::PublicRead;
use axum::{http::StatusCode, response::Response};

use crate::{
    act::Request,
    answers,
    conditions::Conditions,
    fields,
    refusal::Refusal,
    rows::{self, ContainerFacts},
    sas::{DELEGATED_SECONDS, Delegation},
    time, xml,
};

/// Entries of a page, as on Azure.
const PAGE: usize = 5000;

/// Create Container.
pub async fn create(request: &Request<'_>) -> Result<Response, Refusal> {
    if request.headers.contains_key("x-ms-blob-public-access") {
        let message = "who may read a container without credentials is declared in system.toml (`public`)";
        return Err(Refusal::conflict("PublicAccessNotPermitted", message));
    }
    let (name, metadata, event) = (request.container(), fields::metadata(request.headers)?, request.event());
    let done = request.store.blocking(move |store| {
        store.change(Some(event), |change| {
            if rows::container(change.db, &name)?.is_some() {
                return Err(Refusal::conflict(
                    "ContainerAlreadyExists",
                    format!("there is a container `{name}` already"),
                ));
            }
            let etag = change.tick().etag();
            let facts = ContainerFacts { etag, modified_us: change.now_us, metadata, ..ContainerFacts::default() };
            rows::set_container(change.db, &name, &facts)?;
            Ok(facts)
        })
    });
    let facts = done.await?;
    let mut response = answers::empty(StatusCode::CREATED);
    answers::state(response.headers_mut(), &facts.etag, facts.modified_us);
    Ok(response)
}

/// Get Container Properties and Metadata; Get Container ACL, whose list of stored policies is empty.
pub async fn look(request: &Request<'_>, access: bool) -> Result<Response, Refusal> {
    let (name, event, conditions) = (request.container(), request.event(), Conditions::read(request.headers)?);
    let found = request.store.blocking(move |store| {
        let facts = rows::container(&store.db(), &name)?.ok_or_else(|| Refusal::no_container(&name))?;
        facts.lease.check_named(conditions.lease.as_deref(), store.clock.now_us(), "container")?;
        store.spool.append_blocking(event)?;
        Ok(facts)
    });
    let facts = found.await?;
    let mut response = match access {
        true => answers::xml(format!("{}<SignedIdentifiers />", xml::HEAD)),
        false => answers::empty(StatusCode::OK),
    };
    let headers = response.headers_mut();
    answers::state(headers, &facts.etag, facts.modified_us);
    answers::lease(headers, &facts.lease, request.store.clock.now_us());
    for (name, value) in &facts.metadata {
        answers::set(headers, &format!("x-ms-meta-{name}"), value);
    }
    let declared = request.settings.container(&request.container());
    match declared.public {
        PublicRead::None => {}
        PublicRead::Blob => answers::set(headers, "x-ms-blob-public-access", "blob"),
        PublicRead::Container => answers::set(headers, "x-ms-blob-public-access", "container"),
    }
    let immutable = if declared.immutable_seconds.is_some() { "true" } else { "false" };
    answers::set(headers, "x-ms-has-immutability-policy", immutable);
    answers::set(headers, "x-ms-has-legal-hold", "false");
    Ok(response)
}

/// Set Container Metadata.
pub async fn set_metadata(request: &Request<'_>) -> Result<Response, Refusal> {
    let (name, metadata, event) = (request.container(), fields::metadata(request.headers)?, request.event());
    let conditions = Conditions::read(request.headers)?;
    let done = request.store.blocking(move |store| {
        store.change(Some(event), |change| {
            let mut facts = change.container(&name)?;
            facts.lease.check_named(conditions.lease.as_deref(), change.now_us, "container")?;
            conditions.check_read(&facts.etag, facts.modified_us).map_err(|_| Refusal::condition())?;
            facts.etag = change.tick().etag();
            facts.modified_us = change.now_us;
            facts.metadata = metadata;
            rows::set_container(change.db, &name, &facts)?;
            Ok(facts)
        })
    });
    let facts = done.await?;
    let mut response = answers::empty(StatusCode::OK);
    answers::state(response.headers_mut(), &facts.etag, facts.modified_us);
    Ok(response)
}

/// Delete Container, with all that is in it. One that is declared stays.
pub async fn delete(request: &Request<'_>) -> Result<Response, Refusal> {
    let (name, event, conditions) = (request.container(), request.event(), Conditions::read(request.headers)?);
    let done = request.store.blocking(move |store| {
        store.change(Some(event), |change| {
            let facts = change.container(&name)?;
            facts.lease.check_change(conditions.lease.as_deref(), change.now_us, "container")?;
            conditions.check_read(&facts.etag, facts.modified_us).map_err(|_| Refusal::condition())?;
            if change.settings.config.containers.contains_key(&name) {
                let message = format!("the container `{name}` is declared in system.toml; take it away there first");
                return Err(Refusal::conflict("ContainerIsDeclared", message));
            }
            if let Some(until) = rows::protected_until(change.db, &name)?.filter(|until| *until > change.now_us) {
                return Err(Refusal::immutable(&time::http_date(until)));
            }
            change.gone(rows::remove_container(change.db, &name)?);
            Ok(())
        })
    });
    done.await?;
    Ok(answers::empty(StatusCode::ACCEPTED))
}

/// List Containers.
pub async fn list(request: &Request<'_>) -> Result<Response, Refusal> {
    let most = page(request.query.get("maxresults"))?;
    let (prefix, marker) =
        (request.query.get("prefix").unwrap_or_default(), request.query.get("marker").unwrap_or_default());
    let includes: Vec<String> =
        request.query.get("include").unwrap_or_default().split(',').map(str::to_owned).collect();
    let (asked, after, event) = (prefix.to_owned(), marker.to_owned(), request.event());
    let found = request.store.blocking(move |store| {
        // One more than asked for says whether there are more.
        let found = rows::containers(&store.db(), &asked, &after, most + 1)?;
        store.spool.append_blocking(event)?;
        Ok(found)
    });
    let mut found = found.await?;
    let more = found.len() > most;
    found.truncate(most);
    let now_us = request.store.clock.now_us();
    let endpoint = format!("https://{}/", request.settings.authority);
    let mut body = format!("{}<EnumerationResults ServiceEndpoint=\"{}\">", xml::HEAD, xml::escaped(&endpoint));
    for (name, value) in [("Prefix", prefix), ("Marker", marker)] {
        if !value.is_empty() {
            xml::element(&mut body, name, value);
        }
    }
    xml::element(&mut body, "MaxResults", &most.to_string());
    body.push_str("<Containers>");
    for (name, facts) in &found {
        body.push_str("<Container>");
        xml::element(&mut body, "Name", name);
        body.push_str("<Properties>");
        xml::element(&mut body, "Last-Modified", &time::http_date(facts.modified_us));
        xml::element(&mut body, "Etag", &answers::quoted(&facts.etag));
        let state = facts.lease.state(now_us);
        xml::element(&mut body, "LeaseStatus", if state.holds() { "locked" } else { "unlocked" });
        xml::element(&mut body, "LeaseState", state.word());
        let declared = request.settings.container(name);
        match declared.public {
            PublicRead::None => {}
            PublicRead::Blob => xml::element(&mut body, "PublicAccess", "blob"),
            PublicRead::Container => xml::element(&mut body, "PublicAccess", "container"),
        }
        let immutable = if declared.immutable_seconds.is_some() { "true" } else { "false" };
        xml::element(&mut body, "HasImmutabilityPolicy", immutable);
        xml::element(&mut body, "HasLegalHold", "false");
        body.push_str("</Properties>");
        if includes.iter().any(|i| i == "metadata") {
            metadata(&mut body, &facts.metadata);
        }
        body.push_str("</Container>");
    }
    body.push_str("</Containers>");
    let next = found.last().filter(|_| more).map(|(name, _)| name.as_str()).unwrap_or_default();
    xml::element(&mut body, "NextMarker", next);
    body.push_str("</EnumerationResults>");
    Ok(answers::xml(body))
}

/// The metadata of a container or a blob in a list.
pub fn metadata(body: &mut String, metadata: &std::collections::BTreeMap<String, String>) {
    body.push_str("<Metadata>");
    for (name, value) in metadata {
        xml::element(body, name, value);
    }
    body.push_str("</Metadata>");
}

/// How many entries a page has.
pub fn page(text: Option<&str>) -> Result<usize, Refusal> {
    match text.map(|text| text.parse::<usize>()) {
        None => Ok(PAGE),
        Some(Ok(most @ 1..)) => Ok(most.min(PAGE)),
        Some(_) => Err(Refusal::query("maxresults", "it is a number of entries from 1 on")),
    }
}

/// Get Account Information.
pub async fn account(request: &Request<'_>) -> Result<Response, Refusal> {
    request.store.spool.append(request.event()).await?;
    let mut response = answers::empty(StatusCode::OK);
    let headers = response.headers_mut();
    answers::set(headers, "x-ms-sku-name", "Standard_LRS");
    answers::set(headers, "x-ms-account-kind", "StorageV2");
    answers::set(headers, "x-ms-is-hns-enabled", "false");
    Ok(response)
}

/// Get Blob Service Properties: what is declared of the account.
pub async fn service_properties(request: &Request<'_>) -> Result<Response, Refusal> {
    request.store.spool.append(request.event()).await?;
    let off =
        "<Version>1.0</Version><Enabled>false</Enabled><RetentionPolicy><Enabled>false</Enabled></RetentionPolicy>";
    let days = request.settings.config.soft_delete_seconds.div_ceil(86_400);
    let soft = match days {
        0 => "<Enabled>false</Enabled>".to_owned(),
        days => format!("<Enabled>true</Enabled><Days>{days}</Days>"),
    };
    let logging = "<Version>1.0</Version><Delete>false</Delete><Read>false</Read><Write>false</Write><RetentionPolicy><Enabled>false</Enabled></RetentionPolicy>";
    Ok(answers::xml(format!(
        "{}<StorageServiceProperties><Logging>{logging}</Logging><HourMetrics>{off}</HourMetrics><MinuteMetrics>{off}</MinuteMetrics><Cors /><DeleteRetentionPolicy>{soft}</DeleteRetentionPolicy><StaticWebsite><Enabled>false</Enabled></StaticWebsite></StorageServiceProperties>",
        xml::HEAD
    )))
}

/// Get User Delegation Key: a key with which somebody signs in their own name.
pub async fn delegation_key(request: &Request<'_>, body: axum::body::Body) -> Result<Response, Refusal> {
    let crate::caller::Caller::Somebody(who) = request.caller else {
        return Err(Refusal::denied(request.actor, "signing in one's own name"));
    };
    // Of a person's groups nothing is known when the signature is used.
    if !who.groups.is_empty() {
        let message = "only workloads sign in their own name here: the groups of a person are not in a signature";
        return Err(Refusal::new(StatusCode::FORBIDDEN, "AuthorizationPermissionMismatch", message));
    }
    let bytes = axum::body::to_bytes(body, 4096).await.map_err(|_| Refusal::too_large("this body", 4096))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| Refusal::bad("InvalidXmlDocument", "the body is no text"))?;
    let wrong = |why: &str| Refusal::bad("InvalidXmlDocument", format!("the body is no KeyInfo: {why}"));
    let children = xml::children(text, "KeyInfo").map_err(wrong)?;
    let given = |name: &str| children.iter().find(|(known, _)| *known == name).map(|(_, text)| text.as_str());
    let (now_s, expiry) = (request.store.clock.now_s(), given("Expiry").and_then(time::of_sas));
    let start = given("Start").map_or(Some(now_s), time::of_sas);
    let (Some(start), Some(expiry)) = (start, expiry) else {
        return Err(wrong("Start and Expiry are times"));
    };
    if expiry <= now_s || expiry <= start || expiry - start.max(now_s) > DELEGATED_SECONDS {
        return Err(wrong("the key ends within seven days, and after it begins"));
    }
    let (start, expiry) = (time::iso(start * 1_000_000), time::iso(expiry * 1_000_000));
    let version = request.text("x-ms-version")?.unwrap_or("2020-12-06");
    let of =
        Delegation { subject: &who.subject, tenant: &request.store.tenant, start: &start, expiry: &expiry, version };
    let key = of.key(&request.store.root);
    request.store.spool.append(request.event()).await?;
    let mut body = format!("{}<UserDelegationKey>", xml::HEAD);
    for (name, value) in [
        ("SignedOid", of.subject),
        ("SignedTid", of.tenant),
        ("SignedStart", of.start),
        ("SignedExpiry", of.expiry),
        ("SignedService", "b"),
        ("SignedVersion", of.version),
        ("Value", key.expose()),
    ] {
        xml::element(&mut body, name, value);
    }
    body.push_str("</UserDelegationKey>");
    let mut response = answers::xml(body);
    answers::set(response.headers_mut(), "cache-control", "no-store");
    Ok(response)
}
