"""One instance of a soak: `KIND NAME HOST PORT LOG PID`, of kind http, grpc or ws.

It writes the id of each request to LOG before it answers, with a digest of the body, and its process id to PID. A request may ask it
to take its time. SIGTERM lets it finish
what it has; SIGUSR1 resets every connection that it has, SIGUSR2 ends its own half of each.
"""
import ctypes
import hashlib
import os
import signal
import socket
import sys
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from faults.instance import Server

UNARY, STREAM = "/soak.Echo/Unary", "/soak.Echo/Stream"
LIBC = ctypes.CDLL(None, use_errno=True)


def payload(ident, size):
    """Bytes that no other id has, so that a swapped, cut or mixed body is seen."""
    word = f"{ident} ".encode()
    return (word * (size // len(word) + 1))[:size]


def digest(body):
    return hashlib.blake2b(body, digest_size=6).hexdigest()


class Journal:
    def __init__(self, file):
        self.file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, ident, body=b""):
        os.write(self.file, f"{ident} {digest(body)}\n".encode())


def own_connections(host, port):
    """A duplicate of every socket on which a client is connected to us."""
    for number in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{number}").startswith("socket:"):
                continue
            connection = socket.socket(fileno=os.dup(int(number)))
            if connection.getsockname()[:2] == (host, port) and connection.getpeername():
                yield connection
            else:
                connection.close()
        except OSError:
            pass


def reset(connection):
    # Connecting a TCP socket to no address at all ends its connection with a RST, whoever else holds it.
    LIBC.connect(connection.fileno(), ctypes.create_string_buffer(16), 16)


def half_close(connection):
    connection.shutdown(socket.SHUT_WR)


def disturb(how, host, port):
    for connection in own_connections(host, port):
        with connection:
            try:
                how(connection)
            except OSError:
                pass


def http(name, host, port, journal, leaving):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def answer(self):
            ident, size = self.headers.get("x-id"), int(self.headers.get("x-size", 0))
            body = self.chunks() if "transfer-encoding" in self.headers else self.rfile.read(int(self.headers.get("content-length", 0)))
            if ident:
                journal.write(ident, body)
            time.sleep(float(self.headers.get("x-wait", 0)))
            # A POST gets its own body back, a GET one that its id and size determine.
            content = body if self.command == "POST" else payload(ident, size)
            chunked = size % 2 == 1
            self.send_response(200)
            self.send_header("x-id", ident or "")
            self.send_header("x-instance", name)
            self.send_header(*(("transfer-encoding", "chunked") if chunked else ("content-length", str(len(content)))))
            if leaving.is_set():
                self.send_header("connection", "close")
            self.end_headers()
            if self.command == "HEAD":
                return
            if not chunked:
                self.wfile.write(content)
                return
            for at in range(0, len(content), 5000):
                piece = content[at:at + 5000]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")

        do_GET = do_POST = do_OPTIONS = do_HEAD = answer

        def chunks(self):
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)

        def log_message(self, *_):
            pass

    server = Server((host, port), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    # Connections get one more answer; then the process goes, with nothing of a request on it.
    return lambda: time.sleep(0.5)


def grpc(name, host, port, journal, _leaving):
    import grpc

    def unary(request, context):
        told = dict(context.invocation_metadata())
        ident = told["x-id"]
        journal.write(ident, request)
        time.sleep(float(told["x-wait"]))
        return f"{name} {ident}\n".encode() + request

    def stream(request, context):
        """`COUNT PAUSE`: so many numbered messages, so many seconds apart."""
        ident = dict(context.invocation_metadata())["x-id"]
        journal.write(ident, request)
        count, pause = request.split()
        for number in range(int(count)):
            yield f"{name} {ident} {number}\n".encode() + payload(ident, 100 + number)
            time.sleep(float(pause))

    handlers = {UNARY: grpc.unary_unary_rpc_method_handler(unary), STREAM: grpc.unary_stream_rpc_method_handler(stream)}

    class Generic(grpc.GenericRpcHandler):
        def service(self, details):
            return handlers.get(details.method)

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=32), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((Generic(),))
    server.add_insecure_port(f"{host}:{port}")
    server.start()
    return lambda: server.stop(4).wait()


def ws(name, host, port, journal, _leaving):
    from websockets.sync.server import serve

    def session(connection):
        ident = connection.request.headers["x-id"]
        journal.write(ident)
        connection.send(f"{name} {ident}")
        for message in connection:
            connection.send(message)

    server = serve(session, host, port, compression=None)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.shutdown


KINDS = {"http": http, "grpc": grpc, "ws": ws}


def main():
    kind, name, host, port, log, pid = sys.argv[1:]
    leaving = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: leaving.set())
    signal.signal(signal.SIGUSR1, lambda *_: disturb(reset, host, int(port)))
    signal.signal(signal.SIGUSR2, lambda *_: disturb(half_close, host, int(port)))
    leave = KINDS[kind](name, host, int(port), Journal(log), leaving)
    Path(pid).write_text(str(os.getpid()))
    while not leaving.wait(0.5):
        pass
    leave()
    os._exit(0)


if __name__ == "__main__":
    main()
