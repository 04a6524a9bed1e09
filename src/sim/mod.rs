//! The simulator: very many nodes in one thread, and nothing left to chance.
//!
//! A [`World`] runs the very same [`Node`](crate::node::Node) as the server does, under a clock
//! that jumps from event to event. All chaos of the real world comes from one seed: latencies,
//! lost messages, stalls, broken connections, skewed wall clocks, and the nodes' own seeds.
//! Whoever runs the same scenario with the same seed sees the same events in the same order, and
//! a digest of them proves it.
//!
//! The law: a node sees here nothing that it could not see in the server. What it sends is
//! encoded, carried as bytes, told apart into frames and decoded; a connection keeps the order of
//! its messages; a close arrives after what was sent before it. What goes wrong does so as it
//! does outside: an outbox that is full loses single messages, but never the first of a
//! connection, and whatever else is lost is lost with the whole connection.
//!
//! What a node wants kept is on the disk of its place a little later, all of a batch or nothing;
//! whoever is killed before has lost it, and comes back with what is there ([`World::restart`]).
//! Nodes come and go by themselves where [`Churn`] says so; a [`Workload`] says how many values can
//! be read meanwhile.
//!
//! After each event the [`checker`] looks at the node that it touched; every virtual minute, and
//! whenever [`World::survey`] is called, at all of them. What it finds is a [`Violation`], which
//! ends the run.
//!
//! Not simulated: TLS (an id is simply proven), half-received frames, slow readers, and disks that
//! give back something else than was written.

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

pub use checker::Breach;
pub use churn::Churn;
pub use disk::Room;
pub use network::Death;
pub use workload::{Share, Workload};
pub use world::{Answer, Ask, World};

/// Which node of a world: they are numbered in the order of their birth, from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number(pub u32);

impl Number {
    /// Where the node stands in a list of all.
    fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How often something happens: 0 never, 1 always.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Chance(f64);

impl Chance {
    /// It does not happen.
    pub const NEVER: Self = Self(0.0);

    /// It happens every second time.
    pub const HALF: Self = Self(0.5);

    /// `None` if `percent` is not in 0..=100.
    pub fn percent(percent: f64) -> Option<Self> {
        (0.0..=100.0).contains(&percent).then_some(Self(percent / 100.0))
    }
}

/// What goes wrong, and how often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Faults {
    /// For each message, that it is lost; for each dial, that nobody answers it.
    pub loss: Chance,
    /// For each message, that it and all that follow it on its connection come seconds later.
    pub stalls: Chance,
    /// For each message, that its connection breaks instead of carrying it.
    pub breaks: Chance,
}

impl Faults {
    /// Nothing goes wrong.
    pub const NONE: Self = Self { loss: Chance::NEVER, stalls: Chance::NEVER, breaks: Chance::NEVER };
}

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// How many nodes [`World::join_all`] starts.
    pub nodes: u32,
    /// What all chance comes from.
    pub seed: u64,
    /// What goes wrong until [`World::heal`].
    pub faults: Faults,
    /// How far a node's wall clock may be off, in either direction.
    pub skew_max: Duration,
    /// The parameters of all nodes, except for where they join.
    pub params: Params,
}

impl Scenario {
    /// Nothing goes wrong, the wall clocks are some seconds apart, and all else is as it is
    /// in the server.
    pub fn calm(nodes: u32, seed: u64) -> Self {
        Self { nodes, seed, faults: Faults::NONE, skew_max: Duration::from_secs(5), params: Params::default() }
    }
}

/// A law was broken: when, by whom, and which.
#[derive(Clone, PartialEq)]
pub struct Violation {
    /// The seed that replays it.
    pub seed: u64,
    /// When, in virtual time.
    pub at: Time,
    /// Which node broke it.
    pub node: Number,
    /// What it did.
    pub breach: Breach,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, at, node, breach } = self;
        write!(f, "seed={seed} time={at} node={node}: {breach}")
    }
}

/// As [`fmt::Display`]: a test that ends in a violation prints this.
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
    fn a_violation_says_how_to_find_it_again() {
        let breach = Breach::BucketOverfull { bucket: 3, found: 21, k: 20 };
        let violation = Violation { seed: 7, at: Time::from_nanos(12_345_000_000), node: Number(41), breach };
        assert_eq!(violation.to_string(), "seed=7 time=12.345s node=41: bucket 3 has 21 contacts, k is 20");
        assert_eq!(format!("{violation:?}"), violation.to_string());
    }

    #[test]
    fn a_chance_is_between_never_and_always() {
        assert_eq!(Chance::percent(0.0), Some(Chance::NEVER));
        assert!(Chance::percent(100.0).is_some());
        for wrong in [-0.1, 100.1, f64::NAN] {
            assert_eq!(Chance::percent(wrong), None, "{wrong}");
        }
    }
}
