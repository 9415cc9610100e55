"""Asks the health service of a gRPC server for `orders`, and prints what it says."""
import sys

import grpc

channel = grpc.insecure_channel(sys.argv[1])
check = channel.unary_unary("/grpc.health.v1.Health/Check")
answer = check(b"\x0a\x06orders", timeout=20)
print({b"": "UNKNOWN", b"\x08\x01": "SERVING", b"\x08\x02": "NOT_SERVING"}[answer])
