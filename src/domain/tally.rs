//! Counts that are kept where things happen and read where they are told: plain numbers, no names that come with a request.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use http::StatusCode;

use super::access::Name;
use super::ending::Ending;

/// How the requests of one consumer ended, route by route. To count is one atomic addition.
#[derive(Debug, Default)]
pub struct Tally {
    /// The first route that was asked for; the others hang behind it. There are few, and all are from the configuration.
    routes: OnceLock<Arc<RouteTally>>,
    /// Tries of calls to upstreams that are charged to it: of those who share a call, to the one who began it.
    pub calls: Counter,
}

/// How those of one route ended.
#[derive(Debug)]
pub struct RouteTally {
    /// `None`: the requests that came to no route.
    route: Option<Name>,
    counts: [[AtomicU64; CLASSES.len()]; Ending::ALL.len()],
    next: OnceLock<Arc<Self>>,
}

/// The classes of statuses that answers have.
pub const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// The place in [`CLASSES`] of the class of `status`.
pub fn class_of(status: StatusCode) -> usize {
    usize::from(status.as_u16() / 100).saturating_sub(2).min(CLASSES.len() - 1)
}

/// How often requests of one route ended in one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// The route as configured; `None`: there was none.
    pub route: Option<Name>,
    /// How they ended.
    pub ending: Ending,
    /// The class of their status.
    pub class: &'static str,
    /// How many there were.
    pub requests: u64,
}

impl Tally {
    /// That of a route: found by the name's place in memory, which only a reload changes, and else by its text.
    pub fn of(&self, route: Option<&Name>) -> &Arc<RouteTally> {
        let is_same = |known: &&Arc<RouteTally>| match (&known.route, route) {
            (Some(known), Some(route)) => Arc::ptr_eq(known, route),
            (None, None) => true,
            _ => false,
        };
        if let Some(known) = self.iter().find(is_same) {
            return known;
        }
        let mut place = &self.routes;
        loop {
            let here = place.get_or_init(|| Arc::new(RouteTally::new(route)));
            if here.route.as_ref() == route {
                return here;
            }
            place = &here.next;
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Arc<RouteTally>> {
        std::iter::successors(self.routes.get(), |known| known.next.get())
    }

    /// All that has been counted; what never happened is left out.
    pub fn counts(&self) -> Vec<Count> {
        let mut counts = Vec::new();
        for tally in self.iter() {
            for (ending, by_class) in Ending::ALL.into_iter().zip(&tally.counts) {
                for (class, count) in CLASSES.into_iter().zip(by_class) {
                    let requests = count.load(Ordering::Relaxed);
                    if requests > 0 {
                        counts.push(Count { route: tally.route.clone(), ending, class, requests });
                    }
                }
            }
        }
        counts
    }
}

impl RouteTally {
    /// A request has ended.
    pub fn count(&self, ending: Ending, status: StatusCode) {
        self.counts[ending as usize][class_of(status)].fetch_add(1, Ordering::Relaxed);
    }

    fn new(route: Option<&Name>) -> Self {
        let none = || array::from_fn(|_| AtomicU64::new(0));
        Self { route: route.cloned(), counts: array::from_fn(|_| none()), next: OnceLock::new() }
    }
}

/// Something that is counted. Cheap to clone; all clones are the same counter.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// It has happened once more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How often it has happened.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What becomes of connections from consumers.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    /// Those that were accepted.
    pub opened: Counter,
    /// Those that have ended.
    pub closed: Counter,
    /// TLS handshakes that succeeded.
    pub handshakes: Counter,
    /// TLS handshakes that failed.
    pub failed_handshakes: Counter,
    /// Those that a limit kept out.
    pub limited: Limited,
}

/// Connections that a limit kept out.
#[derive(Clone, Debug, Default)]
pub struct Limited {
    /// How often all places were taken, so that whoever came next had to wait for one.
    pub total: Counter,
    /// Closed at once, since their address had as many open as it may.
    pub per_peer: Counter,
}

impl Connections {
    /// A connection begins; it ends when the guard is dropped.
    pub fn open(&self) -> Open {
        self.opened.add();
        Open(self.closed.clone())
    }
}

/// A connection that is open.
#[derive(Debug)]
pub struct Open(Counter);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.add();
    }
}

/// What becomes of entries in a store.
#[derive(Clone, Debug, Default)]
pub struct Keeping {
    /// Pushed out by others, or not let in since others are asked for more often.
    pub evicted: Counter,
    /// Not stored, since they are larger than what is kept.
    pub too_large: Counter,
    /// Not stored, since what is there was asked for later.
    pub outdated: Counter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_route_is_one_however_it_was_named() {
        let tally = Tally::default();
        for name in ["/a", "/b", "/a"] {
            tally.of(Some(&name.into())).count(Ending::Hit, StatusCode::OK);
        }
        tally.of(None).count(Ending::NoSuchRoute, StatusCode::NOT_FOUND);
        let counts = tally.counts();
        let seen: Vec<_> = counts.iter().map(|count| (count.route.as_deref(), count.class, count.requests)).collect();
        assert_eq!(seen, [(Some("/a"), "2xx", 2), (Some("/b"), "2xx", 1), (None, "4xx", 1)]);
    }

    #[test]
    fn a_connection_ends_with_its_guard() {
        let connections = Connections::default();
        let open = connections.open();
        assert_eq!((connections.opened.get(), connections.closed.get()), (1, 0));
        drop(open);
        assert_eq!((connections.opened.get(), connections.closed.get()), (1, 1));
    }
}
