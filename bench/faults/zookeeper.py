"""Throw-away ZooKeeper servers: processes that can be killed, stopped and started again on their data, and what they hold.

The jars are Debian's (`apt-get install --no-install-recommends zookeeper libslf4j-java`), the client is kazoo."""
import logging
import signal
import socket
import subprocess
import time

from . import fleet

CLASS_PATH = "/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-simple.jar"
SERVICE = "/orders"


class Server:
    def __init__(self, folder, number, host, ports, members):
        self.folder, self.port, self.process = folder, ports[number][0], None
        (folder / "data").mkdir(parents=True)
        (folder / "data" / "myid").write_text(str(number + 1))
        (folder / "zoo.cfg").write_text(
            f"dataDir={folder}/data\nclientPort={self.port}\nclientPortAddress={host}\ntickTime=500\nminSessionTimeout=1000\n"
            "maxSessionTimeout=60000\ninitLimit=20\nsyncLimit=10\nmaxClientCnxns=0\nadmin.enableServer=false\n"
            f"4lw.commands.whitelist=*\n{members}")
        self.start()

    def start(self):
        command = ["java", "-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-Xshare:auto", "-Dzookeeper.forceSync=no",
                   "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", CLASS_PATH,
                   "org.apache.zookeeper.server.quorum.QuorumPeerMain", self.folder / "zoo.cfg"]
        with open(self.folder / "log", "ab") as log:
            self.process = fleet.spawn(command, stdout=log, stderr=subprocess.STDOUT)

    def kill(self):
        fleet.end(self.process)

    def terminate(self):
        fleet.end(self.process, gently=True)

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def mode(self):
        """leader, follower, standalone; None from one that serves nobody."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 0.5) as asked:
                asked.settimeout(1)
                asked.sendall(b"srvr")
                said = b""
                while data := asked.recv(4096):
                    said += data
        except OSError:
            return None
        lines = [line for line in said.decode().splitlines() if line.startswith("Mode: ")]
        return lines[0].removeprefix("Mode: ") if lines else None


class Ensemble:
    """Servers with a quorum, or one alone. Clients find them at 127.0.0.1; with `host` 0.0.0.0 at other addresses of ours, too."""

    def __init__(self, folder, size=3, host="127.0.0.1"):
        ports = [(fleet.free_port(), fleet.free_port(), fleet.free_port()) for _ in range(size)]
        members = "".join(f"server.{at + 1}=127.0.0.1:{peer}:{vote}\n" for at, (_, peer, vote) in enumerate(ports) if size > 1)
        self.servers = [Server(folder / f"zookeeper{at + 1}", at, host, ports, members) for at in range(size)]
        self.await_up()

    def connect(self, host="127.0.0.1"):
        return ",".join(f"{host}:{server.port}" for server in self.servers)

    def await_up(self, seconds=120):
        """Until every server serves, with a leader where there must be one."""
        until = time.monotonic() + seconds
        while True:
            modes = [server.mode() for server in self.servers]
            if all(modes) and (len(modes) == 1 or "leader" in modes):
                return
            if time.monotonic() > until:
                raise RuntimeError(f"the ensemble does not come up: {modes}")
            time.sleep(0.05)

    def leader(self):
        return next((server for server in self.servers if server.mode() == "leader"), None)

    def stop(self):
        for server in self.servers:
            server.kill()


def client(connect, session):
    """A started client of kazoo's that tries to reconnect for ever, at least once a second."""
    from kazoo.client import KazooClient
    from kazoo.retry import KazooRetry

    logging.getLogger("kazoo").setLevel(logging.CRITICAL)
    # With the interval that kazoo adds by chance.
    retry = dict(max_tries=-1, delay=0.1, backoff=2, max_jitter=0.2, max_delay=1)
    made = KazooClient(connect, timeout=session, connection_retry=KazooRetry(**retry), command_retry=KazooRetry(**{**retry, "max_tries": 3}))
    made.start(30)
    return made


class Registration:
    """An ephemeral node that holds an address; made again by a session that follows one that ended."""

    def __init__(self, connect, name, address, session):
        from kazoo.client import KazooState

        self.name, self.address, self.state, self.lost = name, address, KazooState, False
        self.client = client(connect, session)
        self.register()
        self.client.add_listener(self.changed)

    def register(self):
        host, port = self.address
        self.client.create(f"{SERVICE}/{self.name}-", f"{host}:{port}".encode(), ephemeral=True, sequence=True, makepath=True)

    def changed(self, state):
        if state == self.state.LOST:
            self.lost = True
        elif state == self.state.CONNECTED and self.lost:
            self.lost = False
            self.client.handler.spawn(self.register)

    def stop(self):
        """Ends the session, and so the node."""
        self.client.stop()


class Truth:
    """What the ensemble holds, asked through a session of its own, which soon leaves a server that does not answer."""

    def __init__(self, connect):
        from kazoo.exceptions import KazooException, NoNodeError
        from kazoo.handlers.threading import KazooTimeoutError

        self.doubts, self.gone = (KazooException, KazooTimeoutError), NoNodeError
        self.client = client(connect, session=3)
        self.client.ensure_path(SERVICE)

    def listing(self):
        """{node: address}, as of the leader at the time of the call; None where nobody answers."""
        try:
            self.client.sync_async(SERVICE).get(timeout=1)
            nodes = self.client.get_children_async(SERVICE).get(timeout=1)
            reads = {node: self.client.get_async(f"{SERVICE}/{node}") for node in nodes}
        except self.doubts:
            return None
        found = {}
        for node, read in reads.items():
            try:
                found[node] = read.get(timeout=1)[0].decode()
            except self.gone:
                continue
            except self.doubts:
                return None
        return found

    def stop(self):
        self.client.stop()
        self.client.close()
