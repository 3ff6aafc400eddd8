//! `sdk::blob` against a running account, in the place of a service: `stamp exec clients judge -- target/debug/examples/blob_judge`.
//! Reads `BLOB_URL`, `IDENTITY_ENDPOINT` and `IDENTITY_HEADER`, works in the container `work`, and leaves nothing.
#![allow(clippy::print_stdout, reason = "its last line is the verdict")]

use anyhow::ensure;
use axum::body::{Body, to_bytes};
use sdk::{
    Settings, Trust,
    blob::{Account, List, PIECE, Put},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::from_environment();
    let trust = Trust::from_settings(&settings, &[])?;
    let account = Account::from_settings(&settings, &trust, "BLOB_URL")?;
    let work = account.container("work");
    let folder = format!("sdk-{}", uuid::Uuid::new_v4().simple());
    let name = |rest: &str| format!("{folder}/{rest}");

    let put = Put {
        content_type: Some("text/plain".into()),
        only_new: true,
        metadata: [("who".to_owned(), "sdk".to_owned())].into(),
        ..Put::default()
    };
    let written = work.put(&name("ä b.txt"), "hello blob", &put).await?;
    let again = work.put(&name("ä b.txt"), "other", &put).await;
    ensure!(again.is_err_and(|error| error.is_there()), "it is put twice");
    let (known, content) = work.get(&name("ä b.txt"), 100).await?;
    ensure!(content == "hello blob" && known.content_type == "text/plain" && known.etag == written.etag, "{known:?}");
    ensure!(known.metadata.get("who").map(String::as_str) == Some("sdk"), "metadata is lost");
    ensure!(work.get(&name("ä b.txt"), 9).await.is_err(), "more than was asked for came");
    ensure!(work.range(&name("ä b.txt"), 6, 4).await?.1 == "blob", "a range is another");
    let over = Put { only_over: Some("\"0x1\"".into()), ..Put::default() };
    let over = work.put(&name("ä b.txt"), "x", &over).await;
    ensure!(over.is_err_and(|error| error.is_changed()), "another's is overwritten");
    ensure!(work.head(&name("missing")).await.is_err_and(|error| error.is_not_found()), "what is missing is there");

    let large: Vec<u8> = (0..3 * PIECE + 5).map(|n| (n / 1000) as u8).collect();
    work.upload(&name("large"), Body::from(large.clone()), &Put::default()).await?;
    let download = work.download(&name("large")).await?;
    ensure!(download.properties().length == large.len() as u64, "its length is another");
    ensure!(to_bytes(download.into_body(), usize::MAX).await? == large, "a large blob comes back as another");
    work.put(&name("empty"), "", &Put::default()).await?;
    ensure!(work.get(&name("empty"), 10).await?.1.is_empty(), "an empty blob is not empty");

    let (mut found, mut marker) = (Vec::new(), None);
    loop {
        let list = List { prefix: format!("{folder}/"), marker, most: Some(2), ..List::default() };
        let page = work.list(&list).await?;
        found.extend(page.blobs.into_iter().map(|entry| entry.name));
        marker = page.next;
        if marker.is_none() {
            break;
        }
    }
    ensure!(found == [name("empty"), name("large"), name("ä b.txt")], "{found:?} is listed");
    let folders = List { prefix: "sdk-".into(), delimiter: Some("/".into()), ..List::default() };
    let folders = work.list(&folders).await?;
    ensure!(folders.prefixes.contains(&format!("{folder}/")), "{:?} are folders", folders.prefixes);
    for name in found {
        work.delete(&name).await?;
    }
    println!("put, get, range, upload and download in pieces, list, delete; by identity");
    Ok(())
}
