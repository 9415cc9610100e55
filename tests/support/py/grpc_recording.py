"""A gRPC server that is not ours, and remembers: grpc_recording.py NAME PORT RECORD. Appends what each unary call says to
RECORD, then answers NAME and the same. A line on standard input stops it in order: calls under way are answered."""
import sys
from concurrent import futures

import grpc

name, port, path = sys.argv[1:]
record = open(path, "ab", buffering=0)


def unary(request, _):
    record.write(request + b" " + request + b"\n")
    return name.encode() + b" " + request


handlers = {"Unary": grpc.unary_unary_rpc_method_handler(unary)}
server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
if server.add_insecure_port(f"127.0.0.1:{port}") != int(port):
    sys.exit(f"port {port} is taken")
server.start()
print("serving", flush=True)
sys.stdin.readline()
server.stop(30).wait()
print("stopped", flush=True)
