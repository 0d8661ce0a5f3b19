//! The time of day without a look at the clock: what happens many thousand times a second has been timed already.

use std::cell::Cell;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// For how long the two clocks are taken to run alike. After that the time of day is looked up again, so that whoever sets it is
/// followed within a second.
const ALIKE: Duration = Duration::from_secs(1);

thread_local!(static BOTH: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) });

/// The time of day at `at`, a moment that has just been, as the time since the Unix epoch.
pub fn since_epoch(at: Instant) -> Duration {
    if let Some((then, time)) = BOTH.get()
        && let Some(since) = at.checked_duration_since(then)
        && since < ALIKE
    {
        return time + since;
    }
    let (now, time) = (Instant::now(), SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    BOTH.set(Some((now, time)));
    time.saturating_sub(now.saturating_duration_since(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_time_of_day_within_a_second_and_beyond() {
        for pause in [Duration::ZERO, ALIKE / 2, ALIKE + Duration::from_millis(1)] {
            std::thread::sleep(pause / 10);
            let at = Instant::now().checked_sub(pause).expect("the clock has run for longer");
            let expected = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is later") - pause;
            assert!(since_epoch(at).abs_diff(expected) < Duration::from_millis(100), "{pause:?}");
        }
    }
}
