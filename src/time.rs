//! Time in the core: always an argument, never read from a clock.
//!
//! [`Time`] counts from the start of the host and only goes forward; deadlines, ages and intervals are made
//! of it. [`WallTime`] is calendar time, which may jump and may be wrong; only the versions of records use
//! it. The host reads both clocks once per turn of its loop and passes them as [`Now`].

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A moment, in nanoseconds since the host started. 64 bits last for 584 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

    /// The earliest of `moments`; `None` if all of them are `None`.
    #[must_use]
    pub fn first_of<const N: usize>(moments: [Option<Time>; N]) -> Option<Time> {
        // A plain loop, because a host calls this in every turn; chains of iterators made it cost a tenth
        // of a turn.
        let mut first = None;
        for moment in moments {
            first = match (first, moment) {
                (Some(first), Some(moment)) => Some(Time::min(first, moment)),
                (first, moment) => first.or(moment),
            };
        }
        first
    }

    /// The moment that is `span` earlier, at the earliest the start of the host.
    #[must_use]
    pub fn earlier(self, span: Duration) -> Time {
        Time(self.0.saturating_sub(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The duration from `earlier` to this moment; zero if `earlier` is the later one.
    #[must_use]
    pub const fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    /// Adds `span`, up to the largest moment that the type can hold.
    fn add(self, span: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Time> for Time {
    type Output = Duration;

    /// The same as [`Time::since`].
    fn sub(self, earlier: Time) -> Duration {
        self.since(earlier)
    }
}

/// Writes seconds with three decimals, as in `12.345s`.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0 / 1_000_000;
        write!(f, "{}.{:03}s", millis / 1000, millis % 1000)
    }
}

/// Calendar time, in milliseconds since 1970 (UTC).
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

    /// The duration from `earlier` to this moment; zero if `earlier` is the later one.
    #[must_use]
    pub const fn since(self, earlier: WallTime) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The moment that is `span` later.
    #[must_use]
    pub fn after(self, span: Duration) -> WallTime {
        WallTime(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The moment that is `span` earlier, at the earliest 1970.
    #[must_use]
    pub fn before(self, span: Duration) -> WallTime {
        WallTime(self.0.saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// How far one clock is ahead of another, in milliseconds; negative if it is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClockOffset(i64);

impl ClockOffset {
    /// Whole seconds, for the log.
    pub const fn as_secs(self) -> i64 {
        self.0 / 1000
    }

    /// Its size, whatever its direction.
    pub const fn size(self) -> Duration {
        Duration::from_millis(self.0.unsigned_abs())
    }

    /// Whether the clock is ahead.
    pub const fn is_ahead(self) -> bool {
        self.0 > 0
    }
}

impl Sub for ClockOffset {
    type Output = ClockOffset;

    /// The change from `before` to this offset.
    fn sub(self, before: ClockOffset) -> ClockOffset {
        ClockOffset(self.0.saturating_sub(before.0))
    }
}

/// A moment on the clock that counts from the boot of the host, suspended time included. Moments of one boot
/// can be compared after a restart of the process, whatever the wall clock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootTime {
    /// Identifies the boot. It is random: two boots of a host have the same with a probability of 2^-32.
    pub boot: u32,
    /// Milliseconds since the boot.
    pub millis: u64,
}

impl BootTime {
    /// The moment that is `span` later.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        let span = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self { millis: self.millis.saturating_add(span), ..self }
    }

    /// The time from `earlier` to this moment; `None` if they are of different boots.
    pub fn since(self, earlier: BootTime) -> Option<Duration> {
        (self.boot == earlier.boot).then(|| Duration::from_millis(self.millis.saturating_sub(earlier.millis)))
    }
}

/// Both clocks, read at the same moment.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For deadlines, ages and intervals.
    pub mono: Time,
    /// For the versions of records.
    pub wall: WallTime,
}

impl Now {
    /// How far the wall clock is ahead of the monotonic clock. It changes only if the wall clock is set.
    pub fn offset(&self) -> ClockOffset {
        self.offset_of(self.wall)
    }

    /// How far another wall clock, which shows `wall` at this moment, is ahead of the monotonic clock.
    pub fn offset_of(&self, wall: WallTime) -> ClockOffset {
        ClockOffset(signed(wall.0).saturating_sub(signed(self.mono.0 / 1_000_000)))
    }

    /// The same moment, as the wall clock with that offset to the monotonic clock shows it.
    pub fn wall_with(&self, offset: ClockOffset) -> WallTime {
        WallTime(u64::try_from(signed(self.mono.0 / 1_000_000).saturating_add(offset.0)).unwrap_or(0))
    }
}

fn signed(millis: u64) -> i64 {
    i64::try_from(millis).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adding_and_subtracting_time_saturates() {
        let second = Duration::from_secs(1);
        assert_eq!(Time::ZERO - (Time::ZERO + second), Duration::ZERO);
        assert_eq!((Time::ZERO + second) - Time::ZERO, second);
        assert_eq!(Time::ZERO + Duration::MAX, Time::from_nanos(u64::MAX));
    }
}
