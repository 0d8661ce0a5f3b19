//! The remote control: everything that a test may ask of a running simulation, or do to it.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::account::SimAccount;
use super::fault::Faults;
use super::gate::Held;
use super::merge::{Linked, Merge};
use super::models::{ModelState, Status};
use super::record::Seen;
use super::script::Scripted;

/// Who and when.
impl Merge {
    /// The API key that it accepts.
    pub fn api_key(&self) -> &str {
        &self.inner.api_key
    }

    /// Its linked accounts.
    pub fn accounts(&self) -> impl Iterator<Item = &SimAccount> {
        self.inner.linked.iter().map(|linked| &linked.account)
    }

    /// The simulated time.
    pub fn now(&self) -> SystemTime {
        self.inner.clock.now()
    }

    /// The state of every model of an account, now.
    pub fn states(&self, account: &str) -> Vec<ModelState> {
        self.linked(account).states(self.now())
    }

    #[track_caller]
    fn linked(&self, account: &str) -> &Linked {
        let linked = self.inner.linked.iter().find(|linked| linked.account.name == account);
        linked.unwrap_or_else(|| panic!("the simulated Merge has no account {account:?}"))
    }
}

/// What was seen.
impl Merge {
    /// How many calls have arrived since the start or [`Merge::clear_log`].
    pub fn calls(&self) -> usize {
        self.inner.record.calls()
    }

    /// How many of them carried this account's token.
    pub fn calls_for(&self, account: &str) -> usize {
        self.inner.record.calls_for(account)
    }

    /// The calls, oldest first.
    pub fn log(&self) -> Vec<Seen> {
        self.inner.record.log()
    }

    /// Forgets the calls so far, and counts from nothing again.
    pub fn clear_log(&self) {
        self.inner.record.clear();
    }

    /// Returns once so many calls have arrived in total: at once if they have already.
    pub async fn arrived(&self, count: usize) {
        self.inner.record.arrived(count).await;
    }

    /// How many calls have arrived and are not over: no answer yet, or not all of its body.
    pub fn in_flight(&self) -> usize {
        self.inner.record.in_flight()
    }

    /// The most there have been at once.
    pub fn most_in_flight(&self) -> usize {
        self.inner.record.most_in_flight()
    }

    /// Returns once no call is in flight.
    pub async fn idle(&self) {
        self.inner.record.idle().await;
    }

    /// The most calls of this account in any closed window of this length: two calls exactly a window apart share one.
    pub fn max_in_any_window(&self, account: &str, window: Duration) -> usize {
        self.inner.record.most_calls(account, window)
    }

    /// The most failures, of all accounts and as Merge counts them (not 429), in any closed window of this length.
    pub fn max_failures_in_any_window(&self, window: Duration) -> usize {
        self.inner.record.most_failures(window)
    }

    /// How often failing too often has made Merge refuse everything for a minute.
    pub fn blocks(&self) -> usize {
        self.inner.failures.lock().blocks()
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.inner.connections.load(Ordering::Relaxed)
    }
}

/// What goes wrong.
impl Merge {
    /// Calls that arrive from now on wait until what this returns is released or dropped. They are counted and limited on
    /// arrival; what they are told is decided when they go.
    pub fn hold(&self) -> Held {
        self.inner.gate.hold()
    }

    /// Scripts faults: `merge.script(Fault::Status(500)).times(3)`.
    pub fn script(&self, faults: impl Into<Faults>) -> Scripted<'_> {
        Scripted::new(&self.inner.script, faults.into())
    }

    /// Every answer is like that until [`Merge::clear`]: short for `script(…).always()`.
    pub fn set(&self, faults: impl Into<Faults>) {
        self.script(faults).always();
    }

    /// Takes back all faults, scripted and standing.
    pub fn clear(&self) {
        self.inner.script.clear();
    }

    /// Fixes the body of an account's sync-status in a category, whatever the query says.
    pub fn page(&self, account: &str, category: &str, body: impl Into<Bytes>) {
        self.linked(account).state.lock().pages.insert(category.to_owned(), body.into());
    }

    /// Goes back to the account's schedule.
    pub fn unfix_page(&self, account: &str, category: &str) {
        self.linked(account).state.lock().pages.remove(category);
    }

    /// The account's token is worth nothing any more.
    pub fn revoke(&self, account: &str) {
        self.linked(account).state.lock().revoked = true;
    }

    /// It is accepted again.
    pub fn restore(&self, account: &str) {
        self.linked(account).state.lock().revoked = false;
    }

    /// Whether pages have `ETag` and `Last-Modified`, and `If-None-Match` is heeded.
    pub fn etags(&self, on: bool) {
        self.inner.switches.etags.store(on, Ordering::Relaxed);
    }

    /// Whether answers have `X-RateLimit-*`.
    pub fn rate_headers(&self, on: bool) {
        self.inner.switches.rate_headers.store(on, Ordering::Relaxed);
    }
}

/// How syncs go.
impl Merge {
    /// Starts a sync of all models of an account now.
    pub fn start_sync(&self, account: &str) {
        self.linked(account).state.lock().schedule.start_sync(self.inner.clock.now());
    }

    /// Ends with this result what is syncing in an account.
    pub fn end_sync(&self, account: &str, result: Status) {
        self.linked(account).state.lock().schedule.end_sync(self.inner.clock.now(), result);
    }

    /// Lays a status over a model (by name or id) until [`Merge::clear_statuses`]; its times stay those of the schedule.
    pub fn set_status(&self, account: &str, model: &str, status: Status) {
        let linked = self.linked(account);
        let mut models = linked.account.models.iter();
        let model = models.find(|known| known.name == model || known.id == model);
        let id = model.expect("the account has this model").id.clone();
        linked.state.lock().statuses.insert(id, status);
    }

    /// Shows the schedule's statuses again.
    pub fn clear_statuses(&self, account: &str) {
        self.linked(account).state.lock().statuses.clear();
    }
}
