//! How quick a peer is: a smoothed round trip time and how much it varies (RFC 6298, section 2),
//! and what follows from it for how long its answers are waited for.
//!
//! A [`Rtts`] is of one connection, lives as long as that, and is fed by every reply to what was asked
//! over it. Each request has an id of its own, so none is taken for that to another (Karn's rule).
//!
//! It knows no clock, and decides nothing: `ask` says what is late, [`crate::lookup`] whom to ask.

use std::time::Duration;

use crate::limits::{GIVE_UP_MIN, HEDGE_MIN};

/// How quick a peer is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rtts {
    /// In answering.
    pub(crate) answers: Rtt,
    /// In taking copies, for which it may wait for its disk.
    pub(crate) copies: Rtt,
}

impl Rtts {
    /// When whoever waits for a copy to be held goes on without it.
    pub(crate) fn give_up_on_copy_after(&self, rpc_timeout: Duration) -> Duration {
        let answers = self.answers.give_up_after(rpc_timeout);
        self.copies.estimate.map_or(answers, |_| self.copies.give_up_after(rpc_timeout).max(answers))
    }
}

/// A round trip time, as far as it is known.
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
    /// An answer took so long.
    pub(crate) fn observe(&mut self, took: Duration) {
        self.estimate = Some(match self.estimate {
            None => Estimate { smoothed: took, variation: took / 2 },
            Some(Estimate { smoothed, variation }) => Estimate {
                variation: (3 * variation + took.abs_diff(smoothed)) / 4,
                smoothed: (7 * smoothed + took) / 8,
            },
        });
    }

    /// What an answer takes on the average; `None` if none was heard.
    pub(crate) fn smoothed(&self) -> Option<Duration> {
        self.estimate.map(|estimate| estimate.smoothed)
    }

    /// When an answer is later than usual: at a quarter of `rpc_timeout`, if nothing is usual, and
    /// never later.
    pub(crate) fn hedge_after(&self, rpc_timeout: Duration) -> Duration {
        let most = rpc_timeout / 4;
        self.estimate.map_or(most, |estimate| estimate.usual().max(HEDGE_MIN).min(most))
    }

    /// When whoever wants an answer goes on without it: four times later than usual at the
    /// earliest, and at `rpc_timeout` if nothing is usual.
    pub(crate) fn give_up_after(&self, rpc_timeout: Duration) -> Duration {
        let patience = |estimate: Estimate| (4 * estimate.smoothed).max(estimate.usual()).max(GIVE_UP_MIN);
        self.estimate.map_or(rpc_timeout, |estimate| patience(estimate).min(rpc_timeout))
    }
}

impl Estimate {
    /// Few answers take longer.
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
    fn the_first_answer_is_believed_and_each_later_one_by_an_eighth() {
        let first = Estimate { smoothed: millis(80), variation: millis(40) };
        assert_eq!(observed([80]).estimate, Some(first));
        let second = Estimate { smoothed: millis(90), variation: millis(50) };
        assert_eq!(observed([80, 160]).estimate, Some(second));
    }

    #[test]
    fn of_a_peer_that_never_answered_a_quarter_of_the_timeout_is_late_and_all_of_it_missed() {
        let rtt = Rtt::default();
        assert_eq!(rtt.smoothed(), None);
        assert_eq!((rtt.hedge_after(RPC_TIMEOUT), rtt.give_up_after(RPC_TIMEOUT)), (millis(500), RPC_TIMEOUT));
    }

    #[test]
    fn what_is_late_follows_what_is_usual() {
        let steady = observed([60; 40]);
        assert!(steady.hedge_after(RPC_TIMEOUT) <= millis(61), "{steady:?}");
        assert!((millis(239)..=millis(241)).contains(&steady.give_up_after(RPC_TIMEOUT)), "{steady:?}");
        let unsteady = observed([20, 100].repeat(20));
        assert!(unsteady.hedge_after(RPC_TIMEOUT) > millis(150), "{unsteady:?}");
    }

    proptest! {
        #[test]
        fn the_bounds_hold_whatever_was_heard(all in proptest::collection::vec(0..20_000_u64, 0..40)) {
            let rtt = observed(all);
            let (late, missed) = (rtt.hedge_after(RPC_TIMEOUT), rtt.give_up_after(RPC_TIMEOUT));
            prop_assert!(HEDGE_MIN <= late && late <= RPC_TIMEOUT / 4);
            prop_assert!(GIVE_UP_MIN <= missed && missed <= RPC_TIMEOUT);
            prop_assert!(late <= missed);
        }
    }
}
