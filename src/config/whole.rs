//! Whole numbers, each with its range in its type, so that every complaint names the same one.

use std::num::NonZeroUsize;

use toml::Value;

use super::item::Setting;

/// A whole number from `LEAST` to `MOST`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole<const LEAST: u32, const MOST: u32>(pub u32);

/// At least one of something.
pub type AtLeastOne = Whole<1, { u32::MAX }>;

impl<const LEAST: u32, const MOST: u32> Setting for Whole<LEAST, MOST> {
    fn read(value: &Value) -> Result<Self, String> {
        let number = value.as_integer().and_then(|number| u32::try_from(number).ok());
        let number = number.filter(|number| (LEAST..=MOST).contains(number));
        number.map(Self).ok_or_else(|| unquoted(value, &format!("must be a whole number from {LEAST} to {MOST}")))
    }
}

/// What is `allowed`, and that a number in quotes is none.
pub fn unquoted(value: &Value, allowed: &str) -> String {
    match value.as_str() {
        Some(text) if text.trim().parse::<f64>().is_ok() => format!("leave the quotes out: {allowed}"),
        _ => allowed.into(),
    }
}

/// How many threads serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// One for each core that is available.
    Auto,
    /// As many as written.
    Count(NonZeroUsize),
}

impl Workers {
    /// The number that is meant on this machine.
    pub fn count(self) -> NonZeroUsize {
        match self {
            Self::Auto => std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            Self::Count(count) => count,
        }
    }
}

impl Setting for Workers {
    fn read(value: &Value) -> Result<Self, String> {
        if value.as_str() == Some("auto") {
            return Ok(Self::Auto);
        }
        let count = value.as_integer().filter(|&count| count <= 1024).and_then(|count| usize::try_from(count).ok());
        let count = count.and_then(NonZeroUsize::new);
        count.map(Self::Count).ok_or_else(|| unquoted(value, "must be \"auto\" or a whole number from 1 to 1024"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_complaint_about_a_number_names_the_same_range() {
        type Few = Whole<1, 10>;
        assert_eq!(Few::read(&10.into()), Ok(Whole(10)));
        for bad in [Value::from(0), Value::from(11), Value::from(-1), Value::from(1.5), Value::from("many")] {
            assert_eq!(Few::read(&bad), Err("must be a whole number from 1 to 10".into()), "{bad}");
        }
        let quoted = "leave the quotes out: must be a whole number from 1 to 10";
        assert_eq!(Few::read(&"5".into()), Err(quoted.into()));
        assert_eq!(Option::<Few>::read(&"5".into()), Err(format!("{quoted}; or \"unlimited\"")));
        assert_eq!(Option::<Few>::read(&"unlimited".into()), Ok(None));
    }

    #[test]
    fn a_count_of_workers_is_found() {
        assert_eq!(Workers::read(&"auto".into()), Ok(Workers::Auto));
        assert_eq!(Workers::read(&4.into()).map(Workers::count).ok(), NonZeroUsize::new(4));
        let allowed = "must be \"auto\" or a whole number from 1 to 1024";
        for bad in [Value::from(0), Value::from(-1), Value::from(1025), Value::from(true)] {
            assert_eq!(Workers::read(&bad), Err(allowed.into()));
        }
        assert_eq!(Workers::read(&"4".into()), Err(format!("leave the quotes out: {allowed}")));
    }
}
