#!/usr/bin/env bash
# nftlb 1.0.7 (Debian 12): the members of an object of JSON have no order (RFC 8259, section 4), and libraries that sort
# them, or keep them in a hash, are common. nftlb applies them in the order in which they come, so that all before
# `name` belong to nothing: with a configuration whose `backends` stand before the `name` of their farm, as in
# alphabetical order, it says `error parsing object`, and ends with exit status 0, which a supervisor takes for success.
# With `name` first the same file is in force.
#
# Needs apt-get of Debian 12, nft, and the right to make a network namespace. Prints what was seen; exits with another status
# than 0 when it is otherwise.
set -euo pipefail
version=1.0.7-1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get -qq download "nftlb=$version" libev4=1:4.33-1 libjansson4=2.14-2 libmnl0=1.0.4-3 \
    libnftables1=1.0.6-2+deb12u2 libnftnl11=1.2.4-2
for package in *.deb; do dpkg-deb --extract "$package" root; done
LD_LIBRARY_PATH=$(echo root/usr/lib/*-linux-gnu)
export LD_LIBRARY_PATH
rest='"family": "ipv4", "virtual-addr": "10.9.0.1", "virtual-ports": "80", "mode": "dnat", "protocol": "tcp", "state": "up"'
backends='"backends": [{ "name": "w0", "ip-addr": "10.9.0.1", "port": "20000", "state": "up" }]'
echo "{ \"farms\": [{ \"name\": \"web\", $rest, $backends }] }" >first.json
echo "{ \"farms\": [{ $backends, $rest, \"name\": \"web\" }] }" >last.json

try() { # FILE: loads it, and serves for 3 s if it can: status 124 is that of timeout(1)
    local status=0
    unshare --net sh -c 'ip link set lo up; ip address add 10.9.0.1/24 dev lo
        timeout 3 root/usr/sbin/nftlb -l 4 -L 1 -k key -H 127.0.0.1 -c "$1"; echo "exit status $?"; nft list ruleset' \
        loads "$1" >"$1.seen" 2>&1 || status=$?
    echo "nftlb $version, $1: $(grep -c 'error parsing' "$1.seen" || true) errors, $(grep 'exit status' "$1.seen")," \
        "$(grep -c '20000' "$1.seen" || true) rules with the backend's port"
    return $status
}
try first.json
try last.json
grep -q 'exit status 0' last.json.seen && grep -q 'error parsing' last.json.seen && ! grep -q 20000 last.json.seen
grep -q 'exit status 124' first.json.seen && grep -q 20000 first.json.seen && ! grep -q 'error parsing' first.json.seen
