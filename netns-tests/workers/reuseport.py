"""A server on PORT that lets other sockets listen there too (SO_REUSEPORT): python3 reuseport.py.

It answers over HTTP with the line "<pid> <seat> <generation>", and ends by SIGTERM.
"""

import os
import signal
import socket

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
seat, generation = os.environ["IPCLUSTER_SEAT"], os.environ["IPCLUSTER_GENERATION"]
listener = socket.socket(socket.AF_INET6)
listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
listener.bind(("::", int(os.environ["PORT"])))
listener.listen(1024)
while True:
    client, _ = listener.accept()
    with client:
        client.settimeout(2)
        try:
            request = b""
            while b"\r\n\r\n" not in request:
                received = client.recv(4096)
                if not received:
                    break
                request += received
            body = f"{os.getpid()} {seat} {generation}\n"
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            client.sendall((head + body).encode())
        except OSError:
            pass
