//! A release that is no good.

use std::time::Instant;

use crate::{Miss, Seen, drill::Scene, miss};

pub async fn bad(scene: &Scene<'_>) -> Seen {
    let site = scene.lab.site(scene.on).await?;
    // The first service that people reach by the entry.
    let service = site.system.edge().and_then(|edge| edge.routes.first()).map(|route| route.to.name.clone());
    let Some(service) = service else { miss!("the system has no service behind its entry") };
    let changes = format!("[service.{service}]\nrun = [\"/bin/false\"]\n");
    scene.fault(format!("a release of service.{service} that ends at once is brought up"));
    let why = match scene.lab.changed(scene.on, &changes).await {
        Ok(_) => miss!("a release that cannot run was brought up without a word"),
        Err(Miss::Failed(why)) => why,
        Err(other) => return Err(other),
    };
    scene.say(format!("refused: {}", why.lines().next().unwrap_or_default()));
    let begun = Instant::now();
    scene.lab.restore(scene.on).await?;
    scene.mended("the release before serves again");
    Ok(format!(
        "refused ({}), and back in {:.1} s",
        why.lines().next().unwrap_or_default(),
        begun.elapsed().as_secs_f64()
    ))
}
