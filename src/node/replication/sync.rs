//! SYNC: what neighbours hold in a range of keys, and what of it this node has missed.
//!
//! A node that joins, or comes back, asks its nearest neighbours what they hold in its own part of
//! the space, page by page; it fetches what is larger than what it holds, and buries what is over.
//! When all have told it, it has settled. What it holds and they lack, it offers afterwards, as it
//! would anyhow ([`crate::node::replication::schedule`]).
//!
//! A record that is fetched is verified and held as one that is stored; whoever lists records that
//! it does not hold, or too many of them, only wastes time, and of that there is
//! [`crate::limits::SETTLE_TIMEOUT`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;

use crate::contact::Contact;
use crate::id::{KEY_SIZE, Key, NodeId, RpcId};
use crate::limits::{
    ENTRIES_MAX, ENTRY_SIZE, FETCHES_IN_FLIGHT_MAX, FETCHES_WAITING_MAX, SETTLE_NEIGHBOURS, TOMBSTONES_PER_PAGE_MAX,
};
use crate::node::Node;
use crate::node::action::{Actions, ConnId};
use crate::node::membership::status::Status;
use crate::node::replication::offer::Merit;
use crate::node::rpc::outbound::{Ask, Purpose};
use crate::node::timers::Timer;
use crate::record::{Class, Life, Rank, Tombstone};
use crate::time::Now;
use crate::wire::codec::List;
use crate::wire::peer::{Content, Entry, PeerMessage, RecordBlock, Reply, Request};

/// What is learnt from neighbours.
#[derive(Debug, Default)]
pub(in crate::node) struct Syncing {
    /// The own part of the space; `None` while nobody is asked about it.
    range: Option<RangeInclusive<Key>>,
    neighbours: BTreeMap<NodeId, Neighbour>,
    /// Whoever was asked, also in vain.
    tried: BTreeSet<NodeId>,
    /// How many of them have told all.
    told: usize,
    fetches: VecDeque<(Contact, Entry)>,
    /// Records on their way, of each key from one at a time.
    fetching: BTreeSet<Key>,
}

/// A neighbour that has not told all yet.
#[derive(Debug)]
struct Neighbour {
    contact: Contact,
    /// Where its next page begins; `None` while it is asked for one.
    next: Option<Key>,
}

impl Syncing {
    /// Nobody is asked for more; what was found missing is fetched all the same.
    pub(in crate::node) fn end(&mut self) {
        self.range = None;
        self.neighbours.clear();
        self.tried.clear();
        self.told = 0;
    }

    fn is_done(&self) -> bool {
        self.range.is_some() && self.neighbours.is_empty() && self.fetches.is_empty() && self.fetching.is_empty()
    }
}

/// Asking.
impl Node {
    /// A search for the own id is over: the neighbours are known, and are asked what they hold.
    pub(in crate::node) fn begin_to_sync(&mut self, now: Now) {
        if self.upkeep.status == Status::Settling && self.upkeep.syncing.range.is_none() {
            self.upkeep.syncing.range = Some(self.own_range());
            self.timers.hasten(Timer::Sync, now.mono);
        }
    }

    /// The part of the space that holds this node and its k nearest contacts; all of it, if there
    /// are fewer.
    fn own_range(&mut self) -> RangeInclusive<Key> {
        let (me, k) = (*self.me.id.key(), self.params.k);
        self.table.closest(&me, k, &mut self.nearby);
        let farthest = self.nearby.get(k - 1).and_then(|contact| me.distance(contact.id.key()).shared_bits());
        me.around(farthest.unwrap_or(0))
    }

    /// Asks for what is to be asked for next; settles, if that is nothing.
    pub(in crate::node) fn sync(&mut self, now: Now, out: &mut Actions) {
        self.find_neighbours();
        self.fetch(now, out); // first: that may make room for pages, and nothing else would come back here
        let syncing = &mut self.upkeep.syncing;
        let has_room = syncing.fetches.len() < FETCHES_WAITING_MAX;
        let pages = syncing.neighbours.values_mut().filter(|_| has_room);
        let pages: Vec<(Contact, Key)> = pages.filter_map(|it| Some((it.contact, it.next.take()?))).collect();
        for (contact, from) in pages {
            if !self.ask(now, contact, Purpose::Sync(from), out) {
                self.neighbour_failed(now, &contact.id);
            }
        }
        if self.upkeep.status == Status::Settling && self.upkeep.syncing.is_done() {
            self.settle(now);
        }
    }

    /// Takes up neighbours until there are as many as shall be asked, or nobody is left.
    fn find_neighbours(&mut self) {
        let Some(range) = &self.upkeep.syncing.range else { return };
        let first = *range.start();
        self.table.closest(self.me.id.key(), self.params.k, &mut self.nearby);
        let syncing = &mut self.upkeep.syncing;
        for contact in &self.nearby {
            if syncing.told + syncing.neighbours.len() >= SETTLE_NEIGHBOURS {
                break;
            }
            if syncing.tried.insert(contact.id) {
                syncing.neighbours.insert(contact.id, Neighbour { contact: *contact, next: Some(first) });
            }
        }
    }

    /// Asks for the page that begins at `from`. Returns whether it is still wanted.
    pub(in crate::node) fn write_sync(&mut self, conn: ConnId, rpc: RpcId, from: Key, out: &mut Actions) -> bool {
        let Some(range) = &self.upkeep.syncing.range else { return false };
        let to = *range.end();
        self.counters.syncs += 1;
        self.count_upkeep(2 * KEY_SIZE);
        out.send(conn, &PeerMessage::Request(rpc, Request::Sync { from, to }), None);
        true
    }

    /// A neighbour has told a page of what it holds. What is out of order, or was not asked for, is
    /// not heard, nor what comes behind it.
    pub(in crate::node) fn page_told(&mut self, now: Now, ask: &Ask, from: Key, more: bool, entries: List<'_, Entry>) {
        let end = self.upkeep.syncing.range.as_ref().map(|range| *range.end());
        let mut next = Some(from);
        for entry in entries.iter() {
            if next.is_none_or(|next| entry.key < next) || end.is_none_or(|end| entry.key > end) {
                break;
            }
            self.learn(now, &ask.to, entry);
            next = entry.key.successor();
        }
        let syncing = &mut self.upkeep.syncing;
        let next = next.filter(|next| more && *next > from);
        let within = |next: &Key| syncing.range.as_ref().is_some_and(|range| range.contains(next));
        match next.filter(within) {
            Some(next) => {
                if let Some(neighbour) = syncing.neighbours.get_mut(&ask.to.id) {
                    neighbour.next = Some(next);
                }
            }
            None => syncing.told += usize::from(syncing.neighbours.remove(&ask.to.id).is_some()),
        }
        self.timers.hasten(Timer::Sync, now.mono);
    }

    /// `from` holds what `entry` says: it is fetched, or buried, or known.
    fn learn(&mut self, now: Now, from: &Contact, entry: Entry) {
        let Rank { class, life, version } = entry.rank;
        if life == Life::Over {
            let tombstone = Tombstone { signed: None, plain: Some(version) };
            let beaten = self
                .storage
                .find(now.mono, &entry.key)
                .is_some_and(|held| tombstone.beats(held.record.class, held.record.version).is_some());
            if beaten && class == Class::Plain && !version.is_too_early(now.wall) {
                self.storage.bury(now, entry.key, tombstone);
            }
            return;
        }
        match self.merit_of(now, &entry) {
            Merit::Same => self.storage.heard(&entry.key, &from.id),
            Merit::Larger | Merit::Rival => {
                let room = self.upkeep.syncing.fetches.len() < FETCHES_WAITING_MAX + SETTLE_NEIGHBOURS * ENTRIES_MAX;
                if room && self.may_belong_here(now, &entry.key) {
                    self.upkeep.syncing.fetches.push_back((*from, entry));
                }
            }
            Merit::Smaller | Merit::Void => {}
        }
    }

    /// Whether a record of `key` is worth fetching: an older one is held, or this node would be
    /// among those who shall hold it if it were like most. An entry does not say how many shall.
    fn may_belong_here(&self, now: Now, key: &Key) -> bool {
        self.storage.find(now.mono, key).is_some() || self.in_scope(key, self.params.replication_default)
    }

    /// A neighbour cannot tell: another one may.
    pub(in crate::node) fn neighbour_failed(&mut self, now: Now, id: &NodeId) {
        self.upkeep.syncing.neighbours.remove(id);
        self.timers.hasten(Timer::Sync, now.mono);
    }
}

/// Fetching.
impl Node {
    /// Asks for what was missed, a few records at a time. Who promised a record and does not give it
    /// keeps nobody from asking the next who has it.
    fn fetch(&mut self, now: Now, out: &mut Actions) {
        for _ in 0..self.upkeep.syncing.fetches.len() {
            let syncing = &mut self.upkeep.syncing;
            if syncing.fetching.len() >= FETCHES_IN_FLIGHT_MAX {
                return;
            }
            let Some((contact, entry)) = syncing.fetches.pop_front() else { return };
            if syncing.fetching.contains(&entry.key) {
                syncing.fetches.push_back((contact, entry));
            } else if matches!(self.merit_of(now, &entry), Merit::Larger | Merit::Rival) {
                self.upkeep.syncing.fetching.insert(entry.key);
                if !self.ask(now, contact, Purpose::FetchMissing(entry.key), out) {
                    self.fetch_over(now, &entry.key);
                }
            }
        }
    }

    /// What was missing has come. It is held if it may be, and if it belongs here.
    pub(in crate::node) fn fetched(&mut self, now: Now, ask: &Ask, block: &RecordBlock<'_>) {
        let known = self.storage.find(now.mono, &block.key).is_some();
        let wanted = known || self.in_scope(&block.key, block.replication);
        if let (Content::Value(_), Some(conn), true) = (block.content, ask.conn, wanted) {
            let source = self.source_at(conn);
            if self.store_copy(now, block, source).is_ok() {
                self.heard_to_hold(now, &block.key, block.rank(), &ask.to.id);
            }
        }
        if !ask.expired {
            self.fetch_over(now, &block.key);
        }
    }

    /// What was missing has come, or does not.
    pub(in crate::node) fn fetch_over(&mut self, now: Now, key: &Key) {
        self.upkeep.syncing.fetching.remove(key);
        self.timers.hasten(Timer::Sync, now.mono);
    }
}

/// Telling.
impl Node {
    /// Tells what is held from `from` to `to`, in the order of keys: live records, and of plain ones
    /// that are over the tombstones; a page of it at most.
    pub(in crate::node) fn tell_page(
        &mut self,
        now: Now,
        conn: ConnId,
        rpc: RpcId,
        range: RangeInclusive<Key>,
        out: &mut Actions,
    ) {
        let live =
            self.storage.range(now.mono, range.clone()).take(ENTRIES_MAX + 1).map(|held| Entry::of(&held.record));
        // The last of as many as are looked at: beyond it there may be more that is over.
        let mut last_seen = None;
        let seen = self.storage.tombstones(range).take(TOMBSTONES_PER_PAGE_MAX).enumerate();
        let seen = seen.inspect(|(nth, (key, _))| last_seen = (nth + 1 == TOMBSTONES_PER_PAGE_MAX).then_some(**key));
        let over = seen.filter_map(|(_, (key, tombstone))| entry_over(*key, tombstone));
        let over = over.filter(|entry| self.storage.find(now.mono, &entry.key).is_none()).take(ENTRIES_MAX + 1);
        let mut entries: Vec<Entry> = over.collect();
        entries.extend(live);
        entries.sort_unstable_by_key(|entry| entry.key);
        let known = last_seen.map_or(entries.len(), |last| entries.partition_point(|entry| entry.key <= last));
        // Whoever asks goes on behind the last one told, so there has to be one.
        let told = if known == 0 { entries.len() } else { known };
        let more = entries.len() > ENTRIES_MAX || told < entries.len() || last_seen.is_some();
        entries.truncate(told.min(ENTRIES_MAX));
        self.count_upkeep(1 + entries.len() * ENTRY_SIZE);
        out.send(conn, &PeerMessage::Reply(rpc, Reply::Synced { more, entries: List::lend(&entries) }), None);
    }

    /// Tells what is held of `key`, or that a plain record of it is over: a page of one key, which a PUT
    /// asks for, and so no upkeep.
    pub(in crate::node) fn tell_entry(&mut self, now: Now, conn: ConnId, rpc: RpcId, key: Key, out: &mut Actions) {
        let (held, tombstone) = self.storage.known(now.mono, &key);
        let entry = held.map(|held| Entry::of(&held.record)).or_else(|| entry_over(key, tombstone?));
        let entries = List::lend(entry.as_slice());
        out.send(conn, &PeerMessage::Reply(rpc, Reply::Synced { more: false, entries }), None);
    }
}

/// What is told of a key whose plain records are over up to `tombstone`, if any are.
fn entry_over(key: Key, tombstone: Tombstone) -> Option<Entry> {
    let rank = Rank { class: Class::Plain, life: Life::Over, version: tombstone.plain? };
    Some(Entry { key, rank, crc: 0 })
}
