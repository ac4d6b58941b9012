#!/usr/bin/env bash
# gunicorn 27.0.1: two servers of one user have the same control socket, ~/.gunicorn/gunicorn.ctl, by default.
# The second one takes the path from the first without a word, and the first one, when it ends, removes the
# socket of the second: `gunicornc` then finds nobody, although a server runs. One would expect the second to
# say that the path is taken, or each to remove only the socket that is its own.
#
# Seen when a server is replaced by another that is started beside it, as in a release. The way round it is
# --control-socket with a path for each server, or --no-control-socket.
#
# Exits with 0 while that is so, with another status when it is not, or cannot be tried.
set -euo pipefail
version=27.0.1
folder=$(mktemp -d)
servers=()
trap '[[ ${#servers[@]} -eq 0 ]] || kill "${servers[@]}" 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check gunicorn==$version
export HOME=$folder
cat >app.py <<'EOF'
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "0")])
    return [b""]
EOF
socket=$HOME/.gunicorn/gunicorn.ctl

start() { # LOG: on a port that the kernel chooses
    venv/bin/gunicorn --bind 127.0.0.1:0 app:app >"$1" 2>&1 &
    servers+=($!)
    for _ in {1..100}; do
        ! grep -qs "Control socket listening" "$1" || return 0
        sleep 0.1
    done
    cat "$1" >&2
    return 1
}

start first.log
first=$(stat -c %i "$socket")
start second.log
second=$(stat -c %i "$socket")
echo "gunicorn $version: the first server has $socket, inode $first; after the second has started: inode $second"
kill "${servers[0]}"
wait "${servers[0]}" || true
if [[ -e $socket ]]; then
    echo "the second server still has its control socket: this has changed"
    exit 1
fi
kill -0 "${servers[1]}"
grep -h 'Control socket' first.log second.log
echo "the first server has ended; the second one runs, and its control socket is gone"
if [[ $first == "$second" ]] || grep -qi 'in use' second.log; then
    echo "the second one did not replace the first one's socket, or said so: this has changed"
    exit 1
fi
