//! The simulated wall clock: a fixed start, plus what tokio's clock says has passed, sped up.
//!
//! Nothing here reads the system's time, so a paused runtime stands still and an advanced one jumps, whole days if asked to.

use std::time::SystemTime;

use tokio::time::Instant;

/// A wall clock whose day may last a minute.
#[derive(Clone, Copy, Debug)]
pub struct SimClock {
    start: SystemTime,
    origin: Instant,
    speed: u32,
}

impl SimClock {
    /// A clock that shows `start` now and then runs `speed` times as fast as tokio's.
    pub fn new(start: SystemTime, speed: u32) -> Self {
        Self { start, origin: Instant::now(), speed }
    }

    /// The simulated time of day.
    pub fn now(&self) -> SystemTime {
        self.start + self.origin.elapsed() * self.speed
    }

    /// The time that it showed first.
    pub fn start(&self) -> SystemTime {
        self.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_minute_passes_in_a_second_at_sixty_fold() {
        let clock = SimClock::new(SystemTime::UNIX_EPOCH, 60);
        assert_eq!(clock.now(), clock.start());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(clock.now(), SystemTime::UNIX_EPOCH + Duration::from_secs(60));
    }
}
