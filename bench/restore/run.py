#!/usr/bin/env python3
"""A database of 1 GiB brought back to a given moment, by `stamp restore` and by pgBackRest, in turns on one machine.

    bench/restore/run.py                 3 rounds of each
    bench/restore/run.py --mib 128       a smaller database
    bench/restore/run.py --archive 20    instead: pgbench with the archive on and off, in turns of so many seconds

Each round: the server is there, a base backup and the log after it (a tenth of the data again) are in the repository; the clock
runs from the command until the restored server answers a query, and the rows are those of the moment. pgBackRest restores into an empty
folder, as ours does (beside what there is). Both repositories are compressed and encrypted; settings of the servers are the same.
pgBackRest comes from Debian's package (2.44 knows PostgreSQL up to 15, so that both run Debian's 15: `STAMP_ENGINE_FROM=debian
engines/bring postgresql FOLDER`, then `--engines FOLDER`), unpacked into the bench's own folder (`apt-get download`), and its configuration is pgbackrest.conf.
Needs root (servers run as nobody), python3, apt-get and dpkg-deb. Ends 1 if rows differ.
"""
import argparse, glob, json, os, secrets, shutil, signal, statistics, subprocess, sys, tempfile, time
from urllib.parse import urlsplit

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HERE = os.path.dirname(os.path.abspath(__file__))
NOBODY = 65534
MANIFEST = """
stamp = 1
system = "restored"
[stamps.dev]
[service.web]
run   = ["sleep", "100000"]
needs = ["postgres.main", "vault.main"]
[service.web.env]
DB = "@Microsoft.KeyVault(VaultName=main;SecretName=Db)"
[postgres.main]
version = { want = 16, accept = [15, 17, 18] }
access  = [{ to = "service.web", right = "owner" }]
storage = { size = "32GiB" }
[vault.main]
access = [{ to = "service.web", role = "Key Vault Secrets User" }]
[vault.main.secrets]
Db = { from = "postgres.main", what = "connection-string", for = "service.web", format = "url" }
"""
# What the keeper gives its servers and what weighs here.
SETTINGS = {
    "shared_buffers": "32MB", "max_wal_size": "512MB", "min_wal_size": "48MB", "wal_level": "replica", "wal_log_hints": "on",
    "archive_timeout": "60", "jit": "off", "max_wal_senders": "5",
}
# Rows of random digits: they do not compress to nothing, and not by nothing.
FILL = ("CREATE TABLE IF NOT EXISTS filled (n bigint, body text); ALTER TABLE filled ALTER COLUMN body SET STORAGE EXTERNAL; "
        "INSERT INTO filled SELECT n, (SELECT string_agg(md5(random()::text || n.n || k.k), '') FROM generate_series(1, 128) AS k(k)) "
        "FROM generate_series(1, {rows}) AS n(n);")
KIB_A_ROW = 4.25


def say(text):
    print(text, file=sys.stderr, flush=True)


def tools_of(engine):
    """The folder over PostgreSQL's client tools: beside the server, or with it."""
    own = os.path.join(engine, "tools")
    return own if os.path.isdir(own) else engine


def run(words, **how):
    done = subprocess.run(words, capture_output=True, text=True, **how)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, words))}: {done.stdout}{done.stderr}")
    return done.stdout


class Ours:
    name = "stamp"

    def __init__(self, folder, a):
        self.folder, self.stamp = os.path.join(folder, "ours"), a.stamp
        os.makedirs(self.folder)
        os.chmod(self.folder, 0o755)
        self.home = os.path.join(self.folder, "home")
        os.mkdir(self.home)
        os.symlink(a.engines, os.path.join(self.home, "engines"))
        self.engine = sorted(glob.glob(f"{a.engines}/postgresql-*"))[-1]
        with open(os.path.join(self.folder, "system.toml"), "w") as f:
            f.write(MANIFEST)
        self.say("up", self.folder)
        self.url = urlsplit(self.say("exec", "restored", "web", "--", "/bin/sh", "-c", 'printf %s "$DB"').strip().split("?")[0])

    def say(self, *words):
        return run([self.stamp, *words], env=dict(os.environ, STAMP_HOME=self.home, NO_COLOR="1"))

    def sql(self, text, at=None):
        return self.tool("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", text, at=at).strip()

    def tool(self, name, *words, at=None):
        """By the service's own way in."""
        tools = tools_of(self.engine)
        status = json.loads(self.say("status", "restored", "--json"))
        one = next(r for r in status["resources"] if r["name"] == (at or "postgres.main"))
        env = {
            "PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": f"{tools}/lib:{self.engine}/lib", "PGHOSTADDR": one["address"].split(":")[0],
            "PGPORT": one["address"].split(":")[1], "PGUSER": self.url.username, "PGPASSWORD": self.url.password,
            "PGDATABASE": self.url.path[1:], "PGSSLMODE": "require",
        }
        return run([f"{tools}/bin/{name}", *words], env=env)

    def back_up(self):
        self.say("backup", "restored")

    def settle(self):
        """Everything written is in the repository."""
        self.say("backup", "restored", "--point", f"p{time.time_ns()}")

    def restore(self, moment):
        begun = time.monotonic()
        self.say("restore", "restored", "--to", moment)
        took = time.monotonic() - begun
        rows = self.sql("SELECT count(*) FROM filled", "postgres.main-restored")
        self.say("restore", "restored", "--discard", "--yes")
        return took, rows

    def archive(self, on):
        """With a command that keeps nothing the server does as if each file were archived; its keeper does not notice."""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            words = open(f"/proc/{pid}/cmdline").read().split("\0") if os.path.exists(f"/proc/{pid}/cmdline") else []
            if words[0].endswith("/bin/postgres") and "-D" in words and words[words.index("-D") + 1].startswith(self.home):
                with open(f"/proc/{pid}/root{words[words.index('-D') + 1]}/postgresql.auto.conf", "w") as f:
                    f.write("" if on else "archive_command = 'true'\n")
                os.kill(int(pid), signal.SIGHUP)
                break
        else:
            raise SystemExit("no server of ours runs")
        until = time.monotonic() + 10
        while (self.sql("SHOW archive_command") == "true") == on:
            if time.monotonic() > until:
                raise SystemExit("the server did not take up the archive's setting")
            time.sleep(0.1)

    def pgbench(self, *words):
        return self.tool("pgbench", *words)

    def end(self):
        subprocess.run([self.stamp, "destroy", "restored", "--yes"], env=dict(os.environ, STAMP_HOME=self.home), capture_output=True)


class Peer:
    name = "pgBackRest"

    def __init__(self, folder, a):
        self.folder = os.path.join(folder, "peer")
        self.engine = sorted(glob.glob(f"{a.engines}/postgresql-*"))[-1]
        self.bin = os.path.join(self.engine, "bin")
        tools = tools_of(self.engine)
        os.makedirs(self.folder)
        self.port = 15432
        packages = os.path.join(self.folder, "packages")
        os.mkdir(packages)
        os.chmod(packages, 0o777)
        run(["apt-get", "download", "pgbackrest", "libpq5", "libxml2", "libicu72", "liblz4-1", "libzstd1", "libldap-2.5-0", "libsasl2-2"], cwd=packages)
        unpacked = os.path.join(self.folder, "unpacked")
        for package in glob.glob(f"{packages}/*.deb"):
            run(["dpkg-deb", "-x", package, unpacked])
        for name in ["repo", "spool", "lock", "log", "data"]:
            os.mkdir(os.path.join(self.folder, name))
        with open(os.path.join(HERE, "pgbackrest.conf")) as f:
            text = f.read().replace("FOLDER", self.folder).replace("PASS", secrets.token_hex(32)).replace("PORT", str(self.port))
        self.conf = os.path.join(self.folder, "pgbackrest.conf")
        with open(self.conf, "w") as f:
            f.write(text)
        self.env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8",
                    "LD_LIBRARY_PATH": f"{unpacked}/usr/lib/x86_64-linux-gnu:{tools}/lib:{self.engine}/lib"}
        self.program = f"{unpacked}/usr/bin/pgbackrest"
        self.psql = f"{tools}/bin/psql"
        run(["chown", "-R", f"{NOBODY}:{NOBODY}", self.folder])
        data = os.path.join(self.folder, "data")
        os.chmod(data, 0o700)
        self.as_nobody([f"{self.bin}/initdb", "-D", data, "-U", "postgres", "--auth=trust", "--no-sync"])
        self.server = self.start(data, archive=True)
        self.backrest("stanza-create")

    def as_nobody(self, words):
        return run(["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *words], env=self.env, cwd=self.folder)

    def backrest(self, *words):
        return self.as_nobody([self.program, f"--config={self.conf}", "--stanza=main", *words])

    def start(self, data, archive, port=None):
        command = f"{self.program} --config={self.conf} --stanza=main archive-push %p"
        settings = dict(SETTINGS, archive_mode="on" if archive else "off", listen_addresses="", port=str(port or self.port),
                        unix_socket_directories=self.folder, **({"archive_command": command} if archive else {}))
        words = [f"{self.bin}/postgres", "-D", data]
        for name, value in settings.items():
            words += ["-c", f"{name}={value}"]
        log = open(os.path.join(self.folder, "log/server.log"), "a")
        server = subprocess.Popen(["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *words],
                                  env=self.env, cwd=self.folder, stdout=log, stderr=log)
        until = time.monotonic() + 900
        while time.monotonic() < until:
            asked = subprocess.run([self.psql, "-XAtq", "-h", self.folder, "-p", str(port or self.port), "-U", "postgres", "-c",
                                    "SELECT NOT pg_is_in_recovery()"], env=self.env, capture_output=True, text=True)
            if asked.stdout.strip() == "t":
                return server
            if server.poll() is not None:
                raise SystemExit(f"the peer's server ended: {open(log.name).read()[-2000:]}")
            time.sleep(0.02)
        raise SystemExit("the peer's server does not answer")

    def sql(self, text, port=None):
        return run([self.psql, "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", self.folder, "-p", str(port or self.port), "-U", "postgres",
                    "-c", text], env=self.env).strip()

    def back_up(self):
        self.backrest("backup", "--type=full")

    def settle(self):
        self.sql("SELECT pg_switch_wal()")
        self.backrest("check")

    def restore(self, moment):
        data = os.path.join(self.folder, "restored")
        os.mkdir(data, 0o700)
        os.chown(data, NOBODY, NOBODY)
        begun = time.monotonic()
        self.backrest("restore", f"--pg1-path={data}", "--type=time", f"--target={moment.replace('T', ' ')}", "--target-action=promote")
        server = self.start(data, archive=False, port=self.port + 1)
        took = time.monotonic() - begun
        rows = self.sql("SELECT count(*) FROM filled", self.port + 1)
        server.send_signal(signal.SIGINT)
        server.wait()
        shutil.rmtree(data)
        return took, rows

    def archive(self, on):
        self.end()
        self.server = self.start(os.path.join(self.folder, "data"), archive=on)

    def pgbench(self, *words):
        bench = f"{tools_of(self.engine)}/bin/pgbench"
        return run([bench, "-h", self.folder, "-p", str(self.port), "-U", "postgres", *words, "postgres"], env=self.env)

    def end(self):
        self.server.send_signal(signal.SIGINT)
        self.server.wait()


def moment(one):
    """The server's time, once it has gone on since, and in a second of its own: pgBackRest counts in whole ones."""
    time.sleep(1.1)
    now = one.sql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS')")
    time.sleep(0.2)
    return now


def archive_cost(all, seconds, rounds):
    """What archiving costs a writer: pgbench with the archive on and off in turns, on a server of ours and on the peer's."""
    found = {}
    for one in all:
        one.pgbench("-i", "-s", "10", "-q")
    for n in range(rounds * 2):
        for one in all:
            on = n % 2 == 0
            one.archive(on)
            text = one.pgbench("-c", "4", "-j", "2", "-T", str(seconds))
            tps = float(next(line.split()[2] for line in text.splitlines() if line.startswith("tps")))
            found.setdefault((one.name, on), []).append(tps)
            say(f"{one.name}, archive {'on' if on else 'off'}: {tps:.0f} transactions a second")
    for one in all:
        on, off = (statistics.median(found[one.name, k]) for k in (True, False))
        print(f"{one.name}: archive on {on:.0f}/s, off {off:.0f}/s: {on / off:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--archive", type=int, default=0)
    parser.add_argument("--stamp", default=os.path.join(ROOT, "target/debug/stamp"))
    parser.add_argument("--engines", default=os.environ.get("STAMP_ENGINES", "/var/lib/stampwright/engines"))
    a = parser.parse_args()
    say(f"load average {os.getloadavg()[0]:.1f}")
    folder = tempfile.mkdtemp(prefix="bench-restore-")
    os.chmod(folder, 0o755)
    all, failed = [], False
    try:
        # One by one: what is there is ended although the next cannot be made.
        for make in (Ours, Peer):
            all.append(make(folder, a))
        if a.archive:
            archive_cost(all, a.archive, a.rounds)
            return 0
        rows = int(a.mib * 1024 / KIB_A_ROW)
        moments = {}
        for one in all:
            begun = time.monotonic()
            one.sql(FILL.format(rows=rows))
            one.back_up()
            one.sql(FILL.format(rows=rows // 10))
            moments[one.name] = (moment(one), one.sql("SELECT count(*) FROM filled"))
            one.sql("DELETE FROM filled WHERE n % 2 = 0")
            one.settle()
            say(f"{one.name}: filled and backed up in {time.monotonic() - begun:.1f} s")
        times = {one.name: [] for one in all}
        for n in range(a.rounds):
            for one in all if n % 2 == 0 else reversed(all):
                at, there = moments[one.name]
                took, rows = one.restore(at + ("Z" if one.name == "stamp" else "+00"))
                failed |= rows != there
                times[one.name].append(took)
                say(f"round {n + 1}: {one.name} {took:.2f} s, {rows} rows of {there}")
        median = {name: statistics.median(all) for name, all in times.items()}
        for name, all_times in times.items():
            print(f"{name}: {median[name]:.2f} s ({min(all_times):.2f} to {max(all_times):.2f}), {a.mib} MiB and a tenth of log")
        print(f"ratio {median['stamp'] / median['pgBackRest']:.2f}; rows {'DIFFER' if failed else 'are those of the moment'}")
    finally:
        for one in all:
            one.end()
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
