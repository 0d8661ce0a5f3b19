//! When what was purged, changed or replaced: what a call brings that began before that is not what there is now.

use std::collections::HashMap;
use std::hash::Hash;

use foldhash::fast::RandomState;
use tokio::time::Instant;

/// Marks of one kind: on each thing, or on all. One matters only to calls that began before it.
#[derive(Debug)]
pub struct Marks<T> {
    all: Option<Instant>,
    each: HashMap<T, Instant, RandomState>,
}

/// How many things have a mark of their own. With one more all are marked instead: then calls under way once bring nothing that is
/// fresh, and no memory grows with what clients choose.
pub const MOST: usize = 8192;

impl<T> Default for Marks<T> {
    fn default() -> Self {
        Self { all: None, each: HashMap::default() }
    }
}

impl<T: Eq + Hash> Marks<T> {
    /// A mark on `what`.
    pub fn mark(&mut self, what: T, now: Instant) {
        if self.each.len() >= MOST && !self.each.contains_key(&what) {
            self.mark_all(now);
        }
        let at = self.each.entry(what).or_insert(now);
        *at = now.max(*at);
    }

    /// A mark on everything.
    pub fn mark_all(&mut self, now: Instant) {
        // Whoever marks has looked at the clock before it came here, in whatever order: no mark is taken back by one from before it.
        self.all = self.each.drain().map(|(_, at)| at).chain(self.all).chain([now]).max();
    }

    /// Whether `what` has been marked since a call for it began.
    pub fn since(&self, what: &T, began: Instant) -> bool {
        self.all.is_some_and(|at| began <= at) || self.each.get(what).is_some_and(|at| began <= *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn however_many_marks_there_are_none_is_forgotten_and_their_memory_is_bounded() {
        let (mut marks, began) = (Marks::default(), Instant::now());
        let marked = began + Duration::from_secs(1);
        for what in 0..3 * MOST {
            marks.mark(what, marked);
            assert!(marks.each.len() <= MOST);
        }
        for what in [0, MOST, 3 * MOST - 1] {
            assert!(marks.since(&what, began), "{what}");
            assert!(!marks.since(&what, marked + Duration::from_secs(1)), "{what}");
        }
    }

    #[test]
    fn a_mark_is_about_what_it_names_and_what_began_before_it_however_long_ago() {
        let (mut marks, began) = (Marks::default(), Instant::now());
        let later = began + Duration::from_secs(3_600);
        marks.mark("a", later);
        assert!(marks.since(&"a", began) && marks.since(&"a", later) && !marks.since(&"b", began));
        marks.mark_all(later);
        assert!(marks.since(&"b", began) && !marks.since(&"b", later + Duration::from_secs(1)));
    }

    #[test]
    fn a_mark_never_goes_back_in_whatever_order_they_come() {
        let start = Instant::now();
        let [first, between, last] = [1, 2, 3].map(|seconds| start + Duration::from_secs(seconds));
        let mut marks = Marks::default();
        marks.mark("a", last);
        marks.mark("a", first);
        assert!(marks.since(&"a", between));
        marks.mark_all(first);
        assert!(marks.since(&"a", between), "what is marked with all the others keeps its own");
        marks.mark_all(last);
        marks.mark_all(first);
        assert!(marks.since(&"b", between));
    }
}
