//! Time as the core knows it: an argument, never a question.
//!
//! [`Time`] counts from the moment the host started and only goes forward; every deadline, age
//! and interval is made of it. [`WallTime`] is the calendar's clock, which may jump and may be
//! wrong: it serves for the version of a record and for nothing else. The host reads both once
//! a turn and hands them in as [`Now`].

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A moment, in nanoseconds since the host started: enough for 584 years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The moment the host started.
    pub const ZERO: Time = Time(0);

    /// The moment `nanos` nanoseconds after the host started.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the host started.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The first of `moments`, of those that there are.
    #[must_use]
    pub fn first_of<const N: usize>(moments: [Option<Time>; N]) -> Option<Time> {
        // A plain loop: every turn of a host asks this, and chains of iterators cost a tenth of it.
        let mut first = None;
        for moment in moments {
            first = match (first, moment) {
                (Some(first), Some(moment)) => Some(Time::min(first, moment)),
                (first, moment) => first.or(moment),
            };
        }
        first
    }

    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub const fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    /// Saturates: a moment that far away never comes.
    fn add(self, span: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Time> for Time {
    type Output = Duration;

    /// [`Time::since`], as an operator.
    fn sub(self, earlier: Time) -> Duration {
        self.since(earlier)
    }
}

/// Seconds with milliseconds, as in `12.345s`.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0 / 1_000_000;
        write!(f, "{}.{:03}s", millis / 1000, millis % 1000)
    }
}

/// The calendar's clock: milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WallTime(u64);

impl WallTime {
    /// The moment `millis` milliseconds after 1970 began.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since 1970.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub const fn since(self, earlier: WallTime) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Both clocks, read at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For deadlines, ages and intervals.
    pub mono: Time,
    /// For the versions of records.
    pub wall: WallTime,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_saturates_at_both_ends() {
        let second = Duration::from_secs(1);
        assert_eq!(Time::ZERO - (Time::ZERO + second), Duration::ZERO);
        assert_eq!((Time::ZERO + second) - Time::ZERO, second);
        assert_eq!(Time::ZERO + Duration::MAX, Time::from_nanos(u64::MAX));
    }
}
