//! How a simulated Merge is put together.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::account::SimAccount;
use super::clock::SimClock;
use super::limits::{Failures, Window};
use super::merge::{Inner, Linked, LinkedState, Merge, Switches};
use super::record::Record;
use super::script::Script;

/// What a [`Merge`] will be; see [`Merge::builder`].
#[derive(Clone, Debug)]
#[must_use = "nothing is simulated before `build`"]
pub struct Builder {
    api_key: String,
    accounts: Vec<SimAccount>,
    speed: u32,
    start: Option<SystemTime>,
    rate: Option<(usize, Duration)>,
    blocking: bool,
    etags: bool,
    rate_headers: bool,
    log_limit: usize,
}

impl Builder {
    /// Merge's smallest plan, in real time, from now on, with rate headers and without validators.
    pub(crate) fn new() -> Self {
        Self {
            api_key: "test-api-key".to_owned(),
            accounts: vec![],
            speed: 1,
            start: None,
            rate: Some((100, Duration::from_secs(60))),
            blocking: true,
            etags: false,
            rate_headers: true,
            log_limit: 200_000,
        }
    }

    /// The API key that callers have to show; `test-api-key` if not said.
    pub fn api_key(mut self, api_key: impl Into<String>) -> Self {
        self.api_key = api_key.into();
        self
    }

    /// One more linked account.
    pub fn account(mut self, account: SimAccount) -> Self {
        self.accounts.push(account);
        self
    }

    /// So many simulated seconds in a real one, for the schedules; limits are in real seconds always.
    pub fn accelerated(mut self, speed: u32) -> Self {
        self.speed = speed;
        self
    }

    /// What the simulated clock shows first; the system's time if not said.
    pub fn start(mut self, start: SystemTime) -> Self {
        self.start = Some(start);
        self
    }

    /// At most so many calls of one account in any window of this length; 100 a minute if not said.
    pub fn rate(mut self, count: usize, window: Duration) -> Self {
        self.rate = Some((count, window));
        self
    }

    /// No limit per account and no punishment for failing, as benches and tests of other things want it.
    pub fn unlimited(mut self) -> Self {
        self.rate = None;
        self.blocking = false;
        self
    }

    /// Failing too often is not punished, but the rate is kept.
    pub fn no_blocks(mut self) -> Self {
        self.blocking = false;
        self
    }

    /// Whether pages have validators; not, if not said.
    pub fn etags(mut self, on: bool) -> Self {
        self.etags = on;
        self
    }

    /// Whether answers say how much of the rate is left; they do, if not said.
    pub fn rate_headers(mut self, on: bool) -> Self {
        self.rate_headers = on;
        self
    }

    /// How many calls the log holds; 200,000 if not said.
    pub fn log_limit(mut self, calls: usize) -> Self {
        self.log_limit = calls;
        self
    }

    /// The simulation, whose clock starts now.
    pub fn build(self) -> Merge {
        let start = self.start.unwrap_or_else(SystemTime::now);
        for (place, account) in self.accounts.iter().enumerate() {
            let same = |other: &SimAccount| other.name == account.name || other.token == account.token;
            assert!(!self.accounts[..place].iter().any(same), "two accounts share {:?} or its token", account.name);
        }
        let link = |account: SimAccount| Linked {
            window: self.rate.map(|(count, length)| Mutex::new(Window::new(count, length))),
            state: Mutex::new(LinkedState {
                revoked: false,
                schedule: account.schedule(start),
                statuses: HashMap::new(),
                pages: HashMap::new(),
            }),
            account,
        };
        let inner = Inner {
            linked: self.accounts.into_iter().map(link).collect(),
            api_key: self.api_key,
            clock: SimClock::new(start, self.speed),
            blocking: self.blocking,
            failures: Mutex::new(Failures::default()),
            record: Record::new(self.log_limit),
            gate: Arc::default(),
            script: Script::default(),
            switches: Switches { etags: self.etags.into(), rate_headers: self.rate_headers.into() },
            connections: 0.into(),
        };
        Merge { inner: Arc::new(inner) }
    }
}
