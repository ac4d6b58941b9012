"""A worker that asks the kernel for connections on which something was sent already, as apache and uwsgi do, on a socket
that it was given as well. It answers each line with its generation; SIGTERM ends it at once."""

import os
import socket
import threading


def serve(connection):
    with connection, connection.makefile("rwb") as lines:
        while lines.readline():
            lines.write(os.environ["IPCLUSTER_GENERATION"].encode() + b"\n")
            lines.flush()


if os.environ.get("LISTEN_PID") == str(os.getpid()):
    listener = socket.socket(fileno=3)
else:
    listener = socket.create_server(("0.0.0.0", int(os.environ["PORT"])))
listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 31)
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=serve, args=[accepted], daemon=True).start()
    del accepted
