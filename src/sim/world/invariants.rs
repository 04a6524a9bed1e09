//! What must hold of the world, and of what clients are told.

use std::time::Duration;

use super::World;
use crate::id::Key;
use crate::node::Status;
use crate::node::params::{Durability, Endpoint, Serving};
use crate::record::{Record, crc_of};
use crate::sim::checker::{self, Breach, Verdict};
use crate::sim::{Chance, Faults, Number, Violation, network};
use crate::time::Time;

/// A copy lives longer than its value by the time that it travelled: a little in every hop, and
/// there are more hops in a long life.
const TRAVEL: Duration = Duration::from_secs(2);

/// The part of a life that all further hops may add.
const TRAVEL_PART: u32 = 100;

/// What hops may add where connections stall.
const STALLS: Duration = Duration::from_secs(30);

/// So long after a birth everybody knows who is there.
const CALM: Duration = Duration::from_mins(1);

/// What must hold.
impl World {
    /// Looks at all that lives, in depth.
    pub fn survey(&self) -> Result<(), Violation> {
        let listener = |address| {
            let number = network::number_at(&Endpoint::Address(address))?;
            self.hosts.get(number.index()).map(|host| host.id)
        };
        for (number, host) in (0..).map(Number).zip(&self.hosts) {
            if let Some(node) = &host.node {
                self.judge(number, checker::in_depth(node, self.now, listener))?;
                self.judge(number, self.judge_held(node))?;
            }
        }
        Ok(())
    }

    pub(super) fn look_for_the_unanswered(&mut self) -> Result<(), Violation> {
        while let Some(&ask) = self.owed.front() {
            let request = &self.requests[ask.0];
            let (at, since) = (request.at, request.since);
            if request.answer.is_none() && self.hosts[at.index()].life == request.life {
                let within = self.scenario.params.request_timeout;
                return self.judge(at, checker::every_request_is_answered(self.now, since, within));
            }
            self.owed.pop_front();
        }
        Ok(())
    }

    pub(super) fn judge(&self, node: Number, verdict: Verdict) -> Result<(), Violation> {
        verdict.map_err(|breach| self.violation(node, breach))
    }

    pub(super) fn violation(&self, node: Number, breach: Breach) -> Violation {
        Violation { seed: self.scenario.seed, at: self.now, node, breach }
    }

    /// Whether all who hold `key` hold the same record: what they must come to within one
    /// `replicate_interval` after a heal.
    ///
    /// # Errors
    ///
    /// [`Violation`] with one of those that disagree.
    pub fn check_agreement(&self, key: &Key) -> Result<(), Violation> {
        let mut first: Option<&Record> = None;
        for number in self.alive() {
            let held = self.node(number).and_then(|node| node.storage().find(self.now, key));
            let Some(held) = held.map(|held| &held.record) else { continue };
            self.judge(number, checker::replicas_agree(first.get_or_insert(held), held))?;
        }
        Ok(())
    }

    /// A client read `value` through a node.
    pub(super) fn judge_read(&mut self, at: Number, life: u32, key: Key, value: &[u8]) -> Verdict {
        let crc = crc_of(value);
        if let Some((ends, ttl)) = self.history.life(&key, crc) {
            checker::no_record_is_served_beyond_its_life(self.now, ends + self.travel(ttl))?;
        }
        let Some(newer) = self.history.read(at, life, key, crc) else { return Ok(()) };
        self.figures.reads_back += 1;
        // Whoever has asked all k closest and heard of nothing newer may answer with what is there.
        // So it is a breach where nobody can have missed it: here, or in a world that is calm.
        let held = |number: Number| {
            let held = self.node(number).and_then(|node| node.storage().find(self.now, &key));
            held.is_some_and(|held| held.record.rank().precedence() >= newer)
        };
        let known = held(at) || self.is_calm_since(self.now) && self.alive().any(held);
        checker::no_older_value_follows_a_newer_one(usize::from(known))
    }

    /// A client was told that what it PUT at `since` is held.
    pub(super) fn judge_confirmed(&self, key: Key, crc: u32, replication: u8, since: Time) -> Verdict {
        if self.scenario.params.durability != Durability::Always {
            return Ok(());
        }
        let Some(least) = self.history.least(&key, crc) else { return Ok(()) };
        let copies = self.hosts.iter().filter(|host| host.disk.covers(&key, least)).count();
        let promised = if self.is_calm_since(since) { self.serving().min(replication.into()) } else { 1 };
        checker::what_is_confirmed_is_on_disk(copies, promised)
    }

    /// No copy outlives its value.
    fn judge_held(&self, node: &crate::node::Node) -> Verdict {
        for held in node.storage().walk(None) {
            if let Some((ends, ttl)) = self.history.life(&held.record.key, held.record.crc) {
                checker::no_record_is_held_beyond_its_life(held.expires, ends + self.travel(ttl))?;
            }
        }
        Ok(())
    }

    fn travel(&self, ttl: Duration) -> Duration {
        let stalls = if self.scenario.faults.stalls > Chance::NEVER { STALLS } else { Duration::ZERO };
        TRAVEL + ttl / TRAVEL_PART + stalls
    }

    /// Whether nobody can be missed by a search that began at `since`: nothing goes wrong, nobody
    /// has come for a while, and whatever went wrong before is out of all tables.
    fn is_calm_since(&self, since: Time) -> bool {
        let params = &self.scenario.params;
        let known = since >= self.born + CALM;
        let forgotten = self.harmed.is_none_or(|harmed| since >= harmed + params.refresh_interval * 2);
        self.network.faults == Faults::NONE && !self.network.is_parted() && known && forgotten
    }

    /// Nodes that take part, and may hold what others PUT.
    fn serving(&self) -> usize {
        let nodes = self.hosts.iter().filter_map(|host| host.node.as_deref());
        nodes.filter(|node| node.params().serving == Serving::Yes && node.status() == Status::Settled).count()
    }
}
