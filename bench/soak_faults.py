"""The faults of a soak. Each is undone before it returns, and names the instances that it hurts, and when."""
import collections
import contextlib
import os
import random
import signal
import subprocess
import time

from kazoo.exceptions import KazooException
from kazoo.handlers.threading import KazooTimeoutError

from soak_world import until

OUTSIDE = (OSError, KazooException, KazooTimeoutError)

# Until everything is as it was again, from when the servers are; machines that are busy start a JVM slowly.
PATIENCE = 60
SERVERS_PATIENCE = 180
Done = collections.namedtuple("Done", "at what target")


class Faults:
    def __init__(self, world, seed):
        self.world, self.random = world, random.Random(f"{seed} faults")
        # What was done, (instance, from, until) of whom it hurt, and what did not go as it should.
        self.done, self.hurts, self.findings, self.bag = [], [], [], []
        # The longest time until all was as before, by what was done.
        self.took = collections.defaultdict(float)

    def next(self):
        """One fault: every kind comes up before one comes up again."""
        if not self.bag:
            self.bag = self.random.sample(KINDS, len(KINDS))
        kind = self.bag.pop()
        try:
            kind(self)
        except (OSError, subprocess.TimeoutExpired) as error:
            self.found(f"{error!r} in a fault")
        self.settle()

    def began(self, what, target=""):
        self.done.append(Done(time.time(), what, target))

    def found(self, what):
        last = self.done[-1] if self.done else Done(0, "the start", "")
        self.findings.append(f"{time.strftime('%X')} {what}, after {last.what} {last.target}")

    @contextlib.contextmanager
    def hurting(self, what, kinds=("http", "grpc", "ws")):
        instance = self.random.choice([instance for instance in self.world.instances if instance.kind in kinds])
        self.began(what, instance.name)
        hurt = [instance.name, time.time(), float("inf")]
        self.hurts.append(hurt)
        try:
            yield instance
        finally:
            # Who was using it notices within a second.
            hurt[2] = time.time() + 1

    def hurt(self, name, at):
        return any(name == hurt and since - 0.5 <= at <= end for hurt, since, end in self.hurts)

    def crash(self):
        """A machine is lost: nobody deletes the node, and its session expires, or a new registrar takes over before."""
        with self.hurting("SIGKILL of instance and registrar") as instance:
            pid = instance.pid()
            instance.registrar.kill()
            os.kill(pid, signal.SIGKILL)
            instance.registrar.wait()
            time.sleep(self.random.uniform(1, 9))
            instance.start()
            instance.wait_until_up()

    def die(self):
        """A process crashes, and its registrar tells."""
        with self.hurting("SIGKILL of instance") as instance:
            instance.signal(signal.SIGKILL)
            instance.registrar.wait(30)
            time.sleep(self.random.uniform(0, 4))
            instance.start()
            instance.wait_until_up()

    def hang(self):
        with self.hurting("SIGSTOP of instance") as instance:
            instance.signal(signal.SIGSTOP)
            time.sleep(5)
            instance.signal(signal.SIGCONT)

    def expire(self):
        """The instance is well, its registrar silent: the session expires, and a new one follows."""
        with self.hurting("SIGSTOP of registrar") as instance:
            instance.registrar.send_signal(signal.SIGSTOP)
            time.sleep(10)
            instance.registrar.send_signal(signal.SIGCONT)

    def restart(self):
        with self.hurting("SIGTERM of registrar") as instance:
            instance.registrar.terminate()
            instance.registrar.wait(30)
            instance.start()
            instance.wait_until_up()

    def flap(self):
        """The node is deleted twenty times; its registrar makes it anew each time."""
        with self.hurting("20 deletions of the node") as instance:
            path = f"/services/{instance.kind}/{instance.id}"
            for _ in range(20):
                end = time.monotonic() + 1
                while time.monotonic() < end:
                    with contextlib.suppress(*OUTSIDE):
                        self.world.zookeeper.delete_async(path).get(timeout=2)
                        break
                    time.sleep(0.02)

    def reset(self):
        with self.hurting("RST on all connections") as instance:
            instance.signal(signal.SIGUSR1)

    def half_close(self):
        with self.hurting("FIN on all connections") as instance:
            instance.signal(signal.SIGUSR2)

    def server(self, leader):
        mode = "leader" if leader else "follower"
        server = next((server for server in self.world.servers if server.mode() == mode), self.world.servers[0])
        return server, f"ZooKeeper's {mode}"

    def kill_server(self, leader):
        server, role = self.server(leader)
        self.began(f"SIGKILL of {role}")
        server.kill()
        time.sleep(self.random.uniform(1, 6))
        server.start()

    def stop_server(self, leader):
        server, role = self.server(leader)
        self.began(f"SIGSTOP of {role}")
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(8)
        server.process.send_signal(signal.SIGCONT)

    def kill_leader(self):
        self.kill_server(True)

    def kill_follower(self):
        self.kill_server(False)

    def stop_leader(self):
        self.stop_server(True)

    def stop_follower(self):
        self.stop_server(False)

    def no_ensemble(self):
        self.began("all ZooKeeper servers down")
        for server in self.world.servers:
            server.kill()
        time.sleep(10)
        for server in self.world.servers:
            server.start()

    def reload(self):
        self.world.balance = self.random.choice([b for b in ("round_robin", "least_request", "peak_ewma", "random") if b != self.world.balance])
        self.began("reload", self.world.balance)
        series = 'zoogate_config_reloads_total{result="ok"}'
        before = self.world.metrics()[series]
        self.world.configure()
        self.world.gateway.send_signal(signal.SIGHUP)
        self.settled("the reload", 5, lambda: self.world.metrics()[series] > before)

    def settled(self, what, seconds, condition, detail=lambda: ""):
        """How long that took; a finding where it took too long."""
        def holds():
            try:
                return condition()
            except OUTSIDE:
                return False
        began = time.monotonic()
        try:
            until(what, seconds, holds)
        except TimeoutError as error:
            self.found(f"{error} {detail()}")
        return time.monotonic() - began

    def settle(self):
        """What is registered, what the gateway lists and what runs are the same again."""
        everybody = {instance.id for instance in self.world.instances}
        for instance in self.world.instances:
            if instance.registrar.poll() is not None:
                self.found(f"the registrar of {instance.name} ended with {instance.registrar.poll()}")
                instance.start()
        for server in self.world.servers:
            if server.process.poll() is not None:
                self.found(f"a ZooKeeper server ended with {server.process.poll()}")
                server.start()

        self.settled("the ensemble serves", SERVERS_PATIENCE, lambda: all(server.mode() for server in self.world.servers))

        def detail():
            try:
                listed, registered = self.world.listed() or set(), self.world.registered()
                return f"(listed but for {everybody - listed}, registered but for {everybody - registered})"
            except OUTSIDE as error:
                return repr(error)
        took = self.settled("everybody is back", PATIENCE, lambda: self.world.listed() == everybody == self.world.registered(), detail)
        self.took[self.done[-1].what] = max(took, self.took[self.done[-1].what])


KINDS = [Faults.crash, Faults.die, Faults.hang, Faults.expire, Faults.restart, Faults.flap, Faults.reset, Faults.half_close,
         Faults.kill_leader, Faults.kill_follower, Faults.stop_leader, Faults.stop_follower, Faults.no_ensemble, Faults.reload]
