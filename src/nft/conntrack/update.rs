//! Changes of single conntrack entries, many to a datagram.

use super::entry::{
    CLOSE_INIT, CTA_ID, CTA_PROTOINFO, CTA_PROTOINFO_TCP, CTA_PROTOINFO_TCP_FLAGS_ORIGINAL,
    CTA_PROTOINFO_TCP_FLAGS_REPLY, CTA_TIMEOUT, CTA_TUPLE_ORIG, CTA_ZONE, Key,
};
use crate::netlink::attribute::{nest, put};
use crate::netlink::{
    Acknowledgement, ERROR, Errno, Messages, NetlinkError, REQUEST, Socket, close_message,
    put_header,
};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW`: without `NLM_F_CREATE` it changes an entry that
/// exists, or gives ENOENT.
const CHANGE: u16 = 1 << 8;

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

    fn push(&mut self, kind: u16, key: &Key<'_>, what: impl FnOnce(&mut Vec<u8>)) {
        let mut message = Vec::with_capacity(160);
        put_header(&mut message, kind, REQUEST, 0);
        // struct nfgenmsg: family, NFNETLINK_V0, no resource.
        message.extend_from_slice(&[key.family, 0, 0, 0]);
        nest(&mut message, CTA_TUPLE_ORIG, |message| message.extend_from_slice(key.original));
        if let Some(zone) = key.zone {
            put(&mut message, CTA_ZONE, zone);
        }
        what(&mut message);
        close_message(&mut message, 0);
        self.messages.push(message);
    }

    /// Sends all changes. Entries that are gone by now are no error.
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
                        None | Some(Errno::ENOENT | Errno::ETIME) => {}
                        Some(errno) => return Err(NetlinkError::Refused { errno }),
                    }
                }
            }
        }
        Ok(())
    }
}
