#!/usr/bin/env python3
"""DonatelloAI under a million images a day: prompts at a fixed rate, with stand-ins that take as long as the real providers.

    bench/donatello/run.py                                   11.6 prompts a second for 5 minutes, 5 to 30 s a picture
    bench/donatello/run.py --seconds 60                      shorter
    bench/donatello/run.py --rate 4 --delay 1-3              slower, with quicker providers
    bench/donatello/run.py --stamp PROGRAM --engines FOLDER  what is measured, and where the engines are

A stamp in a STAMP_HOME of its own, both made and removed here; only the engines are shared, by a link. `donatello` is taken from beside
`stamp`. The system is `systems/donatello/system.toml` with as many hands for its workers as pictures are under way at once, and half as
many again (a worker has 16 by itself). People are power users (a standard user may send ten prompts a minute) in the three departments,
each with a hard budget that is large enough. The built-in renderer is switched off, so that the router chooses among the two outside
providers; Operations may send its prompts to the US, so that Replicate gets some. A stand-in draws eight pictures of 1024x1024 once and
sends them again and again: drawing is not what is measured. Each picture still becomes a file of its own, since its notes differ.

The loop is open: a prompt is sent when it is due, whatever became of those before, and all times count from when it was due. Beside the
prompts people read their history, at a rate of its own. Times to done are from the database's `completed_at`, on the same clock. The
steady window begins when the longest answer to the first prompt is there and ends with the last prompt.

CPU is that of /proc/PID/stat between the first prompt and the last image, and that of children which have ended. Stand-ins are counted
with the TLS in front of them; the platform is edge, blob store, telemetry and the other roles, all shims and the supervisor. Ends 1 if an
aim is missed: every prompt taken and every image made, charged once, nothing still reserved, the rate kept, and times within
`[objectives]` of the system. Needs psql among the engine's tools.
"""
import argparse, hashlib, http.client, importlib.util, json, math, os, queue, re, secrets, shutil, signal, socket, ssl, subprocess, sys
import threading, time
from html import unescape
from urllib.parse import urlencode, urljoin, urlsplit

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.dont_write_bytecode = True
TICK = os.sysconf("SC_CLK_TCK")
COPIES, MOST_HANDS, REUSE = 2, 500, 8
# Seconds that a client waits for an answer.
LONGEST = 60.0
# A power user's limit is 600 prompts a minute; this far below it nobody meets it.
MOST_EACH = 5.0
# What a picture takes on the disk, written and kept, generously.
PICTURE = 3 * 1024 * 1024
AIMS = {"rate": 0.97, "done": 30.0, "submit": 0.200, "read": 0.200}
THINGS = ["sailing boat", "red kite", "stone bridge", "old lighthouse", "forest lake", "market square", "paper lantern", "mountain hut"]
PLACES = ["in the harbour", "over the bay", "under the stars", "beside a river", "behind the dunes", "between two hills"]
LIGHTS = ["at sunset", "at dawn", "in the rain", "in golden light", "by night", "in the mist", "on a clear day"]
ROWS = """
SELECT g.idempotency_key, g.status, extract(epoch FROM g.completed_at), g.generation_time_ms, g.metadata->>'model', g.reserved_aud,
       g.cost_aud, (SELECT count(*) FROM cost_events c WHERE c.generation_id = g.id AND c.cost_aud = g.cost_aud),
       (SELECT count(*) FROM cost_events c WHERE c.generation_id = g.id), j.retries, j.deaths, g.image_url, g.error_message
FROM generations g JOIN jobs j ON j.generation_id = g.id WHERE g.idempotency_key LIKE '{run}-%'
"""
COLUMNS = ("key", "status", "completed", "ms", "model", "reserved", "cost", "right", "charges", "retries", "deaths", "image", "error")


def sibling(name):
    """`run.py` of another folder of bench/, for what the two have in common."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", os.path.join(ROOT, "bench", name, "run.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


common = sibling("stamp")
Failed, say = common.Failed, common.say


class Https(http.client.HTTPSConnection):
    """A connection to a name of the stamp, which the machine's own resolver does not know."""

    def __init__(self, site, authority):
        host, _, port = authority.partition(":")
        super().__init__(host, int(port or 443), context=site.context, timeout=LONGEST)
        self.address = site.hosts.get(host, host)

    def connect(self):
        plain = socket.create_connection((self.address, self.port), self.timeout)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = self._context.wrap_socket(plain, server_hostname=self.host)


class Site:
    """A stamp that is up, as its clients see it."""

    def __init__(self, home, up):
        self.home, self.edge = home, up["urls"]["edge"]
        self.context = ssl.create_default_context(cafile=up["ca"])
        self.hosts = {}
        with open(os.path.join(os.path.dirname(up["ca"]), "hosts")) as f:
            for line in f:
                address, *names = line.partition("#")[0].split() or [""]
                self.hosts.update((name, address) for name in names)

    def setting(self, service, name):
        """A variable of a service, as its program sees it."""
        words = [self.home.stamp, "exec", "donatello", service, "--", "printenv", name]
        done = subprocess.run(words, env={**os.environ, "STAMP_HOME": self.home.home}, capture_output=True, text=True)
        if done.returncode or not done.stdout.strip():
            raise Failed(f"{service} has no {name}: {done.stderr}")
        return done.stdout.strip()


class Browser:
    """A person: cookies by site, and one kept connection to each. Used by one thread at a time."""

    def __init__(self, site, email=""):
        self.site, self.email, self.csrf = site, email, ""
        self.cookies, self.connections = {}, {}

    def again(self, connections):
        """The same session over other connections, for another thread."""
        other = Browser(self.site, self.email)
        other.csrf, other.cookies, other.connections = self.csrf, self.cookies, connections
        return other

    def send(self, method, url, body=None, kind="application/json", headers=None):
        parts = urlsplit(urljoin(self.site.edge, url))
        sent = {"cookie": "; ".join(f"{n}={v}" for n, v in self.cookies.get(parts.netloc, {}).items()), **(headers or {})}
        if body is not None:
            sent |= {"content-type": kind, "origin": f"https://{parts.netloc}", "sec-fetch-site": "same-origin", "x-csrf-token": self.csrf}
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        for attempt in (1, 2):
            kept = self.connections.pop(parts.netloc, None)
            connection = kept or Https(self.site, parts.netloc)
            try:
                connection.request(method, target or "/", body, sent)
                answer = connection.getresponse()
                text = answer.read()
                break
            except (http.client.RemoteDisconnected, ConnectionError):
                # A kept connection may have been closed meanwhile; what is sent again carries a key.
                connection.close()
                if not kept or attempt == 2:
                    raise
        self.connections[parts.netloc] = connection
        for line in answer.headers.get_all("set-cookie") or []:
            name, _, rest = line.partition("=")
            jar = self.cookies.setdefault(parts.netloc, {})
            if "max-age=0" in rest.lower():
                jar.pop(name, None)
            else:
                jar[name] = rest.partition(";")[0]
        return answer.status, answer.headers, text

    def follow(self, url, form=None):
        """Goes where redirects lead; the page, and where it is."""
        url = urljoin(self.site.edge, url)
        for _ in range(12):
            kind = "application/x-www-form-urlencoded"
            status, headers, text = self.send("POST" if form else "GET", url, urlencode(form) if form else None, kind)
            if not headers.get("location"):
                return status, text.decode(errors="replace"), url
            url, form = urljoin(url, headers["location"]), None
        raise Failed(f"twelve redirects and no end, at {url}")

    def enter(self, link):
        """Chooses a password by the link of an invitation, and signs in to the application with it."""
        password = secrets.token_urlsafe(24)
        for start in (link, "/sign-in?return=%2F"):
            _, page, at = self.follow(start)
            form = next((f for f in re.findall(r"<form.*?</form>", page, re.S) if 'type="password"' in f), None)
            if not form:
                raise Failed(f"nobody asks for a password at {at}")
            fields = {}
            for tag in re.findall(r"<input[^>]*>", form):
                read = dict(re.findall(r'\b(name|value)="([^"]*)"', tag))
                fields[read.get("name", "")] = unescape(read.get("value", ""))
            fields = {name: value for name, value in fields.items() if name} | {"password": password}
            fields |= {"again": password} if start == link else {"email": self.email}
            action = re.search(r'action="([^"]*)"', form)
            status, _, at = self.follow(urljoin(at, unescape(action.group(1)) if action else at), fields)
            if status != 200:
                raise Failed(f"{self.email} is answered {status} at {at}")
            if start == link:
                self.cookies.clear()
        self.csrf = self.json("GET", "/api/v1/me")["csrfToken"]
        return self

    def json(self, method, path, body=None):
        status, _, text = self.send(method, path, None if body is None else json.dumps(body))
        if status >= 300:
            raise Failed(f"{method} {path} is answered {status}: {text.decode(errors='replace')[:300]}")
        return json.loads(text)


class Database:
    """The application's own database, by psql of the engine."""

    def __init__(self, site, engines):
        found = sorted(n for n in os.listdir(engines) if n.startswith("postgresql-"))
        folder = os.path.join(engines, found[-1])
        tools = os.path.join(folder, "tools")
        self.psql = os.path.join(tools, "bin", "psql")
        pairs = site.setting("api", "ConnectionStrings__DefaultConnection").split(";")
        said = dict(p.split("=", 1) for p in pairs if "=" in p)
        said = {name: value.strip('"') for name, value in said.items()}
        self.environment = {
            **os.environ, "LD_LIBRARY_PATH": f"{tools}/lib:{folder}/lib", "PGHOST": said["Host"], "PGPORT": said["Port"],
            "PGHOSTADDR": site.hosts.get(said["Host"], said["Host"]), "PGDATABASE": said["Database"], "PGUSER": said["Username"],
            "PGPASSWORD": said["Password"], "PGSSLMODE": "verify-full", "PGSSLROOTCERT": said["Root Certificate"],
        }

    def rows(self, statement):
        words = [self.psql, "-X", "-q", "-A", "-t", "-F", "\x1f", "-v", "ON_ERROR_STOP=1", "-c", statement]
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"psql: {done.stderr}")
        return [line.split("\x1f") for line in done.stdout.splitlines()]


class StandIn(Browser):
    """A provider's stand-in, told by its own door how to behave."""

    def __init__(self, site, kind):
        super().__init__(site)
        self.kind = kind
        name = {"openai": "OPENAI", "replicate": "REPLICATE"}[kind]
        self.url, key = site.setting("worker", f"{name}_URL"), site.setting("worker", f"{name}_KEY")
        self.key = {"api-key": key} if kind == "openai" else {"authorization": f"Bearer {key}"}

    def ask(self, method, path, body=None):
        status, _, text = self.send(method, self.url + path, None if body is None else json.dumps(body), headers=self.key)
        if status >= 300:
            raise Failed(f"the stand-in of {self.kind} answers {status}: {text[:200]}")
        return json.loads(text)

    def behave(self, least, most):
        return self.ask("POST", "/stand-in", {"mode": "ok", "least": least, "most": most, "reuse": REUSE})

    def calls(self):
        return self.ask("GET", "/stand-in")["calls"]

    def warm(self):
        """Has it draw all its pictures, so that it does not do so while it is measured."""
        self.behave(0, 0)
        for _ in range(REUSE):
            if self.kind == "openai":
                self.ask("POST", "/openai/deployments/dall-e-3/images/generations?api-version=2024-02-01", {"prompt": "warm", "size": "1024x1024"})
                continue
            made = self.ask("POST", "/v1/models/stability-ai/sdxl/predictions", {"input": {"prompt": "warm", "width": 1024, "height": 1024}})
            while self.ask("GET", f"/v1/predictions/{made['id']}")["status"] != "succeeded":
                time.sleep(0.05)


class Parts:
    """The stamp's processes by what they belong to, and what they have cost."""

    def __init__(self, home):
        status = home.run("status", "donatello", "--json")[0]
        self.restarts = sum(r["restarts"] for r in status["resources"])
        self.pids = {"supervisor": [status["supervisor_pid"]]}
        for resource in status["resources"]:
            name = resource["name"].partition("+")[0]
            for pid in resource["pids"]:
                if name.startswith("external."):
                    part = "stand-ins"
                elif name.startswith("postgres."):
                    part = "database"
                elif name.startswith("service.") and not common.is_stamp(pid):
                    part = name.removeprefix("service.")
                else:
                    part = "shims of services" if name.startswith("service.") else name
                self.pids.setdefault(part, []).append(pid)

    @staticmethod
    def seconds(pid):
        """CPU of a process and of those of its children that have ended."""
        try:
            fields = common.read(pid, "stat").rpartition(b")")[2].split()
        except OSError:
            return 0.0
        return sum(map(int, fields[11:15])) / TICK

    def cpu(self):
        return {part: sum(map(self.seconds, pids)) for part, pids in self.pids.items()}

    def pss(self):
        return {part: sum(map(common.pss, pids)) for part, pids in self.pids.items()}


OWN = ("worker", "api", "database", "stand-ins")


def whole(parts):
    """The parts that are told of first, with the rest as `platform`."""
    return {**{part: parts.get(part, 0.0) for part in OWN}, "platform": sum(v for part, v in parts.items() if part not in OWN)}


class Load:
    """Prompts and reads when they are due."""

    def __init__(self, people, rate, reads, seconds):
        self.run, self.people = "b" + secrets.token_hex(4), people
        self.begin, self.clock = time.monotonic() + 1.0, time.time() + 1.0
        self.prompts = [Request(n, n / rate, True) for n in range(round(rate * seconds))]
        self.reads = [Request(n, n / reads, False) for n in range(round(reads * seconds))] if reads > 0 else []
        self.due = queue.SimpleQueue()
        # Whoever is free sends; there are more than enough, and if there were not, the waiting counts.
        hands = [threading.Thread(target=self.work, daemon=True) for _ in range(48)]
        for hand in hands:
            hand.start()
        for request in sorted(self.prompts + self.reads, key=lambda r: r.due):
            time.sleep(max(0.0, self.begin + request.due - time.monotonic()))
            self.due.put(request)
        for _ in hands:
            self.due.put(None)
        for hand in hands:
            hand.join(120)

    def work(self):
        # One kept connection a thread, whoever it sends for.
        connections = {}
        crowd = [person.again(connections) for person in self.people]
        while (request := self.due.get()) is not None:
            n = request.n
            person = crowd[n % len(crowd)]
            request.sent = time.monotonic() - self.begin
            try:
                if not request.prompt:
                    request.status, _, text = person.send("GET", "/api/v1/generations?limit=20")
                else:
                    prompt = f"a {THINGS[n % 8]} {PLACES[n // 8 % 6]} {LIGHTS[n // 48 % 7]}"
                    body = json.dumps({"prompt": prompt, "resolution": "1024x1024"})
                    request.status, _, text = person.send("POST", "/api/v1/generate", body, headers={"idempotency-key": f"{self.run}-{n:06}"})
                if request.status not in (200, 202):
                    request.why = text.decode(errors="replace")[:200]
            except (OSError, http.client.HTTPException) as error:
                request.why = f"{type(error).__name__}: {error}"
            request.took = time.monotonic() - self.begin - request.due


class Request:
    """A prompt, or a read: when it was due, when it was sent, and what became of it."""

    def __init__(self, n, due, prompt):
        self.n, self.due, self.prompt, self.sent, self.took, self.status, self.why = n, due, prompt, None, None, 0, ""


def part_of(values, share):
    """The value that so large a part of them does not pass."""
    values = sorted(values)
    return values[max(0, math.ceil(len(values) * share) - 1)] if values else math.nan


def manifest(home, options):
    """The system with stand-ins as slow as asked, and hands enough for what is then under way."""
    with open(os.path.join(ROOT, "systems", "donatello", "system.toml")) as f:
        text = f.read()
    least, most = options.delay
    under_way = options.rate * (least + most) / 2
    hands = max(16, math.ceil(under_way * 1.5))
    copies = max(COPIES, math.ceil(hands / MOST_HANDS))
    each = math.ceil(hands / copies)
    changes = [
        ('"openai", "ok", "1-4"', f'"openai", "ok", "{least:g}-{most:g}"'),
        ('"replicate", "ok", "1-4"', f'"replicate", "ok", "{least:g}-{most:g}"'),
        ("\n[service.worker.env]\n", f'\n[service.worker.env]\nWORKERS = "{each}"\n'),
        ("scale = { min = 2, max = 10, ", f"scale = {{ min = {copies}, max = {max(10, copies)}, "),
    ]
    for old, new in changes:
        if text.count(old) != 1:
            raise Failed(f"system.toml has `{old.strip()}` {text.count(old)} times; this script expects it once")
        text = text.replace(old, new)
    system = os.path.join(home.folder, "donatello")
    os.mkdir(system, 0o755)
    with open(os.path.join(system, "system.toml"), "w") as f:
        f.write(text)
    return system, under_way, copies, each


def people(home, site, options):
    """Who sends prompts, spread over the departments, whose budgets last."""
    def invited(email, group):
        return Browser(site, email).enter(home.run("user", "add", "donatello", email, "--group", group, "--json")[0]["link"])

    admin = invited("ola@harbour.example", "super-admin")
    admin.json("PATCH", "/api/v1/admin/models/renderer", {"is_active": False})
    departments = admin.json("GET", "/api/v1/admin/departments")["items"]
    for department in departments:
        change = {"monthly_budget_aud": "500000.00", "enforcement_mode": "hard"}
        if department["code"] == "OPERATIONS":
            change["regions"] = [*department["regions"], "us"]
        admin.json("PATCH", f"/api/v1/admin/departments/{department['id']}/budget", change)
    all_ = []
    for n in range(options.people):
        person = invited(f"person{n + 1}@harbour.example", "power-user")
        me = person.json("GET", "/api/v1/me")
        admin.json("PATCH", f"/api/v1/admin/users/{me['id']}", {"department_id": departments[n % len(departments)]["id"]})
        all_.append(person)
    return admin, all_, len(departments)


def settle(admin, patience, seen, begin):
    """Notes how many jobs there are, until there are none or nobody would wait longer."""
    while True:
        depth = admin.json("GET", "/api/v1/admin/queue")["depth"]
        seen.append((time.monotonic() - begin, depth))
        if depth == 0 or time.monotonic() > patience:
            return depth
        time.sleep(0.5)


def measure(options):
    least, most = options.delay
    with common.Home(options.stamp, options.engines) as home:
        system, under_way, copies, each = manifest(home, options)
        up = home.run("up", system, "--json")[0]
        site = Site(home, up)
        database = Database(site, options.engines)
        admin, crowd, departments = people(home, site, options)
        stand_ins = [StandIn(site, "openai"), StandIn(site, "replicate")]
        until = time.monotonic() + 60
        while not all(m["available"] for m in admin.json("GET", "/api/v1/models")["items"] if m["is_ai"]):
            if time.monotonic() > until:
                raise Failed("the workers do not say that they can call the providers")
            time.sleep(0.5)
        for stand_in in stand_ins:
            stand_in.warm()
            stand_in.behave(least, most)
        say(f"{len(crowd)} people in {departments} departments, {copies} workers with {each} hands each, about {under_way:.0f} pictures under way")

        before, calls, parts = common.load(), sum(s.calls() for s in stand_ins), Parts(home)
        cpu, client = parts.cpu(), time.process_time()
        depths, done = [], threading.Event()

        def watch():
            own = admin.again({})
            while not done.wait(1.0):
                try:
                    depths.append((time.monotonic(), own.json("GET", "/api/v1/admin/queue")["depth"]))
                except (Failed, OSError, http.client.HTTPException) as error:
                    say(f"the queue was not told: {error}")

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        try:
            load = Load(crowd, options.rate, options.reads, options.seconds)
        finally:
            done.set()
            watching.join()
        depths = [(at - load.begin, depth) for at, depth in depths]
        say(f"all prompts are sent; {depths[-1][1] if depths else '?'} images are under way")
        left = settle(admin, time.monotonic() + 120 + 3 * most, depths, load.begin)
        # Anew: the pools have opened connections since, each of them a process of the database.
        now = Parts(home)
        cpu = {part: seconds - cpu.get(part, 0.0) for part, seconds in now.cpu().items()}
        client, after = time.process_time() - client, common.load()
        pss, restarts = now.pss(), now.restarts - parts.restarts
        calls = sum(s.calls() for s in stand_ins) - calls

        rows = [dict(zip(COLUMNS, row)) for row in database.rows(ROWS.format(run=load.run))]
        money = database.rows(
            "SELECT (SELECT coalesce(sum(reserved_aud), 0) FROM department_budgets), (SELECT coalesce(sum(reserved_aud), 0) FROM generations),"
            " (SELECT sum(current_spend_aud) FROM department_budgets), (SELECT coalesce(sum(cost_aud), 0) FROM cost_events),"
            " (SELECT count(*) FROM audit_breaks)")[0]
        pictures = [row["image"] for row in rows if row["image"]]
        for url in pictures[:: max(1, len(pictures) // 5)]:
            status, _, picture = admin.send("GET", url)
            if status != 200 or hashlib.sha256(picture).hexdigest() not in url:
                raise Failed(f"{url} is answered {status} with {len(picture)} bytes, which are not the image")
    figures = dict(options=vars(options), cpu=cpu, pss=pss, restarts=restarts, calls=calls, left=left, client=client,
                   depths=depths, copies=copies, each=each, money=money, load=[before, after])
    return tell(options, load, rows, figures, home.left), figures


def tell(options, load, rows, f, processes):
    least, most = options.delay
    missed = []

    def aim(name, met, text):
        if not met:
            missed.append(name)
        return f"aim {text}: {'met' if met else 'MISSED'}"

    completed = [row for row in rows if row["status"] == "completed"]
    taken = [r for r in load.prompts if r.status == 202]
    print(f"\n{options.rate:g} prompts a second for {options.seconds:g} s, a picture of 1024x1024 takes {least:g}-{most:g} s; {f['copies']} workers"
          f" with {f['each']} hands each, {len(load.people)} people; {common.machine()}; {f['load'][0]} before, {f['load'][1]} after")
    verdict = aim("every image made", len(completed) == len(taken) == len(load.prompts), "all")
    failed = sum(1 for row in rows if row["status"] == "failed")
    print(f"submitted {len(load.prompts)}, taken {len(taken)}, completed {len(completed)}, failed {failed}, still under way {f['left']}   {verdict}")
    models, whys = {}, {}
    for row in completed:
        models[row["model"]] = models.get(row["model"], 0) + 1
    for request in load.prompts + load.reads:
        if request.why or request.took is None:
            why = f"{request.status} {request.why or 'no answer'}"
            whys[why] = whys.get(why, 0) + 1
    for row in rows:
        if row["error"]:
            whys[row["error"]] = whys.get(row["error"], 0) + 1
    for why, count in sorted(whys.items(), key=lambda w: -w[1])[:10]:
        print(f"  {count} times: {why}")
    retries, deaths = (sum(int(row[name]) for row in rows) for name in ("retries", "deaths"))
    print(f"made by {', '.join(f'{m} {n}' for m, n in sorted(models.items()))}; calls of providers {f['calls']}, failed attempts {retries},"
          f" leases that ran out {deaths}, restarts {f['restarts']}")

    ends = [float(row["completed"]) - load.clock for row in completed]
    start, stop = most + 2, options.seconds
    figures = f["figures"] = {}
    if stop - start >= 5:
        rate = figures["rate"] = sum(start <= end < stop for end in ends) / (stop - start)
        verdict = aim("the rate", rate >= AIMS["rate"] * options.rate, f">= {AIMS['rate'] * options.rate:.2f}")
        around = [next((d for at, d in f["depths"] if at >= moment), None) for moment in (start, stop - 1)]
        print(f"images a second, {start:g} to {stop:g} s: {rate:.2f}   {verdict}; under way at its begin {around[0]}, at its end {around[1]}")
    else:
        print(f"images a second: no steady window; it begins {start:g} s after the first prompt")
    due = {f"{load.run}-{r.n:06}": r.due for r in load.prompts}
    times = [float(row["completed"]) - load.clock - due[row["key"]] for row in completed]
    beside = [took - int(row["ms"]) / 1000 for took, row in zip(times, completed)]

    def line(name, values, shares, unit=1.0, limit=None):
        if not values:
            return
        told = "  ".join(f"p{share * 100:g} {part_of(values, share) * unit:8.1f}" for share in shares)
        figures[name] = {f"p{share * 100:g}": part_of(values, share) for share in shares}
        verdict = "" if limit is None else aim(name, part_of(values, 0.95) < limit, f"p95 < {limit * unit:g}")
        print(f"{name:38} {told}  {'s' if unit == 1.0 else 'ms':3} {verdict}")

    line("submit to done", times, (0.5, 0.95), 1.0, AIMS["done"])
    line("  of it not the provider's call", beside, (0.5, 0.95))
    # What was refused or not answered counts as long as the client would have waited.
    answers = [[LONGEST if r.why or r.took is None else r.took for r in some] for some in (load.prompts, load.reads)]
    line("submit: POST /api/v1/generate", answers[0], (0.5, 0.95, 0.99), 1000.0, AIMS["submit"])
    line("read: GET /api/v1/generations", answers[1], (0.5, 0.95, 0.99), 1000.0, AIMS["read"])
    line("sent after it was due, by this client", [r.sent - r.due for r in load.prompts if r.sent is not None], (0.5, 0.95), 1000.0)

    count = max(1, len(completed))
    own, all_pss = whole(f["cpu"]), whole(f["pss"])
    print(f"\n{'part':22} {'CPU s':>9} {'CPU ms an image':>16} {'PSS at the end, MiB':>20}")
    for part, seconds in own.items():
        print(f"{part:22} {seconds:9.2f} {seconds / count * 1000:16.1f} {all_pss[part]:20.1f}")
    for part in sorted((p for p in f["cpu"] if p not in OWN), key=lambda p: -f["cpu"][p]):
        print(f"  {part:20} {f['cpu'][part]:9.2f} {f['cpu'][part] / count * 1000:16.1f} {f['pss'].get(part, 0.0):20.1f}")
    total = sum(own.values())
    print(f"{'all':22} {total:9.2f} {total / count * 1000:16.1f} {sum(all_pss.values()):20.1f}")
    print(f"{'this client':22} {f['client']:9.2f} {f['client'] / count * 1000:16.1f}")
    busy, without = (seconds / count * options.rate for seconds in (total, total - own["stand-ins"]))
    print(f"at {options.rate:g} images a second that is {busy:.2f} CPUs, {without:.2f} without the stand-ins")

    once = sum(row["charges"] == "1" and row["right"] == "1" for row in completed)
    otherwise = sum(row["charges"] != "0" for row in rows if row["status"] != "completed")
    reserved, held, spend, charged, breaks = f["money"]
    verdict = aim("charged once", once == len(completed) and otherwise == 0 and float(spend) == float(charged), "all once")
    print(f"\ncharged once {once} of {len(completed)}, charged without an image {otherwise}, spent {spend} AUD and charged {charged} AUD   {verdict}")
    verdict = aim("nothing reserved", float(reserved) == 0 and float(held) == 0, "0.00")
    print(f"still reserved: {reserved} AUD of budgets, {held} AUD of generations   {verdict}")
    verdict = aim("the record", breaks == "0", "whole")
    print(f"breaks in the record of acts: {breaks}   {verdict}; files {len({row['image'] for row in completed})} for {len(completed)} images")
    if processes:
        missed.append("no process left")
        print(f"{processes} processes were left after destroy")
    print(f"\n{'missed: ' + ', '.join(missed) if missed else 'every aim is met'}")
    return not missed


def delay(text):
    found = re.fullmatch(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)", text)
    if not found or not 0 <= float(found[1]) <= float(found[2]) <= 55:
        raise argparse.ArgumentTypeError(f"`{text}` are no seconds such as 5-30, of which a call gets 60")
    return float(found[1]), float(found[2])


def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--stamp", default=os.path.join(ROOT, "target/debug/stamp"), help="what is measured; default: what ./stampw up runs")
    parse.add_argument("--engines", help="the folder with postgresql-*; default: that of STAMP_HOME")
    parse.add_argument("--seconds", type=float, default=300)
    parse.add_argument("--rate", type=float, default=11.6, help="prompts a second")
    parse.add_argument("--delay", type=delay, default=(5.0, 30.0), metavar="LEAST-MOST", help="seconds that a provider takes (5-30)")
    parse.add_argument("--people", type=int, default=12)
    parse.add_argument("--reads", type=float, default=2.0, help="reads of the history a second")
    parse.add_argument("--json", help="write the single figures here")
    options = parse.parse_args()
    if options.rate <= 0 or options.seconds <= 0 or options.people < 3 or options.rate / options.people > MOST_EACH:
        sys.exit(f"error: {options.people} people do not send {options.rate:g} prompts a second\n"
                 f"hint: three people at least, and {MOST_EACH:g} prompts a second of each at most; a person's own limit is 10")
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    usual = "/var/lib/stampwright" if os.geteuid() == 0 else os.path.join(data, "stampwright")
    options.engines = os.path.realpath(options.engines or os.path.join(os.environ.get("STAMP_HOME") or usual, "engines"))
    options.stamp = os.path.realpath(options.stamp)
    for program in (options.stamp, os.path.join(os.path.dirname(options.stamp), "donatello")):
        if not os.access(program, os.X_OK):
            sys.exit(f"SKIP: no program at {program}; ./stampw up systems/donatello builds one")
    found = sorted(n for n in os.listdir(options.engines) if n.startswith("postgresql-")) if os.path.isdir(options.engines) else []
    if not found or not os.access(os.path.join(options.engines, found[-1], "tools/bin/psql"), os.X_OK):
        sys.exit(f"SKIP: no PostgreSQL with psql in {options.engines}; bring one with engines/bring, or name it with --engines")
    free, needed = shutil.disk_usage(os.environ.get("TMPDIR", "/tmp")).free, options.rate * options.seconds * PICTURE
    if free < needed + 2 * 2**30:
        sys.exit(f"SKIP: the images may take {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free; TMPDIR names another disk")
    signal.signal(signal.SIGTERM, common.ask_to_end)
    try:
        met, figures = measure(options)
    except Failed as error:
        sys.exit(f"FAILED: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    if options.json:
        with open(options.json, "w") as f:
            json.dump(figures, f, indent=1)
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
