"""Azure's Python SDK for blobs: by managed identity, by the account's key, by signed URLs."""

import hashlib
import os
import uuid
from datetime import datetime, timedelta, timezone

from azure.core import MatchConditions
from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.identity import DefaultAzureCredential
from azure.storage.blob import (
    AccountSasPermissions,
    BlobBlock,
    BlobClient,
    BlobSasPermissions,
    BlobServiceClient,
    ContainerSasPermissions,
    ContentSettings,
    ResourceTypes,
    generate_account_sas,
    generate_blob_sas,
    generate_container_sas,
)

from judge import done, expect, need

need("IDENTITY_ENDPOINT", "IDENTITY_HEADER")
url, kept_url, connection = need("BLOB_URL", "BLOB_KEPT_URL", "BLOB_CONNECTION")
service = BlobServiceClient(url, DefaultAzureCredential())
run = uuid.uuid4().hex[:12]


def code(call, *arguments, **named):
    """The service's own word for why it refuses; nothing if it does not."""
    try:
        call(*arguments, **named)
        return None
    except HttpResponseError as error:
        return getattr(error, "error_code", None) or error.status_code


def said(call, *arguments, **named):
    refused = code(call, *arguments, **named)
    return getattr(refused, "value", refused)


# Containers.
box = service.create_container(f"judge-{run}", metadata={"who": "judge"})
expect(said(service.create_container, f"judge-{run}") == "ContainerAlreadyExists", "a container is made twice")
expect(box.get_container_properties().metadata == {"who": "judge"}, "a container's metadata is lost")
expect(any(c.name == f"judge-{run}" for c in service.list_containers(name_starts_with="judge-")), "it is not listed")

# Small: content type, metadata, conditions, ranges.
small = box.get_blob_client("small ä&<>.txt")
settings = ContentSettings(content_type="text/plain; charset=utf-8", cache_control="no-cache")
made = small.upload_blob("hello blob", content_settings=settings, metadata={"a": "1", "b": "zwei"})
expect(code(small.upload_blob, "again") is not None, "a blob is overwritten without being asked to")
known = small.get_blob_properties()
expect(known.size == 10 and known.etag == made["etag"], "properties differ from what was put")
expect(known.content_settings.content_type == settings.content_type, "the content type is lost")
expect(known.metadata == {"a": "1", "b": "zwei"}, f"metadata is {known.metadata}")
expect(small.download_blob().readall() == b"hello blob", "another content comes back")
expect(small.download_blob(offset=6, length=4, validate_content=True).readall() == b"blob", "a range is another")
expect(small.download_blob(offset=6).readall() == b"blob", "an open range is another")
expect(said(small.download_blob, offset=99) == "InvalidRange", "a range outside is answered")
try:
    small.upload_blob("x", overwrite=True, etag='"0x1"', match_condition=MatchConditions.IfNotModified)
    expect(False, "another's change is overwritten")
except ResourceModifiedError:
    pass
small.set_blob_metadata({"c": "3"})
small.set_http_headers(ContentSettings(content_type="image/png"))
known = small.get_blob_properties()
expect(known.metadata == {"c": "3"} and known.content_settings.content_type == "image/png", "what is set is not kept")
small.upload_blob(b"", overwrite=True)
expect(small.download_blob().readall() == b"", "an empty blob is not empty")
small.upload_blob("checked", overwrite=True, validate_content=True)

# Large: several blocks at once, downloaded in parts.
content = os.urandom(1 << 20) * 21 + b"end"
large = BlobServiceClient(
    url, DefaultAzureCredential(), max_single_put_size=4 << 20, max_block_size=2 << 20, max_single_get_size=8 << 20
).get_blob_client(f"judge-{run}", "large")
large.upload_blob(content, max_concurrency=4)
committed, waiting = large.get_block_list("all")
expect(len(committed) == 11 and not waiting, f"{len(committed)} blocks are there, {len(waiting)} wait")
back = large.download_blob(max_concurrency=4).readall()
expect(hashlib.sha256(back).digest() == hashlib.sha256(content).digest(), "a large blob comes back as another")
hand = box.get_blob_client("by hand")
for n in ("one", "two"):
    hand.stage_block(n.zfill(8), n.encode())
expect(said(hand.get_blob_properties) in ("BlobNotFound", 404), "blocks are a blob before their list")
expect(said(hand.commit_block_list, [BlobBlock("missing0")]) == "InvalidBlockList", "a list names what is not there")
hand.commit_block_list([BlobBlock("two".zfill(8)), BlobBlock("one".zfill(8))])
expect(hand.download_blob().readall() == b"twoone", "a list is made in another order")

# Lists.
for name in ("d/1", "d/2", "d/e/3", "f"):
    box.upload_blob(name, name)
walked = [item.name for item in box.walk_blobs()]
expect("d/" in walked and "d/1" not in walked, f"folders are {walked}")
expect([b.name for b in box.list_blobs(name_starts_with="d/")] == ["d/1", "d/2", "d/e/3"], "a prefix lists others")
pages = [len(list(page)) for page in box.list_blobs(results_per_page=3).by_page()]
expect(sum(pages) == 7 and max(pages) == 3, f"pages are {pages}")
listed = next(b for b in box.list_blobs(name_starts_with="small", include=["metadata"]))
expect(listed.name == "small ä&<>.txt" and listed.size == 7, f"{listed.name} has {listed.size} bytes")

# Leases.
lease = hand.acquire_lease(15)
expect(said(hand.delete_blob) == "LeaseIdMissing", "a leased blob is deleted by another")
expect(said(hand.acquire_lease, 15) == "LeaseAlreadyPresent", "a lease is given twice")
lease.renew()
lease.change(str(uuid.uuid4()))
hand.set_blob_metadata({"l": "1"}, lease=lease)
expect(hand.get_blob_properties().lease.state == "leased", "a lease is not shown")
lease.release()
lease = hand.acquire_lease()
expect(lease.break_lease(0) == 0, "a lease without end does not break at once")
held = box.acquire_lease()
expect(said(box.delete_container) == "LeaseIdMissing", "a leased container is deleted by another")
held.release()

# Copies, tiers, snapshots, soft delete.
copied = box.get_blob_client("copy")
status = copied.start_copy_from_url(large.url)
expect(status["copy_status"] == "success", f"a copy is {status['copy_status']}")
expect(copied.get_blob_properties().size == len(content), "a copy has another size")
expect(said(copied.start_copy_from_url, "https://example.com/a/b") == "CannotVerifyCopySource", "it fetches from elsewhere")
copied.set_standard_blob_tier("Archive")
expect(said(copied.download_blob) == "BlobArchived", "an archived blob is read")
copied.set_standard_blob_tier("Hot")
copied.delete_blob()
expect(not copied.exists(), "a deleted blob exists")
expect(any(b.name == "copy" and b.deleted for b in box.list_blobs(include=["deleted"])), "a deleted blob is not listed")
copied.undelete_blob()
expect(copied.get_blob_properties().size == len(content), "what is brought back is another")
taken = copied.create_snapshot()
expect(said(copied.delete_blob) == "SnapshotsPresent", "a blob with snapshots is deleted without being asked")
expect(BlobClient.from_blob_url(f"{copied.url}?snapshot={taken['snapshot']}", DefaultAzureCredential()).exists(), "no snapshot")
copied.delete_blob(delete_snapshots="include")

# Immutable.
fixed = service.get_blob_client("fixed", f"judge-{run}")
fixed.upload_blob("stays")
for change in (fixed.delete_blob, lambda: fixed.upload_blob("x", overwrite=True), lambda: fixed.set_blob_metadata({"a": "1"})):
    expect(said(change) == "BlobImmutableDueToPolicy", "what is immutable is changed")

# By the account's key.
keyed = BlobServiceClient.from_connection_string(connection)
expect(keyed.account_name == "files", f"the account is {keyed.account_name}")
by_key = keyed.get_blob_client(f"judge-{run}", "by key/ä b")
by_key.upload_blob("key", metadata={"ab": "1", "a_b": "2", "b": "3"})
expect(by_key.download_blob().readall() == b"key", "the key reads another")
expect(by_key.get_blob_properties().metadata == {"ab": "1", "a_b": "2", "b": "3"}, "the key's metadata is lost")
expect(sum(1 for _ in keyed.get_container_client(f"judge-{run}").list_blobs(results_per_page=2)) >= 8, "the key lists less")
wrong = BlobServiceClient(url, {"account_name": "files", "account_key": "AAAA"})
expect(said(lambda: list(wrong.list_containers())) == "AuthenticationFailed", "another key opens the account")

# Signed URLs.
soon = datetime.now(timezone.utc) + timedelta(minutes=5)
account_key = keyed.credential.account_key
name = f"judge-{run}"
of_blob = generate_blob_sas("files", name, "f", account_key=account_key, permission=BlobSasPermissions(read=True), expiry=soon)
signed = BlobClient(url, name, "f", credential=of_blob)
expect(signed.download_blob().readall() == b"f", "a signed URL does not open its blob")
expect(said(signed.delete_blob) == "AuthorizationPermissionMismatch", "a URL signed for reading deletes")
expect(said(BlobClient(url, name, "d/1", credential=of_blob).download_blob) == "AuthenticationFailed", "it opens another blob")
of_box = generate_container_sas(
    "files", name, account_key=account_key, permission=ContainerSasPermissions(read=True, list=True, create=True), expiry=soon
)
signed = BlobServiceClient(url, credential=of_box).get_container_client(name)
expect(len(list(signed.list_blobs())) >= 8, "a URL signed for a container does not list it")
signed.get_blob_client("new").upload_blob("new")
expect(said(signed.get_blob_client("f").upload_blob, "x", overwrite=True) is not None, "create overwrites")
of_all = generate_account_sas("files", account_key, ResourceTypes(service=True), AccountSasPermissions(list=True), expiry=soon)
expect(any(c.name == name for c in BlobServiceClient(url, credential=of_all).list_containers()), "an account's URL does not list")
past = datetime.now(timezone.utc) - timedelta(minutes=1)
over = generate_blob_sas("files", name, "f", account_key=account_key, permission="r", expiry=past)
expect(said(BlobClient(url, name, "f", credential=over).download_blob) == "AuthenticationFailed", "an old URL opens")
own = service.get_user_delegation_key(datetime.now(timezone.utc) - timedelta(minutes=1), soon)
delegated = generate_blob_sas("files", name, "f", user_delegation_key=own, permission="r", expiry=soon)
expect(BlobClient(url, name, "f", credential=delegated).download_blob().readall() == b"f", "a delegated URL does not open")

# Everybody.
service.get_blob_client("public", run).upload_blob("for all")
expect(BlobClient(url, "public", run).download_blob().readall() == b"for all", "a public blob is not")
expect(code(BlobClient(url, name, "f").download_blob) is not None, "a blob is read without credentials")

# Versions, in an account where only one container is this service's.
kept = BlobServiceClient(kept_url, DefaultAzureCredential())
blob = kept.get_blob_client("work", f"judge-{run}")
first = blob.upload_blob("one")["version_id"]
second = blob.upload_blob("two", overwrite=True)["version_id"]
expect(blob.download_blob(version_id=first).readall() == b"one", "a version is not kept")
listed = list(kept.get_container_client("work").list_blobs(name_starts_with=blob.blob_name, include=["versions"]))
expect([v.version_id for v in listed] == [first, second], "versions are not listed")
expect([bool(v.is_current_version) for v in listed] == [False, True], "the current version is another")
blob.delete_blob()
expect(not blob.exists() and blob.download_blob(version_id=second).readall() == b"two", "a deletion takes its version")
blob.start_copy_from_url(f"{blob.url}?versionid={first}")
expect(blob.download_blob().readall() == b"one", "a version is not brought back by a copy")
expect(said(kept.get_blob_client("others", "x").upload_blob, "x") == "AuthorizationPermissionMismatch", "a container of others is written")
expect(said(lambda: list(kept.list_containers())) == "AuthorizationPermissionMismatch", "the account is listed with a right to one container")

box.delete_container()
try:
    small.get_blob_properties()
    expect(False, "a blob outlives its container")
except ResourceNotFoundError:
    pass
try:
    service.create_container("work")
    expect(False, "a declared container is made again")
except ResourceExistsError:
    pass
done("containers, blocks, ranges, lists, leases, copies, tiers, versions, soft delete, immutability; identity, key and signed URLs")
