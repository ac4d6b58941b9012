//! The namespaces of a test are its own.

use std::net::TcpListener;

use ipcluster::lab::{Held, LabError, Namespace, Network, enter_user_namespace};
use netns_tests::{Case, Lab, Need};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("each_namespace_is_another", each_namespace_is_another),
        Case::new("listeners_of_other_namespaces_are_not_reached", listeners_are_apart),
        Case::new("threads_and_their_children_start_inside", threads_start_inside),
        Case::new("settings_are_per_namespace", settings_are_per_namespace),
        Case::new("unknown_settings_are_named", unknown_settings_are_named),
        Case::new("a_process_with_threads_is_refused", threads_are_refused),
        Case::new("process_numbers_are_our_own", process_numbers).needs(Need::Pids),
    ]
}

fn inode() -> String {
    std::fs::read_link("/proc/thread-self/ns/net").unwrap().display().to_string()
}

fn each_namespace_is_another(lab: &Lab) {
    let server = lab.server().run_in(inode).unwrap();
    let client = lab.client().run_in(inode).unwrap();
    let fresh = Namespace::new().unwrap().run_in(inode).unwrap();
    let all = std::collections::BTreeSet::from([server, client, fresh, inode()]);
    assert_eq!(all.len(), 4, "{all:?}");
}

fn listeners_are_apart(lab: &Lab) {
    // A wildcard listener of our own namespace, and none in the server's.
    let _listener = TcpListener::bind("[::]:80").unwrap();
    let from = Network::clients_v4(1).next().unwrap();
    let refused = Held::open(lab.client(), from, Network::server_v4(80));
    match refused {
        Err(LabError::Hold { source, .. }) => {
            assert_eq!(source.kind(), std::io::ErrorKind::ConnectionRefused);
        }
        other => panic!("{other:?}"),
    }
}

fn threads_start_inside(lab: &Lab) {
    let expected = lab.server().run_in(inode).unwrap();
    let thread = lab.server().spawn("inside", inode).unwrap();
    assert_eq!(thread.join().unwrap(), expected);
    let output = lab
        .server()
        .run_in(|| std::process::Command::new("readlink").arg("/proc/self/ns/net").output())
        .unwrap()
        .unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), expected);
}

fn settings_are_per_namespace(lab: &Lab) {
    lab.server().set_sysctl("net.core.somaxconn", "77").unwrap();
    let read = || std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    assert_eq!(lab.server().run_in(read).unwrap().trim(), "77");
    assert_ne!(lab.client().run_in(read).unwrap().trim(), "77");
}

fn unknown_settings_are_named(lab: &Lab) {
    let error = lab.server().set_sysctl("net.core.no_such_thing", "1").unwrap_err();
    assert!(error.to_string().contains("net.core.no_such_thing"), "{error}");
}

fn threads_are_refused(_: &Lab) {
    let (_stop, stopped) = std::sync::mpsc::channel::<()>();
    let _other = std::thread::spawn(move || stopped.recv());
    match enter_user_namespace() {
        // The kernel may still count a thread that was joined a moment ago.
        Err(LabError::ManyThreads { threads: 2.. }) => {}
        other => panic!("{other:?}"),
    }
}

fn process_numbers(_: &Lab) {
    // 1 is the init of the namespace.
    assert_eq!(std::process::id(), 2);
    assert!(std::path::Path::new("/proc/2/exe").exists(), "/proc is of another pid namespace");
}
