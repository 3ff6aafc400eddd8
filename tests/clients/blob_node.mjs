// Azure's JavaScript SDK for blobs: by managed identity, by the account's key, by signed URLs.
import crypto from "node:crypto";

import { DefaultAzureCredential } from "@azure/identity";
import {
  BlobClient,
  BlobSASPermissions,
  BlobServiceClient,
  generateBlobSASQueryParameters,
} from "@azure/storage-blob";

import { done, expect, need, status } from "./judge.mjs";

need("IDENTITY_ENDPOINT", "IDENTITY_HEADER");
const [url, keptUrl, connection] = need("BLOB_URL", "BLOB_KEPT_URL", "BLOB_CONNECTION");
const credential = new DefaultAzureCredential();
const service = new BlobServiceClient(url, credential);
const run = crypto.randomBytes(6).toString("hex");
const name = `judge-${run}`;

const code = async (call) => {
  try {
    await call;
    return undefined;
  } catch (error) {
    return error.code ?? error.statusCode;
  }
};

const box = service.getContainerClient(name);
await box.create({ metadata: { who: "judge" } });
expect((await code(box.create())) === "ContainerAlreadyExists", "a container is made twice");

const small = box.getBlockBlobClient("small ä&<>.txt");
await small.upload("hello blob", 10, {
  blobHTTPHeaders: { blobContentType: "text/plain" },
  metadata: { a: "1" },
  conditions: { ifNoneMatch: "*" },
});
expect((await code(small.upload("x", 1, { conditions: { ifNoneMatch: "*" } }))) === "BlobAlreadyExists", "it is put twice");
const known = await small.getProperties();
expect(known.contentLength === 10 && known.contentType === "text/plain", "properties differ from what was put");
expect(known.metadata.a === "1", "metadata is lost");
expect((await small.downloadToBuffer()).toString() === "hello blob", "another content comes back");
expect((await small.downloadToBuffer(6, 4)).toString() === "blob", "a range is another");
expect((await status(small.download(0, undefined, { conditions: { ifMatch: '"0x1"' } }))) === 412, "If-Match is not met and answered");

// Large, in blocks, from a stream and from memory.
const content = crypto.randomBytes(9 * 1024 * 1024 + 3);
const large = box.getBlockBlobClient("d/large");
await large.uploadData(content, { blockSize: 2 * 1024 * 1024, maxSingleShotSize: 1024 * 1024, concurrency: 4 });
expect(Buffer.compare(await large.downloadToBuffer(), content) === 0, "a large blob comes back as another");
expect((await large.getBlockList("all")).committedBlocks.length === 5, "its blocks are others");

await box.getBlockBlobClient("d/1").upload("1", 1);
const folders = [];
for await (const item of box.listBlobsByHierarchy("/")) folders.push(`${item.kind} ${item.name}`);
expect(folders.join() === "prefix d/,blob small ä&<>.txt", `folders are ${folders}`);
let pages = 0;
for await (const page of box.listBlobsFlat({ includeMetadata: true }).byPage({ maxPageSize: 2 })) pages += page.segment.blobItems.length;
expect(pages === 3, `pages hold ${pages} blobs`);

const lease = small.getBlobLeaseClient();
await lease.acquireLease(15);
expect((await code(small.delete())) === "LeaseIdMissing", "a leased blob is deleted by another");
await lease.releaseLease();
const copied = await (await box.getBlobClient("copy").beginCopyFromURL(large.url)).pollUntilDone();
expect(copied.copyStatus === "success", `a copy is ${copied.copyStatus}`);
await small.delete();
expect(!(await small.exists()), "a deleted blob exists");
await small.undelete();
expect((await small.downloadToBuffer()).toString() === "hello blob", "what is brought back is another");

// The account's key, and what is signed by it or by a key of one's own.
const keyed = BlobServiceClient.fromConnectionString(connection);
const byKey = keyed.getContainerClient(name).getBlockBlobClient("by key/ä b");
await byKey.upload("key", 3, { metadata: { ab: "1", a_b: "2" } });
expect((await byKey.downloadToBuffer()).toString() === "key", "the key reads another");
const signed = await byKey.generateSasUrl({ permissions: BlobSASPermissions.parse("r"), expiresOn: new Date(Date.now() + 300_000) });
expect((await new BlobClient(signed).downloadToBuffer()).toString() === "key", "a signed URL does not open its blob");
expect((await status(new BlobClient(signed).delete())) === 403, "a URL signed for reading deletes");
expect((await status(new BlobClient(signed.replace("by%20key", "d")).getProperties())) === 403, "it opens another blob");
const [begins, ends] = [new Date(Date.now() - 60_000), new Date(Date.now() + 300_000)];
const own = await service.getUserDelegationKey(begins, ends);
const query = generateBlobSASQueryParameters(
  { containerName: name, blobName: "d/1", permissions: BlobSASPermissions.parse("r"), expiresOn: ends },
  own,
  "files",
);
expect((await new BlobClient(`${box.url}/d/1?${query}`).downloadToBuffer()).toString() === "1", "a delegated URL does not open");
expect((await status(new BlobClient(`${box.url}/d/1`).getProperties())) === 401, "a blob is read without credentials");

const kept = new BlobServiceClient(keptUrl, credential);
const blob = kept.getContainerClient("work").getBlockBlobClient(name);
const first = (await blob.upload("one", 3)).versionId;
await blob.upload("two", 3);
expect((await blob.withVersion(first).downloadToBuffer()).toString() === "one", "a version is not kept");
expect((await status(kept.getContainerClient("others").getBlockBlobClient("x").upload("x", 1))) === 403, "a container of others is written");

await box.delete();
expect((await code(box.getProperties())) === "ContainerNotFound", "a deleted container is there");
done("containers, blocks, ranges, folders, lease, copy, undelete, versions; identity, key, signed and delegated URLs");
