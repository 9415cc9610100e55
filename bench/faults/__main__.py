"""The command: which rows, in front of which proxies; one table."""
import argparse
import random
import sys

from . import ensemble, history, network, proxies, report, rows
from .run import Run


def main():
    known = {row.name: row for row in rows.ROWS + ensemble.ROWS}
    parser = argparse.ArgumentParser(prog="bench/faults.sh", description="What clients notice of faults, and what is lost. Rows: " + " ".join(known))
    parser.add_argument("rows", nargs="*", metavar="ROW", help="all where none is named")
    parser.add_argument("--rate", type=float, default=200, help="requests a second (default: %(default).0f)")
    parser.add_argument("--times", type=int, help="so many faults a row, or rounds, instead of the row's own number")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="of what is harmed when (default: a random one)")
    parser.add_argument("--only", action="append", choices=[proxy.name for proxy in proxies.ALL], help="in front of this proxy alone")
    parser.add_argument("--outage", type=float, default=600, help="seconds that ensemble-down lasts (default: %(default).0f)")
    parser.add_argument("--keep", action="store_true", help="keep what sound runs wrote, too: histories, configurations, logs")
    options = parser.parse_args()
    unknown = set(options.rows) - set(known)
    if unknown:
        parser.error(f"no row {', '.join(sorted(unknown))}; the rows: {' '.join(known)}")
    history.itself()
    namespace, sound = network.enter(), True
    print(f"seed {options.seed}, {options.rate:.0f} requests a second\n")
    print("| " + " | ".join(report.HEAD) + " |\n|" + " --- |" * len(report.HEAD), flush=True)
    for row in (known[name] for name in options.rows or known):
        if row.network and not namespace:
            print(f"skipped {row.name}: it drops packets in a network namespace of its own, which needs root, or unprivileged user "
                  "namespaces, and nft", file=sys.stderr)
            continue
        for proxy in proxies.ALL if not (row.zookeeper or row.settings) else (proxies.Zoogate,):
            if not options.only or proxy.name in options.only:
                sound &= one(row, proxy, options)
    return 0 if sound else 1


def one(row, proxy, options):
    run = Run(row, proxy, options)
    try:
        run.go()
    except BaseException:
        run.forget(False)
        raise
    result = report.Result(run)
    print("| " + " | ".join(result.line()) + " |", flush=True)
    errors = list(result.errors(ours=proxy is proxies.Zoogate))
    for error in errors:
        print(error, file=sys.stderr)
    run.forget(not errors)
    return not errors


if __name__ == "__main__":
    sys.exit(main())
