use crate::netlink::{Errno, NetlinkError};
use crate::nft::error::Fault;
use crate::nft::wire::batch::Batch;
use crate::nft::wire::replies::{Outcome, Replies};
use crate::plan::Seat;
use crate::ruleset::{ChainName, Operation, TableName, Transaction};

/// `NLMSG_ERROR`, `NLM_F_CAPPED | NLM_F_ACK_TLVS`.
const ERROR: u16 = 2;
const FLAGS: u16 = 0x300;

const FIRST: u32 = u32::MAX - 1;

fn transaction() -> Transaction {
    let chain = |seat| ChainName::Seat(Seat(seat));
    Transaction {
        table: TableName::of(&"web".parse().unwrap()),
        operations: vec![
            Operation::FlushChain(chain(1)),
            Operation::DeleteChain(chain(1)),
            Operation::DeleteChain(chain(2)),
        ],
    }
}

/// What the kernel says of the message at `place`: numbers go on past the largest.
fn reply(place: u32, errno: i32) -> Vec<u8> {
    let sequence = FIRST.wrapping_add(place);
    let mut bytes = vec![];
    bytes.extend(36u32.to_ne_bytes());
    bytes.extend(ERROR.to_ne_bytes());
    bytes.extend(FLAGS.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend((-errno).to_ne_bytes());
    bytes.extend(20u32.to_ne_bytes());
    bytes.extend(0x0a05u16.to_ne_bytes());
    bytes.extend(1u16.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes
}

fn outcome(replies: &[Vec<u8>]) -> Result<Outcome, NetlinkError> {
    let transaction = transaction();
    let mut batch = Batch::encode(&transaction, None);
    batch.number_from(FIRST);
    assert_eq!((batch.messages(), batch.end()), (5, 4), "begin, three operations, end");
    let mut read = Replies::to(&batch, &transaction);
    replies.iter().try_for_each(|datagram| read.read(datagram))?;
    Ok(read.outcome())
}

fn fault(operation: Option<Operation>, errno: Errno) -> Fault {
    Fault { operation, errno, offset: None, text: None }
}

#[test]
fn the_acknowledgement_of_the_end_means_that_all_was_done() {
    assert_eq!(outcome(&[reply(4, 0)]).unwrap(), Outcome::Committed);
}

#[test]
fn no_reply_says_nothing_of_the_outcome() {
    assert_eq!(outcome(&[]).unwrap(), Outcome::Unknown);
}

#[test]
fn an_acknowledgement_of_anything_else_says_nothing_of_the_outcome() {
    for place in [0, 1, 2, 3, 5, 6, 1000] {
        assert_eq!(outcome(&[reply(place, 0)]).unwrap(), Outcome::Unknown, "message {place}");
    }
}

#[test]
fn an_error_names_the_operation_wherever_the_acknowledgement_is() {
    let busy = fault(Some(transaction().operations[1].clone()), Errno::EBUSY);
    let missing = fault(Some(transaction().operations[2].clone()), Errno::ENOENT);
    let (one, other, end) = (reply(2, 16), reply(3, 2), reply(4, 0));
    for replies in [
        &[one.clone(), other.clone()][..],
        &[end.clone(), one.clone(), other.clone()],
        &[one.clone(), end.clone(), other.clone()],
        &[[one.clone(), other.clone()].concat()],
        &[[one, other, end].concat()],
    ] {
        let expected = Outcome::Refused(vec![busy.clone(), missing.clone()]);
        assert_eq!(outcome(replies).unwrap(), expected);
    }
}

/// The same with the place in the message, in `NLMSGERR_ATTR_OFFS`.
fn reply_at(place: u32, errno: i32, offset: u32) -> Vec<u8> {
    const OFFSET: u16 = 2;
    let mut bytes = reply(place, errno);
    bytes[..4].copy_from_slice(&44u32.to_ne_bytes());
    bytes.extend(8u16.to_ne_bytes());
    bytes.extend(OFFSET.to_ne_bytes());
    bytes.extend(offset.to_ne_bytes());
    bytes
}

#[test]
fn a_place_beyond_the_message_is_none() {
    let mut batch = Batch::encode(&transaction(), None);
    batch.number_from(FIRST);
    let length = u32::try_from(batch.message_length(1)).unwrap();
    let whole: usize = (0..batch.messages()).map(|place| batch.message_length(place)).sum();
    assert_eq!(whole, batch.datagram().len());
    for (said, told) in [
        (0, Some(0)),
        (36, Some(36)),
        (length - 1, Some(length - 1)),
        (length, None),
        (u32::MAX, None),
    ] {
        let Outcome::Refused(faults) = outcome(&[reply_at(1, 2, said)]).unwrap() else {
            panic!("an error");
        };
        assert_eq!(faults[0].offset, told, "{said}");
    }
}

#[test]
fn an_error_of_the_begin_or_the_end_is_one_of_the_whole() {
    for place in [0, 4] {
        let expected = Outcome::Refused(vec![fault(None, Errno::EPERM)]);
        assert_eq!(outcome(&[reply(place, 1)]).unwrap(), expected, "message {place}");
    }
}

#[test]
fn what_is_said_of_earlier_requests_does_not_count() {
    for place in [u32::MAX, u32::MAX - 5, 5, 1000] {
        let replies = [reply(place, 16), reply(4, 0)];
        assert_eq!(outcome(&replies).unwrap(), Outcome::Committed, "message {place}");
    }
}

#[test]
fn a_reply_that_is_cut_is_an_error() {
    let whole = reply(4, 0);
    for end in 1..whole.len() {
        let outcome = outcome(&[whole[..end].to_vec()]);
        assert!(matches!(outcome, Err(NetlinkError::Malformed { .. })), "{end} bytes: {outcome:?}");
    }
}
