"""What a process costs, and how the load generators are read."""
import os
import re
import subprocess
import tempfile
from pathlib import Path

from proxies import HERE, LOAD_CPU, NICE

HZ = os.sysconf("SC_CLK_TCK")
PINNED = [*NICE, "taskset", "-c", LOAD_CPU]
UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


def processes(pid):
    """A process and all below it: `nice` and `taskset` become the proxy, a proxy may have children."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    return [pid] + [p for child in children for p in processes(int(child))]


def cpu(pid):
    """(user s, system s, both in full precision) since the start."""
    user = system = exact = 0
    for p in processes(pid):
        fields = Path(f"/proc/{p}/stat").read_text().rsplit(")", 1)[1].split()
        user, system = user + int(fields[11]), system + int(fields[12])
        for task in Path(f"/proc/{p}/task").iterdir():
            try:
                exact += int((task / "schedstat").read_text().split()[0])
            except (OSError, ValueError):
                pass
    return user / HZ, system / HZ, exact / 1e9


def memory(pid):
    """Bytes in memory that are the process's own."""
    total = 0
    for p in processes(pid):
        text = Path(f"/proc/{p}/status").read_text()
        total += int(re.search(r"RssAnon:\s+(\d+)", text)[1]) * 1024
    return total


def machine_busy():
    """CPU seconds that the whole machine has spent."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(fields[:8]) - fields[3] - fields[4]) / HZ


def own_busy():
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def ms(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()
    return float(number) * UNITS[unit]


def run(command):
    return subprocess.run([*PINNED, *map(str, command)], capture_output=True, text=True).stdout


def wrk(port, path, seconds, *extra, connections=64):
    """Closed loop over HTTP/1.1."""
    out = run(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", *extra, f"http://127.0.0.1:{port}{path}"])
    count, took = re.search(r"(\d+) requests in ([\d.]+\w+)", out).groups()
    bad = sum(int(n) for line in re.findall(r"(?:Socket errors:|Non-2xx or 3xx responses:)(.*)", out)
              for n in re.findall(r"\d+", line))
    tail = dict(re.findall(r"^\s+(50|99)%\s+(\S+)", out, re.M))
    return {"count": int(count), "rate": int(count) / ms(took) * 1e3, "bad": bad,
            "p50": ms(tail["50"]), "p99": ms(tail["99"])}


def post(port, path, seconds):
    return wrk(port, path, seconds, "-s", HERE / "conf" / "post.lua")


def h2load(port, path, seconds, *extra, clients=8, streams=32):
    """Closed loop over HTTP/2."""
    out = run(["h2load", "-t1", f"-c{clients}", f"-m{streams}", f"-D{seconds}", *extra, f"http://127.0.0.1:{port}{path}"])
    count, failed, errored = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", out).groups()
    mean = re.search(r"time for request:\s+\S+\s+(\S+)\s+(\S+)", out)
    return {"count": int(count), "rate": int(count) / seconds, "bad": int(failed) + int(errored),
            "p50": ms(mean[2]), "p99": ms(mean[1])}


def grpc(port, path, seconds):
    with tempfile.NamedTemporaryFile() as message:
        message.write(b"\0\0\0\0\x40" + b"x" * 64)
        message.flush()
        return h2load(port, path, seconds, "-d", message.name, "-H", "content-type: application/grpc", "-H", "te: trailers")


def paced(port, path, seconds, rate, clients=32):
    """Open loop over HTTP/1.1 at `rate` requests a second: latencies in ms, sorted."""
    with tempfile.NamedTemporaryFile() as log:
        run(["h2load", "--h1", "-t1", f"-c{clients}", "-m1", f"-D{seconds}", "--warm-up-time=1", f"--rps={rate / clients:.3f}",
             f"--log-file={log.name}", f"http://127.0.0.1:{port}{path}"])
        rows = [line.split() for line in Path(log.name).read_text().splitlines()]
    bad = sum(row[1] != "200" for row in rows)
    return sorted(int(row[2]) / 1e3 for row in rows), bad


def percentile(values, share):
    return values[min(len(values) - 1, int(len(values) * share))] if values else float("nan")
