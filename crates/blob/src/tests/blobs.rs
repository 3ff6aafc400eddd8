//! What is done with blobs and containers.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::bench::Bench;

#[tokio::test]
async fn a_blob_is_put_read_and_known() {
    let bench = Bench::new();
    let put = bench
        .put_with(
            "/photos/2026/a%20b.txt",
            "hello",
            &[("x-ms-blob-content-type", "text/plain"), ("x-ms-meta-who", "me"), ("x-ms-client-request-id", "mine")],
        )
        .await;
    assert_eq!(put.status, 201, "{}", put.text());
    assert_eq!(put.field("content-md5"), "XUFAKrxLKna5cZ2REBfFkg==");
    assert_eq!(put.field("x-ms-client-request-id"), "mine");
    assert!(put.field("etag").starts_with("\"0x") && !put.field("x-ms-request-id").is_empty());
    let got = bench.get("/photos/2026%2Fa%20b.txt").await;
    assert_eq!((got.status.as_u16(), got.text().as_str()), (200, "hello"));
    for (name, value) in [
        ("content-type", "text/plain"),
        ("content-length", "5"),
        ("x-ms-meta-who", "me"),
        ("x-ms-blob-type", "BlockBlob"),
        ("x-ms-access-tier", "Hot"),
        ("x-ms-lease-state", "available"),
        ("content-md5", "XUFAKrxLKna5cZ2REBfFkg=="),
    ] {
        assert_eq!(got.field(name), value, "{name}");
    }
    let head = bench.head("/photos/2026/a%20b.txt").await;
    assert_eq!((head.field("content-length"), head.body.len()), ("5", 0));
    let missing = bench.head("/photos/other").await;
    assert_eq!((missing.said(), missing.body.len()), ((404, "BlobNotFound"), 0));
    assert_eq!(bench.get("/nothing-here/other").await.said(), (404, "ContainerNotFound"));
    assert_eq!(bench.put("/nothing-here/other", "x").await.said(), (404, "ContainerNotFound"));
}

#[tokio::test]
async fn ranges_answer_what_they_ask_for() {
    let bench = Bench::new();
    bench.put("/photos/a", "0123456789").await;
    bench.put("/photos/empty", "").await;
    let range =
        async |path: &str, name: &str, range: &str| bench.call(&bench.owner, "GET", path, &[(name, range)], "").await;
    let some = range("/photos/a", "x-ms-range", "bytes=2-4").await;
    assert_eq!((some.status.as_u16(), some.text().as_str(), some.field("content-range")), (206, "234", "bytes 2-4/10"));
    assert!(some.field("content-md5").is_empty() && !some.field("x-ms-blob-content-md5").is_empty());
    assert_eq!(range("/photos/a", "range", "bytes=-3").await.text(), "789");
    assert_eq!(range("/photos/a", "range", "bytes=7-99").await.text(), "789");
    assert_eq!(range("/photos/a", "range", "bytes=10-").await.said(), (416, "InvalidRange"));
    assert_eq!(range("/photos/empty", "x-ms-range", "bytes=0-33554431").await.said(), (416, "InvalidRange"));
    assert_eq!(bench.get("/photos/empty").await.status, 200);
    let summed = [("x-ms-range", "bytes=0-4"), ("x-ms-range-get-content-md5", "true")];
    let summed = bench.call(&bench.owner, "GET", "/photos/a", &summed, "").await;
    assert_eq!(summed.field("content-md5"), crate::sums::base64(&crate::sums::md5(b"01234")));
}

#[tokio::test]
async fn blocks_make_a_blob_and_only_their_list_does() {
    let bench = Bench::new();
    let id = |n: u32| STANDARD.encode(format!("block-{n:04}"));
    let block = async |n: u32, content: Vec<u8>| {
        let path = format!("/photos/large?comp=block&blockid={}", id(n).replace('=', "%3D"));
        bench.call(&bench.owner, "PUT", &path, &[], content).await
    };
    let pieces: Vec<Vec<u8>> = (0..5_u8).map(|n| vec![n; 700_000]).collect();
    for (n, piece) in pieces.iter().enumerate() {
        assert_eq!(block(n as u32, piece.clone()).await.status, 201);
    }
    assert_eq!(bench.get("/photos/large").await.said(), (404, "BlobNotFound"));
    let list = async |kind: &str, ids: &[u32]| {
        let ids: String = ids.iter().map(|n| format!("<{kind}>{}</{kind}>", id(*n))).collect();
        bench
            .call(&bench.owner, "PUT", "/photos/large?comp=blocklist", &[], format!("<BlockList>{ids}</BlockList>"))
            .await
    };
    assert_eq!(list("Committed", &[0]).await.said(), (400, "InvalidBlockList"));
    assert_eq!(list("Latest", &[0, 1, 9]).await.said(), (400, "InvalidBlockList"));
    assert_eq!(list("Latest", &[4, 3, 2, 1, 0]).await.status, 201);
    let whole = bench.get("/photos/large").await;
    let expected: Vec<u8> = pieces.iter().rev().flatten().copied().collect();
    assert!(whole.body == expected);
    let across = bench.call(&bench.owner, "GET", "/photos/large", &[("range", "bytes=699999-1400000")], "").await;
    assert!(across.body == expected[699_999..=1_400_000]);
    // Blocks that are there may be taken again, with new ones between them.
    assert_eq!(block(7, vec![7; 10]).await.status, 201);
    let waiting = bench.get("/photos/large?comp=blocklist&blocklisttype=all").await.text();
    assert!(waiting.contains("<CommittedBlocks><Block><Name>") && waiting.contains("<Size>10</Size>"), "{waiting}");
    let body = format!("<BlockList><Committed>{}</Committed><Uncommitted>{}</Uncommitted></BlockList>", id(1), id(7));
    let again = bench.call(&bench.owner, "PUT", "/photos/large?comp=blocklist", &[], body).await;
    assert_eq!(again.status, 201);
    assert_eq!(bench.head("/photos/large").await.field("content-length"), "700010");
    assert_eq!(bench.files(), 2, "what nothing names is gone from the disk");
    // All ids of one blob have one length.
    block(1, vec![1]).await;
    let short = bench.call(&bench.owner, "PUT", "/photos/large?comp=block&blockid=QQ%3D%3D", &[], "x").await;
    assert_eq!(short.said(), (400, "InvalidBlobOrBlock"));
}

#[tokio::test]
async fn what_was_sent_wrong_is_not_kept() {
    let bench = Bench::new();
    let wrong = bench.put_with("/photos/a", "hello", &[("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")]).await;
    assert_eq!(wrong.said(), (400, "Md5Mismatch"));
    let wrong = bench.put_with("/photos/a", "hello", &[("x-ms-content-crc64", "AAAAAAAAAAA=")]).await;
    assert_eq!(wrong.said(), (400, "Crc64Mismatch"));
    let mut crc = crate::sums::Crc64::new();
    crc.update(b"hello");
    let right = STANDARD.encode(crc.sum().to_le_bytes());
    let put = bench.put_with("/photos/b", "hello", &[("x-ms-content-crc64", &right)]).await;
    assert_eq!((put.status.as_u16(), put.field("x-ms-content-crc64")), (201, right.as_str()));
    for (fields, code) in [
        (vec![("x-ms-blob-type", "PageBlob")], "NotImplemented"),
        (vec![], "MissingRequiredHeader"),
        (vec![("x-ms-blob-type", "BlockBlob"), ("x-ms-tags", "a=b")], "NotImplemented"),
        (vec![("x-ms-blob-type", "BlockBlob"), ("x-ms-meta-a-b", "x")], "InvalidMetadata"),
        (vec![("x-ms-blob-type", "BlockBlob"), ("x-ms-access-tier", "Warm")], "InvalidHeaderValue"),
    ] {
        assert_eq!(bench.call(&bench.owner, "PUT", "/photos/a", &fields, "x").await.code(), code);
    }
    let chunked = axum::http::Request::put("/photos/a")
        .header("host", super::bench::HOST)
        .header("authorization", &bench.owner)
        .header("x-ms-blob-type", "BlockBlob")
        .body(axum::body::Body::from("x"))
        .unwrap();
    assert_eq!(bench.send(chunked).await.said(), (411, "MissingContentLengthHeader"));
    let long = "n".repeat(1025);
    assert_eq!(bench.put(&format!("/photos/{long}"), "x").await.said(), (400, "InvalidResourceName"));
    assert_eq!(bench.files(), 1, "only what was right");
}

#[tokio::test]
async fn conditions_keep_writers_apart() {
    let bench = Bench::new();
    let first = bench.put_with("/photos/a", "one", &[("if-none-match", "*")]).await;
    assert_eq!(first.status, 201);
    assert_eq!(bench.put_with("/photos/a", "two", &[("if-none-match", "*")]).await.said(), (409, "BlobAlreadyExists"));
    let etag = first.field("etag");
    assert_eq!(bench.put_with("/photos/a", "two", &[("if-match", etag)]).await.status, 201);
    assert_eq!(bench.put_with("/photos/a", "three", &[("if-match", etag)]).await.said(), (412, "ConditionNotMet"));
    let now = bench.head("/photos/a").await.field("etag").to_owned();
    let same = bench.call(&bench.owner, "GET", "/photos/a", &[("if-none-match", &now)], "").await;
    assert_eq!((same.status.as_u16(), same.body.len()), (304, 0));
    let other = bench.call(&bench.owner, "GET", "/photos/a", &[("if-match", etag)], "").await;
    assert_eq!(other.said(), (412, "ConditionNotMet"));
    let gone = bench.call(&bench.owner, "DELETE", "/photos/a", &[("if-match", etag)], "").await;
    assert_eq!(gone.said(), (412, "ConditionNotMet"));
    assert_eq!(bench.get("/photos/a").await.body, "two");
}

#[tokio::test]
async fn lists_come_in_pages_and_folders() {
    let bench = Bench::new();
    for name in ["a.txt", "d/1", "d/2", "d/e/3", "d-x", "z&<>\"", "\u{e4}"] {
        let path = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string();
        assert_eq!(bench.put_with(&format!("/photos/{path}"), "x", &[("x-ms-meta-m", "v")]).await.status, 201);
    }
    let list = async |more: &str| bench.get(&format!("/photos?restype=container&comp=list{more}")).await.text();
    let names = |text: &str| -> Vec<String> {
        text.split("<Name>").skip(1).map(|rest| rest.split("</Name>").next().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&list("").await), ["a.txt", "d-x", "d/1", "d/2", "d/e/3", "z&amp;&lt;&gt;&quot;", "\u{e4}"]);
    let folders = list("&delimiter=%2F").await;
    assert_eq!(names(&folders), ["a.txt", "d-x", "d/", "z&amp;&lt;&gt;&quot;", "\u{e4}"]);
    assert!(folders.contains("<BlobPrefix><Name>d/</Name></BlobPrefix>"));
    assert_eq!(names(&list("&delimiter=%2F&prefix=d%2F").await), ["d/1", "d/2", "d/e/"]);
    assert!(list("&include=metadata").await.contains("<Metadata><m>v</m></Metadata>"));
    for delimiter in ["", "&delimiter=%2F"] {
        let (mut all, mut marker) = (Vec::new(), String::new());
        loop {
            let page = list(&format!("&maxresults=2&marker={marker}{delimiter}")).await;
            let found = names(&page);
            assert!(found.len() <= 2);
            all.extend(found);
            marker = page.split("<NextMarker>").nth(1).unwrap().split('<').next().unwrap().to_owned();
            if marker.is_empty() {
                break;
            }
        }
        assert_eq!(all, names(&list(delimiter).await), "{delimiter}");
    }
    assert_eq!(bench.get("/photos?restype=container&comp=list&marker=x").await.code(), "InvalidQueryParameterValue");
    assert_eq!(
        bench.get("/photos?restype=container&comp=list&maxresults=0").await.code(),
        "InvalidQueryParameterValue"
    );
    assert_eq!(names(&bench.get("/?comp=list&include=").await.text()), ["open", "photos", "public"]);
    assert_eq!(names(&bench.get("/?comp=list&prefix=p&maxresults=1").await.text()), ["photos"]);
}

#[tokio::test]
async fn metadata_properties_and_tiers_change_and_the_content_stays() {
    let bench = Bench::new();
    bench.put("/photos/a", "hello").await;
    let before = bench.head("/photos/a").await.field("etag").to_owned();
    let set = bench.act("/photos/a?comp=metadata", &[("x-ms-meta-one", "1")]).await;
    assert_eq!(set.status, 200);
    assert_ne!(set.field("etag"), before);
    assert_eq!(
        bench
            .act(
                "/photos/a?comp=properties",
                &[("x-ms-blob-content-type", "image/png"), ("x-ms-blob-cache-control", "max-age=1")]
            )
            .await
            .status,
        200
    );
    assert_eq!(bench.act("/photos/a?comp=tier", &[("x-ms-access-tier", "cool")]).await.status, 200);
    let got = bench.get("/photos/a").await;
    for (name, value) in [
        ("x-ms-meta-one", "1"),
        ("content-type", "image/png"),
        ("cache-control", "max-age=1"),
        ("x-ms-access-tier", "Cool"),
    ] {
        assert_eq!(got.field(name), value);
    }
    bench.act("/photos/a?comp=tier", &[("x-ms-access-tier", "Archive")]).await;
    assert_eq!(bench.get("/photos/a").await.said(), (409, "BlobArchived"));
    assert_eq!(bench.act("/photos/a?comp=tier", &[("x-ms-access-tier", "Hot")]).await.status, 202);
    assert_eq!(bench.get("/photos/a").await.body, "hello");
}

#[tokio::test]
async fn a_lease_keeps_others_out() {
    let bench = Bench::new();
    bench.put("/photos/a", "one").await;
    let id = "11111111-1111-1111-1111-111111111111";
    let lease = async |path: &str, fields: &[(&str, &str)]| bench.act(path, fields).await;
    let acquired = lease(
        "/photos/a?comp=lease",
        &[("x-ms-lease-action", "acquire"), ("x-ms-lease-duration", "15"), ("x-ms-proposed-lease-id", id)],
    )
    .await;
    assert_eq!((acquired.status.as_u16(), acquired.field("x-ms-lease-id")), (201, id));
    assert_eq!(bench.put("/photos/a", "two").await.said(), (412, "LeaseIdMissing"));
    assert_eq!(bench.delete("/photos/a").await.said(), (412, "LeaseIdMissing"));
    assert_eq!(bench.put_with("/photos/a", "two", &[("x-ms-lease-id", id)]).await.status, 201);
    assert_eq!(bench.head("/photos/a").await.field("x-ms-lease-state"), "leased", "it outlives an overwrite");
    bench.clock.set_offset_ms(16_000);
    let owner = bench.by("service.owner", &[]);
    let late = bench.call(&owner, "PUT", "/photos/a", &[("x-ms-blob-type", "BlockBlob")], "three").await;
    assert_eq!(late.status, 201, "its time is over");
    // A container's lease keeps it from being deleted, and nothing else.
    assert_eq!(bench.act("/made?restype=container", &[]).await.status, 201);
    let acquired =
        lease("/made?restype=container&comp=lease", &[("x-ms-lease-action", "acquire"), ("x-ms-lease-duration", "-1")])
            .await;
    let id = acquired.field("x-ms-lease-id").to_owned();
    assert_eq!(bench.put("/made/a", "x").await.status, 201);
    assert_eq!(bench.delete("/made?restype=container").await.said(), (412, "LeaseIdMissing"));
    let broken = lease(
        "/made?restype=container&comp=lease",
        &[("x-ms-lease-action", "break"), ("x-ms-lease-break-period", "0")],
    )
    .await;
    assert_eq!((broken.status.as_u16(), broken.field("x-ms-lease-time")), (202, "0"));
    let with = bench.call(&bench.owner, "DELETE", "/made?restype=container", &[("x-ms-lease-id", &id)], "").await;
    assert_eq!(with.said(), (412, "LeaseLost"));
    assert_eq!(bench.delete("/made?restype=container").await.status, 202);
    assert_eq!(bench.get("/made/a").await.said(), (404, "ContainerNotFound"));
    assert_eq!(bench.files(), 1);
    assert_eq!(bench.delete("/photos?restype=container").await.said(), (409, "ContainerIsDeclared"));
}

#[tokio::test]
async fn a_copy_shares_what_it_copies_and_outlives_it() {
    let bench = Bench::new();
    let content = "x".repeat(1_000_000);
    bench
        .put_with("/photos/a", content.clone(), &[("x-ms-meta-m", "v"), ("x-ms-blob-content-type", "image/png")])
        .await;
    let source = format!("https://{}/photos/a", super::bench::HOST);
    let copied = bench.act("/public/b", &[("x-ms-copy-source", &source)]).await;
    assert_eq!((copied.status.as_u16(), copied.field("x-ms-copy-status")), (202, "success"));
    assert_eq!(bench.files(), 1, "the content is there once");
    assert_eq!(bench.delete("/photos/a").await.status, 202);
    let got = bench.get("/public/b").await;
    assert!(got.body == content.as_bytes());
    assert_eq!(
        (got.field("x-ms-meta-m"), got.field("content-type"), got.field("x-ms-copy-status")),
        ("v", "image/png", "success")
    );
    bench.delete("/public/b").await;
    assert_eq!(bench.files(), 0);
    // Who may not read the source gets no copy of it; elsewhere nothing is fetched.
    bench.put("/public/secret", "s").await;
    let web = bench.by("service.web", &[]);
    let stolen = format!("https://{}/made/secret", super::bench::HOST);
    bench.act("/made?restype=container", &[]).await;
    bench.put("/made/secret", "s").await;
    let refused = bench.call(&web, "PUT", "/photos/stolen", &[("x-ms-copy-source", &stolen)], "").await;
    assert_eq!(refused.said(), (403, "CannotVerifyCopySource"));
    for elsewhere in [
        "https://example.com/a/b",
        "http://files.blob.dev.shop.internal/photos/a",
        "file:///etc/passwd",
        "https://files.blob.dev.shop.internal:99999/photos/a",
    ] {
        let refused = bench.act("/photos/x", &[("x-ms-copy-source", elsewhere)]).await;
        assert!(refused.status.is_client_error() && refused.status != 404, "{elsewhere}: {}", refused.status);
    }
}
