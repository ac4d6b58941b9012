"""A worker that listens by MPTCP, as servers in Go do, and a client of several addresses (with the argument `client`).
The worker answers each line with its process id; the client asks again and again, and prints each answer."""

import os
import socket
import sys
import threading
import time

MPTCP = getattr(socket, "IPPROTO_MPTCP", 262)


def serve(connection):
    with connection, connection.makefile("rwb") as lines:
        while lines.readline():
            lines.write(b"%d\n" % os.getpid())
            lines.flush()


def ask(address):
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP)
    connection.bind((address, 0))
    connection.connect(("10.9.0.1", 80))
    lines = connection.makefile("rwb")
    while True:
        lines.write(b"who?\n")
        lines.flush()
        print("answer", int(lines.readline()), flush=True)
        time.sleep(0.05)


if sys.argv[1:2] == ["client"]:
    ask(sys.argv[2])
if os.environ.get("LISTEN_PID") == str(os.getpid()):
    listener = socket.socket(fileno=3)
else:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("0.0.0.0", int(os.environ["PORT"])))
    listener.listen(64)
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=serve, args=[accepted], daemon=True).start()
    del accepted
