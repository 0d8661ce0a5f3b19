//! The lines that say who was refused and why. One who knocks without end fills neither the log nor the memory.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::domain::access::{AccountHash, Name};
use crate::domain::bucket::{Bucket, Rate};

/// What is told of, each with a message of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A consumer key does not count.
    KeyRefused {
        /// Why.
        reason: KeyRefusal,
        /// Whose key it was, where that is known.
        consumer: Option<Name>,
        /// What stands for the key that was shown.
        key: Option<AccountHash>,
    },
    /// A consumer asked for an account that it may not have, or that does not exist.
    AccountDenied {
        /// Who asked.
        consumer: Name,
        /// The account: its name if it is configured, else what stands for the text that was sent.
        account: String,
    },
    /// A consumer that may not spend sync credits tried to.
    ResyncDenied {
        /// Who asked.
        consumer: Name,
        /// For which account.
        account: String,
    },
}

/// Why a key does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyRefusal {
    /// There was none.
    Missing,
    /// Nobody has it.
    Unknown,
    /// It has expired.
    Expired,
    /// It, or its consumer, is disabled.
    Disabled,
}

impl KeyRefusal {
    fn word(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::Disabled => "disabled",
        }
    }
}

/// How long the same event makes no second line.
const QUIET: Duration = Duration::from_secs(60);

/// How many different events are told of in a minute: an attacker can make each one different.
const LINES_A_MINUTE: u32 = 300;

/// Outlives reloads; shared by all requests.
#[derive(Debug)]
pub struct Audit {
    lines: Bucket,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    /// When each event was told of, and how often it has happened since.
    events: HashMap<Event, (Instant, u64)>,
    /// How many events made no line at all since the last line.
    dropped: u64,
}

impl Audit {
    /// One that has told nothing yet.
    pub fn new(now: Instant) -> Self {
        let rate = Rate::new(LINES_A_MINUTE, QUIET).expect("neither is zero");
        Self { lines: Bucket::new(rate, now), told: Mutex::default() }
    }

    /// Tells of `event`, unless the same was told of a moment ago.
    pub fn tell(&self, event: Event, now: Instant) {
        let mut told = self.told.lock();
        if let Some((_, again)) = told.events.get_mut(&event) {
            *again += 1;
        } else if self.lines.reserve(now).is_ok() {
            let dropped = std::mem::take(&mut told.dropped);
            write(&event, 1, dropped);
            told.events.insert(event, (now, 0));
        } else {
            told.dropped += 1;
        }
    }

    /// Tells how often what was told of has happened again, once a minute each; what has not is forgotten.
    pub fn settle(&self, now: Instant) {
        let mut told = self.told.lock();
        let mut dropped = told.dropped;
        told.events.retain(|event, (since, again)| {
            if now.saturating_duration_since(*since) < QUIET {
                return true;
            }
            // The line of an event that goes on takes its turn like any other, so that a crowd of them stays bounded.
            if *again > 0 && self.lines.reserve(now).is_ok() {
                write(event, *again, std::mem::take(&mut dropped));
                (*since, *again) = (now, 0);
                return true;
            }
            dropped += *again;
            false
        });
        told.dropped = dropped;
    }
}

fn write(event: &Event, times: u64, dropped: u64) {
    let dropped = (dropped > 0).then_some(dropped);
    match event {
        Event::KeyRefused { reason, consumer, key } => {
            let (consumer, key) = (consumer.as_deref(), key.as_ref().map(ToString::to_string));
            tracing::info!(target: "audit", reason = reason.word(), consumer, key, times, dropped, "key refused");
        }
        Event::AccountDenied { consumer, account } => {
            tracing::info!(target: "audit", consumer = &**consumer, account, times, dropped, "account denied");
        }
        Event::ResyncDenied { consumer, account } => {
            tracing::info!(target: "audit", consumer = &**consumer, account, times, dropped, "resync denied");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(account: impl Into<String>) -> Event {
        Event::AccountDenied { consumer: "team".into(), account: account.into() }
    }

    impl Audit {
        /// How many events are remembered, how often they have come again, and how many made no line.
        fn state(&self) -> (usize, u64, u64) {
            let told = self.told.lock();
            (told.events.len(), told.events.values().map(|(_, again)| again).sum(), told.dropped)
        }
    }

    #[test]
    fn the_same_event_is_counted_and_not_told_again() {
        let now = Instant::now();
        let audit = Audit::new(now);
        for _ in 0..10_000 {
            audit.tell(denied("acme"), now);
        }
        assert_eq!(audit.state(), (1, 9_999, 0));
        audit.settle(now + QUIET / 2);
        assert_eq!(audit.state(), (1, 9_999, 0));
        audit.settle(now + QUIET);
        assert_eq!(audit.state(), (1, 0, 0), "told again, and how often");
        audit.settle(now + 2 * QUIET);
        assert_eq!(audit.state(), (0, 0, 0), "it is over");
    }

    #[test]
    fn a_flood_of_different_events_is_bounded() {
        let now = Instant::now();
        let audit = Audit::new(now);
        for n in 0..10_000 {
            audit.tell(denied(n.to_string()), now);
        }
        let (told, _, dropped) = audit.state();
        assert!(told <= LINES_A_MINUTE as usize && told > 10, "{told}");
        assert_eq!(told as u64 + dropped, 10_000);
    }
}
