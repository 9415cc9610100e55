"""A gRPC server with the health service alone. Prints its port; each line of standard input is the status it tells."""
import sys
from concurrent import futures

import grpc

STATUS = {"UNKNOWN": b"", "SERVING": b"\x08\x01", "NOT_SERVING": b"\x08\x02"}
now = "NOT_SERVING"


def check(request, context):
    if request not in (b"", b"\x0a\x06orders"):
        context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
    return STATUS[now]


METHODS = {"Check": grpc.unary_unary_rpc_method_handler(check)}
server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", METHODS),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
for line in sys.stdin:
    now = line.strip()
    print("ok", flush=True)
server.stop(None)
