"""Twelve channels to the address that the argument names, eight with a call every 100 ms and four with calls
whose answers take 2 s. Prints the number of calls and of those that failed, by their status, until SIGTERM."""

import collections
import json
import signal
import sys
import threading
import time

import grpc

count = collections.Counter()
failed = collections.Counter()
lock = threading.Lock()
ends = threading.Event()


def client(method, pause):
    # Channels with the same arguments would share a connection.
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(sys.argv[1], options=options) as channel:
        call = channel.unary_unary(method)
        while not ends.wait(pause):
            status = "OK"
            try:
                call(b"", timeout=12)
            except grpc.RpcError as error:
                status = error.code().name
            with lock:
                count["calls"] += 1
                if status != "OK":
                    failed[status] += 1


signal.signal(signal.SIGTERM, lambda *_: ends.set())
habits = [("/t/Say", 0.1)] * 8 + [("/t/Slow", 0)] * 4
threads = [threading.Thread(target=client, args=habit) for habit in habits]
for thread in threads:
    thread.start()
while any(thread.is_alive() for thread in threads):
    time.sleep(0.2)
    with lock:
        print(json.dumps({"requests": count["calls"], "failed": dict(failed)}), flush=True)
