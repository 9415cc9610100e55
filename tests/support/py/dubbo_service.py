"""A tri service that Dubbo itself serves and registers: dubbo_service.py HOST:PORT/CHROOT PORT.

Says `ok` when it is exported, serves until standard input ends. Without Dubbo it says `no dubbo`.
"""
import sys

try:
    import dubbo
    from dubbo.configs import RegistryConfig, ServiceConfig
    from dubbo.proxy.handlers import RpcMethodHandler, RpcServiceHandler
except ImportError:
    print("no dubbo", flush=True)
    sys.exit()

ensemble, _, chroot = sys.argv[1].partition("/")
host, port = ensemble.rsplit(":", 1)


def unary(request):
    return b"dubbo:" + request


service = RpcServiceHandler("test.Echo", [RpcMethodHandler.unary(unary, method_name="Unary")])
registry = RegistryConfig("zookeeper", host, int(port), group=f"{chroot}/dubbo")
server = dubbo.Server(
    ServiceConfig(service, host="127.0.0.1", port=int(sys.argv[2])),
    dubbo.Dubbo(registry_config=registry),
)
server.start()
print("ok", flush=True)
sys.stdin.read()
