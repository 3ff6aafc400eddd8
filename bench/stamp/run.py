#!/usr/bin/env python3
"""How long a stamp takes to come up, and how much memory the platform's own parts take.

    bench/stamp/run.py                  cold and warm `up`, `down`, `destroy`, memory: five rounds
    bench/stamp/run.py --twenty         twenty stamps in one STAMP_HOME, all brought up at once
    bench/stamp/run.py --five           each of the five systems alone, then all at once in one STAMP_HOME
    bench/stamp/run.py --clone          a new clone, an empty STAMP_HOME: build, `up`, the first page

Each round has a STAMP_HOME of its own, made and removed here; only the engines are shared, by a link. Times are those of
the whole command as a person waits for it, and the `seconds` that `up --json` prints. Cold: an empty STAMP_HOME, no
supervisor. Warm: `up` after `down`, the supervisor runs. Neither empties the kernel's page cache.

Memory is PSS (/proc/PID/smaps_rollup) of the supervisor, the shims and the roles: every process whose program is `stamp`.
PostgreSQL's own processes and the application are not in it. Ends 1 if an aim is missed or a stamp did not come up.
"""
import argparse, concurrent.futures, hashlib, http.cookiejar, json, os, re, shutil, signal, ssl, statistics, subprocess, sys
import tempfile, time, urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SYSTEM = "time-tracker"
FIVE = ["time-tracker", "donatello", "monozu", "meg-qms", "clinical-mdr"]
STEP = re.compile(r"^\s+ok\s+(.+?), ([\d.]+) s")
AIMS = {"cold up": 5.0, "warm up": 2.0, "PSS": 100.0, "clone": 12 * 60.0}
MIB = 1024 * 1024


class Failed(Exception):
    """A command that did not end well; the text is what it said."""


def say(text):
    print(text, file=sys.stderr, flush=True)


class Home:
    """A STAMP_HOME that is gone, with every process of it, when the block ends."""

    def __init__(self, stamp, engines):
        self.stamp, self.engines, self.left = stamp, engines, 0

    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix="bench-stamp-")
        os.chmod(self.folder, 0o755)
        self.home = os.path.join(self.folder, "home")
        os.mkdir(self.home, 0o755)
        if self.engines:
            os.symlink(self.engines, os.path.join(self.home, "engines"))
        return self

    def run(self, *arguments, program=None, cwd=None, show=False):
        """Runs `stamp`; its JSON, the wall time, its steps in seconds."""
        environment = {**os.environ, "STAMP_HOME": self.home, "NO_COLOR": "1"}
        begun = time.monotonic()
        done = subprocess.run([program or self.stamp, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                              stderr=None if show else subprocess.PIPE, env=environment, cwd=cwd or self.folder)
        wall = time.monotonic() - begun
        if done.returncode:
            raise Failed(f"`stamp {arguments[0]}` ended with {done.returncode}, {reason(done.stdout) or done.stderr}")
        steps = {m.group(1): float(m.group(2)) for m in map(STEP.match, (done.stderr or "").splitlines()) if m}
        return json.loads(done.stdout), wall, steps

    def processes(self, belongs):
        for entry in os.listdir("/proc"):
            try:
                if entry.isdigit() and belongs(int(entry)):
                    yield int(entry)
            except OSError:
                pass

    def supervisors(self):
        tail = b"\0".join([b"serve", b"supervisor", b"--home", self.home.encode()])
        return list(self.processes(lambda pid: read(pid, "cmdline").rstrip(b"\0").endswith(tail)))

    def marked(self):
        """Processes that carry the mark of this home's workloads."""
        mark = b"STAMP_MARK=" + self.hash().encode() + b"/"
        return list(self.processes(lambda pid: any(e.startswith(mark) for e in read(pid, "environ").split(b"\0"))))

    def hash(self):
        return hashlib.sha256(self.home.encode()).hexdigest()[:8]

    def __exit__(self, *_):
        # A second Ctrl-C must not leave half a stamp behind.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        try:
            for row in self.run("status", "--json")[0]:
                self.run("destroy", row["system"], "--stamp", row["stamp"], "--yes", "--json")
        except (Failed, OSError, ValueError) as error:
            say(f"clean-up: {error}")
        for pid in self.supervisors():
            end(pid)
        left = self.marked()
        self.left = len(left)
        for pid in left:
            say(f"clean-up: {pid} was left: {read(pid, 'cmdline').replace(bytes(1), b' ').decode(errors='replace')}")
            end(pid)
        sockets = f"/run/stampwright-{self.hash()}" if os.geteuid() == 0 else f"/tmp/stampwright-{os.geteuid()}-{self.hash()}"
        shutil.rmtree(sockets, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, ask_to_end)


def reason(text):
    """What a failure says for itself, in a line, without what differs from stamp to stamp."""
    try:
        error = json.loads(text)["error"]
    except (ValueError, KeyError):
        return text.strip()
    return ": ".join([f"{error['code']} {error['message']}", *error["causes"], *error["lines"][-1:]])


def ask_to_end(*_):
    raise KeyboardInterrupt


def read(pid, name):
    with open(f"/proc/{pid}/{name}", "rb") as f:
        return f.read()


def end(pid):
    """Ends a process of ours: asks, waits, kills."""
    for number, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 5)):
        until = time.monotonic() + patience
        try:
            os.kill(pid, number)
            while time.monotonic() < until:
                os.kill(pid, 0)
                time.sleep(0.02)
        except ProcessLookupError:
            return


def pss(pid):
    """Proportional memory of a process in MiB; 0 of one that is gone."""
    try:
        return int(re.search(rb"^Pss:\s+(\d+)", read(pid, "smaps_rollup"), re.M).group(1)) / 1024
    except (OSError, AttributeError):
        return 0.0


def is_stamp(pid):
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")) == "stamp"
    except OSError:
        return False


def memory(status):
    """MiB of the platform's own processes by resource (`shim` and `role`), and of everything else (`others`)."""
    own, others = {}, 0.0
    for resource in status["resources"]:
        mine = [pid for pid in resource["pids"] if is_stamp(pid)]
        others += sum(pss(pid) for pid in resource["pids"] if pid not in mine)
        shim = resource["pids"][:1]
        own[resource["name"]] = (sum(map(pss, shim)), sum(pss(pid) for pid in mine if pid not in shim))
    return own, others


def idle(home, settle, stamp="dev", system=SYSTEM):
    """The status after a rest, all of it ready."""
    time.sleep(settle)
    status = home.run("status", system, "--stamp", stamp, "--json")[0]
    if status["state"] != "ready":
        raise Failed(f"{stamp} is {status['state']}: {[r for r in status['resources'] if r['state'] != 'ready']}")
    return status


def get(url, ca):
    """Status and text of a page, redirects followed, cookies kept, the stamp's CA trusted."""
    trust = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=ca))
    cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
    # No proxy of the environment: the addresses are this machine's own.
    with urllib.request.build_opener(urllib.request.ProxyHandler({}), trust, cookies).open(url, timeout=30) as answer:
        return answer.status, answer.read().decode(errors="replace")


def machine():
    with open("/proc/cpuinfo") as f:
        model = re.search(r"model name\s*:\s*(.+)", f.read())
    return f"{len(os.sched_getaffinity(0))} CPUs ({model.group(1) if model else os.uname().machine}), Linux {os.uname().release}"


def load():
    return "load average {:.2f} {:.2f} {:.2f}".format(*os.getloadavg())


def line(name, values, unit, aim=None):
    values = [v for v in values if v is not None]
    if not values:
        return True
    middle = statistics.median(values)
    met = aim is None or middle < aim
    verdict = "" if aim is None else f"aim < {aim:g} {unit}: {'met' if met else 'MISSED'}"
    print(f"{name:36} {middle:9.2f} {min(values):9.2f} {max(values):9.2f} {unit:4} {verdict}")
    return met


def head(title):
    print(f"\n{title:36} {'median':>9} {'least':>9} {'most':>9}")


def rounds(options):
    system = os.path.join(ROOT, "systems", SYSTEM)
    verbs, seconds, steps = {}, {}, {}
    parts, totals, others, left = {}, [], [], 0
    before = load()
    for number in range(options.rounds):
        with Home(options.stamp, options.engines) as home:
            def timed(verb, *arguments):
                answer, wall, took = home.run(*arguments, "--json")
                verbs.setdefault(verb, []).append(wall)
                if "seconds" in answer:
                    seconds.setdefault(verb, []).append(answer["seconds"])
                for step, time_taken in took.items():
                    steps.setdefault(verb, {}).setdefault(step, []).append(time_taken)
                return answer

            up = timed("cold up", "up", system)
            if get(up["urls"]["edge"] + "/health", up["ca"])[0] != 200:
                raise Failed("the edge is up and /health is not 200")
            status = idle(home, options.settle)
            own, rest = memory(status)
            supervisor = pss(status["supervisor_pid"])
            for name, (shim, role) in own.items():
                parts.setdefault(f"{name}: shim", []).append(shim)
                if role:
                    parts.setdefault(f"{name}: role", []).append(role)
            parts.setdefault("supervisor", []).append(supervisor)
            totals.append(supervisor + sum(a + b for a, b in own.values()))
            others.append(rest)
            timed("down", "down", SYSTEM)
            timed("warm up", "up", system)
            timed("destroy", "destroy", SYSTEM, "--yes")
        left += home.left
        say("round {}: cold up {:.2f} s, warm up {:.2f} s, own parts {:.1f} MiB, {}".format(
            number + 1, verbs["cold up"][-1], verbs["warm up"][-1], totals[-1], load()))
    print(f"\none stamp, {options.rounds} rounds; {machine()}; {before} before, {load()} after")
    head("time of the command")
    met = all([line(verb, verbs[verb], "s", AIMS.get(verb)) for verb in ("cold up", "warm up", "down", "destroy")])
    for verb in ("cold up", "warm up"):
        line(f"{verb}, `seconds` it prints", seconds.get(verb, []), "s")
    for verb in ("cold up", "warm up", "down", "destroy"):
        head(f"steps of {verb} (side by side)" if "up" in verb else f"steps of {verb}")
        # What takes a twentieth of a second or more; the rest is noise.
        for step, values in sorted(steps.get(verb, {}).items(), key=lambda s: -statistics.median(s[1])):
            if statistics.median(values) >= 0.05:
                line(f"  {step}", values, "s")
    head("memory of one idle stamp, PSS")
    met &= line("supervisor, shims and roles", totals, "MiB", AIMS["PSS"])
    for part, values in parts.items():
        line(f"  {part}", values, "MiB")
    line("PostgreSQL and the application", others, "MiB")
    if left:
        print(f"{left} processes were left after destroy")
    return met and not left, {"verbs": verbs, "seconds": seconds, "steps": steps, "parts": parts, "pss": totals, "others": others}


def twenty(options):
    names = [f"s{n:02}" for n in range(1, options.stamps + 1)]
    failed, times, health = {}, {}, {}
    with Home(options.stamp, options.engines) as home:
        system = os.path.join(home.folder, SYSTEM)
        os.mkdir(system, 0o755)
        with open(os.path.join(ROOT, "systems", SYSTEM, "system.toml")) as f:
            text = f.read()
        with open(os.path.join(system, "system.toml"), "w") as f:
            f.write(text + "".join(f"\n[stamps.{name}]\n" for name in names))

        def each(act, over):
            """Does the same for all stamps, so many at once; what failed is written down."""
            done = {}
            with concurrent.futures.ThreadPoolExecutor(options.at_once) as pool:
                for name, future in {n: pool.submit(act, n) for n in over}.items():
                    try:
                        done[name] = future.result()
                    except (Failed, OSError, ValueError) as error:
                        failed.setdefault(name, str(error))
            return done

        def up(name):
            return home.run("up", system, "--stamp", name, "--json")

        before, begun = load(), time.monotonic()
        # The first one alone finds an empty STAMP_HOME, the others one that is in use.
        ups = each(up, names[:1]) if options.first_alone else {}
        ups |= each(up, [name for name in names if name not in ups and name not in failed])
        all_up = time.monotonic() - begun
        times = {name: up[1] for name, up in ups.items()}
        say(f"{len(ups)} of {len(names)} came up in {all_up:.1f} s, {load()}")
        health = each(lambda name: get(ups[name][0]["urls"]["edge"] + "/health", ups[name][0]["ca"])[0], list(ups))
        time.sleep(options.settle)
        statuses = each(lambda name: idle(home, 0, name), list(ups))
        own = {name: sum(a + b for a, b in memory(status)[0].values()) for name, status in statuses.items()}
        rest = sum(memory(status)[1] for status in statuses.values())
        supervisor = sum(map(pss, home.supervisors()))
        restarts = sum(r["restarts"] for s in statuses.values() for r in s["resources"])
        blocks = {s["urls"]["edge"] for s in statuses.values()}
        processes = sum(len(r["pids"]) for s in statuses.values() for r in s["resources"])
        begun = time.monotonic()
        destroyed = each(lambda name: home.run("destroy", system, "--stamp", name, "--yes", "--json"), names)
        all_gone = time.monotonic() - begun
    how = f"{options.at_once} commands at once" + (", the first `up` alone" if options.first_alone else "")
    print(f"\n{len(names)} stamps in one STAMP_HOME, {how}; {machine()}; {before} before, {load()} after")
    answered = sum(1 for code in health.values() if code == 200)
    print(f"came up {len(ups)}, ready {len(statuses)}, /health 200 {answered}, addresses {len(blocks)}, restarts {restarts}, processes {processes}")
    print(f"all up after {all_up:.1f} s, all destroyed after {all_gone:.1f} s")
    head("each")
    line("up", list(times.values()), "s")
    line("destroy", [d[1] for d in destroyed.values()], "s")
    line("shims and roles, PSS", list(own.values()), "MiB")
    print(f"supervisor {supervisor:.1f} MiB; supervisor, shims and roles {supervisor + sum(own.values()):.1f} MiB;"
          f" PostgreSQL and the applications {rest:.1f} MiB")
    for why in sorted(set(failed.values())):
        names_of_it = sorted(name for name, said in failed.items() if said == why)
        print(f"FAILED {len(names_of_it)} ({' '.join(names_of_it)}): {why.strip()}")
    if home.left:
        print(f"{home.left} processes were left after destroy")
    met = len(statuses) == answered == len(names) and not failed and not home.left
    return met, {"up": times, "all_up": all_up, "pss": own, "supervisor": supervisor, "others": rest, "failed": failed}


def five(options):
    """Each system's stamp `dev` in an empty STAMP_HOME of its own, then all of them in one, brought up at once."""
    figures, left, failed = {}, 0, {}

    def weigh(home, system):
        status = idle(home, options.settle, system=system)
        own, rest = memory(status)
        return sum(a + b for a, b in own.values()), rest, sum(len(r["pids"]) for r in status["resources"])

    def up(home, system):
        answer, wall, _ = home.run("up", os.path.join(ROOT, "systems", system), "--json")
        code = get(answer["urls"]["edge"] + "/health", answer["ca"])[0]
        if code != 200:
            raise Failed(f"{system} is up and /health is {code}")
        return wall

    before = load()
    for system in FIVE:
        try:
            with Home(options.stamp, options.engines) as home:
                seconds = up(home, system)
                own, rest, processes = weigh(home, system)
                supervisor = sum(map(pss, home.supervisors()))
            left += home.left
            figures[system] = {"up": seconds, "own": own + supervisor, "others": rest, "processes": processes}
        except (Failed, OSError, ValueError) as error:
            failed[system] = str(error)
    with Home(options.stamp, options.engines) as home, concurrent.futures.ThreadPoolExecutor(len(FIVE)) as pool:
        begun = time.monotonic()
        for system, future in {s: pool.submit(up, home, s) for s in FIVE}.items():
            try:
                future.result()
            except (Failed, OSError, ValueError) as error:
                failed[f"{system}, with the others"] = str(error)
        all_up = time.monotonic() - begun
        time.sleep(options.settle)
        weighed = [weigh(home, system) for system in FIVE] if not failed else []
        total = sum(own + rest for own, rest, _ in weighed) + sum(map(pss, home.supervisors()))
    left += home.left
    print(f"\nthe five systems, stamp dev of each; {machine()}; {before} before, {load()} after")
    print(f"{'':16} {'cold up':>9} {'own parts':>11} {'the rest':>11} {'processes':>10}")
    for system, f in figures.items():
        print(f"{system:16} {f['up']:7.1f} s {f['own']:7.0f} MiB {f['others']:7.0f} MiB {f['processes']:10}")
    for system, why in failed.items():
        print(f"FAILED {system}: {why.strip()}")
    if not failed:
        print(f"all five at once: up after {all_up:.1f} s, {total:.0f} MiB (PSS) in {sum(p for *_, p in weighed)} processes")
    if left:
        print(f"{left} processes were left after destroy")
    return not failed and not left, {"alone": figures, "all_up": all_up, "all": total, "failed": failed}


def clone(options):
    with Home(None, None) as home:
        os.rmdir(home.home)
        copy, before = os.path.join(home.folder, "clone"), load()
        # A target folder of somebody else would make it a build of nothing.
        os.environ.pop("CARGO_TARGET_DIR", None)
        home.stamp = os.path.join(copy, "target/debug/stamp")
        begun = time.monotonic()
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, copy], check=True)
        up = home.run("up", f"systems/{SYSTEM}", "--json", program="./stampw", cwd=copy, show=True)[0]
        ready = time.monotonic() - begun
        code, page = get(up["urls"]["edge"], up["ca"])
        seconds = time.monotonic() - begun
    title = re.search(r"<title>(.*?)</title>", page, re.S)
    print(f"\nclean clone to first page; {machine()}; {before} before, {load()} after")
    print(f"ready after {ready:.0f} s; first page ({code}, \"{title.group(1).strip() if title else ''}\") after {seconds:.0f} s;"
          f" aim < {AIMS['clone']:.0f} s: {'met' if seconds < AIMS['clone'] else 'MISSED'}")
    return code == 200 and seconds < AIMS["clone"], {"ready": ready, "first_page": seconds}


def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--stamp", default=os.path.join(ROOT, "target/debug/stamp"), help="what is measured; default: what ./stampw up runs")
    parse.add_argument("--engines", help="the folder with postgresql-*; default: that of STAMP_HOME")
    parse.add_argument("--rounds", type=int, default=5)
    parse.add_argument("--settle", type=float, default=5, help="seconds of rest before memory is read")
    parse.add_argument("--twenty", action="store_true")
    parse.add_argument("--stamps", type=int, default=20, help="how many with --twenty")
    parse.add_argument("--at-once", type=int, default=20, help="how many commands at once with --twenty")
    parse.add_argument("--first-alone", action="store_true", help="with --twenty: the first `up` ends before the others begin")
    parse.add_argument("--five", action="store_true")
    parse.add_argument("--clone", action="store_true")
    parse.add_argument("--json", help="write the single figures here")
    options = parse.parse_args()
    if not options.clone:
        data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
        usual = "/var/lib/stampwright" if os.geteuid() == 0 else os.path.join(data, "stampwright")
        options.engines = os.path.realpath(options.engines or os.path.join(os.environ.get("STAMP_HOME") or usual, "engines"))
        options.stamp = os.path.realpath(options.stamp)
        if not os.access(options.stamp, os.X_OK):
            sys.exit(f"SKIP: no program at {options.stamp}; ./stampw help builds one")
        if not os.path.isdir(options.engines) or not os.listdir(options.engines):
            sys.exit(f"SKIP: no engines in {options.engines}; ./stampw up brings one")
    signal.signal(signal.SIGTERM, ask_to_end)
    try:
        met, figures = (clone if options.clone else five if options.five else twenty if options.twenty else rounds)(options)
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
