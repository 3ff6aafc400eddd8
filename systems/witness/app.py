"""A small web application as it would run on Azure App Service: settings from the environment, one secret read with
azure-identity and azure-keyvault-secrets, traces by OpenTelemetry. It knows nothing of where it runs."""

import hashlib
import json
import os
import signal
import site
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# Packages lie beside the application, where `packages.sh` puts them.
site.addsitedir(str(Path(__file__).parent / "packages"))

from azure.core.exceptions import AzureError
from azure.identity import DefaultAzureCredential
from azure.keyvault.secrets import SecretClient
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

SETTINGS = [
    "GREETING",
    "SIGNING_KEY",
    "APPLICATIONINSIGHTS_CONNECTION_STRING",
    "OIDC_ISSUER",
    "OIDC_CLIENT_ID",
    "OIDC_CLIENT_SECRET",
]
VAULT_URL = os.environ.get("KEY_VAULT_URL") or os.environ.get("VAULT_URL")
SECRET_NAME = os.environ.get("SECRET_NAME", "Greeting")

provider = TracerProvider()
if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=1000))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("witness")

credential = DefaultAzureCredential()
secrets = SecretClient(VAULT_URL, credential) if VAULT_URL else None


def described(value):
    """What may be shown of a secret: that it is there, how long it is, and enough to compare two of them."""
    if value is None:
        return {"found": False}
    return {
        "found": True,
        "length": len(value),
        "sha256": hashlib.sha256(value.encode()).hexdigest()[:12],
        "reference": value.startswith("@Microsoft.KeyVault("),
    }


def read_secret():
    """Reads one secret from the vault with the identity of this application."""
    if secrets is None:
        return {"found": False, "error": "KEY_VAULT_URL is not set"}
    with tracer.start_as_current_span("read secret", kind=SpanKind.CLIENT) as span:
        span.set_attribute("server.address", VAULT_URL)
        try:
            value = secrets.get_secret(SECRET_NAME).value
        except AzureError as error:
            span.record_exception(error)
            span.set_status(Status(StatusCode.ERROR))
            return {"found": False, "error": type(error).__name__}
        shown = described(value)
        shown["same_as_setting"] = value == os.environ.get("GREETING")
        return shown


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = self.path.split("?", 1)[0]
        if path == "/health":
            self.answer(200, {"status": "ok"})
            return
        parent = propagate.extract(dict(self.headers.items()))
        with tracer.start_as_current_span(f"GET {path}", context=parent, kind=SpanKind.SERVER) as span:
            if path == "/":
                status, body = 200, {
                    "settings": {name: described(os.environ.get(name)) for name in SETTINGS},
                    "secret": read_secret(),
                    "trace_id": format(span.get_span_context().trace_id, "032x"),
                }
            else:
                status, body = 404, {"error": "there is no such page"}
            span.set_attribute("http.request.method", "GET")
            span.set_attribute("url.path", path)
            span.set_attribute("http.response.status_code", status)
            self.answer(status, body)

    do_HEAD = do_GET

    def answer(self, status, body):
        data = json.dumps(body, indent=2).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, message, *arguments):
        print(message % arguments, flush=True)


def main():
    address = os.environ.get("LISTEN_ADDRESS", "127.0.0.1")
    port = int(os.environ.get("PORT") or os.environ.get("WEBSITES_PORT") or 8080)
    server = ThreadingHTTPServer((address, port), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"listening on {address}:{port}", flush=True)
    server.serve_forever()
    server.server_close()
    provider.shutdown()


if __name__ == "__main__":
    main()
