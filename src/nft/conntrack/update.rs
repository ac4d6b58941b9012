//! EntryUpdates of single entries, many to a datagram.

use nix::errno::Errno;

use super::entry::{
    CLOSE_INIT, CTA_ID, CTA_PROTOINFO, CTA_PROTOINFO_TCP, CTA_PROTOINFO_TCP_FLAGS_ORIGINAL,
    CTA_PROTOINFO_TCP_FLAGS_REPLY, CTA_TUPLE_ORIG, CTA_ZONE, Key,
};
use crate::netlink::{
    Acknowledgement, ERROR, Error, Messages, REQUEST, Socket, close_message, put_header,
};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW`: without `NLM_F_CREATE` it changes an entry that
/// exists, or gives ENOENT.
const CHANGE: u16 = 1 << 8;

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE`.
const DELETE: u16 = 1 << 8 | 2;

/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;

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
        let flags = [
            attribute(CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, &[CLOSE_INIT; 2]),
            attribute(CTA_PROTOINFO_TCP_FLAGS_REPLY, &[CLOSE_INIT; 2]),
        ];
        let tcp = attribute(CTA_PROTOINFO_TCP | NESTED, &flags.concat());
        self.push(CHANGE, key, &attribute(CTA_PROTOINFO | NESTED, &tcp));
    }

    /// Deletes an entry, if it still is the one that was seen.
    pub(super) fn delete(&mut self, key: &Key<'_>) {
        let id = key.id.map(|id| attribute(CTA_ID, id)).unwrap_or_default();
        self.push(DELETE, key, &id);
    }

    fn push(&mut self, kind: u16, key: &Key<'_>, what: &[u8]) {
        let mut message = Vec::with_capacity(160);
        put_header(&mut message, kind, REQUEST, 0);
        // struct nfgenmsg: family, NFNETLINK_V0, no resource.
        message.extend_from_slice(&[key.family, 0, 0, 0]);
        message.extend(attribute(CTA_TUPLE_ORIG | NESTED, key.original));
        if let Some(zone) = key.zone {
            message.extend(attribute(CTA_ZONE, zone));
        }
        message.extend_from_slice(what);
        close_message(&mut message, 0);
        self.messages.push(message);
    }

    /// Sends all. EntryCounts that are gone by now are no error.
    pub(super) fn send(self, netlink: &mut Socket) -> Result<(), Error> {
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
                        None | Some(Errno::ENOENT) => {}
                        Some(errno) => return Err(Error::Refused { errno }),
                    }
                }
            }
        }
        Ok(())
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("parts of one message of the kernel's");
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(crate::netlink::align(bytes.len()), 0);
    bytes
}
