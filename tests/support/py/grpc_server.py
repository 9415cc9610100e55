"""A gRPC server that is not ours. Prints its port, serves until standard input ends. Messages are raw bytes."""
import sys, time
from concurrent import futures

import grpc


def with_trailer(context):
    context.set_trailing_metadata((("x-trailer", "from the server"),))


def unary(request, context):
    with_trailer(context)
    return b"unary:" + request


def server_stream(request, context):
    with_trailer(context)
    for i in range(5):
        yield b"%d:" % i + request


def client_stream(requests, context):
    with_trailer(context)
    return b"|".join(requests)


def bidi(requests, context):
    with_trailer(context)
    for request in requests:
        yield b"echo:" + request


def fail(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now: 50 % of it")


def slow(request, context):
    while context.is_active():
        time.sleep(0.01)
    return b""


METHODS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
    "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
    "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
}

server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", METHODS),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
sys.stdin.read()
server.stop(None)
