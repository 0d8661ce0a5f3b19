//! One thread that keeps many connections busy, either as fast as answers come (closed loop) or at a rate of its own (open loop).
//!
//! In the open loop every request has an instant at which it is due, and its latency counts from there: when the server stalls, the
//! requests that should have been sent meanwhile count as slow, not as unsent (coordinated omission).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token};
use rustls::ClientConfig;

use super::socket::Socket;
use super::wire::{Answer, Connection, Names, Speech, decompress};

/// What is asked for next.
pub(crate) trait Mix {
    fn next(&mut self) -> &[u8];
}

/// The same requests in turn.
pub(crate) struct Turns {
    requests: Vec<Vec<u8>>,
    at: usize,
}

impl Turns {
    pub(crate) fn new(requests: Vec<Vec<u8>>) -> Self {
        assert!(!requests.is_empty(), "there is something to ask for");
        Self { requests, at: 0 }
    }
}

impl Mix for Turns {
    fn next(&mut self) -> &[u8] {
        self.at = if self.at + 1 < self.requests.len() { self.at + 1 } else { 0 };
        &self.requests[self.at]
    }
}

/// When requests are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// As soon as the answer before has come.
    Closed,
    /// So many a second, whatever comes back.
    Open(f64),
}

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    After(Duration),
    Requests(u64),
}

/// What came of it.
#[derive(Clone)]
pub(crate) struct Report {
    /// In nanoseconds, up to a minute, to three digits.
    pub(crate) latency: Histogram<u64>,
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// Requests that got no answer.
    pub(crate) lost: u64,
    pub(crate) elapsed: Duration,
    /// Values of `Cache-Status` as sent: plain ones, compressed ones.
    cache: [HashMap<Vec<u8>, u64>; 2],
}

impl Report {
    pub(crate) fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds that make sense");
        Self { latency, statuses: BTreeMap::new(), lost: 0, elapsed: Duration::ZERO, cache: Default::default() }
    }

    fn note(&mut self, answer: &Answer<'_>, now: Instant) {
        let nanoseconds = u64::try_from(now.saturating_duration_since(answer.began).as_nanos()).unwrap_or(u64::MAX);
        self.latency.saturating_record(nanoseconds.max(1));
        *self.statuses.entry(answer.status).or_default() += 1;
        // Nearly always there already: a key is made only for what is new.
        let cache = &mut self.cache[usize::from(answer.is_compressed)];
        match cache.get_mut(answer.cache) {
            Some(count) => *count += 1,
            None => drop(cache.insert(answer.cache.to_vec(), 1)),
        }
    }

    /// Adds what another thread has seen.
    pub(crate) fn add(&mut self, other: &Self) {
        self.latency.add(&other.latency).expect("the same bounds");
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        for (mine, others) in self.cache.iter_mut().zip(&other.cache) {
            for (value, count) in others {
                *mine.entry(value.clone()).or_default() += count;
            }
        }
        self.lost += other.lost;
        self.elapsed = self.elapsed.max(other.elapsed);
    }

    pub(crate) fn answers(&self) -> u64 {
        self.latency.len()
    }

    pub(crate) fn throughput(&self) -> f64 {
        self.answers() as f64 / self.elapsed.as_secs_f64()
    }

    /// A quantile of the latency, in microseconds.
    pub(crate) fn microseconds(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1_000.0
    }

    /// How often which `Cache-Status` was seen; times left are taken out, since they say nothing here.
    pub(crate) fn cache(&self) -> BTreeMap<String, u64> {
        let mut tally = BTreeMap::new();
        let [plain, compressed] = &self.cache;
        let plain = plain.iter().map(|(value, count)| (value.clone(), count));
        for (value, count) in plain.chain(compressed.iter().map(|(value, count)| (decompress(value), count))) {
            let value = String::from_utf8_lossy(&value);
            let parts = value.split("; ").filter(|part| !part.starts_with("ttl=")).collect::<Vec<_>>();
            *tally.entry(parts.join("; ")).or_default() += count;
        }
        tally
    }
}

/// How many connections, and what they speak.
#[derive(Clone, Debug)]
pub(crate) struct Lines {
    pub(crate) target: SocketAddr,
    pub(crate) speech: Speech,
    pub(crate) connections: usize,
    /// Requests that a connection has open at a time; one in HTTP/1.
    pub(crate) streams: usize,
    /// By what they shake hands; `None` is plain text.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

impl Lines {
    pub(crate) fn http1(target: SocketAddr, connections: usize) -> Self {
        Self { target, speech: Speech::Http1, connections, streams: 1, tls: None }
    }
}

/// Connections, and the one thread that serves them.
pub(crate) struct Driver {
    lines: Lines,
    poll: Poll,
    connections: Vec<Connection>,
    names: Names,
}

/// How long the last answers may take.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

/// A due instant that is further away is waited for; a nearer one is spun for, since epoll counts in milliseconds.
const WORTH_WAITING: Duration = Duration::from_millis(2);

impl Driver {
    pub(crate) fn connect(lines: Lines) -> io::Result<Self> {
        let places = lines.connections;
        let mut driver = Self { lines, poll: Poll::new()?, connections: Vec::new(), names: Names::new() };
        for place in 0..places {
            let connection = driver.open(place)?;
            driver.connections.push(connection);
        }
        Ok(driver)
    }

    fn open(&self, place: usize) -> io::Result<Connection> {
        let mut socket = Socket::connect(self.lines.target, self.lines.tls.as_ref())?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(socket.source(), Token(place), interest)?;
        Connection::new(socket, self.lines.speech, self.names.clone())
    }

    /// Sends what `mix` says at this pace; `progress` is called about once a second.
    pub(crate) fn run(
        &mut self,
        pace: Pace,
        end: End,
        mix: &mut dyn Mix,
        progress: &mut dyn FnMut(&Report),
    ) -> io::Result<Report> {
        let start = Instant::now();
        let mut report = Report::new();
        let mut events = Events::with_capacity(1_024);
        let mut scratch = vec![0; 256 << 10];
        let (mut sent, mut last_progress) = (0_u64, start);
        // One entry for each request that could be sent at once.
        let places = self.lines.connections;
        let mut free: VecDeque<usize> = (0..self.lines.streams).flat_map(|_| 0..places).collect();
        let mut touched = Vec::new();
        let interval = if let Pace::Open(rate) = pace { 1.0 / rate } else { 0.0 };
        let due = |number: u64| start + Duration::from_secs_f64(interval * number as f64);
        let is_over = |sent: u64, now: Instant| match end {
            End::After(duration) => now >= start + duration,
            End::Requests(count) => sent >= count,
        };
        loop {
            let mut now = Instant::now();
            let over = is_over(sent, now);
            if over && self.connections.iter().all(|connection| connection.waiting() == 0) {
                break;
            }
            if let (true, End::After(duration)) = (over, end)
                && now > start + duration + LAST_ANSWERS
            {
                report.lost +=
                    self.connections.iter_mut().map(|connection| connection.give_up().count() as u64).sum::<u64>();
                break;
            }
            let is_due = |sent: u64, now: Instant| match pace {
                Pace::Closed => true,
                Pace::Open(_) => due(sent) <= now,
            };
            while !is_over(sent, now) && is_due(sent, now) {
                let Some(at) = free.pop_front() else { break };
                let began = if let Pace::Open(_) = pace { due(sent) } else { now };
                sent += 1;
                if self.connections[at].send(mix.next(), began).is_err() {
                    self.replace(at, &mut report, &mut free)?;
                } else if self.lines.speech == Speech::Http2 {
                    touched.push(at);
                }
                if let Pace::Closed = pace {
                    now = Instant::now();
                }
            }
            for at in touched.drain(..) {
                if self.connections[at].flush().is_err() {
                    self.replace(at, &mut report, &mut free)?;
                }
            }
            let patience = match pace {
                _ if over => Duration::from_millis(100),
                Pace::Closed => Duration::from_millis(100),
                // With no connection free only an answer changes anything.
                Pace::Open(_) if free.is_empty() => Duration::from_millis(100),
                Pace::Open(_) => {
                    let left = due(sent).saturating_duration_since(now);
                    if left > WORTH_WAITING { left - WORTH_WAITING / 2 } else { Duration::ZERO }
                }
            };
            match self.poll.poll(&mut events, Some(patience)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            let now = Instant::now();
            for event in &events {
                let at = event.token().0;
                let mut taken = 0;
                let result = self.connections[at].receive(&mut scratch, &mut |answer| {
                    report.note(&answer, now);
                    taken += 1;
                });
                free.extend(std::iter::repeat_n(at, taken));
                if result.and_then(|()| self.connections[at].flush()).is_err() {
                    self.replace(at, &mut report, &mut free)?;
                }
            }
            if now - last_progress >= Duration::from_secs(1) {
                last_progress = now;
                report.elapsed = now - start;
                progress(&report);
            }
        }
        report.elapsed = start.elapsed();
        Ok(report)
    }

    /// Connects anew in place of a connection that has ended.
    fn replace(&mut self, place: usize, report: &mut Report, free: &mut VecDeque<usize>) -> io::Result<()> {
        let lost = self.connections[place].give_up().count();
        report.lost += lost as u64;
        free.extend(std::iter::repeat_n(place, lost));
        self.connections[place] = self.open(place)?;
        Ok(())
    }
}
