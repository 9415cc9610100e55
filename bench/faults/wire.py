"""Wires in front of instances, each of which can be made to misbehave: `python -m faults.wire HOST:PORT=HOST:PORT...`.

A line `N MODE` on standard input sets the mode of wire N, on its open connections and new ones, and is repeated on standard
output once that is done.

| mode | what a client of the wire sees |
| --- | --- |
| `ok` | the instance |
| `reset` | every connection is reset; a new one as soon as it is accepted |
| `half-close` | the end of what the instance says, while what the client says still arrives there |
| `drip` | one byte a second of what the instance says |
| `slow` | 120 bytes a second of it, so that an answer takes a second and more |
"""
import asyncio
import socket
import struct
import subprocess
import sys

from . import fleet

# So many bytes, and so long until the next.
PACES = {"drip": (1, 1.0), "slow": (12, 0.1)}
AT_ONCE = struct.pack("ii", 1, 0)


class Connection:
    """One connection of a client, and the one to the instance that belongs to it."""

    def __init__(self, wire, reader, client):
        self.wire, self.reader, self.client, self.ended = wire, reader, client, False

    def obey(self):
        if self.wire.mode == "reset":
            self.client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
            self.client.transport.abort()
        elif self.wire.mode == "half-close" and not self.ended and not self.client.is_closing():
            self.ended = True
            self.client.write_eof()

    async def run(self):
        back, server = await asyncio.open_connection(*self.wire.to)
        try:
            up = asyncio.create_task(self.up(server))
            await self.down(back)
            await up
        finally:
            server.close()

    async def up(self, server):
        try:
            while data := await self.reader.read(65536):
                server.write(data)
                await server.drain()
            server.write_eof()
        except OSError:
            server.close()

    async def down(self, back):
        while data := await back.read(65536):
            while data and not self.ended:
                size, pause = PACES.get(self.wire.mode, (len(data), 0))
                self.client.write(data[:size])
                await self.client.drain()
                data = data[size:]
                await asyncio.sleep(pause)


class Wire:
    def __init__(self, to):
        self.to, self.mode, self.open = to, "ok", set()

    def set(self, mode):
        self.mode = mode
        for connection in list(self.open):
            connection.obey()

    async def accept(self, reader, client):
        connection = Connection(self, reader, client)
        self.open.add(connection)
        try:
            connection.obey()
            if not client.is_closing():
                await connection.run()
        except OSError:
            pass
        finally:
            self.open.discard(connection)
            client.close()


async def serve(pairs):
    wires = []
    for pair in pairs:
        (at, port), to = (side.split(":") for side in pair.split("="))
        wires.append(Wire(to))
        await asyncio.start_server(wires[-1].accept, at, int(port))
    while line := await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline):
        number, mode = line.split()
        wires[int(number)].set(mode)
        print(line, end="", flush=True)


class Wires:
    """The process, in front of every instance of a fleet."""

    def __init__(self, instances):
        self.names, pairs = list(instances.names), []
        for name in self.names:
            host, port = instances.addresses[name]
            instances.public[name] = (host, fleet.free_port(host))
            pairs.append(f"{host}:{instances.public[name][1]}={host}:{port}")
        self.process = fleet.module("wire", *pairs, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in self.names:
            fleet.await_port(instances.public[name], self.process)

    def set(self, name, mode):
        line = f"{self.names.index(name)} {mode}\n"
        self.process.stdin.write(line)
        self.process.stdin.flush()
        if self.process.stdout.readline() != line:
            raise RuntimeError("the wires are gone")

    def stop(self):
        fleet.end(self.process)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1:]))
