//! One row for each account, out of what is held in many places.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderValue;
use tokio::time::Instant;

use super::alarms::failure;
use super::readings::Readings;
use super::state::{AccountRow, Condition, Failure, ModelRow, WallClock, millis};
use crate::cache::store::Store;
use crate::domain::access::{Account, AccountHash, Name};
use crate::domain::bucket::Rate;
use crate::domain::key::PageKey;
use crate::domain::lifetime::Freshness;
use crate::domain::page::{Kind, Page};
use crate::door::admit::House;
use crate::metrics::last::Nameless;
use crate::metrics::numbers::{LastCalls, NamelessNumbers};
use crate::upstream::budget::Budgets;
use crate::upstream::obstacle::{self, Obstacle};
use crate::upstream::standing::AccountStanding;
use crate::upstream::sync_status::{ModelStatus, models};

/// Where accounts and their state are looked up.
#[derive(Clone, Copy)]
pub struct Lookup<'a> {
    /// Who may ask for what.
    pub house: &'a House,
    /// The pages.
    pub store: &'a Store,
    /// What may be sent.
    pub budgets: &'a Budgets,
    /// How the last calls went for accounts that have no name.
    pub nameless: &'a Nameless,
}

/// Tokens that callers send themselves could be without number: the accounts behind so many of them are shown, those that fail and
/// then the latest.
const MOST_RAW: usize = 100;

/// The models of pages, by the entity tags of their bodies: a body is read once, however often its page is renewed.
#[derive(Debug, Default)]
pub struct Memo(HashMap<HeaderValue, Arc<[ModelStatus]>>);

/// The pages of one account, newest first.
type Held = Vec<(Arc<PageKey>, Arc<Page>)>;

/// A row for each account that has a name, and for the latest of those that have none.
pub fn accounts(
    from: Lookup<'_>,
    readings: &Readings,
    memo: &mut Memo,
    clock: WallClock,
    now: Instant,
) -> Vec<AccountRow> {
    let calls: HashMap<(&str, &str), &LastCalls> = readings
        .latest()
        .map(|reading| reading.accounts.iter().map(|calls| ((&*calls.upstream, &*calls.name), &calls.last)).collect())
        .unwrap_or_default();
    // One token may be an account at several upstreams. What a route has got elsewhere is of whoever has the token.
    let own: HashSet<_> = from.house.accounts.all().map(|account| (account.hash, &account.upstream.name)).collect();
    let mut held: HashMap<(AccountHash, Option<Name>), Held> = HashMap::new();
    for (key, page) in from.store.pages() {
        let at = own.contains(&(key.account, &key.upstream)).then(|| key.upstream.clone());
        held.entry((key.account, at)).or_default().push((key, page));
    }
    let mut read = Memo::default();
    let mut models = |page: &Page| {
        let known = memo.0.get(&page.etag).cloned();
        let known = known.unwrap_or_else(|| models(&page.body).into());
        read.0.entry(page.etag.clone()).or_insert(known).clone()
    };
    let mut rows = Vec::new();
    for account in from.house.accounts.all() {
        let parts = [Some(account.upstream.name.clone()), None].map(|at| held.remove(&(account.hash, at)));
        let pages = newest_first(parts.into_iter().flatten().flatten().collect());
        let calls = account.name.as_ref().and_then(|name| calls.get(&(&*account.upstream.name, &**name)).copied());
        rows.push(row(Whose::named(account, calls, from.budgets), &pages, &mut models, clock, now));
    }
    let held = held.into_iter().map(|((hash, _), pages)| (hash, newest_first(pages))).collect();
    for (hash, one) in unnamed(from, held, now) {
        let upstream = from.house.accounts.upstreams().find(|upstream| upstream.name == one.upstream);
        let whose = Whose {
            label: format!("raw:{hash}").into(),
            named: false,
            calls: one.last.as_ref(),
            standing: upstream.and_then(|upstream| from.budgets.account(upstream, hash)),
            rate: upstream.and_then(|upstream| upstream.budget.per_account),
            upstream: one.upstream,
        };
        rows.push(row(whose, &one.pages, &mut models, clock, now));
    }
    *memo = read;
    rows
}

fn newest_first(mut pages: Held) -> Held {
    pages.sort_by_key(|(_, page)| std::cmp::Reverse(page.began));
    pages
}

/// What is known of an account that has no name.
struct Unnamed {
    upstream: Name,
    pages: Held,
    last: Option<LastCalls>,
}

/// The accounts of which pages are `held` or calls have failed, without those that have by now got a name.
fn unnamed(from: Lookup<'_>, held: HashMap<AccountHash, Held>, now: Instant) -> Vec<(AccountHash, Unnamed)> {
    let of_pages = |(hash, pages): (AccountHash, Held)| {
        (hash, Unnamed { upstream: pages[0].0.upstream.clone(), pages, last: None })
    };
    let mut all: HashMap<AccountHash, Unnamed> = held.into_iter().map(of_pages).collect();
    let configured: HashSet<AccountHash> = from.house.accounts.all().map(|account| account.hash).collect();
    for NamelessNumbers { upstream, hash, last } in from.nameless.numbers(now) {
        if !configured.contains(&hash) {
            let one = all.entry(hash).or_insert_with(|| Unnamed { upstream, pages: Held::new(), last: None });
            one.last = Some(last);
        }
    }
    let mut all: Vec<_> = all.into_iter().collect();
    all.sort_by_cached_key(|(_, one)| {
        let ago = |at: Instant| now.saturating_duration_since(at);
        let failed = one.last.as_ref().and_then(|last| last.error.as_ref()).map(|error| error.ago);
        let fetched = one.pages.first().map(|(_, page)| ago(page.began));
        (!one.last.as_ref().is_some_and(|last| last.is_failing), [failed, fetched].into_iter().flatten().min())
    });
    all.truncate(MOST_RAW);
    all
}

struct Whose<'a> {
    label: Name,
    named: bool,
    upstream: Name,
    rate: Option<Rate>,
    standing: Option<AccountStanding>,
    calls: Option<&'a LastCalls>,
}

impl<'a> Whose<'a> {
    fn named(account: &Account, calls: Option<&'a LastCalls>, budgets: &Budgets) -> Self {
        Self {
            label: account.name.clone().unwrap_or_else(|| format!("raw:{}", account.hash).into()),
            named: account.name.is_some(),
            upstream: account.upstream.name.clone(),
            rate: account.rate_at(&account.upstream),
            standing: budgets.account(&account.upstream, account.hash),
            calls,
        }
    }
}

fn row(
    whose: Whose<'_>,
    pages: &Held,
    models: &mut impl FnMut(&Page) -> Arc<[ModelStatus]>,
    clock: WallClock,
    now: Instant,
) -> AccountRow {
    let Whose { label, named, upstream, rate, standing, calls } = whose;
    let burst = rate.map(Rate::burst);
    let left = standing.map_or(burst, |standing| standing.remaining);
    let (mut categories, mut seen, mut shown, mut next_sync) = (Vec::new(), HashSet::new(), Vec::new(), None);
    for (key, page) in pages {
        let category = category(&key.place.path);
        if !categories.contains(&category) {
            categories.push(category.clone());
        }
        if page.kind != Kind::Good {
            continue;
        }
        for model in models(page).iter() {
            if seen.insert((category.clone(), model.name.clone())) {
                next_sync = earlier(next_sync, model);
                shown.push(ModelRow { name: model.name.to_string(), status: model.status.to_string() });
            }
        }
    }
    categories.sort();
    let newest = pages.first().map(|(_, page)| &**page);
    let obstacle = standing.and_then(|standing| standing.obstacle).filter(|obstacle| is_of_account(*obstacle));
    let facts =
        Facts { newest, models: &shown, calls, waiting: standing.map_or(0, |standing| standing.waiting), obstacle };
    let (condition, because) = facts.judge();
    AccountRow {
        name: label.to_string(),
        named,
        upstream: upstream.to_string(),
        categories,
        condition,
        because,
        models: shown,
        pages: pages.len(),
        fetched_at: newest.map(|page| clock.millis(page.began)),
        freshness: newest.map(|page| freshness(page, now).to_owned()),
        fresh_until: newest.map(|page| clock.millis(page.began + page.lifetime.fresh)),
        next_sync: next_sync.map(millis),
        budget_limit: rate.map(|rate| rate.count.get()),
        budget: rate.map(|rate| rate.to_string()),
        budget_left: left,
        budget_burst: burst,
        waiting: standing.map_or(0, |standing| standing.waiting),
        obstacle: obstacle.map(|obstacle| obstacle.kind.to_string()),
        obstacle_until: obstacle.and_then(|obstacle| obstacle.until).map(|until| clock.millis(until)),
        paused_until: standing.and_then(|standing| standing.paused_until).map(|until| clock.millis(until)),
        last_error: calls
            .and_then(|calls| calls.error.as_ref())
            .map(|error| Failure { at: millis(error.at), text: failure(error.ended) }),
        last_success: calls.and_then(|calls| calls.success).map(|(_, at)| millis(at)),
    }
}

/// The category in `/api/{category}/v1/…`; of other paths the whole.
fn category(path: &str) -> String {
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    match (segments.next(), segments.next(), segments.next()) {
        (Some("api"), Some(category), Some("v1")) => category.to_owned(),
        _ => path.to_owned(),
    }
}

/// What Merge says of a model that does not sync, or syncs already, is no date to wait for.
fn earlier(known: Option<SystemTime>, model: &ModelStatus) -> Option<SystemTime> {
    let next = model.next_sync.filter(|_| !matches!(&*model.status, "DISABLED" | "PAUSED" | "SYNCING"));
    match (known, next) {
        (Some(known), Some(next)) => Some(known.min(next)),
        (known, next) => known.or(next),
    }
}

fn freshness(page: &Page, now: Instant) -> &'static str {
    if page.kind == Kind::Negative {
        return "refused";
    }
    match page.freshness(now) {
        Freshness::Fresh { .. } => "fresh",
        _ if page.is_purged(now) => "purged",
        Freshness::Revalidate { .. } => "stale",
        Freshness::IfError { .. } | Freshness::Unusable => "expired",
    }
}

/// What the condition of an account follows from.
struct Facts<'a> {
    newest: Option<&'a Page>,
    models: &'a [ModelRow],
    calls: Option<&'a LastCalls>,
    waiting: usize,
    obstacle: Option<Obstacle>,
}

/// Whether an obstacle is told with the account rather than with its upstream. Those that are gone once a call that is under way has
/// ended come and go while all is well.
fn is_of_account(obstacle: Obstacle) -> bool {
    match obstacle.kind {
        obstacle::Kind::Rate | obstacle::Kind::Pause => true,
        obstacle::Kind::Failures(_) => obstacle.until.is_some(),
        obstacle::Kind::Concurrency | obstacle::Kind::Breaker | obstacle::Kind::Line => false,
    }
}

impl Facts<'_> {
    /// The worst that is true comes first.
    fn judge(&self) -> (Condition, String) {
        let failing = self.calls.filter(|calls| calls.is_failing).and_then(|calls| calls.error.as_ref());
        if let Some(error) = failing {
            return (Condition::Problem, failure(error.ended));
        }
        if let Some(Obstacle { kind: kind @ obstacle::Kind::Pause, .. }) = self.obstacle {
            return (Condition::Problem, kind.to_string());
        }
        if let Some(page) = self.newest.filter(|page| page.kind == Kind::Negative) {
            return (Condition::Problem, format!("Merge answered {}", page.status.as_u16()));
        }
        if let Some(text) = self.models_that("FAILED", "sync failed", "syncs failed") {
            return (Condition::Problem, text);
        }
        if let Some(text) = self.models_that("PARTIALLY_SYNCED", "synced in part", "synced in part") {
            return (Condition::Warning, text);
        }
        if self.waiting > 0 {
            return (Condition::Warning, format!("{} waiting for budget", self.waiting));
        }
        if let Some(obstacle) = self.obstacle {
            return (Condition::Warning, obstacle.kind.to_string());
        }
        if self.newest.is_none() {
            return (Condition::Idle, "nothing cached".into());
        }
        let at_rest = |model: &ModelRow| matches!(&*model.status, "PAUSED" | "DISABLED");
        if !self.models.is_empty() && self.models.iter().all(at_rest) {
            return (Condition::Ok, "all models paused or disabled".into());
        }
        (Condition::Ok, self.models_that("SYNCING", "syncing", "syncing").unwrap_or_else(|| "in sync".into()))
    }

    fn models_that(&self, status: &str, one: &str, several: &str) -> Option<String> {
        let names: Vec<&str> =
            self.models.iter().filter(|model| model.status == status).map(|model| &*model.name).collect();
        match names[..] {
            [] => None,
            [name] => Some(format!("{name} {one}")),
            [name, other] => Some(format!("{name} and {other} {several}")),
            [name, ..] => Some(format!("{name} and {} more {several}", names.len() - 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_category_is_read_from_its_path() {
        assert_eq!(category("/api/ats/v1/sync-status"), "ats");
        assert_eq!(category("/other/place"), "/other/place");
    }

    #[test]
    fn the_worst_that_is_true_is_told() {
        let model = |name: &str, status: &str| ModelRow { name: name.into(), status: status.into() };
        let paused = [model("Job", "PAUSED")];
        let models = [model("Job", "PARTIALLY_SYNCED"), model("Offer", "FAILED"), model("Tag", "FAILED")];
        let page = crate::domain::page::tests::page("{}", Instant::now(), [5, 30, 3600]);
        let facts = |models| Facts { newest: Some(&page), models, calls: None, waiting: 0, obstacle: None };
        assert_eq!(facts(&models).judge(), (Condition::Problem, "Offer and Tag syncs failed".into()));
        assert_eq!(facts(&models[..1]).judge(), (Condition::Warning, "Job synced in part".into()));
        assert_eq!(facts(&[]).judge(), (Condition::Ok, "in sync".into()));
        assert_eq!(facts(&paused).judge(), (Condition::Ok, "all models paused or disabled".into()));
        let spent = Facts { obstacle: Some(Obstacle::busy(obstacle::Kind::Rate)), ..facts(&[]) };
        assert_eq!(spent.judge(), (Condition::Warning, "the account's rate is used up for the moment".into()));
        let paused = Facts { obstacle: Some(Obstacle::busy(obstacle::Kind::Pause)), ..facts(&models) };
        assert_eq!(paused.judge(), (Condition::Problem, "Merge has asked for a pause".into()));
        let idle = Facts { newest: None, ..facts(&[]) };
        assert_eq!(idle.judge().0, Condition::Idle);
    }

    #[test]
    fn what_does_not_wait_for_a_sync_has_no_next_one() {
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds));
        let model =
            |status: &str, seconds| ModelStatus { name: "".into(), status: status.into(), next_sync: at(seconds) };
        assert_eq!(earlier(None, &model("DISABLED", 5)), None);
        assert_eq!(earlier(at(9), &model("DONE", 5)), at(5));
        assert_eq!(earlier(at(3), &model("DONE", 5)), at(3));
        assert_eq!(earlier(at(3), &model("SYNCING", 1)), at(3));
    }
}
