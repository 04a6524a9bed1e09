//! Which records this node accepts: every record enters the storage through [`Node::hold`].
//!
//! If a record finds no room, an older one of the same key must not be served instead. So this node
//! deletes the older one where the newer one certainly exists elsewhere: a peer sent it with its owner's
//! signature, or a peer confirmed it as a copy of a PUT ([`crate::node::query::put`]). A plain record that finds no room
//! deletes nothing: any peer can claim any version. But this node remembers that it has missed it
//! ([`crate::node::records::missed`]).

use std::fmt;

use crate::contact::{Contact, Group, is_private};
use crate::id::Key;
use crate::node::Node;
use crate::node::action::ConnId;
use crate::node::params::{AddressGroups, Serving};
use crate::node::records::persistence::Disk;
use crate::record::{Rank, Record, Source, Tombstone, age_at};
use crate::storage::Stored;
use crate::time::{Now, Time};
use crate::wire::peer::ErrorCode;

/// A node that stores a copy, or is asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replica {
    /// This node.
    Me,
    /// Another node.
    Peer(Contact),
}

impl Replica {
    /// Whether both are the same node.
    pub(crate) fn is(&self, other: &Replica) -> bool {
        match (self, other) {
            (Replica::Me, Replica::Me) => true,
            (Replica::Peer(one), Replica::Peer(other)) => one.id == other.id,
            (Replica::Me, Replica::Peer(_)) | (Replica::Peer(_), Replica::Me) => false,
        }
    }
}

/// Where there was no room for a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// The disk of this node has failed or is full, or its storage is full.
    Here,
    /// A peer has answered by ERROR 507 or, for long, by ERROR 429.
    AtPeer,
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Here => "this node could not save its copy",
            Self::AtPeer => "a peer has no room for its copy, or could not save it (ERROR 507 or 429)",
        })
    }
}

impl Node {
    /// Stores `record` until `expires`. The caller has verified it, and that its version is not too early.
    pub(crate) fn hold(&mut self, now: Now, record: Record, expires: Time, source: Source) -> Stored {
        let (key, rank, replication) = (record.key, record.rank(), record.replication);
        if self.saving.is_blocked() {
            self.note_missed(now, &key, rank);
            return Stored::Full;
        }
        // A client that writes a key again and again must not postpone its offers to other replicas.
        let held = self.storage.find(now.mono, &key);
        let former = held.map(|held| held.record.replication).filter(|former| *former > replication);
        let due = match held {
            Some(held) => held.due(),
            None => self.first_offer(now.mono, &key, record.replication, expires),
        };
        let (table, age) = (&self.table, age_at(now.mono, record.ttl, expires));
        let in_scope = |held: &Record| table.fewer_closer(&held.key, usize::from(held.replication));
        let stored = self.storage.store(now, record, expires, due, source, in_scope);
        match stored {
            Stored::Held => {
                self.missed.stored(&key, rank.precedence());
                self.set_aside.written_again(now, &key, rank.class, age);
            }
            Stored::Full if rank.class.certifies_itself() && source != Source::Client => {
                self.give_up_older(now, &key, rank);
            }
            Stored::Full => self.note_missed(now, &key, rank),
            Stored::Larger(_) | Stored::Over => {}
        }
        if let Some(former) = former.filter(|_| stored == Stored::Held) {
            self.offer_to_former_replicas(now, &key, former);
            if self.is_replica(&key, replication) {
                self.note_former_replicas(now, key, (rank.precedence(), expires), former);
            }
        }
        stored
    }

    /// A record of `key` and `rank` is stored elsewhere: this node deletes an older one of its own.
    fn give_up_older(&mut self, now: Now, key: &Key, rank: Rank) {
        let held = self.storage.find(now.mono, key).map(|held| held.record.rank());
        if let Some(older) = held.filter(|held| held.precedence() < rank.precedence()) {
            self.storage.bury(now, *key, Tombstone::of(older));
        }
    }

    /// Whether this node accepts records of `key` now, whatever their replication; otherwise the error
    /// code for the peer.
    ///
    /// Accepted are keys to which fewer than 2k contacts are nearer, so that nodes whose tables differ a
    /// little agree. A node that has not settled does not know the nearest contacts, and accepts any key. A
    /// node that stores an older record accepts the newer one: otherwise it would serve the older one.
    pub(crate) fn accepts(&self, now: Now, key: &Key) -> Result<(), ErrorCode> {
        let in_scope = || self.fewer_closer(key, 2 * self.params.k);
        let is_far = || self.status.is_settled() && !in_scope() && self.storage.find(now.mono, key).is_none();
        if self.params.serving == Serving::No || is_far() {
            Err(ErrorCode::OUT_OF_SCOPE)
        } else if self.saving.disk == Disk::Fails || self.saving.is_blocked() {
            Err(ErrorCode::FULL)
        } else if self.saving.is_full() {
            Err(ErrorCode::TOO_MANY)
        } else {
            Ok(())
        }
    }

    /// Whether this node surely is a replica of a record of `key` with that `replication`: fewer than `replication` known
    /// nodes are nearer to the key, it knows all nodes near the key (`PROTOCOL.md` 2, Scope), and they can dial it. Only
    /// then it answers alone: otherwise PUTs may find other nodes, and replace the record only there.
    pub(crate) fn surely_in_scope(&self, key: &Key, replication: usize) -> bool {
        self.is_dialled() && self.table.surely_fewer_closer(key, replication)
    }

    /// Whether a PUT may have replaced a record of `key` at others, and not here: this node has not settled, has refused a
    /// newer record, is perhaps not among the k closest to the key, or cannot be dialled.
    pub(crate) fn is_tentative(&self, key: &Key) -> bool {
        !self.status.is_settled() || self.missed.contains(key) || !self.surely_in_scope(key, self.params.k)
    }

    /// Whether this node stores such a record for others. A bridge is a replica in each family; it answers
    /// alone only what is in its scope among the nodes of both.
    pub(crate) fn is_replica(&self, key: &Key, replication: u8) -> bool {
        self.fewer_closer(key, usize::from(replication))
    }

    /// The source to which the storage charges records that arrive on `conn`.
    pub(crate) fn source_at(&self, conn: ConnId) -> Source {
        let Some(conn) = self.peers.find(conn) else { return Source::Peer };
        let ip = conn.address.ip();
        match self.params.address_groups {
            AddressGroups::Public if is_private(ip) => Source::Peer,
            AddressGroups::Public | AddressGroups::Strict => Source::Stranger(conn.peer, Group::of(ip)),
        }
    }
}
