"""What a soak runs: three ZooKeeper servers, instances below `zoogate register`, and the gateway, all on an address of their own."""
import collections
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

from kazoo.client import KazooClient

from soak_instance import KINDS

# The JVM, the gateway and the registrars go when we do, whatever ends us.
TIED = ("setpriv", "--pdeathsig", "KILL", "--")
CLASS_PATH = "/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-simple.jar"
COUNT = {"http": 4, "grpc": 3, "ws": 3}
SESSION = 6
# How long streams may stay on an instance that is removed; with the spread behind it, less than the registrar lingers.
DRAIN, LINGER = 2, 3


def free_port(host):
    """Below the range of outgoing connections: it must stay free while its server is down."""
    while True:
        port = random.randrange(12_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
                return port
            except OSError:
                pass


def until(what, seconds, condition):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(0.1)


class ZooKeeper:
    """One server of the ensemble."""

    def __init__(self, folder, host, number, port, members):
        self.host, self.port, self.folder = host, port, folder / f"zk{number}"
        (self.folder / "data").mkdir(parents=True)
        (self.folder / "data/myid").write_text(str(number))
        (self.folder / "zoo.cfg").write_text(
            f"dataDir={self.folder}/data\nclientPort={port}\nclientPortAddress={host}\ntickTime=500\nminSessionTimeout=1000\n"
            f"maxSessionTimeout=60000\ninitLimit=20\nsyncLimit=10\nmaxClientCnxns=0\nadmin.enableServer=false\n"
            f"4lw.commands.whitelist=*\nautopurge.purgeInterval=1\nautopurge.snapRetainCount=3\n{members}")

    def start(self):
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*TIED, "java", "-Xms32m", "-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Dzookeeper.forceSync=no",
                 "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", CLASS_PATH,
                 "org.apache.zookeeper.server.quorum.QuorumPeerMain", str(self.folder / "zoo.cfg")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def mode(self):
        """`leader` or `follower`; none while it does not serve."""
        try:
            with socket.create_connection((self.host, self.port), 0.5) as connection:
                connection.sendall(b"srvr")
                answer = b"".join(iter(lambda: connection.recv(4096), b"")).decode()
        except OSError:
            return None
        return next((line[6:] for line in answer.splitlines() if line.startswith("Mode: ")), None)


class Instance:
    """A process below a registrar; each start is one of both."""

    def __init__(self, world, kind, name):
        self.world, self.kind, self.name, self.port = world, kind, name, free_port(world.host)
        self.id = f"{world.host}:{self.port}"
        self.log, self.pid_file = world.folder / f"{name}.log", world.folder / f"{name}.pid"

    def start(self):
        self.pid_file.unlink(missing_ok=True)
        check = ("--check", f"http://{self.id}/") if self.kind == "http" else ()
        with (self.world.folder / f"{self.name}.registrar").open("ab") as log:
            self.registrar = subprocess.Popen(
                [*TIED, os.environ["ZOOGATE"], "register", "--zookeeper", self.world.connect, "--path", f"/services/{self.kind}",
                 "--address", self.id, "--session-timeout", f"{SESSION}s", "--linger", f"{LINGER}s", *check, "--",
                 sys.executable, str(Path(__file__).with_name("soak_instance.py")), self.kind, self.name, self.world.host,
                 str(self.port), str(self.log), str(self.pid_file)], stderr=log)

    def pid(self):
        return int(self.pid_file.read_text())

    def signal(self, number):
        os.kill(self.pid(), number)

    def listens(self):
        try:
            return socket.create_connection((self.world.host, self.port), 1).close() is None
        except OSError:
            # A registrar gives up where the ensemble takes too long at its start; whoever supervises it tries again.
            if self.registrar.poll() is not None:
                self.world.supervised += 1
                self.start()
            return False

    def wait_until_up(self):
        until(f"{self.name} listens", 60, lambda: self.listens() and self.pid_file.exists() and self.pid_file.read_text())


class World:
    def __init__(self, folder):
        # An address of its own: whatever else runs on this machine takes none of our ports while their servers are down.
        pid = os.getpid()
        self.folder, self.host = folder, f"127.83.{pid >> 8 & 255}.{pid & 255}"
        ports = [free_port(self.host) for _ in range(9)]
        members = "".join(f"server.{n + 1}={self.host}:{ports[3 + n]}:{ports[6 + n]}\n" for n in range(3))
        self.servers = [ZooKeeper(folder, self.host, n + 1, ports[n], members) for n in range(3)]
        self.connect = ",".join(f"{self.host}:{server.port}" for server in self.servers)
        self.instances = [Instance(self, kind, f"{kind}{n}") for kind in KINDS for n in range(COUNT[kind])]
        self.port, self.admin = free_port(self.host), free_port(self.host)
        self.config, self.gateway, self.balance = folder / "gateway.toml", None, "round_robin"
        self.requests_log, self.supervised = RequestsLog(), 0

    def of(self, kind):
        return [instance for instance in self.instances if instance.kind == kind]

    def configure(self):
        """An ordinary configuration; `balance` is what reloads change."""
        services = "".join(
            f'[services.{kind}]\npath = "/services/{kind}"\nprotocol = "{"h2" if kind == "grpc" else "http1"}"\n'
            f'balance = "{self.balance}"\ndrain_timeout = "{DRAIN}s"\nvanish_guard = {{}}\n' for kind in KINDS)
        routes = "".join(f'[[routes]]\nname = "{kind}"\npath = "{path}"\nservice = "{kind}"\n'
                         for kind, path in (("http", "/http"), ("grpc", "/soak.Echo/*"), ("ws", "/ws")))
        hidden = self.config.with_suffix(".new")
        hidden.write_text(
            f'[gateway]\nevent_log = "{self.folder}/events.jsonl"\n[admin]\nlisten = "{self.host}:{self.admin}"\n'
            f'[registries.main]\nkind = "zookeeper"\nconnect = "{self.connect}"\nsession_timeout = "{SESSION}s"\n{services}'
            f'[[listeners]]\nlisten = "{self.host}:{self.port}"\ntrusted = ["127.0.0.0/8"]\n{routes}')
        hidden.rename(self.config)

    def start(self):
        for server in self.servers:
            server.start()
        until("the ensemble stands", 60, lambda: all(server.mode() for server in self.servers))
        for kind in KINDS:
            for instance in self.of(kind):
                instance.start()
            for instance in self.of(kind):
                instance.wait_until_up()
        # It comes back as soon as the servers do: its pauses would otherwise grow to a minute.
        self.zookeeper = KazooClient(self.connect, timeout=30, connection_retry={"max_tries": -1, "max_delay": 1})
        self.zookeeper.start(60)
        self.configure()
        log = (self.folder / "gateway.log").open("ab")
        self.gateway = subprocess.Popen([*TIED, os.environ["ZOOGATE"], "run", "--config", str(self.config)],
                                        stdout=subprocess.PIPE, stderr=log)
        log.close()
        threading.Thread(target=self.requests_log.read, args=(self.gateway.stdout,), daemon=True).start()
        until("the gateway lists all instances", 60, lambda: self.listed() == {instance.id for instance in self.instances})

    def ask(self, path):
        with urllib.request.urlopen(f"http://{self.host}:{self.admin}{path}", timeout=10) as answer:
            return answer.read().decode()

    def listed(self):
        """The instances that the gateway knows to be registered; none where it does not answer."""
        try:
            services = json.loads(self.ask("/api/services"))
        except OSError:
            return None
        services = services["services"] if isinstance(services, dict) else services
        return {i["id"] for service in services for i in service["instances"] if i["state"] not in ("draining", "limbo")}

    def registered(self):
        return {node for kind in KINDS for node in self.zookeeper.get_children_async(f"/services/{kind}").get(timeout=2)}

    def metrics(self):
        """Each metric, summed over its labels, and with them."""
        sums = collections.Counter()
        for line in self.ask("/metrics").splitlines():
            if line and not line.startswith("#"):
                series, _, value = line.rpartition(" ")
                sums[series] += float(value)
                if "{" in series:
                    sums[series.partition("{")[0]] += float(value)
        return sums

    def seen(self):
        """What the instances wrote down: [(instance, digest)] by id."""
        seen = collections.defaultdict(list)
        for instance in self.instances:
            for line in instance.log.read_text().splitlines():
                ident, _, body = line.partition(" ")
                seen[ident].append((instance.name, body))
        return seen

    def stop(self):
        """The gateway's exit code after SIGTERM; everybody else is killed."""
        code = None
        if self.gateway:
            self.gateway.terminate()
            try:
                code = self.gateway.wait(60)
            except subprocess.TimeoutExpired:
                self.gateway.kill()
        for instance in self.instances:
            if hasattr(instance, "registrar"):
                instance.registrar.kill()
                if instance.pid_file.exists():
                    try:
                        instance.signal(signal.SIGKILL)
                    except (OSError, ValueError):
                        pass
        for server in self.servers:
            if hasattr(server, "process"):
                server.process.kill()
        return code


class RequestsLog:
    """The gateway's access log, of which the lines of what failed are kept, by request id."""

    def __init__(self):
        self.lines, self.failed = 0, {}

    def read(self, stream):
        for line in stream:
            self.lines += 1
            if b'"error":null' not in line:
                entry = json.loads(line)
                self.failed[entry["request_id"]] = entry
