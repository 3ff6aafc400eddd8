#!/usr/bin/env python3
"""What row-level security costs Monozu on a read, with ten thousand tenants.

    bench/monozu/run.py [--tenants 10000] [--seconds 10] [--clients 4] [--engine FOLDER]

A PostgreSQL of its own in a scratch folder, on a unix socket; the cloud schema as `monozu migrate cloud` applies it; 20 sites and
20 incidents a tenant. pgbench reads a tenant's newest 20 incidents in a transaction, in three ways, three rounds in turn:

    fenced    the application's role shows a ticket, the policies look it up (what Cloud does)
    setting   the application's role, policies that compare with a setting anybody could set (what is usually done)
    filtered  the administrator, who is not fenced, with `WHERE tenant_id = ...`

The engine is the newest under $STAMP_HOME/engines (or /var/lib/stampwright/engines), with its client tools. Prints JSON: transactions
a second and milliseconds of each round, and medians. Ends 1 if a tenant saw another's row.
"""
import argparse, glob, json, os, re, shutil, statistics, subprocess, sys, tempfile, time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ROUNDS = 3
READ = "SELECT id, title, severity, status FROM incidents {where} ORDER BY id DESC LIMIT 20;"
SCRIPTS = {
    "fenced": "BEGIN;\nSELECT state FROM enter('ticket-' || :n);\n" + READ.format(where="") + "\nCOMMIT;\n",
    "setting": "BEGIN;\nSELECT set_config('app.tenant', tenant_of(:n)::text, true);\n" + READ.format(where="").replace("incidents", "by_setting") + "\nCOMMIT;\n",
    "filtered": "BEGIN;\nSELECT tenant_of(:n);\n" + READ.format(where="WHERE tenant_id = tenant_of(:n)") + "\nCOMMIT;\n",
}
ROLES = {"fenced": "app_rw", "setting": "app_rw", "filtered": "postgres"}
SEED = """
CREATE FUNCTION tenant_of(n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$ SELECT md5('tenant ' || n)::uuid $$;
INSERT INTO guard.tenants (id, account, name, status, expires_at)
    SELECT tenant_of(n), 'tenant-' || n, 'Tenant ' || n, 'active', now() + interval '1 day' FROM generate_series(1, {tenants}) n;
INSERT INTO guard.tickets (hash, tenant_id, kind, subject, role)
    SELECT sha256(convert_to('ticket-' || n, 'UTF8')), tenant_of(n), 'person', tenant_of(n), 'admin' FROM generate_series(1, {tenants}) n;
INSERT INTO sites (tenant_id, id, name) SELECT tenant_of(n), gen_random_uuid(), 'Site ' || k FROM generate_series(1, {tenants}) n, generate_series(1, 20) k;
INSERT INTO incidents (tenant_id, id, title, severity) SELECT tenant_of(n), gen_random_uuid(), 'Tenant ' || n, 'high' FROM generate_series(1, {tenants}) n, generate_series(1, 20) k;
CREATE TABLE by_setting (LIKE incidents INCLUDING ALL);
INSERT INTO by_setting SELECT * FROM incidents;
ALTER TABLE by_setting OWNER TO app_owner;
ALTER TABLE by_setting ENABLE ROW LEVEL SECURITY;
ALTER TABLE by_setting FORCE ROW LEVEL SECURITY;
CREATE POLICY setting ON by_setting USING (tenant_id = current_setting('app.tenant')::uuid);
GRANT SELECT ON by_setting TO app_rw;
VACUUM ANALYZE;
"""


def engine(named):
    homes = [os.environ.get("STAMP_HOME", ""), "/var/lib/stampwright"]
    found = [named] if named else sorted(f for h in homes if h for f in glob.glob(os.path.join(h, "engines", "postgresql-*")))
    if not found or not os.path.exists(os.path.join(found[-1], "tools", "bin", "pgbench")):
        sys.exit("no PostgreSQL with client tools; bring one with engines/bring, or name it with --engine")
    return os.path.realpath(found[-1])


class Postgres:
    def __init__(self, folder, scratch):
        self.engine, self.scratch, self.server = folder, scratch, None
        libraries = [os.path.join(folder, "tools", "lib"), os.path.join(folder, "lib")]
        self.environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries), "LC_ALL": "C", "PGHOST": scratch}
        # PostgreSQL refuses to run as root.
        self.prefix = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"] if os.getuid() == 0 else []

    def start(self):
        data, bin_ = os.path.join(self.scratch, "data"), os.path.join(self.engine, "bin")
        initdb = [*self.prefix, os.path.join(bin_, "initdb"), "--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "-D", data]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd="/")
        settings = ["listen_addresses=", "shared_buffers=256MB", "synchronous_commit=off"]
        command = [*self.prefix, os.path.join(bin_, "postgres"), "-D", data, "-k", self.scratch, *[w for s in settings for w in ("-c", s)]]
        log = open(os.path.join(self.scratch, "log"), "w")
        self.server = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")
        deadline = time.monotonic() + 30
        while subprocess.run([self.tool("pg_isready"), "-q"], env=self.environment).returncode:
            if time.monotonic() > deadline or self.server.poll() is not None:
                sys.exit("PostgreSQL did not start: " + open(log.name).read())
            time.sleep(0.1)

    def tool(self, name):
        return os.path.join(self.engine, "tools", "bin", name)

    def sql(self, text, role="postgres", database="app", file=None):
        command = [self.tool("psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", role, database]
        command += ["-1", "-f", file] if file else []
        return subprocess.run(command, input=text, env=self.environment, text=True, check=True, stdout=subprocess.PIPE).stdout.strip()

    def stop(self):
        if self.server:
            self.server.terminate()
            self.server.wait()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tenants", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--engine")
    asked = parser.parse_args()
    scratch = tempfile.mkdtemp(prefix="bench-monozu-")
    postgres = Postgres(engine(asked.engine), scratch)
    if os.getuid() == 0:
        os.chown(scratch, 65534, 65534)
    try:
        postgres.start()
        print(json.dumps(measure(postgres, asked, scratch), indent=2))
    finally:
        postgres.stop()
        shutil.rmtree(scratch, ignore_errors=True)


def measure(postgres, asked, scratch):
    postgres.sql("CREATE ROLE app_owner LOGIN; CREATE ROLE app_rw LOGIN;", database="postgres")
    postgres.sql("CREATE DATABASE app OWNER app_owner", database="postgres")
    postgres.sql("ALTER SCHEMA public OWNER TO app_owner; REVOKE ALL ON SCHEMA public FROM PUBLIC; GRANT USAGE ON SCHEMA public TO app_rw;"
                 "ALTER DEFAULT PRIVILEGES FOR ROLE app_owner GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO app_rw")
    postgres.sql('CREATE TABLE "SchemaMigrations" ("Version" integer)', role="app_owner")
    for file in sorted(glob.glob(os.path.join(ROOT, "systems", "monozu", "migrations", "cloud", "*.sql"))):
        postgres.sql(None, role="app_owner", file=file)
    postgres.sql(SEED.format(tenants=asked.tenants))
    seen = postgres.sql("BEGIN; SELECT enter('ticket-7'); SELECT DISTINCT title FROM incidents; COMMIT;", role="app_rw").splitlines()
    if seen[-1:] != ["Tenant 7"] or len(seen) != 2:
        sys.exit(f"tenant 7 saw {seen[1:]}")
    rounds = {way: [] for way in SCRIPTS}
    for _ in range(ROUNDS):
        for way, text in SCRIPTS.items():
            file = os.path.join(scratch, f"{way}.sql")
            with open(file, "w") as script:
                script.write(f"\\set n random(1, {asked.tenants})\n{text}")
            command = [postgres.tool("pgbench"), "-n", "-M", "prepared", "-c", str(asked.clients), "-j", "2", "-T", str(asked.seconds), "-f", file, "-U", ROLES[way], "app"]
            said = subprocess.run(command, env=postgres.environment, text=True, check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE).stdout
            rate = float(re.search(r"tps = ([\d.]+)", said).group(1))
            latency = float(re.search(r"latency average = ([\d.]+)", said).group(1))
            rounds[way].append({"per_second": round(rate), "ms": latency})
    median = {way: {key: statistics.median(r[key] for r in all_) for key in ("per_second", "ms")} for way, all_ in rounds.items()}
    version = postgres.sql("SHOW server_version")
    return {"tenants": asked.tenants, "rows": asked.tenants * 20, "clients": asked.clients, "seconds": asked.seconds,
            "engine": version, "rounds": rounds, "median": median}


main()
