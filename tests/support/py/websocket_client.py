"""A WebSocket client that is not ours: websocket_client.py URL. Tells what it hears."""
import sys

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

with connect(sys.argv[1], max_size=None, compression=None, proxy=None) as socket:
    print(socket.recv(timeout=30))
    socket.send("echo text")
    print(socket.recv(timeout=30))
    socket.send(b"x" * 300_000)
    print("echo", len(socket.recv(timeout=30)), "bytes")
    socket.send("enough")
    try:
        socket.recv(timeout=30)
    except ConnectionClosed as closed:
        print("closed", closed.rcvd.code, closed.rcvd.reason)
