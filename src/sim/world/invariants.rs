//! Invariants of the whole world and of its client-visible history.

use std::time::Duration;

use super::World;
use super::sleep::Turns;
use crate::id::Key;
use crate::node::Status;
use crate::node::params::{Durability, Endpoint, Serving};
use crate::record::{Record, crc_of};
use crate::sim::checker::{self, BrokenInvariant, CheckResult};
use crate::sim::{Chance, Faults, Number, Violation, network};
use crate::time::Time;

/// A replica outlives its value by the time that its transfers took: a little for each transfer, and a record
/// with a longer life is transferred more often.
const TRANSFER: Duration = Duration::from_secs(2);

/// The part of a TTL that all further transfers may add.
const TRANSFER_PART: u32 = 100;

/// The time that stalled connections may add.
const STALLS: Duration = Duration::from_secs(30);

/// After this time all nodes that need to know a new node know it.
const CALM: Duration = Duration::from_mins(1);

/// Invariants.
impl World {
    /// Checks all invariants of all running nodes.
    pub fn check_invariants(&self) -> Result<(), Violation> {
        let listener = |address| {
            let (number, _) = network::listener_at(&Endpoint::Address(address))?;
            self.hosts.get(number.index()).map(|host| host.id)
        };
        for (number, host) in (0..).map(Number).zip(&self.hosts) {
            if let (Some(node), Turns::InTime) = (&host.node, &host.turns) {
                self.require(number, checker::all_of_node(node, self.now, listener))?;
                self.require(number, self.check_stored(node))?;
            }
        }
        Ok(())
    }

    /// Checks the oldest request that is unanswered.
    pub(super) fn check_unanswered(&mut self) -> Result<(), Violation> {
        while let Some(&id) = self.unanswered.front() {
            let request = &self.requests[id.0];
            let host = &self.hosts[request.at.index()];
            // A node that has slept answers in the time that is left, and in the whole time at the latest.
            let (at, since) = (request.at, request.since.max(host.awake_since));
            if request.answer.is_none() && host.incarnation == request.incarnation {
                if self.is_asleep(at) {
                    return Ok(());
                }
                let within = self.scenario.params.request_timeout;
                return self.require(at, checker::every_request_is_answered(self.now, since, within));
            }
            self.unanswered.pop_front();
        }
        Ok(())
    }

    /// Turns a broken invariant of `node` into a [`Violation`].
    pub(super) fn require(&self, node: Number, result: CheckResult) -> Result<(), Violation> {
        result.map_err(|broken| self.violation(node, broken))
    }

    pub(super) fn violation(&self, node: Number, broken: BrokenInvariant) -> Violation {
        Violation { seed: self.scenario.seed, at: self.now, node, broken }
    }

    /// Checks that all replicas of `key` store the same record. After a heal they must do so within one
    /// `replicate_interval`.
    ///
    /// # Errors
    ///
    /// [`Violation`] with a replica that disagrees with another one.
    pub fn check_agreement(&self, key: &Key) -> Result<(), Violation> {
        let mut first: Option<&Record> = None;
        for number in self.alive() {
            let held = self.node(number).and_then(|node| node.storage().find(self.now, key));
            let Some(held) = held.map(|held| &held.record) else { continue };
            self.require(number, checker::replicas_agree(first.get_or_insert(held), held))?;
        }
        Ok(())
    }

    /// Checks a value that a client read through a node.
    pub(super) fn check_read(&mut self, at: Number, incarnation: u32, key: Key, value: &[u8]) -> CheckResult {
        let crc = crc_of(value);
        if let Some((ends, ttl)) = self.history.life(&key, crc).filter(|_| !self.wall_was_set) {
            checker::no_record_outlives_its_value(self.now, ends + self.transfer_max(ttl))?;
        }
        let Some(newer) = self.history.read(at, incarnation, key, crc) else { return Ok(()) };
        self.figures.stale_reads += 1;
        // A node that has queried the k closest nodes and found nothing newer may return an older value. So
        // this is a violation only if the node must have known the newer value: it stores the value itself,
        // or another node stores it and the world is calm.
        let stores_newer = |number: Number| {
            let held = self.node(number).and_then(|node| node.storage().find(self.now, &key));
            held.is_some_and(|held| held.record.rank().precedence() >= newer)
        };
        let known = stores_newer(at) || self.is_calm_since(self.now) && self.alive().any(stores_newer);
        checker::no_older_value_follows_a_newer_one(usize::from(known))
    }

    /// Checks the confirmation of a PUT that a client sent at `since`.
    pub(super) fn check_confirmed(&self, key: Key, crc: u32, replication: u8, since: Time) -> CheckResult {
        if self.scenario.params.durability == Durability::None {
            return Ok(());
        }
        let Some(version) = self.history.oldest_version(&key, crc) else { return Ok(()) };
        let copies = self.hosts.iter().filter(|host| host.disk.covers(&key, version)).count();
        let promised = if self.is_calm_since(since) { self.serving().min(replication.into()) } else { 1 };
        checker::a_confirmed_record_is_on_disk(copies, promised)
    }

    /// Checks that no stored record outlives its value.
    fn check_stored(&self, node: &crate::node::Node) -> CheckResult {
        if self.wall_was_set {
            return Ok(());
        }
        for held in node.storage().walk(None) {
            if let Some((ends, ttl)) = self.history.life(&held.record.key, held.record.crc) {
                checker::no_record_outlives_its_value(held.expires, ends + self.transfer_max(ttl))?;
            }
        }
        Ok(())
    }

    /// How much a replica of a value with this TTL may outlive the value.
    fn transfer_max(&self, ttl: Duration) -> Duration {
        let stalls = if self.scenario.faults.stalls > Chance::NEVER { STALLS } else { Duration::ZERO };
        TRANSFER + ttl / TRANSFER_PART + stalls
    }

    /// Whether a lookup that began at `since` finds all nodes that it should: there are no faults, no node has
    /// started recently, and no table has stopped nodes any more.
    fn is_calm_since(&self, since: Time) -> bool {
        let params = &self.scenario.params;
        let known = since >= self.last_start + CALM;
        let refreshed = self.last_disruption.is_none_or(|last| since >= last + params.refresh_interval * 2);
        self.network.faults == Faults::NONE
            && !self.network.is_full()
            && !self.network.is_partitioned()
            && known
            && refreshed
    }

    /// The number of settled nodes that store records of others.
    fn serving(&self) -> usize {
        let nodes = self.hosts.iter().filter_map(|host| host.node.as_deref());
        nodes.filter(|node| node.params().serving == Serving::Yes && node.status() == Status::Settled).count()
    }
}
