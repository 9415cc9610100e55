"""A WebSocket client that waits: websocket_waiting.py URL [HEADER VALUE]. Says a line for each line that it reads on
standard input (sent, and echoed), and how it was closed."""
import sys
import threading

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

headers = {sys.argv[2]: sys.argv[3]} if len(sys.argv) > 2 else {}
with connect(sys.argv[1], max_size=None, compression=None, proxy=None, additional_headers=headers) as socket:

    def ask():
        for line in sys.stdin:
            socket.send(line.strip())

    threading.Thread(target=ask, daemon=True).start()
    try:
        while True:
            print(socket.recv(), flush=True)
    except ConnectionClosed as closed:
        print("closed", closed.rcvd.code if closed.rcvd else None, flush=True)
