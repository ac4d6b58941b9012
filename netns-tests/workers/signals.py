"""A worker of two processes that writes down which signals they get, one file for each: DIRECTORY/GENERATION.SEAT.main
and .child, a line of numbers each. SIGQUIT and SIGTERM end the main process, nothing but SIGKILL its child.

It answers as the greeter of the lab does, with connections that stay open. Arguments: DIRECTORY, and what the child
does first: "stay" in the group of the main process, or "leave" it for a group of its own.
"""

import os
import signal
import socket
import sys
import threading

DIRECTORY, CHILD = sys.argv[1:3]
SEAT, GENERATION = os.environ["IPCLUSTER_SEAT"], os.environ["IPCLUSTER_GENERATION"]


def write_down(who):
    path = os.path.join(DIRECTORY, f"{GENERATION}.{SEAT}.{who}")

    def heard(number, _frame):
        with open(path, "a") as file:
            file.write(f"{number}\n")
        if who == "main" and number in (signal.SIGQUIT, signal.SIGTERM):
            os._exit(0)

    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        signal.signal(number, heard)
    with open(path, "a"):
        pass


def serve(connection):
    with connection, connection.makefile("rwb") as lines:
        while lines.readline().strip():
            pass
        body = f"{os.getpid()} {SEAT} {GENERATION}\n".encode()
        lines.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        lines.flush()
        for line in lines:
            lines.write(line)
            lines.flush()


def accept(listener):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=[connection], daemon=True).start()


if os.fork() == 0:
    if CHILD == "leave":
        os.setpgid(0, 0)
    write_down("child")
    while True:
        signal.pause()
write_down("main")
if os.environ.get("LISTEN_PID") == str(os.getpid()):
    listener = socket.socket(fileno=3)
else:
    listener = socket.create_server(("0.0.0.0", int(os.environ["PORT"])))
threading.Thread(target=accept, args=[listener], daemon=True).start()
while True:
    signal.pause()
