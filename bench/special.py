"""Scenarios that measure something else than CPU a request under full load."""
import contextlib
import os
import re
import resource
import shutil
import socket
import threading
import time
import urllib.request

import measure
import proxies
from proxies import ORIGINS, RUN

SERVICES = 1_000


@contextlib.contextmanager
def running(proxy, cpu=proxies.PROXY_CPU):
    proxy.start(cpu=cpu)
    try:
        yield proxy
    finally:
        proxy.stop()


def effort(quick, seconds, rounds=3):
    """(seconds, rounds): a quick run shows that a scenario works, and no figures."""
    return (2, 1) if quick else (seconds, rounds)


def latency(quick):
    """Answers' times at half of what HAProxy can do at most."""
    seconds, rounds = effort(quick, 10)
    with running(proxies.haproxy()) as haproxy, running(proxies.zoogate()) as zoogate:
        peak = max(measure.wrk(haproxy.http, "/s", 3)["rate"] for _ in range(2))
        rate, taken = peak / 2, {haproxy.name: [], zoogate.name: []}
        bad = 0
        for _ in range(rounds):
            for proxy in (haproxy, zoogate):
                times, failed = measure.paced(proxy.http, "/s", seconds, rate)
                taken[proxy.name].append(times)
                bad += failed
    rows = [[name, *(f"{median(rounds, share):.2f}" for share in (0.5, 0.99, 0.999))] for name, rounds in taken.items()]
    return {"title": f"Latency at {rate:.0f} requests a second, half of HAProxy's peak; ms, medians of {rounds} rounds; "
                     f"{bad} failed", "head": ["", "p50", "p99", "p99.9"], "table": rows}


def median(rounds, share):
    return sorted(measure.percentile(times, share) for times in rounds)[len(rounds) // 2]


def churn(quick, rate=4000):
    """The same load while every second a hundred instances come or go."""
    seconds, rounds = effort(quick, 10)
    with running(proxies.zoogate()) as zoogate:
        quiet, busy, bad = [], [], 0
        for _ in range(rounds):
            times, failed = measure.paced(zoogate.http, "/s", seconds, rate)
            quiet.append(times)
            bad += failed
            stop = threading.Event()
            thread = threading.Thread(target=come_and_go, args=(stop,))
            thread.start()
            times, failed = measure.paced(zoogate.http, "/s", seconds, rate)
            stop.set()
            thread.join()
            busy.append(times)
            bad += failed
    rows = [[name, *(f"{median(rounds, share):.2f}" for share in (0.5, 0.99, 0.999))]
            for name, rounds in (("quiet", quiet), ("100 changes a second", busy))]
    return {"title": f"zoogate at {rate} requests a second while instances come and go; ms; {bad} failed",
            "head": ["", "p50", "p99", "p99.9"], "table": rows}


def come_and_go(stop):
    """Fifty instances come and fifty go each second. Every one is real: the origins listen on all of 127/8."""
    folder, at = RUN / "services" / "origin", 0
    while not stop.wait(0.01):
        name = folder / f"churn{at % 100}"
        if name.exists():
            name.unlink()
        else:
            name.write_text(f"127.0.1.{at % 100 + 1}:{ORIGINS[at % 3]}")
        at += 1
    for left in folder.glob("churn*"):
        left.unlink()


def settled(pid, seconds=20):
    """Memory once it has kept still for three seconds: an allocator gives back in its own time."""
    seen = [measure.memory(pid)]
    for _ in range(seconds):
        time.sleep(1)
        seen.append(measure.memory(pid))
        if len(seen) > 3 and max(seen[-4:]) - min(seen[-4:]) < 64 << 10:
            break
    return seen[-1]


def idle(quick):
    """Memory of connections that have had one answer and wait."""
    connections = 500 if quick else min(10_000, proxies.MAX_CONNECTIONS - 500)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    rows = []
    for proxy in (proxies.haproxy(), proxies.nginx(), proxies.zoogate()):
        with running(proxy):
            measure.wrk(proxy.http, "/s", 1)
            before, clients = settled(proxy.pid), []
            for _ in range(connections):
                client = socket.create_connection(("127.0.0.1", proxy.http))
                client.sendall(b"GET /s HTTP/1.1\r\nhost: bench\r\n\r\n")
                client.recv(4096)
                clients.append(client)
            after = settled(proxy.pid)
            for client in clients:
                client.close()
            rows.append([proxy.name, f"{before / 2**20:.1f}", f"{after / 2**20:.1f}", f"{(after - before) / connections / 1024:.2f}"])
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return {"title": f"Memory with {connections} idle HTTP/1.1 connections", "table": rows,
            "head": ["", "before, MiB", "with them, MiB", "KiB each"]}


def scaling(quick):
    """One worker and two, on all cores, which the load and the origins want too."""
    rows, (seconds, rounds) = [], effort(quick, 3)
    for workers in (1, 2):
        with running(proxies.zoogate(workers=workers), cpu=None) as zoogate:
            measure.wrk(zoogate.http, "/s", 1)
            taken = []
            for _ in range(rounds):
                result, micros = with_cost(zoogate, lambda: measure.wrk(zoogate.http, "/s", seconds))
                taken.append((result["rate"], micros))
            rate, micros = sorted(taken)[len(taken) // 2]
            rows.append([str(workers), f"{rate:.0f}", f"{micros:.1f}"])
    return {"title": f"zoogate's workers on the {os.cpu_count()} cores that load and origins share with it",
            "head": ["workers", "requests a second", "CPU µs a request"], "table": rows}


def with_cost(proxy, load):
    """What a load tells, and the proxy's CPU µs a request meanwhile."""
    before = measure.cpu(proxy.pid)[2]
    result = load()
    return result, (measure.cpu(proxy.pid)[2] - before) / max(result["count"], 1) * 1e6


def hashed(quick):
    """A pick by the hash of a header instead of round robin, everything else alike: the requests differ in their host."""
    key = 'key = "header:x-user-id"'
    balances = ['"round_robin"', f'{{ policy = "ring", {key} }}', f'{{ policy = "ring", {key}, load_bound = 1.25 }}',
                f'{{ policy = "maglev", {key} }}']
    policies = ["round_robin", "ring", "ring with load_bound", "maglev"]
    taken, bad, (seconds, rounds) = {policy: [] for policy in policies}, 0, effort(quick, 3, 7)
    with running(proxies.zoogate(balances=balances)) as zoogate:
        measure.wrk(zoogate.http, "/s", 1)
        for _ in range(rounds):
            for at, policy in enumerate(policies):
                load = lambda: measure.wrk(zoogate.http, "/s", seconds, "-s", measure.HERE / "conf" / "keys.lua",
                                           "-H", f"Host: p{at}.test")
                result, micros = with_cost(zoogate, load)
                taken[policy].append(micros)
                bad += result["bad"]
    middle = lambda policy: sorted(taken[policy])[rounds // 2]
    # Round by round, so that what slows a whole round down is not in it.
    more = lambda policy: sorted(a - b for a, b in zip(taken[policy], taken["round_robin"]))[rounds // 2]
    rows = [[policy, f"{middle(policy):.1f} ({min(taken[policy]):.1f} to {max(taken[policy]):.1f})", f"{more(policy):+.2f}"]
            for policy in policies]
    return {"title": f"zoogate's policies with a key of 36 bytes in each request, {rounds} rounds; {bad} failed",
            "head": ["policy", "CPU µs a request", "more than round robin"], "table": rows}


def cold(quick):
    """From the start of the process to a table of everything that a directory holds."""
    root, instances = RUN / "cold", 10_000 if quick else 100_000
    shutil.rmtree(root, ignore_errors=True)
    for service in range(SERVICES):
        folder = root / "apps" / f"service{service}"
        folder.mkdir(parents=True)
        for node in range(instances // SERVICES):
            (folder / f"node{node}").write_text(f"10.{service >> 8}.{service & 255}.{node + 1}:8080")
    file = RUN / "cold.toml"
    file.write_text(f"""[gateway]
workers = 1
access_log = "off"
[admin]
listen = "127.0.0.1:19124"
[registries.local]
kind = "directory"
path = "{root}"
[catalogs.apps]
path = "/apps"
[[listeners]]
listen = "127.0.0.1:19125"
[[routes]]
path = "/{{service}}/*"
service = "apps/{{service}}"
""")
    proxy = proxies.Proxy("zoogate", [os.environ["ZOOGATE"], "run", "--config", str(file)], 19125)
    since = time.monotonic()
    try:
        proxy.start(wait=False)
        until(since, lambda: get("/readyz") is not None)
        ready = time.monotonic() - since
        until(since, lambda: known() >= instances)
        whole, size = time.monotonic() - since, measure.memory(proxy.pid)
    finally:
        proxy.stop()
        shutil.rmtree(root, ignore_errors=True)
    return {"title": f"Cold start: a directory of {instances} instances in {SERVICES} services",
            "head": ["ready after, s", "all instances in the table after, s", "memory, MiB"],
            "table": [[f"{ready:.2f}", f"{whole:.2f}", f"{size / 2**20:.0f}"]]}


def until(since, condition, seconds=120):
    while not condition():
        if time.monotonic() - since > seconds:
            raise RuntimeError("not in time")
        time.sleep(0.05)


def get(path):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:19124{path}", timeout=10).read().decode()
    except OSError:
        return None


def known():
    metrics = get("/metrics") or ""
    return sum(int(float(n)) for n in re.findall(r'zoogate_service_instances\{[^}]*state="up"\} (\S+)', metrics))
