//! Ways through the stamp's network that are open to some, at times, or not yet; and what is said of one that is shut.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use api::supervisor::{LinkRequest, NetworkStatus, StampRef, Status};
use drivers::network::namespace;

use super::network::{block, from_outside, holds, of, people, place, tries};
use crate::{
    Lab, Miss, Seen, Site,
    claim::Call,
    inside::{Ask, Saw},
    miss, must,
    site::{until, until_in},
};

/// A job that migrates waits for its database at least so long.
const JOB: Duration = Duration::from_secs(60);
/// Between two tries while a job runs, which takes some hundred milliseconds.
const AGAIN: Duration = Duration::from_millis(4);

/// `service_endpoints(SERVICE, WORKLOAD OF ANOTHER SUBNET, VAULT, SECRET)`.
pub async fn service_endpoints(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    of(&site).await?;
    let (service, other, vault) = (c.argument(0, ""), c.argument(1, ""), c.argument(2, ""));
    let (here, there) = (place(&site, service)?, place(&site, other)?);
    must!(here.subnet != there.subnet, "{service} and {other} are in one subnet");
    let ask = Ask::Http {
        method: "GET".into(),
        url: format!("{}/secrets/{}?api-version=7.4", site.url(vault)?, c.argument(3, "")),
        resource: Some("https://vault.azure.net".into()),
        body: None,
        headers: Default::default(),
        told: false,
    };
    let saw = site.inside(service.trim_start_matches("service."), &[ask]).await?;
    let Some(Saw::Http { status: 200, .. }) = saw.first() else {
        miss!("from `{}` the vault says {saw:?}", here.subnet)
    };
    let at = site.address(vault)?;
    let Err(refused) = tries(&there, at).await? else { miss!("from `{}` {at} answers", there.subnet) };
    Ok(format!("from `{}` {vault} answers 200; from `{}` ({other}): {refused}", here.subnet, there.subnet))
}

/// `reserved_subnet(SUBNET, BLOCK, VAULT, SERVICE)`.
pub async fn reserved_subnet(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let network = of(&site).await?;
    let (subnet, wanted) = (c.argument(0, ""), block(c.argument(1, ""))?);
    let (vault, service) = (c.argument(2, ""), c.argument(3, ""));
    must!(network.subnets.get(subnet).is_some_and(|b| block(b).is_ok_and(|b| b == wanted)), "{:?}", network.subnets);
    let there: Vec<_> = network.places.iter().filter(|(_, p)| holds(wanted, p.address)).map(|(w, _)| w).collect();
    must!(there.is_empty(), "{there:?} are in `{subnet}`");
    let before = site.address(vault)?;
    let changed = lab.changed(on, &format!("[{vault}]\nsubnet = \"{subnet}\"\n")).await;
    let seen = async {
        let site = changed?;
        let endpoint = site.address(vault)?;
        must!(matches!(endpoint.ip(), IpAddr::V4(ip) if holds(wanted, ip)), "the endpoint is at {endpoint}");
        let from = place(&site, service)?;
        must!(tries(&from, endpoint).await?.is_ok(), "{service} does not reach {endpoint}");
        let ask = Ask::Http {
            method: "GET".into(),
            url: format!("{}/secrets?api-version=7.4", site.url(vault)?),
            resource: None,
            body: None, headers: Default::default(), told: false,
        };
        let saw = site.inside(service.trim_start_matches("service."), &[ask]).await?;
        // Who shows no token is answered 401: by the vault, under its name, with its certificate.
        must!(matches!(saw.first(), Some(Saw::Http { status: 401, .. })), "by its name the vault says {saw:?}");
        let Err(gone) = tries(&from, before).await? else { miss!("{before} still answers") };
        let [a, b, d] = people(&site)?;
        let mut entries = vec![site.address("edge")?, site.address(&site.first("identity")?)?];
        if let Ok(registry) = site.first("registry") {
            entries.push(site.address(&registry)?);
        }
        let outer = (1..=254).map(|host| Ipv4Addr::new(a, b, d, host));
        let outer: Vec<_> = outer.filter(|ip| !entries.contains(&SocketAddr::from((*ip, endpoint.port())))).collect();
        if let Some(at) = from_outside(&outer, endpoint.port()).await? {
            miss!("{at} answers outside the network");
        }
        Ok(format!(
            "`{subnet}` ({wanted}) was empty; put there, {vault} answers at {endpoint}, where it was ({before}): {gone}, and not outside"
        ))
    }
    .await;
    lab.restore(on).await?;
    seen
}

async fn link(site: &Site, one: &str, other: &str, loses: u32) -> Result<(), Miss> {
    let StampRef { system, stamp } = site.of();
    let ask = LinkRequest { system, stamp, one: one.into(), other: other.into(), loses, kib_s: 0 };
    site.supervisor.post::<_, NetworkStatus>("/network", &ask).await.map(drop).map_err(Miss::from)
}

async fn status(site: &Site) -> Result<Status, Miss> {
    let StampRef { system, stamp } = site.of();
    Ok(site.supervisor.get(&format!("/status?system={system}&stamp={stamp}")).await?)
}

/// `rule_is_named(SERVICE, DATABASE)`.
pub async fn rule_is_named(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    of(&site).await?;
    let (service, database) = (c.argument(0, ""), c.argument(1, ""));
    let (from, to) = (place(&site, service)?, site.address(database)?);
    let health = async || Ok::<_, Miss>(site.client(&site.url("edge")?)?.send("GET", "/health", None).await?.status);
    must!(health().await?.is_success(), "the application is ill before");
    link(&site, service, database, 100).await?;
    let seen = async {
        let begun = Instant::now();
        let Err(why) = tries(&from, to).await? else { miss!("over a link that is cut {service} reaches {database}") };
        let waited = begun.elapsed();
        must!(
            waited > Duration::from_secs(1),
            "the connection did not time out: {why} after {} ms",
            waited.as_millis()
        );
        let ill = until("the application is ill", async || {
            let status = health().await?;
            must!(!status.is_success(), "it answers {status}");
            Ok(status)
        })
        .await?;
        let note = until("the status names the rule", async || {
            let all = status(&site).await?;
            let note = all.resources.iter().find(|r| r.name == service).map(|r| r.note.clone()).unwrap_or_default();
            let named = note.contains(database) && note.contains("is cut") && note.contains("stamp network");
            must!(named, "of {service} it says `{note}`");
            Ok(note)
        })
        .await?;
        Ok((waited, ill, note))
    }
    .await;
    link(&site, service, database, 0).await?;
    let begun = Instant::now();
    let well = until_in("the application is well again", Duration::from_secs(90), async || {
        let status = health().await?;
        must!(status.is_success(), "it answers {status}");
        let all = self::status(&site).await?;
        let note = all.resources.iter().find(|r| r.name == service).map(|r| r.note.clone()).unwrap_or_default();
        must!(!note.contains("is cut"), "of {service} the status still says `{note}`");
        Ok(begun.elapsed())
    })
    .await;
    lab.restore(on).await?;
    let ((waited, ill, note), well) = (seen?, well?);
    Ok(format!(
        "cut: no connection within {} ms, /health {ill}; the status of {service}: {note}; healed: well after {} ms",
        waited.as_millis(),
        well.as_millis()
    ))
}

/// `only_while_migrating(SERVICE, DATABASE)`.
pub async fn only_while_migrating(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let network = of(&site).await?;
    let (service, database) = (c.argument(0, ""), c.argument(1, ""));
    let job = format!("{service}.migrate");
    let from = network.places.get(&job).cloned();
    let from = from.ok_or_else(|| Miss::Failed(format!("{job} has no place in the network")))?;
    let to = site.address(database)?;
    let Err(before) = tries(&from, to).await? else { miss!("{job} reaches {database} while nothing migrates") };
    // Tried again and again for as long as the job may take.
    let (path, end) = (from.namespace.clone(), std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let ended = end.clone();
    let trying = tokio::task::spawn_blocking(move || {
        let (begun, mut taken) = (Instant::now(), 0_u32);
        while !ended.load(std::sync::atomic::Ordering::Relaxed) && begun.elapsed() < JOB {
            taken += u32::from(namespace::connect(&path, to).is_ok());
            std::thread::sleep(AGAIN);
        }
        taken
    });
    // Another setting of the job is another job: it runs anew. It changes nothing in the database that is up to date.
    let changed = lab.changed(on, &format!("[{service}.migrate.env]\nMIGRATION_NOTE = \"again\"\n")).await;
    end.store(true, std::sync::atomic::Ordering::Relaxed);
    let taken = trying.await.map_err(|e| Miss::Failed(e.to_string()))?;
    let after = tries(&from, to).await;
    lab.restore(on).await?;
    changed?;
    must!(taken > 0, "no connection from {job} was taken while the migration ran");
    let Err(after) = after? else { miss!("{job} reaches {database} after the migration") };
    let Err(again) = tries(&from, to).await? else { miss!("{job} reaches {database} after another migration") };
    Ok(format!(
        "from {}: {before}; while it migrated {taken} connections were taken; after: {after}, {again}",
        from.address
    ))
}
