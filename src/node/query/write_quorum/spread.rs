//! The second half of an attempt of a PUT: copies and version probes to the nodes that the lookup has found.

use std::collections::VecDeque;

use crate::contact::Contact;
use crate::id::NodeId;
use crate::node::query::contradictions::OwnClock;
use crate::node::records::accept::Replica;
use crate::record::Rank;

/// The second half of an attempt: sending copies to the nodes that the lookup has found.
#[derive(Debug)]
pub(super) struct Spread {
    /// The number of nodes that the lookup has reached, this one included; 0 if the attempt can only fail.
    pub(super) reachable: usize,
    /// Those that have got a copy and do not store it, whatever the reason ([`super::Put::note_unable`]).
    pub(super) unable: usize,
    /// The nodes to send a copy to, nearest first: perhaps this node, never a replica.
    pub(super) targets: VecDeque<Replica>,
    /// Close nodes that the lookup has not asked and that get no copy. If such a node stores an older
    /// version, it would return it to GETs.
    pub(super) unprobed: VecDeque<Contact>,
    /// Copies without a final outcome.
    pub(super) copies_in_flight: usize,
    /// Peers among these whose answer is later than usual: others get a copy instead.
    pub(super) overdue: Vec<NodeId>,
    pub(super) probes_in_flight: usize,
    /// Close nodes that have not answered the lookup, and may still do so: they may store an older record.
    pub(super) unheard: Vec<NodeId>,
    /// Copies that peers got, or did not answer.
    pub(super) copies_to_peers: usize,
    /// Those that peers have refused by ERROR 410 or 425.
    pub(super) copies_refused: usize,
    /// Larger signed records that peers claim to store instead of the copy, without proof.
    pub(super) newer_claims: Vec<Rank>,
    /// A larger record that ends this PUT.
    pub(super) larger: Option<Rank>,
    /// Whether most peers say that the wall clock of this node is right, or wrong.
    pub(super) clock: OwnClock,
    /// Whether peers contradict this attempt, and what others said of the clock is too old to count. Then the PUT may be
    /// refused only in its next attempt.
    pub(super) is_clock_in_doubt: bool,
}

impl Spread {
    /// Copies in flight that are not overdue.
    pub(super) fn awaited(&self) -> usize {
        self.copies_in_flight - self.overdue.len()
    }

    /// Whether a copy to one of `peers` is overdue.
    pub(super) fn has_overdue(&self, peers: &[NodeId]) -> bool {
        peers.iter().any(|id| self.overdue.contains(id))
    }

    /// The number of replicas that are needed. When all targets have got their chance, those that do not store it are not
    /// needed; but more than half of the number is.
    pub(super) fn wanted(&self, replication: u8) -> usize {
        let all = self.reachable.min(usize::from(replication));
        let is_over = self.targets.is_empty() && self.awaited() == 0;
        if is_over { all.saturating_sub(self.unable).max(all / 2 + 1).min(all) } else { all }
    }

    /// The largest claimed record, if more nodes claim one than store this record.
    pub(super) fn outvoted(&self, replicas: usize) -> Option<Rank> {
        let largest = self.newer_claims.iter().copied().max_by_key(|rank| rank.precedence());
        largest.filter(|_| self.newer_claims.len() > replicas)
    }
}
