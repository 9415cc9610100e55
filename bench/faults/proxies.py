"""zoogate, HAProxy and nginx in front of a fleet, each as a careful operator would set it up."""
import http.client
import json
import os
import subprocess
import time

from .fleet import await_port, end, free_port, spawn


class Proxy:
    """`port` speaks HTTP/1.1; `rpc` gRPC, where the fleet does."""
    name, registry = "", None

    def __init__(self, folder, fleet, **_):
        self.fleet, self.port, self.rpc = fleet, free_port(), free_port() if fleet.rpc else None
        self.process = self.start(folder)
        await_port(("127.0.0.1", self.port), self.process)

    def join(self, name):
        """A static configuration knows no registration."""

    def leave(self, name):
        """Nor this."""

    def stop(self):
        end(self.process, gently=True)


class Zoogate(Proxy):
    """With its defaults, and what a row sets. A fleet that registers itself in ZooKeeper is found there (`zookeeper`), any other in a directory."""
    name = "zoogate"

    def __init__(self, folder, fleet, zookeeper=None, service="", route=""):
        self.zookeeper, self.service, self.route, self.admin = zookeeper, service, route, free_port()
        self.services = folder / "services"
        if not zookeeper:
            self.fleet = fleet
            (self.services / "orders").mkdir(parents=True)
            (self.services / "calls").mkdir()
            for name in fleet.names:
                self.join(name)
        super().__init__(folder, fleet)
        self.ready()

    def start(self, folder):
        registry = f'kind = "zookeeper"\nconnect = "{self.zookeeper}"' if self.zookeeper else f'kind = "directory"\npath = "{self.services}"'
        config = folder / "zoogate.toml"
        config.write_text(f"""[gateway]
access_log = "{folder}/access.log"
[admin]
listen = "127.0.0.1:{self.admin}"
[registries.main]
{registry}
[services.orders]
path = "/orders"
{self.service}
[services.calls]
path = "/calls"
protocol = "h2"
[[listeners]]
listen = "127.0.0.1:{self.port}"
[[routes]]
service = "orders"
{self.route}
[[routes]]
path = "/faults.Echo/*"
service = "calls"
""")
        self.rpc = self.port if self.fleet.rpc else None
        log = open(folder / "zoogate.log", "ab")
        return spawn([os.environ["ZOOGATE"], "run", "--config", config], stderr=log, stdout=subprocess.DEVNULL)

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def ready(self, seconds=30):
        until = time.monotonic() + seconds
        while self.get("/readyz")[0] != 200:
            if time.monotonic() > until:
                raise RuntimeError(f"zoogate is not ready: {self.get('/readyz')[1]}")
            time.sleep(0.05)

    def instances(self):
        """The table of the service: each instance as the admin shows it. One that drains is out of it."""
        listed = json.loads(self.get("/api/services/orders")[1])
        return [instance for instance in listed["instances"] if instance["state"] != "draining"]

    def metric(self, name):
        """The sum over all labels."""
        lines = self.get("/metrics")[1].splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def registrations(self, name):
        yield self.services / "orders", self.fleet.public[name]
        if self.fleet.rpc:
            yield self.services / "calls", self.fleet.rpc[name]

    def join(self, name):
        for folder, (host, port) in self.registrations(name):
            hidden = folder / f".{name}"
            hidden.write_text(f"{host}:{port}")
            hidden.rename(folder / name)

    def leave(self, name):
        for folder, _ in self.registrations(name):
            (folder / name).unlink()
        time.sleep(0.1)


class Haproxy(Proxy):
    """Checked every second, and told to send again what is safe."""
    name = "HAProxy"

    def start(self, folder):
        def servers(addresses, more=""):
            return "\n".join(f"  server {name} {host}:{port} {more} check inter 1s fall 2 rise 1 observe layer7 error-limit 5 on-error mark-down"
                             for name, (host, port) in addresses.items())

        config = folder / "haproxy.cfg"
        text = f"""global
  maxconn 4000
defaults
  mode http
  timeout connect 1s
  timeout client 60s
  timeout server 60s
  option redispatch 1
  retries 2
  retry-on conn-failure empty-response 503
frontend f
  bind 127.0.0.1:{self.port}
  http-request disable-l7-retry if METH_POST
  default_backend b
backend b
  option httpchk GET /
  http-check expect rstatus .*
{servers(self.fleet.public)}
"""
        if self.rpc:
            # Checked by a connect: instances of gRPC answer no GET. Every call is a POST, and so is sent once.
            text += f"frontend g\n  bind 127.0.0.1:{self.rpc} proto h2\n  http-request disable-l7-retry\n  default_backend h\n"
            text += "backend h\n" + servers(self.fleet.rpc, "proto h2").replace("observe layer7 ", "observe layer4 ") + "\n"
        config.write_text(text)
        return spawn(["haproxy", "-db", "-f", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Nginx(Proxy):
    """Passive checks alone, which is what the open one has."""
    name = "nginx"

    def start(self, folder):
        def servers(addresses):
            return " ".join(f"server {host}:{port} max_fails=3 fail_timeout=5s;" for host, port in addresses.values())

        text = f"""daemon off; pid {folder}/nginx.pid; error_log /dev/null; events {{ worker_connections 4000; }}
http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
upstream b {{ {servers(self.fleet.public)} keepalive 32; }}
server {{ listen 127.0.0.1:{self.port}; location / {{ proxy_pass http://b; proxy_http_version 1.1;
proxy_set_header Connection ""; proxy_connect_timeout 1s; proxy_next_upstream error timeout http_503; }} }}
"""
        if self.rpc:
            text += f"upstream h {{ {servers(self.fleet.rpc)} keepalive 32; }}\n"
            text += f"server {{ listen 127.0.0.1:{self.rpc} http2; location / {{ grpc_pass grpc://h; grpc_connect_timeout 1s; }} }}\n"
        config = folder / "nginx.conf"
        config.write_text(text + "}\n")
        return spawn(["nginx", "-e", "stderr", "-c", config], stderr=subprocess.DEVNULL)


ALL = (Zoogate, Haproxy, Nginx)
