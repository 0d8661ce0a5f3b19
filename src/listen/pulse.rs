//! Whether a connection still does something: the clocks behind `header_timeout` and `idle_timeout`.
//!
//! hyper's own header timeout also runs while a connection waits for its next request, and arms a timer for each. Here a read
//! and an answer only leave a note of when they were; one timer per connection looks at the notes when the next one could be due. It is
//! woken only for a head that comes in pieces, which few do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use http::Version;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::offers::Offers;

/// How long a connection may take for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For the head of a request, from its first byte; for the first request, from the start of the connection.
    pub header: Duration,
    /// For the body of a request: how long it may keep the proxy waiting, all in all.
    pub body: Duration,
    /// For the next request to begin, or for the peer to read on.
    pub idle: Duration,
}

/// Why there is no patience left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Nothing is going on.
    Idle,
    /// A head, a body or a reader takes too long.
    Overdue,
}

/// The notes of one connection.
#[derive(Debug)]
pub struct Pulse {
    began: Instant,
    /// What [`Patience::body`] says.
    body: Duration,
    /// Requests that have been read and not yet answered.
    busy: AtomicU32,
    /// Whether a request's head has begun to come in.
    reading: AtomicBool,
    /// Whether nobody has looked at the clock since the head began: nearly all heads are whole with their first bytes, and need no time.
    untimed: AtomicBool,
    /// Whether nothing has ever come.
    silent: AtomicBool,
    /// Whether it speaks HTTP/2, where bytes may come that belong to no request: acknowledgements, pings, window updates.
    framed: AtomicBool,
    /// Whether the next answer is to be the last.
    leaving: AtomicBool,
    /// When the head began, or else when the last answer ended: milliseconds since `began`.
    since: AtomicU64,
    /// Since when the peer has not taken what there is to be sent: milliseconds since `began`; 0 = it takes it.
    stuck: AtomicU64,
    /// What peers were offered on the streams of HTTP/2 and have not taken.
    offers: Offers,
    /// A head has begun that did not come whole: its time ends before that of an idle connection would.
    begun: Notify,
    /// A body has taken too long.
    overdue: Notify,
}

impl Pulse {
    /// A connection that begins now, with a request to come at once; each body may keep it waiting for `body`.
    pub fn new(body: Duration) -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            body,
            busy: AtomicU32::new(0),
            reading: AtomicBool::new(true),
            untimed: AtomicBool::new(false),
            silent: AtomicBool::new(true),
            framed: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            since: AtomicU64::new(0),
            stuck: AtomicU64::new(0),
            offers: Offers::default(),
            begun: Notify::new(),
            overdue: Notify::new(),
        })
    }

    /// A request of this version has been read now; it is being answered until the guard is dropped.
    pub fn busy(self: &Arc<Self>, version: Version, now: Instant) -> Busy {
        self.silent.store(false, Ordering::Relaxed);
        self.reading.store(false, Ordering::Relaxed);
        self.untimed.store(false, Ordering::Relaxed);
        let framed = version == Version::HTTP_2;
        if framed {
            self.framed.store(true, Ordering::Relaxed);
        }
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy { pulse: self.clone(), answered: Some(now), framed, offered: None }
    }

    /// The next answer is the last.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether no request is being answered.
    pub fn is_free(&self) -> bool {
        self.busy.load(Ordering::Relaxed) == 0
    }

    /// Whether an answer is the last.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// How long a body may keep us waiting, all in all.
    pub fn patience_with_bodies(&self) -> Duration {
        self.body
    }

    /// Whether it is known to speak HTTP/2.
    pub fn is_framed(&self) -> bool {
        self.framed.load(Ordering::Relaxed)
    }

    /// Whether it has waited for its next request for `span`, with everything sent.
    pub fn is_quiet(&self, span: Duration) -> bool {
        self.quiet_since().is_some_and(|since| since.elapsed() >= span)
    }

    /// Since when it has waited for its next request, with everything sent.
    fn quiet_since(&self) -> Option<Instant> {
        let waiting = self.busy.load(Ordering::Relaxed) == 0 && !self.reading.load(Ordering::Relaxed);
        let sent = self.stuck.load(Ordering::Relaxed) == 0;
        (waiting && sent).then(|| self.began + Duration::from_millis(self.since.load(Ordering::Relaxed)))
    }

    /// Completes when it has waited for its next request for `span`, with everything sent.
    pub async fn quiet(&self, span: Duration) {
        while !self.is_quiet(span) {
            sleep_until(self.quiet_since().unwrap_or_else(Instant::now) + span).await;
        }
    }

    fn at(&self, instant: Instant) -> u64 {
        u64::try_from(instant.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }

    fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    fn note(&self) {
        self.since.store(self.now(), Ordering::Relaxed);
    }

    /// Something has been written, or cannot be for now.
    pub(super) fn wrote<T>(&self, written: Poll<T>) -> Poll<T> {
        let was_stuck = self.stuck.load(Ordering::Relaxed) > 0;
        if written.is_ready() && was_stuck {
            self.stuck.store(0, Ordering::Relaxed);
            // The answer may have ended long ago for whoever made it.
            if !self.reading.load(Ordering::Relaxed) {
                self.note();
            }
        } else if written.is_pending() && !was_stuck {
            self.stuck.store(self.now().max(1), Ordering::Relaxed);
        }
        written
    }

    /// A body takes too long: the connection is to end.
    pub fn give_up(&self) {
        self.overdue.notify_one();
    }

    /// The idle time begins anew.
    pub fn rest(&self) {
        self.note();
    }

    /// Whether the peer has not said anything yet.
    pub fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    /// Bytes have come, or the end of them.
    pub(super) fn bytes_came(&self) {
        self.silent.store(false, Ordering::Relaxed);
        let waiting = self.busy.load(Ordering::Relaxed) == 0 && !self.reading.load(Ordering::Relaxed);
        if waiting && !self.framed.load(Ordering::Relaxed) {
            self.reading.store(true, Ordering::Relaxed);
            self.untimed.store(true, Ordering::Relaxed);
        }
    }

    /// More is waited for. Whoever reads comes here whenever there is nothing to read, before the clocks are looked at.
    pub(super) fn none_came(&self) {
        if self.untimed.load(Ordering::Relaxed) {
            self.untimed.store(false, Ordering::Relaxed);
            self.note();
            self.begun.notify_one();
        }
    }

    fn due(&self, patience: Patience, now: Instant) -> (Instant, Lost) {
        // Whoever does not read holds what is being sent, and at its other end a call.
        let stuck = self.stuck.load(Ordering::Relaxed);
        if stuck > 0 {
            return (self.began + Duration::from_millis(stuck) + patience.idle, Lost::Overdue);
        }
        if self.busy.load(Ordering::Relaxed) > 0 {
            let next_look = now + patience.header.min(patience.idle).max(Duration::from_millis(1));
            let oldest = self.offers.oldest().map(|since| self.began + Duration::from_millis(since) + patience.idle);
            return (oldest.map_or(next_look, |due| due.min(next_look)), Lost::Overdue);
        }
        let since = self.began + Duration::from_millis(self.since.load(Ordering::Relaxed));
        if self.reading.load(Ordering::Relaxed) {
            (since + patience.header, Lost::Overdue)
        } else {
            (since + patience.idle, Lost::Idle)
        }
    }

    /// Completes when the patience with this connection is at an end.
    pub async fn lost(&self, patience: Patience) -> Lost {
        loop {
            let now = Instant::now();
            let (due, why) = self.due(patience, now);
            if due <= now {
                return why;
            }
            tokio::select! {
                () = sleep_until(due) => {}
                () = self.begun.notified() => {}
                () = self.overdue.notified() => return Lost::Overdue,
            }
        }
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub struct Busy {
    pulse: Arc<Pulse>,
    /// When it has been answered, where that is known without a look at the clock: nearly all are as soon as they have come.
    answered: Option<Instant>,
    /// Whether its stream has a window of its own.
    framed: bool,
    /// Since when the peer has not taken what it was offered: milliseconds since the connection began.
    offered: Option<u64>,
}

impl Busy {
    /// Whether its answer is to be the last.
    pub fn is_last(&self) -> bool {
        self.pulse.is_leaving()
    }

    /// The answer is not there at once.
    pub fn takes_time(&mut self) {
        self.answered = None;
    }

    /// Whether its stream has a window of its own.
    pub fn is_framed(&self) -> bool {
        self.framed
    }

    /// The peer is offered a piece of its answer: it has to make room for it.
    pub fn offer(&mut self) {
        self.taken();
        let since = self.answered.take().map_or_else(|| self.pulse.now(), |answered| self.pulse.at(answered));
        self.pulse.offers.add(since);
        self.offered = Some(since);
    }

    /// It has taken all that it was offered.
    pub fn taken(&mut self) {
        if let Some(since) = self.offered.take() {
            self.pulse.offers.remove(since);
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.taken();
        if self.pulse.busy.fetch_sub(1, Ordering::Relaxed) == 1 {
            let since = self.answered.map_or_else(|| self.pulse.now(), |answered| self.pulse.at(answered));
            self.pulse.since.store(since, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{advance, timeout};

    const PATIENCE: Patience =
        Patience { header: Duration::from_secs(10), body: Duration::from_secs(20), idle: Duration::from_secs(75) };

    /// A part of what is to come, and then nothing for now.
    fn some_came(pulse: &Pulse) {
        pulse.bytes_came();
        pulse.none_came();
    }

    async fn lost_after(pulse: &Pulse) -> Duration {
        let start = Instant::now();
        pulse.lost(PATIENCE).await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_newcomer_and_a_slow_head_get_the_header_timeout() {
        let pulse = Pulse::new(PATIENCE.body);
        assert_eq!(lost_after(&pulse).await.as_secs(), 10);
        drop(pulse.busy(Version::HTTP_11, Instant::now()));
        advance(Duration::from_secs(30)).await;
        some_came(&pulse);
        advance(Duration::from_secs(4)).await;
        some_came(&pulse);
        assert_eq!(lost_after(&pulse).await.as_secs(), 6, "more bytes buy no more time");
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_begins_on_an_idle_connection_gets_no_more_time_than_any_other() {
        let pulse = Pulse::new(PATIENCE.body);
        drop(pulse.busy(Version::HTTP_11, Instant::now()));
        let mut lost = std::pin::pin!(pulse.lost(PATIENCE));
        assert!(timeout(Duration::from_secs(30), &mut lost).await.is_err());
        some_came(&pulse);
        let began = Instant::now();
        assert_eq!(lost.await, Lost::Overdue);
        assert_eq!(began.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_between_the_requests_of_http2_begin_no_head() {
        let pulse = Pulse::new(PATIENCE.body);
        drop(pulse.busy(Version::HTTP_2, Instant::now()));
        some_came(&pulse);
        assert_eq!(lost_after(&pulse).await.as_secs(), 75);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_asked_and_then_waits_is_quiet() {
        let (pulse, second) = (Pulse::new(PATIENCE.body), Duration::from_secs(1));
        advance(second * 2).await;
        assert!(!pulse.is_quiet(second), "its first request may be coming in");
        let mut busy = pulse.busy(Version::HTTP_11, Instant::now());
        busy.takes_time();
        advance(second * 2).await;
        assert!(!pulse.is_quiet(second));
        drop(busy);
        assert!(!pulse.is_quiet(second));
        advance(second * 2).await;
        assert!(pulse.is_quiet(second));
        some_came(&pulse);
        assert!(!pulse.is_quiet(second));
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_gets_the_idle_timeout_and_a_busy_one_none() {
        let pulse = Pulse::new(PATIENCE.body);
        let mut busy = pulse.busy(Version::HTTP_11, Instant::now());
        busy.takes_time();
        assert!(timeout(Duration::from_secs(3600), pulse.lost(PATIENCE)).await.is_err());
        drop(busy);
        assert_eq!(lost_after(&pulse).await.as_secs(), 75);
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_slowly_has_the_idle_timeout_anew_with_each_piece_and_at_the_end() {
        let (pulse, most) = (Pulse::new(PATIENCE.body), PATIENCE.idle - Duration::from_secs(1));
        drop(pulse.busy(Version::HTTP_11, Instant::now()));
        for _ in 0..3 {
            let _ = pulse.wrote(Poll::<()>::Pending);
            assert!(timeout(most, pulse.lost(PATIENCE)).await.is_err());
            let _ = pulse.wrote(Poll::Ready(()));
        }
        assert_eq!(lost_after(&pulse).await, PATIENCE.idle);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_read_gets_the_idle_timeout_although_it_is_being_answered() {
        let pulse = Pulse::new(PATIENCE.body);
        let _busy = pulse.busy(Version::HTTP_11, Instant::now());
        advance(Duration::from_secs(100)).await;
        let _ = pulse.wrote(Poll::<()>::Pending);
        advance(Duration::from_secs(70)).await;
        let _ = pulse.wrote(Poll::Ready(()));
        let _ = pulse.wrote(Poll::<()>::Pending);
        assert_eq!(lost_after(&pulse).await.as_secs(), 75);
    }
}
