//! One address and everyone who wants to call it: what may go goes, what may not waits in line or is told so.
//!
//! There is one lock, and under it every decision is whole: a call gets all of its budgets or none, so nobody holds one while
//! waiting for another. A call that ends calls up the next; while there is a line, a task watches for the moments at which time
//! alone lets somebody go.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::bid::{Bid, Ending, Ticket};
use super::ledger::Ledger;
use super::line::Line;
use super::obstacle::{Kind, Obstacle};
use super::rate_limit_fields::Left;
use crate::domain::access::{AccountHash, Name};
use crate::domain::bucket::Rate;
use crate::domain::problem::{Cause, Problem};
use crate::domain::received::Received;
use crate::domain::rules::BudgetRules;

/// One address; shared by all calls to it.
#[derive(Debug, Default)]
pub struct Address {
    state: Mutex<State>,
    /// Tells the watch that it may have to look earlier.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    ledger: Ledger,
    line: Waiting,
    /// When time alone may let somebody in line go.
    due: Option<Instant>,
    /// Whether somebody watches for that.
    watched: bool,
}

/// The line, with what calls each one up.
pub type Waiting = Line<oneshot::Sender<Result<Ticket, Obstacle>>>;

/// Why a call does not go.
#[derive(Debug)]
pub enum Refused {
    /// For want of budget.
    Problem(Problem),
    /// It would only fail again: this is what the upstream last said, and why no call goes.
    Remembered(Arc<Received>, Problem),
    /// Its upstream is at another address by now.
    Moved,
}

impl Refused {
    /// What the caller is told.
    pub fn problem(self) -> Problem {
        match self {
            Self::Problem(problem) | Self::Remembered(_, problem) => problem,
            Self::Moved => Problem::UpstreamFailed(Cause::Connect),
        }
    }
}

impl State {
    /// Lets everyone go who may, in fair order.
    fn dispatch(&mut self, now: Instant) {
        self.ledger.forget(now);
        loop {
            let mut due: Option<Instant> = None;
            let called = self.line.call_up(|bid| {
                let obstacles = self.ledger.obstacles(bid, now);
                due = [due, obstacles.due()].into_iter().flatten().min();
                obstacles.lasting().is_none()
            });
            let Some((bid, waker)) = called else {
                self.due = due;
                return;
            };
            let ticket = self.ledger.send(&bid, now);
            // Whoever leaves the line takes its receiver along under this same lock, so there is one.
            drop(waker.send(Ok(ticket)));
        }
    }

    /// Lets those go for whom it was only a matter of time, if that has come.
    fn dispatch_due(&mut self, now: Instant) {
        if self.due.is_some_and(|due| due <= now) {
            self.dispatch(now);
        }
    }

    /// Lets `bid` go at once, or puts it in line if that can be of use before `until`.
    fn enter(&mut self, bid: &Bid, until: Instant, now: Instant) -> Result<Entered, Obstacle> {
        self.ledger.fit(bid, self.line.accounts(), now);
        // Whoever may go by now goes before a newcomer.
        self.dispatch_due(now);
        let Some(obstacle) = self.ledger.obstacle(bid, 0, now) else {
            return Ok(Entered::Gone(self.ledger.send(bid, now)));
        };
        if bid.rules.dry_run {
            self.ledger.would_have_waited(bid);
            tracing::info!(target: "budget", upstream = %bid.account.0, account = %bid.account.1, consumer = %bid.payer.name,
                obstacle = obstacle.kind.label(), "would have been held back");
            return Ok(Entered::Gone(self.ledger.send(bid, now)));
        }
        let with_those_ahead = self.ledger.obstacle(bid, self.line.ahead(bid), now).unwrap_or(obstacle);
        if now >= until || with_those_ahead.outlasts(until) {
            return Err(with_those_ahead);
        }
        if self.line.len() >= usize::try_from(bid.rules.max_waiting).unwrap_or(usize::MAX) {
            let full = Obstacle::busy(Kind::Line);
            let (_, waker) = self.line.make_room(bid).ok_or(full)?;
            drop(waker.send(Err(full)));
        }
        self.due = [self.due, self.ledger.obstacles(bid, now).due()].into_iter().flatten().min();
        let (waker, called) = oneshot::channel();
        Ok(Entered::InLine(self.line.join(bid.clone(), waker), called))
    }
}

enum Entered {
    Gone(Ticket),
    InLine(u64, oneshot::Receiver<Result<Ticket, Obstacle>>),
}

impl Address {
    /// Waits until the call of `bid` may go, for no longer than until `until`. The bid is made under the lock, so that it is made by
    /// rules that are in force: those that replace them are [taken over](Self::take_over) after it.
    pub async fn reserve(self: &Arc<Self>, bid: impl FnOnce() -> Bid, until: Instant) -> Result<Permit, Refused> {
        let (bid, place) = self.enter(bid, until);
        let waited = match place {
            Ok(Entered::Gone(ticket)) => Ok(ticket),
            Ok(Entered::InLine(number, called)) => {
                self.wait(&bid, Place { address: self, number, called }, until).await.ok_or(Refused::Moved)?
            }
            Err(obstacle) => Err(obstacle),
        };
        match waited {
            Ok(ticket) => Ok(Permit { address: self.clone(), ticket, stage: Stage::Sent }),
            Err(obstacle) => {
                let problem = obstacle.problem(Instant::now());
                let is_for_failures = matches!(obstacle.kind, Kind::Failures(_));
                let remembered = self.read(|ledger, _| ledger.remembered(&bid)).filter(|_| is_for_failures);
                Err(match remembered {
                    Some(refusal) => Refused::Remembered(refusal, problem),
                    None => Refused::Problem(problem),
                })
            }
        }
    }

    fn enter(self: &Arc<Self>, bid: impl FnOnce() -> Bid, until: Instant) -> (Bid, Result<Entered, Obstacle>) {
        let mut state = self.state.lock();
        let bid = bid();
        let entered = state.enter(&bid, until, Instant::now());
        if let Ok(Entered::InLine(..)) = entered {
            if !std::mem::replace(&mut state.watched, true) {
                tokio::spawn(watch(self.clone()));
            }
            self.changed.notify_one();
        }
        (bid, entered)
    }

    /// `None` if it was sent away.
    async fn wait(&self, bid: &Bid, mut place: Place<'_>, until: Instant) -> Option<Result<Ticket, Obstacle>> {
        if let Ok(called) = timeout_at(until, &mut place.called).await {
            return called.ok();
        }
        let mut state = self.state.lock();
        let now = Instant::now();
        // Whoever may go in this very moment goes.
        state.dispatch_due(now);
        match place.called.try_recv() {
            Ok(called) => Some(called),
            Err(TryRecvError::Closed) => None,
            Err(TryRecvError::Empty) => {
                Some(Err(state.ledger.obstacle(bid, 0, now).unwrap_or(Obstacle::busy(Kind::Line))))
            }
        }
    }

    /// Changes the ledger, and lets go whoever may after that.
    fn with<T>(&self, change: impl FnOnce(&mut Ledger, Instant) -> T) -> T {
        let mut state = self.state.lock();
        let now = Instant::now();
        let result = change(&mut state.ledger, now);
        state.dispatch(now);
        if state.watched {
            // What was waited for may by now be known to come at a certain time, or nobody waits any more.
            self.changed.notify_one();
        }
        result
    }

    /// Takes over what is in force now: `rules` of upstreams that are at this address, and the rates of accounts at each of these.
    /// Whoever waits for one that has `moved` is sent on.
    pub fn take_over(
        &self,
        rules: impl Fn(&Name) -> Option<BudgetRules>,
        rate: impl Fn(&Name, AccountHash) -> Option<Rate>,
        moved: impl Fn(&Name) -> bool,
    ) {
        let mut state = self.state.lock();
        let (State { ledger, line, .. }, now) = (&mut *state, Instant::now());
        line.send_away(|bid| moved(&bid.account.0));
        ledger.take_over(rules, rate, line.accounts().map(|(upstream, _)| upstream), now);
        state.dispatch(now);
        if state.watched {
            self.changed.notify_one();
        }
    }

    /// Forgets what an upstream has refused: it was asked with another key.
    pub fn forget_refusals(&self, upstream: &Name) {
        self.state.lock().ledger.forget_refusals(upstream);
    }

    /// Looks at the ledger and the line.
    pub fn read<T>(&self, look: impl FnOnce(&Ledger, &Waiting) -> T) -> T {
        let mut state = self.state.lock();
        state.ledger.forget(Instant::now());
        look(&state.ledger, &state.line)
    }
}

/// Lets those in line go for whom it is only a matter of time, for as long as there is a line.
async fn watch(address: Arc<Address>) {
    loop {
        let due = {
            let mut state = address.state.lock();
            state.dispatch_due(Instant::now());
            if state.line.is_empty() {
                state.watched = false;
                return;
            }
            state.due
        };
        let changed = address.changed.notified();
        match due {
            Some(due) => tokio::select! {
                () = changed => {}
                () = sleep_until(due) => {}
            },
            None => changed.await,
        }
    }
}

/// A place in line. Whoever leaves gives it back, and the ticket as well if it was called up in the very moment of leaving.
struct Place<'a> {
    address: &'a Address,
    number: u64,
    called: oneshot::Receiver<Result<Ticket, Obstacle>>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.address.state.lock();
        if state.line.leave(self.number).is_some() {
            // Where that was the last the watch ends.
            self.address.changed.notify_one();
        } else if let Ok(Ok(unused)) = self.called.try_recv() {
            let now = Instant::now();
            // It was not sent, so it has not failed. Its token is spent, which errs on the safe side.
            state.ledger.unsent(&unused, now);
            state.dispatch(now);
            self.address.changed.notify_one();
        }
    }
}

/// The right to make one call, until the last byte of its answer. Dropping it gives back what the call held.
#[derive(Debug)]
pub struct Permit {
    address: Arc<Address>,
    ticket: Ticket,
    stage: Stage,
}

/// How far a call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It may have gone out.
    Sent,
    /// It is known how it has ended.
    Ended,
    /// It does not go out.
    Unsent,
}

impl Permit {
    /// Whether the breaker waits for this call, to see how the upstream is.
    pub fn is_probe(&self) -> bool {
        self.ticket.probe
    }

    /// The call has ended, as far as its status goes; says until when the account is paused.
    pub fn ended(&mut self, ending: Ending, left: Option<Left>) -> Option<Instant> {
        let Self { address, ticket, stage } = self;
        *stage = Stage::Ended;
        address.with(|ledger, now| {
            if let Some(left) = left {
                ledger.learn(&ticket.suspect.account, left, now);
            }
            ledger.ended(ticket, ending, now, fastrand::f32())
        })
    }

    /// The call does not go. Its token is spent, which errs on the safe side.
    pub fn give_back(mut self) {
        self.stage = Stage::Unsent;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Self { address, ticket, stage } = self;
        address.with(|ledger, now| match stage {
            Stage::Unsent => ledger.unsent(ticket, now),
            Stage::Sent | Stage::Ended => ledger.release(ticket, *stage == Stage::Ended, now),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::bid::tests::bid;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_kept_however_many_accounts_come_while_somebody_waits() {
        let (address, began) = (Arc::new(Address::default()), Instant::now());
        let late = began + Duration::from_secs(3600);
        let mut first = bid("a", 9, 1);
        first.rules.concurrency = Some(1);
        let limited = Bid { rate: Rate::new(5, Duration::from_secs(60)), ..bid("a", 0, 1) };
        let limited = Bid { rules: first.rules, ..limited };
        let held = address.reserve(|| first, began).await.expect("nothing is in its way");
        let wait = || {
            let (address, bid) = (address.clone(), limited.clone());
            tokio::spawn(async move {
                let mut permit = address.reserve(|| bid, late).await.expect("in time");
                permit.ended(Ending::Answered(200), None);
                Instant::now()
            })
        };
        let waiting: Vec<_> = (0..30).map(|_| wait()).collect();
        while address.read(|_, line| line.len()) < 30 {
            tokio::task::yield_now().await;
        }
        for account in 0..1_500_u32 {
            let mut stranger = Bid { account: bid("a", 1, 1).account, ..limited.clone() };
            stranger.account.1.0[..4].copy_from_slice(&account.to_be_bytes());
            assert!(address.reserve(|| stranger, began).await.is_err(), "the only place is taken");
        }
        drop(held);
        let mut sent = Vec::new();
        for one in waiting {
            sent.push(one.await.expect("no panic"));
        }
        sent.sort();
        let beyond = sent.iter().zip(sent.iter().skip(5));
        assert!(beyond.into_iter().all(|(first, sixth)| *sixth - *first > Duration::from_secs(60)), "{sent:?}");
    }
}
