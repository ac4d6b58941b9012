//! An operator's end of the control socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::directory::io_error;
use super::{ControlDir, ControlError, LineDecoder, Reply};
use crate::plan::ClusterName;
use crate::protocol::{EventRecord, LogLine, LogsRequest, LogsShown, Outcome, Refusal, Request};

/// A connection to the master of one cluster.
#[derive(Debug)]
pub(crate) struct Client {
    name: ClusterName,
    socket: PathBuf,
    stream: UnixStream,
    decoder: LineDecoder,
}

impl Client {
    /// Connects to the master of cluster `name`, or of the only cluster that runs.
    ///
    /// # Errors
    /// [`ControlError::NoMaster`] where none of that name runs; without a name
    /// [`ControlError::NoneRuns`] and [`ControlError::SeveralRun`];
    /// [`ControlError::ForeignMaster`] if the socket is served by a user who is neither root nor
    /// ours; [`ControlError::Io`].
    pub(crate) async fn connect(
        directory: &ControlDir,
        name: Option<&ClusterName>,
    ) -> Result<Self, ControlError> {
        let name = match name {
            Some(name) => name.clone(),
            None => the_only(directory)?,
        };
        let path = directory.socket(&name);
        let stream = UnixStream::connect(&path).await.map_err(|error| match error.kind() {
            // Refused: the socket is there and nobody listens, which a killed master leaves.
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                let directory = directory.path().to_owned();
                ControlError::NoMaster { name: name.clone(), directory }
            }
            io::ErrorKind::PermissionDenied => ControlError::NotAllowed { path: path.clone() },
            _ => io_error("connect to", &path)(error),
        })?;
        check_peer(&stream, &path)?;
        Ok(Self { name, socket: path, stream, decoder: LineDecoder::default() })
    }

    #[cfg(test)]
    pub(super) fn name(&self) -> &ClusterName {
        &self.name
    }

    /// Sends a request and waits for its answer, however long it takes, as long as the master answers at all;
    /// for `status` and `explain`, which take no time, for at most [`Self::ANSWER_TIMEOUT`]. `progress` gets what the master says
    /// meanwhile.
    ///
    /// # Errors
    /// [`ControlError::Failed`] if the master says so; [`ControlError::Disconnected`] if it ends
    /// first; [`ControlError::NoAnswer`]; [`ControlError::Message`] if it sends something else;
    /// [`ControlError::Io`].
    pub(crate) async fn ask(
        &mut self,
        request: impl Into<Request>,
        progress: impl FnMut(&str),
    ) -> Result<Outcome, ControlError> {
        let request = request.into();
        match request {
            Request::Status
            | Request::Explain { .. }
            | Request::FleetExplain { .. }
            | Request::FleetDrain
            | Request::FleetJoin
            | Request::EndOrphans => {
                let answer = timeout(Self::ANSWER_TIMEOUT, self.exchange(request, progress)).await;
                answer.unwrap_or_else(|_elapsed| {
                    let name = self.name.clone();
                    Err(ControlError::NoAnswer { name, waited: Self::ANSWER_TIMEOUT })
                })
            }
            // Reading the configuration again may wait for a directory of users.
            Request::Configuration | Request::Command(_) => {
                // A command may take long: whether the master listens at all is known at once.
                let refused = self.check_it_answers().await?;
                match (self.exchange(request, progress).await, refused) {
                    // It has turned this connection away, and said why.
                    (Err(ControlError::Disconnected { .. }), Some(refusal)) => Err(refusal),
                    (outcome, _) => outcome,
                }
            }
            Request::Events | Request::Logs(_) | Request::Handover { .. } => {
                self.exchange(request, progress).await
            }
        }
    }

    /// Asks for something that needs no work, so that nobody waits for a master that is stopped. Returns its
    /// refusal, if it refuses that: it answers all the same.
    async fn check_it_answers(&mut self) -> Result<Option<ControlError>, ControlError> {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let answer = self.exchange(Request::Explain { address, port: None }, |_| {});
        match timeout(Self::ANSWER_TIMEOUT, answer).await {
            Ok(Ok(_)) => Ok(None),
            Ok(Err(ControlError::Failed(failure)))
                if [
                    Refusal::Unserved { address },
                    Refusal::ByConnection { address },
                    Refusal::AtRandom { address },
                ]
                .iter()
                .any(|refusal| failure == refusal.into()) =>
            {
                Ok(None)
            }
            Ok(Err(refusal @ ControlError::Failed(_))) => Ok(Some(refusal)),
            Ok(Err(error)) => Err(error),
            Err(_elapsed) => {
                let name = self.name.clone();
                Err(ControlError::NoAnswer { name, waited: Self::ANSWER_TIMEOUT })
            }
        }
    }

    /// How long a master may take for an answer that needs no work.
    pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

    /// Asks for events, and gives each to `happened` until that returns `false` or the master ends,
    /// be it by a crash.
    ///
    /// # Errors
    /// [`ControlError::Failed`] if the master refuses, since there are too many subscribers;
    /// [`ControlError::Message`]; [`ControlError::Io`].
    pub(crate) async fn events(
        &mut self,
        mut happened: impl FnMut(EventRecord) -> bool,
    ) -> Result<(), ControlError> {
        self.send(Request::Events).await?;
        loop {
            match self.read_reply().await {
                Ok(Reply::Event(event)) => {
                    if !happened(event) {
                        return Ok(());
                    }
                }
                Ok(Reply::Progress(_) | Reply::Workers(_) | Reply::Lines(_)) => {}
                Ok(Reply::Done(_)) | Err(ControlError::Disconnected { .. }) => return Ok(()),
                Ok(Reply::Failed(failure)) => return Err(ControlError::Failed(failure)),
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks for lines of workers, and gives each to `shown` until that returns `false`, or there are no
    /// more; to follow, until the master ends. `progress` gets what the master says meanwhile. `None` if it
    /// has ended while it was followed, or `shown` has seen enough.
    ///
    /// # Errors
    /// [`ControlError::Failed`] if the master refuses; [`ControlError::Disconnected`] if it ends before it
    /// has answered; [`ControlError::Message`]; [`ControlError::Io`].
    pub(crate) async fn logs(
        &mut self,
        request: LogsRequest,
        mut progress: impl FnMut(&str),
        mut shown: impl FnMut(&LogLine) -> bool,
    ) -> Result<Option<LogsShown>, ControlError> {
        self.send(Request::Logs(request)).await?;
        loop {
            match self.read_reply().await {
                Ok(Reply::Lines(lines)) => {
                    if !lines.iter().all(&mut shown) {
                        return Ok(None);
                    }
                }
                Ok(Reply::Progress(text)) => progress(&text),
                Ok(Reply::Event(_) | Reply::Workers(_)) => {}
                Ok(Reply::Done(Outcome::Logs(done))) => return Ok(Some(done)),
                Ok(Reply::Done(_)) => return Ok(None),
                Ok(Reply::Failed(failure)) => return Err(ControlError::Failed(failure)),
                Err(ControlError::Disconnected { .. }) if request.follow => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    async fn exchange(
        &mut self,
        request: Request,
        mut progress: impl FnMut(&str),
    ) -> Result<Outcome, ControlError> {
        self.send(request).await?;
        let mut workers = Vec::new();
        loop {
            match self.read_reply().await? {
                Reply::Progress(text) => progress(&text),
                Reply::Event(_) | Reply::Lines(_) => {}
                Reply::Workers(some) => workers.extend(some),
                Reply::Done(Outcome::Status(mut status)) => {
                    workers.append(&mut status.workers);
                    status.workers = workers;
                    return Ok(Outcome::Status(status));
                }
                Reply::Done(answer) => return Ok(answer),
                Reply::Failed(failure) => return Err(ControlError::Failed(failure)),
            }
        }
    }

    async fn send(&mut self, request: Request) -> Result<(), ControlError> {
        let line = format!("{}\n", request.emit());
        match self.stream.write_all(line.as_bytes()).await {
            // It may have turned us away, and said why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written.map_err(|error| self.broken(error)),
        }
    }

    async fn read_reply(&mut self) -> Result<Reply, ControlError> {
        let garbled = |source| ControlError::Message { name: self.name.clone(), source };
        let mut bytes = [0; 16 * 1024];
        loop {
            if let Some(line) = self.decoder.line().map_err(garbled)? {
                return Reply::parse(&line).map_err(garbled);
            }
            match self.stream.read(&mut bytes).await {
                Ok(0) => return Err(ControlError::Disconnected { name: self.name.clone() }),
                Ok(count) => self.decoder.feed(&bytes[..count]),
                Err(error) => return Err(self.broken(error)),
            }
        }
    }

    fn broken(&self, error: io::Error) -> ControlError {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                ControlError::Disconnected { name: self.name.clone() }
            }
            _ => io_error("talk over", &self.socket)(error),
        }
    }
}

/// Connects to the master of cluster `name`, whoever waits for it; with its process id, as the kernel
/// tells it. `None` where nobody listens.
///
/// # Errors
/// [`ControlError::ForeignMaster`], [`ControlError::Io`].
pub(crate) fn connect_to_master(
    directory: &ControlDir,
    name: &ClusterName,
) -> Result<Option<(std::os::unix::net::UnixStream, u32)>, ControlError> {
    let path = directory.socket(name);
    let stream = match std::os::unix::net::UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => return Ok(None),
            _ => return Err(io_error("connect to", &path)(error)),
        },
    };
    let peer = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials)
        .map_err(|errno| io_error("ask who serves", &path)(errno.into()))?;
    let (ours, pid) = (nix::unistd::geteuid(), peer.pid().cast_unsigned());
    match peer.uid() {
        uid if uid == 0 || ours.is_root() || uid == ours.as_raw() => Ok(Some((stream, pid))),
        uid => Err(ControlError::ForeignMaster { path, uid }),
    }
}

/// The only cluster whose master runs.
pub(crate) fn the_only(directory: &ControlDir) -> Result<ClusterName, ControlError> {
    let mut names = directory.running()?;
    match names.len() {
        0 => Err(ControlError::NoneRuns { directory: directory.path().to_owned() }),
        1 => Ok(names.remove(0)),
        _ => Err(ControlError::SeveralRun { names }),
    }
}

/// Refuses a master of another user, unless we are root, who may command all.
/// In a directory that is shared with us (`control_group`) the master is its owner's.
fn check_peer(stream: &UnixStream, path: &Path) -> Result<(), ControlError> {
    let peer = stream.peer_cred().map_err(io_error("ask who serves", path))?.uid();
    let ours = nix::unistd::geteuid();
    let owner = path.parent().and_then(|it| std::fs::symlink_metadata(it).ok());
    let is_owner =
        owner.is_some_and(|it| it.is_dir() && it.uid() == peer && it.mode() & 0o022 == 0);
    if peer == 0 || ours.is_root() || peer == ours.as_raw() || is_owner {
        Ok(())
    } else {
        Err(ControlError::ForeignMaster { path: path.to_owned(), uid: peer })
    }
}
