//! Another configuration while the cluster runs: settings that apply at once, and what comes with the
//! generation that a reload starts.
//!
//! The listeners and the signals of a generation are those that were configured when it began, so that a
//! worker that is replaced while a reload is under way, or after a rollback, is like its predecessor.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::plan::{Generation, Listeners, Plan};
use crate::protocol::{Command, EndSignals, Refusal};
use crate::supervisor::{RequestId, Settings, Supervisor};

/// A configuration, as far as the supervisor needs to know it.
#[derive(Debug, Clone, PartialEq)]
pub struct Configured {
    /// What applies at once, and the weights and signals of the next generation.
    pub settings: Settings,
    /// The listeners of the next generation.
    pub listeners: Arc<Listeners>,
}

/// What was configured when a generation began.
#[derive(Debug, Clone)]
pub(in crate::supervisor) struct GenerationConfigured {
    listeners: Arc<Listeners>,
    signals: EndSignals,
}

/// What was configured for each generation.
#[derive(Debug, Clone)]
pub(in crate::supervisor) struct Configurations {
    /// For a generation that begins now.
    next: Arc<Listeners>,
    /// For generations that began under an earlier master.
    adopted: GenerationConfigured,
    /// That of the plan with which this master began, and those of the workers that it named: their listeners
    /// are its listeners. Others may have had others.
    in_force: BTreeSet<Generation>,
    begun: BTreeMap<Generation, GenerationConfigured>,
}

impl Configurations {
    pub(in crate::supervisor) fn new(in_force: &Plan, signals: EndSignals) -> Self {
        let listeners = Arc::new(in_force.listeners().clone());
        let adopted = GenerationConfigured { listeners: Arc::clone(&listeners), signals };
        let occupants = in_force.seats().filter_map(|(_, occupant)| occupant);
        let of_occupants = occupants.map(|occupant| occupant.generation);
        // Its own is that of the workers which are started for it.
        let in_force = of_occupants.chain([in_force.generation()]).collect();
        Self { next: listeners, adopted, in_force, begun: BTreeMap::new() }
    }

    fn of(&self, generation: Generation) -> &GenerationConfigured {
        self.begun.get(&generation).unwrap_or(&self.adopted)
    }

    /// The listeners of a generation.
    pub(in crate::supervisor) fn listeners_of(&self, generation: Generation) -> &Arc<Listeners> {
        &self.of(generation).listeners
    }

    /// The listeners of a generation; `None` if an earlier master began it, and nothing tells.
    pub(in crate::supervisor) fn known_listeners_of(
        &self,
        generation: Generation,
    ) -> Option<&Listeners> {
        let is_known = self.begun.contains_key(&generation) || self.in_force.contains(&generation);
        is_known.then(|| &**self.listeners_of(generation))
    }

    /// The signals of the workers of a generation.
    pub(in crate::supervisor) fn signals_of(&self, generation: Generation) -> EndSignals {
        self.of(generation).signals
    }

    /// Forgets what was configured for the generations of this master.
    #[cfg(test)]
    pub(in crate::supervisor) fn forget_begun(&mut self) {
        self.begun.clear();
    }

    /// A generation begins; generations of which `is_needed` is false are forgotten.
    fn begin(
        &mut self,
        generation: Generation,
        signals: EndSignals,
        is_needed: impl Fn(Generation) -> bool,
    ) {
        self.begun.retain(|known, _| is_needed(*known));
        let listeners = Arc::clone(&self.next);
        self.begun.insert(generation, GenerationConfigured { listeners, signals });
    }
}

/// So many generations are remembered also without workers: a rollback may go back to them.
const REMEMBERED: u64 = 16;

impl Supervisor {
    /// Puts another configuration in force: what applies at once now, the rest with the generation that
    /// `command` starts. With `reshares` that generation has the number and the weights of workers that are
    /// configured; else those that the cluster has, by whatever request.
    pub(in crate::supervisor) fn reconfigure(
        &mut self,
        request: RequestId,
        command: Command,
        configured: Configured,
        reshares: bool,
    ) {
        let adds_share = matches!(command, Command::Reload { share: Some(_) });
        let is_other =
            *configured.listeners != **self.configurations.listeners_of(self.target.generation);
        if adds_share && (is_other || reshares) {
            return self.reply(request, Err(Refusal::Configuration {
                reason: "`listen`, `workers` and `weights` cannot change for a share of the clients: reload \
                         without --share"
                    .to_owned(),
            }));
        }
        let weights = match reshares {
            true => configured.settings.weights.clone(),
            false => self.target.weights.clone(),
        };
        if let Err(error) = self.plan().rescaled(&weights) {
            return self.reply(request, Err(error.into()));
        }
        self.configured(configured);
        match command {
            Command::Restart => self.restart_with(request, weights),
            Command::Reload { share: Some(share) } => self.begin_canary(request, share),
            _ => self.reload_with(request, weights),
        }
    }

    /// What is configured from now on; the generations that there are keep what they began with.
    pub(in crate::supervisor) fn configured(&mut self, configured: Configured) {
        let Configured { settings, listeners } = configured;
        // Each master draws its own.
        self.settings = Settings { seed: self.settings.seed, ..settings };
        self.configurations.next = listeners;
    }

    /// A generation begins with what is configured now.
    pub(in crate::supervisor) fn note_generation(&mut self, generation: Generation) {
        let has_workers = |known| self.workers.values().any(|it| it.generation == known);
        let is_recent = |known: Generation| known.0.saturating_add(REMEMBERED) > generation.0;
        let needed: Vec<Generation> = self
            .configurations
            .begun
            .keys()
            .copied()
            .filter(|known| is_recent(*known) || has_workers(*known))
            .collect();
        let signals = self.settings.signals;
        self.configurations.begin(generation, signals, |known| needed.contains(&known));
    }
}
