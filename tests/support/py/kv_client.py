"""A client of kv.proto that is not ours: kv_client.py HOST:PORT (get KEY | put KEY VALUE | delete KEY).

Prints the status, and what came. Messages are put together by hand: no protoc is needed, and the field numbers are
those of the file.
"""
import sys

import grpc


def field(number, text):
    data = text.encode()
    return bytes([number << 3 | 2, len(data)]) + data if data else b""


target, verb, words = sys.argv[1], sys.argv[2], sys.argv[3:]
message = b"".join(field(i + 1, word) for i, word in enumerate(words))
channel = grpc.insecure_channel(target)
call = channel.unary_unary(f"/zoogate.kv.v1.Kv/{verb.capitalize()}")
metadata = (("x-key", words[0]),) if words[0] else ()
try:
    answer, _ = call.with_call(message, timeout=30, metadata=metadata)
    if verb == "get":
        assert answer[:1] in (b"", b"\x0a") and len(answer) < 128
        print("OK", answer[2:].decode() if answer else "absent")
    else:
        assert answer[:1] == b"\x08" and len(answer) == 2, answer
        print("OK", answer[1])
except grpc.RpcError as error:
    trailers = dict(error.trailing_metadata() or ())
    print(error.code().name, error.details(), trailers.get("x-primary", ""))
