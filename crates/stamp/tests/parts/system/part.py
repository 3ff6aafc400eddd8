"""What plays a part of the outside: answers HTTP, or says each line again."""
import http.server, os, socketserver, sys

AT = (os.environ["LISTEN_ADDRESS"], int(os.environ["PORT"]))


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"provider {self.path}".encode())


class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(b"echo " + line)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True


(http.server.ThreadingHTTPServer(AT, Answer) if sys.argv[1] == "http" else Server(AT, Echo)).serve_forever()
