//! The results of the requests: latencies of right answers, and failures by kind.

use std::time::Duration;

use hdrhistogram::Histogram;

use dht::time::Time;

/// Smallest and largest latency that the histogram distinguishes, in nanoseconds. A larger latency
/// counts as the largest, which exceeds every sensible timeout.
const LATENCY_RANGE: (u64, u64) = (100, 600_000_000_000);

/// Exact decimal digits of a latency.
const DIGITS: u8 = 3;

/// Failed requests by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Errors {
    /// The server answered that it has no value, or that it did not store one.
    pub(crate) failure: u64,
    /// The answer is about another key.
    pub(crate) wrong_key: u64,
    /// The value is not the value of the key.
    pub(crate) wrong_value: u64,
    /// The bytes are not an answer; the generator closed the connection.
    pub(crate) senseless: u64,
    /// The server closed the connection.
    pub(crate) closed: u64,
    /// An attempt to connect failed.
    pub(crate) connect: u64,
    /// No answer came within the timeout.
    pub(crate) timeout: u64,
    /// Open loop: the request waited for the whole timeout and was never sent.
    pub(crate) unsent: u64,
}

impl Errors {
    /// The counters with their names in the report.
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

    /// The sum of all.
    pub(crate) fn total(&self) -> u64 {
        self.named().iter().map(|(_, count)| count).sum()
    }
}

/// The counters of a run.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    latencies: Histogram<u64>,
    pub(crate) errors: Errors,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// A latency and its count that are not in the histogram yet: the answers of one batch that arrive
    /// in one read have the same latency, and are recorded together.
    pending: (u64, u64),
}

impl Tally {
    pub(crate) fn new() -> Self {
        let (shortest, longest) = LATENCY_RANGE;
        let latencies = Histogram::new_with_bounds(shortest, longest, DIGITS).expect("valid bounds");
        Self { latencies, errors: Errors::default(), bytes_in: 0, bytes_out: 0, pending: (0, 0) }
    }

    /// Counts the right answer, `now`, to a request whose latency started at `since`.
    pub(crate) fn answered(&mut self, since: Time, now: Time) {
        let latency = now.as_nanos().saturating_sub(since.as_nanos());
        if self.pending.0 != latency {
            self.flush();
            self.pending.0 = latency;
        }
        self.pending.1 += 1;
    }

    /// Records what [`Self::answered`] has collected.
    pub(crate) fn flush(&mut self) {
        let (latency, count) = std::mem::take(&mut self.pending);
        if count > 0 {
            self.latencies.saturating_record_n(latency, count);
        }
    }

    /// Number of right answers.
    pub(crate) fn answers(&self) -> u64 {
        self.latencies.len() + self.pending.1
    }

    /// The percentiles of all latencies.
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

/// Percentiles of latencies: from the start of a request's latency to the read of the last byte of
/// its answer. All zero without answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Latency {
    /// The median.
    pub(crate) p50: Duration,
    /// 90 %.
    pub(crate) p90: Duration,
    /// 99 %.
    pub(crate) p99: Duration,
    /// 99.9 %.
    pub(crate) p99_9: Duration,
    /// The largest.
    pub(crate) max: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_exact_to_three_digits() {
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
    fn answers_that_are_recorded_together_count_one_by_one() {
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
    fn latencies_are_zero_without_answers() {
        assert_eq!(Tally::new().latency(), Latency::default());
    }

    #[test]
    fn a_latency_above_the_range_counts_as_the_largest() {
        let mut tally = Tally::new();
        tally.answered(Time::ZERO, Time::from_nanos(u64::MAX));
        assert_eq!(tally.answers(), 1);
        assert!(tally.latency().max >= Duration::from_mins(10));
    }
}
