"""What a run comes to: its figures, the bounds that hold for all, and its line of the table."""
import bisect
import collections

from . import history
from .run import EJECTED

HEAD = ("row", "proxy", "requests a second", "faults", "requests", "failed at first", "failed later", "served twice", "load on instances",
        "GET p99 ms: base", "at first", "later", "from the first fault on", "longest GET ms", "longest POST ms", "remarks")


def percentile(requests, share=0.99):
    took = sorted(request.took for request in requests)
    return took[int(len(took) * share)] if took else 0.0


class Result:
    """The requests of a run by when they met what: before any fault (`base`), in a fault's first seconds (`first`), or later."""

    def __init__(self, run):
        self.run, self.row, self.faults, self.sent = run, run.row, run.faults, run.sent
        self.failures, self.twice, self.wrong = history.check(run.sent, run.served)
        self.load = sum(map(len, run.served.values())) / max(1, len(run.sent))
        begins = [fault.begin for fault in self.faults]
        self.phases = collections.defaultdict(list)
        for request in self.sent:
            self.phases[self.phase(begins, request)].append(request)

    @staticmethod
    def phase(begins, request):
        before = bisect.bisect_right(begins, request.at)
        if before < len(begins) and begins[before] <= request.at + request.took:
            return "first"
        if before == 0:
            return "base"
        return "first" if request.at - begins[before - 1] < EJECTED else "later"

    def of(self, phase, method):
        return [request for request in self.phases[phase] if request.method == method]

    def failed(self, phase, method):
        return [request for request in self.of(phase, method) if not 200 <= request.status < 300]

    def p99(self, *phases):
        return percentile([request for phase in phases for request in self.of(phase, "GET")])

    def lost(self):
        """POSTs and calls that failed, though they were not under way when an instance was killed."""
        def under_way(request):
            return any(fault.gone and request.at <= fault.gone and fault.begin <= request.at + request.took for fault in self.faults)
        return [r for r in self.sent if r.method != "GET" and not 200 <= r.status < 300 and not under_way(r)]

    def line(self):
        methods = list(dict.fromkeys(self.row.mix.split(",")))

        def failed(*phases):
            return " / ".join(f"{sum(len(self.failed(phase, method)) for phase in phases)} {method}" for method in methods)

        def longest(method):
            return ms(max((request.took for request in self.sent if request.method == method), default=0))

        return [self.row.name, self.run.proxy.name, f"{len(self.sent) / self.run.seconds:.0f}", str(len(self.faults)), str(len(self.sent)),
                failed("first"), failed("base", "later"), str(len(self.twice)), f"{self.load:.2f}", *(
                    ms(self.p99(*phases)) if any(self.of(phase, "GET") for phase in phases) else ""
                    for phases in (("base",), ("first",), ("later",), ("first", "later"))),
                longest("GET"), longest("POST"), "; ".join(self.run.notes)]

    def errors(self, ours):
        """What fails the run: a history that is not sound, whoever's; and of zoogate what the row must hold."""
        yield from (f"WRONG: {line}" for line in self.wrong[:5])
        yield from (f"TWICE: {ident}: {self.run.served[ident]}" for ident in self.twice[:5])
        if ours:
            yield from (f"BROKEN: {line}" for line in (*self.run.broken, *self.row.bounds(self)))


def ms(seconds):
    return f"{seconds * 1e3:.1f}" if seconds < 0.01 else f"{seconds * 1e3:.0f}"


# --- Bounds, to be put together by rows -----------------------------------------------------------------------------


def no_errors(result, methods=("GET",)):
    """None of these fails, whenever."""
    for method in methods:
        failed = [r for phase in ("base", "first", "later") for r in result.failed(phase, method)]
        if failed:
            yield f"{len(failed)} {method}s failed, such as {failed[0]}"


def only_in_flight(result):
    """A kill costs no more than what was under way to its instance."""
    yield from (f"it was not under way when an instance was killed, and failed: {request}" for request in result.lost()[:5])


def few_errors(result):
    """At most a thousandth of GETs fails in a fault's first seconds; after that nothing does."""
    early, all_early = result.failed("first", "GET"), result.of("first", "GET")
    if len(early) > len(all_early) / 1000:
        yield f"{len(early)} of {len(all_early)} GETs failed before the ejection, such as {early[0]}"
    for phase in ("base", "later"):
        for method in result.row.mix.split(","):
            yield from (f"failed {phase}: {request}" for request in result.failed(phase, method)[:2])


def once_ejected(result):
    """The same, and a fault costs GETs little time: once its instance is ejected, and over all."""
    yield from few_errors(result)
    # What is below five milliseconds on two cores that clients and instances share is taken for five.
    base, later, over_all = result.p99("base"), result.p99("later"), result.p99("first", "later")
    if later >= 2 * max(base, 0.005):
        yield f"p99 of GETs is {ms(later)} ms once ejected, of {ms(base)} ms without a fault"
    if over_all >= 2 * max(base, 0.005):
        yield f"p99 of GETs is {ms(over_all)} ms from the first fault on, of {ms(base)} ms without one"
