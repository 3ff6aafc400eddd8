//! Large blobs: blocks that are put one by one, and the list that makes a blob of them.

use std::collections::HashMap;

use axum::{
    body::{Body, to_bytes},
    http::StatusCode,
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    act::Request,
    answers,
    blobs::{self, New},
    fields,
    refusal::Refusal,
    rows::{self, Piece},
    sums::{self, Expected},
    upload, xml,
};

/// Bytes of one block, as on Azure since 2019-12-12.
const BLOCK_BYTES: u64 = 4000 << 20;
/// Blocks of one blob.
const BLOCKS: usize = 50_000;
/// Blocks of one name that wait for their list.
const WAITING: i64 = 100_000;
/// Bytes of a block's id before base64.
const ID_BYTES: usize = 64;
/// A list of all blocks with the longest ids.
const LIST_BYTES: usize = BLOCKS * 128 + 1024;

fn block_id(text: &str) -> Result<String, Refusal> {
    let length = STANDARD.decode(text).ok().map(|bytes| bytes.len());
    match length {
        Some(1..=ID_BYTES) => Ok(text.to_owned()),
        _ => Err(Refusal::query("blockid", format_args!("it is base64 of at most {ID_BYTES} bytes"))),
    }
}

/// Put Block.
pub async fn put(request: &Request<'_>, body: Body) -> Result<Response, Refusal> {
    request.refuse_unprovided()?;
    if request.headers.contains_key("x-ms-copy-source") {
        return Err(Refusal::not_here("a block from a URL"));
    }
    let id = block_id(request.query.get("blockid").ok_or_else(|| Refusal::query("blockid", "it is needed"))?)?;
    let announced = blobs::announced(request.headers, "a block", BLOCK_BYTES)?;
    if announced == 0 {
        return Err(Refusal::header("content-length", "a block has at least one byte"));
    }
    let (expected, conditions) = (Expected::read(request.headers)?, request.conditions()?);
    // A block changes nothing yet; what its list will meet is met at once, so that nobody uploads for nothing.
    let lease_only = conditions.lease_only();
    blobs::expect_room(request, &lease_only).await?;
    let mut upload = upload::receive(&request.store.files, body, &expected, BLOCK_BYTES).await?;
    let md5 = sums::base64(&upload.md5);
    let (container, name, mut event) = (request.container(), request.blob(), request.event());
    event.detail.insert("bytes".into(), upload.length.into());
    let done = request.store.blocking(move |store| {
        store.change(Some(event), |change| {
            change.container(&container)?;
            let (count, length) = rows::waiting(change.db, &container, &name)?;
            if length.is_some_and(|length| length != id.len() as i64) {
                let message = "the ids of a blob's blocks have the same length, and those that wait have another";
                return Err(Refusal::bad("InvalidBlobOrBlock", message));
            }
            if count >= WAITING {
                let message = format!("{WAITING} blocks wait for their list already");
                return Err(Refusal::conflict("BlockCountExceedsLimit", message));
            }
            let piece = upload.piece(None);
            change.gone(rows::put_block(change.db, &container, &name, &id, piece.as_ref(), change.now_us)?);
            Ok(())
        })?;
        upload.keep();
        Ok(())
    });
    done.await?;
    let mut response = answers::empty(StatusCode::CREATED);
    answers::set(response.headers_mut(), "x-ms-request-server-encrypted", "false");
    match expected.crc64() {
        Some(crc64) => answers::set(response.headers_mut(), "x-ms-content-crc64", &crc64),
        None => answers::set(response.headers_mut(), "content-md5", &md5),
    }
    Ok(response)
}

/// Where a list takes a block from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Committed,
    Uncommitted,
    Latest,
}

fn read_list(text: &str) -> Result<Vec<(From, String)>, Refusal> {
    let wrong = |why: &str| Refusal::bad("InvalidXmlDocument", format!("the body is no list of blocks: {why}"));
    let children = xml::children(text, "BlockList").map_err(wrong)?;
    if children.len() > BLOCKS {
        let message = format!("the list has {} blocks; {BLOCKS} are the most", children.len());
        return Err(Refusal::bad("BlockListTooLong", message));
    }
    let read = children.into_iter().map(|(name, id)| {
        let from = match name {
            "Committed" => From::Committed,
            "Uncommitted" => From::Uncommitted,
            "Latest" => From::Latest,
            _ => return Err(wrong("its elements are Committed, Uncommitted and Latest")),
        };
        Ok((from, id.trim().to_owned()))
    });
    read.collect()
}

/// Put Block List.
pub async fn put_list(request: &Request<'_>, body: Body) -> Result<Response, Refusal> {
    request.refuse_unprovided()?;
    let (expected, conditions) = (Expected::read(request.headers)?, request.conditions()?);
    let bytes =
        to_bytes(body, LIST_BYTES).await.map_err(|_| Refusal::too_large("a list of blocks", LIST_BYTES as u64))?;
    let mut sums = expected.sums();
    sums.update(&bytes);
    expected.check(sums)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| Refusal::bad("InvalidXmlDocument", "the body is no text"))?;
    let list = read_list(text)?;
    let (headers, metadata) = (blobs::headers_of(request, false)?, fields::metadata(request.headers)?);
    let (tier, versioning) = (blobs::tier_of(request)?, request.settings.config.versioning);
    let (container, name, mut event) = (request.container(), request.blob(), request.event());
    event.detail.insert("blocks".into(), list.len().into());
    let done = request.store.blocking(move |store| {
        store.change(Some(event), |change| {
            change.container(&container)?;
            let by_id = |pieces: Vec<Piece>| -> HashMap<String, Piece> {
                pieces.into_iter().filter_map(|piece| Some((piece.id.clone()?, piece))).collect()
            };
            let waiting = by_id(rows::blocks(change.db, &container, &name)?);
            let there = match rows::current(change.db, &container, &name)? {
                Some(blob) => by_id(rows::pieces(change.db, blob.id)?),
                None => HashMap::new(),
            };
            let mut pieces = Vec::with_capacity(list.len());
            for (from, id) in list {
                let piece = match from {
                    From::Committed => there.get(&id),
                    From::Uncommitted => waiting.get(&id),
                    From::Latest => waiting.get(&id).or_else(|| there.get(&id)),
                };
                let piece = piece.ok_or_else(|| {
                    let shown: String = id.chars().take(100).collect();
                    Refusal::bad(
                        "InvalidBlockList",
                        format!("there is no block `{shown}` where the list takes it from"),
                    )
                })?;
                pieces.push(piece.clone());
            }
            let new = New { pieces, headers, metadata, tier, copy: None };
            blobs::replace(change, &container, &name, new, &conditions)
        })
    });
    let blob = done.await?;
    let mut response = answers::changed(StatusCode::CREATED, &blob, versioning);
    answers::set(response.headers_mut(), "content-md5", &sums::base64(&sums::md5(&bytes)));
    Ok(response)
}

/// Get Block List.
pub async fn list(request: &Request<'_>) -> Result<Response, Refusal> {
    let kind = request.query.get("blocklisttype").unwrap_or("committed").to_ascii_lowercase();
    let (committed, uncommitted) = match kind.as_str() {
        "committed" => (true, false),
        "uncommitted" => (false, true),
        "all" => (true, true),
        _ => return Err(Refusal::query("blocklisttype", "it is committed, uncommitted or all")),
    };
    let (container, name, query, event) = (request.container(), request.blob(), request.query.clone(), request.event());
    let lease = request.text("x-ms-lease-id")?.map(str::to_owned);
    let found = request.store.blocking(move |store| {
        let db = store.db();
        let waiting = rows::blocks(&db, &container, &name)?;
        let only_waiting = waiting.is_empty() || query.has("snapshot") || query.has("versionid");
        let blob = match blobs::find(&db, &container, &name, &query) {
            Ok(blob) => Some(blob),
            Err(refusal) if only_waiting || refusal.code != "BlobNotFound" => return Err(refusal),
            Err(_) => None,
        };
        let there = match &blob {
            Some(blob) => {
                blob.facts.lease.check_named(lease.as_deref(), store.clock.now_us(), "blob")?;
                rows::pieces(&db, blob.id)?
            }
            None => Vec::new(),
        };
        drop(db);
        store.spool.append_blocking(event)?;
        Ok((blob, there, waiting))
    });
    let (blob, there, waiting) = found.await?;
    let mut body = format!("{}<BlockList>", xml::HEAD);
    let mut section = |name: &str, pieces: &[Piece]| {
        body.push_str(&format!("<{name}>"));
        // What was put at once has no blocks.
        for (id, piece) in pieces.iter().filter_map(|piece| Some((piece.id.as_ref()?, piece))) {
            body.push_str("<Block>");
            xml::element(&mut body, "Name", id);
            xml::element(&mut body, "Size", &piece.length.to_string());
            body.push_str("</Block>");
        }
        body.push_str(&format!("</{name}>"));
    };
    if committed {
        section("CommittedBlocks", &there);
    }
    if uncommitted {
        section("UncommittedBlocks", &waiting);
    }
    body.push_str("</BlockList>");
    let mut response = answers::xml(body);
    let length = blob.as_ref().map_or(0, |blob| blob.facts.length);
    answers::set(response.headers_mut(), "x-ms-blob-content-length", &length.to_string());
    if let Some(blob) = blob {
        answers::state(response.headers_mut(), &blob.facts.etag, blob.facts.modified_us);
    }
    Ok(response)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read() {
        let list = read_list("<BlockList><Latest>QQ==</Latest><Committed>Qg==</Committed></BlockList>").unwrap();
        assert_eq!(list, [(From::Latest, "QQ==".to_owned()), (From::Committed, "Qg==".to_owned())]);
        assert_eq!(read_list("<BlockList><Other>x</Other></BlockList>").unwrap_err().code, "InvalidXmlDocument");
        let long = format!("<BlockList>{}</BlockList>", "<Latest>QQ==</Latest>".repeat(BLOCKS + 1));
        assert_eq!(read_list(&long).unwrap_err().code, "BlockListTooLong");
        assert!(block_id("QQ==").is_ok() && block_id("%%").is_err() && block_id("").is_err());
        assert!(block_id(&STANDARD.encode([0; 65])).is_err());
    }
}
