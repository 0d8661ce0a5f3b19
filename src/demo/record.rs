//! What was asked of the simulation: the log, the counts, and who is still waiting for an answer.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, Method, Version};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::limits::is_failure;

/// One call, as it arrived and as it was answered.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When it arrived.
    pub at: Instant,
    /// Its method.
    pub method: Method,
    /// Its path.
    pub path: String,
    /// Its query, byte for byte.
    pub query: Option<String>,
    /// The protocol that brought it.
    pub version: Version,
    /// Its header fields.
    pub headers: HeaderMap,
    /// The name of the account whose token it carried, revoked or not.
    pub account: Option<String>,
    /// What it was answered; 0 until then, and for ever if the connection was reset or the caller left first.
    pub status: u16,
    /// When it was answered.
    pub answered: Option<Instant>,
}

/// The log and the counts.
#[derive(Debug)]
pub(crate) struct Record {
    limit: usize,
    log: Mutex<Log>,
    arrived: watch::Sender<usize>,
    in_flight: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Log {
    seen: VecDeque<Seen>,
    /// The number of the first call in `seen`, since the beginning of time.
    first: u64,
    by_account: HashMap<String, usize>,
    most_in_flight: usize,
}

impl Record {
    /// A log of the newest `limit` calls.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        let [arrived, in_flight] = [(); 2].map(|()| watch::Sender::new(0));
        Arc::new(Self { limit: limit.max(1), log: Mutex::default(), arrived, in_flight })
    }

    /// Writes down a call that arrives; it is in flight until what this returns is dropped.
    pub(crate) fn arrive(self: &Arc<Self>, head: &Parts, account: Option<&str>) -> InFlight {
        let mut log = self.log.lock();
        if log.seen.len() == self.limit {
            log.seen.pop_front();
            log.first += 1;
        }
        log.seen.push_back(Seen {
            at: Instant::now(),
            method: head.method.clone(),
            path: head.uri.path().to_owned(),
            query: head.uri.query().map(str::to_owned),
            version: head.version,
            headers: head.headers.clone(),
            account: account.map(str::to_owned),
            status: 0,
            answered: None,
        });
        if let Some(account) = account {
            *log.by_account.entry(account.to_owned()).or_default() += 1;
        }
        let number = log.first + log.seen.len() as u64 - 1;
        // Counted before anyone is told of the arrival, so that who waits for it finds it in flight.
        self.in_flight.send_modify(|count| *count += 1);
        log.most_in_flight = log.most_in_flight.max(*self.in_flight.borrow());
        self.arrived.send_modify(|count| *count += 1);
        InFlight { record: self.clone(), number }
    }

    pub(crate) fn calls(&self) -> usize {
        *self.arrived.borrow()
    }

    pub(crate) fn calls_for(&self, account: &str) -> usize {
        self.log.lock().by_account.get(account).copied().unwrap_or_default()
    }

    pub(crate) fn log(&self) -> Vec<Seen> {
        self.log.lock().seen.iter().cloned().collect()
    }

    pub(crate) fn clear(&self) {
        let mut log = self.log.lock();
        log.first += log.seen.len() as u64;
        log.seen.clear();
        log.by_account.clear();
        log.most_in_flight = *self.in_flight.borrow();
        self.arrived.send_modify(|count| *count = 0);
    }

    pub(crate) fn in_flight(&self) -> usize {
        *self.in_flight.borrow()
    }

    pub(crate) fn most_in_flight(&self) -> usize {
        self.log.lock().most_in_flight
    }

    pub(crate) async fn arrived(&self, count: usize) {
        let mut arrived = self.arrived.subscribe();
        arrived.wait_for(|arrived| *arrived >= count).await.expect("the record holds the sender");
    }

    pub(crate) async fn idle(&self) {
        let mut in_flight = self.in_flight.subscribe();
        in_flight.wait_for(|count| *count == 0).await.expect("the record holds the sender");
    }

    pub(crate) fn most_calls(&self, account: &str, window: Duration) -> usize {
        let log = self.log.lock();
        let calls = log.seen.iter().filter(|seen| seen.account.as_deref() == Some(account));
        densest(&calls.map(|seen| seen.at).collect::<Vec<_>>(), window)
    }

    pub(crate) fn most_failures(&self, window: Duration) -> usize {
        let log = self.log.lock();
        let failures = log.seen.iter().filter(|seen| is_failure(seen.status));
        let mut times: Vec<Instant> = failures.filter_map(|seen| seen.answered).collect();
        times.sort_unstable();
        densest(&times, window)
    }
}

/// The most of these ordered instants that any closed window holds: two that are exactly a window apart share one.
fn densest(times: &[Instant], window: Duration) -> usize {
    let mut first = 0;
    let mut most = 0;
    for (last, time) in times.iter().enumerate() {
        while *time - times[first] > window {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most
}

/// A call that waits for its answer, or for the rest of it; dropped when it was sent, cut or given up.
#[derive(Debug)]
pub(crate) struct InFlight {
    record: Arc<Record>,
    number: u64,
}

impl InFlight {
    /// Completes the log: the answer's head is on its way.
    pub(crate) fn answered(&self, status: u16) {
        let mut log = self.record.log.lock();
        let place = self.number.checked_sub(log.first).and_then(|place| usize::try_from(place).ok());
        if let Some(seen) = place.and_then(|place| log.seen.get_mut(place)) {
            seen.status = status;
            seen.answered = Some(Instant::now());
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.record.in_flight.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(path: &str) -> Parts {
        http::Request::get(path).body(()).expect("a plain request").into_parts().0
    }

    #[test]
    fn the_log_forgets_the_oldest_and_still_completes_the_right_one() {
        let record = Record::new(2);
        let calls = ["/a", "/b", "/c"].map(|path| record.arrive(&head(path), Some("acme")));
        for (call, status) in calls.iter().zip([200, 201, 202]) {
            call.answered(status);
        }
        let log = record.log();
        assert_eq!(log.iter().map(|seen| (&*seen.path, seen.status)).collect::<Vec<_>>(), [("/b", 201), ("/c", 202)]);
        assert_eq!((record.calls(), record.calls_for("acme")), (3, 3));
        assert_eq!((record.in_flight(), record.most_in_flight()), (3, 3));
        drop(calls);
        assert_eq!(record.in_flight(), 0);
    }

    #[test]
    fn a_cleared_log_starts_from_nothing() {
        let record = Record::new(9);
        let call = record.arrive(&head("/a"), None);
        record.clear();
        call.answered(200);
        assert_eq!((record.calls(), record.log().len(), record.in_flight()), (0, 0, 1));
    }

    #[test]
    fn windows_are_closed_and_slide() {
        let start = Instant::now();
        let times = [0, 1, 9, 10, 11, 30].map(|second| start + Duration::from_secs(second));
        let most = |seconds| densest(&times, Duration::from_secs(seconds));
        assert_eq!([most(0), most(2), most(10), most(11), most(60)], [1, 3, 4, 5, 6]);
        assert_eq!(densest(&[], Duration::from_secs(1)), 0);
    }
}
