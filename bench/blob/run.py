#!/usr/bin/env python3
"""PUT and GET of blobs: CPU a request of the blob role beside npm's Azurite, in one run, by the same client.

    bench/blob/run.py --stamp target/debug/stamp --azurite PATH/node_modules/azurite
                      [--requests 400] [--rounds 3] [--size 65536] [--connections 8]

Both answer over TLS on loopback, are asked with the account's key, and keep what they get on the same disk. The role
verifies each request's signature, flushes each blob before it answers and records each act for audit; Azurite does the
first only. The order changes with every round; the median of the rounds is told. CPU is that of the server's processes.
"""

import argparse
import base64
import hashlib
import hmac
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from email.utils import formatdate

SYSTEM = """stamp = 1
system = "blobbench"
title = "Blob bench"
[stamps.dev]
[identity.main]
groups = ["admin"]
admin_group = "admin"
[vault.main.secrets]
Blob = { from = "blob.main", what = "connection-string" }
[blob.main]
containers = { bench = {} }
"""
TICK = os.sysconf("SC_CLK_TCK")
VERSION = "2021-12-02"


def stop(why, mend):
    print(f"error: {why}\nhint: {mend}", file=sys.stderr)
    sys.exit(2)


class Server:
    """Where a server is, what opens it, and what it costs."""

    def __init__(self, name, host, port, base, account, key, pids, context):
        self.name, self.host, self.port, self.base = name, host, port, base
        self.account, self.key, self.pids, self.context = account, base64.b64decode(key), pids, context

    def cpu(self):
        total = 0
        for pid in self.pids:
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICK

    def connect(self):
        return http.client.HTTPSConnection(self.host, self.port, context=self.context, timeout=60)

    def send(self, connection, method, path, body=b"", query=""):
        fields = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": VERSION}
        if method == "PUT" and not query:
            fields["x-ms-blob-type"] = "BlockBlob"
        length = str(len(body)) if body else ""
        canonical = "".join(f"{name}:{fields[name]}\n" for name in sorted(fields))
        resource = f"/{self.account}{self.base}{path}" + "".join(f"\n{pair.replace('=', ':', 1)}" for pair in sorted(query.split("&")) if pair)
        text = f"{method}\n\n\n{length}\n\n\n\n\n\n\n\n\n{canonical}{resource}"
        signature = base64.b64encode(hmac.new(self.key, text.encode(), hashlib.sha256).digest()).decode()
        fields["Authorization"] = f"SharedKey {self.account}:{signature}"
        connection.request(method, f"{self.base}{path}" + (f"?{query}" if query else ""), body if method == "PUT" else None, fields)
        answer = connection.getresponse()
        return answer.status, answer.read()


def load(server, method, requests, connections, size, run):
    """Sends the requests; seconds, seconds of the server's CPU, milliseconds of each."""
    content, taken, faults = os.urandom(size), [], []
    lock = threading.Lock()

    def work(first):
        connection, own = server.connect(), []
        try:
            for n in range(first, requests, connections):
                begun = time.perf_counter()
                status, body = server.send(connection, method, f"/bench/{run}-{n}", content if method == "PUT" else b"")
                own.append((time.perf_counter() - begun) * 1000)
                if status != (201 if method == "PUT" else 200) or (method == "GET" and len(body) != size):
                    raise RuntimeError(f"{server.name} answered {method} with {status} and {len(body)} bytes: {body[:200]}")
        except Exception as error:
            faults.append(error)
        with lock:
            taken.extend(own)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(connections)]
    cpu, begun = server.cpu(), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, cpu = time.perf_counter() - begun, server.cpu() - cpu
    if faults:
        raise faults[0]
    return seconds, cpu, taken


def processes(words):
    """The processes whose command line holds all of these words."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    line = file.read().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if all(word in line for word in words):
                found.append(int(entry))
    return found


def our_own(stamp, home):
    """A stamp with one account, in a home of its own."""
    folder = os.path.join(home, "system")
    os.makedirs(folder)
    with open(os.path.join(folder, "system.toml"), "w") as file:
        file.write(SYSTEM)
    environment = {**os.environ, "STAMP_HOME": home}
    made = subprocess.run([stamp, "up", folder], env=environment, capture_output=True, text=True)
    if made.returncode != 0:
        stop(f"the stamp does not come up: {made.stderr[-800:]}{made.stdout[-800:]}", "run `stamp up` on the system in this script")
    said = subprocess.run([stamp, "secret", "show", "blobbench", "Blob"], env=environment, capture_output=True, text=True).stdout
    parts = dict(part.split("=", 1) for part in said.strip().split(";"))
    config = os.path.join(home, "stamps/blobbench.dev/blob.main/config.json")
    with open(config) as file:
        hosts = json.load(file)["config"]["hosts"]
    address = next(host for host in hosts if re.fullmatch(r"[0-9.]+", host))
    port = re.search(r":(\d+)$", parts["BlobEndpoint"])
    context = ssl.create_default_context(cafile=os.path.join(home, "stamps/blobbench.dev/public/ca.pem"))
    pids = [pid for pid in processes(["serve blob --config", config])]
    account = parts["AccountName"]
    return Server("stampwright", address, int(port[1]) if port else 443, f"/{account}", account, parts["AccountKey"], pids, context)


def azurite(module, home):
    """Azurite on a port of its own, over TLS."""
    key, cert = os.path.join(home, "key.pem"), os.path.join(home, "cert.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    secret = base64.b64encode(os.urandom(64)).decode()
    process = subprocess.Popen(
        ["node", os.path.join(module, "dist/src/blob/main.js"), "--blobHost", "127.0.0.1", "--blobPort", str(port),
         "--location", os.path.join(home, "azurite"), "--cert", cert, "--key", key, "--silent", "--skipApiVersionCheck"],
        env={**os.environ, "AZURITE_ACCOUNTS": f"bench:{secret}"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    server = Server("azurite", "127.0.0.1", port, "/bench", "bench", secret, [process.pid], ssl.create_default_context(cafile=cert))
    for _ in range(100):
        try:
            server.send(server.connect(), "PUT", "/bench", b"", "restype=container")
            return server, process
        except OSError:
            time.sleep(0.1)
    process.kill()
    stop("azurite does not answer", f"node {module}/dist/src/blob/main.js says why")


def main():
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reader.add_argument("--stamp", default="target/debug/stamp")
    reader.add_argument("--azurite", required=True, help="the package's folder (npm install azurite)")
    for name, usual in (("requests", 400), ("rounds", 3), ("size", 65536), ("connections", 8)):
        reader.add_argument(f"--{name}", type=int, default=usual)
    asked = reader.parse_args()
    if not os.path.exists(os.path.join(asked.azurite, "dist/src/blob/main.js")):
        stop(f"{asked.azurite} is not the package azurite", "npm install azurite, and name node_modules/azurite")
    stamp = os.path.abspath(asked.stamp)
    home = tempfile.mkdtemp(prefix="blob-bench.")
    os.chmod(home, 0o755)
    environment = {**os.environ, "STAMP_HOME": home}
    process = None
    try:
        ours = our_own(stamp, home)
        theirs, process = azurite(asked.azurite, home)
        found = {}
        for turn in range(asked.rounds):
            order = [ours, theirs] if turn % 2 == 0 else [theirs, ours]
            for method in ("PUT", "GET"):
                for server in order:
                    seconds, cpu, taken = load(server, method, asked.requests, asked.connections, asked.size, f"r{turn}")
                    taken.sort()
                    row = (cpu / asked.requests * 1000, asked.requests / seconds, taken[len(taken) // 2], taken[int(len(taken) * 0.99)])
                    found.setdefault((method, server.name), []).append(row)
        print(f"{asked.size} bytes, {asked.requests} requests a round, {asked.rounds} rounds, {asked.connections} connections; medians\n")
        print("| request | server | CPU a request, ms | requests a second | p50, ms | p99, ms |")
        print("|---|---|---|---|---|---|")
        for (method, name), rows in found.items():
            median = [statistics.median(column) for column in zip(*rows)]
            print(f"| {method} | {name} | {median[0]:.2f} | {median[1]:.0f} | {median[2]:.1f} | {median[3]:.1f} |")
    finally:
        if process:
            process.terminate()
            process.wait()
        subprocess.run([stamp, "destroy", "blobbench", "--yes"], env=environment, capture_output=True)
        for pid in processes([f"serve supervisor --home {home}"]):
            os.kill(pid, 15)
        shutil.rmtree(home, ignore_errors=True)


main()
