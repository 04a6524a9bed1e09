//! Round trip times: the smoothed time and its variation for a peer (RFC 6298, section 2), and the
//! deadlines of requests that follow from them.
//!
//! [`Rtts`] holds the estimates of one connection; every reply on it updates them. Each request has an id
//! of its own, so a reply is never attributed to another request (Karn's rule).
//!
//! The estimates read no clock and decide nothing: [`crate::node::rpc::outbound`] sets the deadlines,
//! [`crate::lookup`] chooses the next candidate when one passes.

use std::time::Duration;

use crate::limits::HEDGE_MIN;

/// A lookup does not go on without a reply before this time, even if the peer is usually quicker
/// (`THREATS.md` E7). It is longer than a write to disk, a lost TCP segment or a busy moment of the peer
/// takes.
const GIVE_UP_MIN: Duration = Duration::from_millis(200);

/// The round trip times of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rtts {
    /// Of requests that a peer answers from memory.
    pub(crate) answers: Rtt,
    /// Of copies: the peer may wait for its disk before it replies.
    pub(crate) copies: Rtt,
}

impl Rtts {
    /// When a PUT goes on without the reply to a copy.
    pub(crate) fn give_up_on_copy_after(&self, rpc_timeout: Duration) -> Duration {
        let answers = self.answers.give_up_after(rpc_timeout);
        self.copies.estimate.map_or(answers, |_| self.copies.give_up_after(rpc_timeout).max(answers))
    }
}

/// An estimate of a round trip time; empty until the first reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rtt {
    estimate: Option<Estimate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Estimate {
    smoothed: Duration,
    variation: Duration,
}

impl Rtt {
    /// A reply took `took`.
    pub(crate) fn observe(&mut self, took: Duration) {
        self.estimate = Some(match self.estimate {
            None => Estimate { smoothed: took, variation: took / 2 },
            Some(Estimate { smoothed, variation }) => Estimate {
                variation: (3 * variation + took.abs_diff(smoothed)) / 4,
                smoothed: (7 * smoothed + took) / 8,
            },
        });
    }

    /// The smoothed round trip time; `None` before the first reply.
    pub(crate) fn smoothed(&self) -> Option<Duration> {
        self.estimate.map(|estimate| estimate.smoothed)
    }

    /// When a lookup asks another candidate too: when the reply is later than usual, and at a quarter of
    /// `rpc_timeout` at the latest.
    pub(crate) fn hedge_after(&self, rpc_timeout: Duration) -> Duration {
        let latest = rpc_timeout / 4;
        self.estimate.map_or(latest, |estimate| estimate.usual().max(HEDGE_MIN).min(latest))
    }

    /// When a query goes on without the reply: after four times the smoothed time at the earliest, and
    /// after `rpc_timeout` if no reply has been observed.
    pub(crate) fn give_up_after(&self, rpc_timeout: Duration) -> Duration {
        let patience = |estimate: Estimate| (4 * estimate.smoothed).max(estimate.usual()).max(GIVE_UP_MIN);
        self.estimate.map_or(rpc_timeout, |estimate| patience(estimate).min(rpc_timeout))
    }
}

impl Estimate {
    /// Few replies take longer.
    fn usual(self) -> Duration {
        self.smoothed + 4 * self.variation
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RPC_TIMEOUT: Duration = Duration::from_secs(2);

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn observed(all: impl IntoIterator<Item = u64>) -> Rtt {
        let mut rtt = Rtt::default();
        all.into_iter().for_each(|took| rtt.observe(millis(took)));
        rtt
    }

    /// RFC 6298, (2.2) and (2.3), worked by hand.
    #[test]
    fn the_first_reply_sets_the_estimate_and_each_later_one_changes_it_by_an_eighth() {
        let first = Estimate { smoothed: millis(80), variation: millis(40) };
        assert_eq!(observed([80]).estimate, Some(first));
        let second = Estimate { smoothed: millis(90), variation: millis(50) };
        assert_eq!(observed([80, 160]).estimate, Some(second));
    }

    #[test]
    fn before_the_first_reply_the_deadlines_follow_from_the_timeout() {
        let rtt = Rtt::default();
        assert_eq!(rtt.smoothed(), None);
        assert_eq!((rtt.hedge_after(RPC_TIMEOUT), rtt.give_up_after(RPC_TIMEOUT)), (millis(500), RPC_TIMEOUT));
    }

    #[test]
    fn the_deadlines_follow_the_observed_round_trip_times() {
        let steady = observed([60; 40]);
        assert!(steady.hedge_after(RPC_TIMEOUT) <= millis(61), "{steady:?}");
        assert!((millis(239)..=millis(241)).contains(&steady.give_up_after(RPC_TIMEOUT)), "{steady:?}");
        let unsteady = observed([20, 100].repeat(20));
        assert!(unsteady.hedge_after(RPC_TIMEOUT) > millis(150), "{unsteady:?}");
    }

    proptest! {
        #[test]
        fn the_deadlines_stay_in_their_bounds_for_any_round_trip_times(all in proptest::collection::vec(0..20_000_u64, 0..40)) {
            let rtt = observed(all);
            let (hedge, give_up) = (rtt.hedge_after(RPC_TIMEOUT), rtt.give_up_after(RPC_TIMEOUT));
            prop_assert!(HEDGE_MIN <= hedge && hedge <= RPC_TIMEOUT / 4);
            prop_assert!(GIVE_UP_MIN <= give_up && give_up <= RPC_TIMEOUT);
            prop_assert!(hedge <= give_up);
        }
    }
}
