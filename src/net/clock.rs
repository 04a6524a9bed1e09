//! The real clocks. The loop reads them once per turn; all other code gets the time as an argument.
//!
//! The monotonic clock counts the time in which the host was suspended (`CLOCK_BOOTTIME`): records age
//! meanwhile, and a node notices that it has missed what others wrote.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::time::{BootTime, Now, Time, WallTime};

/// The clocks of this process. [`Time::ZERO`] is the moment at which this value was created.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// The time since the boot at that moment.
    started: Duration,
}

impl Clock {
    /// Starts the monotonic clock at zero.
    pub fn start() -> Self {
        Self { started: since_boot() }
    }

    /// The moment [`Time::ZERO`] since the boot of the host; `None` if the system does not name its boots.
    pub fn boot(&self) -> Option<BootTime> {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).take(8).collect();
        let boot = u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 8)?;
        Some(BootTime { boot, millis: u64::try_from(self.started.as_millis()).ok()? })
    }

    /// Reads the monotonic clock.
    pub fn mono(&self) -> Time {
        Time::ZERO + since_boot().saturating_sub(self.started)
    }

    /// Makes the monotonic clock jump ahead.
    #[cfg(test)]
    pub(super) fn skip(&mut self, time: Duration) {
        self.started = self.started.checked_sub(time).expect("the host has been up for longer than a test");
    }

    /// Reads both clocks. A wall clock before 1970 reads as 1970.
    #[expect(clippy::disallowed_methods, reason = "the only module that reads the real clocks")]
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono: self.mono(), wall: WallTime::from_millis(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)) }
    }
}

/// The time since the boot, suspended time included.
fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let nanos = u32::try_from(now.tv_nsec).expect("fewer than a second");
    Duration::new(u64::try_from(now.tv_sec).expect("the boot is not in the future"), nanos)
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
