//! The only reader of the real clocks. The loop asks once a turn; everyone else is told.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::time::{Now, Time, WallTime};

/// The clocks of this process; [`Time::ZERO`] is the moment this was made.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// Starts to count.
    #[expect(clippy::disallowed_methods, reason = "the one place where real time enters")]
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// Reads the one that only goes forward, for who has no use for the other.
    pub fn mono(&self) -> Time {
        Time::ZERO + self.started.elapsed()
    }

    /// Reads both clocks. A calendar set before 1970 reads as 1970.
    #[expect(clippy::disallowed_methods, reason = "the one place where real time enters")]
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono: self.mono(), wall: WallTime::from_millis(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_only_goes_forward() {
        let clock = Clock::start();
        let (first, second) = (clock.now(), clock.now());
        assert!(first.mono <= second.mono);
        assert!(first.wall > WallTime::from_millis(1_700_000_000_000), "this was written later than 2023");
    }
}
