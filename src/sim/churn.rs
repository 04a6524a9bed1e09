//! Churn: nodes stop and start continuously.
//!
//! Session lengths are exponentially distributed, so the age of a node does not change how probably it stops
//! in the next minute. After a pause, each stopped node is replaced: by itself with its old disk, or by a new
//! node. So the population stays about the same. Session lengths in measured networks have longer tails
//! (old nodes tend to stay); the exponential distribution is harder for the protocol.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use crate::sim::Chance;
use crate::sim::network::{Death, happens};

/// The parameters of churn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Churn {
    /// Average session of a node.
    pub session: Duration,
    /// Average pause before a stopped node is replaced, in addition to the leave timeout.
    pub pause: Duration,
    /// How many of the stopping nodes leave gracefully.
    pub leave: Chance,
    /// How many of the others lose their host; the processes of the rest are killed.
    pub vanish: Chance,
    /// How many of the replacements are the stopped node with its old disk.
    pub returning: Chance,
}

impl Churn {
    /// Sessions of `session` on average. Half of the nodes leave gracefully, half of the others are killed,
    /// and half of all nodes return after five minutes on average.
    pub const fn of(session: Duration) -> Self {
        let half = Chance::HALF;
        Self { session, pause: Duration::from_mins(5), leave: half, vanish: half, returning: half }
    }

    /// Draws the session of a node that starts.
    pub(super) fn draw_session(&self, rng: &mut StdRng) -> Duration {
        exponential(rng, self.session)
    }

    /// Draws the pause before a node is replaced.
    pub(super) fn draw_pause(&self, rng: &mut StdRng) -> Duration {
        exponential(rng, self.pause)
    }

    /// Draws how a node stops; `None` if it leaves gracefully.
    pub(super) fn draw_end(&self, rng: &mut StdRng) -> Option<Death> {
        if happens(rng, self.leave) {
            return None;
        }
        Some(if happens(rng, self.vanish) { Death::Host } else { Death::Process })
    }

    /// Draws whether a stopped node returns.
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
    fn sessions_are_exponentially_distributed() {
        let mut rng = StdRng::seed_from_u64(1);
        let mean = Duration::from_hours(1);
        let drawn: Vec<Duration> = (0..10_000).map(|_| exponential(&mut rng, mean)).collect();
        let average = drawn.iter().sum::<Duration>() / 10_000;
        assert!(average > mean * 95 / 100 && average < mean * 105 / 100, "{average:?}");
        let longer = drawn.iter().filter(|session| **session > mean).count();
        assert!((3_500..3_860).contains(&longer), "{longer} of 10 000, expected one in e");
    }
}
