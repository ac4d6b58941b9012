//! Files of the kernel, over bytes that it did not write: for the fuzzer.

use super::proc_files;

/// Reads a file in every way in which one is read here.
pub(in crate::process) fn read_proc_files(bytes: &[u8]) {
    let _ = proc_files::resident_pages(bytes);
    let _ = proc_files::proportional(bytes);
    let _ = proc_files::counter(bytes);
    let _ = proc_files::inactive_file(bytes);
    let _ = proc_files::cgroup_path(bytes);
    let _ = proc_files::pids(bytes);
    let _ = proc_files::cgroup2_mount(bytes);
}
