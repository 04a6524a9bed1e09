//! Rate limit for warnings that any client or peer can cause.

use std::fmt;
use std::time::Duration;

use log::warn;

use crate::limits::STRANGER_LOG_LINES_PER_SECOND;
use crate::time::Time;

/// Warnings about clients and peers: a bounded number in each second, and the number of the others.
#[derive(Debug, Default)]
pub(super) struct RateLimitedLog {
    second: Option<Time>,
    lines: u32,
    suppressed: u64,
}

impl RateLimitedLog {
    /// Logs `line`, or counts it if this second has no line left.
    pub(super) fn warn(&mut self, now: Time, line: fmt::Arguments<'_>) {
        let (admitted, suppressed) = self.admit(now);
        if suppressed > 0 {
            warn!("log lines about clients and peers suppressed lines={suppressed}");
        }
        if admitted {
            warn!("{line}");
        }
    }

    /// Whether another line may be logged, and how many lines were suppressed before this second.
    fn admit(&mut self, now: Time) -> (bool, u64) {
        let mut suppressed = 0;
        if self.second.is_none_or(|second| now - second >= Duration::from_secs(1)) {
            suppressed = std::mem::take(&mut self.suppressed);
            self.second = Some(now);
            self.lines = 0;
        }
        if self.lines < STRANGER_LOG_LINES_PER_SECOND {
            self.lines += 1;
            return (true, suppressed);
        }
        self.suppressed += 1;
        (false, suppressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_has_a_bounded_number_of_lines_and_the_next_one_reports_the_suppressed_lines() {
        let mut log = RateLimitedLog::default();
        let at = |millis| Time::ZERO + Duration::from_millis(millis);
        for _ in 0..STRANGER_LOG_LINES_PER_SECOND {
            assert_eq!(log.admit(at(5)), (true, 0));
        }
        assert_eq!(log.admit(at(6)), (false, 0));
        assert_eq!(log.admit(at(1004)), (false, 0));
        assert_eq!(log.admit(at(1005)), (true, 2));
        assert_eq!(log.admit(at(1006)), (true, 0));
    }
}
