//! The mask of file modes of workers.

/// Which permissions files that a worker makes do not get (umask(2)): `0027` in text, which is octal.
///
/// ```
/// use ipcluster::config::FileModeMask;
///
/// assert_eq!(FileModeMask::new(0o027).map(FileModeMask::bits), Some(0o027));
/// assert_eq!(FileModeMask::new(0o1000), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileModeMask(u32);

impl FileModeMask {
    /// This mask, 0 to 0777; `None` for any other number.
    pub fn new(bits: u32) -> Option<Self> {
        (bits <= 0o777).then_some(Self(bits))
    }

    /// Its bits, 0 to 0777.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// The mask of a text: one to four octal digits.
    pub(super) fn read(text: &str) -> Option<Self> {
        let is_octal =
            (1..=4).contains(&text.len()) && text.bytes().all(|it| (b'0'..=b'7').contains(&it));
        let bits = is_octal.then(|| u32::from_str_radix(text, 8).ok()).flatten()?;
        Self::new(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_octal() {
        let bits = |text| FileModeMask::read(text).map(FileModeMask::bits);
        assert_eq!([bits("0027"), bits("22"), bits("0")], [Some(0o027), Some(0o022), Some(0)]);
        for text in ["", "8", "1000", "00022", "0o22", "-1", "u=rwx"] {
            assert_eq!(bits(text), None, "{text}");
        }
    }
}
