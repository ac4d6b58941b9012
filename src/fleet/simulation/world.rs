//! The hosts, the store, and what happens to them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::{
    Action, Change, Input, Instance, LocalState, Membership, OwnState, Revision, Settings, Shape,
    Stored, Timing,
};
use super::random::Random;
use super::store::{Store, Written};
use crate::plan::fleet::{Fleet, Member, MemberName};
use crate::protocol::Timestamp;

pub(super) const LEASE: Duration = Duration::from_secs(5);
pub(super) const LOST_FOR: Duration = Duration::from_secs(40);

/// A request without an answer is given up after so long.
const TIMEOUT: Duration = Duration::from_millis(2500);

/// For so long things go wrong.
const TROUBLED: Duration = Duration::from_secs(90);

/// After so long without trouble all is as it should be: the longest of what is waited for is an audit, and
/// then the time of a member that is lost.
const CALM: Duration = Duration::from_secs(100);

/// Few, so that each history is short.
pub(super) const SLOTS: u32 = 60;

/// Of so many histories, one is of hosts that are cut off while the fleet is deleted.
const DELETING: u64 = 16;
const DELETING_AT: u64 = 5;

/// What is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sabotage {
    MissesTheFirstChange,
    PutsInForceWhatItWrites,
    WritesOverWhatItHasNotSeen,
    KeepsNoLeaseAlive,
    TakesWhatIsMissingForLost,
    ForgetsTheLost,
    NeverLeaves,
    LeavesBeforeItsSlotsDo,
    KeepsItsSlots,
    ForgetsFormerOwners,
    NeverAudits,
    DoesNotHearOfALostLease,
    TakesItsFleetForTheLatest,
    TakesNoSlots,
}

/// What happens, with the run and the connection of a host that it is for.
#[derive(Debug)]
enum Event {
    Wake {
        host: usize,
        run: u64,
        at: Timestamp,
    },
    /// A request arrives at the store.
    Request {
        host: usize,
        run: u64,
        epoch: u64,
        number: u64,
        action: Action,
    },
    /// What the store says arrives at the host; as the answer to a request, or of the watch.
    Told {
        host: usize,
        run: u64,
        epoch: u64,
        answers: Option<u64>,
        input: Input,
    },
    Timeout {
        host: usize,
        run: u64,
        epoch: u64,
        number: u64,
        keeps_alive: bool,
    },
    LoseSource {
        host: usize,
        run: u64,
        epoch: u64,
    },
    LeaseEnds(super::super::Lease),
    Say {
        host: usize,
        run: u64,
        local: LocalState,
    },
    Start {
        host: usize,
        adopts: bool,
    },
    Probe,
    Trouble(Trouble),
}

#[derive(Debug, Clone)]
enum Trouble {
    CutOff { host: usize, span: Duration },
    Rejoin { host: usize, cut: u64 },
    StoreDown { span: Duration },
    StoreUp { outage: u64 },
    Compaction,
    StuckWatch { host: usize },
    LostData,
    EndLease { host: usize },
    DeleteFleet,
    Crash { host: usize, span: Duration },
    Flap { host: usize, span: Duration },
    Drain { host: usize, span: Duration },
}

#[derive(Debug)]
pub(super) struct Host {
    pub(super) name: MemberName,
    member: Member,
    pub(super) run: Option<Run>,
    pub(super) linked: bool,
    pub(super) linked_since: Timestamp,
    cuts: u64,
}

/// One run of the program.
#[derive(Debug)]
pub(super) struct Run {
    number: u64,
    pub(super) membership: Membership,
    /// Grows with each loss of the source: what was asked before is off.
    epoch: u64,
    requests: Vec<u64>,
    pub(super) local: LocalState,
    pub(super) local_since: Timestamp,
    pub(super) since: Timestamp,
    /// When it lost the source last, or started.
    pub(super) lost_at: Timestamp,
    pub(super) applied: Option<(u64, Revision, Arc<Fleet>)>,
    watch: Option<Watch>,
    wake_at: Option<Timestamp>,
}

#[derive(Debug)]
struct Watch {
    next: Revision,
    /// No earlier than this is the next event there: they stay in order.
    arrives: Timestamp,
    is_stuck: bool,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) random: Random,
    pub(super) now: Timestamp,
    agenda: BTreeMap<(Timestamp, u64), Event>,
    pub(super) store: Store,
    pub(super) hosts: Vec<Host>,
    counter: u64,
    outages: u64,
    /// The longest way of a message between a host and the store.
    pub(super) delay: Duration,
    /// What nothing but the store has trouble with.
    pub(super) only_store: bool,
    pub(super) has_stuck_watches: bool,
    pub(super) fleets: BTreeMap<(u64, Revision), Arc<Fleet>>,
    pub(super) last_fleet: Option<Stored>,
    /// Of each fleet that was written: its version.
    pub(super) versions: BTreeMap<(u64, Revision), u64>,
    /// Slots that nobody owns: since when.
    pub(super) unowned: BTreeMap<usize, Timestamp>,
    /// Two hosts and a slot that both own: since when.
    pub(super) doubted: BTreeMap<(usize, usize, usize), Timestamp>,
    pub(super) is_calm: bool,
    /// When somebody last ended a lease or deleted something by hand.
    pub(super) touched_at: Option<Timestamp>,
    inputs: u64,
    sabotage: Option<Sabotage>,
    pub(super) tells: bool,
}

impl World {
    pub(super) fn new(seed: u64, sabotage: Option<Sabotage>) -> Self {
        let mut random = Random::new(seed);
        let now = Timestamp(Duration::from_secs(1000));
        let count = 1 + random.below(5);
        let host = |number: u64| {
            let name: MemberName = format!("m{number}").parse().unwrap();
            let address = format!("10.0.0.{}", number + 1).parse().unwrap();
            let mac: crate::plan::fleet::MacAddress =
                format!("02:00:00:00:00:{number:02x}").parse().unwrap();
            let member = Member::new(name.clone(), [address]).unwrap().with_mac(mac);
            Host { name, member, run: None, linked: true, linked_since: now, cuts: 0 }
        };
        let is_slow = random.percent(20);
        let mut world = Self {
            delay: Duration::from_millis(if is_slow { 900 } else { 15 }),
            only_store: random.percent(25),
            hosts: (0..count).map(host).collect(),
            random,
            now,
            agenda: BTreeMap::new(),
            store: Store::new(1, now),
            counter: 0,
            outages: 0,
            has_stuck_watches: false,
            fleets: BTreeMap::new(),
            last_fleet: None,
            versions: BTreeMap::new(),
            unowned: BTreeMap::new(),
            doubted: BTreeMap::new(),
            is_calm: false,
            touched_at: None,
            inputs: 0,
            sabotage,
            tells: false,
        };
        for host in 0..world.hosts.len() {
            let at = now.after(world.random.up_to(Duration::from_secs(4)));
            world.schedule(at, Event::Start { host, adopts: false });
        }
        for second in 0..(TROUBLED + CALM).as_secs() {
            world.schedule(now.after(Duration::from_secs(second)), Event::Probe);
        }
        if seed % DELETING == DELETING_AT {
            world.schedule_deletions();
            return world;
        }
        for _ in 0..world.random.below(14) {
            let at = now.after(Duration::from_secs(6) + world.random.up_to(TROUBLED));
            let trouble = world.some_trouble();
            world.schedule(at, Event::Trouble(trouble));
        }
        world
    }

    /// A host is cut off, the fleet changes, and it is deleted when that host is just about to be back.
    fn schedule_deletions(&mut self) {
        self.only_store = false;
        for round in 0..6 {
            let host = self.random.below(self.hosts.len() as u64);
            let other = (host + 1) % self.hosts.len() as u64;
            let [host, other] = [host, other].map(|it| usize::try_from(it).unwrap());
            let cut_at = self.now.after(Duration::from_secs(9 + round * 14));
            let span = Duration::from_secs(2) + self.random.up_to(Duration::from_secs(2));
            let deleted_at = cut_at.after(span + self.random.up_to(Duration::from_secs(3)));
            let flap = Trouble::Flap { host: other, span: Duration::from_secs(1) };
            let at = cut_at.after(Duration::from_millis(500));
            self.schedule(cut_at, Event::Trouble(Trouble::CutOff { host, span }));
            self.schedule(at, Event::Trouble(flap));
            self.schedule(deleted_at, Event::Trouble(Trouble::DeleteFleet));
        }
    }

    fn some_trouble(&mut self) -> Trouble {
        let host = usize::try_from(self.random.below(self.hosts.len() as u64)).unwrap();
        let short = self.random.percent(50);
        let most = Duration::from_secs(if short { 4 } else { 25 });
        let span = self.random.up_to(most);
        let kinds = if self.only_store { 2 } else { 10 };
        match self.random.below(kinds) {
            0 => Trouble::StoreDown { span },
            1 => Trouble::Compaction,
            2 | 3 => Trouble::CutOff { host, span },
            4 => match self.random.below(4) {
                0 => Trouble::LostData,
                1 => Trouble::DeleteFleet,
                2 => Trouble::EndLease { host },
                _ => Trouble::StuckWatch { host },
            },
            5 | 6 => Trouble::Crash { host, span },
            7 => Trouble::Flap { host, span },
            _ => Trouble::Drain { host, span },
        }
    }

    /// Trouble, then calm, in which all comes to rest.
    pub(super) fn live(&mut self) {
        let calm_at = self.now.after(TROUBLED);
        let end = calm_at.after(CALM);
        while let Some(entry) = self.agenda.first_entry() {
            let (at, _) = *entry.key();
            if at > end {
                break;
            }
            let event = entry.remove();
            if at >= calm_at && !self.is_calm {
                self.now = calm_at;
                self.calm_down();
            }
            self.now = at;
            self.happen(event);
        }
        self.check_rest();
        assert!(self.inputs < 8_000, "{} inputs: a busy loop", self.inputs);
    }

    fn tell(&self, words: impl FnOnce() -> String) {
        if self.tells {
            let now = self.now.0.as_secs_f64() - 1000.0;
            println!("{now:10.4} {}", words());
        }
    }

    fn schedule(&mut self, at: Timestamp, event: Event) {
        self.counter += 1;
        self.agenda.insert((at, self.counter), event);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Wake { host, run, at } => {
                // One that another one has replaced is none.
                if self.run_of(host, run).is_some_and(|it| it.wake_at == Some(at)) {
                    self.input(host, run, Input::Tick);
                }
            }
            Event::Request { host, run, epoch, number, action } => {
                self.arrive(host, run, epoch, number, action);
            }
            Event::Told { host, run, epoch, answers, input } => {
                let linked = self.hosts[host].linked;
                let Some(it) = self.run_of(host, run) else { return };
                if it.epoch != epoch || !linked {
                    return;
                }
                it.requests.retain(|open| Some(*open) != answers);
                if self.sabotage == Some(Sabotage::DoesNotHearOfALostLease)
                    && let Input::LeaseLost(lease) = input
                {
                    return self.input(host, run, Input::LeaseKept(lease));
                }
                self.input(host, run, input);
            }
            Event::Timeout { host, run, epoch, number, keeps_alive } => {
                let is_open = |it: &mut Run| {
                    let matters = !keeps_alive || it.watch.is_some();
                    it.epoch == epoch && it.requests.contains(&number) && matters
                };
                if self.run_of(host, run).is_some_and(is_open) {
                    self.lose_source(host, run, epoch);
                }
            }
            Event::LoseSource { host, run, epoch } => self.lose_source(host, run, epoch),
            Event::LeaseEnds(lease) => self.end_lease(lease),
            Event::Say { host, run, local } => self.say(host, run, local),
            Event::Start { host, adopts } => self.start(host, adopts),
            Event::Probe => self.probe(),
            Event::Trouble(trouble) => self.trouble(trouble),
        }
    }

    fn run_of(&mut self, host: usize, run: u64) -> Option<&mut Run> {
        self.hosts[host].run.as_mut().filter(|it| it.number == run)
    }

    fn lose_source(&mut self, host: usize, run: u64, epoch: u64) {
        let now = self.now;
        let Some(it) = self.run_of(host, run).filter(|it| it.epoch == epoch) else { return };
        it.epoch += 1;
        it.requests.clear();
        it.watch = None;
        it.lost_at = now;
        self.input(host, run, Input::SourceLost { reason: "no answer".to_owned() });
    }

    fn start(&mut self, host: usize, adopts: bool) {
        if self.hosts[host].run.is_some() {
            return;
        }
        self.counter += 1;
        let number = self.counter;
        let lost_for = match self.sabotage {
            Some(Sabotage::ForgetsTheLost) => Duration::ZERO,
            _ => LOST_FOR,
        };
        let settings = Settings {
            member: self.hosts[host].member.clone(),
            instance: Instance(self.random.next()),
            shape: shape(),
            timing: Timing { lease: LEASE, lost_for },
        };
        let (now, local) = (self.now, LocalState::Unknown);
        self.hosts[host].run = Some(Run {
            number,
            membership: Membership::new(settings),
            epoch: 0,
            requests: vec![],
            local,
            local_since: now,
            since: now,
            lost_at: now,
            applied: None,
            watch: None,
            wake_at: None,
        });
        self.tell(|| format!("{} starts", self.hosts[host].name));
        self.input(host, number, Input::Tick);
        let soon = now.after(self.random.up_to(Duration::from_secs(1)));
        let ready = soon.after(self.random.up_to(Duration::from_secs(2)));
        if !adopts {
            self.schedule(soon, Event::Say { host, run: number, local: LocalState::NotReady });
        }
        self.schedule(ready, Event::Say { host, run: number, local: LocalState::Ready });
    }

    fn say(&mut self, host: usize, run: u64, local: LocalState) {
        let now = self.now;
        let Some(it) = self.run_of(host, run) else { return };
        if it.local == LocalState::Stopped {
            return;
        }
        let is_leaving = matches!(it.local, LocalState::Draining { .. });
        if is_leaving && !matches!(local, LocalState::Draining { .. } | LocalState::Stopped) {
            return;
        }
        it.local = local;
        it.local_since = now;
        self.tell(|| format!("{} is {local:?}", self.hosts[host].name));
        self.input(host, run, Input::Local(local));
    }

    /// Gives an input to a host, and does what it answers.
    fn input(&mut self, host: usize, run: u64, input: Input) {
        let sabotage = self.sabotage;
        let Some(it) = self.run_of(host, run) else { return };
        let input = match input {
            // Whoever is missing in what is read is taken for one whose key was just deleted.
            Input::Read { store, revision, content }
                if sabotage == Some(Sabotage::TakesWhatIsMissingForLost) =>
            {
                let known = it.applied.as_ref().map(|(.., fleet)| fleet.members().iter());
                let known = known.into_iter().flatten().map(|member| member.name().clone());
                let has_key = |name: &MemberName| {
                    let is_its = |change: &Change| matches!(change, Change::Member(it) if it.member.name() == name);
                    content.iter().any(is_its)
                };
                let gone: Vec<_> =
                    known.filter(|name| !has_key(name)).map(Change::MemberGone).collect();
                Input::Read { store, revision, content: content.into_iter().chain(gone).collect() }
            }
            Input::Read { store, revision, content }
                if sabotage == Some(Sabotage::TakesItsFleetForTheLatest) =>
            {
                return self.input_with_the_last_fleet(host, run, store, revision, content);
            }
            input => input,
        };
        self.give(host, run, input);
    }

    /// A fleet that is missing in what is read is told as one that was deleted just now.
    fn input_with_the_last_fleet(
        &mut self,
        host: usize,
        run: u64,
        store: u64,
        revision: Revision,
        mut content: Vec<Change>,
    ) {
        let Some(it) = self.run_of(host, run) else { return };
        let seen = it.membership.health().revision;
        let known = it.applied.clone().filter(|(of, ..)| *of == store && seen < revision);
        let has_fleet = content.iter().any(|change| matches!(change, Change::Fleet(_)));
        let Some((_, modified, fleet)) = known.filter(|_| !has_fleet) else {
            return self.give(host, run, Input::Read { store, revision, content });
        };
        let version = self.versions.get(&(store, modified)).copied().unwrap_or_default();
        content.push(Change::Fleet(Stored { fleet, version, modified }));
        let before = Revision(revision.0 - 1);
        self.give(host, run, Input::Read { store, revision: before, content });
        self.give(host, run, Input::Watched { revision, changes: vec![Change::FleetGone] });
    }

    fn give(&mut self, host: usize, run: u64, input: Input) {
        let (now, sabotage) = (self.now, self.sabotage);
        let words = self.tells.then(|| format!("{input:?}"));
        let Some(it) = self.run_of(host, run) else { return };
        it.wake_at = None;
        let input = match input {
            // It goes at once, where it is to give its slots away first.
            Input::Local(LocalState::Draining { .. })
                if sabotage == Some(Sabotage::LeavesBeforeItsSlotsDo) =>
            {
                Input::Local(LocalState::Stopped)
            }
            input => input,
        };
        let actions = it.membership.step(input, now);
        let is_gone = it.membership.health().own == OwnState::Gone;
        if let Some(words) = words {
            let words: String = words.chars().take(300).collect();
            self.tell(|| format!("{} <- {words}", self.hosts[host].name));
        }
        self.inputs += 1;
        for action in actions {
            self.perform(host, run, action);
        }
        if is_gone {
            self.tell(|| format!("{} has left", self.hosts[host].name));
            self.hosts[host].run = None;
            if self.random.percent(60) {
                let at = now.after(self.random.up_to(Duration::from_secs(20)));
                self.schedule(at, Event::Start { host, adopts: false });
            }
        }
    }

    fn perform(&mut self, host: usize, run: u64, action: Action) {
        if self.tells {
            let words: String = format!("{action:?}").chars().take(300).collect();
            self.tell(|| format!("{} -> {words}", self.hosts[host].name));
        }
        let (now, store_id) = (self.now, self.store.id);
        match action {
            Action::Wake(at) => {
                let Some(it) = self.run_of(host, run) else { return };
                it.wake_at = Some(at);
                self.schedule(at.max(now), Event::Wake { host, run, at });
            }
            Action::Apply { fleet, revision } => {
                let Some(it) = self.run_of(host, run) else { return };
                let store = it.membership.store().unwrap_or_default();
                self.apply(host, store, fleet, revision);
            }
            Action::WatchFrom(first) => self.watch(host, run, first),
            action => {
                let number = self.counter;
                if self.is_sabotaged(&action) {
                    return;
                }
                if self.sabotage == Some(Sabotage::PutsInForceWhatItWrites)
                    && let Action::SwapFleet { fleet, .. } = &action
                {
                    let revision = Revision(self.store.revision.0 + 1);
                    self.apply(host, store_id, fleet.clone(), revision);
                }
                let arrives = self.arrival();
                let Some(it) = self.run_of(host, run) else { return };
                it.requests.push(number);
                let epoch = it.epoch;
                let keeps_alive = matches!(action, Action::KeepAlive(_));
                self.schedule(arrives, Event::Request { host, run, epoch, number, action });
                let timeout = Event::Timeout { host, run, epoch, number, keeps_alive };
                self.schedule(now.after(TIMEOUT), timeout);
            }
        }
    }

    fn is_sabotaged(&self, action: &Action) -> bool {
        match (self.sabotage, action) {
            (Some(Sabotage::KeepsNoLeaseAlive), Action::KeepAlive(_))
            | (Some(Sabotage::NeverLeaves), Action::Withdraw { .. }) => true,
            (Some(Sabotage::NeverAudits), Action::ReadAll) => {
                // The first readings are needed; an audit has no other reason than time.
                self.now > Timestamp(Duration::from_secs(1020)) && self.store.is_up
            }
            _ => false,
        }
    }

    fn apply(&mut self, host: usize, store: u64, fleet: Arc<Fleet>, revision: Revision) {
        self.check_application(host, store, &fleet, revision);
        let sabotage = self.sabotage;
        let name = self.hosts[host].name.clone();
        if let Some(run) = &mut self.hosts[host].run {
            let before = run.applied.take().map(|(.., before)| before);
            let owned = |fleet: &Fleet| fleet.owners().owned_by(&name);
            // It says that it has the new fleet, and its rules are those of the one before.
            let keeps = |before: &Arc<Fleet>| match sabotage {
                Some(Sabotage::KeepsItsSlots) => true,
                Some(Sabotage::TakesNoSlots) => owned(&fleet) > owned(before),
                _ => false,
            };
            let fleet = before.filter(keeps).unwrap_or(fleet);
            run.applied = Some((store, revision, fleet));
        }
        self.check_second_chance(host);
    }

    /// When what is sent now will be there.
    fn arrival(&mut self) -> Timestamp {
        self.now.after(Duration::from_micros(200) + self.random.up_to(self.delay))
    }

    /// A request has arrived at the store, whether its host still waits or not.
    fn arrive(&mut self, host: usize, run: u64, epoch: u64, number: u64, action: Action) {
        if !self.store.is_up || !self.hosts[host].linked {
            return;
        }
        let member = self.hosts[host].member.clone();
        let Some(it) = self.run_of(host, run) else { return };
        let instance = it.membership_instance();
        let seen = it.applied.as_ref().map_or(Revision::NONE, |(_, revision, _)| *revision);
        let input = match action {
            Action::ReadAll => Input::Read {
                store: self.store.id,
                revision: self.store.revision,
                content: self.store.content(),
            },
            Action::GrantLease => {
                let lease = self.store.grant(LEASE, self.now);
                self.schedule(self.now.after(LEASE), Event::LeaseEnds(lease));
                Input::LeaseGranted(lease)
            }
            Action::KeepAlive(lease) => match self.store.keep_alive(lease, LEASE, self.now) {
                true => {
                    self.schedule(self.now.after(LEASE), Event::LeaseEnds(lease));
                    Input::LeaseKept(lease)
                }
                false => Input::LeaseLost(lease),
            },
            Action::Publish { lease, state, knows, expected } => {
                let member = member.with_state(state);
                let said = (knows, false);
                let written = self.store.publish(member, instance, lease, expected, said);
                self.tell_watches();
                match written {
                    Written::At(revision) => Input::Publication { written: Some(revision) },
                    Written::NotAsExpected => Input::Publication { written: None },
                    Written::NoSuchLease => Input::LeaseLost(lease),
                }
            }
            Action::SwapFleet { fleet, version, expected } => {
                let expected = match self.sabotage {
                    Some(Sabotage::WritesOverWhatItHasNotSeen) => {
                        self.store.fleet.as_ref().map_or(Revision::NONE, |it| it.modified)
                    }
                    _ => expected,
                };
                let fleet = match self.sabotage {
                    Some(Sabotage::ForgetsFormerOwners) => {
                        let Shape { slots, seed, kept } = shape();
                        let anew = Fleet::seeded(slots, seed, kept, fleet.members().clone());
                        anew.map_or(fleet, Arc::new)
                    }
                    _ => fleet,
                };
                let before = self.store.fleet.clone();
                let written = self.store.swap(fleet, version, expected, self.now);
                if written {
                    self.versions.insert((self.store.id, self.store.revision), version);
                    if before.is_none() {
                        self.check_written_anew(host);
                    }
                    self.check_fleet(host, before, seen);
                    self.tell_watches();
                }
                Input::Swapped(written)
            }
            Action::Withdraw { lease, expected } => {
                self.check_withdrawal(host);
                let known = self.store.members.get(&self.hosts[host].name);
                if let Some((published, _)) = known
                    && published.modified == expected
                {
                    let (member, said) = (published.member.clone(), (published.knows, true));
                    self.store.publish(member, instance, lease, expected, said);
                    self.tell_watches();
                }
                self.store.revoke(lease, self.now);
                self.tell_watches();
                Input::Withdrawn
            }
            Action::Apply { .. } | Action::Wake(_) | Action::WatchFrom(_) => return,
        };
        let at = self.arrival();
        self.schedule(at, Event::Told { host, run, epoch, answers: Some(number), input });
    }

    fn watch(&mut self, host: usize, run: u64, first: Revision) {
        let first = match self.sabotage {
            Some(Sabotage::MissesTheFirstChange) => Revision(first.0 + 1),
            _ => first,
        };
        let arrives = self.now;
        let Some(it) = self.run_of(host, run) else { return };
        it.watch = Some(Watch { next: first, arrives, is_stuck: false });
        self.tell_watches();
    }

    /// Sends every watch what it has not been sent.
    fn tell_watches(&mut self) {
        for host in 0..self.hosts.len() {
            let reached = self.hosts[host].linked && self.store.is_up;
            let way = Duration::from_micros(200) + self.random.up_to(self.delay);
            let now = self.now;
            let Some(it) = &mut self.hosts[host].run else { continue };
            let (run, epoch) = (it.number, it.epoch);
            let Some(watch) = it.watch.as_mut().filter(|watch| !watch.is_stuck && reached) else {
                continue;
            };
            let Some(changes) = self.store.changes_from(watch.next) else {
                it.watch = None;
                let input = Input::WatchEnded { reason: "compacted".to_owned() };
                let told = Event::Told { host, run, epoch, answers: None, input };
                self.schedule(now.after(way), told);
                continue;
            };
            let arrives = watch.arrives.max(now.after(way));
            watch.arrives = arrives;
            if let Some((last, _)) = changes.last() {
                watch.next = Revision(last.0 + 1);
            }
            for (revision, changes) in changes {
                let input = Input::Watched { revision, changes };
                let told = Event::Told { host, run, epoch, answers: None, input };
                self.schedule(arrives, told);
            }
        }
    }

    fn end_lease(&mut self, lease: super::super::Lease) {
        let has_ended = self.store.leases.get(&lease).is_some_and(|end| *end <= self.now);
        if self.store.is_up && has_ended {
            self.tell(|| format!("lease {lease:?} ends"));
            self.store.revoke(lease, self.now);
            self.tell_watches();
        }
    }

    /// The connection of a host breaks, which it finds out after a while.
    fn break_connection(&mut self, host: usize, most: Duration) {
        let at = self.now.after(self.random.up_to(most));
        let Some(it) = &mut self.hosts[host].run else { return };
        it.watch = None;
        let (run, epoch) = (it.number, it.epoch);
        self.schedule(at, Event::LoseSource { host, run, epoch });
    }

    fn trouble(&mut self, trouble: Trouble) {
        if self.is_calm {
            return;
        }
        self.tell(|| format!("--- {trouble:?}"));
        let now = self.now;
        match trouble {
            Trouble::CutOff { host, span } => {
                self.hosts[host].linked = false;
                self.hosts[host].cuts += 1;
                let cut = self.hosts[host].cuts;
                self.break_connection(host, Duration::from_secs(3));
                self.schedule(now.after(span), Event::Trouble(Trouble::Rejoin { host, cut }));
            }
            Trouble::Rejoin { host, cut } => {
                if self.hosts[host].cuts == cut {
                    self.hosts[host].linked = true;
                    self.hosts[host].linked_since = now;
                }
            }
            Trouble::StoreDown { span } => {
                self.store.is_up = false;
                self.outages += 1;
                let outage = self.outages;
                for host in 0..self.hosts.len() {
                    self.break_connection(host, Duration::from_secs(1));
                }
                self.schedule(now.after(span), Event::Trouble(Trouble::StoreUp { outage }));
            }
            Trouble::StoreUp { outage } if outage == self.outages => self.store_is_back(),
            Trouble::StoreUp { .. } => {}
            Trouble::Compaction => self.store.compact(),
            Trouble::StuckWatch { host } => {
                self.has_stuck_watches = true;
                let watch = self.hosts[host].run.as_mut().and_then(|it| it.watch.as_mut());
                if let Some(watch) = watch {
                    watch.is_stuck = true;
                }
            }
            Trouble::LostData => {
                self.store.replaced(now);
                for host in 0..self.hosts.len() {
                    self.break_connection(host, Duration::from_millis(10));
                }
            }
            Trouble::EndLease { host } => {
                let key = self.store.members.get(&self.hosts[host].name);
                if let Some(lease) = key.map(|(_, lease)| *lease) {
                    self.touched_at = Some(now);
                    self.store.revoke(lease, now);
                    self.tell_watches();
                }
            }
            Trouble::DeleteFleet => {
                self.touched_at = Some(now);
                self.store.delete_fleet();
                self.tell_watches();
            }
            Trouble::Crash { host, span } => {
                self.hosts[host].run = None;
                let adopts = self.random.percent(50);
                self.schedule(now.after(span), Event::Start { host, adopts });
            }
            Trouble::Flap { host, span } => {
                let Some(run) = self.hosts[host].run.as_ref().map(|it| it.number) else { return };
                self.say(host, run, LocalState::NotReady);
                let local = LocalState::Ready;
                self.schedule(now.after(span), Event::Say { host, run, local });
            }
            Trouble::Drain { host, span } => {
                let Some(run) = self.hosts[host].run.as_ref().map(|it| it.number) else { return };
                let stops = self.random.percent(20);
                let first = match stops {
                    true => LocalState::Stopped,
                    false => LocalState::Draining { connections: 3 },
                };
                self.say(host, run, first);
                let local = LocalState::Draining { connections: 0 };
                if !stops {
                    self.schedule(now.after(span), Event::Say { host, run, local });
                }
            }
        }
    }

    /// The store has a leader again, which gives every lease its whole time.
    fn store_is_back(&mut self) {
        let now = self.now;
        self.store.is_up = true;
        self.store.up_since = now;
        let leases: Vec<_> = self.store.leases.keys().copied().collect();
        for lease in leases {
            self.store.keep_alive(lease, LEASE, now);
            self.schedule(now.after(LEASE), Event::LeaseEnds(lease));
        }
    }

    fn calm_down(&mut self) {
        self.tell(|| "--- calm".to_owned());
        self.is_calm = true;
        let now = self.now;
        for host in &mut self.hosts {
            if !host.linked {
                host.linked = true;
                host.linked_since = now;
            }
        }
        if !self.store.is_up {
            self.store_is_back();
        }
    }
}

impl Run {
    fn membership_instance(&self) -> Instance {
        self.membership.instance()
    }
}

fn shape() -> Shape {
    Shape { slots: SLOTS, ..Shape::default() }
}
