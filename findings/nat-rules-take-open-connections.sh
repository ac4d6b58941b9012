#!/usr/bin/env bash
# Linux 6.18 with nft 1.0.6: rules of a nat chain are said to see the first packet of a connection alone, so that
# one would load `redirect` beside a running server and expect that its open connections stay. They are reset. Where
# no rule has had the kernel track connections so far, it knows none of them, takes the next packet of each for the
# beginning of a connection (`net.netfilter.nf_conntrack_tcp_loose`, on by default), and the rule sends that to a
# socket that knows nothing of it.
#
# They stay when the kernel has tracked them from their beginning, or with nf_conntrack_tcp_loose = 0, or when an entry
# is made for each before the rule is loaded, as ipcluster does for `--take-over-port`. A nat chain alone does not begin
# to track: it takes an expression that needs it, such as `redirect` or `ct state`, anywhere in the namespace, reached or
# not.
#
# Needs apt-get of Debian 12, python3 and the right to make a network namespace. Prints what was seen; exits with
# another status than 0 when it is otherwise.
set -euo pipefail
version=1.0.6-2+deb12u2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get -qq download "nftables=$version" "libnftables1=$version" libnftnl11=1.2.4-2 libmnl0=1.0.4-3 libjansson4=2.14-2
for package in *.deb; do dpkg-deb --extract "$package" root; done
cat >nft <<'NFT'
#!/bin/sh
LD_LIBRARY_PATH=$(echo root/usr/lib/*-linux-gnu) exec root/usr/sbin/nft "$@"
NFT
chmod +x nft
cat >redirect.nft <<'NFT'
table ip moved {
	chain output {
		type nat hook output priority -100; policy accept;
		tcp dport 8080 redirect to :9090
	}
}
NFT
cat >empty.nft <<'NFT'
table ip earlier {
	chain output {
		type nat hook output priority 0; policy accept;
	}
}
NFT
cat >tracked.nft <<'NFT'
table ip earlier {
	chain nobody_jumps_here {
		ct state new counter
	}
}
NFT
cat >connection.py <<'PYTHON'
import socket, subprocess, sys

servers = [socket.create_server(("127.0.0.1", port)) for port in (8080, 9090)]
client = socket.create_connection(("127.0.0.1", 8080), timeout=10)
server, _ = servers[0].accept()
client.sendall(b"before")
assert server.recv(6) == b"before"
subprocess.run(["./nft", "-f", "redirect.nft"], check=True)
try:
    client.sendall(b"after")
    server.settimeout(10)
    print(sys.argv[1], "goes on" if server.recv(5) == b"after" and client.send(b"x") else "ended")
except ConnectionError as error:
    print(sys.argv[1], type(error).__name__)
except TimeoutError:
    try:
        client.recv(1)
    except ConnectionError as error:
        print(sys.argv[1], type(error).__name__)
PYTHON
cat >inside.sh <<'INSIDE'
ip link set lo up
./nft --version
[[ -z $2 ]] || ./nft -f "$2"
[[ $1 != "loose off:" ]] || echo 0 >/proc/sys/net/netfilter/nf_conntrack_tcp_loose
python3 connection.py "$1"
INSIDE
for way in "untracked:|" "empty nat chain:|empty.nft" "tracked:|tracked.nft" "loose off:|"; do
    unshare --net bash -euo pipefail inside.sh "${way%|*}" "${way#*|}"
done | tee seen
uname -r
grep -q '^nftables v1.0.6 ' seen
grep -q '^untracked: ConnectionResetError$' seen
grep -q '^empty nat chain: ConnectionResetError$' seen
grep -q '^tracked: goes on$' seen
grep -q '^loose off: goes on$' seen
