//! What operators should hear of: a bounded log of the rare things that have happened. Requests are not among them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The configuration was read anew.
    Reload,
    /// It was read anew and changed nothing, since it is wrong.
    ReloadFailed,
    /// Pages were purged.
    Purge,
    /// Merge has said that something happened to an account, or somebody has who is not Merge.
    Webhook,
    /// Calls to an upstream were stopped, or let go again, since too many failed.
    Breaker,
    /// Merge refused a call: too many (429).
    RateLimited,
    /// A call failed.
    UpstreamFailed,
    /// A call succeeded after one that failed.
    Recovered,
    /// The proxy began to serve, or to stop.
    Lifecycle,
}

impl Kind {
    /// Its name for programs.
    pub fn slug(self) -> &'static str {
        match self {
            Self::Reload => "reload",
            Self::ReloadFailed => "reload-failed",
            Self::Purge => "purge",
            Self::Webhook => "webhook",
            Self::Breaker => "breaker",
            Self::RateLimited => "rate-limited",
            Self::UpstreamFailed => "upstream-failed",
            Self::Recovered => "recovered",
            Self::Lifecycle => "lifecycle",
        }
    }
}

/// Something that happened, perhaps several times in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Later ones have higher numbers; one that happened again has a new one.
    pub id: u64,
    /// When it happened last.
    pub at: SystemTime,
    /// What kind it is.
    pub kind: Kind,
    /// What it happened to: the name of an account or of an upstream.
    pub subject: Option<Arc<str>>,
    /// What happened, for people.
    pub text: String,
    /// How often it has happened without a pause.
    pub count: u32,
}

/// The log. Cheap to clone; all clones are the same log.
#[derive(Clone, Debug, Default)]
pub struct Events(Arc<Mutex<Log>>);

#[derive(Debug, Default)]
struct Log {
    newest: u64,
    events: VecDeque<Event>,
}

/// How many are kept.
const MOST: usize = 200;

/// What happens again within this time is counted, so that a storm of one kind leaves the others visible.
const PAUSE: Duration = Duration::from_secs(60);

/// Among how many of the newest a repetition is looked for: enough for what a storm on several accounts interleaves.
const RECENT: usize = 64;

impl Events {
    /// Notes that `text` happened to `subject`.
    pub fn note(&self, kind: Kind, subject: Option<Arc<str>>, text: impl Into<String>) {
        let (now, text) = (SystemTime::now(), text.into());
        let mut log = self.0.lock();
        log.newest += 1;
        let id = log.newest;
        let is_same = |event: &Event| {
            let recent = now.duration_since(event.at).is_ok_and(|pause| pause < PAUSE);
            recent && event.kind == kind && event.subject == subject && event.text == text
        };
        let again = log.events.iter().rev().take(RECENT).position(is_same).map(|back| log.events.len() - 1 - back);
        let again = again.and_then(|at| log.events.remove(at));
        let count = again.map_or(1, |event| event.count.saturating_add(1));
        log.events.push_back(Event { id, at: now, kind, subject, text, count });
        if log.events.len() > MOST {
            log.events.pop_front();
        }
    }

    /// The newest `count`, newest first.
    pub fn latest(&self, count: usize) -> Vec<Event> {
        self.0.lock().events.iter().rev().take(count).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_one_line_and_the_log_is_bounded() {
        let events = Events::default();
        for _ in 0..50 {
            events.note(Kind::RateLimited, Some("acme".into()), "refused");
            events.note(Kind::RateLimited, Some("globex".into()), "refused");
        }
        events.note(Kind::Purge, None, "all pages");
        let latest = events.latest(9);
        assert_eq!(latest.iter().map(|event| event.count).collect::<Vec<_>>(), [1, 50, 50]);
        assert_eq!((latest[0].kind, latest[0].id), (Kind::Purge, 101));
        for number in 0..1_000 {
            events.note(Kind::Purge, None, format!("{number}"));
        }
        assert_eq!(events.latest(usize::MAX).len(), MOST);
        assert_eq!(events.latest(1)[0].text, "999");
    }
}
