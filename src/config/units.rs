//! Durations, sizes and rates: one parser for each, with one writer that it reads back.

use std::time::Duration;

use toml::Value;

use super::item::{Setting, text};
use crate::domain::bucket::Rate;

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// A year: far beyond any sensible setting, and far below what would overflow when added to a point in time.
const LONGEST: u64 = 8_760 * HOUR;

/// A day: so that a bucket's count of nanoseconds holds however many requests queue.
const LONGEST_WINDOW: u64 = 24 * HOUR;

const UNITS: &str = "unit must be ms, s, min or h";

fn milliseconds(unit: &str) -> Result<u64, String> {
    match unit {
        "ms" => Ok(1),
        "s" => Ok(SECOND),
        "m" | "min" => Ok(MINUTE),
        "h" => Ok(HOUR),
        "" => Err(format!("needs a unit: {}", UNITS.trim_start_matches("unit must be "))),
        _ => Err(UNITS.into()),
    }
}

/// The digits that `text` starts with, and what follows them.
fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// Reads `500ms`, `5s`, `2m`, `2min` or `1h`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_number(text);
    if number.is_empty() {
        return Err("must be a whole number and a unit, as in 500ms, 5s, 2min or 1h".into());
    }
    let unit = milliseconds(unit)?;
    let length = number.parse().ok().and_then(|number: u64| number.checked_mul(unit)).filter(|&ms| ms <= LONGEST);
    length.map(Duration::from_millis).ok_or_else(|| "must be at most 8760h".into())
}

/// Writes a duration in the largest unit that it is whole in.
pub fn duration_text(duration: Duration) -> String {
    let ms = duration.as_millis();
    let (length, unit) = [(HOUR, "h"), (MINUTE, "min"), (SECOND, "s")]
        .into_iter()
        .find(|&(length, _)| ms > 0 && ms.is_multiple_of(length.into()))
        .unwrap_or(if ms == 0 { (SECOND, "s") } else { (1, "ms") });
    format!("{}{unit}", ms / u128::from(length))
}

impl Setting for Duration {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Integer(number) => parse_duration(&number.to_string()),
            _ => parse_duration(text(value, "a duration in quotes, as in \"5s\"")?),
        }
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

const SIZES: [(u32, &str); 3] = [(30, "GiB"), (20, "MiB"), (10, "KiB")];

/// Reads `64KiB`, `256MiB`, `1GiB` or plain bytes.
pub fn parse_size(text: &str) -> Result<ByteSize, String> {
    let (number, unit) = split_number(text);
    if number.is_empty() {
        return Err("must be a whole number and a unit, as in 64KiB, 256MiB or 1GiB".into());
    }
    let shift = match unit {
        "" | "B" => 0,
        _ => {
            SIZES
                .into_iter()
                .find(|&(_, name)| name == unit)
                .ok_or("unit must be KiB, MiB or GiB, or none for bytes")?
                .0
        }
    };
    let bytes = number.parse().ok().and_then(|number: u64| number.checked_mul(1 << shift));
    bytes.filter(|&bytes| bytes <= 1 << 50).map(ByteSize).ok_or_else(|| "must be at most 1048576GiB".into())
}

/// Writes a size in the largest unit that it is whole in.
pub fn size_text(bytes: u64) -> String {
    let whole = SIZES.into_iter().find(|&(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    whole.map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

impl Setting for ByteSize {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Integer(bytes) => parse_size(&bytes.to_string()),
            _ => parse_size(text(value, "a size in quotes, as in \"64KiB\"")?),
        }
    }
}

/// Reads `100/min`, `5/s`, `1000/h` or `10/10s`.
pub fn parse_rate(text: &str) -> Result<Rate, String> {
    let (count, window) = text.split_once('/').ok_or("must be a number per time, as in 100/min or 10/10s")?;
    let whole = !count.is_empty() && split_number(count).1.is_empty();
    let count = count.parse().ok().filter(|&count: &u32| whole && count > 0);
    let count = count.ok_or("the number before the slash must be a whole one from 1 to 4294967295")?;
    let window = match split_number(window) {
        ("", unit) => Duration::from_millis(milliseconds(unit)?),
        _ => parse_duration(window)?,
    };
    if window > Duration::from_millis(LONGEST_WINDOW) {
        return Err("the time after the slash must be at most 24h".into());
    }
    Rate::new(count, window).ok_or_else(|| "the time after the slash must be longer than zero".into())
}

impl Setting for Rate {
    fn read(value: &Value) -> Result<Self, String> {
        parse_rate(text(value, "a rate in quotes, as in \"100/min\"")?)
    }
}

/// A limit that can be lifted: `"unlimited"` is `None`.
impl<T: Setting> Setting for Option<T> {
    fn read(value: &Value) -> Result<Self, String> {
        match value.as_str() {
            Some("unlimited") => Ok(None),
            _ => T::read(value).map(Some).map_err(|allowed| format!("{allowed}; or \"unlimited\"")),
        }
    }
}

impl Setting for bool {
    fn read(value: &Value) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| "must be true or false, without quotes".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        for (text, ms) in
            [("500ms", 500), ("5s", 5_000), ("2m", 120_000), ("2min", 120_000), ("1h", 3_600_000), ("0s", 0)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for (text, message) in [
            ("", "must be a whole number and a unit, as in 500ms, 5s, 2min or 1h"),
            ("-5s", "must be a whole number and a unit, as in 500ms, 5s, 2min or 1h"),
            ("5", "needs a unit: ms, s, min or h"),
            ("1.5s", "unit must be ms, s, min or h"),
            ("5 s", "unit must be ms, s, min or h"),
            ("5S", "unit must be ms, s, min or h"),
            ("8761h", "must be at most 8760h"),
            ("99999999999999999999h", "must be at most 8760h"),
        ] {
            assert_eq!(parse_duration(text), Err(message.into()), "{text}");
        }
    }

    #[test]
    fn sizes_are_bytes_or_powers_of_1024() {
        for (text, bytes) in
            [("0", 0), ("7", 7), ("7B", 7), ("64KiB", 65_536), ("256MiB", 268_435_456), ("1GiB", 1 << 30)]
        {
            assert_eq!(parse_size(text), Ok(ByteSize(bytes)), "{text}");
        }
        for (text, message) in [
            ("MiB", "must be a whole number and a unit, as in 64KiB, 256MiB or 1GiB"),
            ("1MB", "unit must be KiB, MiB or GiB, or none for bytes"),
            ("18446744073709551615GiB", "must be at most 1048576GiB"),
        ] {
            assert_eq!(parse_size(text), Err(message.into()), "{text}");
        }
    }

    #[test]
    fn rates_are_a_number_per_time() {
        for (text, count, seconds) in
            [("5/s", 5, 1), ("100/min", 100, 60), ("9/m", 9, 60), ("1/h", 1, 3600), ("10/10s", 10, 10)]
        {
            assert_eq!(parse_rate(text).ok(), Rate::new(count, Duration::from_secs(seconds)), "{text}");
        }
        for (text, message) in [
            ("100", "must be a number per time, as in 100/min or 10/10s"),
            ("0/s", "the number before the slash must be a whole one from 1 to 4294967295"),
            ("+1/s", "the number before the slash must be a whole one from 1 to 4294967295"),
            ("10/10x", "unit must be ms, s, min or h"),
            ("10/", "needs a unit: ms, s, min or h"),
            ("10/10", "needs a unit: ms, s, min or h"),
            ("10/0s", "the time after the slash must be longer than zero"),
            ("10/25h", "the time after the slash must be at most 24h"),
        ] {
            assert_eq!(parse_rate(text), Err(message.into()), "{text}");
        }
    }

    #[test]
    fn a_limit_can_be_lifted() {
        assert_eq!(Option::<Rate>::read(&"unlimited".into()), Ok(None));
        assert_eq!(Option::<Rate>::read(&"5/s".into()).ok(), Some(Rate::new(5, Duration::from_secs(1))));
        assert!(Option::<Rate>::read(&"1/x".into()).is_err_and(|message| message.ends_with("h; or \"unlimited\"")));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(ms in 0..=LONGEST, bytes in 0_u64..=1 << 50, count in 1_u32.., window in 1..=LONGEST_WINDOW) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse_duration(&duration_text(duration)), Ok(duration));
            prop_assert_eq!(parse_size(&size_text(bytes)), Ok(ByteSize(bytes)));
            let rate = Rate::new(count, Duration::from_millis(window)).expect("neither is zero");
            prop_assert_eq!(parse_rate(&rate.to_string()), Ok(rate));
        }

        #[test]
        fn whole_units_read_back_too(number in 1_u64..8_760, bytes in 1_u64..1 << 20) {
            for unit in [SECOND, MINUTE, HOUR] {
                let duration = Duration::from_millis(number * unit);
                prop_assert_eq!(parse_duration(&duration_text(duration)), Ok(duration));
            }
            for (shift, _) in SIZES {
                prop_assert_eq!(parse_size(&size_text(bytes << shift)), Ok(ByteSize(bytes << shift)));
            }
        }

        #[test]
        fn no_text_makes_a_parser_panic_or_quote_it(text in "\\PC*") {
            for message in [parse_duration(&text).err(), parse_size(&text).err(), parse_rate(&text).err()].into_iter().flatten() {
                prop_assert!(text.len() < 8 || !message.contains(&text));
            }
        }
    }
}
