"""One run: a row's faults in front of one proxy, under load, with everything that is needed around it."""
import collections
import contextlib
import dataclasses
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from . import fleet, history, network, wire, zookeeper
from .history import Sent

# By then a fault must have been seen, and its instance be out of rotation.
EJECTED = 3
# After the last fault, and before the first one unless a base is measured.
TAIL = 2


@dataclasses.dataclass
class Fault:
    """`begin` to `end` by the clock that the clients use, too; `gone` is when a killed instance was gone for sure."""
    name: str
    begin: float
    end: float = 0.0
    gone: float = 0.0


@dataclasses.dataclass
class Row:
    """`faults(run)` does the harm; `bounds(result)` yields what zoogate did worse than it must."""
    name: str
    faults: object
    bounds: object
    times: int
    mix: str = "GET,POST"
    status: int = 200
    # So many seconds without a fault before the first, to compare with.
    base: float = TAIL
    wires: bool = False
    # Packets are dropped: it needs a network of its own.
    network: bool = False
    # So many servers; the instances register themselves there. HAProxy and nginx know nothing of that.
    zookeeper: int = 0
    # Settings of zoogate's, by where they belong: `service` or `route`. HAProxy and nginx have none like them.
    settings: dict = dataclasses.field(default_factory=dict)


class Run:
    def __init__(self, row, proxy, options):
        self.row, self.options, self.random = row, options, random.Random(options.seed)
        self.times, self.faults, self.notes, self.broken = options.times or row.times, [], [], []
        self.folder = Path(tempfile.mkdtemp(prefix=f"faults-{row.name}-"))
        self.sent, self.served, self.seconds = [], collections.defaultdict(list), 0.0
        self.stack = contextlib.ExitStack()
        try:
            settings = dict(row.settings)
            if row.zookeeper:
                self.ensemble = self.keep(zookeeper.Ensemble(self.folder, row.zookeeper, "0.0.0.0" if row.network else "127.0.0.1"))
                self.truth = self.keep(zookeeper.Truth(self.ensemble.connect()))
                settings["zookeeper"] = self.ensemble.connect(network.GATEWAY if row.network else "127.0.0.1")
            self.fleet = self.keep(fleet.Fleet(self.folder, status=row.status, rpc="RPC" in row.mix,
                                               zookeeper=self.ensemble.connect() if row.zookeeper else None))
            self.wires = self.keep(wire.Wires(self.fleet)) if row.wires else None
            self.proxy = self.keep(proxy(self.folder, self.fleet, **settings))
        except BaseException:
            self.stack.close()
            raise

    def keep(self, thing):
        """Stopped at the end, the last first."""
        self.stack.callback(thing.stop)
        return thing

    def go(self):
        file = self.folder / "sent"
        arguments = [self.proxy.port, self.options.rate, self.row.mix, file]
        if self.proxy.rpc:
            arguments += ["--rpc", self.proxy.rpc]
        with self.stack:
            load = fleet.module("load", *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self.stack.callback(lambda: fleet.end(load))
            if load.stdout.readline() != "ready\n":
                raise RuntimeError("the load does not start")
            self.began = time.monotonic()
            time.sleep(self.row.base)
            self.row.faults(self)
            time.sleep(TAIL)
            self.seconds = time.monotonic() - self.began
            load.stdin.close()
            behind = float(load.stdout.readline() or "inf")
            load.wait(120)
            if behind > 0.25:
                self.notes.append(f"the load ran up to {behind:.1f} s behind")
        with open(file) as lines:
            self.sent = [Sent(*json.loads(line)) for line in lines]
        for records in self.folder.glob("*.records"):
            for ident, served in history.read_records(records.stem, records):
                self.served[ident].append(served)

    @contextlib.contextmanager
    def fault(self, name):
        fault = Fault(name, time.monotonic())
        self.faults.append(fault)
        yield fault
        fault.end = time.monotonic()

    def each(self):
        """Whom to harm, as many times as asked for."""
        for _ in range(self.times):
            yield self.random.choice(self.fleet.names)

    def forget(self, sound):
        """What was written goes, unless somebody will want to look at it."""
        if sound and not self.options.keep:
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            print(f"everything of that run: {self.folder}", file=sys.stderr)
