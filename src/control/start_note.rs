//! How the master of a cluster was started, in `NAME.start` beside its socket: so that whoever finds its
//! workers without a master can be told what starts the next one. It is for display alone; what there is of
//! the cluster is in the kernel. It outlives a master that leaves or is killed, and goes when the cluster is
//! stopped.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ControlDir;
use crate::plan::ClusterName;

/// How a master was started.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StartNote {
    /// The systemd unit whose main process it was.
    pub(crate) unit: Option<String>,
    /// Whether that unit is one of a user's own systemd.
    pub(crate) is_user_unit: bool,
    /// Its working directory.
    pub(crate) directory: PathBuf,
    /// Its command line; what is not text is replaced.
    pub(crate) command: Vec<String>,
}

/// The largest file that is read.
const MAX: u64 = 1 << 20;

impl StartNote {
    /// How this process was started.
    pub(crate) fn of_this_process() -> Self {
        let command = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
        // Others than the main process of a unit inherit all of its environment, and know so by the number
        // (systemd 248; systemd.exec(5)).
        let main = std::env::var("SYSTEMD_EXEC_PID").ok().and_then(|pid| pid.parse().ok());
        let cgroup = (main == Some(std::process::id()))
            .then(|| fs::read_to_string("/proc/self/cgroup").ok())
            .flatten();
        let unit = cgroup.as_deref().and_then(unit_of);
        Self {
            is_user_unit: unit.as_ref().is_some_and(|(_, is_user)| *is_user),
            unit: unit.map(|(name, _)| name),
            directory: std::env::current_dir().unwrap_or_default(),
            command: command.collect(),
        }
    }

    /// What starts the next master, as a command.
    pub(crate) fn text(&self) -> Option<String> {
        if let Some(unit) = &self.unit {
            let user = if self.is_user_unit { "--user " } else { "" };
            return Some(format!("systemctl {user}start {}", word(unit)));
        }
        // The program may have been found by another name; what it is told counts.
        let (_, arguments) = self.command.split_first()?;
        let is_ours = arguments.first().is_some_and(|verb| verb == "run");
        let program = if is_ours { Some("ipcluster") } else { None };
        let words = program
            .into_iter()
            .chain(self.command.iter().skip(usize::from(is_ours)).map(String::as_str));
        // It takes over: it does not replace anybody.
        let words = words.filter(|it| !is_ours || *it != "--replace");
        let command = words.map(word).collect::<Vec<_>>().join(" ");
        let is_relative = !self.directory.as_os_str().is_empty();
        Some(match is_relative && std::env::current_dir().ok().as_ref() != Some(&self.directory) {
            true => format!("cd {} && {command}", word(&self.directory.to_string_lossy())),
            false => command,
        })
    }

    /// Leaves the note; returns what removes it.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn leave(
        &self,
        directory: &ControlDir,
        name: &ClusterName,
    ) -> io::Result<StartNoteFile> {
        let path = path_of(directory, name);
        let new = path.with_extension("start.new");
        let _ = fs::remove_file(&new);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        serde_json::to_writer(&mut file, self)?;
        file.write_all(b"\n")?;
        // In one step: a reader finds one of both.
        fs::rename(&new, &path)?;
        Ok(StartNoteFile { path })
    }

    /// The note that the last master of the cluster has left, if it is one of this user's, or of root's.
    pub(crate) fn read(directory: &ControlDir, name: &ClusterName) -> Option<Self> {
        let path = path_of(directory, name);
        let found = fs::symlink_metadata(&path).ok()?;
        let is_trusted = [0, nix::unistd::geteuid().as_raw()].contains(&found.uid());
        let is_fit = found.is_file() && found.len() <= MAX && is_trusted;
        let text = is_fit.then(|| fs::read_to_string(&path).ok()).flatten()?;
        serde_json::from_str(&text).ok()
    }
}

/// The file of a [`StartNote`].
#[derive(Debug)]
pub(crate) struct StartNoteFile {
    path: PathBuf,
}

impl StartNoteFile {
    /// Removes the note: the cluster has ended.
    pub(crate) fn remove(self) {
        remove(&self.path);
    }
}

pub(super) fn path_of(directory: &ControlDir, name: &ClusterName) -> PathBuf {
    directory.socket(name).with_extension("start")
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove the note of the start");
        }
        _ => {}
    }
}

/// The service in a `/proc/PID/cgroup`, and whether it is one of a user's own systemd. Pure.
fn unit_of(cgroup: &str) -> Option<(String, bool)> {
    // Where both kinds of hierarchies are mounted, systemd uses one of them.
    cgroup.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        ["", "name=systemd"].contains(&controllers).then(|| unit_of_path(path)).flatten()
    })
}

fn unit_of_path(path: &str) -> Option<(String, bool)> {
    // A service may have control groups of its own below it.
    let unit = path.split('/').rfind(|part| part.ends_with(".service"))?;
    let is_manager = |part: &str| part.starts_with("user@") && part.ends_with(".service");
    (!is_manager(unit)).then(|| (unit.to_owned(), path.split('/').any(is_manager)))
}

/// A word as a shell reads it. Pure.
fn word(text: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:=@%+,".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(command: &[&str], directory: &str) -> StartNote {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        StartNote { command, directory: directory.into(), ..StartNote::default() }
    }

    #[test]
    fn the_unit_is_the_innermost_service_of_the_control_group() {
        for (cgroup, unit) in [
            ("0::/system.slice/web.service\n", Some(("web.service", false))),
            (
                "0::/system.slice/system-ipcluster.slice/ipcluster@web.service/payload\n",
                Some(("ipcluster@web.service", false)),
            ),
            (
                "0::/user.slice/user-7.slice/user@7.service/app.slice/web.service\n",
                Some(("web.service", true)),
            ),
            ("0::/user.slice/user-7.slice/user@7.service\n", None),
            ("0::/user.slice/user-0.slice/session-3.scope\n", None),
            ("5:memory:/a.service\n1:name=systemd:/b.service\n0::/\n", Some(("b.service", false))),
            ("1:name=systemd:/\n0::/system.slice/c.service\n", Some(("c.service", false))),
            ("", None),
        ] {
            let expected = unit.map(|(name, is_user)| (name.to_owned(), is_user));
            assert_eq!(unit_of(cgroup), expected, "{cgroup}");
        }
    }

    #[test]
    fn what_starts_the_next_master_can_be_pasted() {
        let run =
            ["/usr/bin/ipcluster", "run", "--replace", "-c", "a b.toml", "--", "sh", "-c", "it's"];
        let expected = r"cd /srv && ipcluster run -c 'a b.toml' -- sh -c 'it'\''s'";
        assert_eq!(note(&run, "/srv").text().as_deref(), Some(expected));
        // A program that embeds a master.
        assert_eq!(note(&["./app", "serve"], "").text().as_deref(), Some("./app serve"));
        let unit = StartNote { unit: Some("ipcluster@web.service".into()), ..note(&run, "/") };
        assert_eq!(unit.text().as_deref(), Some("systemctl start ipcluster@web.service"));
        let unit = StartNote { is_user_unit: true, ..unit };
        assert_eq!(unit.text().as_deref(), Some("systemctl --user start ipcluster@web.service"));
        assert_eq!(StartNote::default().text(), None);
    }

    #[test]
    fn a_note_is_read_as_it_was_left() {
        let base = tempfile::tempdir().unwrap();
        let (directory, name) = (ControlDir::new(base.path()), "web".parse().unwrap());
        assert_eq!(StartNote::read(&directory, &name), None);
        let left = note(&["ipcluster", "run"], "/");
        let file = left.leave(&directory, &name).unwrap();
        assert_eq!(StartNote::read(&directory, &name), Some(left));
        fs::write(&file.path, "{").unwrap();
        assert_eq!(StartNote::read(&directory, &name), None);
        let path = file.path.clone();
        file.remove();
        assert!(!path.exists());
    }
}
