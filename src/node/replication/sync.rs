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
use crate::node::purpose::{Outcome, Purpose};
use crate::node::replication::offer::Merit;
use crate::node::rpc::outbound::Call;
use crate::node::status::Status;
use crate::node::timers::Timer;
use crate::record::{Class, Life, Rank, Tombstone};
use crate::time::Now;
use crate::wire::codec::List;
use crate::wire::peer::{Content, Entry, PeerMessage, Reply, Request};

/// What is learnt from neighbours.
#[derive(Debug, Default)]
pub(crate) struct Syncing {
    /// The own part of the space; `None` while nobody is asked about it.
    range: Option<RangeInclusive<Key>>,
    neighbours: BTreeMap<NodeId, Neighbour>,
    /// Whoever was asked, also in vain.
    tried: BTreeSet<NodeId>,
    /// How many of them have told all.
    told: usize,
    /// Records to fetch, and the neighbours that store them.
    fetches: VecDeque<(Contact, Entry)>,
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
    pub(crate) fn end(&mut self) {
        self.range = None;
        self.neighbours.clear();
        self.tried.clear();
        self.told = 0;
    }

    /// Whether all neighbours have told all, and nothing is left to fetch.
    fn is_done(&self) -> bool {
        self.range.is_some() && self.neighbours.is_empty() && self.fetches.is_empty()
    }
}

/// Asking.
impl Node {
    /// A search for the own id is over: the neighbours are known, and are asked what they hold.
    pub(crate) fn begin_to_sync(&mut self, now: Now) {
        if self.status == Status::Settling && self.syncing.range.is_none() {
            self.syncing.range = Some(self.own_range());
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
    pub(crate) fn sync(&mut self, now: Now, out: &mut Actions) {
        self.find_neighbours();
        self.fetch(now, out); // first: that may make room for pages, and nothing else would come back here
        let syncing = &mut self.syncing;
        let has_room = syncing.fetches.len() < FETCHES_WAITING_MAX;
        let pages = syncing.neighbours.values_mut().filter(|_| has_room);
        let pages: Vec<(Contact, Key)> = pages.filter_map(|it| Some((it.contact, it.next.take()?))).collect();
        for (contact, from) in pages {
            if !self.call(now, contact, Purpose::Sync(from), out) {
                self.neighbour_failed(now, &contact.id);
            }
        }
        if self.status == Status::Settling && self.syncing.is_done() && self.wanted.fetches() == 0 {
            self.settle(now);
        }
    }

    /// Takes up neighbours until there are as many as shall be asked, or nobody is left.
    fn find_neighbours(&mut self) {
        let Some(range) = &self.syncing.range else { return };
        let first = *range.start();
        self.table.closest(self.me.id.key(), self.params.k, &mut self.nearby);
        let syncing = &mut self.syncing;
        for contact in &self.nearby {
            if syncing.told + syncing.neighbours.len() >= SETTLE_NEIGHBOURS {
                break;
            }
            if syncing.tried.insert(contact.id) {
                syncing.neighbours.insert(contact.id, Neighbour { contact: *contact, next: Some(first) });
            }
        }
    }

    /// The request for the page that begins at `from`; none, if it is not wanted any more.
    pub(crate) fn sync_request(&mut self, from: Key) -> Option<Request<'static>> {
        let to = *self.syncing.range.as_ref()?.end();
        self.counters.syncs += 1;
        self.count_upkeep(2 * KEY_SIZE);
        Some(Request::Sync { from, to })
    }

    /// A neighbour has answered a SYNC, or will not.
    pub(crate) fn on_sync_outcome(&mut self, now: Now, from: Key, call: &Call, outcome: Outcome<'_>) {
        if let Outcome::Reply { reply: Reply::Synced { more, entries }, .. } = outcome {
            self.on_page(now, &call.to, from, more, entries);
        } else {
            self.neighbour_failed(now, &call.to.id);
        }
    }

    /// A neighbour has sent a page of what it stores. An entry that is out of order or was not asked
    /// for ends the page.
    fn on_page(&mut self, now: Now, neighbour: &Contact, from: Key, more: bool, entries: List<'_, Entry>) {
        let end = self.syncing.range.as_ref().map(|range| *range.end());
        let mut next = Some(from);
        for entry in entries.iter() {
            if next.is_none_or(|next| entry.key < next) || end.is_none_or(|end| entry.key > end) {
                break;
            }
            self.learn(now, neighbour, entry);
            next = entry.key.successor();
        }
        let syncing = &mut self.syncing;
        let next = next.filter(|next| more && *next > from);
        let within = |next: &Key| syncing.range.as_ref().is_some_and(|range| range.contains(next));
        match next.filter(within) {
            Some(next) => {
                if let Some(state) = syncing.neighbours.get_mut(&neighbour.id) {
                    state.next = Some(next);
                }
            }
            None => syncing.told += usize::from(syncing.neighbours.remove(&neighbour.id).is_some()),
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
                .is_some_and(|held| tombstone.beats(held.record.rank().precedence()).is_some());
            if beaten && class == Class::Plain && !version.is_too_early(now.wall) {
                self.storage.bury(now, entry.key, tombstone);
            }
            return;
        }
        match self.merit_of(now, &entry) {
            Merit::Same => self.storage.heard(&entry.key, &from.id),
            Merit::Larger | Merit::Rival => {
                let room = self.syncing.fetches.len() < FETCHES_WAITING_MAX + SETTLE_NEIGHBOURS * ENTRIES_MAX;
                if room && self.may_belong_here(now, &entry.key) {
                    self.syncing.fetches.push_back((*from, entry));
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
    fn neighbour_failed(&mut self, now: Now, id: &NodeId) {
        self.syncing.neighbours.remove(id);
        self.timers.hasten(Timer::Sync, now.mono);
    }
}

/// Fetching.
impl Node {
    /// Asks for what was missed, a few records at a time. A peer that promised a record and does not
    /// send it keeps no other from being asked.
    fn fetch(&mut self, now: Now, out: &mut Actions) {
        for _ in 0..self.syncing.fetches.len() {
            if self.wanted.fetches() >= FETCHES_IN_FLIGHT_MAX {
                return;
            }
            let Some((contact, entry)) = self.syncing.fetches.pop_front() else { return };
            if !matches!(self.merit_of(now, &entry), Merit::Larger | Merit::Rival) {
                continue;
            }
            if self.wanted.is_awaited(now.mono, &entry.key, entry.rank) {
                self.syncing.fetches.push_back((contact, entry));
                self.timers.hasten(Timer::Sync, now.mono + self.params.rpc_timeout);
                continue;
            }
            self.wanted.begin_fetch(entry.key, entry.rank, contact.id);
            if !self.call(now, contact, Purpose::FetchMissing(entry.key), out) {
                self.fetch_over(now, &entry.key);
            }
        }
    }

    /// A record that was missing has come, or does not. It is stored if it may be, and if it belongs
    /// here.
    pub(crate) fn on_missing_outcome(&mut self, now: Now, key: Key, call: &Call, outcome: Outcome<'_>) {
        if let Outcome::Reply { reply: Reply::Value { record: block, .. }, .. } = outcome {
            let known = self.storage.find(now.mono, &key).is_some();
            let wanted = known || self.in_scope(&key, block.replication);
            if let (Content::Value(_), Some(conn), true) = (block.content, call.conn, wanted)
                && self.store_copy(now, &block, self.source_at(conn)).is_ok()
            {
                self.on_replica(now, &key, block.rank(), &call.to.id);
            }
        }
        if !call.expired {
            self.fetch_over(now, &key);
        }
    }

    fn fetch_over(&mut self, now: Now, key: &Key) {
        self.wanted.end_fetch(key);
        self.timers.hasten(Timer::Sync, now.mono);
    }
}

/// Telling.
impl Node {
    /// Tells what is held from `from` to `to`, in the order of keys: live records, and of plain ones
    /// that are over the tombstones; a page of it at most.
    pub(crate) fn tell_page(
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
    pub(crate) fn tell_entry(&mut self, now: Now, conn: ConnId, rpc: RpcId, key: Key, out: &mut Actions) {
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
