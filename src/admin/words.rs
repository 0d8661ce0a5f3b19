//! Numbers and times as people say them.

use std::fmt;

use super::state::Millis;

/// A number of things, in the word for one or for several.
pub(super) fn counted<N: fmt::Display + PartialEq + From<u8> + Copy>(count: N, one: &str, several: &str) -> String {
    format!("{count} {}", if count == N::from(1) { one } else { several })
}

/// A share in a hundred.
pub(super) fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0))
}

/// A time that something took.
pub(super) fn latency(microseconds: Option<f64>) -> String {
    match microseconds {
        None => "-".to_owned(),
        Some(time) if time < 1e3 => format!("{time:.0} µs"),
        Some(time) if time < 1e6 => format!("{:.1} ms", time / 1e3),
        Some(time) => format!("{:.1} s", time / 1e6),
    }
}

/// A number of bytes.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut size, mut unit) = (bytes as f64, 0);
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        (size, unit) = (size / 1024.0, unit + 1);
    }
    let decimals = usize::from(unit > 0 && size < 100.0);
    format!("{size:.decimals$} {}", UNITS[unit])
}

/// A time in its largest unit, as people say it.
pub(super) fn duration(milliseconds: Millis) -> String {
    match milliseconds / 1_000 {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3_600 => format!("{} min", seconds / 60),
        seconds @ 3_600..172_800 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// What is left of a time, rounded up: nothing is said to be over before it is.
pub(super) fn left(milliseconds: Millis) -> String {
    duration(milliseconds.saturating_add(999))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_in_their_largest_unit() {
        for (milliseconds, said) in
            [(0, "0 s"), (59_999, "59 s"), (60_000, "1 min"), (3_660_000, "1 h 1 min"), (259_200_000, "3 days")]
        {
            assert_eq!(duration(milliseconds), said);
        }
        for (milliseconds, said) in [(0, "0 s"), (1, "1 s"), (1_000, "1 s"), (59_001, "1 min")] {
            assert_eq!(left(milliseconds), said);
        }
        for (count, said) in [(0, "0 pages"), (1, "1 page"), (2, "2 pages")] {
            assert_eq!(counted(count, "page", "pages"), said);
        }
        for (bytes, said) in [(0, "0 B"), (1_536, "1.5 KiB"), (256 << 20, "256 MiB"), (u64::MAX, "16777216 TiB")] {
            assert_eq!(size(bytes), said);
        }
        assert_eq!(
            (latency(Some(85.0)), latency(Some(2_500.0)), latency(None)),
            ("85 µs".into(), "2.5 ms".into(), "-".into())
        );
    }
}
