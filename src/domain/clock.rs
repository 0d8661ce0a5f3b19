//! The time of day without a look at the clock: what happens many thousand times a second has been timed already.

use std::cell::Cell;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// For how long the two clocks are taken to run alike. After that the time of day is looked up again, so that whoever sets it is
/// followed within a second.
const ALIKE: Duration = Duration::from_secs(1);

thread_local!(static BOTH: Cell<Option<(Instant, SystemTime)>> = const { Cell::new(None) });

/// The time of day at `at`, a moment that has just been.
pub fn time_of_day(at: Instant) -> SystemTime {
    if let Some((then, time)) = BOTH.get()
        && let Some(since) = at.checked_duration_since(then)
        && since < ALIKE
    {
        return time + since;
    }
    let (now, time) = (Instant::now(), SystemTime::now());
    BOTH.set(Some((now, time)));
    time - now.saturating_duration_since(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_time_of_day_within_a_second_and_beyond() {
        for pause in [Duration::ZERO, ALIKE / 2, ALIKE + Duration::from_millis(1)] {
            std::thread::sleep(pause / 10);
            let at = Instant::now().checked_sub(pause).expect("the clock has run for longer");
            let apart = |one: SystemTime, other: SystemTime| {
                one.duration_since(other).unwrap_or_else(|earlier| earlier.duration())
            };
            let expected = SystemTime::now() - pause;
            assert!(apart(time_of_day(at), expected) < Duration::from_millis(100), "{pause:?}");
        }
    }
}
