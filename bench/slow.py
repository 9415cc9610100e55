"""Runs slowhttptest against a gateway, and a neighbour beside it, each with an instance of its own: see slow.sh."""
import argparse
import asyncio
import http.client
import multiprocessing
import os
import pathlib
import re
import resource
import socket
import subprocess
import tempfile
import threading
import time

LARGE = b"x" * (1 << 20)
MODES = {
    "heads (-H)": ["-H", "-i", "5", "-x", "24", "-t", "GET"],
    "bodies (-B)": ["-B", "-i", "5", "-s", "8192", "-x", "10", "-t", "POST"],
    "reads (-X)": ["-X", "-n", "5", "-z", "32", "-w", "512", "-y", "1024", "-k", "3"],
}
CONFIG = """
[gateway]
workers = 2
access_log = "off"
[admin]
listen = "127.0.0.1:0"
[registries.local]
kind = "directory"
path = "services"
[[listeners]]
name = "public"
listen = "127.0.0.1:0"
[services.orders]
path = "/orders"
[services.near]
path = "/near"
[[routes]]
path = "/near"
service = "near"
[[routes]]
service = "orders"
"""


async def answer(reader, writer):
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"(?i)content-length: *(\d+)", head)
            if length:
                await reader.readexactly(int(length[1]))
            body = LARGE if head.startswith("GET /large") else b"ok"
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def serve(port):
    async def run():
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=4096)
        # What an instance's machine would hold is not to be taken for the gateway's.
        server.sockets[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 1 << 16)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def origin():
    """An instance, in a process of its own; its port."""
    port = multiprocessing.Queue()
    multiprocessing.Process(target=serve, args=(port,), daemon=True).start()
    return port.get()


class Gateway:
    def __init__(self, folder):
        # The neighbour's instance has nothing to do with the slow ones: what it takes longer is the gateway's.
        for service in ("orders", "near"):
            (folder / "services" / service).mkdir(parents=True)
            (folder / "services" / service / "a").write_text(f"127.0.0.1:{origin()}")
        (folder / "zoogate.toml").write_text(CONFIG)
        self.process = subprocess.Popen(
            [os.environ["ZOOGATE"], "run", "--config", folder / "zoogate.toml"],
            stderr=subprocess.PIPE, text=True, errors="replace",
        )
        self.ports = {}
        for line in self.process.stderr:
            found = re.search(r"(admin )?listening.*address=127\.0\.0\.1:(\d+)", line)
            if found:
                self.ports["admin" if found[1] else "public"] = int(found[2])
            if len(self.ports) == 2:
                break
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def resident(self):
        pages = int(pathlib.Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize() / (1 << 20)

    @staticmethod
    def kernel():
        """What all TCP sockets of the machine hold."""
        words = pathlib.Path("/proc/net/sockstat").read_text().split()
        return int(words[words.index("TCP:") + 10]) * resource.getpagesize() / (1 << 20)

    def connections(self):
        client = http.client.HTTPConnection("127.0.0.1", self.ports["admin"])
        client.request("GET", "/metrics")
        text = client.getresponse().read().decode()
        return int(float(re.search(r'zoogate_connections{listener="public"} (\S+)', text)[1]))


class Neighbour(threading.Thread):
    """A client as any other: what its requests took, and how many failed."""

    def __init__(self, port, sample):
        super().__init__(daemon=True)
        self.port, self.sample, self.took, self.failed, self.over = port, sample, [], 0, False

    def run(self):
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        while not self.over:
            begun = time.perf_counter()
            try:
                client.request("GET", "/near")
                answer = client.getresponse()
                answer.read()
                self.failed += answer.status != 200
            except OSError:
                self.failed += 1
                client.close()
            self.took.append(time.perf_counter() - begun)
            self.sample()
            time.sleep(0.01)

    def end(self):
        self.over = True
        self.join()
        took = sorted(self.took)
        return len(took), self.failed, took[len(took) // 2] * 1e3, took[len(took) * 99 // 100] * 1e3, took[-1] * 1e3


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--connections", type=int, default=1000)
    asked = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as folder:
        gateway = Gateway(pathlib.Path(folder))
        port = gateway.ports["public"]
        time.sleep(1)
        print("| slow | neighbour's requests | failed | p50 | p99 | longest | connections open at the most, and 15 s later | RSS at the most | TCP memory of the machine | slowhttptest: available |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
        for name, flags in {"nobody": None, **MODES}.items():
            peak = {"rss": 0, "open": 0, "kernel": 0}

            def sample():
                peak["rss"] = max(peak["rss"], gateway.resident())
                peak["kernel"] = max(peak["kernel"], gateway.kernel())

            neighbour = Neighbour(port, sample)
            neighbour.start()
            verdict, left = "", 0
            if flags is None:
                time.sleep(10)
            else:
                path = "/large" if "-X" in flags else "/"
                command = ["slowhttptest", *flags, "-c", str(asked.connections), "-r", "200", "-p", "3",
                           "-l", str(asked.seconds), "-u", f"http://127.0.0.1:{port}{path}"]
                attack = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                said = []
                reader = threading.Thread(target=lambda: said.append(attack.stdout.read()))
                reader.start()
                while attack.poll() is None:
                    peak["open"] = max(peak["open"], gateway.connections())
                    time.sleep(0.5)
                reader.join()
                plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", said[0])
                states = re.findall(r"service available: *(\w+)", plain)
                verdict = f"{states.count('YES')} of {len(states)} times"
            count, failed, p50, p99, most = neighbour.end()
            if flags is not None:
                time.sleep(15)
                left = gateway.connections()
            print(f"| {name} | {count} | {failed} | {p50:.1f} ms | {p99:.1f} ms | {most:.0f} ms | "
                  f"{peak['open']}, {left} | {peak['rss']:.0f} MiB | {peak['kernel']:.0f} MiB | {verdict} |", flush=True)
        gateway.process.terminate()
        gateway.process.wait()


main()
