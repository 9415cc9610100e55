"""Clients at a constant rate, in a process of their own: `python -m faults.load PORT RATE MIX FILE [--rpc PORT]`.

Each request is sent when it is due, whatever became of those before it, and its time runs from then: what hangs holds nothing
back, and nothing that waited to be sent is left out. MIX is what to send in turn, as in GET,POST. It says `ready`, goes on
until standard input ends, waits for what is still open, writes one JSON array a request to FILE, and says how many seconds it
was behind at most: on a machine that has no time for it, times say nothing.
"""
import argparse
import asyncio
import json
import resource
import sys
import time

from .history import Sent, body_of, digest

TIMEOUT = 30
# A connection is kept for so many requests, and no longer than this without one.
KEPT_FOR, IDLE = 20, 5
CHANNELS = 4


class Connection:
    """HTTP/1.1, one request at a time."""

    def __init__(self, reader, writer):
        self.reader, self.writer, self.requests, self.used = reader, writer, 0, time.monotonic()

    async def exchange(self, ident, method, body):
        head = f"{method} / HTTP/1.1\r\nhost: faults\r\nx-id: {ident}\r\n"
        head += f"content-length: {len(body)}\r\n\r\n" if method != "GET" else "\r\n"
        self.writer.write(head.encode() + body)
        said = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        status, fields = int(said[0].split(" ")[1]), dict(line.split(": ", 1) for line in said[1:] if ": " in line)
        length = fields.get("content-length")
        answer = await (self.reader.read() if length is None else self.reader.readexactly(int(length)))
        self.requests, self.used = self.requests + 1, time.monotonic()
        if length is None or fields.get("connection") == "close":
            self.requests = KEPT_FOR
        return status, answer.decode("latin-1")

    def again(self):
        return self.requests < KEPT_FOR and time.monotonic() - self.used < IDLE and not self.reader.at_eof()


class Clients:
    def __init__(self, port, rpc):
        self.port, self.pool, self.sent, self.calls = port, [], [], []
        if rpc:
            import grpc.aio
            options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
            self.channels = [grpc.aio.insecure_channel(f"127.0.0.1:{rpc}", options=options) for _ in range(CHANNELS)]
            self.calls = [channel.unary_unary("/faults.Echo/Unary") for channel in self.channels]

    async def http(self, ident, method, body):
        connection = None
        while self.pool and connection is None:
            kept = self.pool.pop()
            if kept.again():
                connection = kept
            else:
                kept.writer.close()
        if connection is None:
            connection = Connection(*await asyncio.open_connection("127.0.0.1", self.port))
        try:
            result = await connection.exchange(ident, method, body)
        except BaseException:
            connection.writer.close()
            raise
        self.pool.append(connection)
        return result

    async def rpc(self, number, message):
        import grpc
        try:
            return 200, (await self.calls[number % CHANNELS](message)).decode()
        except grpc.aio.AioRpcError as error:
            return 0, f"{error.code().name}: {error.details()}"

    async def request(self, number, method, due):
        ident = str(number)
        body = body_of(ident, method)
        if method == "RPC":
            body = ident.encode() + b"\n" + body
        try:
            work = self.rpc(number, body) if method == "RPC" else self.http(ident, method, body)
            status, answer = await asyncio.wait_for(work, TIMEOUT)
        except (OSError, EOFError, asyncio.TimeoutError, asyncio.LimitOverrunError, ValueError, LookupError) as error:
            status, answer = 0, repr(error)
        self.sent.append(Sent(ident, method, due, time.monotonic() - due, status, digest(body), answer))


async def run(options):
    clients, mix, number, running = Clients(options.port, options.rpc), options.mix.split(","), 0, set()
    stop = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    print("ready", flush=True)
    due, behind = time.monotonic(), 0.0
    while not stop.done():
        await asyncio.sleep(max(0, due - time.monotonic()))
        behind = max(behind, time.monotonic() - due)
        task = asyncio.create_task(clients.request(number, mix[number % len(mix)], due))
        running.add(task)
        task.add_done_callback(running.discard)
        number, due = number + 1, due + 1 / options.rate
    await asyncio.gather(*running)
    with open(options.file, "w") as out:
        out.writelines(json.dumps(request) + "\n" for request in clients.sent)
    print(behind, flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("rate", type=float)
    parser.add_argument("mix")
    parser.add_argument("file")
    parser.add_argument("--rpc", type=int)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
