//! The state of a membership, and what follows from it.

use std::sync::Arc;
use std::time::Duration;

use crate::plan::Partition;
use crate::plan::fleet::{Fleet, FleetError, MemberName, MemberState};
use crate::protocol::Timestamp;

use super::connection::Connection;
use super::list::Keys;
use super::{
    Action, Change, Health, Input, Key, Lease, LocalState, OwnState, Published, Revision, Settings,
    Shape, Stored, Trouble,
};

/// After what the watch tells all is read anew so often, to find out whether the watch is late.
const AUDIT: Duration = Duration::from_secs(30);

/// What was refused because a key was not as expected is known by the watch after so long at the latest.
const WATCH_PATIENCE: Duration = Duration::from_secs(1);

/// So much longer than the one before it in the list a member waits before it writes the next fleet.
const STEP: Duration = Duration::from_millis(50);

/// A member that owns nothing stays for so long: hosts that have not heard of it yet send it new connections.
const LEAVE_AFTER: Duration = Duration::from_secs(1);

/// The membership of one host.
#[derive(Debug)]
pub(crate) struct Membership {
    settings: Settings,
    local: LocalState,
    connection: Connection,
    /// Which store, and up to which of its revisions all is known.
    seen: Option<(u64, Revision)>,
    keys: Keys,
    stored: StoredFleet,
    /// The last fleet that was put in force.
    applied: Option<Stored>,
    /// It is the last that the store had: nothing was missed between it and what stands there now.
    is_latest: bool,
    lease: Option<Lease>,
    /// The lease under which this host's own key was written.
    published_under: Option<Lease>,
    /// This run has published itself: who has the key since has taken it from it.
    has_published: bool,
    /// This run has published itself, in this store or in one before it: it has something to give away.
    takes_part: bool,
    /// The members as their keys have them name this host.
    is_listed: bool,
    /// The fleet has named this host while it was published by this run.
    was_named: bool,
    asked: Asked,
    keep_alive_at: Timestamp,
    audit_at: Timestamp,
    /// Since when it is known that there is no fleet, to a host that may not know the last one.
    no_fleet_since: Option<Timestamp>,
    /// Since when the fleet is not what the members say, at this revision of it.
    differs_since: Option<(Timestamp, Revision)>,
    /// Since when this host drains and owns nothing.
    idle_since: Option<Timestamp>,
    is_gone: bool,
    troubles: Vec<Trouble>,
}

/// What stands under the key of the fleet.
#[derive(Debug, Clone, PartialEq)]
enum StoredFleet {
    /// Nothing, or it is not known yet.
    None,
    Known(Stored),
    /// It cannot be read, so that it is not to be written either.
    Unreadable(String),
}

/// What this host writes under its own key.
#[derive(Debug, Clone, Copy)]
struct Publication {
    lease: Lease,
    state: MemberState,
    knows: u64,
}

/// What was asked of the store, and not answered yet.
#[derive(Debug, Default)]
struct Asked {
    /// What was seen when it was asked to read all: what is answered is no older.
    read: Option<Revision>,
    lease: bool,
    keep_alive: bool,
    publish: Option<Publication>,
    swap: bool,
    withdraw: bool,
    /// Keys that were written, or found not to be as expected, since the watch has told of them last.
    publish_refused: Option<Revision>,
    swap_refused: Option<Revision>,
}

impl Membership {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            local: LocalState::Unknown,
            connection: Connection::begin(),
            seen: None,
            keys: Keys::default(),
            stored: StoredFleet::None,
            applied: None,
            is_latest: false,
            lease: None,
            published_under: None,
            has_published: false,
            takes_part: false,
            is_listed: false,
            was_named: false,
            asked: Asked::default(),
            keep_alive_at: Timestamp::ZERO,
            audit_at: Timestamp::ZERO,
            no_fleet_since: None,
            differs_since: None,
            idle_since: None,
            is_gone: false,
            troubles: vec![],
        }
    }

    /// Takes in what has happened, and says what is to be done. The first input is
    /// [`Input::Tick`], or [`Input::Local`].
    pub(crate) fn step(&mut self, input: Input, now: Timestamp) -> Vec<Action> {
        let mut actions = vec![];
        self.learn(input, now, &mut actions);
        let has_nothing_there = self.lease.is_none() && !self.asked.lease;
        self.is_gone |= self.local == LocalState::Stopped && has_nothing_there;
        if !self.is_gone {
            self.decide(now, &mut actions);
        }
        actions
    }

    /// How it is.
    pub(crate) fn health(&self) -> Health {
        let mut troubles = self.troubles.clone();
        troubles.extend(self.own_trouble());
        Health {
            source: self.connection.state(),
            own: self.own_state(),
            revision: self.seen.map_or(Revision::NONE, |(_, revision)| revision),
            troubles,
        }
    }

    fn name(&self) -> &MemberName {
        self.settings.member.name()
    }

    fn learn(&mut self, input: Input, now: Timestamp, actions: &mut Vec<Action>) {
        match input {
            Input::Tick => {}
            Input::Local(local) => self.learn_local(local),
            Input::SourceLost { reason } => {
                self.asked = Asked::default();
                self.keys.forget_times();
                self.keep_alive_at = self.keep_alive_at.min(now);
                self.connection.lose(reason, self.settings.member.name(), now);
            }
            Input::WatchEnded { reason } => {
                self.keys.forget_times();
                self.connection.reread(reason, now);
            }
            Input::Read { store, revision, content } => {
                self.learn_all(store, revision, content, now, actions);
            }
            Input::Watched { revision, changes } => self.learn_changes(revision, changes),
            Input::LeaseGranted(lease) => {
                self.asked.lease = false;
                self.lease = Some(lease);
                self.keep_alive_at = now.after(self.settings.timing.lease / 3);
            }
            Input::LeaseKept(_) => {
                self.asked.keep_alive = false;
                self.keep_alive_at = now.after(self.settings.timing.lease / 3);
            }
            Input::LeaseLost(lease) => self.lose_lease(lease),
            Input::Publication { written } => self.learn_publication(written, now),
            Input::Swapped(_) => {
                // Written or not, the watch tells what stands there now.
                self.asked.swap = false;
                self.audit_at = self.audit_at.min(now.after(WATCH_PATIENCE));
            }
            Input::Withdrawn => {
                self.asked.withdraw = false;
                self.lease = None;
                self.published_under = None;
                self.is_gone = true;
            }
        }
    }

    fn learn_local(&mut self, local: LocalState) {
        self.local = local;
        if matches!(local, LocalState::NotReady | LocalState::Ready) && self.is_gone {
            // It has left and comes again: as one that begins.
            *self = Self { local, ..Self::new(self.settings.clone()) };
        }
    }

    /// A lease that has ended: of this host, since it was away, or somebody has ended it.
    fn lose_lease(&mut self, lease: Lease) {
        self.asked.keep_alive = false;
        if self.asked.publish.is_some_and(|asked| asked.lease == lease) {
            self.asked.publish = None;
        }
        if self.lease != Some(lease) {
            return;
        }
        self.lease = None;
        self.published_under = None;
        self.asked.publish_refused = None;
        // What was to be ended has ended.
        self.is_gone = std::mem::take(&mut self.asked.withdraw);
    }

    fn learn_publication(&mut self, written: Option<Revision>, now: Timestamp) {
        let Some(Publication { lease, state, knows }) = self.asked.publish.take() else { return };
        self.audit_at = self.audit_at.min(now.after(WATCH_PATIENCE));
        let Some(modified) = written else { return };
        self.has_published = true;
        self.takes_part = true;
        self.published_under = Some(lease);
        // What is behind the watch it has told already, with what came after.
        if self.seen.is_some_and(|(_, seen)| seen < modified) {
            let created = self.keys.get(self.name()).map_or(modified, |known| known.created);
            self.keys.put(Published {
                member: self.settings.member.clone().with_state(state),
                instance: self.settings.instance,
                created,
                modified,
                knows,
                leaves: false,
            });
        }
    }

    /// All that the store has, at one revision.
    fn learn_all(
        &mut self,
        store: u64,
        revision: Revision,
        content: Vec<Change>,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        let asked_at = self.asked.read.take().unwrap_or_default();
        let is_another = self.seen.is_some_and(|(known, _)| known != store || revision < asked_at);
        if is_another {
            self.lease = None;
            self.published_under = None;
            self.has_published = false;
            self.asked = Asked::default();
            self.keys = Keys::default();
            self.no_fleet_since = None;
        }
        let was_current = self.connection.is_current();
        let seen = self.seen.map(|(_, seen)| seen);
        self.asked.publish_refused = None;
        self.asked.swap_refused = None;
        self.audit_at = now.after(AUDIT);
        let is_known = !is_another && seen.is_some_and(|seen| seen >= revision);
        // The watch is as far, as it should be; or has come further while the answer was on its way.
        if is_known && (was_current || seen > Some(revision)) {
            return;
        }
        let known = (was_current && !is_another).then(|| (self.keys.clone(), self.stored.clone()));
        self.keys.begin_anew();
        self.stored = StoredFleet::None;
        self.seen = Some((store, revision));
        self.learn_each(revision, content);
        // A watch that has told all of it goes on.
        if known.is_none_or(|(keys, stored)| !keys.is_same(&self.keys) || stored != self.stored) {
            // Whose key is missing may have had one meanwhile, and a fleet that is not there any more may have been
            // a later one than that in force.
            self.keys.forget_missing();
            self.is_latest &= self.stored != StoredFleet::None;
            // Whoever knows it has the time from now on to say so, or to write it.
            self.no_fleet_since = None;
            actions.push(Action::WatchFrom(Revision(revision.0 + 1)));
        }
        if !was_current {
            self.connection = Connection::Current;
        }
    }

    fn learn_changes(&mut self, revision: Revision, changes: Vec<Change>) {
        match &mut self.seen {
            Some((_, seen)) if self.connection.is_current() && *seen < revision => {
                *seen = revision;
            }
            // Known already, or of a watch that has ended.
            _ => return,
        }
        self.learn_each(revision, changes);
    }

    fn learn_each(&mut self, revision: Revision, changes: Vec<Change>) {
        for change in changes {
            match &change {
                Change::MemberGone(name) if name == self.name() => {
                    self.asked.publish_refused = None
                }
                Change::FleetGone => self.asked.swap_refused = None,
                _ => {}
            }
            match change {
                Change::Member(published) => self.keys.put(published),
                Change::MemberGone(name) => self.keys.delete(name, revision),
                Change::Fleet(stored) => self.stored = StoredFleet::Known(stored),
                Change::FleetGone => self.stored = StoredFleet::None,
                Change::Unreadable { key: Key::Member(name), reason } => {
                    self.keys.put_unreadable(name, reason);
                }
                Change::Unreadable { key: Key::Fleet, reason } => {
                    self.stored = StoredFleet::Unreadable(reason);
                }
                // Nobody's: it says nothing.
                Change::Unreadable { key: Key::Other(_), .. } => {}
            }
        }
    }

    /// What follows from all that is known. The same at every input.
    fn decide(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        self.apply(actions);
        let mut wake = Wake::default();
        self.keep_alive(now, actions, &mut wake);
        if let Some(retry_at) = self.connection.retry_at() {
            self.ask_to_read(retry_at, now, actions, &mut wake);
        } else {
            self.ask_to_read(self.audit_at, now, actions, &mut wake);
            self.leave(now, actions, &mut wake);
            self.publish(actions);
            self.write_fleet(now, actions, &mut wake);
        }
        actions.extend(wake.0.map(Action::Wake));
    }

    fn ask_to_read(
        &mut self,
        at: Timestamp,
        now: Timestamp,
        actions: &mut Vec<Action>,
        wake: &mut Wake,
    ) {
        if self.asked.read.is_some() {
            return;
        }
        if at > now {
            return wake.at(at);
        }
        self.asked.read = Some(self.seen.map_or(Revision::NONE, |(_, seen)| seen));
        actions.push(Action::ReadAll);
    }

    /// What stands in the store is what is in force.
    fn apply(&mut self, actions: &mut Vec<Action>) {
        let StoredFleet::Known(stored) = &self.stored else { return };
        let named = stored.fleet.members().get(self.name());
        self.was_named |= self.has_published && named.is_some();
        (self.is_latest, self.no_fleet_since) = (true, None);
        if self.applied.as_ref() != Some(stored) {
            let (fleet, revision) = (stored.fleet.clone(), stored.modified);
            actions.push(Action::Apply { fleet, revision });
            self.applied = Some(stored.clone());
        }
    }

    /// While the store is away the lease is kept alive without an answer to the one before: whichever arrives
    /// first when it is back, or in time when it is slow, keeps it.
    fn keep_alive(&mut self, now: Timestamp, actions: &mut Vec<Action>, wake: &mut Wake) {
        let Some(lease) = self.lease else { return };
        if self.connection.is_current() && self.asked.keep_alive {
            return;
        }
        if self.keep_alive_at > now {
            return wake.at(self.keep_alive_at);
        }
        self.asked.keep_alive = true;
        self.keep_alive_at = now.after(self.settings.timing.lease / 4);
        if !self.connection.is_current() {
            wake.at(self.keep_alive_at);
        }
        actions.push(Action::KeepAlive(lease));
    }

    /// The state in which this host wants to be published; `None`: in none.
    fn wanted_state(&self) -> Option<MemberState> {
        match self.local {
            LocalState::Unknown => None,
            LocalState::NotReady => Some(MemberState::Joining),
            LocalState::Ready => Some(MemberState::Serving),
            // Who was never there has nothing to give away.
            LocalState::Draining { .. } | LocalState::Stopped => {
                self.has_something_there().then_some(MemberState::Draining)
            }
        }
    }

    /// This run has published itself, or a run before it on this host has, and its key is still there.
    fn has_something_there(&self) -> bool {
        let is_of_this_host =
            |own: &Published| own.instance == self.settings.instance || self.is_of_this_host(own);
        self.takes_part || self.keys.get(self.name()).is_some_and(is_of_this_host)
    }

    fn is_of_this_host(&self, published: &Published) -> bool {
        published.member.addresses().eq(self.settings.member.addresses())
    }

    /// Leaves when it drains, owns nothing and has no connection; or at once if it is to stop.
    fn leave(&mut self, now: Timestamp, actions: &mut Vec<Action>, wake: &mut Wake) {
        let at = match self.local {
            LocalState::Stopped => now,
            LocalState::Draining { connections } => {
                if !self.is_drained() {
                    self.idle_since = None;
                    return;
                }
                let since = *self.idle_since.get_or_insert(now);
                if connections > 0 {
                    return;
                }
                since.after(LEAVE_AFTER)
            }
            LocalState::Unknown | LocalState::NotReady | LocalState::Ready => {
                self.idle_since = None;
                return;
            }
        };
        if at > now {
            return wake.at(at);
        }
        let own = self.keys.get(self.name()).filter(|it| it.instance == self.settings.instance);
        let expected = match own {
            Some(own) => own.modified,
            // Its key is another run's by now, or it has none: only the lease is its own.
            None => Revision::NONE,
        };
        if self.asked.withdraw || self.asked.lease || self.asked.publish.is_some() {
            return;
        }
        match self.lease {
            None => self.is_gone = true,
            Some(lease) => {
                self.asked.withdraw = true;
                actions.push(Action::Withdraw { lease, expected });
            }
        }
    }

    fn owns_nothing(&self) -> bool {
        match &self.applied {
            Some(stored) => stored.fleet.owners().owned_by(self.name()) == 0,
            None => true,
        }
    }

    /// Its key says that it drains, and the fleet in force was written by somebody who has seen that. Whoever has
    /// not seen it writes over an older fleet, in vain: so no slot can come to this host any more.
    fn is_drained(&self) -> bool {
        let drains = match self.keys.get(self.name()) {
            Some(own) if own.instance == self.settings.instance => {
                own.member.state() == MemberState::Draining
            }
            // Of another run: it is left to that one, or published anew.
            Some(_) => self.own_trouble().is_some_and(|it| it.bars()),
            None => !self.takes_part,
        };
        let Some(Stored { fleet, .. }) = &self.applied else { return drains };
        let is_out = match fleet.members().get(self.name()) {
            Some(member) => member.state() == MemberState::Draining || !self.takes_part,
            None => !self.is_listed,
        };
        drains && is_out && self.owns_nothing()
    }

    /// Gets a lease and writes this host's own key, where that does not say what it should.
    fn publish(&mut self, actions: &mut Vec<Action>) {
        let Some(state) = self.wanted_state() else { return };
        if self.is_gone || self.asked.withdraw || self.own_trouble().is_some_and(|it| it.bars()) {
            return;
        }
        let Some(lease) = self.lease else {
            if !std::mem::replace(&mut self.asked.lease, true) {
                actions.push(Action::GrantLease);
            }
            return;
        };
        let wanted = self.settings.member.clone().with_state(state);
        let own = self.keys.get(self.name());
        let own_words = own.filter(|own| own.instance == self.settings.instance);
        let knows = match own_words {
            // Others are told of another one when they have to know.
            Some(own) if !self.seeks_the_latest() => own.knows,
            _ => self.known_version(),
        };
        let is_published = own_words.is_some_and(|own| own.member == wanted && own.knows == knows)
            && self.published_under == Some(lease);
        let expected = own.map_or(Revision::NONE, |own| own.modified);
        let is_refused = self.asked.publish_refused == Some(expected);
        if is_published || is_refused || self.asked.publish.is_some() {
            return;
        }
        self.asked.publish = Some(Publication { lease, state, knows });
        self.asked.publish_refused = Some(expected);
        actions.push(Action::Publish { lease, state, knows, expected });
    }

    /// The store has no fleet, and others may know a later one than this host.
    fn seeks_the_latest(&self) -> bool {
        self.stored == StoredFleet::None && !self.is_latest
    }

    /// The version of the fleet in force.
    fn known_version(&self) -> u64 {
        self.applied.as_ref().map_or(0, |stored| stored.version)
    }

    /// Writes the next fleet where the one that stands there is not what the members say.
    fn write_fleet(&mut self, now: Timestamp, actions: &mut Vec<Action>, wake: &mut Wake) {
        let (stored, revision) = match &self.stored {
            StoredFleet::Known(stored) => (Some(&stored.fleet), stored.modified),
            StoredFleet::None => (None, Revision::NONE),
            StoredFleet::Unreadable(reason) => {
                self.troubles =
                    vec![Trouble::Unreadable { key: Key::Fleet, reason: reason.clone() }];
                return;
            }
        };
        // A store that has lost the fleet gets the one that is in force again.
        let before = match &self.stored {
            StoredFleet::Known(stored) => Some(stored.clone()),
            _ => self.applied.clone(),
        };
        let known = before.as_ref().map(|before| (&*before.fleet, before.modified));
        let listed = self.keys.list(known, self.settings.timing, now);
        let version = before.as_ref().map_or(0, |before| before.version) + 1;
        let before = before.map(|before| before.fleet);
        self.is_listed = listed.members.get(self.name()).is_some();
        self.troubles = listed.troubles;
        if let Some(at) = listed.changes_at {
            wake.at(at);
        }
        if let Some(fleet) = &before {
            self.troubles.extend(other_shape(fleet, self.settings.shape));
        }
        let is_written = stored.is_some_and(|fleet| *fleet.members() == listed.members);
        let is_published = self.keys.get(self.name()).is_some_and(|own| {
            own.instance == self.settings.instance && self.published_under.is_some()
        });
        if is_written {
            self.differs_since = None;
            return;
        }
        let Shape { slots, seed, kept } = self.settings.shape;
        let next = match &before {
            Some(fleet) => fleet.with_members(listed.members),
            None => Fleet::seeded(slots, seed, kept, listed.members),
        };
        let next = match next {
            Ok(next) => next,
            // Nobody was there before, and nobody is ready yet.
            Err(FleetError::NobodyServes) if before.is_none() => return,
            Err(error) => return self.troubles.push(Trouble::NoFleet(error)),
        };
        if !is_published || self.asked.swap || self.asked.swap_refused == Some(revision) {
            return;
        }
        if self.seeks_the_latest() {
            let at = self.no_fleet_since.get_or_insert(now).after(self.settings.timing.lease / 2);
            if self.keys.known_to_others(self.name()) > self.known_version() {
                // It writes that, or its lease ends: either is told.
                return;
            }
            if at > now {
                return wake.at(at);
            }
        }
        let since = match self.differs_since {
            Some((since, at)) if at == revision => since,
            _ => now,
        };
        self.differs_since = Some((since, revision));
        let at = since.after(STEP.saturating_mul(self.keys.rank(self.name())));
        if at > now {
            return wake.at(at);
        }
        self.asked.swap = true;
        self.asked.swap_refused = Some(revision);
        let (fleet, expected) = (Arc::new(next), revision);
        actions.push(Action::SwapFleet { fleet, version, expected });
    }

    /// What keeps this host itself from being what it wants to be.
    fn own_trouble(&self) -> Option<Trouble> {
        let name = self.name().clone();
        let own = self.keys.get(self.name());
        if let Some(other) = own.filter(|own| own.instance != self.settings.instance) {
            return match other.member.addresses().next() {
                Some(address) if !self.is_of_this_host(other) => {
                    Some(Trouble::NameTaken { name, address })
                }
                _ => self.has_published.then_some(Trouble::Superseded { name }),
            };
        }
        let drains = matches!(self.local, LocalState::Draining { .. });
        let is_stuck = drains && !self.is_gone && !self.owns_nothing();
        let serves = |stored: &Stored| {
            let others = stored.fleet.members().iter().filter(|member| *member.name() != name);
            others.filter(|member| member.weight() > 0).any(|it| it.state() == MemberState::Serving)
        };
        let is_alone = !self.applied.as_ref().is_some_and(serves);
        (is_stuck && is_alone).then_some(Trouble::LastOne { name })
    }

    fn own_state(&self) -> OwnState {
        if self.is_gone {
            return OwnState::Gone;
        }
        let named = self.applied.as_ref().and_then(|it| it.fleet.members().get(self.name()));
        let is_published =
            self.keys.get(self.name()).is_some_and(|own| own.instance == self.settings.instance);
        match named.map(|member| member.state()) {
            Some(MemberState::Joining) => OwnState::Joining,
            Some(MemberState::Serving) => OwnState::Serving,
            Some(MemberState::Draining) => OwnState::Draining,
            Some(MemberState::Lost) => OwnState::Lost,
            None if self.was_named => OwnState::Lost,
            None if is_published => OwnState::Joining,
            None => OwnState::Unlisted,
        }
    }
}

/// The earliest of some points in time.
#[derive(Default)]
struct Wake(Option<Timestamp>);

impl Wake {
    fn at(&mut self, at: Timestamp) {
        self.0 = Some(self.0.map_or(at, |known| known.min(at)));
    }
}

fn other_shape(fleet: &Fleet, configured: Shape) -> Option<Trouble> {
    let Partition::Hash { slots, seed, .. } = fleet.partition() else { return None };
    let in_force = Shape { slots, seed, kept: fleet.kept() };
    (in_force != configured).then_some(Trouble::OtherShape { in_force, configured })
}

#[cfg(test)]
impl Membership {
    /// Which run of a program it is.
    pub(super) fn instance(&self) -> super::Instance {
        self.settings.instance
    }

    /// The store that it knows.
    pub(super) fn store(&self) -> Option<u64> {
        self.seen.map(|(store, _)| store)
    }
}
