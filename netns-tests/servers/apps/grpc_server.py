"""A gRPC server: the method /t/Say answers at once, /t/Slow after 2 s. At SIGTERM it sends GOAWAY, so that
channels go elsewhere, and finishes the calls that it has."""

import os
import signal
import threading
import time
from concurrent import futures

import grpc


def say(request, context):
    return b"hello"


def slow(request, context):
    time.sleep(2)
    return b"hello"


methods = {
    "Say": grpc.unary_unary_rpc_method_handler(say),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
}
server = grpc.server(futures.ThreadPoolExecutor(32))
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("t", methods)])
server.add_insecure_port("0.0.0.0:" + os.environ["PORT"])
ends = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ends.set())
server.start()
ends.wait()
server.stop(10).wait()
