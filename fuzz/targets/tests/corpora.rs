//! Every input that the fuzzer has found worth keeping, and some thousands of changes of them, on any
//! compiler: no coverage guides them, that is what `cargo fuzz` is for.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;

/// So many changed inputs a target, unless `FUZZ_RUNS` says otherwise.
const RUNS: usize = 5_000;

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name));
        })*

        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}

targets!(configuration control fleet notify offer output peer plan proc replies ruleset store);

#[test]
fn every_target_is_replayed_and_can_be_fuzzed() {
    let named: BTreeSet<&str> = fuzz_targets::TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(named, TESTED.iter().copied().collect());
    let files = fs::read_dir(fuzz().join("fuzz_targets")).unwrap();
    let files: BTreeSet<String> = files
        .map(|file| {
            file.expect("an entry").path().file_stem().unwrap().to_string_lossy().into_owned()
        })
        .collect();
    assert_eq!(named, files.iter().map(String::as_str).collect());
}

fn fuzz() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("it is in fuzz/").to_owned()
}

fn replay(name: &str) {
    let directory = fuzz().join("corpora").join(name);
    let mut paths: Vec<PathBuf> = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    let corpus: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).expect("an input")).collect();
    assert!(!corpus.is_empty(), "no input in {}", directory.display());
    for input in &corpus {
        run(name, input);
    }
    let runs = std::env::var("FUZZ_RUNS").map_or(RUNS, |runs| runs.parse().expect("a number"));
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..runs {
        run(name, &changed(&corpus, &mut random));
    }
}

/// Runs a target. If it panics, the input is printed, so that it can be kept.
fn run(name: &str, input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| fuzz_targets::run(name, input))) {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        eprintln!("target {name}, input as hexadecimal digits (xxd -r -p): {hex}");
        resume_unwind(panic);
    }
}

/// An input with up to eight changes: pieces that are removed, repeated or taken from another one, and bytes
/// that are others.
fn changed(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(8) {
        let place = random.below(input.len() + 1);
        let length = random.below(16).min(input.len() - place);
        match random.below(6) {
            0 => drop(input.drain(place..place + length)),
            1 => {
                let piece = input[place..place + length].to_vec();
                input.splice(place..place, piece);
            }
            2 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len() + 1);
                let piece = other[from..].iter().take(1 + random.below(64)).copied();
                input.splice(place..place + length, piece.collect::<Vec<_>>());
            }
            3 => input.insert(place, random.byte()),
            kind => {
                if let Some(byte) = input.get_mut(place) {
                    *byte = match kind {
                        4 => random.byte(),
                        _ => [0, 1, 0x7f, 0x80, 0xff, b'0', b'\n'][random.below(7)],
                    };
                }
            }
        }
    }
    input
}

/// Numbers that are the same in every run (xorshift64, George Marsaglia, "Xorshift RNGs", 2003).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).expect("a length")).expect("below it")
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[3]
    }
}
