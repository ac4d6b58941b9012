//! Files that are read as a whole.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The text of a file that is no longer than so many MiB: the path may be a device, which has no end.
///
/// # Errors
/// Those of opening and reading; `FileTooLarge`; `InvalidData` for what is no UTF-8.
pub(crate) fn read_text(path: &Path, most_mib: u64) -> io::Result<String> {
    let most = most_mib * 1024 * 1024;
    let mut text = String::new();
    let length = File::open(path)?.take(most + 1).read_to_string(&mut text)?;
    if length as u64 > most {
        let reason = format!("longer than {most_mib} MiB");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    Ok(text)
}
