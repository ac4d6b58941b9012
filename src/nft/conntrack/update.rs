//! Changes of single conntrack entries, many to a datagram.

use super::entry::{
    CLOSE_INIT, CTA_ID, CTA_PROTOINFO, CTA_PROTOINFO_TCP, CTA_PROTOINFO_TCP_FLAGS_ORIGINAL,
    CTA_PROTOINFO_TCP_FLAGS_REPLY, CTA_PROTOINFO_TCP_STATE, CTA_STATUS, CTA_TIMEOUT,
    CTA_TUPLE_ORIG, CTA_ZONE, Key,
};
use super::lookup::TcpEnds;
use crate::netlink::attribute::{nest, put};
use crate::netlink::{
    Acknowledgement, ERROR, Errno, Messages, NetlinkError, REQUEST, Socket, close_message,
    put_header,
};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW`: without `NLM_F_CREATE` it changes an entry that
/// exists, or gives ENOENT.
const CHANGE: u16 = 1 << 8;

/// `NLM_F_CREATE`, `NLM_F_EXCL`.
const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;

/// `IPS_SEEN_REPLY`, `IPS_ASSURED`, `IPS_CONFIRMED` (include/uapi/linux/netfilter/nf_conntrack_common.h).
const SEEN_REPLY: u32 = 1 << 1;
const ASSURED: u32 = 1 << 2;
/// Every entry in the table has it; without it an addition is refused (`ctnetlink_change_status`: EBUSY).
const CONFIRMED: u32 = 1 << 3;

/// `TCP_CONNTRACK_ESTABLISHED`, `IP_CT_TCP_FLAG_SACK_PERM`, `IP_CT_TCP_FLAG_BE_LIBERAL`
/// (include/uapi/linux/netfilter/nf_conntrack_tcp.h).
const ESTABLISHED: u8 = 3;
const SELECTIVE_ACKS: u8 = 0x02;
const LIBERAL: u8 = 0x08;

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE`.
const DELETE: u16 = 1 << 8 | 2;

/// Messages in one datagram: about 25 KB, which any send buffer holds.
const AT_ONCE: usize = 200;

/// Messages for `nfnetlink_rcv`, which takes them one by one: no batch, no transaction.
#[derive(Debug, Default)]
pub(super) struct EntryUpdates {
    /// Complete messages, without sequence numbers.
    messages: Vec<Vec<u8>>,
}

impl EntryUpdates {
    /// Sets the flag "has begun to close" of both sides of a TCP entry.
    pub(super) fn release(&mut self, key: &Key<'_>) {
        self.push(CHANGE, key, |message| {
            nest(message, CTA_PROTOINFO, |message| {
                nest(message, CTA_PROTOINFO_TCP, |message| {
                    put(message, CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, &[CLOSE_INIT; 2]);
                    put(message, CTA_PROTOINFO_TCP_FLAGS_REPLY, &[CLOSE_INIT; 2]);
                });
            });
        });
    }

    /// Has an entry expire when no packet comes for so many seconds from now on.
    pub(super) fn keep(&mut self, key: &Key<'_>, seconds: u32) {
        self.push(CHANGE, key, |message| {
            put(message, CTA_TIMEOUT, &seconds.to_be_bytes());
        });
    }

    /// Deletes an entry, if it still is the one that was seen.
    pub(super) fn delete(&mut self, key: &Key<'_>) {
        self.push(DELETE, key, |message| {
            if let Some(id) = key.id {
                put(message, CTA_ID, id);
            }
        });
    }

    /// Adds the entry of a connection that is there already, and goes on untranslated. It is kept for so many seconds
    /// unless a packet comes. As where the kernel takes up a connection in its midst by itself, its sequence numbers
    /// are not judged (`tcp_new`, net/netfilter/nf_conntrack_proto_tcp.c): the scale of its windows is not known.
    pub(super) fn add(&mut self, connection: TcpEnds, seconds: u32) {
        const FLAGS: [u8; 2] = [SELECTIVE_ACKS | LIBERAL; 2];
        self.push_message(CHANGE, CREATE | EXCLUSIVE, connection.family(), |message| {
            connection.put(message);
            put(message, CTA_STATUS, &(SEEN_REPLY | ASSURED | CONFIRMED).to_be_bytes());
            put(message, CTA_TIMEOUT, &seconds.to_be_bytes());
            nest(message, CTA_PROTOINFO, |message| {
                nest(message, CTA_PROTOINFO_TCP, |message| {
                    put(message, CTA_PROTOINFO_TCP_STATE, &[ESTABLISHED]);
                    put(message, CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, &FLAGS);
                    put(message, CTA_PROTOINFO_TCP_FLAGS_REPLY, &FLAGS);
                });
            });
        });
    }

    fn push(&mut self, kind: u16, key: &Key<'_>, what: impl FnOnce(&mut Vec<u8>)) {
        self.push_message(kind, 0, key.family, |message| {
            nest(message, CTA_TUPLE_ORIG, |message| message.extend_from_slice(key.original));
            if let Some(zone) = key.zone {
                put(message, CTA_ZONE, zone);
            }
            what(message);
        });
    }

    fn push_message(&mut self, kind: u16, flags: u16, family: u8, what: impl FnOnce(&mut Vec<u8>)) {
        let mut message = Vec::with_capacity(160);
        put_header(&mut message, kind, REQUEST | flags, 0);
        // struct nfgenmsg: family, NFNETLINK_V0, no resource.
        message.extend_from_slice(&[family, 0, 0, 0]);
        what(&mut message);
        close_message(&mut message, 0);
        self.messages.push(message);
    }

    /// Sends all changes. Entries that are gone by now are no error, nor is one that is to be added and is there.
    pub(super) fn send(self, netlink: &mut Socket) -> Result<(), NetlinkError> {
        for messages in self.messages.chunks(AT_ONCE) {
            let datagram = messages.concat();
            netlink.reserve_send(datagram.len())?;
            netlink.reserve_receive(messages.len())?;
            netlink.send(&datagram)?;
            // Only refusals are answered.
            while let Some(replies) = netlink.receive()? {
                for reply in Messages::new(replies) {
                    let reply = reply?;
                    if reply.kind != ERROR {
                        continue;
                    }
                    match Acknowledgement::parse(&reply)?.error {
                        // ETIME: it is being removed.
                        None | Some(Errno::ENOENT | Errno::ETIME | Errno::EEXIST) => {}
                        Some(errno) => return Err(NetlinkError::Refused { errno }),
                    }
                }
            }
        }
        Ok(())
    }
}
