"""A worker that misbehaves in every way that a worker can: python3 flood.py.

In seat 0 three processes of it never rest: one writes to the control socket, on which it has joined
properly, one to NOTIFY_SOCKET, one to its output. All of them accept connections, as does the only
process in the other seats, and say READY=1.
"""

import json
import os
import socket
import sys
import threading

port = int(os.environ["PORT"])
seat = int(os.environ["IPCLUSTER_SEAT"])
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.connect(os.environ["NOTIFY_SOCKET"])


def accept(listener):
    while True:
        listener.accept()[0].close()


def write_to_output():
    line = b"x" * 4000 + b"\n"
    while True:
        os.write(1, line)


def write_to_notify():
    while True:
        for text in (b"STATUS=again", b"READY=1", b"EXTEND_TIMEOUT_USEC=1", b"x" * 4000):
            notify.send(text)


def write_to_control(pid):
    facts = {"pid": pid, "mem": {"rss": 1}, "portmap": {"80": port}, "band": seat}
    line = lambda **fields: json.dumps(fields).encode() + b"\n"
    info = line(__type="info", __messageID=1, **facts)
    pings = line(__type="ping", lag=1, **facts) * 16
    while True:
        # Whenever the master has had enough of it.
        with socket.socket(socket.AF_UNIX) as master:
            master.connect(os.environ["IPCLUSTER_SOCKET"])
            try:
                master.sendall(info)
                assert b'"ok"' in master.recv(4096)
                while True:
                    master.sendall(pings)
            except (AssertionError, OSError):
                pass


def main():
    listener = socket.create_server(
        ("::", port), family=socket.AF_INET6, backlog=512, dualstack_ipv6=True
    )
    threading.Thread(target=accept, args=(listener,), daemon=True).start()
    notify.send(b"READY=1")
    if seat != 0:
        return threading.Event().wait()
    for flood in (write_to_output, write_to_notify):
        if os.fork() == 0:
            flood()
    write_to_control(os.getpid())


sys.exit(main())
