//! Consumer keys that have been recognised, so that each is hashed once and not with every request.

use std::fmt;
use std::hash::BuildHasher;
use std::sync::OnceLock;

use foldhash::fast::RandomState;
use secrecy::zeroize::Zeroizing;

use crate::domain::constant_time::is_same;

/// Keys that have been shown and were right, with whom they name. Read without a lock.
///
/// Only right keys are remembered, each at most once, so nobody who has none can fill it or make its entries collide. A hash finds
/// the place of a key; what decides is the whole key, compared in a time that does not depend on where it differs.
pub(super) struct Recognised<T> {
    places: Box<[OnceLock<Seen<T>>]>,
    hasher: RandomState,
}

struct Seen<T> {
    key: Zeroizing<Box<[u8]>>,
    named: T,
}

impl<T: Clone> Recognised<T> {
    /// For so many keys at most.
    pub(super) fn new(keys: usize) -> Self {
        // Twice as many places: some stay empty, and at an empty place every search ends.
        let places = (2 * keys + 2).next_power_of_two();
        Self { places: (0..places).map(|_| OnceLock::new()).collect(), hasher: RandomState::default() }
    }

    /// Whom `key` names, if it has been remembered.
    pub(super) fn find(&self, key: &[u8]) -> Option<&T> {
        for place in self.way(key) {
            let seen = place.get()?;
            if is_same(&seen.key, key) {
                return Some(&seen.named);
            }
        }
        None
    }

    /// Remembers a key that is right.
    pub(super) fn remember(&self, key: &[u8], named: &T) {
        let mut seen = Seen { key: Zeroizing::new(key.into()), named: named.clone() };
        for place in self.way(key) {
            match place.set(seen) {
                Ok(()) => return,
                Err(back) => seen = back,
            }
            // Two requests may bring the same new key at the same time.
            if place.get().is_some_and(|other| is_same(&other.key, key)) {
                return;
            }
        }
    }

    /// The places where `key` may be, in order.
    fn way(&self, key: &[u8]) -> impl Iterator<Item = &OnceLock<Seen<T>>> {
        // The number of places is a power of two. Truncating a hash leaves a hash.
        #[allow(clippy::cast_possible_truncation, reason = "any part of a hash will do")]
        let start = self.hasher.hash_one(key) as usize & (self.places.len() - 1);
        let (before, after) = self.places.split_at(start);
        after.iter().chain(before)
    }
}

impl<T> fmt::Debug for Recognised<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recognised(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_known_again_and_no_other_is() {
        let keys: Vec<String> = (0..100).map(|number| format!("msp_{number:047}")).collect();
        let recognised = Recognised::new(keys.len());
        for (number, key) in keys.iter().enumerate() {
            assert_eq!(recognised.find(key.as_bytes()), None);
            recognised.remember(key.as_bytes(), &number);
            recognised.remember(key.as_bytes(), &number);
        }
        for (number, key) in keys.iter().enumerate() {
            assert_eq!(recognised.find(key.as_bytes()), Some(&number));
            assert_eq!(recognised.find(&key.as_bytes()[1..]), None);
            assert_eq!(recognised.find(format!("{key}0").as_bytes()), None);
        }
        let taken = recognised.places.iter().filter(|place| place.get().is_some()).count();
        assert_eq!(taken, keys.len(), "each key has one place");
    }

    #[test]
    fn keys_cannot_be_printed() {
        let recognised = Recognised::new(1);
        recognised.remember(b"canary", &());
        assert!(!format!("{recognised:?}").contains("canary"));
    }
}
