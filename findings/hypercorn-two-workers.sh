#!/usr/bin/env bash
# hypercorn 0.18.0: with one worker process SIGTERM has it finish the answer that is under way; with two
# (-w 2) the answer is cut at once, also with --graceful-timeout 10, and the exit status is 0. One would expect
# the number of processes to make no difference to the end.
#
# Seen in releases, where the earlier server is told to end by SIGTERM to its main process.
#
# Exits with 0 while that is so, with another status when it is not, or cannot be tried.
set -euo pipefail
version=0.18.0
folder=$(mktemp -d)
server=
trap '[[ -z $server ]] || kill -KILL -- "-$server" 2>/dev/null || true; rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check hypercorn==$version
cat >app.py <<'EOF'
import asyncio


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    await asyncio.sleep(2)
    headers = [(b"content-length", b"6")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello\n"})
EOF
port=$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')

ask() { # WORKERS: an answer of 2 s, and SIGTERM to the main process after 0.5 s
    setsid venv/bin/hypercorn -w "$1" --graceful-timeout 10 -b "127.0.0.1:$port" app:app >server.log 2>&1 &
    server=$!
    for _ in {1..100}; do
        ! curl -s -m 5 -o /dev/null "http://127.0.0.1:$port/" || break
        sleep 0.1
    done
    curl -s -m 8 "http://127.0.0.1:$port/" >answer.txt &
    local client=$! status=0 curl=0
    sleep 0.5
    kill -TERM $server
    wait $client || curl=$?
    wait $server || status=$?
    server=
    local answer
    answer=$(<answer.txt)
    echo "hypercorn $version -w $1: curl's exit status $curl, answer ${answer:-none}, the server's exit status $status"
    return $curl
}

ask 1
if ask 2; then
    echo "the answer is whole with two workers: this has changed"
    exit 1
fi
