// Azure's JavaScript SDK against the vault: the whole life of a secret, with a managed identity and no option.
import { randomUUID } from "node:crypto";
import { DefaultAzureCredential } from "@azure/identity";
import { SecretClient } from "@azure/keyvault-secrets";
import { done, expect, need, status } from "./judge.mjs";

need("IDENTITY_ENDPOINT", "IDENTITY_HEADER");
const url = process.env.KEY_VAULT_URL ?? need("VAULT_URL")[0];
const client = new SecretClient(url, new DefaultAzureCredential());
const name = `judge-${randomUUID().slice(0, 12)}`;

let first;
try {
  first = await client.setSecret(name, "one", { tags: { judge: "node" } });
} catch (error) {
  if (error.statusCode !== 403) throw error;
  console.log("this service may not set secrets");
  process.exit(77);
}
const second = await client.setSecret(name, "zwei ✓");
expect(first.properties.version !== second.properties.version, "two values have one version");
expect((await client.getSecret(name)).value === "zwei ✓", "the latest value is not the one set last");
const older = await client.getSecret(name, { version: first.properties.version });
expect(older.value === "one" && older.properties.tags.judge === "node", "an older version is not its own");

const versions = [];
for await (const version of client.listPropertiesOfSecretVersions(name)) versions.push(version.version);
expect(versions.length === 2, `two versions are listed as ${versions.length}`);

await client.updateSecretProperties(name, second.properties.version, { enabled: false });
expect((await status(client.getSecret(name))) === 403, "a disabled secret was given out");
await client.updateSecretProperties(name, second.properties.version, { enabled: true });

const backup = await client.backupSecret(name);
await (await client.beginDeleteSecret(name)).pollUntilDone();
expect((await status(client.getSecret(name))) === 404, "a deleted secret was given out");
await (await client.beginRecoverDeletedSecret(name)).pollUntilDone();
expect((await client.getSecret(name)).value === "zwei ✓", "a recovered secret has another value");

await (await client.beginDeleteSecret(name)).pollUntilDone();
await client.purgeDeletedSecret(name);
await client.restoreSecretBackup(backup);
expect((await client.getSecret(name)).value === "zwei ✓", "a backup does not restore");
let listed = false;
for await (const secret of client.listPropertiesOfSecrets()) listed ||= secret.name === name;
expect(listed, "a secret is not listed");

await (await client.beginDeleteSecret(name)).pollUntilDone();
await client.purgeDeletedSecret(name);
done("set, get, versions, update, disable, delete, recover, purge, backup, restore, list");
