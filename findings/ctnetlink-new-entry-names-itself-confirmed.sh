#!/usr/bin/env bash
# Linux 6.18 with pyroute2 0.9.7: who adds an entry to the connection tracking table and gives it a status has to set
# the bit IPS_CONFIRMED, which only says that the entry is in the table. Without it the kernel answers EBUSY, "device or
# resource busy": it sets the bit first, and then takes the status for an attempt to unset it
# (`ctnetlink_change_status`, net/netfilter/nf_conntrack_netlink.c). An entry without any status is added, and is
# confirmed, but not ASSURED: a full table drops it early.
#
# Needs PyPI and the right to make a network namespace. Prints what was seen; exits with another status than 0 when it
# is otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/python"
"$folder/python/bin/pip" install --quiet --disable-pip-version-check pyroute2==0.9.7
cat >"$folder/add.py" <<'PYTHON'
import socket
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import (
    IPS_ASSURED, IPS_CONFIRMED, IPS_SEEN_REPLY, NFCTAttrTuple, NFCTSocket)

table = NFCTSocket()
ways = {"no status": {},
        "assured": {"status": IPS_SEEN_REPLY | IPS_ASSURED},
        "assured and confirmed": {"status": IPS_SEEN_REPLY | IPS_ASSURED | IPS_CONFIRMED}}
for port, (name, status) in enumerate(ways.items(), 40000):
    original = NFCTAttrTuple(saddr="192.0.2.1", daddr="192.0.2.2", proto=socket.IPPROTO_TCP, sport=port, dport=80)
    try:
        table.entry("add", tuple_orig=original, tuple_reply=original.reverse(), timeout=600, **status)
        print(f"{name}: added")
    except NetlinkError as error:
        print(f"{name}: {error}")
print("statuses:", sorted(entry.get_attr("CTA_STATUS") for entry in table.dump()))
PYTHON
unshare --net --map-root-user "$folder/python/bin/python" "$folder/add.py" | tee "$folder/seen"
grep -q '^no status: added$' "$folder/seen"
grep -q '^assured: .*Device or resource busy' "$folder/seen"
grep -q '^assured and confirmed: added$' "$folder/seen"
grep -q '^statuses: \[8, 14\]$' "$folder/seen"
