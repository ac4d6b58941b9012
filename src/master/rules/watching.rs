//! What others do to rules: read from the watch, told to the supervisor; and what rules of theirs
//! decide before ours.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::master::actions::{World, causes};
use crate::nft::{Certainty, ForeignNat, ForeignRules, NftError, Watch, WatchEvent};
use crate::plan::Plan;
use crate::protocol::ForeignChain;
use crate::supervisor::{Event, Input, Timestamp, Writer};

/// The least time between the end of a look for foreign rules and the next one.
const FOREIGN_INTERVAL: Duration = Duration::from_millis(400);

/// A look that took long is not soon followed by another: one part in so many of the time at most.
const FOREIGN_SHARE: u32 = 5;

/// The longest time between looks while they fail, as in a storm of commits.
const FOREIGN_PATIENCE: Duration = Duration::from_secs(10);

/// What a master hears of changes that others make.
pub(crate) struct Watching {
    pub(crate) watch: Watch,
    /// Somebody has changed rules outside our table since the last look for foreign rules.
    others_changed: bool,
    /// `None` while a look is under way.
    rules: Option<ForeignRules>,
    next_look: Timestamp,
    /// Looks that failed in a row.
    failures: u32,
    /// What the last look has found.
    found: Vec<ForeignNat>,
}

/// What a look for foreign rules gives back.
pub(crate) struct ForeignScan {
    rules: ForeignRules,
    began: Timestamp,
    found: Result<Vec<ForeignNat>, NftError>,
}

impl Watching {
    /// Begins to listen. The first look for foreign rules is due at once.
    pub(crate) fn open() -> Result<Self, NftError> {
        Ok(Self {
            watch: Watch::open()?,
            others_changed: true,
            rules: Some(ForeignRules::open()?),
            next_look: Timestamp::START,
            failures: 0,
            found: Vec::new(),
        })
    }

    /// What was found, for a status.
    pub(crate) fn foreign_chains(&self) -> Vec<ForeignChain> {
        let cut = |name: &str| name.chars().take(ForeignChain::NAME_LEN).collect();
        let chain = |one: &ForeignNat| {
            Some(ForeignChain {
                family: one.family.to_string(),
                table: cut(&one.table),
                chain: cut(&one.chain),
                hook: one.hook.to_string(),
                priority: one.priority,
                rule_chain: cut(&one.rule_chain),
                handle: one.handle,
                listener: one.listener?,
                certain: one.certainty == Certainty::Certain,
            })
        };
        self.found.iter().filter_map(chain).take(ForeignChain::MOST).collect()
    }
}

impl World {
    /// Reads what was told of other people's commits, or a part of it. Returns the events that this
    /// makes, and whether there is nothing more to read.
    pub(crate) fn read_changes(&mut self) -> Result<(VecDeque<Input>, bool), NftError> {
        let own = self.firewall.port()?;
        let reading = self.watching.watch.read()?;
        let table = self.firewall.table();
        let mut events = VecDeque::new();
        for event in reading.events {
            match event {
                WatchEvent::Committed(commit) if commit.port == own => {}
                WatchEvent::Committed(commit) => {
                    self.watching.others_changed |= commit.touches_others(table);
                    if commit.touches(table) {
                        let writer = commit.writer.map(|it| Writer { pid: it.pid, name: it.name });
                        events.push_back(Input::TableChanged { writer });
                    }
                }
                WatchEvent::Lost => {
                    tracing::warn!("missed changes that others made to rules: all is read again");
                    self.watching.others_changed = true;
                    events.push_back(Input::NotificationsLost);
                }
            }
        }
        Ok((events, reading.is_drained))
    }

    /// When foreign rules are to be looked for; `None` while nobody has changed any.
    pub(crate) fn foreign_look_at(&self) -> Option<Timestamp> {
        let Watching { others_changed, rules, next_look, .. } = &self.watching;
        (*others_changed && rules.is_some()).then_some(*next_look)
    }

    /// Looks for foreign rules, beside the loop: others may have very many.
    pub(crate) fn look_for_foreign(
        &mut self,
        plan: &Plan,
        looked: mpsc::UnboundedSender<ForeignScan>,
    ) {
        let Some(mut rules) = self.watching.rules.take() else { return };
        self.watching.others_changed = false;
        let (began, listeners) = (self.now(), plan.listeners().clone());
        let (local_clients, engine) = (plan.has_local_clients(), plan.engine());
        self.looking.run(move || {
            let found = rules.find(Some(&listeners), local_clients, engine);
            // The loop has ended.
            let _ = looked.send(ForeignScan { rules, began, found });
        });
    }

    /// Tells what a look has found that the one before had not, and the other way round.
    pub(crate) fn looked_for_foreign(&mut self, look: ForeignScan) {
        let now = self.now();
        let ForeignScan { rules, began, found } = look;
        let watching = &mut self.watching;
        watching.rules = Some(rules);
        match found {
            Ok(found) => {
                let pause = now.since(began).saturating_mul(FOREIGN_SHARE - 1);
                watching.next_look = now.after(pause.max(FOREIGN_INTERVAL));
                watching.failures = 0;
                let before = std::mem::replace(&mut watching.found, found.clone());
                for rule in found.iter().filter(|one| !before.contains(one)) {
                    self.announce(Event::ForeignNatFound { rule: rule.to_string() });
                }
                for rule in before.iter().filter(|one| !found.contains(one)) {
                    self.announce(Event::ForeignNatGone { rule: rule.to_string() });
                }
            }
            Err(error) => {
                watching.failures = watching.failures.saturating_add(1);
                let pause = FOREIGN_INTERVAL.saturating_mul(1 << watching.failures.min(10));
                watching.next_look = now.after(pause.min(FOREIGN_PATIENCE));
                watching.others_changed = true;
                if watching.failures == 1 {
                    tracing::warn!(error = causes(&error), "cannot look for nat rules of others");
                }
            }
        }
    }
}
