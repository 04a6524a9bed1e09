//! What came of the requests: latencies of those answered rightly, and the others by what went
//! wrong.

use std::time::Duration;

use hdrhistogram::Histogram;

use dht::time::Time;

/// Shortest and longest latency that is told apart, in nanoseconds. What takes longer than the
/// longest counts as that; no answer is waited for so long.
const LATENCY_RANGE: (u64, u64) = (100, 600_000_000_000);

/// Decimal digits of a latency that are right.
const DIGITS: u8 = 3;

/// Requests that were not answered rightly, by what went wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Errors {
    /// The server said that it has no value, or that it did not take one.
    pub(crate) failure: u64,
    /// The answer spoke of another key.
    pub(crate) wrong_key: u64,
    /// The value is not the key's.
    pub(crate) wrong_value: u64,
    /// What came is no answer; the connection was given up.
    pub(crate) senseless: u64,
    /// The server closed the connection.
    pub(crate) closed: u64,
    /// No connection was to be had; counted once for each attempt.
    pub(crate) connect: u64,
    /// No answer came in time.
    pub(crate) timeout: u64,
    /// Open loop: the request waited for room for so long that it was never sent.
    pub(crate) unsent: u64,
}

impl Errors {
    /// Each by its name in the report.
    pub(crate) fn named(&self) -> [(&'static str, u64); 8] {
        [
            ("failure", self.failure),
            ("wrong_key", self.wrong_key),
            ("wrong_value", self.wrong_value),
            ("senseless", self.senseless),
            ("closed", self.closed),
            ("connect", self.connect),
            ("timeout", self.timeout),
            ("unsent", self.unsent),
        ]
    }

    /// All together.
    pub(crate) fn total(&self) -> u64 {
        self.named().iter().map(|(_, count)| count).sum()
    }
}

/// The books of a run.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    latencies: Histogram<u64>,
    pub(crate) errors: Errors,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// Answers of one latency that are not in the histogram yet: those of one batch that came with
    /// one read are entered together.
    alike: (u64, u64),
}

impl Tally {
    pub(crate) fn new() -> Self {
        let (shortest, longest) = LATENCY_RANGE;
        let latencies = Histogram::new_with_bounds(shortest, longest, DIGITS).expect("these bounds are possible");
        Self { latencies, errors: Errors::default(), bytes_in: 0, bytes_out: 0, alike: (0, 0) }
    }

    /// A request that was wanted at `since` has its answer `now`.
    pub(crate) fn answered(&mut self, since: Time, now: Time) {
        let latency = now.as_nanos().saturating_sub(since.as_nanos());
        if self.alike.0 != latency {
            self.flush();
            self.alike.0 = latency;
        }
        self.alike.1 += 1;
    }

    /// Enters what [`Self::answered`] has gathered.
    pub(crate) fn flush(&mut self) {
        let (latency, count) = std::mem::take(&mut self.alike);
        if count > 0 {
            self.latencies.saturating_record_n(latency, count);
        }
    }

    /// How many were answered rightly.
    pub(crate) fn answers(&self) -> u64 {
        self.latencies.len() + self.alike.1
    }

    /// The figures of all that was entered.
    pub(crate) fn latency(&mut self) -> Latency {
        self.flush();
        let at = |quantile| Duration::from_nanos(self.latencies.value_at_quantile(quantile));
        Latency {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: Duration::from_nanos(self.latencies.max()),
        }
    }
}

/// How long answers took: from the moment when a request was wanted to the read that brought its
/// last byte. All zero if there were none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Latency {
    /// Half of them took no longer.
    pub(crate) p50: Duration,
    /// 90 %.
    pub(crate) p90: Duration,
    /// 99 %.
    pub(crate) p99: Duration,
    /// 99.9 %.
    pub(crate) p99_9: Duration,
    /// All of them.
    pub(crate) max: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_right_to_three_digits() {
        let mut tally = Tally::new();
        for micros in 1..=1000_u64 {
            tally.answered(Time::from_nanos(5_000), Time::from_nanos(5_000 + micros * 1000));
        }
        assert_eq!(tally.answers(), 1000);
        let latency = tally.latency();
        for (found, micros) in [(latency.p50, 500), (latency.p90, 900), (latency.p99, 990), (latency.max, 1000)] {
            let (found, wanted) = (found.as_nanos(), micros * 1000);
            assert!(found.abs_diff(wanted) * 1000 <= wanted, "{found} for {wanted}");
        }
    }

    #[test]
    fn what_is_entered_together_counts_each() {
        let mut tally = Tally::new();
        let now = Time::from_nanos(10_000_000);
        for since in [0, 0, 0, 9_000_000, 0] {
            tally.answered(Time::from_nanos(since), now);
        }
        assert_eq!(tally.answers(), 5);
        assert_eq!(tally.latency().p50.as_millis(), 10);
        tally.answered(now, Time::ZERO);
        assert_eq!((tally.answers(), tally.latency().max.as_millis()), (6, 10), "a clock does not go back");
    }

    #[test]
    fn a_run_without_answers_has_figures_too() {
        assert_eq!(Tally::new().latency(), Latency::default());
    }

    #[test]
    fn a_latency_beyond_all_bounds_counts_as_the_longest() {
        let mut tally = Tally::new();
        tally.answered(Time::ZERO, Time::from_nanos(u64::MAX));
        assert_eq!(tally.answers(), 1);
        assert!(tally.latency().max >= Duration::from_mins(10));
    }
}
