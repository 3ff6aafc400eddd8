#!/usr/bin/env python3
"""CPU per request of the gateway beside nginx and HAProxy, at 1 KiB and 64 KiB over TLS.

    bench/gateway/run.py --gateway target/release/examples/alone [--rounds 5] [--seconds 5]

`--only gateway,gateway-spans` compares the gateway with itself when it also sends a span a request over TLS.

Needs nginx, haproxy, wrk and openssl on PATH. Each round measures every proxy once, in an order that rotates, so that a
machine that slows down slows all of them. Each proxy is one worker, pinned to the first CPU; load and upstream (an nginx
that sends a fixed body) share the other CPUs. The figure is CPU time of the proxy (utime + stime of its processes from
/proc) by requests, the median of the rounds. Every proxy writes the same access log line, sets the same headers.
"""
import argparse, json, os, re, shutil, signal, socket, statistics, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
TICK = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def family(pid):
    """The process and its children."""
    found = [pid]
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as f:
                for child in f.read().split():
                    found += family(int(child))
    except FileNotFoundError:
        pass
    return found


def cpu_seconds(pid):
    """User and system time of a process and its children."""
    user = system = 0
    for one in family(pid):
        with open(f"/proc/{one}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        user, system = user + int(fields[11]), system + int(fields[12])
    return user / TICK, system / TICK


def rss_mib(pid):
    total = 0
    for one in family(pid):
        with open(f"/proc/{one}/status") as f:
            total += int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))
    return total / 1024


def start(command, cpus, port, out):
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, preexec_fn=lambda: os.sched_setaffinity(0, cpus)
    )
    for _ in range(500):
        if process.poll() is not None:
            sys.exit(f"{command[0]} ended: {process.stderr.read().decode()}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return process
        except OSError:
            time.sleep(0.02)
    sys.exit(f"{command[0]} does not listen on {port}")


def stop(process):
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def fill(name, folder, **names):
    text = open(os.path.join(HERE, name)).read()
    for key, value in {"DIR": folder, **names}.items():
        text = text.replace(f"@{key}@", str(value))
    path = os.path.join(folder, name)
    open(path, "w").write(text)
    return path


def load(port, path, seconds, connections, cpus):
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", f"https://127.0.0.1:{port}{path}"]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, cpus))
    text = done.stdout
    if "Non-2xx" in text or "Socket errors" in text or done.returncode:
        sys.exit(f"a request failed:\n{text}{done.stderr}")
    requests = int(re.search(r"(\d+) requests in", text).group(1))
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1))
    p99 = re.search(r"99%\s+(\S+)", text).group(1)
    return requests, rate, p99


def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--gateway", required=True, help="the release build of crates/gateway/examples/alone.rs")
    parse.add_argument("--rounds", type=int, default=5)
    parse.add_argument("--seconds", type=int, default=5)
    parse.add_argument("--connections", type=int, default=64)
    parse.add_argument("--sizes", default="1,64", help="KiB: 1, 64")
    parse.add_argument("--only", default="gateway,nginx,haproxy")
    parse.add_argument("--json", help="write the single figures here")
    options = parse.parse_args()
    for tool in ["nginx", "haproxy", "wrk", "openssl"]:
        if not shutil.which(tool) and tool in options.only + "wrk openssl nginx":
            sys.exit(f"SKIP: no {tool} on PATH")
    all_cpus = sorted(os.sched_getaffinity(0))
    proxy_cpus, other_cpus = {all_cpus[0]}, set(all_cpus[1:]) or {all_cpus[0]}

    folder = tempfile.mkdtemp(prefix="bench-gateway-")
    running = []
    try:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
             "-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"], check=True, capture_output=True)
        with open(f"{folder}/both.pem", "w") as both:
            both.write(open(f"{folder}/cert.pem").read() + open(f"{folder}/key.pem").read())
        # The clients' TLS suite is the same for all: TLS 1.3, AES-128-GCM.
        with open(f"{folder}/openssl.cnf", "w") as f:
            f.write("openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\nMinProtocol = TLSv1.3\n"
                    "Ciphersuites = TLS_AES_128_GCM_SHA256\n")
        os.environ["OPENSSL_CONF"] = f"{folder}/openssl.cnf"
        for size in (1, 64):
            with open(f"{folder}/{size}k", "wb") as f:
                f.write(b"x" * size * 1024)
        upstream, receiver = free_port(), free_port()
        with open(f"{folder}/upstream.conf", "w") as f:
            f.write(f"daemon off; pid {folder}/up.pid; error_log stderr error; worker_processes 1;\n"
                    f"events {{ worker_connections 4096; }}\nhttp {{ access_log off; sendfile on; tcp_nopush on;"
                    f" open_file_cache max=8; keepalive_requests 100000000; root {folder};"
                    + "".join(f" {n}_temp_path {folder}/up-{n};" for n in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
                    + f" client_max_body_size 64m; server {{ listen 127.0.0.1:{upstream}; }}"
                    # Takes spans, and says so.
                    + f" server {{ listen 127.0.0.1:{receiver} ssl; ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;"
                    + " location / { return 200; } } }\n")
        os.chmod(folder, 0o755)
        running.append(start(["nginx", "-c", f"{folder}/upstream.conf"], other_cpus, upstream, subprocess.DEVNULL))

        def command(name, port):
            if name == "nginx":
                return ["nginx", "-c", fill("nginx.conf", folder, PORT=port, UPSTREAM=upstream)]
            if name == "haproxy":
                return ["haproxy", "-db", "-f", fill("haproxy.cfg", folder, PORT=port, UPSTREAM=upstream)]
            config = {
                "version": 1,
                "context": {"system": "bench", "stamp": "bench", "resource": "edge", "data": folder, "ca": f"{folder}/cert.pem"},
                "config": {"https_port": port, "workers": 1, "access_log": True, "routes": [{"path": "/", "to": "app"}],
                           "upstreams": {"app": {"targets": [f"127.0.0.1:{upstream}"]}},
                           "limits": {"idle_upstream": 128, "drain_ms": 1000}},
            }
            if name == "gateway-spans":
                config["config"]["telemetry"] = f"https://127.0.0.1:{receiver}/"
            path = f"{folder}/{name}.json"
            json.dump(config, open(path, "w"))
            return [options.gateway, path, f"{folder}/cert.pem", f"{folder}/key.pem", f"127.0.0.1:{port}"]

        names = [n for n in options.only.split(",")]
        sizes = [int(size) for size in options.sizes.split(",")]
        figures = []
        for round_number in range(options.rounds):
            order = names[round_number % len(names):] + names[:round_number % len(names)]
            for size in sizes:
                for name in order:
                    port = free_port()
                    # The log goes to a file for all three: a reader's CPU time is nobody's figure.
                    with open(f"{folder}/{name}.log", "wb") as out:
                        process = start(command(name, port), proxy_cpus, port, out)
                        running.append(process)
                        load(port, f"/{size}k", 1, options.connections, other_cpus)
                        before = cpu_seconds(process.pid)
                        requests, rate, p99 = load(port, f"/{size}k", options.seconds, options.connections, other_cpus)
                        user, system = (a - b for a, b in zip(cpu_seconds(process.pid), before))
                        figure = {"round": round_number, "proxy": name, "kib": size, "requests": requests, "rate": rate,
                                  "p99": p99, "us": (user + system) * 1e6 / requests, "user_us": user * 1e6 / requests, "rss_mib": rss_mib(process.pid)}
                        figures.append(figure)
                        print("{round} {proxy:13} {kib:2} KiB {rate:9.0f}/s  p99 {p99:>8}  {us:6.1f} us (user {user_us:5.1f})  {rss_mib:5.1f} MiB".format(**figure),
                              file=sys.stderr, flush=True)
                        running.remove(process)
                        stop(process)
        if options.json:
            json.dump(figures, open(options.json, "w"), indent=1)
        print(f"{'':13} {'KiB':>4} {'CPU us a request':>17} {'of it user':>11} {'by nginx':>9} {'range':>15} {'requests/s':>11} {'RSS MiB':>8}")
        for size in sizes:
            def of(name, key):
                return [f[key] for f in figures if f["proxy"] == name and f["kib"] == size]
            for name in names:
                us = of(name, "us")
                # Pairs of one round: what the machine did to one it did to the other.
                pairs = [a / b for a, b in zip(us, of("nginx", "us"))] if "nginx" in names else []
                ratio = f"{statistics.median(pairs):.2f}" if pairs else "-"
                spread = f"{min(us):.1f}-{max(us):.1f}"
                print(f"{name:13} {size:4} {statistics.median(us):17.1f} {statistics.median(of(name, 'user_us')):11.1f} {ratio:>9} {spread:>15}"
                      f" {statistics.median(of(name, 'rate')):11.0f} {statistics.median(of(name, 'rss_mib')):8.1f}")
    finally:
        for process in reversed(running):
            stop(process)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
