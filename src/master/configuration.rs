//! The configuration of a running master: read again for a reload, put in force with it, and taken back
//! where that fails.
//!
//! Reading the file, looking up users and comparing with other clusters takes long, so a thread does it
//! ([`ConfigurationReader`]); the loop compares the result with what is in force then. What a reload
//! changes holds from its beginning on. If the reload fails, what held before holds again; which templates,
//! listeners and signals workers of a generation get is kept for each generation (`workers/spawner.rs`,
//! `supervisor/rollout/configured.rs`), so that a worker of the old generation that is replaced meanwhile is
//! like its predecessor.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::background::BackgroundThread;
use super::error::{MasterError, causes};
use super::startup::overlap::refuse_overlap;
use super::startup::template::{TemplateSource, limits};
use super::waiting::receive;
use super::workers::Template;
use crate::config::{Config, ConfigError, refusal_of};
use crate::control::Responder;
use crate::plan::Generation;
use crate::process::Account;
use crate::protocol::{
    Command, ConfigurationReport, ConfigurationStatus, Outcome, Refusal, SettingChange,
    SettingInForce, changes_text,
};
use crate::supervisor::{RequestId, Settings};

/// What a reload reads the configuration from.
#[derive(Clone)]
pub(super) struct ConfigSource(Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>);

impl ConfigSource {
    pub(super) fn new(
        read: impl Fn() -> Result<Config, ConfigError> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(read))
    }
}

impl std::fmt::Debug for ConfigSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConfigSource")
    }
}

/// A configuration, and what workers are started with by it.
#[derive(Clone)]
pub(super) struct ConfigAndTemplate {
    pub(super) config: Arc<Config>,
    pub(super) template: Arc<Template>,
}

/// For whom the configuration is read.
pub(super) enum Purpose {
    /// For a reload or restart.
    Reload(RequestId, Command),
    /// For somebody who wants to see it.
    Report(Responder),
}

/// The configuration as it was read.
pub(super) struct ReadConfiguration {
    pub(super) purpose: Purpose,
    /// The configuration that it was compared with.
    against: Arc<Config>,
    /// `None` if nothing differs.
    result: Result<Option<ConfigAndTemplate>, String>,
}

/// What a configuration that was read would change.
pub(super) struct ProposedConfiguration {
    pub(super) next: ConfigAndTemplate,
    pub(super) changes: Vec<SettingChange>,
    /// The number or the weights of workers are others.
    pub(super) reshares: bool,
}

/// What is to be done about a configuration that was read.
pub(super) enum Verdict {
    /// It is read again: what is in force has changed meanwhile.
    Again,
    Refused(String),
    Same,
    Changed(Box<ProposedConfiguration>),
}

/// A reload that has begun with another configuration and is not over.
struct Pending {
    request: RequestId,
    before: ConfigAndTemplate,
}

/// The configuration of a running master.
pub(super) struct Configuration {
    current: ConfigAndTemplate,
    reader: Option<ConfigurationReader>,
    /// What generations began with; an absent one is of an earlier master, or the first.
    begun: BTreeMap<Generation, ConfigAndTemplate>,
    initial: ConfigAndTemplate,
    pending: Vec<Pending>,
    /// The request that puts what is configured in force in place of what an earlier master had, and whether the
    /// shares are part of that.
    starting: Option<(RequestId, bool)>,
    /// The configured shares are not in force, since that has failed.
    lacks_shares: bool,
    /// To be put in force again.
    reverts: VecDeque<ConfigAndTemplate>,
    status: ConfigurationStatus,
}

/// So many generations are remembered, as far as a rollback may go back.
const REMEMBERED: usize = 16;

impl Configuration {
    pub(super) fn new(current: ConfigAndTemplate, reader: Option<ConfigurationReader>) -> Self {
        Self {
            initial: current.clone(),
            current,
            reader,
            begun: BTreeMap::new(),
            pending: Vec::new(),
            starting: None,
            lacks_shares: false,
            reverts: VecDeque::new(),
            status: ConfigurationStatus::default(),
        }
    }

    pub(super) fn config(&self) -> &Arc<Config> {
        &self.current.config
    }

    pub(super) fn status(&self) -> &ConfigurationStatus {
        &self.status
    }

    /// Waits for a configuration that was read.
    pub(super) async fn next(&mut self) -> ReadConfiguration {
        match &mut self.reader {
            Some(reader) => receive(&mut reader.results).await,
            None => std::future::pending().await,
        }
    }

    /// Has the configuration read, if there is anything to read again; else gives the purpose back.
    pub(super) fn read(&self, purpose: Purpose) -> Result<(), Purpose> {
        match &self.reader {
            Some(reader) => {
                reader.read(purpose, Arc::clone(&self.current.config));
                Ok(())
            }
            None => Err(purpose),
        }
    }

    /// What is to be done about a configuration that was read.
    pub(super) fn judge(&self, read: &ReadConfiguration) -> Verdict {
        let next = match &read.result {
            Err(reason) => return Verdict::Refused(reason.clone()),
            _ if !Arc::ptr_eq(&read.against, &self.current.config) => return Verdict::Again,
            Ok(None) if self.lacks_shares => {
                let (next, changes) = (self.current.clone(), Vec::new());
                return Verdict::Changed(Box::new(ProposedConfiguration {
                    next,
                    changes,
                    reshares: true,
                }));
            }
            Ok(None) => return Verdict::Same,
            Ok(Some(next)) => next.clone(),
        };
        let current = &self.current.config;
        let changes = current.changes_to(&next.config);
        let reshares = !current.has_shares_of(&next.config) || self.lacks_shares;
        Verdict::Changed(Box::new(ProposedConfiguration { next, changes, reshares }))
    }

    /// What is in force, and what a reload would change of it, if anything could be read again. The cluster is to have
    /// `workers`, by the configuration or by a scale since.
    pub(super) fn report(&self, verdict: Option<&Verdict>, workers: usize) -> ConfigurationReport {
        let (mut changes, mut refused) = (Vec::new(), None);
        match verdict {
            Some(Verdict::Refused(reason)) => refused = Some(reason.clone()),
            Some(Verdict::Changed(proposed)) => changes.clone_from(&proposed.changes),
            Some(Verdict::Same | Verdict::Again) | None => {}
        }
        let mut settings = self.current.config.settings_in_force();
        if let Some(scaled) = self.scaled(workers) {
            for (setting, now) in settings.iter_mut().zip(scaled.settings_in_force()) {
                if setting.value != now.value {
                    let SettingInForce { value, origin, .. } = &*setting;
                    let origin = format!("`ipcluster scale`, in place of {value} ({origin})");
                    *setting = SettingInForce { origin, ..now };
                }
            }
            for change in changes.iter_mut().filter(|change| change.key == "workers") {
                change.before = workers.to_string();
            }
            changes.retain(|change| change.before != change.after);
        }
        ConfigurationReport { settings, changes, refused }
    }

    /// The configuration with the number of workers that a scale has made of it; `None` if none has, and as long as the
    /// number of an earlier master is in force in place of what is configured.
    fn scaled(&self, workers: usize) -> Option<Config> {
        let workers = u16::try_from(workers).ok()?;
        let is_adopted = self.lacks_shares || self.starting.is_some_and(|(_, reshares)| reshares);
        if is_adopted || workers == self.current.config.workers() {
            return None;
        }
        self.current.config.scaled(workers).ok()
    }

    /// A configuration was refused before anything was done.
    pub(super) fn refused(&mut self, reason: &str) {
        self.status = ConfigurationStatus {
            in_force: false,
            reason: Some(format!("not reloaded: {reason}")),
        };
    }

    /// A reload begins with another configuration, which holds from now on.
    pub(super) fn begin(&mut self, request: RequestId, next: ConfigAndTemplate) {
        let before = std::mem::replace(&mut self.current, next);
        self.pending.push(Pending { request, before });
    }

    /// The configuration differs from that of the earlier master, or is to be started anew, and this request puts
    /// it in force; `reshares` says whether the shares differ.
    pub(super) fn starts(&mut self, request: RequestId, reshares: bool) {
        self.starting = Some((request, reshares));
        let reason =
            "the workers of the earlier master serve until those of this configuration are ready";
        self.status = ConfigurationStatus { in_force: false, reason: Some(reason.to_owned()) };
    }

    /// A generation begins with what is configured now.
    pub(super) fn generation_begins(&mut self, generation: Generation) {
        self.begun.insert(generation, self.current.clone());
        while self.begun.len() > REMEMBERED {
            self.begun.pop_first();
        }
    }

    /// A request is answered: what its reload has brought stays, or goes.
    pub(super) fn answered(&mut self, request: RequestId, outcome: &Result<Outcome, Refusal>) {
        if let Some((_, reshares)) = self.starting.take_if(|(starting, _)| *starting == request) {
            self.status = match outcome {
                Ok(_) => ConfigurationStatus::default(),
                Err(refusal) => {
                    self.lacks_shares = reshares;
                    let reason = format!("the workers of the earlier master serve: {refusal}");
                    ConfigurationStatus { in_force: false, reason: Some(reason) }
                }
            };
            return;
        }
        let place = self.pending.iter().position(|pending| pending.request == request);
        let pending = place.map(|place| (place, self.pending.remove(place)));
        match (outcome, pending) {
            (Ok(Outcome::RolledBack(done)), _) => self.rolled_back(done.generation),
            (Ok(Outcome::Reloaded(_) | Outcome::Restarted(_)), _) => {
                self.lacks_shares = false;
                self.status = ConfigurationStatus::default();
            }
            // It is in force; the reload that has replaced it says what becomes of it.
            (Err(Refusal::Replaced { .. }), _) | (Ok(_), _) | (Err(_), None) => {}
            (Err(refusal), Some((place, pending))) => {
                match self.pending.get_mut(place) {
                    // A later reload has begun with its own: if that fails, it goes back beyond this one.
                    Some(later) => later.before = pending.before,
                    None => {
                        self.current = pending.before.clone();
                        self.reverts.push_back(pending.before);
                    }
                }
                let reason = format!("the reload failed: {refusal}");
                self.status = ConfigurationStatus { in_force: false, reason: Some(reason) };
            }
        }
    }

    /// The configuration of the generation that serves again holds again.
    fn rolled_back(&mut self, generation: Generation) {
        let before = self.begun.get(&generation).unwrap_or(&self.initial).clone();
        let changes = before.config.changes_to(&self.current.config);
        if changes.is_empty() {
            return;
        }
        let reason =
            format!("rolled back to generation {generation}, without {}", changes_text(&changes));
        self.status = ConfigurationStatus { in_force: false, reason: Some(reason) };
        self.current = before.clone();
        self.reverts.push_back(before);
    }

    /// A configuration that is to be put in force again.
    pub(super) fn take_revert(&mut self) -> Option<ConfigAndTemplate> {
        self.reverts.pop_front()
    }
}

/// The thread that reads the configuration again.
pub(super) struct ConfigurationReader {
    source: ConfigSource,
    templates: Arc<TemplateSource>,
    thread: BackgroundThread,
    sender: mpsc::UnboundedSender<ReadConfiguration>,
    results: mpsc::UnboundedReceiver<ReadConfiguration>,
}

impl ConfigurationReader {
    pub(super) fn new(
        source: ConfigSource,
        templates: TemplateSource,
    ) -> Result<Self, MasterError> {
        let (sender, results) = mpsc::unbounded_channel();
        let (templates, thread) = (Arc::new(templates), BackgroundThread::new("config-reader")?);
        Ok(Self { source, templates, thread, sender, results })
    }

    fn read(&self, purpose: Purpose, against: Arc<Config>) {
        let (source, templates) = (self.source.clone(), Arc::clone(&self.templates));
        let sender = self.sender.clone();
        self.thread.run(move || {
            let result = read(&source, &templates, &against);
            // The loop has ended.
            let _ = sender.send(ReadConfiguration { purpose, against, result });
        });
    }
}

/// Reads the configuration, and makes what workers are started with by it. The error is for display.
fn read(
    source: &ConfigSource,
    templates: &TemplateSource,
    against: &Config,
) -> Result<Option<ConfigAndTemplate>, String> {
    let config = (source.0)().map_err(|error| match error.hint() {
        Some(hint) => format!("{error}; {hint}"),
        None => error.to_string(),
    })?;
    let changes = against.changes_to(&config);
    if changes.is_empty() {
        return Ok(None);
    }
    if let Some(reason) = refusal_of(&changes) {
        return Err(reason);
    }
    let (before, after) = (against.listeners(), config.listeners());
    if config.engine().port_stride(before) != config.engine().port_stride(after) {
        return Err(String::from(
            "`listen` cannot change the number of public ports while the master runs with engine = \
             \"tproxy\": `ipcluster run --replace` with the same file takes over",
        ));
    }
    let prepare = || {
        if before != after {
            refuse_overlap(&config)?;
        }
        for limit in limits(&config) {
            if let Some(hard) = limit.allow()? {
                return Err(MasterError::Limit { resource: limit.resource.key(), hard });
            }
        }
        let account = Account::look_up(config.user(), config.group())?;
        templates.make(&config, account)
    };
    let template = prepare().map_err(|error| causes(&error))?;
    for hint in config.hints() {
        tracing::warn!("{hint}");
    }
    Ok(Some(ConfigAndTemplate { config: Arc::new(config), template: Arc::new(template) }))
}

/// What the supervisor goes by.
pub(super) fn settings(config: &Config) -> Settings {
    Settings {
        weights: config.weights().clone(),
        further_share: config.further_share(),
        ready: config.ready_timeout(),
        drain: config.drain_timeout(),
        rollback: config.rollback_timeout(),
        probation: config.rollout_probation(),
        max_failures: config.rollout_max_failures(),
        die: config.die_timeout(),
        signals: config.end_signals(),
        ping: config.ping_timeout().unwrap_or(Settings::default().ping),
        parallel: parallel_starts(config),
        stagger: config.spawn_stagger(),
        end_stagger: match config.spawn_stagger() {
            Duration::ZERO => Settings::default().end_stagger,
            given => given,
        },
        backoff: config.spawn_backoff(),
        give_up: config.spawn_give_up(),
        retire: config.retire(),
        memory: config.memory(),
        kill_old: config.kill_old(),
        holds_listeners: config.socket_activation(),
        prepares_releases: true,
        ..Settings::default()
    }
}

/// How many workers start at a time.
fn parallel_starts(config: &Config) -> usize {
    match config.spawn_parallel() {
        0 => std::thread::available_parallelism().map_or(1, NonZero::get),
        given => usize::from(given),
    }
}
