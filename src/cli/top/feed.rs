//! The master, over the control socket alone.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::model::Input;
use crate::cli::Failed;
use crate::control::{Client, ControlDir, ControlError};
use crate::plan::ClusterName;
use crate::protocol::{Command, CommandRequest, EventRecord, Outcome, Request};

/// From one status to the next, while nothing happens.
const INTERVAL: Duration = Duration::from_secs(1);

/// From an event to the status after it: what happens is mostly not alone.
const SETTLE: Duration = Duration::from_millis(150);

/// How long to wait before a master that is gone is looked for again.
const RETRY: Duration = Duration::from_secs(1);

/// The name of the cluster that is meant.
///
/// # Errors
/// None runs, or several do and none is named, or it cannot be asked.
pub(super) async fn name(
    directory: &ControlDir,
    name: Option<&ClusterName>,
) -> Result<ClusterName, Failed> {
    match Client::connect(directory, name).await?.ask(Request::Status, |_| {}).await? {
        Outcome::Status(status) => Ok(status.name),
        _ => Err(crate::cli::ask::mismatch("status")),
    }
}

/// What tells a model of a cluster.
pub(super) struct Feed {
    directory: ControlDir,
    name: ClusterName,
}

/// A feed that goes on until it is dropped.
pub(super) struct Feeding {
    commands: mpsc::UnboundedSender<Command>,
    _tasks: JoinSet<()>,
}

impl Feeding {
    /// Asks the master for something. What comes of it is an input.
    pub(super) fn ask(&self, command: Command) {
        // The receiver is in a task of ours.
        let _ = self.commands.send(command);
    }
}

impl Feed {
    pub(super) fn new(directory: ControlDir, name: ClusterName) -> Self {
        Self { directory, name }
    }

    /// Begins to tell.
    pub(super) fn start(self, inputs: mpsc::Sender<Input>) -> Feeding {
        let (commands, mut asked) = mpsc::unbounded_channel();
        let (news, mut happened) = mpsc::channel::<()>(1);
        let mut tasks = JoinSet::new();
        let Self { directory, name } = self;
        {
            let (directory, name, inputs) = (directory.clone(), name.clone(), inputs.clone());
            tasks.spawn(async move { tell_events(&directory, &name, &inputs, &news).await });
        }
        {
            let (directory, name, inputs) = (directory.clone(), name.clone(), inputs.clone());
            tasks
                .spawn(async move { tell_status(&directory, &name, &inputs, &mut happened).await });
        }
        tasks.spawn(async move {
            while let Some(command) = asked.recv().await {
                let answer = carry_out(&directory, &name, command, &inputs).await;
                if inputs.send(Input::Answer(answer)).await.is_err() {
                    return;
                }
            }
        });
        Feeding { commands, _tasks: tasks }
    }
}

async fn tell_status(
    directory: &ControlDir,
    name: &ClusterName,
    inputs: &mpsc::Sender<Input>,
    happened: &mut mpsc::Receiver<()>,
) {
    let began = Instant::now();
    let mut client: Option<Client> = None;
    loop {
        let due = Instant::now() + INTERVAL;
        let input = match status(&mut client, directory, name).await {
            Ok(Outcome::Status(status)) => Input::Status(status, began.elapsed().as_secs_f64()),
            Ok(_) => Input::Lost("the master answered status with something else".to_owned()),
            Err(error) => {
                client = None;
                Input::Lost(error.to_string())
            }
        };
        if inputs.send(input).await.is_err() {
            return;
        }
        tokio::select! {
            () = sleep_until(due) => {}
            Some(()) = happened.recv() => sleep(SETTLE).await,
        }
    }
}

async fn status(
    client: &mut Option<Client>,
    directory: &ControlDir,
    name: &ClusterName,
) -> Result<Outcome, ControlError> {
    let client = match client {
        Some(client) => client,
        None => client.insert(Client::connect(directory, Some(name)).await?),
    };
    client.ask(Request::Status, |_| {}).await
}

async fn tell_events(
    directory: &ControlDir,
    name: &ClusterName,
    inputs: &mpsc::Sender<Input>,
    news: &mpsc::Sender<()>,
) {
    loop {
        let (told, mut records) = mpsc::channel::<EventRecord>(64);
        let listen = async {
            let mut client = Client::connect(directory, Some(name)).await?;
            // A burst that is not shown in time is left out; the master counts what it keeps back.
            client
                .events(|record| {
                    !matches!(told.try_send(record), Err(mpsc::error::TrySendError::Closed(_)))
                })
                .await
        };
        let pass_on = async {
            while let Some(record) = records.recv().await {
                if record.event == "stats" {
                    continue;
                }
                // One that waits stands for all.
                let _ = news.try_send(());
                let time = time_of_day(record.time);
                if inputs.send(Input::Event(record, time)).await.is_err() {
                    return;
                }
            }
        };
        // That the master is gone, or cannot be asked, is told by the status.
        tokio::select! {
            _ = listen => {}
            () = pass_on => {}
        }
        if inputs.is_closed() {
            return;
        }
        sleep(RETRY).await;
    }
}

async fn carry_out(
    directory: &ControlDir,
    name: &ClusterName,
    command: Command,
    inputs: &mpsc::Sender<Input>,
) -> Result<Outcome, String> {
    let told = |error: ControlError| error.to_string();
    let mut client = Client::connect(directory, Some(name)).await.map_err(told)?;
    // A rollout is answered when it is in force: its probation is on the screen.
    let no_wait = matches!(command, Command::Reload { .. } | Command::Scale { .. });
    let request = Request::Command(CommandRequest { command, no_wait });
    let progress = |step: &str| {
        // One that finds no room is followed by another, or by the answer.
        let _ = inputs.try_send(Input::Progress(crate::cli::failed::one_line(step)));
    };
    client.ask(request, progress).await.map_err(told)
}

/// Hours, minutes and seconds in UTC, as the log of the master has them.
fn time_of_day(unix: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "saturates")]
    let of_day = (unix as i64).rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_day() {
        for (unix, text) in [
            (0.0, "00:00:00"),
            (1_795_372_800.125, "18:40:00"),
            (-1.0, "23:59:59"),
            (f64::NAN, "00:00:00"),
        ] {
            assert_eq!(time_of_day(unix), text, "{unix}");
        }
    }
}
