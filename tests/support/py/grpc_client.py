"""A gRPC client that is not ours: grpc_client.py HOST:PORT CASE... Prints one JSON line a case."""
import json, sys

import grpc

target, cases = sys.argv[1], sys.argv[2:]
channel = grpc.insecure_channel(target, options=[("grpc.enable_retries", 0)])


def call(kind, method, argument, timeout=30):
    rpc = getattr(channel, kind)(f"/test.Echo/{method}")
    result = {"case": method}
    try:
        if kind.endswith("unary"):
            answer, call_ = rpc.with_call(argument, timeout=timeout)
            result["answers"] = [answer.decode()]
        else:
            call_ = rpc(argument, timeout=timeout)
            result["answers"] = [a.decode() for a in call_]
        result["code"] = call_.code().name
        result["trailers"] = {k: v for k, v in call_.trailing_metadata() if isinstance(v, str)}
    except grpc.RpcError as error:
        result["code"], result["details"] = error.code().name, error.details()
        result["trailers"] = {k: v for k, v in (error.trailing_metadata() or ()) if isinstance(v, str)}
    return result


def many():
    """A thousand calls at once over the one connection."""
    calls = [channel.unary_unary("/test.Echo/Unary").future(b"%d" % i, timeout=30) for i in range(1000)]
    good = sum(call.result() == b"unary:%d" % i for i, call in enumerate(calls))
    return {"case": "many", "code": "OK", "answers": [str(good)]}


CASES = {
    "many": many,
    "unary": lambda: call("unary_unary", "Unary", b"a"),
    "server_stream": lambda: call("unary_stream", "ServerStream", b"b"),
    "client_stream": lambda: call("stream_unary", "ClientStream", iter([b"c", b"d", b"e"])),
    "bidi": lambda: call("stream_stream", "Bidi", iter([b"f", b"g"])),
    "big": lambda: call("unary_unary", "Unary", b"x" * 3_000_000),
    "fail": lambda: call("unary_unary", "Fail", b""),
    "deadline": lambda: call("unary_unary", "Slow", b"", timeout=0.5),
}
for case in cases:
    result = CASES[case]()
    if case == "big":
        result["answers"] = [str(len(a)) for a in result.get("answers", [])]
    print(json.dumps(result), flush=True)
