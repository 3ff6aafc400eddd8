"""The page behind the edge that judges look at, and its health."""

import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Page(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        known = self.path in ("/", "/health")
        body = b"judges are welcome\n" if known else b"there is no such page\n"
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *arguments):
        pass


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
address = os.environ.get("LISTEN_ADDRESS", "127.0.0.1"), int(os.environ.get("PORT", "8080"))
ThreadingHTTPServer(address, Page).serve_forever()
