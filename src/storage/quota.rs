//! The memory that the records of each stranger and of each address group take, so that none of them can
//! fill a storage alone (`THREATS.md` B6).
//!
//! A peer belongs to the group from which it brought its first record that is still stored; it may change
//! its address later. Clients and peers of a private network have no quota and are not counted.

use std::collections::BTreeMap;

use crate::contact::Group;
use crate::id::NodeId;
use crate::record::Source;
use crate::storage::{StorageFault, check_number};

/// Bytes of memory that a stranger takes besides its records: a row, of which every second one may be free,
/// and an entry in each of two ordered maps, which may be one third empty.
pub const QUOTA_BYTES: usize =
    2 * (size_of::<Row>() + size_of::<u32>()) + (size_of::<(NodeId, u32)>() + size_of::<(Group, usize)>()) * 3 / 2;

/// The quota that a record is charged to, in four bytes: a row of [`Quotas`], or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quota(u32);

impl Quota {
    pub(super) const CLIENT: Quota = Quota(u32::MAX);
    pub(super) const PEER: Quota = Quota(u32::MAX - 1);
}

/// The strangers with stored records.
#[derive(Debug, Default)]
pub(super) struct Quotas {
    rows: Vec<Row>,
    /// Unused rows.
    free: Vec<u32>,
    by_peer: BTreeMap<NodeId, u32>,
    by_group: BTreeMap<Group, usize>,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    peer: NodeId,
    group: Group,
    /// Bytes of the peer's records; 0 if the row is unused.
    bytes: usize,
}

impl Quotas {
    /// Charges a record of `bytes` bytes to `source`.
    pub(super) fn add(&mut self, source: Source, bytes: usize) -> Quota {
        let (peer, group) = match source {
            Source::Client => return Quota::CLIENT,
            Source::Peer => return Quota::PEER,
            Source::Stranger(peer, group) => (peer, group),
        };
        let at = match self.by_peer.get(&peer) {
            Some(at) => *at,
            None => self.open(peer, group),
        };
        let row = &mut self.rows[at as usize];
        row.bytes += bytes;
        *self.by_group.entry(row.group).or_default() += bytes;
        Quota(at)
    }

    /// Discharges a record of `bytes` bytes, which is not stored any more.
    pub(super) fn remove(&mut self, quota: Quota, bytes: usize) {
        if quota == Quota::CLIENT || quota == Quota::PEER {
            return;
        }
        let row = &mut self.rows[quota.0 as usize];
        row.bytes -= bytes;
        let group = self.by_group.get_mut(&row.group).expect("the group of every row is counted");
        *group -= bytes;
        if *group == 0 {
            self.by_group.remove(&row.group);
        }
        if row.bytes == 0 {
            self.by_peer.remove(&row.peer);
            self.free.push(quota.0);
        }
    }

    /// Bytes of memory that a first record of `source` takes for its row; 0 if it has a row or no quota.
    pub(super) fn cost_of(&self, source: Source) -> usize {
        match source {
            Source::Stranger(peer, _) if !self.by_peer.contains_key(&peer) => QUOTA_BYTES,
            Source::Client | Source::Peer | Source::Stranger(..) => 0,
        }
    }

    /// Whether `source` and its group stay within `max` bytes if a record of `bytes` bytes is stored;
    /// `replaced` is the record that it replaces.
    pub(super) fn admit(&self, source: Source, bytes: usize, replaced: Option<(Quota, usize)>, max: usize) -> bool {
        let Source::Stranger(peer, group) = source else { return true };
        let own = self.by_peer.get(&peer).map(|at| (*at, self.rows[*at as usize]));
        let group = own.map_or(group, |(_, row)| row.group);
        let by_peer = own.map_or(0, |(_, row)| row.bytes);
        let by_group = self.by_group.get(&group).copied().unwrap_or(0);
        let (mut freed_by_peer, mut freed_by_group) = (0, 0);
        if let Some((quota, freed)) = replaced
            && let Some(row) = self.rows.get(quota.0 as usize)
        {
            freed_by_peer = if row.peer == peer { freed } else { 0 };
            freed_by_group = if row.group == group { freed } else { 0 };
        }
        by_peer + bytes - freed_by_peer <= max && by_group + bytes - freed_by_group <= max
    }

    /// Bytes of memory that the strangers take besides their records.
    pub(super) fn bytes(&self) -> usize {
        self.by_peer.len() * QUOTA_BYTES
    }

    /// Checks the counted bytes against the quotas of all stored records.
    pub(super) fn check_invariants(&self, held: impl Iterator<Item = (Quota, usize)>) -> Result<(), StorageFault> {
        let mut found = vec![0; self.rows.len()];
        for (quota, bytes) in held {
            if let Some(row) = found.get_mut(quota.0 as usize) {
                *row += bytes;
            }
        }
        let mut by_group = BTreeMap::<Group, usize>::new();
        for (row, found) in self.rows.iter().zip(found) {
            check_number("bytes of a stranger", row.bytes, found)?;
            if found > 0 {
                *by_group.entry(row.group).or_default() += found;
            }
        }
        check_number("wrong indexes of groups", usize::from(by_group != self.by_group), 0)?;
        check_number("strangers by id", self.by_peer.len(), self.rows.len() - self.free.len())
    }

    fn open(&mut self, peer: NodeId, group: Group) -> u32 {
        let row = Row { peer, group, bytes: 0 };
        let at = self.free.pop().unwrap_or_else(|| {
            self.rows.push(row);
            u32::try_from(self.rows.len() - 1).expect("a storage holds fewer records than a u32 can count")
        });
        self.rows[at as usize] = row;
        self.by_peer.insert(peer, at);
        at
    }
}
