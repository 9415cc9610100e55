"""Tables and the plot, in docs/performance.md between two marks: the rest of that page is written by hand."""
import json
import platform
import re
import subprocess
import time
from pathlib import Path

from proxies import HERE, RUN

DOCS = HERE.parent / "docs"
BEGIN, END = "<!-- figures: written by bench/run.sh -->", "<!-- end of figures -->"
REFERENCE = "haproxy"
COLOURS = {"haproxy": "#9a9a9a", "haproxy bare": "#c9c9c9", "nginx bare": "#8fb98b", "pingora": "#d8a35d", "zoogate": "#3b6fb6", "floor": "#111111"}


def grid(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def table(name, result):
    if "table" in result:
        return f"**{result['title']}**\n\n{grid(result['head'], result['table'])}\n"
    rows, reference = [], result["rows"].get(REFERENCE)
    for proxy, r in result["rows"].items():
        times = lambda key: f"{r[key] / reference[key]:.2f}" if reference else ""
        rows.append([proxy, f"{r['micros']:.1f} ({r['least']:.1f} to {r['most']:.1f})", f"{r['user']:.1f} + {r['system']:.1f}",
                     times("micros"), f"{r['rate']:.0f}", times("rate"), f"{r['p50']:.2f}", f"{r['p99']:.2f}",
                     f"{r['bad']:.0f}", f"{r['foreign']:.2f}", f"{r['used']} of {r['rounds']}"])
    pair = ("mean ms", "max ms") if "HTTP/2" in result["title"] else ("p50 ms", "p99 ms")
    head = ["", "CPU µs a request", "user + system", "× haproxy", "requests a second", "× haproxy", *pair, "failed",
            "foreign CPU", "rounds"]
    return f"**{name}: {result['title']}**\n\n{grid(head, rows)}\n"


def plot(results):
    """Bars: CPU a request, HAProxy's as 1."""
    names = [name for name in COLOURS if any(name in r["rows"] for r in results.values())]
    bar, gap, left, scale = 13, 16, 70, 260
    height = 40 + sum(len(r["rows"]) * bar + gap for r in results.values())
    parts, y = [], 34
    for x, name in enumerate(names):
        parts.append(f'<rect x="{left + x * 100}" y="8" width="10" height="10" fill="{COLOURS[name]}"/>'
                     f'<text x="{left + 14 + x * 100}" y="17">{name}</text>')
    for scenario, result in results.items():
        rows, reference = result["rows"], result["rows"][REFERENCE]["micros"]
        parts.append(f'<text x="{left - 8}" y="{y + len(rows) * bar / 2 + 4}" text-anchor="end">{scenario}</text>')
        for name in (n for n in names if n in rows):
            ratio = rows[name]["micros"] / reference
            width = min(ratio, 2.2) * scale
            parts.append(f'<rect x="{left}" y="{y}" width="{width:.0f}" height="{bar - 2}" fill="{COLOURS[name]}"/>'
                         f'<text x="{left + width + 4:.0f}" y="{y + bar - 3}" font-size="10">{ratio:.2f}</text>')
            y += bar
        y += gap
    line = f'<line x1="{left + scale}" x2="{left + scale}" y1="26" y2="{height - 12}" stroke="#555" stroke-dasharray="3 3"/>'
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 700 {height}" font-family="sans-serif" font-size="12">'
            f'<title>CPU time a request, HAProxy = 1; shorter is better</title>'
            f'<rect width="700" height="{height}" fill="#fff"/>{"".join(parts)}{line}</svg>\n')


def first_line(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "not installed"
    return (done.stdout or done.stderr).strip().split("\n")[0]


def circumstances():
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    cores = Path("/proc/cpuinfo").read_text().count("processor\t")
    version = lambda *command: re.sub(r"\s*(http|-|[(]C[)]).*", "", first_line(*command)).strip()
    wrk = re.search(r"wrk (\S+)", first_line("wrk", "-v"))
    pingora = "; Pingora 0.9" if (RUN / "build" / "release" / "bench-pingora").exists() else "; Pingora not built"
    commit = first_line("git", "-C", str(HERE), "rev-parse", "--short", "HEAD")
    return [["date", time.strftime("%d %B %Y", time.gmtime())],
            ["machine", f"{cores} × {cpu[1] if cpu else platform.machine()}, Linux {platform.release()}"],
            ["zoogate", f"commit {commit}, profile `dist`, {version('rustc', '--version')}"],
            ["peers", f"{version('haproxy', '-v')}; {first_line('nginx', '-v').replace('nginx version: ', '')}{pingora}"],
            ["load", f"wrk {wrk[1] if wrk else '?'} (64 connections), {first_line('h2load', '--version')} (8 × 32 streams)"],
            ["load average", " ".join(Path("/proc/loadavg").read_text().split()[:3]) + " at the end of the run"]]


def write(compared, special):
    load = lambda names: {n: json.loads((RUN / f"{n}.json").read_text()) for n in names if (RUN / f"{n}.json").exists()}
    compared, special = load(compared), load(special)
    parts = [BEGIN, "", grid(["", ""], circumstances()), ""]
    if compared:
        (DOCS / "performance.svg").write_text(plot(compared))
        parts += ["![CPU time a request, HAProxy = 1](performance.svg)", ""]
    parts += [table(name, result) for name, result in {**compared, **special}.items()]
    page = DOCS / "performance.md"
    text = page.read_text() if page.exists() else f"# Performance\n\n{BEGIN}\n{END}\n"
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(before + "\n".join(parts) + END + after)
