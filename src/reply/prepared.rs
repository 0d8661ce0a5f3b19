//! Header values that differ in one number only: nearly all answers need one of a few thousand, so each is made once.

use std::sync::OnceLock;

use http::HeaderValue;

/// The values for the numbers below `N`, made when they are first needed and kept for as long as the process runs: copies of them are
/// counted by nobody.
pub(super) struct Prepared<const N: usize> {
    values: [OnceLock<HeaderValue>; N],
    text: fn(u64) -> String,
}

impl<const N: usize> Prepared<N> {
    /// Values that read as `text` says, which must be visible ASCII.
    pub(super) const fn new(text: fn(u64) -> String) -> Self {
        Self { values: [const { OnceLock::new() }; N], text }
    }

    /// The value for `number`; one for `N` or more is made for this answer only.
    pub(super) fn get(&self, number: u64) -> HeaderValue {
        match usize::try_from(number).ok().and_then(|number| self.values.get(number)) {
            Some(value) => value.get_or_init(|| HeaderValue::from_static((self.text)(number).leak())).clone(),
            None => HeaderValue::try_from((self.text)(number)).expect("visible ASCII is a header value"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_beyond_the_prepared_ones_read_alike() {
        let values = Prepared::<2>::new(|number| format!("max-age={number}"));
        for (number, expected) in [(0, "max-age=0"), (1, "max-age=1"), (1, "max-age=1"), (2, "max-age=2")] {
            assert_eq!(values.get(number), expected);
        }
        assert_eq!(values.get(1).as_bytes().as_ptr(), values.get(1).as_bytes().as_ptr(), "it was made twice");
    }
}
