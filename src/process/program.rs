//! Finding a program before it is started, and knowing it again.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::account::Account;

/// A file, or a directory, as it was when it was looked at: another one may get its name, and then differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
    /// When its content was changed last; of a directory 0, since files come and go in it.
    modified: (i64, i64),
}

impl FileId {
    /// What a path leads to.
    ///
    /// # Errors
    /// It leads to nothing.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::of_metadata(&fs::metadata(path)?))
    }

    fn of_metadata(found: &Metadata) -> Self {
        let modified = if found.is_dir() { (0, 0) } else { (found.mtime(), found.mtime_nsec()) };
        Self { device: found.dev(), inode: found.ino(), modified }
    }
}

/// A program that was found, and can be started as far as can be seen.
///
/// Symbolic links are followed once, when it is found: a link that is moved later leads to another program. In
/// [`path`](Self::path) the directory is resolved and the file's own name is kept, even if that is a link:
/// programs that have several names (busybox), and virtual environments of Python, go by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    path: PathBuf,
    /// What the last part of the path leads to, if that is a link.
    target: PathBuf,
    id: FileId,
    /// No link stands on the way to it.
    is_direct: bool,
}

/// Where a program is run that was found before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Located {
    /// The file that was found.
    Same(PathBuf),
    /// The file that was found is not there any more: what has its name now.
    Replaced(PathBuf),
}

/// Why a program cannot be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProgramFault {
    #[error("cannot run program {}: ENOENT: {}", program.display(), no_such_file(program))]
    Missing { program: PathBuf },
    #[error(
        "cannot run program {program}: ENOENT: it is in no directory of PATH, which is {path:?}"
    )]
    NotInPath { program: String, path: String },
    #[error("cannot run program {}: EACCES: it is no regular file", program.display())]
    NoFile { program: PathBuf },
    #[error(
        "cannot run program {}: EACCES: it may not be executed by the user that workers run as (mode {mode:04o}): `chmod +x` it, \
         or run it by its interpreter",
        program.display()
    )]
    NotExecutable { program: PathBuf, mode: u32 },
    #[error(
        "cannot run program {}: ENOEXEC: it begins with no `#!` line and is no ELF file, so that the kernel cannot run it: add \
         the line, such as `#!/bin/sh`, or run it by its interpreter",
        program.display()
    )]
    NoFormat { program: PathBuf },
    #[error("cannot run program {}: ENOENT: the interpreter of its `#!` line, {}, does not exist", program.display(), interpreter.display())]
    NoInterpreter { program: PathBuf, interpreter: PathBuf },
    #[error("cannot run program {}: {reason}", program.display())]
    Unreadable { program: PathBuf, reason: String },
}

fn no_such_file(program: &Path) -> String {
    let mut missing = program;
    while let Some(parent) = missing.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        if parent.exists() {
            break;
        }
        missing = parent;
    }
    match missing == program {
        true => "no such file".to_owned(),
        false => format!("there is no {}", missing.display()),
    }
}

impl Program {
    /// Finds a program as execvp(3) does in this directory: a name without `/` in `path`, which is the
    /// variable `PATH`, or in `/bin` and `/usr/bin` without it. `account` is whom it will run as.
    ///
    /// # Errors
    /// [`ProgramFault`], which names the file.
    pub(crate) fn find(
        name: &OsStr,
        path: Option<&OsStr>,
        directory: &Path,
        account: Option<&Account>,
    ) -> Result<Self, ProgramFault> {
        let found = match name.as_bytes().contains(&b'/') {
            // Without the `.` of `./server`.
            true => directory.join(name).components().collect(),
            false => search(name, path, directory, account)?,
        };
        let metadata = match fs::metadata(&found) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ProgramFault::Missing { program: found });
            }
            Err(error) => return Err(unreadable(&found, &error)),
        };
        if !metadata.is_file() {
            return Err(ProgramFault::NoFile { program: found });
        }
        if !may_execute(&metadata, account) {
            let mode = metadata.mode() & 0o7777;
            return Err(ProgramFault::NotExecutable { program: found, mode });
        }
        check_format(&found)?;
        let target = fs::canonicalize(&found).map_err(|error| unreadable(&found, &error))?;
        let parent = found.parent().unwrap_or(Path::new("/"));
        let parent = fs::canonicalize(parent).map_err(|error| unreadable(&found, &error))?;
        // What lies there is another thing for each process, and this one's is closed to workers.
        let resolved = match found.starts_with("/proc/self") {
            true => found.clone(),
            false => parent.join(found.file_name().unwrap_or(name)),
        };
        let is_direct = resolved == found;
        Ok(Self { path: resolved, target, id: FileId::of_metadata(&metadata), is_direct })
    }

    /// A program that was found by another process, which has told [`path`](Self::path) and
    /// [`target`](Self::target); `None` if it is not there any more.
    pub(crate) fn known(path: &Path, target: &Path) -> Option<Self> {
        let id = FileId::of(target).ok()?;
        Some(Self { path: path.to_owned(), target: target.to_owned(), id, is_direct: false })
    }

    /// What its own name leads to; the same as [`path`](Self::path), if that is no link.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Where it is: without links, but for its own name.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether no link stood on the way to it: then it is known by the name that was given, too.
    pub(crate) fn is_direct(&self) -> bool {
        self.is_direct
    }

    /// Where it is now. Where its own name is a link that was moved since, that is the file to which the link
    /// led.
    ///
    /// # Errors
    /// Nothing has its name any more, or nothing that may be looked at.
    pub(crate) fn locate(&self) -> Result<Located, ProgramFault> {
        let is_same = |path: &Path| FileId::of(path).is_ok_and(|id| id == self.id);
        if is_same(&self.path) {
            return Ok(Located::Same(self.path.clone()));
        }
        if is_same(&self.target) {
            return Ok(Located::Same(self.target.clone()));
        }
        match fs::metadata(&self.path) {
            Ok(_) => Ok(Located::Replaced(self.path.clone())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(ProgramFault::Missing { program: self.path.clone() })
            }
            Err(error) => Err(unreadable(&self.path, &error)),
        }
    }
}

fn search(
    name: &OsStr,
    path: Option<&OsStr>,
    directory: &Path,
    account: Option<&Account>,
) -> Result<PathBuf, ProgramFault> {
    let path = path.unwrap_or(OsStr::new("/bin:/usr/bin"));
    let all = std::env::split_paths(path).map(|in_path| directory.join(in_path).join(name));
    let mut not_executable = None;
    for found in all {
        let Some(metadata) = fs::metadata(&found).ok().filter(Metadata::is_file) else { continue };
        if may_execute(&metadata, account) {
            return Ok(found);
        }
        not_executable.get_or_insert((found, metadata.mode() & 0o7777));
    }
    Err(match not_executable {
        Some((program, mode)) => ProgramFault::NotExecutable { program, mode },
        None => ProgramFault::NotInPath {
            program: name.to_string_lossy().into_owned(),
            path: path.to_string_lossy().into_owned(),
        },
    })
}

/// Whether the mode lets workers run it: they have no capability, whoever they are.
fn may_execute(found: &Metadata, account: Option<&Account>) -> bool {
    let mode = found.mode();
    let (uid, groups) = match account {
        Some(account) => (account.uid(), account.all_groups()),
        None => own_ids(),
    };
    let bit = match found {
        _ if found.uid() == uid => 0o100,
        _ if groups.contains(&found.gid()) => 0o010,
        _ => 0o001,
    };
    mode & bit != 0
}

/// Whom workers run as that run as this process does.
fn own_ids() -> (u32, Vec<u32>) {
    let groups = rustix::process::getgroups().unwrap_or_default();
    let own = rustix::process::getegid();
    let groups = groups.into_iter().chain([own]).map(|group| group.as_raw()).collect();
    (rustix::process::geteuid().as_raw(), groups)
}

/// Whether the kernel can run it, as far as its first bytes tell. What may only be executed, and not be read,
/// is left to the kernel; so is a binary of another kind, for which it may have a program (binfmt_misc).
fn check_format(program: &Path) -> Result<(), ProgramFault> {
    // As much as the kernel looks at (`BINPRM_BUF_SIZE`).
    let mut head = Vec::new();
    let read = File::open(program).and_then(|file| file.take(256).read_to_end(&mut head));
    if read.is_err() {
        return Ok(());
    }
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let word = |byte: &u8| !matches!(byte, b' ' | b'\t');
        let begin = line.iter().position(word).unwrap_or(line.len());
        let line = &line[begin..];
        let end = line.iter().position(|byte| !word(byte)).unwrap_or(line.len());
        let interpreter = PathBuf::from(OsStr::from_bytes(&line[..end]));
        // A relative one counts from the directory of whoever runs it; that is left to the kernel.
        return match interpreter.is_absolute() && !interpreter.exists() {
            true => Err(ProgramFault::NoInterpreter { program: program.to_owned(), interpreter }),
            false => Ok(()),
        };
    }
    let is_text = |bytes: &[u8]| {
        bytes.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace())
    };
    match is_text(&head) {
        true => Err(ProgramFault::NoFormat { program: program.to_owned() }),
        false => Ok(()),
    }
}

fn unreadable(program: &Path, error: &io::Error) -> ProgramFault {
    ProgramFault::Unreadable { program: program.to_owned(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn write(path: &Path, text: &str, mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn find(name: &str, directory: &Path) -> Result<Program, ProgramFault> {
        Program::find(
            OsStr::new(name),
            Some(OsStr::new("bin:/nowhere:/usr/bin:/bin")),
            directory,
            None,
        )
    }

    #[test]
    fn the_program_that_runs_is_that_of_each_process() {
        let own = find("/proc/self/exe", Path::new("/")).unwrap();
        assert_eq!(own.path(), Path::new("/proc/self/exe"));
        assert_eq!(own.target(), std::env::current_exe().unwrap());
    }

    /// Releases 1 and 2 with a program each, and a link to one of them.
    fn deployed(base: &Path) -> PathBuf {
        for release in ["1", "2"] {
            write(&base.join(release).join("bin/server"), "#!/bin/sh\n", 0o755);
        }
        let current = base.join("current");
        symlink("1", &current).unwrap();
        current
    }

    #[test]
    fn links_are_followed_when_a_program_is_found_and_not_later() {
        let base = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(base.path()).unwrap();
        let current = deployed(&base);
        let first = base.join("1/bin/server");
        let absolute = find(current.join("bin/server").to_str().unwrap(), Path::new("/")).unwrap();
        let relative = find("bin/server", &current).unwrap();
        let in_path = find("server", &current).unwrap();
        fs::remove_file(&current).unwrap();
        symlink("2", &current).unwrap();
        for program in [absolute, relative, in_path] {
            assert_eq!((program.path(), program.is_direct()), (first.as_path(), false));
            assert_eq!(program.locate(), Ok(Located::Same(first.clone())));
        }
        assert!(find("/bin/../bin/sh", Path::new("/")).is_ok());
    }

    #[test]
    fn a_file_whose_own_name_is_a_link_keeps_that_name_and_its_target() {
        let base = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(base.path()).unwrap();
        write(&base.join("server-1"), "#!/bin/sh\n", 0o755);
        write(&base.join("server-2"), "#!/bin/sh\n# 2", 0o755);
        let link = base.join("server");
        symlink("server-1", &link).unwrap();
        let program = find("./server", &base).unwrap();
        assert_eq!(program.locate(), Ok(Located::Same(link.clone())));
        fs::remove_file(&link).unwrap();
        symlink("server-2", &link).unwrap();
        assert_eq!(program.locate(), Ok(Located::Same(base.join("server-1"))));
        fs::remove_file(base.join("server-1")).unwrap();
        assert_eq!(program.locate(), Ok(Located::Replaced(link)));
    }

    #[test]
    fn a_file_that_was_replaced_in_its_place_is_another_program() {
        let base = tempfile::tempdir().unwrap();
        let file = base.path().join("server");
        write(&file, "#!/bin/sh\n", 0o755);
        let program = find(file.to_str().unwrap(), Path::new("/")).unwrap();
        write(&base.path().join("new"), "#!/bin/sh\n", 0o755);
        fs::rename(base.path().join("new"), &file).unwrap();
        assert!(matches!(program.locate(), Ok(Located::Replaced(_))));
        fs::remove_file(&file).unwrap();
        assert!(matches!(program.locate(), Err(ProgramFault::Missing { .. })));
    }

    #[test]
    fn what_cannot_be_run_is_named_with_the_reason() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path();
        write(&base.join("plain"), "#!/bin/sh\n", 0o644);
        write(&base.join("bin/listed"), "#!/bin/sh\n", 0o644);
        write(&base.join("text"), "exec server\n", 0o755);
        write(&base.join("empty"), "", 0o755);
        write(&base.join("old"), "#! /usr/bin/nodejs-0 -x\n", 0o755);
        let fault = |name: &str| find(name, base).unwrap_err().to_string();
        assert!(
            fault("./plain").contains("plain: EACCES: it may not be executed by the user"),
            "{}",
            fault("./plain")
        );
        assert!(fault("./plain").contains("(mode 0644): `chmod +x` it"));
        assert!(fault("listed").contains("bin/listed: EACCES: it may not be executed"));
        assert!(fault("./text").contains("ENOEXEC: it begins with no `#!` line"));
        assert!(fault("./empty").contains("ENOEXEC: it begins with no `#!` line"));
        assert!(
            fault("./old").ends_with("/usr/bin/nodejs-0, does not exist"),
            "{}",
            fault("./old")
        );
        assert!(
            fault("./missing").ends_with("missing: ENOENT: no such file"),
            "{}",
            fault("./missing")
        );
        assert!(fault("/nowhere/at/all").ends_with("there is no /nowhere"));
        assert!(fault("./bin").ends_with("it is no regular file"));
        let expected = "cannot run program no-such: ENOENT: it is in no directory of PATH, which is \"bin:/nowhere:/usr/bin:/bin\"";
        assert_eq!(fault("no-such"), expected);
    }
}
