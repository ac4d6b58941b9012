//! What the kernel and workers write, over bytes that they did not: for the fuzzer.

use super::lines::{LineSplitter, coloured, plain};
use super::stat::Stat;
use super::{memory, parse_env_file};

/// Reads a file of `/proc` in every way in which one is read.
pub fn read_proc_files(bytes: &[u8]) {
    let _ = Stat::of_process(1, bytes);
    memory::read_proc_files(bytes);
}

/// Reads a file of environment variables.
///
/// # Panics
/// If a variable has no name, or one that no variable can have.
pub fn read_env_file(text: &str) {
    for (name, _) in parse_env_file(text).unwrap_or_default() {
        assert!(!name.is_empty() && !name.contains(['=', '\0']), "{name:?}");
    }
}

/// Reads what a worker printed, which arrives in two pieces.
///
/// # Panics
/// If how it was cut makes a difference, or something is left that a terminal obeys.
pub fn read_output(bytes: &[u8], cut: usize) {
    let (first, second) = bytes.split_at(cut.min(bytes.len()));
    let lines = split(&[first, second]);
    assert_eq!(lines, split(&[bytes]), "cut at {cut}");
    for line in &lines {
        assert!(!plain(line).contains(|c: char| c.is_control() && c != '\t'), "{line:?}");
        let _ = coloured(line);
    }
}

fn split(pieces: &[&[u8]]) -> Vec<String> {
    let mut splitter = LineSplitter::default();
    let mut lines = Vec::new();
    for piece in pieces {
        splitter.push(piece, |line| lines.push(line));
    }
    lines.extend(splitter.start_anew());
    lines
}
