//! The configuration file of each worker, made from `config_template`.
//!
//! The files are in a directory of the cluster beside its sockets: `NAME.configs` in the directory of the
//! control socket, or, for workers that run as another user and may not enter that, in the one beside it. Each
//! file belongs to the workers' user, mode 0600, since configurations hold passwords; and it goes when its
//! worker has ended. What is left of a master that was killed goes when the next one starts.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::process::{ProcessError, effective_uid, with_group, with_ids};

/// Where the files are made.
#[derive(Debug, Clone)]
pub(crate) struct ConfigCopies {
    directory: PathBuf,
    template: PathBuf,
    /// The user and group that workers run as, if those are not our own.
    owner: Option<(u32, u32)>,
}

/// Why there is no configuration file for a worker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigCopyError {
    #[error("`config_template`: cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("`config_template`: {}, line {line}: {reason}", path.display())]
    Placeholder { path: PathBuf, line: usize, reason: String },
    #[error("`config_template`: {}: {reason}", path.display())]
    Directory { path: PathBuf, reason: &'static str },
    #[error("`config_template`: {0}")]
    Process(#[from] ProcessError),
}

/// Far more than any configuration, and little enough to hold: the path may be a device.
const MAX_TEMPLATE: u64 = 4 * 1024 * 1024;

impl ConfigCopies {
    /// Makes the directory for the files: `directory`, in which no other cluster makes any.
    pub(crate) fn prepare(
        directory: PathBuf,
        template: &Path,
        owner: Option<(u32, u32)>,
    ) -> Result<Self, ConfigCopyError> {
        let create = || match DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        };
        let created = match owner {
            Some((_, gid)) => with_group(gid, create)?,
            None => create(),
        };
        created.map_err(failed("create", &directory))?;
        let found = fs::symlink_metadata(&directory).map_err(failed("examine", &directory))?;
        let fault = |reason| ConfigCopyError::Directory { path: directory.clone(), reason };
        if !found.is_dir() {
            return Err(fault("expected a directory, not a link to one"));
        }
        if found.uid() != effective_uid() {
            return Err(fault("belongs to another user"));
        }
        // Files are made in the name of the workers' user, who is let in by its group; who else is of that
        // group can neither list nor remove them.
        let mode = match owner {
            Some((_, gid)) if found.gid() != gid => {
                return Err(fault("belongs to another group than that of the workers: remove it"));
            }
            Some(_) => 0o1730,
            None => 0o700,
        };
        fs::set_permissions(&directory, Permissions::from_mode(mode))
            .map_err(failed("restrict", &directory))?;
        Ok(Self { directory, template: template.to_owned(), owner })
    }

    /// For one that only reads the template: no file can be made.
    pub(crate) fn to_read(template: &Path) -> Self {
        Self { directory: PathBuf::new(), template: template.to_owned(), owner: None }
    }

    /// The text of the template, whose path counts from this directory if it is relative.
    pub(super) fn read_template(&self, base: &Path) -> Result<String, ConfigCopyError> {
        let path = base.join(&self.template);
        let read = || {
            let mut text = String::new();
            let length = File::open(&path)?.take(MAX_TEMPLATE + 1).read_to_string(&mut text)?;
            match length as u64 > MAX_TEMPLATE {
                true => Err(io::Error::new(io::ErrorKind::FileTooLarge, "longer than 4 MiB")),
                false => Ok(text),
            }
        };
        read().map_err(failed("read", &path))
    }

    /// Says in which line of the template a placeholder is wrong.
    pub(super) fn placeholder_error(&self, line: usize, reason: String) -> ConfigCopyError {
        ConfigCopyError::Placeholder { path: self.template.clone(), line, reason }
    }

    /// Where the file of the worker with this number is: its name ends as that of the template does, as
    /// far as that is no mark of a template.
    pub(super) fn path(&self, number: u64) -> PathBuf {
        let name = self.template.file_name().unwrap_or(OsStr::new("config")).to_string_lossy();
        let marks = [".in", ".tmpl", ".template"];
        let name = marks.iter().find_map(|mark| name.strip_suffix(mark)).unwrap_or(&name);
        self.directory.join(format!("{number}-{name}"))
    }

    /// Writes the file of the worker with this number.
    pub(super) fn write(&self, number: u64, text: &str) -> Result<PathBuf, ConfigCopyError> {
        let path = self.path(number);
        self.remove(number);
        let write = || {
            let mut options = OpenOptions::new();
            // Nobody else's: a file or a link that is there is refused.
            options.write(true).create_new(true).mode(0o600);
            options.open(&path)?.write_all(text.as_bytes())
        };
        let write = || -> Result<io::Result<()>, ConfigCopyError> {
            Ok(match self.owner {
                Some((uid, gid)) => with_ids(uid, gid, write)?,
                None => write(),
            })
        };
        let written = match write()? {
            // Somebody has removed the directory beneath this master.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Self::prepare(self.directory.clone(), &self.template, self.owner)?;
                write()?
            }
            written => written,
        };
        match written {
            Ok(()) => Ok(path),
            Err(source) => {
                self.remove(number);
                Err(failed("write", &path)(source))
            }
        }
    }

    /// Removes the file of the worker with this number, if there is one.
    pub(super) fn remove(&self, number: u64) {
        remove(&self.path(number));
    }

    /// Removes the files of all workers but those with these numbers.
    pub(super) fn retain(&self, numbers: &BTreeSet<u64>) {
        let kept: BTreeSet<String> = numbers.iter().map(|number| format!("{number}-")).collect();
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) => {
                let path = self.directory.display();
                tracing::warn!(%path, %error, "cannot list the configuration files of workers");
                return;
            }
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let number = name.split_once('-').map(|(number, _)| format!("{number}-"));
            if number.is_none_or(|number| !kept.contains(&number)) {
                remove(&entry.path());
            }
        }
    }

    /// Removes all of it, when no worker is left.
    pub(super) fn remove_all(&self) {
        self.retain(&BTreeSet::new());
        if let Err(error) = fs::remove_dir(&self.directory) {
            let path = self.directory.display();
            tracing::debug!(%path, %error, "cannot remove the directory of configuration files");
        }
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let path = path.display();
            tracing::warn!(%path, %error, "cannot remove the configuration file of a worker");
        }
        _ => {}
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ConfigCopyError {
    move |source| ConfigCopyError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copies(base: &Path, template: &str) -> ConfigCopies {
        ConfigCopies::prepare(base.join("web.configs"), Path::new(template), None).unwrap()
    }

    #[test]
    fn a_file_is_for_its_user_alone_and_goes_with_its_worker() {
        let base = tempfile::tempdir().unwrap();
        let copies = copies(base.path(), "/etc/redis.conf.in");
        let path = copies.write(7, "port 20000\n").unwrap();
        assert_eq!(path, base.path().join("web.configs/7-redis.conf"));
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o7777;
        assert_eq!((mode(&path), mode(&copies.directory)), (0o600, 0o700));
        assert_eq!(fs::read_to_string(&path).unwrap(), "port 20000\n");
        copies.remove(7);
        assert!(!path.exists());
        copies.remove_all();
        assert!(!copies.directory.exists());
    }

    #[test]
    fn what_a_killed_master_has_left_goes_but_for_workers_that_live() {
        let base = tempfile::tempdir().unwrap();
        let copies = copies(base.path(), "nginx.conf");
        let paths = [1, 12, 2].map(|number| copies.write(number, "x").unwrap());
        fs::write(copies.directory.join("other"), "").unwrap();
        copies.retain(&BTreeSet::from([12]));
        assert_eq!(paths.map(|path| path.exists()), [false, true, false]);
        assert_eq!(fs::read_dir(&copies.directory).unwrap().count(), 1);
    }

    #[test]
    fn a_link_in_the_place_of_a_file_is_not_followed() {
        let base = tempfile::tempdir().unwrap();
        let copies = copies(base.path(), "c");
        let precious = base.path().join("precious");
        fs::write(&precious, "data").unwrap();
        std::os::unix::fs::symlink(&precious, copies.path(1)).unwrap();
        copies.write(1, "x").unwrap();
        assert_eq!(fs::read_to_string(&precious).unwrap(), "data");

        let link = base.path().join("link");
        std::os::unix::fs::symlink(&copies.directory, &link).unwrap();
        let refused = ConfigCopies::prepare(link, Path::new("c"), None).unwrap_err().to_string();
        assert!(refused.contains("not a link to one"), "{refused}");
    }

    #[test]
    fn a_template_that_is_missing_or_endless_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let missing =
            copies(base.path(), "/nowhere/x.conf").read_template(Path::new("/")).unwrap_err();
        assert!(missing.to_string().contains("cannot read /nowhere/x.conf"), "{missing}");
        let endless = copies(base.path(), "/dev/zero").read_template(Path::new("/")).unwrap_err();
        assert!(endless.to_string().contains("longer than 4 MiB"), "{endless}");
    }
}
