"""Answers what it was asked with who asked by which link; /call?link=NAME&path=P calls over a link, /env shows names."""
import hmac, http.server, json, os, ssl, urllib.parse, urllib.request

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        at = urllib.parse.urlparse(self.path)
        query = dict(urllib.parse.parse_qsl(at.query))
        if at.path == "/health":
            return self.say(200, "well")
        if at.path == "/who":
            given = self.headers.get("Authorization", "").removeprefix("Bearer ")
            for name, key in os.environ.items():
                if name.startswith("LINK_") and "_FROM_" in name and name.endswith("_KEY") and hmac.compare_digest(key, given):
                    return self.say(200, name)
            return self.say(401, "nobody")
        if at.path == "/env":
            return self.say(200, json.dumps({k: (v if not k.endswith("_KEY") else len(v)) for k, v in os.environ.items() if k.startswith("LINK_")}))
        if at.path == "/call":
            link = "LINK_" + query["link"].upper()
            url = os.environ[link + "_URL"] + query.get("path", "/who")
            ask = urllib.request.Request(url, headers={"Authorization": "Bearer " + os.environ.get(link + "_KEY", "")})
            try:
                tls = ssl.create_default_context(cafile=os.environ[link + "_CA"]) if url.startswith("https") else None
                with urllib.request.urlopen(ask, timeout=4, context=tls) as answer:
                    return self.say(200, answer.read().decode())
            except Exception as error:
                return self.say(502, repr(error))
        self.say(404, "no")
    def say(self, status, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer((os.environ["LISTEN_ADDRESS"], int(os.environ["PORT"])), Handler).serve_forever()
