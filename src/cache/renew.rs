//! Keeping a page fresh for those who follow it.
//!
//! One task for each page asks for it whenever it is no longer fresh, by the same look-up and flight as everybody, in the name of one who
//! follows. Like a fetch in the background it takes none of that consumer's places among those who wait for the upstream.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tower::{Service, ServiceExt};

use super::store::Store;
use crate::domain::ask::Ask;
use crate::domain::key::PageKey;
use crate::domain::page::Page;
use crate::domain::problem::Problem;
use crate::domain::setback::backoff;

/// A request for a page on behalf of all who follow it. The answer is whether there is anything to follow: a page that is too large to
/// be stored is found by none of them.
#[derive(Clone, Debug)]
pub struct Renewal(pub Ask);

/// The first and the longest pause after the upstream gave no fresh page.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Asks for the page of `key` whenever it is no longer fresh, in the name of one of those who then follow it: `ask` gives that one's
/// request by its turn. After each failure it is the turn of another, since a call is charged to who asks, and may be held back for what
/// that one's other calls have done. The last who leaves ends it, and it completes when there is nothing to follow any more.
pub(super) async fn keep_fresh<S>(store: Store, key: PageKey, ask: impl Fn(u32) -> Option<Ask>, inner: S)
where
    S: Service<Renewal, Response = bool, Error = Problem> + Clone,
{
    let mut changes = store.changes().listen(&key);
    let mut pace = Pace { failures: 0, next: Instant::now() };
    loop {
        let due = pace.due(store.get(&key).as_deref(), Instant::now());
        tokio::select! {
            // It may have been renewed by others, or purged.
            () = changes.changed() => continue,
            () = sleep_until(due) => {}
        }
        let Some(ask) = ask(pace.failures) else { return };
        let asked = inner.clone().oneshot(Renewal(ask)).await;
        if asked == Ok(false) {
            return;
        }
        // Whoever is asked for next need not wait until the one before may go again.
        let pause =
            asked.err().filter(|problem| !problem.is_of_the_payer()).and_then(|problem| problem.row().retry_after);
        pace.asked(Instant::now(), pause);
    }
}

/// When to ask next.
struct Pace {
    /// How often no fresh page came of it, in a row.
    failures: u32,
    /// Not before this, unless there is a fresh page by then.
    next: Instant,
}

impl Pace {
    fn due(&mut self, page: Option<&Page>, now: Instant) -> Instant {
        match page.and_then(|page| page.fresh_for(now)) {
            Some(fresh) => {
                // It may be purged before its time.
                *self = Self { failures: 0, next: now };
                now + fresh
            }
            None => self.next,
        }
    }

    /// Takes note that it has been asked, and of the pause that was asked for. If that brought a fresh page, the pause ends with it.
    fn asked(&mut self, now: Instant, pause: Option<Duration>) {
        let own = backoff(FIRST_PAUSE, self.failures, LONGEST_PAUSE);
        self.failures += 1;
        self.next = now + own.max(pause.unwrap_or_default());
    }
}
