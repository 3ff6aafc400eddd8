//! Certificates run out.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::{
    Miss, Seen, Site,
    drill::Scene,
    inside::{Ask, Saw},
    must,
    tls::{self, Before},
};

/// Long enough for a supervisor that looks twice a second, short enough to see three of them.
const LIFE: Duration = Duration::from_secs(30);
const WATCHED: Duration = Duration::from_secs(90);
/// Where a service's front listens (docs/decisions/0015-tls-ends-at-the-shim.md).
const FRONT: u16 = 443;
const EVERY: Duration = Duration::from_secs(1);

pub async fn expiry(scene: &Scene<'_>) -> Seen {
    let failures = scene.load.tape().failures();
    scene.fault(format!("every certificate lives {} s from now on", LIFE.as_secs()));
    let site = scene.lab.with_certificates(scene.on, LIFE.as_secs()).await?;
    let service = site.system.services().next().map(|(id, _)| id.name.clone()).unwrap_or_default();
    let vault = site.url(&site.first("vault")?)?;
    // Those that show a certificate to whoever asks, and what is said to them before TLS begins.
    let mut doors = vec![("edge".to_owned(), Before::Nothing, site.way("edge")?)];
    for place in site.places.keys().filter(|place| place.starts_with("postgres.")) {
        doors.push((place.clone(), Before::Postgres, site.way(place)?));
    }
    for (id, _) in site.system.services().filter(|(_, service)| service.port.is_some()) {
        let mut way = site.way(&id.to_string())?;
        // In a closed network a service has a front, which shows its certificate before it asks for the edge's.
        if way.dial().is_some() {
            way.address.set_port(FRONT);
            doors.push((id.to_string(), Before::Nothing, way));
        }
    }
    let begun = Instant::now();
    let (mut shown, mut looks) = (BTreeMap::<String, BTreeSet<String>>::new(), 0);
    while begun.elapsed() < WATCHED {
        let at = Instant::now();
        for (door, before, way) in &doors {
            // A handshake that trusts the stamp's CA alone, and refuses what has run out.
            let leaf = tls::leaf(way, *before, &site.ca_pem).await.map_err(|miss| late(miss, begun))?;
            let shown = shown.entry(door.clone()).or_default();
            if shown.insert(leaf) && shown.len() > 1 {
                scene.say(format!("{door} shows its certificate number {}", shown.len()));
            }
        }
        inner(&site, &service, &vault).await.map_err(|miss| late(miss, begun))?;
        looks += 1;
        tokio::time::sleep(EVERY.saturating_sub(at.elapsed())).await;
    }
    for (door, shown) in &shown {
        must!(
            shown.len() >= 3,
            "{door} showed {} certificates in {} s, each of {} s",
            shown.len(),
            WATCHED.as_secs(),
            LIFE.as_secs()
        );
    }
    let now = scene.load.tape().failures();
    must!(now == failures, "{} requests failed while certificates were renewed", now - failures);
    Ok(format!(
        "{looks} looks at {} doors in {} s, all valid; each showed {} certificates or more",
        doors.len() + 1,
        WATCHED.as_secs(),
        shown.values().map(BTreeSet::len).min().unwrap_or_default()
    ))
}

fn late(miss: Miss, begun: Instant) -> Miss {
    match miss {
        Miss::Failed(why) => Miss::Failed(format!("after {:.0} s: {why}", begun.elapsed().as_secs_f64())),
        other => other,
    }
}

/// From a service's own place the vault's certificate is trusted; that it asks for a token is answer enough.
async fn inner(site: &Site, service: &str, vault: &str) -> Result<(), Miss> {
    let ask = Ask::Http {
        method: "GET".into(),
        url: format!("{vault}/secrets?api-version=7.4"),
        resource: None,
        body: None,
        headers: Default::default(),
        told: false,
    };
    match site.inside(service, &[ask]).await?.pop() {
        Some(Saw::Http { .. }) => Ok(()),
        other => Err(Miss::Failed(format!("the vault gave {other:?}"))),
    }
}
