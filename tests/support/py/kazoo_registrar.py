"""A registrar that is not ours: kazoo_registrar.py CONNECT. Carries out a command a line, answers `ok` or `error: …`.

create PATH DATA (ephemeral, parents made) · set PATH DATA · delete PATH · get PATH · close (ends the session) """
import sys

from kazoo.client import KazooClient

client = KazooClient(hosts=sys.argv[1], timeout=4)
client.start(timeout=30)
print("ok", flush=True)
for line in sys.stdin:
    verb, _, rest = line.rstrip("\n").partition(" ")
    path, _, data = rest.partition(" ")
    try:
        if verb == "create":
            client.create(path, data.encode(), ephemeral=True, makepath=True)
        elif verb == "set":
            client.set(path, data.encode())
        elif verb == "delete":
            client.delete(path)
        elif verb == "get":
            print("ok", client.get(path)[0].decode(), flush=True)
            continue
        elif verb == "close":
            client.stop()
            client.close()
        else:
            raise ValueError(verb)
        print("ok", flush=True)
    except Exception as error:  # told to the test, whatever it is
        print(f"error: {type(error).__name__} {error}", flush=True)
