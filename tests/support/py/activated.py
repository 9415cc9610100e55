"""Socket activation without systemd: activated.py PROGRAM ARGUMENT …. Binds TEST_PORT, and becomes
the program with that socket as descriptor 3."""
import os
import socket
import sys

listener = socket.create_server(("127.0.0.1", int(os.environ["TEST_PORT"])))
os.dup2(listener.fileno(), 3)
# Where it was descriptor 3 already, nothing has been duplicated, and it would close.
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[1], sys.argv[1:])
