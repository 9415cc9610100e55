"""The processes that take part: origins, peers, zoogate. One thread each; proxies on one core, all else on the other."""
import os
import resource
import signal
import socket
import subprocess
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
RUN = Path(os.environ.get("BENCH_RUN", HERE.parent / "target" / "bench"))
PROXY_CPU, LOAD_CPU = os.environ.get("BENCH_PROXY_CPU", "0"), os.environ.get("BENCH_LOAD_CPU", "1")
NICENESS = os.environ.get("BENCH_NICE", "-15" if os.geteuid() == 0 else "0")
NICE = ["nice", "-n", NICENESS]
ORIGINS, CALLS = [19301, 19302, 19303], [19311, 19312]
ROUTES = range(1, 10)
# A proxy holds two descriptors a connection; HAProxy does not start where it may not have them.
MAX_CONNECTIONS = min(20_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 2 - 100)


def prefer(pid):
    """Niceness counts within a session alone where the kernel groups tasks by session: so the session gets it, too."""
    try:
        Path(f"/proc/{pid}/autogroup").write_text(NICENESS)
    except OSError:
        pass


class Proxy:
    """A running proxy and the ports of its HTTP/1 and HTTP/2 listeners."""

    def __init__(self, name, command, http, h2=None, log=None, admin=None):
        self.name, self.command, self.http, self.h2 = name, command, http, h2 or http
        self.log, self.admin, self.process = log, admin, None

    def start(self, cpu=PROXY_CPU, wait=True):
        out = open(self.log or RUN / f"{self.name}.out", "wb")
        pin = [] if cpu is None else ["taskset", "-c", cpu]
        self.process = subprocess.Popen([*NICE, *pin, *self.command], stdout=out, stderr=subprocess.STDOUT if not self.log
                                        else subprocess.DEVNULL, stdin=subprocess.DEVNULL, start_new_session=True)
        prefer(self.process.pid)
        if wait:
            await_port(self.http, self.process)
        return self

    def stop(self):
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                # Pingora outlives a SIGTERM by minutes.
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
            self.process = None

    @property
    def pid(self):
        return self.process.pid

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()


def await_port(port, process, seconds=20):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args} ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            time.sleep(0.2)
            if process.poll() is None:
                return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"nobody listens on {port}")


def render(template, **values):
    text = (HERE / "conf" / template).read_text()
    for key, value in {"RUN": RUN, "MAX": MAX_CONNECTIONS, **values}.items():
        text = text.replace(f"@{key}@", str(value))
    name = values.get("NAME", template)
    (RUN / name).write_text(text)
    return RUN / name


def origins():
    binary = RUN / "build" / "release" / "bench-origin"
    pinned = [("origin", [binary, *map(str, ORIGINS)], ORIGINS[0]),
              ("calls", [binary, "--h2", *map(str, CALLS)], CALLS[0])]
    return [Proxy(name, [str(c) for c in command], port).start(cpu=LOAD_CPU) for name, command, port in pinned]


def haproxy(name="haproxy", http=19101, h2=19111, log=None):
    servers = "\n".join(f"  server o{i} 127.0.0.1:{port}" for i, port in enumerate(ORIGINS))
    calls = "\n".join(f"  server c{i} 127.0.0.1:{port} proto h2" for i, port in enumerate(CALLS))
    routes = "\n".join(f"  use_backend origin if {{ hdr(host) -i a{i}.test }} {{ path_beg /r{i}/ }}" for i in ROUTES)
    lines = 'log stdout format raw local0\n  log-format \'{"time":"%Tl","method":"%HM","path":"%HU","status":%ST,' \
            '"listener":"%f","service":"%b","instance":"%s","retries":%rc,"bytes_received":%U,"bytes_sent":%B,' \
            '"duration_ms":%Ta,"upstream_ms":%Tr,"request_id":"%ID","client":"%ci"}\''
    template = "haproxy_bare.cfg" if name == "haproxy bare" else "haproxy.cfg"
    file = render(template, NAME=f"{name.replace(' ', '_')}.cfg", HTTP=http, H2=h2, ORIGINS=servers, CALLS=calls,
                  ROUTES=routes, LOG=lines if log else "no log")
    return Proxy(name, ["haproxy", "-db", "-f", str(file)], http, h2, log)


def nginx():
    servers = "\n".join(f"    server 127.0.0.1:{port};" for port in ORIGINS)
    file = render("nginx.conf", HTTP=19102, H2=19112, ORIGINS=servers)
    return Proxy("nginx bare", ["nginx", "-c", str(file)], 19102, 19112)


def pingora():
    binary = RUN / "build" / "release" / "bench-pingora"
    if not binary.exists():
        return None
    return Proxy("pingora", [str(binary), "127.0.0.1:19103", *(f"127.0.0.1:{port}" for port in ORIGINS)], 19103)


def floor():
    """What passes bytes on and does nothing else."""
    return Proxy("floor", [str(RUN / "build" / "release" / "bench-floor"), "127.0.0.1:19105",
                           *(f"127.0.0.1:{port}" for port in ORIGINS)], 19105)


def announce(service, name, address):
    folder = RUN / "services" / service
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(address)


def zoogate(name="zoogate", http=19104, admin=19114, workers=1, log="off", balances=()):
    """`balances`: policies, each for a service of its own over the same origins, asked for as p0.test, p1.test, …"""
    for i, port in enumerate(ORIGINS):
        announce("origin", f"o{i}", f"127.0.0.1:{port}")
    for i, port in enumerate(CALLS):
        announce("calls", f"c{i}", f"127.0.0.1:{port}")
    routes = "\n".join(f'[[routes]]\nhost = "a{i}.test"\npath = "/r{i}/*"\nservice = "origin"' for i in ROUTES)
    services = "\n".join(f'[services.p{i}]\npath = "/origin"\nbalance = {policy}' for i, policy in enumerate(balances))
    routes += "".join(f'\n[[routes]]\nhost = "p{i}.test"\npath = "/*"\nservice = "p{i}"' for i in range(len(balances)))
    file = render("zoogate.toml", SERVICES=services, NAME=f"{name.replace(' ', '_')}.toml", WORKERS=workers, LOG=log, HTTP=http,
                  ADMIN=admin, ROUTES=routes)
    return Proxy(name, [os.environ["ZOOGATE"], "run", "--config", str(file)], http, admin=admin)
