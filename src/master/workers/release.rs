//! What the workers of one generation are started from: the directory, the program, the variables of
//! `env_file` and the text of `config_template`, as they were when the generation began.
//!
//! Deployments put a release into a directory of its own and move a link to it (`current`). So links are followed
//! once for each generation: a reload finds the new release, and a worker that is replaced within a generation
//! gets the one that the others have, also when the link was moved meanwhile. What a master has of this comes
//! to the next one with the workers, which carry it in their environment; where a program has overwritten that,
//! its working directory tells the directory.
//!
//! What cannot be kept is said when it comes up: a file that was replaced in its place is another program for
//! the next worker; of arguments that lead through the link nothing is known, and `{directory}` is for those.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::config_copies::ConfigCopyError;
use super::template::{ConfigTemplate, StartDirectory, Template};
use crate::config::{Placeholder, PlaceholderText, is_reserved};
use crate::master::error::causes;
use crate::plan::Generation;
use crate::process::{Account, FileId, Located, Program, ProgramFault, parse_env_file, with_ids};

/// What the workers of a generation have in common.
#[derive(Debug)]
pub(super) struct Release {
    generation: Generation,
    directory: Option<Directory>,
    /// `None` where it is another one for each worker.
    program: Option<Program>,
    variables: Vec<(String, String)>,
    config: Option<PlaceholderText>,
    /// What differs from the beginning of the generation was said.
    has_warned: Cell<bool>,
}

#[derive(Debug)]
struct Directory {
    /// Without links.
    path: PathBuf,
    id: FileId,
}

/// Why nothing can be started for a generation.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReleaseError {
    #[error("directory {}: {source}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error(
        "directory {}, in which generation {generation} was started, is gone: `ipcluster reload` starts the \
         release that is there now",
        path.display()
    )]
    Gone { path: PathBuf, generation: Generation },
    #[error(transparent)]
    Program(#[from] ProgramFault),
    #[error("`env_file`: {}: {source}", path.display())]
    EnvFile { path: PathBuf, source: io::Error },
    #[error("`env_file`: {}, line {line}: {reason}", path.display())]
    EnvLine { path: PathBuf, line: usize, reason: String },
    #[error("`env_file`: {} sets {name}, which is set by ipcluster for each worker", path.display())]
    Reserved { path: PathBuf, name: String },
    #[error(transparent)]
    Config(#[from] ConfigCopyError),
}

/// Variables that say of which release a worker is.
const DIRECTORY: &str = "IPCLUSTER_DIRECTORY";
const PROGRAM: &str = "IPCLUSTER_PROGRAM";
const TARGET: &str = "IPCLUSTER_PROGRAM_TARGET";

/// Of which release a worker of an earlier master is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RunningRelease {
    pub(crate) directory: Option<PathBuf>,
    /// Whether the worker was told that directory; else it is the one that it is in, and a program may have
    /// gone elsewhere.
    was_told: bool,
    /// The program, and what its name leads to.
    program: Option<(PathBuf, PathBuf)>,
}

impl RunningRelease {
    /// Reads the variables of a process; `working_directory` is the one that it is in.
    pub(super) fn of<'a>(
        variable: impl Fn(&str) -> Option<&'a str>,
        working_directory: Option<PathBuf>,
    ) -> Self {
        let path = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let program = path(PROGRAM);
        let target = path(TARGET).or_else(|| program.clone());
        let told = path(DIRECTORY);
        let was_told = told.is_some();
        Self { directory: told.or(working_directory), was_told, program: program.zip(target) }
    }

    /// The directory, if the worker was told it.
    pub(super) fn told_directory(&self) -> Option<&Path> {
        self.directory.as_deref().filter(|_| self.was_told)
    }

    /// The file that it runs, if it was told that.
    pub(super) fn program_target(&self) -> Option<&Path> {
        self.program.as_ref().map(|(_, target)| target.as_path())
    }
}

impl Release {
    /// Finds what workers of a new generation are started from.
    pub(super) fn find(template: &Template, generation: Generation) -> Result<Self, ReleaseError> {
        let found = Self::find_unnoticed(template, generation)?;
        if let Some((logical, directory)) = logical(template, generation).zip(found.directory()) {
            warn_of_arguments(template, &logical, directory);
        }
        Ok(found)
    }

    /// As [`Self::find`], for one that nothing is started from: nothing is said of it.
    pub(super) fn find_unnoticed(
        template: &Template,
        generation: Generation,
    ) -> Result<Self, ReleaseError> {
        let logical = logical(template, generation);
        let find = || logical.as_deref().map(Directory::find).transpose();
        let directory = as_workers_or_self(template.account.as_ref(), find)?;
        Self::complete(template, generation, directory, None)
    }

    /// Of a generation that an earlier master has started.
    pub(super) fn of_running(
        template: &Template,
        generation: Generation,
        running: &RunningRelease,
    ) -> Result<Self, ReleaseError> {
        let Some(path) = running.directory.clone() else { return Self::find(template, generation) };
        let account = template.account.as_ref();
        let directory = as_workers_or_self(account, || Directory::find(&path))
            .map_err(|_| ReleaseError::Gone { path: path.clone(), generation })?;
        let known = running.program.as_ref().map(|(path, target)| {
            as_workers_or_self(account, || Program::known(path, target).ok_or(()))
        });
        let program = known.and_then(Result::ok);
        match Self::complete(template, generation, Some(directory), program) {
            // The directory is a guess, and not where the program is.
            Err(_) if !running.was_told => Self::find(template, generation),
            completed => completed,
        }
    }

    fn complete(
        template: &Template,
        generation: Generation,
        directory: Option<Directory>,
        program: Option<Program>,
    ) -> Result<Self, ReleaseError> {
        let mut release = Self {
            generation,
            directory,
            program,
            variables: Vec::new(),
            config: None,
            has_warned: Cell::new(false),
        };
        for file in &template.env_files {
            let read = || release.read_env_file(file);
            let variables = as_self_or_workers(template.account.as_ref(), read)?;
            release.variables.extend(variables);
        }
        if release.program.is_none() && !template.differs_by_worker() {
            release.program = Some(release.find_program(template, &template.program)?);
        }
        release.config = match &template.config {
            Some(ConfigTemplate { copies, config }) => {
                let read = || copies.read_template(release.base());
                let text = as_self_or_workers(template.account.as_ref(), read)?;
                let parsed = PlaceholderText::parse(&text, config.placeholder_names());
                Some(parsed.map_err(|error| {
                    copies.placeholder_error(error.line_in(&text), error.to_string())
                })?)
            }
            None => None,
        };
        Ok(release)
    }

    /// From where relative paths count.
    fn base(&self) -> &Path {
        self.directory.as_ref().map_or(Path::new("."), |directory| &directory.path)
    }

    pub(super) fn generation(&self) -> Generation {
        self.generation
    }

    /// Whether `env_file` sets this variable, and so whatever `env` says.
    pub(super) fn sets(&self, name: &str) -> bool {
        self.variables.iter().any(|(known, _)| known == name)
    }

    /// The directory of the generation, without links.
    pub(super) fn directory(&self) -> Option<&Path> {
        self.directory.as_ref().map(|directory| directory.path.as_path())
    }

    /// The file that all workers run, if it is the same for all.
    pub(super) fn program_target(&self) -> Option<&Path> {
        self.program.as_ref().map(Program::target)
    }

    /// What those arguments lead to that are the same for all workers, were they paths; options are none.
    pub(super) fn files_in_arguments(&self, template: &Template) -> impl Iterator<Item = PathBuf> {
        let common = template.arguments.iter().filter(|text| text.of_workers().next().is_none());
        let words = common.map(|text| self.expand(text, template));
        words.filter(|word| !word.starts_with('-')).map(|word| self.base().join(word))
    }

    /// The text of `config_template`.
    pub(super) fn config(&self) -> Option<&PlaceholderText> {
        self.config.as_ref()
    }

    /// A text with the values that do not depend on the worker.
    pub(super) fn expand(&self, text: &PlaceholderText, template: &Template) -> String {
        expand(text, template, self.generation, self.directory())
    }

    /// Finds a program with the variables that workers get.
    fn find_program(
        &self,
        template: &Template,
        name: &PlaceholderText,
    ) -> Result<Program, ProgramFault> {
        let environment = self.environment(template);
        let path = environment.get(OsStr::new("PATH")).map(OsString::as_os_str);
        let name = OsString::from(self.expand(name, template));
        let account = template.account.as_ref();
        as_workers_or_self(account, || Program::find(&name, path, self.base(), account))
    }

    /// The variables that all workers of the generation have, and its hooks.
    pub(super) fn environment(&self, template: &Template) -> BTreeMap<OsString, OsString> {
        let mut environment = template.environment.clone();
        for (name, text) in &template.texts {
            // What differs between workers is no value of the generation.
            match text.of_workers().next() {
                Some(_) => environment.remove(OsStr::new(name)),
                None => environment.insert(name.into(), self.expand(text, template).into()),
            };
        }
        let texts = self.variables.iter().map(|(name, value)| (name.into(), value.into()));
        environment.extend(texts);
        environment.insert("IPCLUSTER_GENERATION".into(), self.generation.to_string().into());
        if let Some(directory) = self.directory() {
            environment.insert(DIRECTORY.into(), directory.into());
            // POSIX: the name of the working directory. Those who configure it have theirs.
            environment.entry("PWD".into()).or_insert_with(|| directory.into());
        }
        environment
    }

    /// The variables that say which program all workers have.
    pub(super) fn program_variables(&self) -> Vec<(&'static str, OsString)> {
        let Some(program) = &self.program else { return Vec::new() };
        let mut variables = vec![(PROGRAM, program.path().into())];
        if program.target() != program.path() {
            variables.push((TARGET, program.target().into()));
        }
        variables
    }

    /// The file that a worker runs, and what the program is called; `None` where it is looked for when the
    /// worker is started. Where directory or file are not those that the generation began with, this is said.
    pub(super) fn program(
        &self,
        template: &Template,
    ) -> Result<Option<(PathBuf, OsString)>, ReleaseError> {
        as_workers_or_self(template.account.as_ref(), || self.locate_program(template))
    }

    fn locate_program(
        &self,
        template: &Template,
    ) -> Result<Option<(PathBuf, OsString)>, ReleaseError> {
        let generation = self.generation;
        if let Some(Directory { path, id }) = &self.directory {
            match FileId::of(path) {
                Ok(found) if found == *id => {}
                Ok(_) if !self.has_warned.replace(true) => {
                    tracing::warn!(
                        "another directory has the name {} since generation {generation} was started: its \
                         next workers are started in the new one",
                        path.display()
                    );
                }
                Ok(_) => {}
                Err(_) => return Err(ReleaseError::Gone { path: path.clone(), generation }),
            }
        }
        let Some(program) = &self.program else { return Ok(None) };
        let file = match program.locate()? {
            Located::Same(file) => file,
            Located::Replaced(file) => {
                if !self.has_warned.replace(true) {
                    tracing::warn!(
                        "the program {} was replaced since generation {generation} was started: its next \
                         workers run the new one",
                        file.display()
                    );
                }
                file
            }
        };
        let name = match program.is_direct() {
            true => self.expand(&template.program, template).into(),
            // By the name that was given the program would find what the link leads to now.
            false => file.clone().into_os_string(),
        };
        Ok(Some((file, name)))
    }

    /// The file of a hook, which is found now.
    pub(super) fn hook(
        &self,
        template: &Template,
        words: &[PlaceholderText],
    ) -> Result<Option<HookWords>, ReleaseError> {
        let Some((name, arguments)) = words.split_first() else { return Ok(None) };
        let file = self.find_program(template, name)?.path().to_owned();
        let arguments = arguments.iter().map(|word| self.expand(word, template).into());
        Ok(Some((file, self.expand(name, template).into(), arguments.collect())))
    }

    fn read_env_file(&self, file: &Path) -> Result<Vec<(String, String)>, ReleaseError> {
        let text = file.to_string_lossy();
        let (file, is_optional) = match text.strip_prefix('-') {
            Some(file) => (Path::new(file), true),
            None => (file, false),
        };
        let path = self.base().join(file);
        let text = match read(&path) {
            Ok(text) => text,
            Err(error) if is_optional && error.kind() == io::ErrorKind::NotFound => {
                return Ok(vec![]);
            }
            Err(source) => return Err(ReleaseError::EnvFile { path, source }),
        };
        let variables = parse_env_file(&text).map_err(|error| ReleaseError::EnvLine {
            path: path.clone(),
            line: error.line,
            reason: error.reason,
        })?;
        match variables.iter().find(|(name, _)| is_reserved(name)) {
            Some((name, _)) => Err(ReleaseError::Reserved { path, name: name.clone() }),
            None => Ok(variables),
        }
    }
}

/// Looks at something as the workers' user may, whose it is most often: the master of root passes over no file
/// permissions, and a home directory is closed to it. What that user may not look at, as a member of another
/// group may, is looked at as this process. The error is that of the user.
pub(super) fn as_workers_or_self<T, E>(
    account: Option<&Account>,
    look: impl Fn() -> Result<T, E>,
) -> Result<T, E> {
    let Some(account) = account.filter(|account| !account.is_ours()) else { return look() };
    match with_ids(account.uid(), account.gid(), &look) {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => look().map_err(|_| error),
        Err(_) => look(),
    }
}

/// What workers would be started from, and is not there: the first of the directory and the files that it takes, and
/// each hook.
pub(in crate::master) fn missing_files(template: &Template) -> Vec<String> {
    let release = match Release::find_unnoticed(template, Generation::FIRST) {
        Ok(release) => release,
        Err(error) => return vec![causes(&error)],
    };
    let hooks = [
        ("before_reload", &template.hooks.before_reload),
        ("after_reload", &template.hooks.after_reload),
    ];
    let missing = |(key, words): (_, &Vec<PlaceholderText>)| {
        let error = release.hook(template, words).err()?;
        Some(format!("`hooks.{key}`: {}", causes(&error)))
    };
    hooks.into_iter().filter_map(missing).collect()
}

/// Reads something as this process may: secrets can be closed to workers, as for a service manager, which reads
/// such files before it changes to the user. What is closed to this process is read as the workers' user.
fn as_self_or_workers<T, E>(
    account: Option<&Account>,
    read: impl Fn() -> Result<T, E>,
) -> Result<T, E> {
    let result = read();
    match (&result, account.filter(|account| !account.is_ours())) {
        (Err(_), Some(account)) => match with_ids(account.uid(), account.gid(), &read) {
            Ok(Ok(found)) => Ok(found),
            _ => result,
        },
        _ => result,
    }
}

/// The file of a hook, what it is called, and its arguments.
pub(super) type HookWords = (PathBuf, OsString, Vec<OsString>);

impl Directory {
    fn find(path: &Path) -> Result<Self, ReleaseError> {
        let find = || {
            let path = fs::canonicalize(path)?;
            let id = FileId::of(&path)?;
            match path.is_dir() {
                true => Ok(Self { path, id }),
                false => Err(io::Error::from(io::ErrorKind::NotADirectory)),
            }
        };
        find().map_err(|source| ReleaseError::Directory { path: path.to_owned(), source })
    }
}

fn expand(
    text: &PlaceholderText,
    template: &Template,
    generation: Generation,
    directory: Option<&Path>,
) -> String {
    text.expand(|placeholder| match placeholder {
        Placeholder::Generation => generation.to_string(),
        Placeholder::Name => template.name.to_string(),
        Placeholder::Directory => {
            directory.map_or_else(|| ".".to_owned(), |path| path.to_string_lossy().into_owned())
        }
        // Such texts are expanded for each worker.
        _ => String::new(),
    })
}

/// The directory that workers of a generation are started in, by its configured name.
fn logical(template: &Template, generation: Generation) -> Option<PathBuf> {
    match &template.directory {
        StartDirectory::Configured { common, .. } => {
            Some(PathBuf::from(expand(common, template, generation, None)))
        }
        StartDirectory::OfMaster(directory) => directory.clone(),
    }
}

/// Says which arguments lead through a link that is moved with each release.
fn warn_of_arguments(template: &Template, logical: &Path, resolved: &Path) {
    if logical == resolved {
        return;
    }
    let prefix = format!("{}/", logical.to_string_lossy().trim_end_matches('/'));
    for text in &template.arguments {
        let argument = text.expand(|_| String::new());
        if argument.contains(&prefix) {
            tracing::warn!(
                "the argument {argument:?} leads through {}, which is a link: a worker that is replaced \
                 when the link has moved gets the new release; write {{directory}} in the place of the path",
                logical.display()
            );
        }
    }
}

/// Far more than any environment can hold.
const MAX_ENV_FILE: u64 = 4 * 1024 * 1024;

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let length = fs::File::open(path)?.take(MAX_ENV_FILE + 1).read_to_string(&mut text)?;
    match length as u64 > MAX_ENV_FILE {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, "longer than 4 MiB")),
        false => Ok(text),
    }
}

/// The name of the directory that this process was started in, as its starter calls it: `PWD`, if that leads to
/// it, since in that name a link may be moved; else the one that the kernel knows. `None` for one that was
/// removed.
pub(crate) fn logical_directory(pwd: Option<OsString>) -> Option<PathBuf> {
    let here = FileId::of(Path::new("."));
    let leads_here = |path: &PathBuf| {
        let is_plain = path.is_absolute()
            && path.components().all(|part| !matches!(part, std::path::Component::ParentDir));
        is_plain && here.as_ref().is_ok_and(|here| FileId::of(path).is_ok_and(|id| id == *here))
    };
    pwd.map(PathBuf::from).filter(leads_here).or_else(|| std::env::current_dir().ok())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_directory_is_called_what_its_starter_calls_it_if_that_is_true() {
        let base = tempfile::tempdir().unwrap();
        let here = std::env::current_dir().unwrap();
        let link = base.path().join("current");
        symlink(&here, &link).unwrap();
        let called = |pwd: &Path| logical_directory(Some(pwd.into()));
        assert_eq!(called(&link), Some(link.clone()));
        for other in [base.path(), Path::new("."), Path::new("/no/such"), &here.join("src/..")] {
            assert_eq!(called(other), Some(here.clone()), "{}", other.display());
        }
        assert_eq!(logical_directory(None), Some(here));
    }

    #[test]
    fn what_a_worker_carries_of_its_release_is_read_again() {
        let variable = |name: &str| match name {
            "IPCLUSTER_DIRECTORY" => Some("/srv/1"),
            "IPCLUSTER_PROGRAM" => Some("/srv/1/server"),
            _ => None,
        };
        let release = RunningRelease::of(variable, Some("/elsewhere".into()));
        assert_eq!(release.directory, Some("/srv/1".into()));
        assert_eq!(release.program, Some(("/srv/1/server".into(), "/srv/1/server".into())));
        let release = RunningRelease::of(|_| None, Some("/srv/2".into()));
        let directory = Some("/srv/2".into());
        assert_eq!(release, RunningRelease { directory, was_told: false, program: None });
    }
}
