//! A real systemd, in a container of its own: the host's, or the one in the directory that `NETNS_TESTS_SYSTEMD` names
//! (`netns-tests/newer-systemd`).

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::Duration;

use super::{Lab, Process, greeter, ipcluster, wait_until};

const SYSTEMD: &str = "/lib/systemd/systemd";
const BOOT: &str = include_str!("boot-systemd.sh");

/// Where the control groups of version 2 are mounted, alone or beside those of version 1.
fn hierarchy() -> Option<&'static Path> {
    ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .map(Path::new)
        .into_iter()
        .find(|path| path.join("cgroup.procs").exists())
}

/// Why no systemd can be started here.
pub(crate) fn missing() -> Option<String> {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let is_whole = map.split_whitespace().eq(["0", "0", "4294967295"]);
    if !Path::new(SYSTEMD).exists() {
        return Some(format!("no {SYSTEMD}"));
    }
    if !nix::unistd::geteuid().is_root() || !is_whole {
        return Some("not root of the machine".to_owned());
    }
    let Some(hierarchy) = hierarchy() else {
        return Some("no control groups of version 2".to_owned());
    };
    static PROBED: OnceLock<Option<String>> = OnceLock::new();
    PROBED.get_or_init(|| probe(hierarchy)).clone()
}

/// Why no control group can be made. One that can be made can be used.
fn probe(hierarchy: &Path) -> Option<String> {
    let probe = hierarchy.join(format!("ipcluster-probe-{}", std::process::id()));
    match fs::create_dir(&probe) {
        Ok(()) => match fs::remove_dir(&probe) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Some(format!("{}: {error}", probe.display()))
            }
            _ => None,
        },
        // Another case, which has the same process id in a namespace of its own, has just made it.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => None,
        Err(error) => Some(format!("no control group can be made: {error}")),
    }
}

/// A systemd that is process 1 of its own pid, mount, uts, ipc and cgroup namespaces, in the network namespace of
/// the server. It has the packaged unit, and the programs `/usr/bin/ipcluster` and `/usr/bin/greeter`. All of
/// it ends with this value.
#[derive(Debug)]
pub struct Systemd<'a> {
    lab: &'a Lab,
    /// What made the namespaces; its child is systemd.
    outer: Process,
    pid: u32,
    group: PathBuf,
}

impl<'a> Systemd<'a> {
    /// Boots it, and waits until it runs.
    ///
    /// # Panics
    /// Where it does not within 60 s.
    pub fn boot(lab: &'a Lab) -> Self {
        let directory = lab.directory();
        let (boot, root) = (directory.join("boot-systemd.sh"), directory.join("root"));
        fs::write(&boot, BOOT).expect("the case's directory can be written to");
        fs::create_dir(&root).expect("a new directory");
        let hierarchy = hierarchy().expect("the case needs it");
        // Of all cases that run now this one alone has this pid namespace.
        let namespace = fs::metadata("/proc/self/ns/pid").expect("a namespace of this process");
        let group = hierarchy.join(format!("ipcluster-test-{}", namespace.ino()));
        fs::create_dir_all(&group).expect("a control group can be made");
        let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/ipcluster@.service");
        let script = "echo $$ > \"$0/cgroup.procs\" && exec unshare --pid --mount --uts --ipc --cgroup --fork \
                      --kill-child sh \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(&group).arg(&boot).arg(&root);
        command.args([ipcluster(), greeter(), unit]).args(std::env::var_os("NETNS_TESTS_SYSTEMD"));
        let outer = lab.start("systemd", command);
        let mut booted = Self { lab, outer, pid: 0, group };
        wait_until("systemd to run", Duration::from_secs(60), || {
            assert!(booted.outer.is_running(), "{}", booted.outer.output());
            booted.pid = booted.child().unwrap_or(0);
            let state =
                (booted.pid > 0).then(|| booted.try_run(&["systemctl", "is-system-running"]));
            state.is_some_and(|output| {
                ["running", "degraded"].contains(&String::from_utf8_lossy(&output.stdout).trim())
            })
        });
        booted
    }

    /// The process that has become systemd.
    fn child(&self) -> Option<u32> {
        let outer = self.outer.pid();
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).ok()?;
        let child: u32 = children.split_whitespace().next()?.parse().ok()?;
        let name = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
        (name.trim() == "systemd").then_some(child)
    }

    /// A path in its file system.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid))
    }

    /// Its version, such as 252.
    ///
    /// # Panics
    /// Where it does not tell.
    pub fn version(&self) -> u32 {
        let told = self.run(&["systemctl", "--version"]);
        let version = told.split_whitespace().nth(1).and_then(|version| version.parse().ok());
        version.unwrap_or_else(|| panic!("no version: {told}"))
    }

    /// Writes a file in its file system.
    ///
    /// # Panics
    /// Where that fails.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("a file in a directory"))
            .expect("its own directory");
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Reads a file in its file system.
    ///
    /// # Panics
    /// Where that fails.
    pub fn read(&self, path: &str) -> String {
        let path = self.path(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Runs a command in it.
    ///
    /// # Panics
    /// Where it cannot be run.
    pub fn try_run<S: AsRef<OsStr>>(&self, words: &[S]) -> Output {
        let target = self.pid.to_string();
        let mut command = Command::new("nsenter");
        command.args(["--target", &target, "--pid", "--mount", "--uts", "--ipc", "--cgroup", "--"]);
        command.args(words).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let output = self.lab.server().run_in(|| command.output());
        output.expect("the namespace can be entered").expect("nsenter (util-linux)")
    }

    /// Runs a command in it that must succeed, and returns what it printed.
    ///
    /// # Panics
    /// Where it does not, with the journal.
    pub fn run<S: AsRef<OsStr> + std::fmt::Debug>(&self, words: &[S]) -> String {
        let output = self.try_run(words);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(
            output.status.success(),
            "{words:?}: {}\n{stdout}{stderr}\n{}",
            output.status,
            text(&self.try_run(&["journalctl", "--no-pager", "--lines=100"]).stdout)
        );
        stdout
    }
}

impl Drop for Systemd<'_> {
    fn drop(&mut self) {
        // Process 1 takes everything in its pid namespace with it.
        self.outer.signal(nix::sys::signal::Signal::SIGKILL);
        let _ = self.outer.wait(Duration::from_secs(20));
        let began = std::time::Instant::now();
        while self.group.exists() && began.elapsed() < Duration::from_secs(10) {
            remove_groups(&self.group);
        }
    }
}

/// Removes a control group and those below it, if nobody is in them any more.
fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}
