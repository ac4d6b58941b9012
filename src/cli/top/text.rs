//! Figures as text. Pure.

/// Bytes in the largest unit of which there is one whole.
pub(super) fn amount(bytes: u64) -> String {
    const UNITS: [(u32, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    match UNITS.into_iter().find(|(shift, _)| bytes >> shift > 0) {
        Some((shift, unit)) => {
            let tenths = (u128::from(bytes) * 10) >> shift;
            match tenths {
                0..100 => format!("{}.{} {unit}", tenths / 10, tenths % 10),
                _ => format!("{} {unit}", tenths / 10),
            }
        }
        None => format!("{bytes} B"),
    }
}

/// Seconds in at most two units.
pub(super) fn span(seconds: f64) -> String {
    if (0.0..10.0).contains(&seconds) && seconds.fract() > 0.0 {
        return format!("{seconds:.1}s");
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
    let seconds = seconds as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// A time as whole seconds.
pub(super) fn whole(seconds: f64) -> String {
    span(seconds.floor())
}

/// A rate, or `-` where it is not known.
pub(super) fn rate(value: Option<f64>) -> String {
    match value {
        Some(value) if value < 99.95 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
        None => "-".to_owned(),
    }
}

/// A share in percent, or `-` where it is not known.
pub(super) fn percent(value: Option<f64>) -> String {
    match value {
        Some(value) if value < 9.95 => format!("{value:.1}%"),
        Some(value) => format!("{value:.0}%"),
        None => "-".to_owned(),
    }
}

/// A number with its noun.
pub(super) fn plural(count: impl Into<u64>, noun: &str) -> String {
    match count.into() {
        1 => format!("1 {noun}"),
        count => format!("{count} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        assert_eq!(
            [0, 1023, 1024, 73_400_320, 1 << 31].map(amount),
            ["0 B", "1023 B", "1.0 KiB", "70 MiB", "2.0 GiB"]
        );
        assert_eq!(
            [0.0, 1.25, 9.0, 61.0, 3700.0, 90_000.0].map(span),
            ["0s", "1.2s", "9s", "1m01s", "1h01m", "1d01h"]
        );
        assert_eq!(
            [None, Some(0.0), Some(99.9), Some(1234.5)].map(rate),
            ["-", "0.0", "99.9", "1234"]
        );
        assert_eq!([Some(3.12), Some(99.6)].map(percent), ["3.1%", "100%"]);
        assert_eq!([1u32, 2].map(|count| plural(count, "worker")), ["1 worker", "2 workers"]);
    }
}
