//! Nodes that come and go, for as long as a world wants it.
//!
//! Sessions are exponentially distributed: whoever lives is as likely to end in the next minute as
//! whoever has lived for a day. For each that ended one comes after a pause, the same one with its
//! disk or one that was never there, so that the population stays about the same. Measured networks
//! have longer tails (a node that is old stays); this is the harder case.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use crate::sim::Chance;
use crate::sim::network::{Death, happens};

/// How nodes come and go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Churn {
    /// How long a node lives, on average.
    pub session: Duration,
    /// How long the place of a node that ended stays empty, on average: beyond the time that a
    /// node may take to leave.
    pub pause: Duration,
    /// Of the nodes that end, those that leave in peace.
    pub leave: Chance,
    /// Of all others, those whose host is gone without a word; the process of the rest is killed.
    pub vanish: Chance,
    /// Of the nodes that come, those that were there before, and have their disk.
    pub returning: Chance,
}

impl Churn {
    /// Sessions of `session` on average: every second node leaves in peace, every second of the
    /// others is killed, and every second comes back, five minutes later.
    pub const fn of(session: Duration) -> Self {
        let half = Chance::HALF;
        Self { session, pause: Duration::from_mins(5), leave: half, vanish: half, returning: half }
    }

    /// How long a node lives that is born now.
    pub(super) fn draw_session(&self, rng: &mut StdRng) -> Duration {
        exponential(rng, self.session)
    }

    /// How long the place of a node that ends now stays empty.
    pub(super) fn draw_pause(&self, rng: &mut StdRng) -> Duration {
        exponential(rng, self.pause)
    }

    /// How a node ends; `None` if it leaves in peace.
    pub(super) fn draw_end(&self, rng: &mut StdRng) -> Option<Death> {
        if happens(rng, self.leave) {
            return None;
        }
        Some(if happens(rng, self.vanish) { Death::Host } else { Death::Process })
    }

    /// Whether the one that comes was there before.
    pub(super) fn draw_return(&self, rng: &mut StdRng) -> bool {
        happens(rng, self.returning)
    }
}

fn exponential(rng: &mut StdRng, mean: Duration) -> Duration {
    let uniform: f64 = rng.random_range(f64::EPSILON..1.0);
    mean.mul_f64(-uniform.ln())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn sessions_have_their_mean_and_about_a_third_outlives_it() {
        let mut rng = StdRng::seed_from_u64(1);
        let mean = Duration::from_hours(1);
        let drawn: Vec<Duration> = (0..10_000).map(|_| exponential(&mut rng, mean)).collect();
        let average = drawn.iter().sum::<Duration>() / 10_000;
        assert!(average > mean * 95 / 100 && average < mean * 105 / 100, "{average:?}");
        let longer = drawn.iter().filter(|session| **session > mean).count();
        assert!((3_500..3_860).contains(&longer), "{longer} of 10 000, expected one in e");
    }
}
