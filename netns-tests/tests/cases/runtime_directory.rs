//! The runtime directory is removed or renamed beneath a master that runs.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use netns_tests::{Case, Cluster, Lab, Need, greeter, wait_until};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("a_runtime_directory_that_is_removed_or_renamed_comes_back", comes_back),
        Case::new("sockets_of_workers_of_another_user_come_back", workers_socket)
            .needs(Need::OtherUsers),
        Case::new("where_it_cannot_come_back_that_is_said", cannot_come_back),
    ]
}

const PATIENCE: Duration = Duration::from_secs(20);

/// The directory with this name, which the master has made.
fn directory(lab: &Lab, name: &str) -> PathBuf {
    let bases = [Path::new("/run"), lab.directory()];
    let paths = bases.iter().map(|base| base.join(name));
    let mut found = paths.filter(|path| path.is_dir());
    found.next().expect("a directory")
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

fn comes_back(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start(2);
    let directory = directory(lab, "ipcluster");
    let [lock, socket, note] = ["t.lock", "t.sock", "t.start"].map(|name| directory.join(name));
    for is_renamed in [false, true] {
        match is_renamed {
            true => fs::rename(&directory, directory.with_extension("moved")).unwrap(),
            false => fs::remove_dir_all(&directory).unwrap(),
        }
        wait_until("the control socket", PATIENCE, || is_socket(&socket) && note.exists());
        cluster.wait_until_settled(2);
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
        assert!(lock.exists());
    }
    // The lock is taken: a second master is refused, and the next one takes over.
    let mut second = Cluster::new(lab, 1);
    second.start_master(&[greeter().into()]);
    assert_eq!(second.master().wait(PATIENCE).code(), Some(1));
    let said = second.log();
    assert!(said.contains("a master of cluster t runs already"), "{said}");
    let before = cluster.wait_until_settled(2);
    let old = cluster.replace_master(&[greeter().into()]);
    wait_until("the end of the earlier master", PATIENCE, || !netns_tests::is_alive(old.pid()));
    let after = cluster.wait_until_settled(2);
    assert_eq!(after.pids(), before.pids());
    cluster.reload();
    let again = cluster.wait_until_settled(2);
    assert!(again.generation > before.generation, "{again:?}");
    assert!(cluster.succeed("stop", &[]).starts_with("stopped: 2 workers ended"));
    assert!(!socket.exists());
}

fn workers_socket(lab: &Lab) {
    let program = lab.for_everyone(&greeter());
    let mut cluster = Cluster::new(lab, 1).argument("--user").argument("nobody");
    cluster.start_master(&[program.into()]);
    cluster.wait_for_live(1);
    let directory = directory(lab, "ipcluster-workers");
    let socket = directory.join("t.sock");
    let before = fs::metadata(&socket).unwrap();
    fs::remove_dir_all(&directory).unwrap();
    wait_until("the socket of workers", PATIENCE, || is_socket(&socket));
    let of = |path: &Path, before: &fs::Metadata| {
        let found = fs::metadata(path).unwrap();
        (found.gid(), found.mode()) == (before.gid(), before.mode())
    };
    wait_until("its group", PATIENCE, || of(&socket, &before));
    cluster.reload();
    cluster.wait_until_settled(1);
}

fn cannot_come_back(lab: &Lab) {
    let cluster = Cluster::new(lab, 1).start(1);
    let directory = directory(lab, "ipcluster");
    fs::remove_dir_all(&directory).unwrap();
    fs::write(&directory, "something else").unwrap();
    let is_said = || cluster.log().contains("cannot be made anew");
    wait_until("an error in the log", PATIENCE, is_said);
    assert_eq!(fs::read_to_string(&directory).unwrap(), "something else");
    fs::remove_file(&directory).unwrap();
    wait_until("the control socket", PATIENCE, || is_socket(&directory.join("t.sock")));
    cluster.succeed("status", &[]);
}
