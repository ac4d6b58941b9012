//! The loop of a membership in etcd.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::keys::Told;
use super::session::Session;
use super::{EtcdError, EtcdSettings};
use crate::fleet::{Action, Input, LocalState, Membership, OwnWords, Revision};
use crate::membership::clock;
use crate::membership::thread::{State, tell};
use crate::plan::fleet::MemberState;
use crate::protocol::Timestamp;

/// Keeps the membership, until nobody listens.
pub(in crate::membership) async fn run(
    settings: EtcdSettings,
    state: watch::Sender<State>,
    mut local: watch::Receiver<LocalState>,
) {
    let mut membership = Membership::new(settings.membership.clone());
    let mut link = Link::new(settings);
    let mut fleet = None;
    let mut input = Input::Local(*local.borrow_and_update());
    loop {
        let mut wake = None;
        for action in membership.step(input, clock::now()) {
            match action {
                Action::Wake(at) => wake = Some(at),
                Action::Apply { fleet: next, revision } => fleet = Some((next, revision)),
                action => link.perform(action),
            }
        }
        tell(&state, State { fleet: fleet.clone(), health: membership.health() });
        input = tokio::select! {
            () = state.closed() => return,
            changed = local.changed() => match changed {
                Ok(()) => Input::Local(*local.borrow_and_update()),
                Err(_) => return,
            },
            input = link.next() => input,
            () = sleep_until(wake) => Input::Tick,
        };
    }
}

async fn sleep_until(at: Option<Timestamp>) {
    match at.and_then(|at| Instant::now().checked_add(at.since(clock::now()))) {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// What came of something that was asked.
struct Answer {
    /// In which session it was asked: what is of one before is passed over.
    of: u64,
    input: Result<Input, EtcdError>,
    keeps_alive: bool,
}

/// The server that is asked, and the next one when it fails.
struct Link {
    settings: EtcdSettings,
    session: Arc<Session>,
    number: u64,
    watch: Option<AbortHandle>,
    sender: mpsc::UnboundedSender<Answer>,
    answers: mpsc::UnboundedReceiver<Answer>,
    /// What the key was written with last.
    published: OwnWords,
}

impl Link {
    fn new(settings: EtcdSettings) -> Self {
        let (sender, answers) = mpsc::unbounded_channel();
        let session = Arc::new(Session::new(&settings, 0));
        let membership = &settings.membership;
        let published = OwnWords {
            member: membership.member.clone().with_state(MemberState::Draining),
            instance: membership.instance,
            knows: 0,
            leaves: false,
        };
        Self { settings, session, number: 0, watch: None, sender, answers, published }
    }

    /// What has happened next.
    async fn next(&mut self) -> Input {
        loop {
            // There is always a sender: this one's.
            let Some(answer) = self.answers.recv().await else { return Input::Tick };
            if answer.of != self.number {
                continue;
            }
            match answer.input {
                Ok(input) => return input,
                // Tried again beside whatever else is.
                Err(_) if answer.keeps_alive && self.watch.is_none() => {}
                Err(error) => {
                    self.lose();
                    return Input::SourceLost { reason: error.to_string() };
                }
            }
        }
    }

    /// Goes on with the next server.
    fn lose(&mut self) {
        self.end_watch();
        self.number += 1;
        let nth = usize::try_from(self.number).unwrap_or(0);
        self.session = Arc::new(Session::new(&self.settings, nth));
    }

    fn end_watch(&mut self) {
        if let Some(watch) = self.watch.take() {
            watch.abort();
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::WatchFrom(first) => {
                self.end_watch();
                let (session, sender, of) =
                    (self.session.clone(), self.sender.clone(), self.number);
                let watch = tokio::spawn(async move {
                    let input = follow(&session, first, &sender, of).await;
                    let _ = sender.send(Answer { of, input, keeps_alive: false });
                });
                self.watch = Some(watch.abort_handle());
            }
            action => self.ask(action),
        }
    }

    fn ask(&mut self, action: Action) {
        let (session, sender, of) = (self.session.clone(), self.sender.clone(), self.number);
        let time = self.settings.membership.timing.lease;
        let patience = match self.watch {
            // Whether the server still answers is told by this.
            Some(_) => self.settings.membership.timing.timeout(),
            None => time,
        };
        if let Action::Publish { state, knows, .. } = action {
            let member = self.settings.membership.member.clone().with_state(state);
            self.published = OwnWords { member, knows, ..self.published.clone() };
        }
        let words = self.published.clone();
        tokio::spawn(async move {
            let keeps_alive = matches!(action, Action::KeepAlive(_));
            let input = match action {
                Action::ReadAll => session.read_all().await,
                Action::GrantLease => session.grant_lease(time).await,
                Action::KeepAlive(lease) => session.keep_alive(lease, patience).await,
                Action::Publish { lease, expected, .. } => {
                    session.publish(&words, lease, expected).await
                }
                Action::SwapFleet { fleet, version, expected } => {
                    session.swap_fleet(&fleet, version, expected).await
                }
                Action::Withdraw { lease, expected } => {
                    let words = OwnWords { leaves: true, ..words };
                    session.withdraw(&words, lease, expected).await
                }
                Action::WatchFrom(_) | Action::Apply { .. } | Action::Wake(_) => return,
            };
            // Nobody waits for it when the thread ends.
            let _ = sender.send(Answer { of, input, keeps_alive });
        });
    }
}

/// Tells what a watch tells, until etcd ends it.
async fn follow(
    session: &Session,
    first: Revision,
    sender: &mpsc::UnboundedSender<Answer>,
    of: u64,
) -> Result<Input, EtcdError> {
    let mut lines = session.watch(first).await?;
    loop {
        match session.next_told(&mut lines).await? {
            Told::Changes(changes) => {
                for (revision, changes) in changes {
                    let input = Ok(Input::Watched { revision, changes });
                    // Nobody waits for it when the thread ends.
                    let _ = sender.send(Answer { of, input, keeps_alive: false });
                }
            }
            Told::Ended(reason) => return Ok(Input::WatchEnded { reason }),
        }
    }
}
