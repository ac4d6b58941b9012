"""A worker that speaks a little HTTP on connections that stay open. `GET /slow` is answered after as many seconds as the
argument says; SIGTERM ends it at once, whatever it does."""

import os
import socket
import sys
import threading
import time


def serve(connection):
    with connection, connection.makefile("rwb") as lines:
        while request := lines.readline():
            while lines.readline().strip():
                pass
            if b"/slow" in request:
                time.sleep(float(sys.argv[1]))
            body = f"{os.getpid()} {os.environ['IPCLUSTER_SEAT']} {os.environ['IPCLUSTER_GENERATION']}\n".encode()
            lines.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            lines.flush()


if os.environ.get("LISTEN_PID") == str(os.getpid()):
    listener = socket.socket(fileno=3)
else:
    listener = socket.create_server(("0.0.0.0", int(os.environ["PORT"])))
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=serve, args=[accepted], daemon=True).start()
    del accepted
