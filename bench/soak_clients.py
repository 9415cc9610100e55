"""The clients of a soak: HTTP/1.1, HTTP/2, gRPC and WebSocket, each request with an id of its own and a body that only it can have."""
import collections
import http.client
import itertools
import random
import socket
import threading
import time

import grpc
import h2.config
import h2.connection
import h2.events
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from soak_instance import STREAM, UNARY, digest, payload

# A success is kept as (instance, digest of the body that was sent); what failed, with all that helps to find out why.
Failure = collections.namedtuple("Failure", "kind method id began ended instance what")
BATCH = 5
PATIENCE = 30
# What lasts as long as its client wants, and when anything else is worth a word.
LONG, SLOW = ("session", "stream"), 1


class Wrong(Exception):
    """An answer that is not that of its request."""


class Ledger:
    """What the clients saw."""

    def __init__(self):
        self.lock = threading.Lock()
        self.served, self.sent, self.failures, self.wrong = {}, collections.Counter(), [], []
        self.messages, self.took, self.slow = 0, collections.defaultdict(list), []

    def note(self, kind, method, ident, began, body, instance=None, error=None, ended=None):
        ended = ended or time.time()
        with self.lock:
            self.sent[kind, method] += 1
            if error is None:
                self.served[ident] = (method, instance, digest(body))
                self.took[kind, method].append(ended - began)
                if ended - began > SLOW and method not in LONG:
                    self.slow.append((ended - began, ended, f"{kind} {method} {ident} on {instance}"))
            elif isinstance(error, Wrong):
                self.wrong.append(f"{kind} {method} {ident}: {error}")
            else:
                self.failures.append(Failure(kind, method, ident, began, ended, instance, str(error) or repr(error)))

    def message(self):
        with self.lock:
            self.messages += 1


def must_be(got, expected):
    if got != expected:
        raise Wrong(f"{got[:80]!r} ({len(got)} bytes) instead of {expected[:80]!r} ({len(expected)} bytes)")


class Client(threading.Thread):
    """One client, which sends at its own pace until told to stop."""
    # How many requests one turn makes.
    turn = 1

    def __init__(self, world, ledger, stop, rate, number, seed):
        super().__init__(daemon=True)
        self.address, self.ledger, self.stop, self.rate = (world.host, world.port), ledger, stop, rate
        self.random, self.connection = random.Random(f"{seed} {type(self).__name__} {number}"), None
        self.ids = (f"{type(self).__name__}.{number}.{n}" for n in itertools.count())

    def run(self):
        pace = self.turn / self.rate
        due = time.monotonic() + self.random.random() * pace
        while not self.stop.wait(max(0, due - time.monotonic())):
            due = max(due + pace, time.monotonic() - pace)
            self.once()

    def size(self):
        """Of a body. Few are larger than HTTP/2's windows are at first; an odd one is answered in chunks."""
        return 150_001 if self.random.random() < 0.01 else self.random.choice((0, 20, 301, 1000, 3000, 6000, 20_001))

    def headers(self, ident, size):
        """The listener trusts us, so that its access log has our id. Some answers take a while: a fault meets them under way."""
        wait = self.random.choice((0.1, 0.3)) if self.random.random() < 0.1 else 0
        return {"x-id": ident, "x-request-id": ident, "x-size": str(size), "x-wait": str(wait)}

    def hung_up(self):
        if self.connection is not None:
            self.connection.close()
        self.connection = None


def judge(method, ident, size, body, status, fields, content):
    """The instance that served it; raises where it is no success, or not the answer of this request."""
    if status != 200:
        raise OSError(f"{status} {fields.get('x-zoogate-error')}")
    must_be(fields.get("x-id", ""), ident)
    must_be(content, body if method == "POST" else payload(ident, size))
    return fields["x-instance"]


class Http1(Client):
    kind = "HTTP/1.1"

    def once(self):
        ident, size, method = next(self.ids), self.size(), self.random.choice(("GET", "POST"))
        body, began, instance, error = payload(ident, size) if method == "POST" else b"", time.time(), None, None
        try:
            if self.connection is None or self.random.random() < 0.02:
                self.hung_up()
                self.connection = http.client.HTTPConnection(*self.address, timeout=PATIENCE)
            self.connection.request(method, "/http", body or None, self.headers(ident, size))
            answer = self.connection.getresponse()
            fields = {name.lower(): value for name, value in answer.getheaders()}
            instance = fields.get("x-instance")
            instance = judge(method, ident, size, body, answer.status, fields, answer.read())
        except (OSError, http.client.HTTPException, Wrong) as caught:
            error = caught
            self.hung_up()
        self.ledger.note(self.kind, method, ident, began, body, instance, error)


class Http2(Client):
    """Several requests at once over one connection."""
    kind, turn = "HTTP/2", BATCH

    def once(self):
        began, batch = time.time(), {}
        try:
            if self.connection is None or self.random.random() < 0.02:
                self.hung_up()
                self.connection = socket.create_connection(self.address, PATIENCE)
                self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
                self.h2.initiate_connection()
            for _ in range(BATCH):
                stream, ident, size = self.h2.get_next_available_stream_id(), next(self.ids), self.size()
                method = self.random.choice(("GET", "POST"))
                batch[stream] = [method, ident, size, payload(ident, size) if method == "POST" else b"", {}, bytearray(), "no answer", None]
                fields = [(":method", method), (":path", "/http"), (":scheme", "http"), (":authority", self.address[0]),
                          *self.headers(ident, size).items()]
                # With a length it goes on as it is, without one in chunks.
                if method == "POST" and self.random.random() < 0.5:
                    fields.append(("content-length", str(size)))
                self.h2.send_headers(stream, fields, end_stream=method == "GET")
            self.exchange(batch, {stream: request[3] for stream, request in batch.items() if request[0] == "POST"})
        except (OSError, h2.exceptions.H2Error) as caught:
            self.hung_up()
            for request in batch.values():
                request[6] = request[6] and f"{type(caught).__name__} {caught}"
        for method, ident, size, body, fields, content, error, ended in batch.values():
            instance = fields.get("x-instance")
            try:
                if error:
                    raise OSError(error)
                instance = judge(method, ident, size, body, int(fields[":status"]), fields, bytes(content))
                error = None
            except (OSError, Wrong) as caught:
                error = caught
            self.ledger.note(self.kind, method, ident, began, body, instance, error, ended)

    def exchange(self, batch, uploads):
        """Until each stream of the batch has ended: its error is None then, or what ended it."""
        waiting = set(batch)
        while waiting:
            for stream in list(uploads):
                room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, len(uploads[stream]))
                self.h2.send_data(stream, uploads[stream][:room], end_stream=room == len(uploads[stream]))
                uploads[stream] = uploads[stream][room:]
                if not uploads[stream]:
                    del uploads[stream]
            self.connection.sendall(self.h2.data_to_send())
            # With something to send and room for it nothing needs to come first.
            if any(self.h2.local_flow_control_window(stream) > 0 for stream in uploads):
                continue
            data = self.connection.recv(65536)
            if not data:
                raise ConnectionResetError("the gateway closed the connection")
            for event in self.h2.receive_data(data):
                request = batch.get(getattr(event, "stream_id", None))
                if isinstance(event, h2.events.ConnectionTerminated):
                    raise ConnectionResetError(f"GOAWAY {event.error_code}")
                if request is None:
                    continue
                if isinstance(event, h2.events.ResponseReceived):
                    request[4].update(event.headers)
                elif isinstance(event, h2.events.DataReceived):
                    request[5] += event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
                    request[6] = f"reset {event.error_code}" if isinstance(event, h2.events.StreamReset) else None
                    request[7] = time.time()
                    waiting.discard(event.stream_id)
                    uploads.pop(event.stream_id, None)
        self.connection.sendall(self.h2.data_to_send())


class Grpc(Client):
    kind, method = "gRPC", "unary"

    def __init__(self, world, *rest):
        super().__init__(world, *rest)
        options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 500)]
        self.channel = grpc.insecure_channel(f"{world.host}:{world.port}", options)

    def once(self):
        ident, began = next(self.ids), time.time()
        body, told, error = self.request(ident), [], None
        try:
            self.call(ident, body, tuple(self.headers(ident, 0).items()), told)
        except grpc.RpcError as caught:
            error = OSError(f"{caught.code().name} {caught.details()}")
        except Wrong as caught:
            error = caught
        self.ledger.note(self.kind, self.method, ident, began, body, told[0] if told else None, error)

    def request(self, ident):
        return payload(ident, self.size())

    def call(self, ident, body, metadata, told):
        answer = self.channel.unary_unary(UNARY)(body, timeout=PATIENCE, metadata=metadata)
        told.append(answer.partition(b" ")[0].decode())
        must_be(answer, f"{told[0]} {ident}\n".encode() + body)


class GrpcStream(Grpc):
    """Numbered messages, a few seconds long."""
    kind, method = "gRPC", "stream"

    def request(self, _):
        return f"{self.random.randint(3, 30)} {self.random.choice((0, 0.05, 0.2))}".encode()

    def call(self, ident, body, metadata, told):
        number = -1
        for number, answer in enumerate(self.channel.unary_stream(STREAM)(body, timeout=PATIENCE, metadata=metadata)):
            told[:] = told or [answer.partition(b" ")[0].decode()]
            must_be(answer, f"{told[0]} {ident} {number}\n".encode() + payload(ident, 100 + number))
        if number + 1 != int(body.split()[0]):
            raise Wrong(f"{number + 1} messages instead of {body.split()[0]}")


class WebSocket(Client):
    """Sessions of some seconds up to a minute, in which numbered messages come back one by one."""
    kind = "WebSocket"

    def run(self):
        while not self.stop.is_set():
            ident, began, self.instance, error = next(self.ids), time.time(), None, None
            try:
                with connect(f"ws://{self.address[0]}:{self.address[1]}/ws", compression=None, proxy=None, ping_interval=None,
                             additional_headers=self.headers(ident, 0), open_timeout=PATIENCE) as session:
                    self.talk(session, ident)
            except (OSError, WebSocketException, Wrong) as caught:
                error = caught
            self.ledger.note(self.kind, "session", ident, began, b"", self.instance, error)
            if error:
                # No storm, should the gateway refuse.
                self.stop.wait(0.5)

    def talk(self, session, ident):
        told = session.recv(timeout=PATIENCE)
        self.instance = told.partition(" ")[0]
        must_be(told, f"{self.instance} {ident}")
        until = time.monotonic() + self.random.uniform(2, 60)
        for number in itertools.count():
            if time.monotonic() > until or self.stop.wait(self.random.uniform(0.5, 1.5) / self.rate):
                return
            message = f"{ident} {number} ".encode() + payload(ident, self.size())
            session.send(message)
            must_be(session.recv(timeout=PATIENCE), message)
            self.ledger.message()


# Threads of each kind, and its share of the rate: of requests, and for WebSockets of messages.
KINDS = {Http1: (8, 0.35), Http2: (3, 0.25), Grpc: (4, 0.2), GrpcStream: (4, 0.02), WebSocket: (6, 0.18)}


def start(world, ledger, stop, rate, seed):
    """All clients, at work."""
    clients = [kind(world, ledger, stop, rate * share / threads, number, seed)
               for kind, (threads, share) in KINDS.items() for number in range(threads)]
    for client in clients:
        client.start()
    return clients


def compare(served, failed, seen):
    """What the clients were told beside what the instances wrote down: (what arrived twice, what is wrong)."""
    twice, wrong = [], []
    for ident, (method, instance, sent) in served.items():
        entries = seen.get(ident, [])
        if instance not in [name for name, _ in entries]:
            wrong.append(f"{method} {ident} was answered by {instance}, and served by {entries}")
        if any(arrived != sent for _, arrived in entries):
            wrong.append(f"{method} {ident} arrived with another's body: {entries}")
    for ident, entries in seen.items():
        method = served[ident][0] if ident in served else failed.get(ident)
        if method is None:
            wrong.append(f"{ident} was never sent, and served by {entries}")
        # A GET, and what opens a WebSocket with one, may go out again; nothing else may.
        if len(entries) > 1 and method not in ("GET", "session"):
            twice.append(f"{method} {ident} was served by {entries}")
    return twice, wrong


def itself():
    """The comparison sees what it is there for."""
    sent = digest(b"1")
    assert compare({"1": ("POST", "a", sent)}, {}, {"1": [("a", sent)]}) == ([], [])
    assert compare({"1": ("GET", "a", sent)}, {}, {"1": [("b", sent), ("a", sent)]}) == ([], [])
    assert compare({"1": ("POST", "a", sent)}, {}, {"1": [("a", sent), ("b", sent)]})[0]
    for seen in ({}, {"1": [("b", sent)]}, {"1": [("a", digest(b"2"))]}, {"1": [("a", sent)], "2": [("a", sent)]}):
        assert compare({"1": ("POST", "a", sent)}, {}, seen)[1], seen
    # One that failed at its client may have arrived, but not twice either.
    assert compare({}, {"1": "unary"}, {"1": [("a", sent)]}) == ([], [])
    assert compare({}, {"1": "unary"}, {"1": [("a", sent), ("b", sent)]})[0]
    for one in ("1", "2"):
        try:
            must_be(payload(one, 500), payload("1", 500))
        except Wrong:
            assert one == "2"
        else:
            assert one == "1"
