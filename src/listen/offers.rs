//! What peers have been offered of their answers over HTTP/2 and have not taken: since when, one for each stream.
//!
//! A stream whose peer leaves no room for it writes nothing, so that its connection never seems to be stuck, and it is no sign of life
//! that other streams go on.

use parking_lot::Mutex;

/// See the module. Who is offered something at the same time need not be told apart, and there are no more than the streams of one
/// connection; so these are plain numbers in no order: milliseconds since the connection began.
#[derive(Debug, Default)]
pub(super) struct Offers(Mutex<Vec<u64>>);

impl Offers {
    /// One more, since then.
    pub(super) fn add(&self, since: u64) {
        self.0.lock().push(since);
    }

    /// One that was made then has been taken, or taken back.
    pub(super) fn remove(&self, since: u64) {
        let mut all = self.0.lock();
        if let Some(at) = all.iter().position(|other| *other == since) {
            all.swap_remove(at);
        }
    }

    /// Since when the oldest waits.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.0.lock().iter().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_the_oldest_of_those_that_are_left() {
        let offers = Offers::default();
        assert_eq!(offers.oldest(), None);
        for since in [5, 3, 7, 3] {
            offers.add(since);
        }
        for (taken, oldest) in [(5, Some(3)), (3, Some(3)), (3, Some(7)), (7, None)] {
            offers.remove(taken);
            assert_eq!(offers.oldest(), oldest);
        }
    }
}
