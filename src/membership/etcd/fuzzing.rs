//! What comes from the store, over bytes that no member and no etcd wrote: for the fuzzer.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::keys::{FleetKeys, Told};
use super::lines::LineBuffer;
use super::wire::{Fault, LeaseAnswer, RangeAnswer, Streamed, TokenAnswer, TxnAnswer, WatchAnswer};
use crate::fleet::{
    Change, Input, Instance, Key, Lease, LocalState, Membership, OwnWords, Published, Revision,
    Settings, Shape, Stored, Timing, fleet_from_value, fleet_to_value, member_from_value,
    member_to_value,
};
use crate::plan::fleet::{Member, MemberName};
use crate::protocol::Timestamp;

/// Lines of an answer may have so many bytes here.
const MOST: usize = 1024 * 1024;

/// Gives a membership what these lines say, each a second after the one before. The first letter is what the rest
/// of the line is:
///
/// ```text
/// r JSON                  the answer to the reading of all
/// w JSON                  a message of the watch
/// a JSON                  the answer to something else: a lease, a write, a token, a refusal
/// m NAME REVISION VALUE   a member has written its key
/// d NAME REVISION         the key of a member is gone
/// f REVISION VALUE        a fleet was written
/// l 0 ... l 4             what the own cluster does
/// x                       the store is lost
/// ```
///
/// # Panics
/// If a value that was read is another one when it is written and read again, or the membership panics.
pub fn read_store(data: &[u8]) {
    let mut lines = LineBuffer::default();
    if lines.add(data, MOST).is_err() || lines.add(b"\n", MOST).is_err() {
        return;
    }
    let mut host = Host::new();
    while let Some(line) = lines.next_line() {
        if let [kind, b' ', rest @ .., b'\n'] = &line[..] {
            host.line(*kind, rest);
        } else if line.starts_with(b"x") {
            host.step(Input::SourceLost { reason: "lost".to_owned() });
        }
    }
}

struct Host {
    keys: FleetKeys,
    membership: Membership,
    now: Duration,
}

impl Host {
    fn new() -> Self {
        let name: MemberName = "a".parse().expect("a name");
        let mac = "02:00:00:00:00:01".parse().expect("an address");
        let member = Member::new(name, [[10, 0, 0, 1].into()]).expect("a member");
        let settings = Settings {
            member: member.with_mac(Some(mac)),
            instance: Instance(1),
            shape: Shape { slots: 16, ..Shape::default() },
            timing: Timing::default(),
        };
        let membership = Membership::new(settings);
        Self { keys: FleetKeys::new("web"), membership, now: Duration::from_secs(1) }
    }

    fn step(&mut self, input: Input) {
        self.now += Duration::from_secs(1);
        let actions = self.membership.step(input, Timestamp(self.now));
        assert!(actions.len() < 16, "{actions:?}");
        let health = self.membership.health();
        for trouble in &health.troubles {
            // Shown to people, whatever is in it.
            assert!(!trouble.to_string().is_empty());
        }
    }

    fn line(&mut self, kind: u8, rest: &[u8]) {
        match kind {
            b'r' => {
                let Some(answer) = parse::<RangeAnswer>(rest) else { return };
                let (store, revision) = (answer.header.cluster_id, answer.header.revision);
                let content = self.keys.read(&answer);
                self.step(Input::Read { store, revision: Revision(revision), content });
            }
            b'w' => match parse::<Streamed<WatchAnswer>>(rest).map(|it| self.keys.told(it)) {
                Some(Told::Changes(changes)) => {
                    for (revision, changes) in changes {
                        self.step(Input::Watched { revision, changes });
                    }
                }
                Some(Told::Ended(reason)) => self.step(Input::WatchEnded { reason }),
                None => {}
            },
            b'a' => self.answer(rest),
            b'l' => self.step(Input::Local(match rest.first() {
                Some(b'1') => LocalState::NotReady,
                Some(b'2') => LocalState::Ready,
                Some(b'3') => LocalState::Draining { connections: 0 },
                Some(b'4') => LocalState::Stopped,
                _ => LocalState::Unknown,
            })),
            kind => {
                if let Some((revision, change)) = change(kind, rest) {
                    self.step(Input::Watched { revision, changes: vec![change] });
                }
            }
        }
    }

    fn answer(&mut self, rest: &[u8]) {
        let _ = (parse::<TokenAnswer>(rest), parse::<Fault>(rest));
        if let Some(Streamed { result: Some(lease), .. }) = parse::<Streamed<LeaseAnswer>>(rest)
            && let Some(id) = NonZeroU64::new(lease.id)
        {
            return self.step(match lease.ttl {
                0 => Input::LeaseLost(Lease(id)),
                _ => Input::LeaseKept(Lease(id)),
            });
        }
        if let Some(id) = parse::<LeaseAnswer>(rest).and_then(|lease| NonZeroU64::new(lease.id)) {
            return self.step(Input::LeaseGranted(Lease(id)));
        }
        if let Some(answer) = parse::<TxnAnswer>(rest) {
            let written = answer.succeeded.then_some(Revision(answer.header.revision));
            self.step(Input::Publication { written });
            self.step(Input::Swapped(answer.succeeded));
        }
    }
}

fn change(kind: u8, rest: &[u8]) -> Option<(Revision, Change)> {
    let (words, value) = match kind {
        b'm' | b'd' => split(rest, 2)?,
        b'f' => split(rest, 1)?,
        _ => return None,
    };
    let revision = Revision(words.last()?.parse().ok()?);
    let change = match kind {
        b'm' => member(words[0].parse().ok()?, revision, value),
        b'd' => Change::MemberGone(words[0].parse().ok()?),
        _ => fleet(revision, value),
    };
    Some((revision, change))
}

fn member(name: MemberName, modified: Revision, value: &[u8]) -> Change {
    match member_from_value(name.clone(), value) {
        Err(reason) => Change::Unreadable { key: Key::Member(name), reason },
        Ok(words) => {
            let written = member_to_value(&words);
            let again = member_from_value(name, written.as_bytes());
            assert_eq!(again.as_ref(), Ok(&words));
            let (OwnWords { member, instance, knows, leaves }, created) = (words, modified);
            Change::Member(Published { member, instance, created, modified, knows, leaves })
        }
    }
}

fn fleet(modified: Revision, value: &[u8]) -> Change {
    match fleet_from_value(value) {
        Err(reason) => Change::Unreadable { key: Key::Fleet, reason },
        Ok((fleet, version)) => {
            let written = fleet_to_value(&fleet, version);
            assert_eq!(fleet_from_value(written.as_bytes()), Ok((fleet.clone(), version)));
            Change::Fleet(Stored { fleet: Arc::new(fleet), version, modified })
        }
    }
}

/// So many words, and what follows them.
fn split(text: &[u8], count: usize) -> Option<(Vec<&str>, &[u8])> {
    let (mut words, mut rest) = (vec![], text);
    for _ in 0..count {
        let end = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
        words.push(std::str::from_utf8(&rest[..end]).ok()?);
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    Some((words, rest))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}
