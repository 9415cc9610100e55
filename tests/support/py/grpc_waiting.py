"""A gRPC client with one open stream: grpc_waiting.py HOST:PORT. Sends each line that it reads on standard input, says
what comes back, and how the call ended."""
import sys

import grpc


def lines():
    for line in sys.stdin:
        yield line.strip().encode()


with grpc.insecure_channel(sys.argv[1]) as channel:
    call = channel.stream_stream("/test.Echo/Bidi")(lines())
    try:
        for answer in call:
            print(answer.decode(), flush=True)
        print("ended OK", flush=True)
    except grpc.RpcError as error:
        print("ended", error.code().name, error.details(), flush=True)
