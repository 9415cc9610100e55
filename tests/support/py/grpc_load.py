"""A load of unary gRPC calls by a client that is not ours: grpc_load.py HOST:PORT THREADS PAUSE_MS. Each call says an id. Ends
with standard input, and prints what came of each call as JSON: [[id, code, answer], ...]"""
import json
import sys
import threading
import time

import grpc

target, threads, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) / 1000
ended = threading.Event()
told = []


def ask(thread):
    channel = grpc.insecure_channel(target, options=[("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)])
    call = channel.unary_unary("/test.Echo/Unary")
    number = 0
    while not ended.is_set():
        id = f"grpc{thread}-{number}"
        try:
            told.append([id, "OK", call(id.encode(), timeout=30).decode()])
        except grpc.RpcError as error:
            told.append([id, error.code().name, error.details()])
        number += 1
        time.sleep(pause)


asking = [threading.Thread(target=ask, args=(thread,)) for thread in range(threads)]
for thread in asking:
    thread.start()
print("asking", flush=True)
sys.stdin.read()
ended.set()
for thread in asking:
    thread.join()
print(json.dumps(told), flush=True)
