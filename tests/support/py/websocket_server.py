"""A WebSocket server that is not ours. Prints its port, tells the path, echoes until it hears "enough". Prints how each
connection was closed by its client."""
import sys

from websockets.sync.server import serve


def talk(socket):
    socket.send("path " + socket.request.path)
    for message in socket:
        if message == "enough":
            socket.close(4000, "enough")
            return
        socket.send(message)
    print("closed", socket.close_code, flush=True)


with serve(talk, "127.0.0.1", 0, max_size=None) as server:
    print(server.socket.getsockname()[1], flush=True)
    server.serve_forever()
