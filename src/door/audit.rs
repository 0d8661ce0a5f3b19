//! The lines that say who was refused and why. One who knocks without end fills neither the log nor the memory.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::domain::access::{AccountHash, Name};
use crate::domain::bucket::{Bucket, Rate};
use crate::domain::peer::{Asker, Origin, Peer};
use crate::domain::signature::Unsigned;

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
    /// Somebody has asked the admin listener without its token.
    OperatorRefused {
        /// Why: there was none, or it was another.
        reason: KeyRefusal,
    },
    /// Merge has not signed this webhook.
    WebhookRefused {
        /// Why.
        reason: Unsigned,
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
    /// What was told of, by what happened and from where. The many addresses of one owner are one origin.
    events: HashMap<(Event, Option<Origin>), Since>,
    /// How many events made no line at all since the last line.
    dropped: u64,
}

/// What became of an event since it was told of.
#[derive(Debug)]
struct Since {
    told: Instant,
    again: u64,
    /// Whose request was the last.
    last: Asker,
}

impl Audit {
    /// One that has told nothing yet.
    pub fn new(now: Instant) -> Self {
        let rate = Rate::new(LINES_A_MINUTE, QUIET).expect("neither is zero");
        Self { lines: Bucket::new(rate, now), told: Mutex::default() }
    }

    /// Tells of `event` and of who caused it, unless the same was told of a moment ago.
    pub fn tell(&self, event: Event, asker: Asker, now: Instant) {
        let mut told = self.told.lock();
        let key = (event, asker.peer.as_ref().and_then(Peer::origin));
        if let Some(since) = told.events.get_mut(&key) {
            since.again += 1;
            since.last = asker;
        } else if self.lines.reserve(now).is_ok() {
            let dropped = std::mem::take(&mut told.dropped);
            write(&key.0, &asker, 1, dropped);
            told.events.insert(key, Since { told: now, again: 0, last: asker });
        } else {
            told.dropped += 1;
        }
    }

    /// Tells how often what was told of has happened again, once a minute each; what has not is forgotten.
    pub fn settle(&self, now: Instant) {
        let mut told = self.told.lock();
        let mut dropped = told.dropped;
        told.events.retain(|(event, _), since| {
            if now.saturating_duration_since(since.told) < QUIET {
                return true;
            }
            // The line of an event that goes on takes its turn like any other, so that a crowd of them stays bounded.
            if since.again > 0 && self.lines.reserve(now).is_ok() {
                write(event, &since.last, since.again, std::mem::take(&mut dropped));
                (since.told, since.again) = (now, 0);
                return true;
            }
            dropped += since.again;
            false
        });
        told.dropped = dropped;
    }
}

fn write(event: &Event, asker: &Asker, times: u64, dropped: u64) {
    let dropped = (dropped > 0).then_some(dropped);
    let (peer, id) = (asker.peer(), asker.id());
    match event {
        Event::KeyRefused { reason, consumer, key } => {
            let (reason, consumer, key) = (reason.word(), consumer.as_deref(), key.as_ref().map(ToString::to_string));
            tracing::info!(target: "audit", reason, consumer, key, peer, id, times, dropped, "key refused");
        }
        Event::AccountDenied { consumer, account } => {
            tracing::info!(
                target: "audit", consumer = &**consumer, account, peer, id, times, dropped, "account denied"
            );
        }
        Event::ResyncDenied { consumer, account } => {
            tracing::info!(target: "audit", consumer = &**consumer, account, peer, id, times, dropped, "resync denied");
        }
        Event::OperatorRefused { reason } => {
            tracing::info!(target: "audit", reason = reason.word(), peer, id, times, dropped, "operator refused");
        }
        Event::WebhookRefused { reason } => {
            tracing::info!(target: "audit", reason = reason.word(), peer, id, times, dropped, "webhook refused");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: Asker = Asker { peer: None, id: None };

    fn denied(account: impl Into<String>) -> Event {
        Event::AccountDenied { consumer: "team".into(), account: account.into() }
    }

    impl Audit {
        /// How many events are remembered, how often they have come again, and how many made no line.
        fn state(&self) -> (usize, u64, u64) {
            let told = self.told.lock();
            (told.events.len(), told.events.values().map(|since| since.again).sum(), told.dropped)
        }
    }

    #[test]
    fn the_same_event_is_counted_and_not_told_again() {
        let now = Instant::now();
        let audit = Audit::new(now);
        for _ in 0..10_000 {
            audit.tell(denied("acme"), NOBODY, now);
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
    fn each_peer_is_told_of_and_an_owner_of_many_addresses_is_one() {
        let now = Instant::now();
        let audit = Audit::new(now);
        let from = |text: &str| {
            let address = text.parse().expect("an address");
            Asker { peer: Some(Peer::Network { address, certificate: Box::default() }), id: None }
        };
        for address in ["192.0.2.1", "192.0.2.2", "192.0.2.1", "2001:db8::1", "2001:db8::2"] {
            audit.tell(denied("acme"), from(address), now);
        }
        assert_eq!(audit.state(), (3, 2, 0));
    }

    #[test]
    fn a_flood_of_different_events_is_bounded() {
        let now = Instant::now();
        let audit = Audit::new(now);
        for n in 0..10_000 {
            audit.tell(denied(n.to_string()), NOBODY, now);
        }
        let (told, _, dropped) = audit.state();
        assert!(told <= LINES_A_MINUTE as usize && told > 10, "{told}");
        assert_eq!(told as u64 + dropped, 10_000);
    }
}
