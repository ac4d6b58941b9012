#!/usr/bin/env bash
# nft 1.0.6 on Linux 5.12 and later: `nft list ruleset` writes a table that belongs to a running program with
# the line `flags owner`. The saved file loads on a host where that program does not run: `nft -f` says nothing
# and exits with 0. And the table is not there. nft itself became its owner, and the kernel removes a table with
# its owner's socket, so it lived for as long as nft did. One would expect the table, or an error. What else
# stands in the file is there, so that a look at the exit status and at some rule of one's own sees nothing
# wrong.
#
# A saved ruleset is whole without such tables; those who made them make them again. Without the line they load
# to stay, as tables of nobody.
#
# Needs apt-get of Debian 12 and the right to make a network namespace. Prints what was seen; exits with another
# status than 0 when it is otherwise.
set -euo pipefail
version=1.0.6-2+deb12u2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get -qq download "nftables=$version" "libnftables1=$version" libnftnl11=1.2.4-2 libmnl0=1.0.4-3 libjansson4=2.14-2
for package in *.deb; do dpkg-deb --extract "$package" root; done
cat >saved.nft <<'NFT'
table inet program {
	flags owner

	chain input {
		type filter hook input priority filter; policy accept;
		tcp dport 81 drop
	}
}
table inet host {
	chain input {
		type filter hook input priority filter; policy accept;
		tcp dport 82 drop
	}
}
NFT
sed '/flags owner/d' saved.nft >without.nft
cat >inside.sh <<'INSIDE'
nft() { LD_LIBRARY_PATH=$(echo root/usr/lib/*-linux-gnu) root/usr/sbin/nft "$@"; }
nft --version
nft -f saved.nft && echo "saved.nft: exit status 0"
echo "tables: $(nft list tables | tr '\n' ' ')"
nft flush ruleset
nft -f without.nft
echo "tables, loaded without the flag: $(nft list tables | tr '\n' ' ')"
INSIDE
unshare --net --map-root-user bash -euo pipefail inside.sh | tee seen
grep -q '^nftables v1.0.6 ' seen
grep -q '^saved.nft: exit status 0$' seen
grep -q '^tables: table inet host $' seen
grep -q '^tables, loaded without the flag: table inet program table inet host $' seen
