"""The rows in which instances register in a real ZooKeeper, and it suffers, or what it says comes late."""
import contextlib
import threading
import time

from . import network, zookeeper
from .report import no_errors, only_in_flight
from .run import Row

CHANGES = "zoogate_membership_changes_total"


def table(run):
    """What the gateway holds, to compare with a listing of the ensemble."""
    return {instance["id"]: instance["address"] for instance in run.proxy.instances()}


def agree(run, limit, what):
    """Seconds until the gateway's table is what the ensemble holds. The limit counts from the first listing that we get
    ourselves: our session has to come back, too."""
    since, first = time.monotonic(), None
    while True:
        listing, now = run.truth.listing(), time.monotonic()
        if listing is None and now - since > 60:
            run.broken.append(f"{what}: the ensemble does not answer")
            return now - since
        if listing is not None:
            first, held = first or now, table(run)
            if held == listing:
                return time.monotonic() - since
            if now - first > limit:
                run.broken.append(f"{what}: no agreement in {limit} s: the table has {held}, the ensemble {listing}")
                return now - since
        time.sleep(0.05)


def await_up(run, number, seconds=20):
    """Until so many addresses are in rotation."""
    until = time.monotonic() + seconds
    while len({instance["address"] for instance in run.proxy.instances() if instance["state"] == "up"}) < number:
        if time.monotonic() > until:
            run.broken.append(f"not {number} instances up in {seconds} s: {run.proxy.instances()}")
            return
        time.sleep(0.05)


def kill(run):
    """SIGKILL to one of three, whose node stays for its session's thirty seconds; back after some seconds with a node of its
    own, half of the time at another port, as it would be in a container."""
    dead = 0
    for name in run.each():
        with run.fault(name) as fault:
            fault.gone = run.fleet.kill(name)
            time.sleep(run.random.uniform(2, 5))
            dead = max(dead, sum(instance["state"] == "ejected" for instance in run.proxy.instances()))
            if run.random.random() < 0.5:
                run.fleet.move(name)
            run.fleet.start(name)
            await_up(run, 3)
        time.sleep(run.random.uniform(1, 3))
    run.notes.append(f"up to {dead} dead nodes at a time")


def kill_bounds(result):
    yield from no_errors(result)
    yield from only_in_flight(result)


def partition(run):
    """The gateway is cut off from the ensemble for twenty seconds, without a word; an instance leaves meanwhile and another comes."""
    slowest = 0.0
    for name in run.each():
        before = run.proxy.metric(CHANGES)
        with run.fault("the gateway"):
            network.drop(network.GATEWAY)
            time.sleep(2)
            # It closes its connections in good order, but the gateway cannot know that it must not use them any more.
            with run.fault(name) as fault:
                fault.gone = run.fleet.terminate(name)
            time.sleep(9)
            run.fleet.move(name)
            run.fleet.start(name)
            time.sleep(9)
            if run.proxy.metric(CHANGES) != before or table(run) == run.truth.listing():
                run.broken.append("the gateway knows what it was cut off from")
            network.heal()
        slowest = max(slowest, agree(run, 3, "after the partition"))
        await_up(run, 3)
        time.sleep(4)
        # One went, one came; a second listing, or one that was not compared with what was known, would tell of more.
        if (changes := run.proxy.metric(CHANGES) - before) != 2:
            run.broken.append(f"{changes:.0f} changes were applied for the two that there were")
    run.notes.append(f"table = ZooKeeper at most {slowest:.1f} s after it")
    no_drift(run)


def down(run):
    """The whole ensemble is killed, and with it, a little later, an instance; everything but that instance comes back."""
    name = run.random.choice(run.fleet.names)
    with run.fault("the ensemble"):
        for server in run.ensemble.servers:
            server.kill()
        time.sleep(min(10, run.options.outage / 3))
        with run.fault(name) as fault:
            fault.gone = run.fleet.kill(name)
        time.sleep(max(0, run.options.outage - min(10, run.options.outage / 3)))
        before = table(run)
        for server in run.ensemble.servers:
            server.start()
        run.ensemble.await_up()
    returned = time.monotonic()
    if len(before) != 3:
        run.broken.append(f"the outage changed the table: {before}")
    # The dead instance has a node until its session ends; who comes now must be seen as soon as there is a node.
    run.fleet.move(name)
    run.fleet.start(name)
    slowest = agree(run, 3, "after the outage")
    known = time.monotonic() - returned
    # The session of the dead one ends within its thirty seconds and some ticks.
    while time.monotonic() - returned < 40:
        slowest = max(slowest, agree(run, 3, "later"))
        time.sleep(0.1)
    held = table(run)
    if len(held) != 3:
        run.broken.append(f"three instances live, and the table has {held}")
    run.notes.append(f"{run.options.outage:.0f} s without an ensemble; agreed on {known:.1f} s after its return, and from then within {slowest:.1f} s")
    no_drift(run)


class Churn:
    """Instances that live, and whose registrations come and go."""

    def __init__(self, run, names, connect):
        self.random, self.addresses = run.random.__class__(run.options.seed), {name: run.fleet.addresses[name] for name in names}
        self.client, self.changes = zookeeper.client(connect, session=6), 0
        self.going, self.stopped = threading.Lock(), threading.Event()
        self.thread = threading.Thread(target=self.go)
        self.thread.start()

    def go(self):
        while not self.stopped.wait(self.random.uniform(0.05, 0.2)):
            name = self.random.choice(list(self.addresses))
            host, port = self.addresses[name]
            node = f"{zookeeper.SERVICE}/{name}"
            with self.going:
                # What becomes of it in doubt is nobody's business here: the ensemble is asked what holds.
                with contextlib.suppress(Exception):
                    if self.client.exists_async(node).get(timeout=1):
                        self.client.delete_async(node).get(timeout=1)
                    else:
                        self.client.create_async(node, f"{host}:{port}".encode(), ephemeral=True).get(timeout=1)
                    self.changes += 1

    def stop(self):
        self.stopped.set()
        self.thread.join()
        self.client.stop()
        self.client.close()


def faults(run):
    """A hundred faults of an ensemble of three, while registrations come and go."""
    for name in "def":
        run.fleet.add(name)
    churn = run.keep(Churn(run, "def", run.ensemble.connect()))
    servers, slowest, kinds = run.ensemble.servers, 0.0, {}
    for number in range(run.times):
        leader = run.ensemble.leader()
        kind = run.random.choice(["kill the leader", "kill a follower", "restart one", "stop one", "stop two", "kill all"])
        followers = [server for server in servers if server is not leader]
        kinds[kind] = kinds.get(kind, 0) + 1
        with run.fault(kind):
            if kind == "stop one" or kind == "stop two":
                chosen = run.random.sample(servers, 1 if kind == "stop one" else 2)
                heal, act = zookeeper.Server.resume, zookeeper.Server.pause
                lasts = run.random.uniform(3, 10 if kind == "stop one" else 6)
            else:
                chosen = {"kill the leader": [leader], "kill a follower": [run.random.choice(followers)], "kill all": servers,
                          "restart one": [run.random.choice(servers)]}[kind]
                act = zookeeper.Server.terminate if kind == "restart one" else zookeeper.Server.kill
                heal, lasts = zookeeper.Server.start, 3 if kind == "kill all" else run.random.uniform(1, 3)
            for server in chosen:
                act(server)
            time.sleep(lasts)
            if len(chosen) == 1:
                # Two of three are an ensemble still.
                with churn.going:
                    slowest = max(slowest, agree(run, 5, f"fault {number + 1}, {kind}, while it lasts"))
            for server in chosen:
                heal(server)
            run.ensemble.await_up()
        with churn.going:
            slowest = max(slowest, agree(run, 5, f"fault {number + 1}, {kind}, afterwards"))
        time.sleep(run.random.uniform(0, 2))
    run.notes.append(", ".join(f"{number} × {kind}" for kind, number in sorted(kinds.items())))
    run.notes.append(f"{churn.changes} registrations came or went; table = ZooKeeper within {slowest:.1f} s")
    no_drift(run)


def no_drift(run):
    """The audit, which lists everything each half minute, never found what events had not told."""
    if drift := run.proxy.metric("zoogate_registry_drift_total"):
        run.broken.append(f"the audit found a drift of {drift:.0f}")


def nothing_fails(result):
    yield from no_errors(result, result.row.mix.split(","))


ROWS = [
    Row("kill-zookeeper", kill, kill_bounds, times=20, zookeeper=1),
    Row("partition-zookeeper", partition, kill_bounds, times=3, zookeeper=3, network=True),
    Row("ensemble-down", down, kill_bounds, times=1, zookeeper=3),
    Row("ensemble-faults", faults, nothing_fails, times=100, zookeeper=3),
]
