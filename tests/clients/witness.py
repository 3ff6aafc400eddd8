"""The witness application (systems/witness) through the edge: settings resolved, and the same secret read by its own
SDK. It is judged from outside, by what it shows."""

import json
import os
import ssl
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from judge import SKIP, done, expect, need

url, ca = need("PUBLIC_URL", "SSL_CERT_FILE")
if not os.environ.get("GREETING"):
    print("this is not the witness")
    raise SystemExit(SKIP)
try:
    with urlopen(url.rstrip("/") + "/", context=ssl.create_default_context(cafile=ca), timeout=30) as answer:
        text = answer.read().decode()
except (HTTPError, URLError) as error:
    text = ""
    expect(False, f"{url} does not answer: {error}")
shown = json.loads(text)
for name, setting in shown["settings"].items():
    expect(setting["found"], f"{name} is not set")
    expect(not setting["reference"], f"{name} was not resolved")
expect(shown["secret"]["found"], f"the vault gave nothing: {shown['secret'].get('error')}")
expect(shown["secret"]["same_as_setting"], "the reference and the SDK lead to different values")
expect(len(shown["trace_id"]) == 32, "there is no trace")
secrets = [os.environ[n] for n in ("GREETING", "SIGNING_KEY", "OIDC_CLIENT_SECRET") if os.environ.get(n)]
expect(not any(secret in text for secret in secrets), "a secret's value is on the page")
done(f"{len(shown['settings'])} settings resolved, one secret by reference and by SDK")
