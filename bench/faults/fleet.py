"""The instances: processes at addresses of their own, that can be signalled, ended and started again."""
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

NAMES = ("a", "b", "c")
# All of 127/8 is this machine, so that each instance has an address by which a rule of the kernel can tell it from the others.
HOSTS = {name: f"127.0.0.{11 + at}" for at, name in enumerate("abcdef")}


def module(name, *arguments, **options):
    """A module of this package as a process. The kernel ends it with the thread that started it: none is left behind, and
    none may be started by a thread that ends early."""
    return spawn([sys.executable, "-m", f"faults.{name}", *map(str, arguments)], **options)


def spawn(command, **options):
    options.setdefault("stdin", subprocess.DEVNULL)
    paths = {"PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *map(str, command)], env={**os.environ, **paths}, **options)


def free_port(host="127.0.0.1"):
    """One below those that outgoing connections get, so that nothing takes it while its process is down."""
    while True:
        port = random.SystemRandom().randrange(12_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
                return port
            except OSError:
                pass


def await_port(address, process, seconds=30):
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        try:
            return socket.create_connection(address, 1).close()
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"nobody listens on {address}")


def end(process, gently=False):
    """Ends a process of ours. What has workers of its own is asked first: they would stay."""
    if process.poll() is None and gently:
        process.terminate()
        try:
            return process.wait(10)
        except subprocess.TimeoutExpired:
            pass
    process.kill()
    return process.wait()


class Fleet:
    """`addresses` is where the instances listen; `public` is what they are known by, which a wire may lie behind."""

    def __init__(self, folder, names=NAMES, status=200, rpc=False, zookeeper=None):
        self.folder, self.names, self.status, self.zookeeper = folder, names, status, zookeeper
        self.processes, self.unregistered = {}, set()
        self.addresses = {name: (host, free_port(host)) for name, host in HOSTS.items() if name in names}
        self.rpc = {name: (host, free_port(host)) for name, (host, _) in self.addresses.items()} if rpc else {}
        self.public = dict(self.addresses)
        for name in names:
            self.start(name, wait=False)
        for name in names:
            self.ready(name)

    def records(self, name):
        return self.folder / f"{name}.records"

    def start(self, name, wait=True):
        host, port = self.addresses[name]
        arguments = [name, host, port, self.records(name), "--status", self.status]
        if self.rpc:
            arguments += ["--rpc", self.rpc[name][1]]
        if self.zookeeper and name not in self.unregistered:
            arguments += ["--zookeeper", self.zookeeper]
        self.processes[name] = module("instance", *arguments)
        if wait:
            self.ready(name)

    def ready(self, name):
        await_port(self.addresses[name], self.processes[name])
        if self.rpc:
            await_port(self.rpc[name], self.processes[name])

    def add(self, name):
        """One more, which registers nowhere."""
        self.addresses[name] = (HOSTS[name], free_port(HOSTS[name]))
        self.unregistered.add(name)
        self.start(name)

    def move(self, name):
        """Its next start is at another port, as it would be in a container."""
        host, _ = self.addresses[name]
        self.addresses[name] = self.public[name] = (host, free_port(host))

    def signal(self, name, number):
        self.processes[name].send_signal(number)

    def kill(self, name):
        """SIGKILL, and the moment when it was gone for sure."""
        end(self.processes[name])
        return time.monotonic()

    def terminate(self, name):
        """SIGTERM, and the moment when it had gone."""
        self.signal(name, signal.SIGTERM)
        self.processes[name].wait(30)
        return time.monotonic()

    def stop(self):
        for process in self.processes.values():
            end(process)
