"""One instance: it writes down each request that has an id, and then answers with what it wrote."""
import argparse
import itertools
import os
import signal
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler

from .history import answer, digest


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads, request_queue_size = True, True, 256

    def handle_error(self, request, client_address):
        """A connection that ends early is no news here."""


class Records:
    """A file that outlives a SIGKILL: one write a record, before the answer."""

    def __init__(self, name, file):
        self.name, self.numbers = name, itertools.count()
        self.out = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def served(self, ident, body):
        # A process id is not used again so soon, so that no serial comes twice.
        serial, of = f"{os.getpid()}.{next(self.numbers)}", digest(body)
        os.write(self.out, f"{ident} {serial} {of}\n".encode())
        return answer(self.name, serial, ident, of).encode()


def http_server(address, records, status, leaving):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        # Buffered, so that head and body leave in one write.
        wbufsize = -1

        def answer(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            said = records.served(self.headers["x-id"], body) if "x-id" in self.headers else b"well"
            self.send_response(status)
            self.send_header("content-length", str(len(said)))
            if leaving.is_set():
                self.send_header("connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(said)

        do_GET = do_POST = do_OPTIONS = do_HEAD = answer

        def log_message(self, *_):
            pass

    return Server(address, Handler)


def rpc_server(address, records):
    """gRPC, with messages of raw bytes: the id, a line's end, the rest of the body."""
    from concurrent import futures

    import grpc

    def unary(request, _):
        return records.served(request.partition(b"\n")[0].decode(), request)

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    handlers = {"Unary": grpc.unary_unary_rpc_method_handler(unary)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("faults.Echo", handlers),))
    if server.add_insecure_port(address) == 0:
        raise OSError(f"{address} is taken")
    server.start()
    return server


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("records")
    parser.add_argument("--status", type=int, default=200)
    parser.add_argument("--rpc", type=int, help="a port for gRPC")
    parser.add_argument("--zookeeper", help="an ensemble to register in, with a session of --session seconds")
    parser.add_argument("--session", type=float, default=30)
    options = parser.parse_args()
    records, leaving = Records(options.name, options.records), threading.Event()
    rpc = rpc_server(f"{options.host}:{options.rpc}", records) if options.rpc else None
    server = http_server((options.host, options.port), records, options.status, leaving)

    registration = None
    if options.zookeeper:
        from .zookeeper import Registration
        registration = Registration(options.zookeeper, options.name, server.server_address, options.session)

    def leave(*_):
        # Off the list; then connections get one more answer; then the process goes, with nothing of a request on it.
        def end():
            if registration:
                registration.stop()
                time.sleep(0.5)
            leaving.set()
            if rpc:
                rpc.stop(5).wait()
            time.sleep(0.5)
            os._exit(0)

        threading.Thread(target=end).start()

    signal.signal(signal.SIGTERM, leave)
    server.serve_forever(0.05)


if __name__ == "__main__":
    main()
