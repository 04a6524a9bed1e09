//! The schedule of an open loop: request number n is due n / rate seconds after the first, whether
//! or not the earlier ones are answered.
//!
//! A request that is due waits if no connection has room, and its latency includes this wait. Only
//! the number of waiting requests is stored. A request that has waited for the whole timeout is given
//! up.

use std::time::Duration;

use dht::time::Time;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// When requests are due, and how many had to wait.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    begun: Time,
    /// Requests per second.
    rate: u32,
    /// The first unsent request.
    next: u64,
    behind: Behind,
}

/// How far an open loop fell behind its schedule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Behind {
    /// Largest number of waiting requests.
    pub(crate) requests_max: u64,
    /// Longest time from when a request was due to when it was sent.
    pub(crate) wait_max: Duration,
    /// Number of waiting requests at the end of the run.
    pub(crate) at_end: u64,
}

impl Schedule {
    /// A schedule of `rate` requests per second from `begun`; `rate` must not be 0.
    pub(crate) fn new(begun: Time, rate: u32) -> Self {
        assert!(rate > 0, "a schedule without requests");
        Self { begun, rate, next: 0, behind: Behind::default() }
    }

    /// When the next request is due.
    pub(crate) fn next_at(&self) -> Time {
        self.at(self.next)
    }

    /// Takes the next request, which is sent `now`; returns when it was due.
    pub(crate) fn take(&mut self, now: Time) -> Time {
        let at = self.next_at();
        self.next += 1;
        self.behind.wait_max = self.behind.wait_max.max(now - at);
        at
    }

    /// Takes the requests that have waited for longer than `timeout`; returns their number.
    pub(crate) fn give_up(&mut self, now: Time, timeout: Duration) -> u64 {
        let count = (now - self.begun).checked_sub(timeout).map_or(0, |span| self.left_of(span));
        self.next += count;
        count
    }

    /// Notes the number of requests that wait now.
    pub(crate) fn note(&mut self, waiting: u64) {
        self.behind.at_end = waiting;
        self.behind.requests_max = self.behind.requests_max.max(waiting);
    }

    /// Resets the measurements.
    pub(crate) fn reset(&mut self) {
        self.behind = Behind::default();
    }

    /// How far the run fell behind the schedule.
    pub(crate) fn behind(&self) -> Behind {
        self.behind
    }

    /// Number of requests that are due and unsent.
    pub(crate) fn waiting(&self, now: Time) -> u64 {
        self.left_of(now - self.begun)
    }

    /// Number of requests of the first `span` that were not taken.
    fn left_of(&self, span: Duration) -> u64 {
        let wanted = span.as_nanos() * u128::from(self.rate) / NANOS_PER_SECOND + 1;
        u64::try_from(wanted).unwrap_or(u64::MAX).saturating_sub(self.next)
    }

    fn at(&self, number: u64) -> Time {
        let nanos = u128::from(number) * NANOS_PER_SECOND / u128::from(self.rate);
        self.begun + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Time {
        Time::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn requests_are_due_at_even_intervals_whenever_they_are_sent() {
        let mut schedule = Schedule::new(millis(5), 100);
        assert_eq!(schedule.next_at(), millis(5), "the first at once");
        assert_eq!(schedule.take(millis(5)), millis(5));
        assert_eq!(schedule.take(millis(500)), millis(15), "it was sent late, but due on time");
        assert_eq!(schedule.take(millis(500)), millis(25));
        assert_eq!(schedule.behind().wait_max, Duration::from_millis(485));
    }

    #[test]
    fn waiting_requests_are_counted() {
        let mut schedule = Schedule::new(Time::ZERO, 1000);
        schedule.take(Time::ZERO);
        assert_eq!(schedule.waiting(Time::ZERO), 0);
        assert_eq!(schedule.waiting(millis(7)), 7);
        schedule.note(7);
        for _ in 0..7 {
            schedule.take(millis(7));
        }
        schedule.note(schedule.waiting(millis(7)));
        assert_eq!((schedule.behind().requests_max, schedule.behind().at_end), (7, 0));
        schedule.reset();
        assert_eq!(schedule.behind(), Behind::default());
    }

    #[test]
    fn requests_that_wait_for_the_whole_timeout_are_given_up() {
        let mut schedule = Schedule::new(millis(1), 1000);
        let timeout = Duration::from_millis(10);
        assert_eq!(schedule.give_up(millis(10), timeout), 0);
        assert_eq!(schedule.give_up(millis(14), timeout), 4, "those of the milliseconds 1 to 4");
        assert_eq!(schedule.give_up(millis(14), timeout), 0);
        assert_eq!(schedule.next_at(), millis(5));
    }

    #[test]
    fn a_long_schedule_does_not_drift() {
        let schedule = Schedule { next: 3_600 * 30_000, ..Schedule::new(Time::ZERO, 30_000) };
        assert_eq!(schedule.next_at(), millis(3_600_000));
    }
}
