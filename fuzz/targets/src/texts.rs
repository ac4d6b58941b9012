//! Texts that others write: users, operators, workers, the kernel, and masters of other releases. Nothing
//! panics, and what is read again after it was written is the same.

use ipcluster::config::ConfigBuilder;
use ipcluster::internals::{membership, texts};

/// A configuration. What is refused is refused with a message that says something.
pub(crate) fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let checked = ConfigBuilder::from_toml(text).and_then(ConfigBuilder::build);
    match checked {
        Ok(config) => assert!(config.weights().seats() > 0),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    texts::read_env_file(text);
}

/// Lines on the control socket, cut where the first byte says.
pub(crate) fn control(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else { return };
    texts::read_lines(bytes, usize::from(*cut));
}

/// A message to `NOTIFY_SOCKET`.
pub(crate) fn notify(data: &[u8]) {
    let lines = data.split(|byte| *byte == b'\n').count();
    assert!(texts::read_notify_message(data) <= lines);
}

/// What a running master answers to one that wants to take over.
pub(crate) fn offer(data: &[u8]) {
    texts::read_offer(data);
}

/// What a worker prints, cut where the first byte says.
pub(crate) fn output(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else { return };
    texts::read_output(bytes, usize::from(*cut));
}

/// A file of `/proc`.
pub(crate) fn proc_files(data: &[u8]) {
    texts::read_proc_files(data);
}

/// What the store of a fleet says: answers of etcd's gateway, and values of members.
pub(crate) fn store(data: &[u8]) {
    membership::read_store(data);
}
