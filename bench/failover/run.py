#!/usr/bin/env python3
"""How long a database with a standby takes no writes when its primary dies, and what is lost.

    bench/failover/run.py                  20 rounds: the primary is killed with all its processes while two clients write
    bench/failover/run.py --rounds 5       fewer
    bench/failover/run.py --planned        `stamp switchover` instead of a kill
    bench/failover/run.py --asynchronous   writes do not wait for the standby
    bench/failover/run.py --saturate 600   no kill: both CPUs busy with four processes each for so long; counts failovers

A STAMP_HOME of its own, made and removed here; the engines are shared by a link. A client is PostgreSQL's psql: it writes one row
after the other, notes when each was acknowledged, and when its connection ends looks the database's name up anew, as any
application does. The outage of a round is the longest time between two acknowledged writes of a client, the median client's
of the two. Lost is what was acknowledged and is not in the table at the end. Ends 1 if a write is lost that waited for the
standby, the median outage is over a second, or anything was taken over under saturation.
"""
import argparse, json, os, shutil, signal, statistics, subprocess, sys, tempfile, threading, time
from urllib.parse import urlsplit

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MANIFEST = """
stamp = 1
system = "pair"
[stamps.dev]
[service.web]
run   = ["sleep", "100000"]
needs = ["postgres.main", "vault.main"]
[service.web.env]
DB = "@Microsoft.KeyVault(VaultName=main;SecretName=Db)"
[postgres.main]
version           = { want = 16, accept = [15, 17, 18] }
high_availability = "zone-redundant"
standby           = { synchronous = %s }
access            = [{ to = "service.web", right = "owner" }]
[vault.main]
access = [{ to = "service.web", role = "Key Vault Secrets User" }]
[vault.main.secrets]
Db = { from = "postgres.main", what = "connection-string", for = "service.web", format = "url" }
"""


def say(text):
    print(text, file=sys.stderr, flush=True)


class Stage:
    def __init__(self, stamp, engines, synchronous):
        self.stamp, self.synchronous = stamp, synchronous
        self.folder = tempfile.mkdtemp(prefix="bench-failover-")
        os.chmod(self.folder, 0o755)
        self.home = os.path.join(self.folder, "home")
        os.mkdir(self.home)
        os.symlink(engines, os.path.join(self.home, "engines"))
        self.engines = engines
        with open(os.path.join(self.folder, "system.toml"), "w") as f:
            f.write(MANIFEST % ("true" if synchronous else "false"))

    def run(self, *arguments):
        env = dict(os.environ, STAMP_HOME=self.home, NO_COLOR="1")
        done = subprocess.run([self.stamp, *arguments], env=env, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"stamp {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def members(self):
        status = json.loads(self.run("status", "pair", "--json"))
        return {r["name"]: dict(r["member"], pids=r["pids"]) for r in status["resources"] if r.get("member")}

    def settled(self):
        """Waits until one leads and the other follows it closely; who leads."""
        until = time.time() + 120
        while time.time() < until:
            all = self.members()
            lead = [n for n, m in all.items() if m["part"] == "primary"]
            follow = [m for m in all.values() if m["part"] == "standby"]
            near = [m for m in follow if m["synchronous"] or (not self.synchronous and m["lag_bytes"] is not None)]
            if lead and near:
                return lead[0]
            time.sleep(0.1)
        raise SystemExit(f"no standby follows: {all}")

    def end(self):
        subprocess.run([self.stamp, "destroy", "pair", "--yes"], env=dict(os.environ, STAMP_HOME=self.home), capture_output=True)
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = open(f"/proc/{pid}/cmdline").read().split("\0")
            except OSError:
                continue
            if "supervisor" in words and self.home in words:
                os.kill(int(pid), signal.SIGTERM)
        time.sleep(0.5)
        shutil.rmtree(self.folder, ignore_errors=True)


class Client(threading.Thread):
    """Writes rows of its own numbers until told to stop."""

    def __init__(self, stage, url, first):
        super().__init__(daemon=True)
        self.stage, self.url, self.n, self.stop = stage, urlsplit(url), first, False
        self.acknowledged = []
        self.public = os.path.join(stage.home, "stamps/pair.dev/public")
        engine = sorted(n for n in os.listdir(stage.engines) if n.startswith("postgresql-"))[-1]
        folder = os.path.join(stage.engines, engine)
        own = os.path.join(folder, "tools")
        self.psql = os.path.join(own if os.path.isdir(own) else folder, "bin/psql")
        self.library = f"{own}/lib:{folder}/lib"

    def address(self):
        for line in open(os.path.join(self.public, "hosts")):
            if line.strip().endswith(" " + self.url.hostname):
                return line.split()[0]

    def connect(self):
        env = {
            "PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": self.library, "PGHOST": self.url.hostname,
            "PGHOSTADDR": self.address(), "PGPORT": str(self.url.port), "PGUSER": self.url.username,
            "PGPASSWORD": self.url.password, "PGDATABASE": self.url.path[1:], "PGSSLMODE": "verify-full",
            "PGSSLROOTCERT": os.path.join(self.public, "ca.pem"), "PGCONNECT_TIMEOUT": "2",
        }
        return subprocess.Popen(
            [self.psql, "-XAt", "-v", "ON_ERROR_STOP=1"], env=env, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def ask(self, sql):
        psql = self.connect()
        return psql.communicate(sql)[0].split()

    def run(self):
        psql = self.connect()
        while not self.stop:
            try:
                psql.stdin.write(f"INSERT INTO ledger VALUES ({self.n});\n")
                psql.stdin.flush()
                good = psql.stdout.readline().startswith("INSERT")
            except OSError:
                good = False
            if good:
                self.acknowledged.append((self.n, time.monotonic()))
            else:
                psql.kill()
                psql.wait()
                psql = self.connect()
            self.n += 1
        psql.kill()
        psql.wait()

    def longest_gap(self, since):
        times = [t for _, t in self.acknowledged if t >= since - 1]
        return max(b - a for a, b in zip(times, times[1:]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--planned", action="store_true")
    parser.add_argument("--asynchronous", action="store_true")
    parser.add_argument("--saturate", type=int, default=0)
    parser.add_argument("--stamp", default=os.path.join(ROOT, "target/debug/stamp"))
    parser.add_argument("--engines", default=os.environ.get("STAMP_ENGINES", "/var/lib/stampwright/engines"))
    a = parser.parse_args()
    say(f"load average {os.getloadavg()[0]:.1f}")
    stage = Stage(a.stamp, a.engines, not a.asynchronous)
    busy, failed = [], False
    try:
        stage.run("up", stage.folder)
        url = stage.run("exec", "pair", "web", "--", "/bin/sh", "-c", 'printf %s "$DB"').strip().split("?")[0]
        clients = [Client(stage, url, n * 10_000_000) for n in (1, 2)]
        clients[0].ask("CREATE TABLE ledger (n bigint PRIMARY KEY);")
        stage.settled()
        for client in clients:
            client.start()
        if a.saturate:
            term = max(m["term"] for m in stage.members().values())
            busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4 * (os.cpu_count() or 1))]
            time.sleep(a.saturate)
            for process in busy:
                process.kill()
            changes = max(m["term"] for m in stage.members().values()) - term
            gap = max(c.longest_gap(0) for c in clients)
            print(f"{a.saturate} s with {len(busy)} busy processes: {changes} failovers, longest write {gap * 1000:.0f} ms")
            failed = changes > 0
        outages = []
        for n in range(0 if a.saturate else a.rounds):
            lead = stage.settled()
            time.sleep(1)
            at = time.monotonic()
            if a.planned:
                stage.run("switchover", "pair")
            else:
                for pid in stage.members()[lead]["pids"]:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
            while any(not c.acknowledged or c.acknowledged[-1][1] < at + 2 for c in clients):
                time.sleep(0.05)
            outage = statistics.median(c.longest_gap(at) for c in clients) * 1000
            outages.append(outage)
            say(f"round {n + 1}: {lead} ended, no write for {outage:.0f} ms")
        for client in clients:
            client.stop = True
            client.join()
        there = set(map(int, clients[0].ask("SELECT n FROM ledger;")))
        written = [n for c in clients for n, _ in c.acknowledged]
        lost = sum(n not in there for n in written)
        if outages:
            outages.sort()
            p95 = outages[min(len(outages) - 1, round(0.95 * (len(outages) - 1)))]
            print(f"{len(outages)} rounds, {'planned' if a.planned else 'killed'}, "
                  f"{'asynchronous' if a.asynchronous else 'synchronous'}: write outage p50 {statistics.median(outages):.0f} ms, "
                  f"p95 {p95:.0f} ms, max {outages[-1]:.0f} ms; {lost} of {len(written)} acknowledged writes lost")
            failed |= statistics.median(outages) > 1000
        failed |= lost > 0 and not a.asynchronous
    finally:
        for process in busy:
            process.kill()
        stage.end()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
