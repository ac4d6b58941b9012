//! Messages in a datagram: `struct nlmsghdr` (include/uapi/linux/netlink.h), read with every
//! length checked.

use super::attribute::{Attributes, align};
use super::{Errno, NetlinkError};

/// The length of `struct nlmsghdr`.
pub(crate) const HEADER_LEN: usize = 16;

/// `NLMSG_NOOP`, `NLMSG_ERROR`, `NLMSG_DONE`: the kinds below 16 belong to netlink itself.
pub(crate) const NOOP: u16 = 1;
pub(crate) const ERROR: u16 = 2;
pub(crate) const DONE: u16 = 3;

/// `NLM_F_*`: flags of a message.
pub(crate) const REQUEST: u16 = 0x1;
pub(crate) const ACK: u16 = 0x4;
pub(crate) const DUMP_INTERRUPTED: u16 = 0x10;
pub(crate) const DUMP: u16 = 0x300;
/// `NLM_F_CAPPED`, `NLM_F_ACK_TLVS`: flags of an acknowledgement.
const CAPPED: u16 = 0x100;
const ACK_ATTRIBUTES: u16 = 0x200;

/// `NLMSGERR_ATTR_MSG`, `NLMSGERR_ATTR_OFFS`.
const ATTRIBUTE_TEXT: u16 = 1;
const ATTRIBUTE_OFFSET: u16 = 2;

/// One message of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// The port (`nlmsg_pid`) of the socket whose request this is about; 0 for none.
    pub(crate) port: u32,
    pub(crate) body: &'a [u8],
}

/// The messages of a datagram. Ends after the first that cannot be read.
pub(crate) struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    pub(crate) fn new(datagram: &'a [u8]) -> Self {
        Self { rest: datagram }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, NetlinkError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match split_message(self.rest) {
            Some((message, rest)) => {
                self.rest = rest;
                Some(Ok(message))
            }
            None => {
                self.rest = &[];
                Some(Err(NetlinkError::Malformed { what: "message header" }))
            }
        }
    }
}

fn split_message(datagram: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let length = usize::try_from(u32_at(datagram, 0)?).ok()?;
    let message = Message {
        kind: u16_at(datagram, 4)?,
        flags: u16_at(datagram, 6)?,
        sequence: u32_at(datagram, 8)?,
        port: u32_at(datagram, 12)?,
        body: datagram.get(HEADER_LEN..length)?,
    };
    let end = align(length).min(datagram.len());
    Some((message, &datagram[end..]))
}

/// What the kernel says of one request: `struct nlmsgerr` and its attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Acknowledgement {
    /// The sequence number of the message that it is about.
    pub(crate) sequence: u32,
    /// What went wrong; `None` for success.
    pub(crate) error: Option<Errno>,
    /// Where in the message, in bytes from its header, the kernel found fault (extended
    /// acknowledgement, since Linux 4.12). Not checked against the message.
    pub(crate) offset: Option<u32>,
    /// The kernel's words for it, if it has any.
    pub(crate) text: Option<String>,
}

impl Acknowledgement {
    /// Reads a message of kind `NLMSG_ERROR`.
    pub(crate) fn parse(message: &Message<'_>) -> Result<Self, NetlinkError> {
        Self::parse_checked(message).ok_or(NetlinkError::Malformed { what: "acknowledgement" })
    }

    fn parse_checked(message: &Message<'_>) -> Option<Self> {
        let body = message.body;
        let code = i32::from_ne_bytes(body.get(..4)?.try_into().ok()?);
        let original_len = usize::try_from(u32_at(body, 4)?).ok()?;
        let mut acknowledgement = Self {
            sequence: u32_at(body, 12)?,
            error: (code != 0).then(|| Errno::from_raw(code.saturating_neg())),
            offset: None,
            text: None,
        };
        if message.flags & ACK_ATTRIBUTES != 0 {
            let echoed = if message.flags & CAPPED != 0 { HEADER_LEN } else { original_len };
            for (kind, value) in Attributes::new(body.get(4 + align(echoed)..)?) {
                match kind {
                    ATTRIBUTE_TEXT => acknowledgement.text = Some(text_of(value)),
                    ATTRIBUTE_OFFSET => acknowledgement.offset = u32_at(value, 0),
                    _ => {}
                }
            }
        }
        Some(acknowledgement)
    }
}

/// Text of the kernel's, ended by a zero byte.
fn text_of(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(offset..offset.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(offset..offset.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An error reply in the form that Linux gives it for a rule in a chain that does not exist:
    /// ENOENT, capped, with the offset of `NFTA_RULE_CHAIN` in the request.
    fn missing_chain() -> Vec<u8> {
        let mut bytes = vec![];
        bytes.extend(44u32.to_ne_bytes());
        bytes.extend(ERROR.to_ne_bytes());
        bytes.extend((CAPPED | ACK_ATTRIBUTES).to_ne_bytes());
        bytes.extend(7u32.to_ne_bytes());
        bytes.extend(99u32.to_ne_bytes());
        bytes.extend((-2i32).to_ne_bytes());
        bytes.extend(200u32.to_ne_bytes());
        bytes.extend(0x0a06u16.to_ne_bytes());
        bytes.extend(0x0c01u16.to_ne_bytes());
        bytes.extend(7u32.to_ne_bytes());
        bytes.extend(99u32.to_ne_bytes());
        bytes.extend(8u16.to_ne_bytes());
        bytes.extend(ATTRIBUTE_OFFSET.to_ne_bytes());
        bytes.extend(36u32.to_ne_bytes());
        bytes
    }

    #[test]
    fn an_error_reply_names_the_message_and_the_place() {
        let bytes = missing_chain();
        let message = Messages::new(&bytes).next().unwrap().unwrap();
        let acknowledgement = Acknowledgement::parse(&message).unwrap();
        assert_eq!(acknowledgement.sequence, 7);
        assert_eq!(acknowledgement.error, Some(Errno::ENOENT));
        assert_eq!(acknowledgement.offset, Some(36));
    }

    #[test]
    fn every_truncated_prefix_is_an_error_or_lacks_the_offset() {
        let bytes = missing_chain();
        for end in 1..bytes.len() {
            let read = Messages::new(&bytes[..end]).next().unwrap();
            assert!(read.is_err(), "{end} bytes of a message of {}", bytes.len());
        }
    }

    #[test]
    fn lengths_below_the_header_and_beyond_the_buffer_are_errors() {
        for length in [0u32, 1, 15, 45, u32::MAX] {
            let mut bytes = missing_chain();
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            assert!(Messages::new(&bytes).next().unwrap().is_err(), "length {length}");
        }
    }

    #[test]
    fn an_uncapped_reply_whose_original_is_longer_than_the_buffer_is_an_error() {
        let mut bytes = missing_chain();
        bytes[6..8].copy_from_slice(&ACK_ATTRIBUTES.to_ne_bytes());
        let message = Messages::new(&bytes).next().unwrap().unwrap();
        assert!(Acknowledgement::parse(&message).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_always_end(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let messages = Messages::new(&bytes).flatten();
            for message in messages.take(bytes.len() + 1) {
                let _ = Acknowledgement::parse(&message);
            }
        }
    }
}
