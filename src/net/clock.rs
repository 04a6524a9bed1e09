//! The real clocks. The loop reads them once per turn; all other code gets the time as an argument.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::time::{Now, Time, WallTime};

/// The clocks of this process. [`Time::ZERO`] is the moment at which this value was created.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// Starts the monotonic clock at zero.
    #[expect(clippy::disallowed_methods, reason = "the only module that reads the real clocks")]
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// Reads the monotonic clock.
    pub fn mono(&self) -> Time {
        Time::ZERO + self.started.elapsed()
    }

    /// Reads both clocks. A wall clock before 1970 reads as 1970.
    #[expect(clippy::disallowed_methods, reason = "the only module that reads the real clocks")]
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono: self.mono(), wall: WallTime::from_millis(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_time_never_decreases() {
        let clock = Clock::start();
        let (first, second) = (clock.now(), clock.now());
        assert!(first.mono <= second.mono);
        assert!(first.wall > WallTime::from_millis(1_700_000_000_000), "later than 2023, when this test was written");
    }
}
