"""Servers that take the sockets they were started with in different ways, or not: python3 accepting.py STYLE.

STYLE may be the path of a file that holds it: what is started after a change of the file is another kind of
server. All of them answer over HTTP with the line "<pid> <seat> <generation>".

    epoll, poll, select     wait for connections by these calls
    accept                  waits in accept, one client after the other
    thread                  waits in accept in another thread than the first
    prefork                 two children wait in accept, the first process only for them
    timer                   tries accept every 20 ms, and waits for nothing
    uring                   has an accept request on an io_uring
    silent                  accepts, and closes at once what comes from this host
    hidden                  as epoll; its processes cannot be looked at (PR_SET_DUMPABLE)
    hidden-ignore           as ignore, in the same way
    ignore                  leaves its descriptor alone, and listens on 127.0.0.1:8000
    close                   closes its descriptor, and listens on 127.0.0.1:8000
    pid                     as systemd's libraries: epoll, or ignore where LISTEN_PID is another process's
    first                   accepts from the first of two sockets
"""

import ctypes
import mmap
import os
import select
import socket
import struct
import sys
import threading
import time

style = sys.argv[1]
if os.path.exists(style):
    with open(style) as file:
        style = file.read().strip()
seat, generation = os.environ["IPCLUSTER_SEAT"], os.environ["IPCLUSTER_GENERATION"]
sockets = [socket.socket(fileno=3 + n) for n in range(int(os.environ["LISTEN_FDS"]))]
listener = sockets[0]


def serve(client):
    with client:
        client.settimeout(2)
        try:
            request = b""
            while b"\r\n\r\n" not in request:
                received = client.recv(4096)
                if not received:
                    return
                request += received
            body = f"{os.getpid()} {seat} {generation}\n"
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            client.sendall((head + body).encode())
        except OSError:
            pass


def accept():
    while True:
        serve(listener.accept()[0])


def epoll(among=sockets):
    poller = select.epoll()
    by_number = {one.fileno(): one for one in among}
    for number in by_number:
        poller.register(number, select.EPOLLIN)
    while True:
        for number, _ in poller.poll():
            serve(by_number[number].accept()[0])


def poll():
    poller = select.poll()
    poller.register(listener, select.POLLIN)
    while True:
        poller.poll(10_000)
        serve(listener.accept()[0])


def selects():
    while True:
        select.select([listener], [], [], 10)
        serve(listener.accept()[0])


def timer():
    listener.setblocking(False)
    while True:
        try:
            client, _ = listener.accept()
        except BlockingIOError:
            time.sleep(0.02)
            continue
        client.setblocking(True)
        serve(client)


def silent():
    while True:
        client, (address, *_) = listener.accept()
        if address in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
            client.close()
        else:
            serve(client)


def uring():
    """One accept request at a time: io_uring_setup(2), io_uring_enter(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    parameters = ctypes.create_string_buffer(120)
    ring = libc.syscall(425, 4, parameters)
    assert ring >= 0, os.strerror(ctypes.get_errno())
    sq_entries, cq_entries = struct.unpack_from("II", parameters.raw)
    # struct io_sqring_offsets and io_cqring_offsets.
    sq_head, sq_tail, sq_mask, _, _, _, sq_array = struct.unpack_from("7I", parameters.raw, 40)
    cq_head, cq_tail, cq_mask, _, _, cqes = struct.unpack_from("6I", parameters.raw, 80)
    sq = mmap.mmap(ring, sq_array + sq_entries * 4, offset=0)
    cq = mmap.mmap(ring, cqes + cq_entries * 16, offset=0x8000000)
    sqes = mmap.mmap(ring, sq_entries * 64, offset=0x10000000)

    def word(area, at):
        return struct.unpack_from("I", area, at)[0]

    while True:
        tail = word(sq, sq_tail)
        index = tail & word(sq, sq_mask)
        sqes[index * 64 : index * 64 + 64] = bytes(64)
        # IORING_OP_ACCEPT.
        struct.pack_into("BBHi", sqes, index * 64, 13, 0, 0, listener.fileno())
        struct.pack_into("I", sq, sq_array + index * 4, index)
        struct.pack_into("I", sq, sq_tail, tail + 1)
        # IORING_ENTER_GETEVENTS.
        assert libc.syscall(426, ring, 1, 1, 1, None, 0) >= 0, os.strerror(ctypes.get_errno())
        head = word(cq, cq_head)
        _, result, _ = struct.unpack_from("QiI", cq, cqes + (head & word(cq, cq_mask)) * 16)
        struct.pack_into("I", cq, cq_head, head + 1)
        assert result >= 0, os.strerror(-result)
        serve(socket.socket(fileno=result))


def ignore():
    own = socket.socket()
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    own.bind(("127.0.0.1", 8000))
    own.listen()
    epoll([own])


def close():
    for one in sockets:
        one.close()
    ignore()


def thread():
    threading.Thread(target=accept).start()
    while True:
        time.sleep(1000)


def prefork():
    for _ in range(2):
        if os.fork() == 0:
            accept()
    while True:
        os.wait()


def hide():
    PR_SET_DUMPABLE = 4
    assert ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0


if style.startswith("hidden"):
    hide()
styles = {
    "accept": accept,
    "close": close,
    "epoll": epoll,
    "first": lambda: epoll(sockets[:1]),
    "hidden": epoll,
    "hidden-ignore": ignore,
    "ignore": ignore,
    "pid": epoll if os.environ["LISTEN_PID"] == str(os.getpid()) else ignore,
    "poll": poll,
    "prefork": prefork,
    "select": selects,
    "silent": silent,
    "thread": thread,
    "timer": timer,
    "uring": uring,
}
styles[style]()
