"""A worker that speaks the older system's protocol, and is slow to end: told to die it asks its master for more time
(EXTEND_TIMEOUT_USEC of sd_notify) if EXTENDING says how much, and ends three seconds later."""

import json
import os
import signal
import socket
import sys
import threading
import time


def say(text):
    os.write(1, f"{text}\n".encode())


def on_sigterm(*_):
    say("SIGTERM")
    os._exit(0)


signal.signal(signal.SIGTERM, on_sigterm)
band = int(os.environ["__ZWORKER__BAND__"])
listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
master = socket.socket(socket.AF_UNIX)
master.connect(os.environ["IPCLUSTER_SOCKET"])


def facts():
    return {
        "ts_sent": int(time.time() * 1000), "pid": os.getpid(), "mem": {"rss": 1}, "toobusy": False, "lag": 0.0,
        "uptime": 1.0, "portmap": {"80": listener.getsockname()[1]}, "band": band,
        "conn": {"state": "connected", "connection_attempts": 1}, "app": {"name": "extending"},
    }


def send(message):
    master.sendall((json.dumps(message) + "\n").encode())


def ping():
    while True:
        time.sleep(0.5)
        send({"__type": "ping", **facts()})


def end():
    time.sleep(3)
    say("ended by itself")
    os._exit(0)


def extend():
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.connect(os.environ["NOTIFY_SOCKET"])
    notify.send(f"EXTEND_TIMEOUT_USEC={os.environ['EXTENDING']}".encode())
    say("asked for more time")


def obey():
    joined = False
    for line in master.makefile():
        message = json.loads(line)
        if message["__type"] == "response" and not joined:
            joined = message["__status"] == "ok"
            say("joined" if joined else f"refused: {message}")
            threading.Thread(target=ping, daemon=True).start()
        elif message["__type"] == "command":
            say(f"order {message['__cmd']}")
            answer = {"__type": "response", "__messageID": message["__messageID"], "__status": "ok"}
            send({**answer, **facts()} if message["__cmd"] == "info" else answer)
            if message["__cmd"] == "die":
                if "EXTENDING" in os.environ:
                    extend()
                threading.Thread(target=end, daemon=True).start()


def serve():
    while True:
        client, _ = listener.accept()
        client.recv(4096)
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        client.close()


threading.Thread(target=serve, daemon=True).start()
send({"__type": "info", "__messageID": 1, **facts()})
# The main thread alone runs handlers of signals.
threading.Thread(target=obey, daemon=True).start()
while True:
    signal.pause()
