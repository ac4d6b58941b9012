"""A worker with a will of its own: python3 worker.py MODE DIRECTORY.

It answers over HTTP, one client at a time, with the line "<pid> <seat> <generation>". Files in
DIRECTORY, named for a seat, change what it does while they are there:

    hang-<seat>     it accepts nobody
    deaf-<seat>     it does not listen
    ill-<seat>      it answers with status 503
    mute-<seat>     it does not say WATCHDOG=1
    stop-<seat>     it says STOPPING=1, serves on for a second, and exits

MODE is a list of what it says on NOTIFY_SOCKET, with commas: `ready` (when it listens), `late`
(READY=1 once there is a file `go`), `early` (READY=1, and it never listens), `status`, `watchdog`,
`barrier` (READY=1 in a child that waits until it was read), `stranger` (READY=1 from a session of its
own, which is nobody's), `greedy` (what only a service manager grants).
"""

import os
import select
import socket
import subprocess
import sys
import time

modes, directory = sys.argv[1].split(","), sys.argv[2]
seat, generation = os.environ["IPCLUSTER_SEAT"], os.environ["IPCLUSTER_GENERATION"]
port = int(os.environ["PORT"])


def is_there(name):
    return os.path.exists(os.path.join(directory, name))


def say(*lines, descriptors=()):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.connect(os.environ["NOTIFY_SOCKET"])
        socket.send_fds(peer, ["\n".join(lines).encode()], descriptors)


def say_from_child(wait, **options):
    """What systemd-notify does: another process says it, and waits until it was read."""
    script = """
import os, socket, sys, time
def send(text, descriptors=()):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.connect(os.environ["NOTIFY_SOCKET"])
        socket.send_fds(peer, [text], descriptors)
send(b"READY=1")
if sys.argv[1] == "barrier":
    reader, writer = os.pipe()
    send(b"BARRIER=1", [writer])
    os.close(writer)
    assert os.read(reader, 1) == b""
else:
    time.sleep(1)
"""
    return subprocess.Popen([sys.executable, "-c", script, wait], **options)


def listen():
    listener = socket.socket(socket.AF_INET6)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("::", port))
    listener.listen(512)
    return listener


def serve(listener):
    client, _ = listener.accept()
    with client:
        client.settimeout(2)
        try:
            request = b""
            while b"\r\n\r\n" not in request:
                received = client.recv(4096)
                if not received:
                    return
                request += received
            status = "503 Service Unavailable" if is_there(f"ill-{seat}") else "200 OK"
            body = f"{os.getpid()} {seat} {generation}\n"
            head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            client.sendall((head + body).encode())
        except OSError:
            pass


if "greedy" in modes:
    reader, writer = os.pipe()
    for _ in range(3):
        say("MAINPID=1", "FDSTORE=1", "FDNAME=x", descriptors=[reader, writer])
if "early" in modes:
    say("READY=1")
    time.sleep(1000)

listener = listen()
if "status" in modes:
    say(f"STATUS=seat {seat} is \x1b[31mup")
if "ready" in modes:
    say("READY=1")
if "barrier" in modes:
    assert say_from_child("barrier").wait() == 0
if "stranger" in modes:
    say_from_child("sleep", start_new_session=True)
is_late, stops_at, fed_at = "late" in modes, None, 0
pause = int(os.environ.get("WATCHDOG_USEC", 0)) / 4e6
while stops_at is None or time.monotonic() < stops_at:
    if is_late and is_there("go"):
        say("READY=1")
        is_late = False
    if stops_at is None and is_there(f"stop-{seat}"):
        os.unlink(os.path.join(directory, f"stop-{seat}"))
        say("STOPPING=1")
        stops_at = time.monotonic() + 1
    if "watchdog" in modes and not is_there(f"mute-{seat}") and time.monotonic() - fed_at > pause:
        say("WATCHDOG=1")
        fed_at = time.monotonic()
    if is_there(f"deaf-{seat}"):
        if listener:
            listener.close()
            listener = None
    elif not listener:
        listener = listen()
    if not listener or is_there(f"hang-{seat}"):
        time.sleep(0.02)
    elif select.select([listener], [], [], 0.02)[0]:
        serve(listener)
