//! What past syncs teach about the present one: how long each model's runs take, and so when one that is under way will end.

use std::time::Duration;

use super::received::Run;

/// What is known of the models of one page. Sixteen bytes a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History(Box<[Estimate]>);

#[derive(Clone, Copy, Debug, PartialEq)]
struct Estimate {
    model: u32,
    /// The start of the run that was counted last, so that it is counted once, in seconds of the Unix epoch.
    counted: u32,
    /// How long a run takes, in seconds.
    mean: f32,
    /// How far runs are from that on average, in seconds.
    spread: f32,
}

/// What a new run weighs against all before it.
const NEWEST: f32 = 0.25;

/// How far the second run is expected to be from the first, as a share of it.
const FIRST_SPREAD: f32 = 0.25;

/// However regular the runs, the end of one is never known better than this, in seconds and as a share of the run.
const BEST_SPREAD: (f32, f32) = (1.0, 0.01);

/// More models than Merge has in any category; whatever else a page lists is not learnt.
const MOST_MODELS: usize = 64;

/// When a run that is under way is expected to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// How long it has run.
    pub elapsed: Duration,
    /// How long until the first moment at which it may well be over; zero once that has come.
    pub until_window: Duration,
    /// How long ago the last such moment was; zero while it has not come.
    pub overdue: Duration,
}

impl History {
    /// What is known after `runs` have been seen as well.
    #[must_use]
    pub fn learn(&self, runs: &[Run]) -> Self {
        let mut estimates = Vec::with_capacity(runs.len().min(MOST_MODELS));
        estimates.extend(runs.iter().take(MOST_MODELS).filter_map(|run| {
            let known = self.of(run.model);
            let Some((started, took)) = run.finished else { return known };
            Some(match known {
                Some(known) if known.counted == started => known,
                Some(known) => known.with(started, took.as_secs_f32()),
                None => Estimate::first(run.model, started, took.as_secs_f32()),
            })
        }));
        Self(estimates.into())
    }

    /// When `run` will end; `None` if it is not under way, or nothing is known of its model.
    pub fn expect(&self, run: &Run) -> Option<Expectation> {
        let elapsed = run.under_way?;
        let Estimate { mean, spread, .. } = self.of(run.model)?;
        let (seconds, share) = BEST_SPREAD;
        // Three times the mean deviation holds all but a few runs, whether they vary evenly or like a bell.
        let reach = 3.0 * spread.max(seconds).max(mean * share);
        let bound = |at: f32| Duration::try_from_secs_f32(at.max(0.0)).unwrap_or(Duration::MAX);
        Some(Expectation {
            elapsed,
            until_window: bound(mean - reach).saturating_sub(elapsed),
            overdue: elapsed.saturating_sub(bound(mean + reach)),
        })
    }

    /// The bytes that it holds elsewhere in memory.
    pub fn size(&self) -> usize {
        size_of_val(&*self.0)
    }

    fn of(&self, model: u32) -> Option<Estimate> {
        self.0.iter().find(|estimate| estimate.model == model).copied()
    }
}

impl Estimate {
    fn first(model: u32, counted: u32, took: f32) -> Self {
        Self { model, counted, mean: took, spread: took * FIRST_SPREAD }
    }

    fn with(self, counted: u32, took: f32) -> Self {
        let off = (took - self.mean).abs();
        Self {
            counted,
            mean: self.mean + NEWEST * (took - self.mean),
            spread: self.spread + NEWEST * (off - self.spread),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn finished(started: u32, seconds: u64) -> Run {
        Run { model: 7, under_way: None, finished: Some((started, Duration::from_secs(seconds))) }
    }

    fn under_way(seconds: u64) -> Run {
        Run { model: 7, under_way: Some(Duration::from_secs(seconds)), finished: None }
    }

    #[test]
    fn a_run_is_counted_once_and_makes_the_next_foreseeable() {
        let once = History::default().learn(&[finished(1, 600)]);
        assert_eq!(once.learn(&[finished(1, 600)]), once);
        let mut history = once;
        for started in 2..40 {
            history = history.learn(&[finished(started, 600)]);
        }
        let expectation = history.expect(&under_way(100)).expect("the model is known");
        assert!((475..=485).contains(&expectation.until_window.as_secs()), "{expectation:?}");
        assert_eq!(expectation.overdue, Duration::ZERO);
        let late = history.expect(&under_way(700)).expect("the model is known");
        assert!(late.until_window.is_zero() && late.overdue.as_secs() > 80, "{late:?}");
    }

    #[test]
    fn of_what_is_not_known_nothing_is_expected() {
        let history = History::default().learn(&[finished(1, 600)]);
        assert_eq!(history.expect(&Run { model: 8, ..under_way(5) }), None);
        assert_eq!(history.expect(&finished(1, 600)), None);
    }

    #[test]
    fn a_page_without_news_forgets_nothing() {
        let history = History::default().learn(&[finished(1, 600)]);
        assert_eq!(history.learn(&[under_way(5)]), history);
    }

    proptest! {
        #[test]
        fn runs_that_vary_evenly_end_within_their_window(runs in proptest::collection::vec(0.8_f32..1.2, 30..60)) {
            let mut history = History::default();
            let mut outside = 0;
            for (started, factor) in runs.iter().enumerate() {
                let took = Duration::from_secs_f32(600.0 * factor);
                let run = Run { model: 7, under_way: Some(took), finished: None };
                if let Some(expectation) = history.expect(&run) {
                    outside += usize::from(!expectation.until_window.is_zero() || !expectation.overdue.is_zero());
                }
                let started = u32::try_from(started).expect("a small number");
                history = history.learn(&[Run { model: 7, under_way: None, finished: Some((started, took)) }]);
            }
            prop_assert!(outside <= 6, "{outside} of {}", runs.len());
        }
    }
}
