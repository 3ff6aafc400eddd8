"""Azure's Python SDK against the vault: the whole life of a secret, with a managed identity and no option."""

import os
import uuid

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.identity import DefaultAzureCredential
from azure.keyvault.secrets import SecretClient

from judge import SKIP, done, expect, need

need("IDENTITY_ENDPOINT", "IDENTITY_HEADER")
url = os.environ.get("KEY_VAULT_URL") or need("VAULT_URL")[0]
client = SecretClient(url, DefaultAzureCredential())
name = f"judge-{uuid.uuid4().hex[:12]}"

try:
    first = client.set_secret(name, "one", content_type="text/plain", tags={"judge": "python"})
except HttpResponseError as error:
    if error.status_code == 403:
        print("this service may not set secrets")
        raise SystemExit(SKIP) from None
    raise
second = client.set_secret(name, "zwei ✓")
expect(first.properties.version != second.properties.version, "two values have one version")
expect(client.get_secret(name).value == "zwei ✓", "the latest value is not the one set last")
expect(client.get_secret(name, first.properties.version).value == "one", "an older version is not its own value")
expect(client.get_secret(name, first.properties.version).properties.tags == {"judge": "python"}, "tags are lost")

versions = [v.version for v in client.list_properties_of_secret_versions(name)]
expect(sorted(versions) == sorted([first.properties.version, second.properties.version]), "versions are not listed")

updated = client.update_secret_properties(name, content_type="application/json", enabled=False)
expect(updated.content_type == "application/json" and not updated.enabled, "properties are not updated")
try:
    client.get_secret(name)
    expect(False, "a disabled secret was given out")
except HttpResponseError as error:
    expect(error.status_code == 403, f"a disabled secret answers {error.status_code}")
client.update_secret_properties(name, enabled=True)

backup = client.backup_secret(name)
client.begin_delete_secret(name).wait()
try:
    client.get_secret(name)
    expect(False, "a deleted secret was given out")
except ResourceNotFoundError:
    pass
expect(any(d.name == name for d in client.list_deleted_secrets()), "a deleted secret is not listed")
try:
    client.set_secret(name, "three")
    expect(False, "a deleted name was set again")
except HttpResponseError as error:
    expect(error.status_code == 409, f"setting a deleted name answers {error.status_code}")
client.begin_recover_deleted_secret(name).wait()
expect(client.get_secret(name).value == "zwei ✓", "a recovered secret has another value")

client.begin_delete_secret(name).wait()
client.purge_deleted_secret(name)
try:
    client.get_deleted_secret(name)
    expect(False, "a purged secret is still there")
except ResourceNotFoundError:
    pass
restored = client.restore_secret_backup(backup)
expect(restored.name == name and client.get_secret(name).value == "zwei ✓", "a backup does not restore")

# More than one page (25 by default): paging must neither lose nor repeat.
for index in range(30):
    client.set_secret(f"{name}-{index}", "x")
listed = [p.name for p in client.list_properties_of_secrets() if p.name.startswith(f"{name}-")]
expect(len(listed) == 30 and len(set(listed)) == 30, f"30 secrets are listed as {len(listed)}")
for each in [*listed, name]:
    client.begin_delete_secret(each).wait()
    client.purge_deleted_secret(each)

try:
    SecretClient(url, DefaultAzureCredential()).get_secret(name)
    expect(False, "a purged secret was given out")
except ResourceNotFoundError as error:
    expect(error.error.code == "SecretNotFound", f"an unknown secret is {error.error.code}")
done("set, get, versions, update, disable, delete, recover, purge, backup, restore, paging")
