//! Which pages somebody has lately asked the upstream for, and how to ask for them again.
//!
//! A webhook says that an account has something new, and nothing is fetched that nobody asks for: so what is fetched again then is
//! what is remembered here. A page is remembered when a request for it goes on to the upstream, and not for every hit: whoever
//! polls a page comes to that within its lifetime, and hits stay as cheap as they are. Fetches that a webhook causes do not count,
//! or one would bring the next for ever.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tower::layer::layer_fn;
use tower::{Layer, Service};

use super::flight::{Join, Joined};
use crate::domain::access::AccountHash;
use crate::domain::ask::Ask;
use crate::domain::cache_control::Wants;
use crate::domain::exchange::Policy;
use crate::domain::rules::CacheRule;
use crate::domain::trace::Trace;

/// For how long a page counts as asked for, unless it lives longer: Merge advises to poll every five minutes or less often.
const MEMORY: Duration = Duration::from_secs(300);

/// How many pages of one account are remembered: more than all of its categories and sizes, fewer than cursors that somebody makes
/// up.
const MOST_PAGES: usize = 32;

/// A page with a longer query is not remembered, in bytes. With the number of accounts, which are those of the configuration that
/// have an id, this bounds the memory.
const LONGEST_QUERY: usize = 512;

/// The pages by account. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct Demand(Arc<Mutex<Remembered>>);

#[derive(Default)]
struct Remembered {
    accounts: HashMap<AccountHash, Vec<Wanted>>,
    /// The edition of the rules that is in force.
    edition: u64,
}

/// A page that is asked for.
struct Wanted {
    ask: Ask,
    last: Instant,
}

impl Wanted {
    fn counts(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) < MEMORY.max(longest(&self.ask.policy))
    }
}

/// How long a page of this policy may be served without another call.
fn longest(policy: &Policy) -> Duration {
    let fresh = match policy.rule {
        CacheRule::Fixed(lifetime) => lifetime,
        _ => policy.lifetimes.settled,
    };
    fresh + policy.lifetimes.while_revalidate
}

impl Demand {
    /// Somebody asks for a page that the upstream has to be asked for. Accounts that no webhook can name are left out.
    pub fn note(&self, ask: &Ask, now: Instant) {
        let too_long = ask.query.as_ref().is_some_and(|query| query.len() > LONGEST_QUERY);
        if ask.target.account.linked_account_id.is_none() || ask.wants.no_store || too_long {
            return;
        }
        let mut remembered = self.0.lock();
        // It was under way when the rules changed: it may hold keys that are none any more.
        if ask.edition != remembered.edition {
            return;
        }
        let pages = remembered.accounts.entry(ask.key.account).or_default();
        if let Some(known) = pages.iter_mut().find(|known| known.ask.key == ask.key) {
            known.last = now;
            known.ask.question = ask.question.clone();
            return;
        }
        if pages.len() >= MOST_PAGES {
            let oldest = pages.iter().enumerate().min_by_key(|(_, page)| page.last).map(|(place, _)| place);
            oldest.map(|place| pages.swap_remove(place));
        }
        // What the client wanted of the cache was for its own request.
        let ask = Ask { wants: Wants::default(), follow: None, trace: Trace::default(), ..ask.clone() };
        pages.push(Wanted { ask, last: now });
    }

    /// What asks for the pages of `account` again, as of then.
    pub fn of(&self, account: AccountHash, now: Instant) -> Vec<Ask> {
        let mut remembered = self.0.lock();
        let Some(pages) = remembered.accounts.get_mut(&account) else { return Vec::new() };
        pages.retain(|page| page.counts(now));
        pages.iter().map(|page| page.ask.clone()).collect()
    }

    /// Whether `ask` was admitted by the rules that are in force.
    pub fn is_in_force(&self, ask: &Ask) -> bool {
        ask.edition == self.0.lock().edition
    }

    /// Forgets all: whoever asked then may no longer be allowed to, or only under other rules. This edition of them is in force now.
    pub fn forget(&self, edition: u64) {
        *self.0.lock() = Remembered { edition, ..Remembered::default() };
    }
}

/// The layer between look-up and flight: takes note of what passes.
pub fn layer<S>(demand: Demand) -> impl Layer<S, Service = Noting<S>> + Clone {
    layer_fn(move |inner| Noting { inner, demand: demand.clone() })
}

/// See [`layer`].
#[derive(Clone)]
pub struct Noting<S> {
    inner: S,
    demand: Demand,
}

impl<S> Service<Join> for Noting<S>
where
    S: Service<Join, Response = Joined, Error = Infallible>,
{
    type Response = Joined;
    type Error = Infallible;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, join: Join) -> S::Future {
        self.demand.note(&join.ask, Instant::now());
        self.inner.call(join)
    }
}
