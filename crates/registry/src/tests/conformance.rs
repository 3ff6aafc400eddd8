//! The specification's rules (OCI Distribution Specification 1.1), endpoint by endpoint, as clients rely on them.

use axum::body::Body;
use serde_json::{Value, json};

use super::bench::{Bench, INDEX, MANIFEST};
use crate::names::Digest;

const UPLOADS: &str = "/v2/web/blobs/uploads/";

#[tokio::test]
async fn a_blob_comes_at_once_in_one_put_or_in_chunks() {
    let bench = Bench::new();
    let who = bench.admin();
    let (one, two, three) = (Digest::of(b"one"), Digest::of(b"two"), Digest::of(b"three, in chunks"));
    let answered = bench.call(&who, "POST", &format!("{UPLOADS}?digest={one}"), &[], "one").await;
    assert_eq!((answered.status.as_u16(), answered.field("location")), (201, format!("/v2/web/blobs/{one}").as_str()));

    let begun = bench.call(&who, "POST", UPLOADS, &[], Body::empty()).await;
    assert_eq!(begun.status, 202);
    let path = format!("{}?digest={two}", begun.field("location"));
    let answered = bench.call(&who, "PUT", &path, &[], "two").await;
    assert_eq!((answered.status.as_u16(), answered.field("docker-content-digest")), (201, two.to_string().as_str()));

    let begun = bench.call(&who, "POST", UPLOADS, &[("content-length", "0")], Body::empty()).await;
    let at = begun.field("location").to_owned();
    let chunk = |range: &'static str| [("content-range", range), ("content-type", "application/octet-stream")];
    let first = bench.call(&who, "PATCH", &at, &chunk("0-6"), "three, ").await;
    assert_eq!((first.status.as_u16(), first.field("range")), (202, "0-6"));
    let wrong = bench.call(&who, "PATCH", &at, &chunk("9-17"), "in chunks").await;
    assert_eq!((wrong.status.as_u16(), wrong.field("range")), (416, "0-6"), "it does not follow");
    let look = bench.get(&who, &at).await;
    assert_eq!((look.status.as_u16(), look.field("range"), look.field("location")), (204, "0-6", at.as_str()));
    let second = bench.call(&who, "PATCH", &at, &chunk("7-8"), "in").await;
    assert_eq!(second.field("range"), "0-8");
    let last = bench.call(&who, "PUT", &format!("{at}?digest={three}"), &chunk("9-15"), " chunks").await;
    assert_eq!(last.status, 201);
    assert_eq!(bench.get(&who, &at).await.status, 404, "it is over");
    for (digest, content) in [(&one, "one"), (&two, "two"), (&three, "three, in chunks")] {
        let path = format!("/v2/web/blobs/{digest}");
        assert_eq!(bench.get(&who, &path).await.body, content);
        let head = bench.call(&who, "HEAD", &path, &[], Body::empty()).await;
        assert_eq!((head.status.as_u16(), head.field("content-length")), (200, content.len().to_string().as_str()));
    }
}

#[tokio::test]
async fn content_with_another_digest_is_never_seen() {
    let bench = Bench::new();
    let who = bench.admin();
    let said = Digest::of(b"what it should be");
    let answered = bench.call(&who, "POST", &format!("{UPLOADS}?digest={said}"), &[], "what it is").await;
    assert_eq!((answered.status.as_u16(), answered.code().as_str()), (400, "DIGEST_INVALID"));
    assert_eq!(bench.get(&who, &format!("/v2/web/blobs/{said}")).await.code(), "BLOB_UNKNOWN");
    let left = std::fs::read_dir(bench.dir.path().join("uploads")).unwrap().count();
    assert_eq!(left, 0, "and nothing of it is left");
    for bad in ["sha256:abc", "sha512:00", "", "../../etc/passwd"] {
        let answered = bench.call(&who, "POST", &format!("{UPLOADS}?digest={bad}"), &[], "x").await;
        assert_eq!((answered.status.as_u16(), answered.code().as_str()), (400, "DIGEST_INVALID"), "{bad}");
    }
}

#[tokio::test]
async fn parts_of_a_blob_are_read_by_range() {
    let bench = Bench::new();
    let who = bench.admin();
    let digest = bench.blob(&who, "web", b"0123456789").await;
    let path = format!("/v2/web/blobs/{digest}");
    let part = bench.call(&who, "GET", &path, &[("range", "bytes=2-4")], Body::empty()).await;
    assert_eq!((part.status.as_u16(), part.field("content-range"), &part.body[..]), (206, "bytes 2-4/10", &b"234"[..]));
    let rest = bench.call(&who, "GET", &path, &[("range", "bytes=8-")], Body::empty()).await;
    assert_eq!((rest.status.as_u16(), &rest.body[..]), (206, &b"89"[..]));
    let none = bench.call(&who, "GET", &path, &[("range", "bytes=10-")], Body::empty()).await;
    assert_eq!((none.status.as_u16(), none.field("content-range")), (416, "bytes */10"));
}

#[tokio::test]
async fn a_blob_is_mounted_from_where_its_reader_may_read() {
    let bench = Bench::new();
    let who = bench.admin();
    let digest = bench.blob(&who, "api", b"shared").await;
    let mounted = bench.call(&who, "POST", &format!("{UPLOADS}?mount={digest}&from=api"), &[], Body::empty()).await;
    assert_eq!((mounted.status.as_u16(), mounted.field("location")), (201, format!("/v2/web/blobs/{digest}").as_str()));
    assert_eq!(bench.get(&who, &format!("/v2/web/blobs/{digest}")).await.body, "shared");
    let missing = Digest::of(b"nowhere");
    for query in [format!("mount={missing}&from=api"), format!("mount={digest}")] {
        let instead = bench.call(&who, "POST", &format!("{UPLOADS}?{query}"), &[], Body::empty()).await;
        assert_eq!(instead.status, 202, "{query}: an upload begins instead");
    }
}

#[tokio::test]
async fn a_manifest_is_what_was_sent_and_names_only_what_is_there() {
    let bench = Bench::new();
    let who = bench.admin();
    let image = bench.image(&who, "web", "layer").await;
    let digest = Digest::of(&image);
    let put = bench.put(&who, "web", "latest", MANIFEST, &image).await;
    assert_eq!((put.status.as_u16(), put.field("docker-content-digest")), (201, digest.to_string().as_str()));
    for reference in ["latest".to_owned(), digest.to_string()] {
        let got = bench.get(&who, &format!("/v2/web/manifests/{reference}")).await;
        assert_eq!((got.status.as_u16(), &got.body[..], got.field("content-type")), (200, &image[..], MANIFEST));
    }
    let other = bench.put(&who, "web", &Digest::of(b"x").to_string(), MANIFEST, &image).await;
    assert_eq!(other.code(), "DIGEST_INVALID", "by another digest");
    assert_eq!(bench.put(&who, "api", "latest", MANIFEST, &image).await.code(), "MANIFEST_BLOB_UNKNOWN");
    let mut document: Value = serde_json::from_slice(&image).unwrap();
    document["layers"][0]["size"] = 1_000_000.into();
    assert_eq!(bench.put(&who, "web", "x", MANIFEST, document.to_string().as_bytes()).await.code(), "MANIFEST_INVALID");
    for kind in ["text/plain", INDEX] {
        assert_eq!(bench.put(&who, "web", "x", kind, &image).await.code(), "MANIFEST_INVALID", "as {kind}");
    }
    let large = vec![b' '; (4 << 20) + 1];
    assert_eq!(bench.put(&who, "web", "x", MANIFEST, &large).await.status, 413);
    let unknown = bench.get(&who, "/v2/web/manifests/x").await;
    assert_eq!((unknown.status.as_u16(), unknown.code().as_str()), (404, "MANIFEST_UNKNOWN"), "none of these came in");

    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests":
        [{ "mediaType": MANIFEST, "digest": digest.to_string(), "size": image.len() }] });
    assert_eq!(bench.put(&who, "web", "all", INDEX, index.to_string().as_bytes()).await.status, 201);
    let path = format!("/v2/web/manifests/{digest}");
    let named = bench.call(&bench.by("supervisor", &[]).await, "DELETE", &path, &[], Body::empty()).await;
    assert_eq!(named.status, 409, "an index names it");
}

#[tokio::test]
async fn what_says_something_about_an_image_is_found_by_it() {
    let bench = Bench::new();
    let who = bench.admin();
    let image = bench.image(&who, "web", "layer").await;
    let digest = Digest::of(&image);
    let mut about: Value = serde_json::from_slice(&image).unwrap();
    about["artifactType"] = "application/vnd.example.sbom".into();
    about["annotations"] = json!({ "made": "today" });
    about["subject"] = json!({ "mediaType": MANIFEST, "digest": digest.to_string(), "size": image.len() });
    let about = about.to_string().into_bytes();
    // It may come before what it is about.
    let put = bench.put(&who, "web", &Digest::of(&about).to_string(), MANIFEST, &about).await;
    assert_eq!((put.status.as_u16(), put.field("oci-subject")), (201, digest.to_string().as_str()));
    bench.put(&who, "web", "latest", MANIFEST, &image).await;
    let path = format!("/v2/web/referrers/{digest}");
    let all = bench.get(&who, &path).await;
    assert_eq!((all.status.as_u16(), all.field("content-type")), (200, INDEX));
    let entry = &all.json()["manifests"][0];
    assert_eq!(entry["digest"], Digest::of(&about).to_string());
    assert_eq!(
        (&entry["artifactType"], &entry["annotations"]["made"]),
        (&json!("application/vnd.example.sbom"), &json!("today"))
    );
    let none = bench.get(&who, &format!("{path}?artifactType=other")).await;
    assert_eq!(
        (none.json()["manifests"].as_array().unwrap().len(), none.field("oci-filters-applied")),
        (0, "artifactType")
    );
    let nothing = bench.get(&who, &format!("/v2/web/referrers/{}", Digest::of(b"x"))).await;
    assert_eq!((nothing.status.as_u16(), nothing.json()["manifests"].as_array().unwrap().len()), (200, 0));
}

#[tokio::test]
async fn lists_come_in_pages() {
    let bench = Bench::new();
    let who = bench.admin();
    for tag in ["c", "a", "b", "D"] {
        bench.push(&who, "web", tag, "layer").await;
    }
    bench.push(&who, "api/v1", "a", "layer").await;
    assert_eq!(
        bench.get(&who, "/v2/web/tags/list").await.json(),
        json!({ "name": "web", "tags": ["D", "a", "b", "c"] })
    );
    let (mut path, mut seen) = ("/v2/web/tags/list?n=3".to_owned(), Vec::new());
    loop {
        let page = bench.get(&who, &path).await;
        seen.extend(page.json()["tags"].as_array().unwrap().clone());
        let Some(next) = page.field("link").strip_prefix('<').and_then(|l| l.split_once('>')) else { break };
        path = next.0.to_owned();
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
    assert_eq!(bench.get(&who, "/v2/web/tags/list?n=0").await.json()["tags"], json!([]));
    assert_eq!(bench.get(&who, "/v2/web/tags/list?n=x").await.status, 400);
    assert_eq!(bench.get(&who, "/v2/other/tags/list").await.code(), "NAME_UNKNOWN");
    let first = bench.get(&who, "/v2/_catalog?n=1").await;
    assert_eq!(first.json()["repositories"], json!(["api/v1"]));
    assert!(first.field("link").contains("last=api/v1"));
    assert_eq!(bench.get(&who, "/v2/_catalog?n=1&last=api/v1").await.json()["repositories"], json!(["web"]));
}

#[tokio::test]
async fn deleting_needs_its_own_role() {
    let bench = Bench::new();
    let digest = bench.push(&bench.admin(), "web", "latest", "layer").await;
    let layer = Digest::of(b"layer");
    let path = format!("/v2/web/manifests/{digest}");
    assert_eq!(bench.call(&bench.admin(), "DELETE", &path, &[], Body::empty()).await.status, 403);
    let who = bench.by("supervisor", &[]).await;
    let delete = async |path: String| bench.call(&who, "DELETE", &path, &[], Body::empty()).await.status.as_u16();
    assert_eq!(delete(format!("/v2/web/blobs/{layer}")).await, 409, "a manifest names it");
    assert_eq!(delete("/v2/web/manifests/latest".into()).await, 202);
    assert_eq!(bench.get(&who, "/v2/web/manifests/latest").await.status, 404);
    assert_eq!(bench.get(&who, &path).await.status, 200, "only the tag is gone");
    assert_eq!(delete(path.clone()).await, 202);
    assert_eq!(delete(path.clone()).await, 404);
    assert_eq!(delete(format!("/v2/web/blobs/{layer}")).await, 202);
    assert!(!crate::registry::blob_file(bench.dir.path(), layer.hex()).exists());
}

#[tokio::test]
async fn an_upload_is_its_beginners_alone() {
    let bench = Bench::new();
    let begun = bench.call(&bench.admin(), "POST", UPLOADS, &[], Body::empty()).await;
    let at = begun.field("location").to_owned();
    let other = bench.by("p-1", &["developers"]).await;
    assert_eq!(bench.call(&other, "PATCH", &at, &[], "mine").await.code(), "BLOB_UPLOAD_UNKNOWN");
    let elsewhere = at.replace("/web/", "/api/");
    assert_eq!(bench.call(&bench.admin(), "PATCH", &elsewhere, &[], "x").await.code(), "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(bench.call(&bench.admin(), "DELETE", &at, &[], Body::empty()).await.status, 204);
    assert_eq!(bench.get(&bench.admin(), &at).await.status, 404);
}
