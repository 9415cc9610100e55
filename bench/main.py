"""Runs the scenarios, all proxies in turn within each round, and writes docs/performance.md. See run.sh."""
import argparse
import json
import os
import statistics
import sys
import time

import measure
import proxies
import report
import special
from proxies import RUN

# Answers with more foreign CPU (cores) beside them than this leave the medians, where there are others.
FOREIGN = 0.25
SCENARIOS = {
    "small": ("GET, 128 bytes", lambda p, s: measure.wrk(p.http, "/s", s)),
    "post": ("POST, 1 KiB", lambda p, s: measure.post(p.http, "/post", s)),
    "big": ("GET, 64 KiB", lambda p, s: measure.wrk(p.http, "/big", s)),
    "h2": ("HTTP/2 GET, 128 bytes, HTTP/1.1 to the instance", lambda p, s: measure.h2load(p.h2, "/s", s)),
    "conn": ("GET, 128 bytes, a new connection each", lambda p, s: measure.wrk(p.http, "/s", s, "-H", "Connection: close")),
    "grpc": ("gRPC unary, 64 bytes, HTTP/2 on both sides", lambda p, s: measure.grpc(p.h2, "/bench.Echo/Call", s)),
    "log": ("GET, 128 bytes, JSON access log to a file", lambda p, s: measure.wrk(p.http, "/s", s)),
}
# Where the same bytes go in as come out, passing them on unread is possible, and shows the kernel's part.
BYTES = ("small", "post", "big")
SPECIAL = {"latency": special.latency, "churn": special.churn, "idle": special.idle,
           "scaling": special.scaling, "hash": special.hashed, "cold": special.cold}


def taking_part(scenario):
    """Who is measured in a scenario: the reference first."""
    if scenario == "grpc":
        return [proxies.haproxy(), proxies.zoogate()]
    if scenario == "log":
        return [proxies.haproxy("haproxy", log=RUN / "haproxy.access"), proxies.zoogate(log=RUN / "zoogate.access")]
    everyone = [proxies.haproxy(), proxies.haproxy("haproxy bare", 18105, 18115), proxies.nginx(), proxies.pingora(),
                proxies.zoogate(), proxies.floor() if scenario in BYTES else None]
    return [p for p in everyone if p]


def compare(scenario, rounds, seconds, origins):
    running = []
    try:
        for proxy in taking_part(scenario):
            running.append(proxy)
            proxy.start()
        return interleaved(scenario, rounds, seconds, running, origins)
    finally:
        for proxy in running:
            proxy.stop()


def interleaved(scenario, rounds, seconds, running, origins):
    load, rows = SCENARIOS[scenario][1], {p.name: [] for p in running}
    ours = [p.pid for p in [*running, *origins]]
    for proxy in running:
        load(proxy, 1)
    for _ in range(rounds):
        for proxy in running:
            rows[proxy.name].append(one(proxy, load, seconds, ours))
    return {name: summary(all_rounds) for name, all_rounds in rows.items()}


def one(proxy, load, seconds, ours):
    foreign = lambda: measure.machine_busy() - measure.own_busy() - sum(measure.cpu(pid)[2] for pid in ours)
    before, alien, since = measure.cpu(proxy.pid), foreign(), time.monotonic()
    result = load(proxy, seconds)
    took, after = time.monotonic() - since, measure.cpu(proxy.pid)
    count = max(result["count"], 1)
    user, system, exact = ((b - a) / count * 1e6 for a, b in zip(before, after))
    return {**result, "user": user, "system": system, "micros": exact, "busy": (after[2] - before[2]) / took,
            "foreign": (foreign() - alien) / took}


def summary(rounds):
    quiet = [r for r in rounds if r["foreign"] <= FOREIGN] or rounds
    median = {key: statistics.median(r[key] for r in quiet) for key in quiet[0]}
    return {**median, "least": min(r["micros"] for r in quiet), "most": max(r["micros"] for r in quiet),
            "bad": sum(r["bad"] for r in rounds), "used": len(quiet), "rounds": len(rounds)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", nargs="*", help=f"of {', '.join([*SCENARIOS, *SPECIAL])}; all if left out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--quick", action="store_true",
                        help="one short round of everything, to see that it works: prints, and keeps no figure")
    parser.add_argument("--keep-document", action="store_true", help="print the tables, leave docs/ alone")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.keep_document = 1, 1, True
    wanted = options.scenario or [*SCENARIOS, *SPECIAL]
    unknown = set(wanted) - SCENARIOS.keys() - SPECIAL.keys()
    if unknown:
        parser.error(f"no scenario {', '.join(sorted(unknown))}")
    RUN.mkdir(parents=True, exist_ok=True)
    proxies.prefer("self")
    origins = proxies.origins()
    try:
        for scenario in wanted:
            print(f"-- {scenario}", file=sys.stderr, flush=True)
            if scenario in SCENARIOS:
                result = {"title": SCENARIOS[scenario][0], "at": time.time(), "load": os.getloadavg()[0],
                          "rows": compare(scenario, options.rounds, options.seconds, origins)}
            else:
                result = {**SPECIAL[scenario](options.quick), "at": time.time(), "load": os.getloadavg()[0]}
            # A scenario that is run again replaces its own figures; the others stay in the document.
            if not options.quick:
                (RUN / f"{scenario}.json").write_text(json.dumps(result))
            print(report.table(scenario, result), flush=True)
    finally:
        for origin in origins:
            origin.stop()
    if not options.keep_document:
        report.write([*SCENARIOS], [*SPECIAL])


if __name__ == "__main__":
    main()
