//! The simulator: a deterministic network of many nodes in one thread.
//!
//! A [`World`] runs the same [`Node`](crate::node::Node) as the server, with a clock that jumps from event to
//! event. All randomness comes from one seed: latencies, lost messages, stalls, broken connections, skewed
//! wall clocks, and the seeds of the nodes.
//!
//! Guarantees:
//!
//! * The same scenario with the same seed produces the same events in the same order. A digest of the events
//!   proves it.
//! * A node observes nothing that it could not observe in the server. Messages are encoded, transferred as
//!   bytes, split into frames and decoded. A connection keeps the order of its messages, and a close arrives
//!   after them. Faults are those of real networks: a full outbox loses single messages, but never the first
//!   one of a connection; otherwise a message is lost only with its whole connection.
//! * A batch that a node persists reaches the simulated disk a little later, completely or not at all. A node
//!   that is killed before has lost it and restarts from the content of the disk ([`World::restart`]).
//! * After each event the [`checker`] checks the invariants of the node of that event; every virtual minute,
//!   and in [`World::check_invariants`], those of all nodes. A broken invariant is a [`Violation`], which
//!   ends the run.
//!
//! [`Churn`] makes nodes stop and start. [`World::suspend`] stops processes for a while. A [`Workload`] measures how many values are readable meanwhile.
//!
//! Not simulated: TLS (ids are assumed to be verified), incomplete frames, slow readers, and disks that
//! return other bytes than were written.

pub mod checker;
pub mod churn;
mod disk;
mod history;
mod network;
mod queue;
pub mod report;
mod workload;
mod world;

use std::fmt;
use std::time::Duration;

use crate::node::params::Params;
use crate::time::Time;

pub use checker::BrokenInvariant;
pub use churn::Churn;
pub use disk::DiskSpace;
pub use network::Death;
pub use workload::{Share, Workload};
pub use world::{Answer, RequestId, World};

/// The number of a node in a world, from zero, in the order in which they start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number(pub u32);

impl Number {
    /// The index of the node in a list of all nodes.
    fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A probability: 0 never, 1 always.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Chance(f64);

impl Chance {
    /// Never.
    pub const NEVER: Self = Self(0.0);

    /// Every second time on average.
    pub const HALF: Self = Self(0.5);

    /// `None` if `percent` is not in 0..=100.
    pub fn percent(percent: f64) -> Option<Self> {
        (0.0..=100.0).contains(&percent).then_some(Self(percent / 100.0))
    }
}

/// The faults of the network, and how often they happen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Faults {
    /// For each message, that it is lost; for each dial, that it times out.
    pub loss: Chance,
    /// For each message, that it and the following messages of its connection are delayed by seconds.
    pub stalls: Chance,
    /// For each message, that its connection breaks.
    pub breaks: Chance,
    /// For each reply, that the outbox of its connection has no room: ERROR 429 is sent instead.
    pub refusals: Chance,
}

impl Faults {
    /// No faults.
    pub const NONE: Self =
        Self { loss: Chance::NEVER, stalls: Chance::NEVER, breaks: Chance::NEVER, refusals: Chance::NEVER };
}

/// The parameters of a world.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The number of nodes that [`World::join_all`] starts.
    pub nodes: u32,
    /// The seed of all randomness.
    pub seed: u64,
    /// The faults until [`World::heal`].
    pub faults: Faults,
    /// Maximum error of a node's wall clock, in both directions.
    pub skew_max: Duration,
    /// The parameters of all nodes, except for their bootstraps.
    pub params: Params,
}

impl Scenario {
    /// No faults, wall clocks with errors of some seconds, and the server's default parameters.
    pub fn calm(nodes: u32, seed: u64) -> Self {
        Self { nodes, seed, faults: Faults::NONE, skew_max: Duration::from_secs(5), params: Params::default() }
    }
}

/// A broken invariant of a node, with what is necessary to replay it.
#[derive(Clone, PartialEq)]
pub struct Violation {
    /// The seed of the run.
    pub seed: u64,
    /// The virtual time.
    pub at: Time,
    /// The node.
    pub node: Number,
    /// The invariant.
    pub broken: BrokenInvariant,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, at, node, broken } = self;
        write!(f, "seed={seed} time={at} node={node}: {broken}")
    }
}

/// As [`fmt::Display`], since a test that ends with a violation prints this.
impl fmt::Debug for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Violation {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_prints_the_seed_the_time_and_the_node() {
        let broken = BrokenInvariant::BucketOverfull { bucket: 3, found: 21, k: 20 };
        let violation = Violation { seed: 7, at: Time::from_nanos(12_345_000_000), node: Number(41), broken };
        assert_eq!(violation.to_string(), "seed=7 time=12.345s node=41: bucket 3 has 21 contacts, k is 20");
        assert_eq!(format!("{violation:?}"), violation.to_string());
    }

    #[test]
    fn a_chance_is_at_least_0_and_at_most_100_percent() {
        assert_eq!(Chance::percent(0.0), Some(Chance::NEVER));
        assert!(Chance::percent(100.0).is_some());
        for wrong in [-0.1, 100.1, f64::NAN] {
            assert_eq!(Chance::percent(wrong), None, "{wrong}");
        }
    }
}
