#!/usr/bin/env bash
# bun 1.4.5: `http.createServer().listen({ fd: 3 })` does not listen on the descriptor, as node does, and is no
# error either: it opens another socket, on a port of its own choice, and reports success. A client of the
# socket at descriptor 3 connects, since the kernel completes the handshake, and waits without end.
#
# Seen with socket activation, where a service manager passes a listening socket. node 20 serves the same
# program on the same descriptor.
#
# Exits with 0 while that is so, with another status when it is not, or cannot be tried.
set -euo pipefail
version=1.4.5
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund --no-package-lock bun@$version
cat >server.js <<'EOF'
const server = require("node:http").createServer((request, response) => response.end("hello\n"));
server.listen({ fd: 3 }, () => console.log("listening", JSON.stringify(server.address())));
EOF
# Listens, passes the socket as descriptor 3, asks once and says what came of it.
cat >ask.py <<'EOF'
import os, socket, subprocess, sys

listener = socket.create_server(("127.0.0.1", 0))
os.dup2(listener.fileno(), 3, inheritable=True)
server = subprocess.Popen(sys.argv[1:], pass_fds=[3], stdout=subprocess.PIPE, text=True)
print("the server says:", server.stdout.readline().strip())
print("descriptor 3 is:", listener.getsockname())
client = socket.create_connection(listener.getsockname(), 5)
client.settimeout(5)
client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
try:
    print("the answer:", client.recv(64).splitlines()[0].decode())
except TimeoutError:
    print("no answer within 5 s")
server.kill()
server.wait()
EOF
echo "bun $version"
python3 ask.py node_modules/.bin/bun server.js | tee bun.txt
echo "node $(node --version)"
python3 ask.py node server.js | tee node.txt
grep -q '200 OK' node.txt
if grep -q 'no answer' bun.txt && grep -q '^the server says: listening' bun.txt; then
    exit 0
fi
echo "bun serves on the descriptor, or refuses it: this has changed"
exit 1
