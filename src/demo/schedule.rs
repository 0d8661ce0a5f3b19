//! When an account's syncs start, how long each model takes and how it ends: a pure function of the schedule and the time.
//!
//! A run starts every so often, sometimes late; an asked-for run (a resync) comes on top. Within a run each model waits its turn,
//! syncs for a while and ends well or badly. All of that is rolled from the seed, so the past can be asked as well as the present
//! and no state has to be kept in step with a clock.

use std::time::{Duration, SystemTime};

use super::dice::roll;
use super::models::{Fate, ModelState, Reason, Selective, SimModel, Status};
use super::part::Run;

/// How many planned runs back a state may look; a model that failed in all of them shows no `data_fresh_as_of`.
const HISTORY: usize = 48;

/// The rhythm of one account.
#[derive(Clone, Debug)]
pub struct Schedule {
    seed: u64,
    first: SystemTime,
    every: Option<Duration>,
    length: Duration,
    paused_from: Option<SystemTime>,
    selective_from: Option<SystemTime>,
    asked: Vec<SystemTime>,
    ended: Vec<(SystemTime, Status)>,
}

impl Schedule {
    /// Runs from `first` on, `every` so often, of roughly this `length`. Without `every` there is the first run only, and those
    /// asked for, which then last until [`Schedule::end_sync`].
    pub fn new(seed: u64, first: SystemTime, every: Option<Duration>, length: Duration) -> Self {
        // A model waits half a length and takes one and a half at most, and a run may be a tenth late: two fifths keep one run
        // from running into the next.
        let length = every.map_or(length, |every| length.min(every * 2 / 5));
        Self { seed, first, every, length, paused_from: None, selective_from: None, asked: vec![], ended: vec![] }
    }

    /// No planned run from `at` on, until somebody asks for one.
    #[must_use]
    pub fn paused_from(mut self, at: SystemTime) -> Self {
        self.paused_from = Some(at);
        self
    }

    /// A selective sync configuration was saved at `at`.
    #[must_use]
    pub fn selective_from(mut self, at: SystemTime) -> Self {
        self.selective_from = Some(at);
        self
    }

    /// Starts a run at `now`, whatever the plan says.
    pub fn start_sync(&mut self, now: SystemTime) {
        self.asked.push(now);
    }

    /// Ends at `now`, with this result, what is syncing.
    pub fn end_sync(&mut self, now: SystemTime, result: Status) {
        self.ended.push((now, result));
    }

    /// The state of every model at `now`.
    pub fn states(&self, models: &[SimModel], now: SystemTime) -> Vec<ModelState> {
        let runs = self.runs(now);
        let next = self.next(now);
        (0_u64..).zip(models).map(|(place, model)| self.state(model, place, &runs, next, now)).collect()
    }

    fn state(
        &self,
        model: &SimModel,
        place: u64,
        runs: &[Run],
        next: Option<SystemTime>,
        now: SystemTime,
    ) -> ModelState {
        let mut state = ModelState::disabled(model);
        if model.fate == Fate::Disabled {
            return state;
        }
        let part = |run: &Run| run.part(model.fate, place, self.length, &self.ended);
        let finished = |run: &Run| {
            let part = part(run);
            run.finished(&part, now).map(|end| (run.start, end, part.result))
        };
        let mut ends = runs.iter().filter_map(finished);
        let fresh = ends.clone().find(|(.., result)| *result == Status::Done);
        let last = ends.next();
        state.last_sync_start = runs.first().map(|run| run.start);
        state.next_sync_start = next;
        state.last_sync_result = last.map(|(.., result)| result);
        state.last_sync_finished = last.map(|(_, end, _)| end);
        state.data_fresh_as_of = fresh.map(|(start, ..)| start);
        state.is_initial_sync = last.is_none();
        state.selective_sync_configurations_usage = self.selective_from.map(|from| match last {
            Some((start, ..)) if start >= from => Selective::InLastSync,
            _ => Selective::InNextSync,
        });
        let current = runs.first().filter(|run| finished(run).is_none());
        (state.status, state.sync_status_reason) = match (current, last) {
            (Some(run), _) => (Status::Syncing, part(run).reason(now)),
            (None, Some(_)) if self.is_paused(now) => (Status::Paused, None),
            (None, Some((.., result))) => (result, None),
            (None, None) => (Status::Syncing, Some(Reason::WaitingOnOtherModels)),
        };
        state
    }

    /// The newest runs that have started, newest first.
    fn runs(&self, now: SystemTime) -> Vec<Run> {
        let run = |(start, seed, length)| Run { start, until: None, length, seed: roll(self.seed, seed) };
        let planned = self.last_planned(now).into_iter().flat_map(|last| (0..=last).rev());
        let planned = planned.filter(|turn| !self.is_paused(self.planned(*turn)));
        let planned = planned.map(|turn| (self.start(turn), u64::from(turn), Some(self.length)));
        let length = self.every.map(|_| self.length);
        let asked = (0_u64..).zip(&self.asked).filter(|(_, start)| **start <= now);
        let asked = asked.map(|(turn, start)| (*start, u64::MAX - turn, length));
        let mut runs: Vec<Run> = planned.take(HISTORY).chain(asked).map(run).collect();
        runs.sort_by_key(|run| std::cmp::Reverse(run.start));
        let mut until = None;
        for run in &mut runs {
            run.until = until.replace(run.start);
        }
        runs
    }

    /// The newest planned run that has started.
    fn last_planned(&self, now: SystemTime) -> Option<u32> {
        let since = now.duration_since(self.first).ok()?;
        let Some(every) = self.every else { return Some(0) };
        let turn = u32::try_from(since.as_nanos() / every.as_nanos()).unwrap_or(u32::MAX);
        if self.start(turn) > now { turn.checked_sub(1) } else { Some(turn) }
    }

    /// When a run is due.
    fn planned(&self, turn: u32) -> SystemTime {
        self.first + self.every.unwrap_or_default() * turn
    }

    /// When it does start: every eighth or so is a tenth of the interval late, and meanwhile overdue. The first is on time.
    fn start(&self, turn: u32) -> SystemTime {
        let late = turn > 0 && roll(self.seed ^ 1, u64::from(turn)).is_multiple_of(8);
        let planned = self.planned(turn);
        if late { planned + self.every.unwrap_or_default() / 10 } else { planned }
    }

    /// When the next planned run is due: in the past while it is late.
    fn next(&self, now: SystemTime) -> Option<SystemTime> {
        self.every.filter(|_| !self.is_paused(now))?;
        Some(self.planned(self.last_planned(now).map_or(0, |turn| turn + 1)))
    }

    fn is_paused(&self, at: SystemTime) -> bool {
        self.paused_from.is_some_and(|from| from <= at && !self.asked.iter().any(|start| (from..=at).contains(start)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::models::standard;
    use proptest::prelude::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(minutes: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + MINUTE * minutes
    }

    fn every_ten_minutes(seed: u64) -> Schedule {
        Schedule::new(seed, at(0), Some(MINUTE * 10), MINUTE * 2)
    }

    fn one(schedule: &Schedule, now: SystemTime) -> ModelState {
        schedule.states(&[SimModel::new("ats.Job", Fate::Steady)], now).remove(0)
    }

    #[test]
    fn a_model_syncs_from_the_start_of_a_run_until_its_end() {
        let schedule = every_ten_minutes(7);
        let first = one(&schedule, at(0));
        assert_eq!((first.status, first.is_initial_sync, first.last_sync_result), (Status::Syncing, true, None));
        let done = one(&schedule, at(5));
        assert_eq!(
            (done.status, done.is_initial_sync, done.last_sync_result),
            (Status::Done, false, Some(Status::Done))
        );
        assert_eq!(done.data_fresh_as_of, Some(at(0)));
        assert_eq!(done.next_sync_start, Some(at(10)));
    }

    #[test]
    fn before_the_first_run_it_is_queued() {
        let schedule = Schedule::new(7, at(5), Some(MINUTE), MINUTE);
        let state = one(&schedule, at(0));
        assert_eq!((state.status, state.next_sync_start, state.last_sync_start), (Status::Syncing, Some(at(5)), None));
    }

    #[test]
    fn a_run_by_hand_lasts_until_it_is_ended() {
        let mut schedule = Schedule::new(7, at(0), None, MINUTE);
        schedule.start_sync(at(100));
        assert_eq!(one(&schedule, at(99)).status, Status::Done);
        assert_eq!(one(&schedule, at(9_999)).status, Status::Syncing);
        schedule.end_sync(at(101), Status::Failed);
        let state = one(&schedule, at(9_999));
        assert_eq!((state.status, state.last_sync_finished), (Status::Failed, Some(at(101))));
        assert_eq!((state.data_fresh_as_of, state.next_sync_start), (Some(at(0)), None));
    }

    #[test]
    fn however_often_a_sync_is_asked_for_the_past_is_not_forgotten() {
        let mut schedule = every_ten_minutes(7);
        for moment in 0..200 {
            schedule.start_sync(at(9) + Duration::from_millis(moment));
        }
        let state = one(&schedule, at(9) + Duration::from_millis(200));
        assert_eq!(
            (state.status, state.is_initial_sync, state.data_fresh_as_of),
            (Status::Syncing, false, Some(at(0)))
        );
    }

    #[test]
    fn a_pause_lasts_until_a_sync_is_asked_for() {
        let mut schedule = every_ten_minutes(7).paused_from(at(95));
        let paused = one(&schedule, at(1_000));
        assert_eq!((paused.status, paused.next_sync_start), (Status::Paused, None));
        assert!(paused.last_sync_start < Some(at(95)));
        schedule.start_sync(at(1_003));
        assert_eq!(one(&schedule, at(1_003)).status, Status::Syncing);
        let back = one(&schedule, at(1_009));
        assert_eq!((back.status, back.next_sync_start), (Status::Done, Some(at(1_010))));
    }

    #[test]
    fn a_selective_configuration_counts_from_the_run_after_it() {
        let schedule = every_ten_minutes(7).selective_from(at(15));
        let usage = |minute| one(&schedule, at(minute)).selective_sync_configurations_usage;
        assert_eq!((usage(19), usage(29)), (Some(Selective::InNextSync), Some(Selective::InLastSync)));
    }

    #[test]
    fn a_run_that_is_late_is_overdue_meanwhile() {
        let schedule = every_ten_minutes(7);
        let late = (1..100).find(|turn| schedule.start(*turn) > schedule.planned(*turn)).expect("one in eight");
        let state = one(&schedule, schedule.planned(late));
        assert_eq!((state.status, state.next_sync_start), (Status::Done, Some(schedule.planned(late))));
    }

    proptest! {
        #[test]
        fn every_state_agrees_with_itself(seed: u64, seconds in 0_u64..1_000_000, every in 1_u64..5_000, length in 0_u64..5_000) {
            let (every, length) = (Duration::from_secs(every), Duration::from_secs(length));
            let schedule = Schedule::new(seed, at(0), Some(every), length);
            let now = at(0) + Duration::from_secs(seconds);
            let models = standard("ats");
            prop_assert_eq!(schedule.states(&models, now), schedule.states(&models, now));
            for state in schedule.states(&models, now) {
                let started = state.last_sync_start.expect("the first run was at the epoch");
                prop_assert!(started <= now);
                prop_assert!(state.last_sync_finished.is_none_or(|finished| finished <= now));
                prop_assert!(state.next_sync_start.is_some_and(|next| next > started && next + every / 10 > now));
                prop_assert_eq!(state.last_sync_finished.is_some(), state.last_sync_result.is_some());
                prop_assert_eq!(state.is_initial_sync, state.last_sync_finished.is_none());
                prop_assert!(state.data_fresh_as_of <= state.last_sync_start);
                if state.status == Status::Syncing {
                    prop_assert!(state.last_sync_finished.is_none_or(|finished| finished <= started));
                } else {
                    prop_assert_eq!(Some(state.status), state.last_sync_result);
                    prop_assert!(state.last_sync_finished >= Some(started));
                    prop_assert_eq!(state.sync_status_reason, None);
                }
            }
        }
    }
}
