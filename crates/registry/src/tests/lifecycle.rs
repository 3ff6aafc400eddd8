//! Time, tags, tiers: what stays, what goes, what is refused.

use api::{audit::Outcome, registry::Tier};
use axum::body::Body;
use serde_json::json;

use super::bench::{Bench, DAY_MS, INDEX, MANIFEST, config};
use crate::{names::Digest, sweep};

#[tokio::test]
async fn an_image_without_a_tag_stays_its_time_and_no_longer() {
    let bench = Bench::new();
    let who = bench.admin();
    let first = bench.push(&who, "web", "latest", "one").await;
    let second = bench.push(&who, "web", "latest", "two").await;
    let status = async |digest: &Digest| {
        let who = bench.admin();
        bench.get(&who, &format!("/v2/web/manifests/{digest}")).await.status.as_u16()
    };
    bench.clock.set_offset_ms(6 * DAY_MS);
    assert_eq!((status(&first).await, status(&second).await), (200, 200));
    bench.clock.set_offset_ms(8 * DAY_MS);
    assert_eq!((status(&first).await, status(&second).await), (404, 200));
    sweep::sweep(&bench.registry).await.unwrap();
    let file = |content: &[u8]| crate::registry::blob_file(bench.dir.path(), Digest::of(content).hex());
    assert!(!file(b"one").exists() && file(b"two").exists(), "layers go with the last image that names them");
    let event = bench.events().into_iter().find(|e| e.action == "image.expire").unwrap();
    assert_eq!((event.actor.as_str(), event.outcome), ("registry.main", Outcome::Ok));
}

#[tokio::test]
async fn what_an_index_or_a_subject_holds_goes_with_it() {
    let bench = Bench::new();
    let who = bench.admin();
    let image = bench.image(&who, "web", "one").await;
    let digest = Digest::of(&image);
    assert_eq!(bench.put(&who, "web", &digest.to_string(), MANIFEST, &image).await.status, 201);
    let entry = json!({ "mediaType": MANIFEST, "digest": digest.to_string(), "size": image.len() });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry.clone()] }).to_string();
    bench.put(&who, "web", "all", INDEX, index.as_bytes()).await;
    let about = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [], "subject": entry }).to_string();
    let about_digest = Digest::of(about.as_bytes()).to_string();
    assert_eq!(bench.put(&who, "web", &about_digest, INDEX, about.as_bytes()).await.status, 201);
    let status =
        async |reference: &str| bench.get(&who, &format!("/v2/web/manifests/{reference}")).await.status.as_u16();
    bench.clock.set_offset_ms(30 * DAY_MS);
    assert_eq!((status(&digest.to_string()).await, status(&about_digest).await), (200, 200));
    bench.push(&who, "web", "all", "another").await;
    bench.clock.set_offset_ms(38 * DAY_MS);
    assert_eq!(status(&Digest::of(index.as_bytes()).to_string()).await, 404, "the index is gone");
    assert_eq!(status(&digest.to_string()).await, 200, "what it named has its own time from then on");
    bench.clock.set_offset_ms(46 * DAY_MS);
    assert_eq!(status(&digest.to_string()).await, 404);
    sweep::sweep(&bench.registry).await.unwrap();
    assert_eq!(status(&about_digest).await, 404, "and what was said about it");
}

#[tokio::test]
async fn a_release_stays_what_it_was_even_once_its_tag_is_gone() {
    let bench = Bench::new();
    let who = bench.admin();
    let first = bench.push(&who, "web", "v1.0.0", "one").await;
    let other = bench.image(&who, "web", "two").await;
    let again = bench.put(&who, "web", "v1.0.0", MANIFEST, &other).await;
    assert_eq!((again.status.as_u16(), again.code().as_str()), (409, "DENIED"));
    assert!(again.json()["errors"][0]["message"].as_str().unwrap().contains(&first.to_string()));
    assert_eq!(bench.push(&who, "web", "v1.0.0", "one").await, first, "the same image again is no change");
    let operator = bench.by("supervisor", &[]).await;
    assert_eq!(bench.call(&operator, "DELETE", "/v2/web/manifests/v1.0.0", &[], Body::empty()).await.status, 202);
    assert_eq!(bench.put(&who, "web", "v1.0.0", MANIFEST, &other).await.status, 409);
    assert_eq!(bench.put(&who, "web", "v1.0.1", MANIFEST, &other).await.status, 201);
    assert_eq!(bench.put(&who, "web", "20261122-101500", MANIFEST, &other).await.status, 201);
}

#[tokio::test]
async fn a_tier_has_room_for_so_much() {
    let mut small = config();
    small.tier = Tier::Basic;
    let bench = Bench::with(small);
    let who = bench.admin();
    let begun = bench.call(&who, "POST", "/v2/web/blobs/uploads/", &[], Body::empty()).await;
    let too_much = ((10_u64 << 30) + 1).to_string();
    let refused =
        bench.call(&who, "PATCH", begun.field("location"), &[("content-length", &too_much)], Body::empty()).await;
    assert_eq!(refused.status, 413);
    assert!(refused.json()["errors"][0]["message"].as_str().unwrap().contains("Basic holds 10 GiB"));
    bench.push(&who, "web", "latest", "layer").await;
    let status = bench.registry.blocking(crate::registry::Registry::status).await.unwrap();
    assert_eq!((status.tier, status.storage_bytes), (Tier::Basic, Some(10 << 30)));
    assert!(status.used_bytes > 0);
}

#[tokio::test]
async fn an_admin_user_that_outlives_set_up_is_flagged() {
    let bench = Bench::new();
    let warnings = async || bench.registry.blocking(crate::registry::Registry::status).await.unwrap().warnings;
    assert!(warnings().await.is_empty(), "nothing was pushed yet");
    bench.push(&bench.admin(), "web", "latest", "layer").await;
    assert!(warnings().await[0].contains("admin user"));
    let mut off = config();
    off.admin_user = false;
    bench.registry.reconfigure(off).await.unwrap();
    assert!(warnings().await.is_empty());
}

#[tokio::test]
async fn many_push_the_same_layers_at_once() {
    let bench = Bench::new();
    let who = bench.admin();
    let pushes = (0..12).map(|n| {
        let (bench, who) = (&bench, who.clone());
        async move { bench.push(&who, "web", &format!("t{}", n % 3), &format!("layer {}", n % 4)).await }
    });
    let mut all: Vec<_> = pushes.map(Box::pin).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|context| {
        all.retain_mut(|push| match push.as_mut().poll(context) {
            std::task::Poll::Ready(digest) => {
                done.push(digest);
                false
            }
            std::task::Poll::Pending => true,
        });
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    for digest in done {
        assert_eq!(bench.get(&who, &format!("/v2/web/manifests/{digest}")).await.status, 200);
    }
    assert_eq!(std::fs::read_dir(bench.dir.path().join("uploads")).unwrap().count(), 0);
}
