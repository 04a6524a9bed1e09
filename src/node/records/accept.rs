//! What this node holds: one way in for every record, whoever brought it.
//!
//! A record that there is no room for must not leave an older one to be served in its stead. Where
//! the newer one is sure to be elsewhere, because its owner signed it and a peer brought it, or
//! because a peer confirmed the copy of a PUT, the older one is given up. A plain record that a
//! peer cannot place here changes nothing: it is anybody's claim.

use crate::contact::{Contact, Group, is_private};
use crate::id::Key;
use crate::node::Node;
use crate::node::action::ConnId;
use crate::node::params::AddressGroups;
use crate::record::{Rank, Record, Source, Tombstone};
use crate::storage::Stored;
use crate::time::{Now, Time};

/// Who holds a copy, or is asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replica {
    /// This node.
    Me,
    /// Another one.
    Peer(Contact),
}

impl Replica {
    /// Whether both are one node.
    pub(crate) fn is(&self, other: &Replica) -> bool {
        match (self, other) {
            (Replica::Me, Replica::Me) => true,
            (Replica::Peer(one), Replica::Peer(other)) => one.id == other.id,
            (Replica::Me, Replica::Peer(_)) | (Replica::Peer(_), Replica::Me) => false,
        }
    }
}

impl Node {
    /// Holds `record`, which is verified and no later than the clocks allow, until `expires`.
    pub(crate) fn hold(&mut self, now: Now, record: Record, expires: Time, source: Source) -> Stored {
        let (key, rank) = (record.key, record.rank());
        // Whoever writes a key time and again does not put off that it is offered to others.
        let due = match self.storage.find(now.mono, &key) {
            Some(held) => held.due(),
            None => self.first_offer(now.mono, &key, record.replication, expires),
        };
        let table = &self.table;
        let in_scope = |held: &Record| table.fewer_closer(&held.key, usize::from(held.replication));
        let stored = self.storage.store(now, record, expires, due, source, in_scope);
        if stored == Stored::Full && rank.class.certifies_itself() && source != Source::Client {
            self.give_up_older(now, &key, rank);
        }
        stored
    }

    /// A record of `key` and `rank` is held elsewhere: what is older is not served here any more.
    pub(crate) fn give_up_older(&mut self, now: Now, key: &Key, rank: Rank) {
        let held = self.storage.find(now.mono, key).map(|held| held.record.rank());
        if let Some(older) = held.filter(|held| held.precedence() < rank.precedence()) {
            self.storage.bury(now, *key, Tombstone::of(older));
        }
    }

    /// Whether a record of `key` is taken, be it of whatever replication: fewer than 2k contacts are
    /// nearer, so that nodes whose tables differ a little agree on it. A node that has not settled
    /// does not know; and who holds an older one takes the newer, or would keep the older for ever.
    pub(crate) fn may_hold(&self, now: Now, key: &Key) -> bool {
        let in_scope = || self.table.fewer_closer(key, 2 * self.params.k);
        !self.status.is_settled() || in_scope() || self.storage.find(now.mono, key).is_some()
    }

    /// Whether `key` is in scope for a record of that `replication`: too few known nodes are nearer
    /// to it for another one to be responsible (`PROTOCOL.md` 2, Scope).
    pub(crate) fn in_scope(&self, key: &Key, replication: u8) -> bool {
        self.table.fewer_closer(key, usize::from(replication))
    }

    /// What the peer at the other end of `conn` is to the storage.
    pub(crate) fn source_at(&self, conn: ConnId) -> Source {
        let Some(conn) = self.peers.find(conn) else { return Source::Peer };
        let ip = conn.address.ip();
        match self.params.address_groups {
            AddressGroups::Public if is_private(ip) => Source::Peer,
            AddressGroups::Public | AddressGroups::Strict => Source::Stranger(conn.peer, Group::of(ip)),
        }
    }
}
