"""An hour of everything: see soak.sh. Faults come at a constant pace while clients of four protocols work; at the end their history is
compared with that of the instances, and the gateway's memory and descriptors with what they were."""
import argparse
import collections
import datetime
import json
import logging
import math
import os
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import soak_clients
from soak_faults import Faults
from soak_world import DRAIN, World

MIB = 1 << 20
# The first part of a run, which trends leave out: pools, caches and the allocator find their size.
WARM_UP = 1 / 6


class Samples(threading.Thread):
    """The gateway's process, looked at from outside, and its own counters."""

    def __init__(self, world, every, each_minute):
        super().__init__(daemon=True)
        self.world, self.every, self.each_minute, self.stop = world, every, each_minute, threading.Event()
        self.rows, self.counters = [], collections.Counter()

    def run(self):
        began, minute = time.monotonic(), 0
        while not self.stop.wait(self.every):
            self.take()
            if time.monotonic() - began >= (minute + 1) * 60:
                minute += 1
                self.each_minute(minute, self)

    def take(self):
        process = Path(f"/proc/{self.world.gateway.pid}")
        try:
            status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
            memory = dict(line.split(":", 1) for line in (process / "smaps_rollup").read_text().splitlines()[1:])
            row = {"time": time.time(), "rss": int(status["VmRSS"].split()[0]) * 1024, "pss": int(memory["Pss"].split()[0]) * 1024,
                   "descriptors": len(os.listdir(process / "fd")), "threads": int(status["Threads"])}
            self.counters = self.world.metrics()
        except (OSError, KeyError) as error:
            return print(f"no sample: {error!r}", flush=True)
        self.rows.append(row)
        with (self.world.folder / "samples.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")


def trend(rows, name):
    """(median of the first quarter, median of the last, slope an hour, its standard error), without the warm-up."""
    rows = rows[int(len(rows) * WARM_UP):]
    xs, ys = [row["time"] / 3600 for row in rows], [row[name] for row in rows]
    quarter = max(1, len(rows) // 4)
    x, y = statistics.fmean(xs), statistics.fmean(ys)
    spread = sum((a - x) ** 2 for a in xs) or 1
    slope = sum((a - x) * (b - y) for a, b in zip(xs, ys)) / spread
    rest = sum((b - y - slope * (a - x)) ** 2 for a, b in zip(xs, ys))
    error = math.sqrt(rest / max(1, len(rows) - 2) / spread)
    return statistics.median(ys[:quarter]), statistics.median(ys[-quarter:]), slope, error


def grew(first, last, allowance):
    return last > first * 1.1 + allowance


def clock(at):
    return time.strftime("%X", time.localtime(at))


def seconds(stamp):
    return datetime.datetime.fromisoformat(stamp).timestamp()


class Blame:
    """Why a request failed: with its instance, because its instance was taken from the registry, or for no reason that we know."""

    def __init__(self, world, faults):
        self.faults, self.log = faults, world.requests_log.failed
        self.names = {instance.id: instance.name for instance in world.instances}
        self.removals = collections.defaultdict(list)
        for file in (world.folder / "events.jsonl.1", world.folder / "events.jsonl"):
            for line in file.read_text().splitlines() if file.exists() else ():
                event = json.loads(line)
                if event.get("change") == "removed":
                    self.removals[self.names.get(event["instance"])].append(seconds(event["time"]))

    def entry(self, failure):
        return self.log.get(failure.id, {})

    def instance(self, failure):
        return failure.instance or self.names.get(self.entry(failure).get("instance"))

    def of(self, failure):
        instance, ended = self.instance(failure), failure.ended
        if "time" in self.entry(failure):
            # A client that is busy notices later than the gateway.
            ended = min(ended, seconds(self.entry(failure)["time"]))
        if instance and self.faults.hurt(instance, ended):
            return "with its instance"
        # Its drain, the quarter behind it, and a second for us all.
        if any(at - 1 <= ended <= at + DRAIN * 1.25 + 1 for at in self.removals[instance]):
            return "removed"
        return "unexplained"

    def tell(self, failure):
        before = [done for done in self.faults.done if done.at <= failure.ended]
        last = f"{failure.ended - before[-1].at:.1f} s after {before[-1].what} {before[-1].target}" if before else "before any fault"
        entry = self.entry(failure)
        told = {key: entry.get(key) for key in ("status", "error", "retries", "duration_ms")} if entry else "nothing"
        return (f"{clock(failure.ended)} {failure.kind} {failure.method} {failure.id} on {self.instance(failure)}: {failure.what}, "
                f"{failure.ended - failure.began:.2f} s long, {last}; the access log tells {told}")


def progress(minute, faults, ledger, samples):
    with ledger.lock:
        requests, failures, wrong = sum(ledger.sent.values()), list(ledger.failures), len(ledger.wrong)
    gets = sum(failure.method == "GET" for failure in failures)
    row = samples.rows[-1] if samples.rows else collections.Counter()
    print(f"{time.strftime('%X')} {minute:3} min  {len(faults.done)} faults  {requests} requests  failed: {gets} GET, {len(failures) - gets} other  "
          f"wrong {wrong}  {row['pss'] / MIB:.1f} MiB  {row['descriptors']} descriptors  {row['threads']} threads  "
          f"panics {samples.counters['zoogate_panics_total']:.0f}  findings {len(faults.findings)}", flush=True)


def soak(world, options):
    """Runs it, and returns all that is known afterwards."""
    world.start()
    ledger, stop, faults = soak_clients.Ledger(), threading.Event(), Faults(world, options.seed)
    samples = Samples(world, options.sample, lambda minute, samples: progress(minute, faults, ledger, samples))
    clients = soak_clients.start(world, ledger, stop, options.rate, options.seed)
    samples.start()
    began = time.monotonic()
    end, due = began + options.minutes * 60, began + options.pause

    # The last fault has time to be undone.
    while due < end - options.pause / 2 and world.gateway.poll() is None:
        time.sleep(max(0, due - time.monotonic()))
        due += options.pause
        faults.next()
    time.sleep(max(0, end - time.monotonic()))
    samples.stop.set()
    stop.set()
    for client in clients:
        client.join(60)
    seconds = time.monotonic() - began
    samples.take()
    standing = world.gateway.poll() is None
    code = world.stop()
    return ledger, faults, samples, seconds, standing and code == 0


def report(world, options, ledger, faults, samples, seconds, stopped):
    """Prints what was found, and returns what is wrong with it."""
    blame, bad = Blame(world, faults), []
    twice, wrong = soak_clients.compare(ledger.served, {failure.id: failure.method for failure in ledger.failures}, world.seen())
    wrong = ledger.wrong + wrong
    why = collections.Counter((failure.kind, failure.method, blame.of(failure)) for failure in ledger.failures)
    print("\n| clients | requests | p50 ms | p99 ms | failed with their instance | failed as it was removed | failed without a reason |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for kind, method in sorted(ledger.sent):
        took = sorted(ledger.took[kind, method]) or [0]
        times = f"{took[len(took) // 2] * 1e3:.1f} | {took[int(len(took) * 0.99)] * 1e3:.0f}" if method not in soak_clients.LONG else " | "
        print(f"| {kind} {method} | {ledger.sent[kind, method]} | {times} | "
              + " | ".join(str(why[kind, method, reason]) for reason in ("with its instance", "removed", "unexplained")) + " |")
    print("\n| fault | times | failed GETs | other failures | answered after more than 1 s | longest until all is as before, s |")
    print("| --- | --- | --- | --- | --- | --- |")
    times, after = collections.Counter(done.what for done in faults.done), collections.Counter()
    marks = [(failure.ended, "GET" if failure.method == "GET" else "other") for failure in ledger.failures]
    for ended, sort in marks + [(at, "slow") for _, at, _ in ledger.slow]:
        at = sum(done.at <= ended for done in faults.done)
        after[faults.done[at - 1].what if at else "none", sort] += 1
    for what in sorted(times):
        print(f"| {what} | {times[what]} | {after[what, 'GET']} | {after[what, 'other']} | {after[what, 'slow']} | {faults.took[what]:.1f} |")
    print("\n| of the gateway | first quarter | last quarter | slope an hour |\n| --- | --- | --- | --- |")
    for name, unit, allowance in (("pss", MIB, 4 * MIB), ("rss", MIB, 4 * MIB), ("descriptors", 1, 8), ("threads", 1, 0)):
        first, last, slope, error = trend(samples.rows, name)
        print(f"| {name}{', MiB' if unit == MIB else ''} | {first / unit:.1f} | {last / unit:.1f} | {slope / unit:+.2f} ± {2 * error / unit:.2f} |")
        if grew(first, last, allowance):
            bad.append(f"{name} grew from {first / unit:.1f} to {last / unit:.1f}")
    print()
    counters = samples.counters
    for name in ("panics", "registry_drift", "registry_session_losses", "retries", "ejections", "readmissions", "membership_changes",
                 "config_reloads", "retry_budget_exhausted"):
        print(f"{name}: {counters[f'zoogate_{name}_total']:.0f}", end="; ")
    print(f"access log: {world.requests_log.lines} lines; registrars that gave up at their start: {world.supervised}\n")
    requests, gets = sum(ledger.sent.values()), sum(n for (_, method), n in ledger.sent.items() if method == "GET")
    failed = sum(failure.method == "GET" for failure in ledger.failures)
    unexplained = [failure for failure in ledger.failures if blame.of(failure) == "unexplained"]
    # All that found no reason, and some of each other sort.
    shown = collections.Counter()
    for failure in ledger.failures:
        sort = failure.kind, failure.method, blame.of(failure)
        shown[sort] += 1
        if shown[sort] <= (50 if sort[2] == "unexplained" or failure.method == "GET" else 3):
            print(f"{sort[2]}: {blame.tell(failure)}")
    for took, at, what in sorted(ledger.slow, reverse=True)[:10]:
        print(f"slow: {clock(at)} {what}, {took:.2f} s")
    for line in (*wrong[:20], *twice[:20], *faults.findings):
        print(f"FOUND: {line}")
    bad += [f"{len(wrong)} wrong answers"] * bool(wrong) + [f"{len(twice)} requests arrived twice"] * bool(twice)
    bad += [f"{len(faults.findings)} faults did not settle"] * bool(faults.findings)
    bad += [f"{counters['zoogate_panics_total']:.0f} panics"] * bool(counters["zoogate_panics_total"])
    bad += [f"{counters['zoogate_registry_drift_total']:.0f} nodes drifted"] * bool(counters["zoogate_registry_drift_total"])
    bad += ["the gateway ended, or did not stop in order"] * (not stopped)
    bad += [f"{failed} of {gets} GETs failed"] * (failed > gets / 1000)
    bad += [f"{len(unexplained)} failures without a reason"] * (len(unexplained) > requests / 1000)
    length = "one hour" if options.minutes == 60 else f"{options.minutes:g} minutes"
    print(f"\n{length}, {len(faults.done)} faults, {requests} requests ({requests / seconds:.0f} a second), {ledger.messages} WebSocket messages: "
          f"{len(wrong)} wrong bodies, {len(twice)} arrived twice, {counters['zoogate_panics_total']:.0f} panics, {failed} of {gets} GETs failed, "
          f"{len(ledger.failures) - failed} others ({len(unexplained)} without a reason); seed {options.seed}")
    return bad


def itself():
    """The verdict sees what it is there for."""
    soak_clients.itself()
    flat = [{"time": 10.0 * n, "x": 100 + n % 3} for n in range(360)]
    leak = [{"time": 10.0 * n, "x": 100 + n} for n in range(360)]
    first, last, slope, error = trend(flat, "x")
    assert not grew(first, last, 0) and abs(slope) < 2 * error + 0.1
    first, last, slope, error = trend(leak, "x")
    assert grew(first, last, 4) and abs(slope - 360) < 1


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=150, help="requests and WebSocket messages a second, over all clients")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--pause", type=float, default=20, help="seconds from fault to fault")
    parser.add_argument("--sample", type=float, default=10, help="seconds from sample to sample")
    parser.add_argument("--keep", action="store_true", help="leave logs behind, also of a run that was sound")
    options = parser.parse_args()
    itself()
    # It tells of each connection that a fault ends.
    logging.getLogger("kazoo").setLevel(logging.CRITICAL)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    print(f"seed {options.seed}, {options.minutes:g} minutes, {options.rate:g} a second, a fault each {options.pause:g} s, in {folder}", flush=True)
    world, bad = World(folder), ["it did not come to an end"]
    try:
        bad = report(world, options, *soak(world, options))
    finally:
        world.stop()
        if bad or options.keep:
            print(f"the logs are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    for line in bad:
        print(f"NOT SOUND: {line}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
