//! The files of the kernel that tell of memory, from bytes to figures. Pure: nothing here reads.
//!
//! Each function gives `None` for bytes that are cut, empty or something else, and never a figure
//! that is too small.

use std::ffi::OsString;
use std::iter::Sum;
use std::ops::Add;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// An amount of memory, in bytes. Sums saturate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(pub u64);

impl Bytes {
    /// The amount of so many units of `unit` bytes each.
    pub(super) fn of(count: u64, unit: u64) -> Self {
        Self(count.saturating_mul(unit))
    }
}

impl Add for Bytes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sum for Bytes {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self(0), Add::add)
    }
}

/// The longest `/proc/PID/statm`: seven numbers of 64 bits.
pub(super) const STATM_LEN: usize = 7 * 21;

/// The resident pages that a `/proc/PID/statm` tells (proc_pid_statm(5)): `Some(None)` where the
/// process has no memory at all, since it has ended (a zombie, whose numbers are all 0).
pub(super) fn resident_pages(statm: &[u8]) -> Option<Option<u64>> {
    let line = statm.strip_suffix(b"\n")?;
    let mut fields = line.split(|byte| *byte == b' ');
    let size = number(fields.next()?)?;
    let resident = number(fields.next()?)?;
    let mut rest = 0;
    for field in fields {
        number(field)?;
        rest += 1;
    }
    (rest == 5).then_some((size > 0).then_some(resident))
}

/// What a `/proc/PID/smaps_rollup` says of a process's proportional set size: of each page that it
/// shares with n processes in all, the n-th part (proc_pid_smaps_rollup(5), since Linux 4.14).
pub(super) fn proportional(rollup: &[u8]) -> Option<Bytes> {
    let value = labelled(rollup, b"Pss:")?.trim_ascii_start();
    Some(Bytes::of(number(value.strip_suffix(b" kB")?)?, 1024))
}

/// One number and the end of its line, as in `memory.current`.
pub(super) fn counter(bytes: &[u8]) -> Option<Bytes> {
    number(bytes.strip_suffix(b"\n")?).map(Bytes)
}

/// File pages that nobody has used for a while, of a `memory.stat`: what the kernel takes away
/// first, and without harm.
pub(super) fn inactive_file(stat: &[u8]) -> Option<Bytes> {
    number(labelled(stat, b"inactive_file ")?).map(Bytes)
}

/// The cgroup of a process in the hierarchy of version 2, below the root of the reader's cgroup
/// namespace, of a `/proc/PID/cgroup` (cgroups(7)): `Some(None)` where there is no such hierarchy,
/// or the cgroup was removed, or lies outside of the namespace.
pub(in crate::process) fn cgroup_path(cgroup: &[u8]) -> Option<Option<PathBuf>> {
    // Cut lines would name another cgroup.
    if !cgroup.ends_with(b"\n") {
        return None;
    }
    let Some(path) = labelled(cgroup, b"0::") else { return Some(None) };
    let is_usable =
        path.starts_with(b"/") && !path.starts_with(b"/..") && !path.ends_with(b" (deleted)");
    Some(is_usable.then(|| OsString::from_vec(path.to_vec()).into()))
}

/// The pids of a `cgroup.procs`; 0 stands for a process that this pid namespace does not know.
pub(super) fn pids(procs: &[u8]) -> Option<Vec<u32>> {
    if procs.is_empty() {
        return Some(Vec::new());
    }
    let lines = procs.strip_suffix(b"\n")?.split(|byte| *byte == b'\n');
    lines.map(|line| u32::try_from(number(line)?).ok()).collect()
}

/// Where a hierarchy of cgroups is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CgroupMount {
    /// The cgroup that is seen there, below the root of the cgroup namespace.
    pub(super) root: PathBuf,
    pub(super) point: PathBuf,
}

/// The first mount of the hierarchy of version 2 in a `/proc/self/mountinfo`
/// (proc_pid_mountinfo(5)).
pub(super) fn cgroup2_mount(mountinfo: &[u8]) -> Option<CgroupMount> {
    mountinfo.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let (root, point) = (fields.nth(3)?, fields.next()?);
        // A number of optional fields, then a dash, then the type.
        fields.find(|field| *field == b"-")?;
        let is_cgroup2 = fields.next()? == b"cgroup2";
        is_cgroup2.then(|| CgroupMount { root: unescaped(root), point: unescaped(point) })
    })
}

/// A path of mountinfo, in which spaces, tabs, newlines and backslashes are `\` and three octal
/// digits.
fn unescaped(path: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(bytes).into()
}

/// What follows `label` in the first line that begins with it and that has an end.
fn labelled<'a>(text: &'a [u8], label: &[u8]) -> Option<&'a [u8]> {
    let line = text.split_inclusive(|byte| *byte == b'\n').find(|line| line.starts_with(label))?;
    line.strip_suffix(b"\n")?.get(label.len()..)
}

/// Decimal digits and nothing else: no sign, no space.
fn number(digits: &[u8]) -> Option<u64> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `cat /proc/self/statm` on Linux 6.18.
    const STATM: &[u8] = b"625 337 312 5 0 89 0\n";

    /// `cat /proc/self/smaps_rollup` on Linux 6.18.
    const ROLLUP: &[u8] =
        b"55d0c3a1f000-7ffd3a9f1000 ---p 00000000 00:00 0                          [rollup]
Rss:                1416 kB
Pss:                 159 kB
Pss_Dirty:           104 kB
Pss_Anon:            104 kB
Pss_File:             55 kB
Pss_Shmem:             0 kB
Shared_Clean:       1312 kB
SwapPss:               0 kB
Locked:                0 kB
";

    const MEMORY_STAT: &[u8] = b"anon 8192\nfile 40960\nactive_file 4096\ninactive_file 36864\n";

    const MOUNTINFO: &[u8] = b"\
22 1 253:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
31 30 0:27 /a\\040b /sys/fs/cgroup/uni\\040fied rw,nosuid shared:10 master:3 - cgroup2 cgroup2 rw
";

    #[test]
    fn resident_pages_of_whole_lines() {
        assert_eq!(resident_pages(STATM), Some(Some(337)));
        assert_eq!(resident_pages(b"0 0 0 0 0 0 0\n"), Some(None), "a zombie is dead, not small");
        let most = u64::MAX;
        let longest = format!("{most} {most} {most} {most} {most} {most} {most}\n");
        assert_eq!(resident_pages(longest.as_bytes()), Some(Some(most)));
        assert_eq!(longest.len(), STATM_LEN);
        // A process whose pages are all swapped out lives.
        assert_eq!(resident_pages(b"625 0 0 5 0 89 0\n"), Some(Some(0)));
    }

    #[test]
    fn other_lines_are_no_statm() {
        for text in [
            "",
            "\n",
            "625 337\n",
            "625 337 312 5 0 89 0",
            "625 337 312 5 0 89 0 1\n",
            "625 -337 312 5 0 89 0\n",
            "625 +337 312 5 0 89 0\n",
            "625  337 312 5 0 89\n",
            "625 337 312 5 0 89 0\n\n",
            "625 18446744073709551616 312 5 0 89 0\n",
            "625 337 312 x 0 89 0\n",
        ] {
            assert_eq!(resident_pages(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn every_cut_is_nothing_or_the_same() {
        type Read = fn(&[u8]) -> Option<Bytes>;
        let whole: [(&[u8], Read); 5] = [
            (STATM, |it| resident_pages(it)?.map(Bytes)),
            (ROLLUP, proportional),
            (b"1048576\n", counter),
            (MEMORY_STAT, inactive_file),
            (b"1\n2\n", |it| match it.len() {
                // A list that is cut after a line is a shorter list.
                4 => pids(it).map(|pids| Bytes(pids.len() as u64)),
                _ => pids(it).filter(|pids| pids.len() > 1).map(|_| Bytes(0)),
            }),
        ];
        for (bytes, read) in whole {
            let expected = read(bytes);
            assert!(expected.is_some_and(|bytes| bytes.0 > 0));
            for end in 0..bytes.len() {
                let cut = read(&bytes[..end]);
                assert!(cut.is_none() || cut == expected, "cut at {end}: {cut:?}");
            }
        }
    }

    #[test]
    fn the_proportional_size_is_that_of_its_own_line() {
        assert_eq!(proportional(ROLLUP), Some(Bytes(159 * 1024)));
        for text in ["Pss: 1 MB\n", "Pss:\n", "Pss: kB\n", "Pss_Dirty: 7 kB\n", "Pss: -1 kB\n"] {
            assert_eq!(proportional(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn cgroups_of_version_2_alone_are_named() {
        let cases: [(&str, Option<Option<&str>>); 9] = [
            ("0::/\n", Some(Some("/"))),
            ("4:memory:/a\n0::/system.slice/web.scope\n", Some(Some("/system.slice/web.scope"))),
            ("4:memory:/a\n", Some(None)),
            ("0::/../../other\n", Some(None)),
            ("0::/gone (deleted)\n", Some(None)),
            ("0::\n", Some(None)),
            ("0::/a b\n", Some(Some("/a b"))),
            ("0::/cut", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let expected = expected.map(|path| path.map(PathBuf::from));
            assert_eq!(cgroup_path(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn lists_of_pids() {
        assert_eq!(pids(b"1\n0\n4194303\n"), Some(vec![1, 0, 4_194_303]));
        assert_eq!(pids(b""), Some(vec![]));
        for text in ["1", "x\n", "1\n\n2\n", "-1\n", "4294967296\n"] {
            assert_eq!(pids(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn the_mount_of_version_2_is_found_beside_others() {
        let expected = CgroupMount { root: "/a b".into(), point: "/sys/fs/cgroup/uni fied".into() };
        assert_eq!(cgroup2_mount(MOUNTINFO), Some(expected));
        assert_eq!(cgroup2_mount(b"22 1 253:0 / / rw - ext4 /dev/vda rw\n"), None);
        assert_eq!(unescaped(b"a\\134b\\0"), PathBuf::from("a\\b\\0"));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = resident_pages(&bytes);
            let _ = proportional(&bytes);
            let _ = cgroup_path(&bytes);
            let _ = pids(&bytes);
            let _ = cgroup2_mount(&bytes);
            let _ = inactive_file(&bytes);
        }
    }
}
