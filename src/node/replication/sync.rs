//! SYNC: this node asks its neighbours which records they store, and fetches those that it lacks.
//!
//! A node that joins, or joins again, asks its nearest neighbours for the records in its own range of
//! keys, page by page. It fetches the records that are larger than its own, and buries those that have
//! ended. When all asked neighbours have sent all pages and nothing is left to fetch, the node settles. It
//! offers the records that the neighbours lack after that ([`crate::node::replication::schedule`]).
//!
//! A neighbour does not list old tombstones, because it does not know their keys. So this node offers it the plain
//! records that it does not list, unless they are new: it answers if it knows that they are over
//! ([`crate::node::replication::offer`]).
//!
//! After a restart, many records of this node may be unverified ([`crate::node::records::verification`]). Then it
//! compares a page in several turns, and sends shorter pages itself.
//!
//! A fetched record is verified and accepted like the record of a STORE. A neighbour that lists records
//! it does not store, or too many, only delays this node: for [`crate::limits::SETTLE_TIMEOUT`] after the last record that
//! was fetched, and for [`crate::limits::SETTLE_MAX`] at most.
//! SYNC does not guarantee that the node has every record: it asks [`SETTLE_NEIGHBOURS`] neighbours. After a restart of
//! the whole network it asks all of the k nearest.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::contact::Contact;
use crate::id::{KEY_SIZE, Key, NodeId};
use crate::limits::{ENTRIES_MAX, ENTRY_SIZE, SCANNED_PER_TURN_MAX, VERIFIED_PER_TURN_MAX};
use crate::node::Node;
use crate::node::action::{Actions, Caller};
use crate::node::purpose::{Outcome, Purpose};
use crate::node::replication::offer::{Comparison, Reach};
use crate::node::rpc::outbound::Report;
use crate::node::rpc::waiting::BACK_OFF_MIN;
use crate::node::status::Status;
use crate::node::timers::Timer;
use crate::record::{Class, Life, Rank, Tombstone};
use crate::time::{Now, Time};
use crate::wire::codec::List;
use crate::wire::peer::{Content, Entry, ErrorCode, Reply, Request};

/// Neighbours that have to report their records before a node counts as settled.
const SETTLE_NEIGHBOURS: usize = 3;

/// Records that are being fetched from neighbours, from all of them together.
const FETCHES_IN_FLIGHT_MAX: usize = 32;

/// Records that wait to be fetched. At this bound, no neighbour is asked for further pages.
const FETCHES_WAITING_MAX: usize = 4 * ENTRIES_MAX;

/// Tombstones that are looked at for one page of a SYNC. There may be a million of them, and most are not
/// reported, for example those of signed records.
const TOMBSTONES_PER_PAGE_MAX: usize = 16 * ENTRIES_MAX;

/// The versions of records that an old tombstone beats are older than this. The tombstone is 49 minutes old at least, and
/// each of two clocks may be wrong.
const UNLISTED_AGE_MIN: Duration = Duration::from_mins(15);

/// What this node asks of its neighbours.
#[derive(Debug, Default)]
pub(crate) struct Syncing {
    /// The keys that neighbours are asked about; `None` while this node does not synchronize.
    range: Option<RangeInclusive<Key>>,
    /// Whether the lookup of the own id that runs began before this node joined: it may have missed neighbours.
    pub(crate) looks_again: bool,
    /// Neighbours that were chosen.
    neighbours: BTreeMap<NodeId, Neighbour>,
    /// Pages that are not compared to the end: at most one of each neighbour that was asked.
    pages: VecDeque<Page>,
    /// Records to fetch, and the neighbours that store them.
    fetches: VecDeque<(Contact, Entry)>,
    /// Those of them that are being fetched.
    in_flight: Vec<(Contact, Entry)>,
    /// How many fewer than [`FETCHES_IN_FLIGHT_MAX`] may be in flight, because the network is slow.
    withheld: usize,
}

/// A page of a neighbour that is compared with what this node stores.
#[derive(Debug)]
struct Page {
    neighbour: Contact,
    /// What is left to compare, in the order of keys.
    entries: VecDeque<Entry>,
    /// The range of keys that the page is about, as far as it is left to compare.
    from: Option<Key>,
    to: Key,
    /// The state of the neighbour after it.
    then: Neighbour,
}

/// How far a neighbour has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Neighbour {
    /// Its next page begins at that key.
    Next(Contact, Key),
    /// A page is in flight.
    Asked,
    /// It has sent all pages.
    Complete,
    /// It did not answer: another neighbour is chosen in its place.
    Failed,
}

impl Neighbour {
    /// Whether more pages of it are expected.
    fn is_active(&self) -> bool {
        matches!(self, Neighbour::Next(..) | Neighbour::Asked)
    }
}

impl Syncing {
    /// No neighbour is asked for more; records that were found missing are fetched all the same.
    pub(crate) fn end(&mut self) {
        self.range = None;
        self.neighbours.clear();
        self.pages.clear();
    }

    /// The records that are known to be missing.
    pub(crate) fn missing(&self) -> Vec<Entry> {
        self.fetches.iter().chain(&self.in_flight).map(|(_, entry)| *entry).collect()
    }

    /// How many records may be fetched at the same time.
    fn fetches_max(&self) -> usize {
        FETCHES_IN_FLIGHT_MAX - self.withheld
    }

    /// A record was fetched: one more may be in flight.
    fn fetch_succeeded(&mut self) {
        self.withheld = self.withheld.saturating_sub(1);
    }

    /// The fetch of `key` has ended. If `is_late`, it is repeated while this node synchronizes: the network may be slow.
    /// Then half as many may be in flight, so that answers come before they are asked for again.
    fn fetch_ended(&mut self, key: &Key, is_late: bool) {
        if is_late {
            self.withheld = FETCHES_IN_FLIGHT_MAX - self.fetches_max().div_ceil(2);
        }
        let Some(at) = self.in_flight.iter().position(|(_, entry)| entry.key == *key) else { return };
        let fetch = self.in_flight.swap_remove(at);
        if is_late && self.range.is_some() {
            self.fetches.push_back(fetch);
        }
    }

    /// Whether the chosen neighbours have sent all pages, and nothing is left to fetch.
    fn is_done(&self) -> bool {
        self.range.is_some() && !self.neighbours.values().any(Neighbour::is_active) && self.fetches.is_empty()
    }

    /// Records how far the neighbour `id` has come, if more of it is expected.
    fn update(&mut self, id: &NodeId, to: Neighbour) {
        if let Some(neighbour) = self.neighbours.get_mut(id).filter(|neighbour| neighbour.is_active()) {
            *neighbour = to;
        }
    }
}

/// Asking for pages.
impl Node {
    /// A lookup of the own id has ended: the neighbours are known, and are asked for their records.
    pub(crate) fn begin_to_sync(&mut self, now: Now) {
        if self.status == Status::Settling && self.syncing.range.is_none() {
            self.syncing.range = Some(self.own_range());
            self.timers.hasten(Timer::Sync, now.mono);
        }
    }

    /// The range of keys that contains this node and its k nearest contacts; all keys, if there are
    /// fewer contacts.
    fn own_range(&mut self) -> RangeInclusive<Key> {
        let (me, k) = (*self.me.id.key(), self.params.k);
        self.table.closest(&me, k, &mut self.nearby);
        let farthest = self.nearby.get(k - 1).and_then(|contact| me.distance(contact.id.key()).shared_bits());
        me.around(farthest.unwrap_or(0))
    }

    /// Asks for the next records and pages; settles, if none is left.
    pub(crate) fn sync(&mut self, now: Now, out: &mut Actions) {
        if !self.may_call() {
            return self.timers.hasten(Timer::Sync, now.mono + BACK_OFF_MIN);
        }
        self.find_neighbours(now);
        self.compare_pages(now);
        // Fetches first: they may make room for pages, and no other event would ask for pages then.
        self.fetch(now, out);
        if self.syncing.fetches.len() < FETCHES_WAITING_MAX {
            let mut pages = Vec::new();
            for neighbour in self.syncing.neighbours.values_mut() {
                if let Neighbour::Next(contact, from) = *neighbour {
                    *neighbour = Neighbour::Asked;
                    pages.push((contact, from));
                }
            }
            for (contact, from) in pages {
                self.call(now, contact, Purpose::Sync(from), out);
            }
        }
        if self.status == Status::Settling && self.syncing.is_done() && self.wanted.fetches() == 0 {
            self.settle(now);
        }
    }

    /// Chooses neighbours until [`SETTLE_NEIGHBOURS`] that count have not failed, or none of the k nearest is left. Those
    /// whose clocks are wrong come last: they may have refused newer records. Before them come those that have not
    /// settled, which do not count: they have not run either, or not for long, and each may be the only one that has a
    /// record. A node that has slept, or whose clock was set, counts only those whose clocks it knows to be right: others
    /// may have been set, or have slept, together with it.
    fn find_neighbours(&mut self, now: Now) {
        let Some(range) = &self.syncing.range else { return };
        let first = *range.start();
        self.table.closest(self.me.id.key(), self.params.k, &mut self.nearby);
        let (clocks, peers) = (&self.clocks, &self.peers);
        let order = |contact: &Contact| (clocks.is_wrong_at(now, &contact.id), peers.is_unsettled(now, &contact.id));
        self.nearby.sort_by_key(order); // otherwise nearest first
        let is_behind = self.sleep.is_behind();
        let neighbours = &mut self.syncing.neighbours;
        let counts = |id: &NodeId| !peers.is_unsettled(now, id) && (!is_behind || clocks.may_be_right_at(now, id));
        for contact in &self.nearby {
            let counting = neighbours.iter().filter(|(id, state)| **state != Neighbour::Failed && counts(id));
            if counting.count() >= SETTLE_NEIGHBOURS {
                break;
            }
            neighbours.entry(contact.id).or_insert(Neighbour::Next(*contact, first));
        }
    }

    /// The request for the page that begins at `from`; `None` if this node does not synchronize any more.
    pub(crate) fn sync_request(&mut self, from: Key) -> Option<Request<'static>> {
        let to = *self.syncing.range.as_ref()?.end();
        self.counters.syncs += 1;
        self.count_maintenance(2 * KEY_SIZE);
        Some(Request::Sync { from, to })
    }

    /// A neighbour has answered a SYNC, or will not.
    pub(crate) fn on_sync_outcome(&mut self, now: Now, from: Key, Report { call, outcome }: Report<'_>) {
        if self.join.joined.is_some_and(|since| call.begun < since) {
            return; // it was asked for an earlier synchronization, perhaps before this node slept
        }
        if let Outcome::Reply { reply: Reply::Synced { more, entries }, .. } = outcome {
            self.on_page(now, &call.to, from, more, entries);
        } else if matches!(outcome, Outcome::Passed(_)) && self.has_asked_all_contacts() {
            // It may only be slow. If it has failed, the next request to it fails.
            self.neighbour_is(now, &call.to.id, Neighbour::Next(call.to, from));
        } else {
            self.neighbour_is(now, &call.to.id, Neighbour::Failed);
        }
    }

    /// A neighbour has sent a page of its records. An entry that is out of order or out of range ends
    /// the page.
    fn on_page(&mut self, now: Now, neighbour: &Contact, from: Key, more: bool, entries: List<'_, Entry>) {
        let end = self.syncing.range.as_ref().map(|range| *range.end());
        let mut next = Some(from);
        let mut valid = VecDeque::new();
        for entry in entries.iter() {
            if next.is_none_or(|next| entry.key < next) || end.is_none_or(|end| entry.key > end) {
                break;
            }
            next = entry.key.successor();
            valid.push_back(entry);
        }
        let range = self.syncing.range.as_ref();
        let next = next.filter(|next| more && *next > from && range.is_some_and(|range| range.contains(next)));
        let then = next.map_or(Neighbour::Complete, |next| Neighbour::Next(*neighbour, next));
        let last = valid.back().map(|entry| entry.key).filter(|_| next.is_some());
        if let Some(to) = last.or(end) {
            self.syncing.pages.push_back(Page { neighbour: *neighbour, entries: valid, from: Some(from), to, then });
        }
        self.compare_pages(now);
        self.timers.hasten(Timer::Sync, now.mono);
    }

    /// Compares what the neighbours have sent with what this node stores, until too many records of this node would
    /// have to be verified in this turn.
    fn compare_pages(&mut self, now: Now) {
        let (mut proofs, mut looks) = (VERIFIED_PER_TURN_MAX, SCANNED_PER_TURN_MAX);
        while let Some(mut page) = self.syncing.pages.pop_front() {
            let compared = self.compare_page(now, &mut page, &mut proofs, &mut looks);
            if let Err(at) = compared {
                self.syncing.pages.push_front(page);
                return self.timers.hasten(Timer::Sync, at);
            }
            self.syncing.update(&page.neighbour.id, page.then);
        }
    }

    /// Compares one page. If it is too much for this turn, returns when to go on.
    fn compare_page(&mut self, now: Now, page: &mut Page, proofs: &mut usize, looks: &mut usize) -> Result<(), Time> {
        while let Some(entry) = page.entries.front().copied() {
            self.offer_unlisted(now, page, entry.key, looks)?;
            if !self.storage.verify_within(&entry.key, proofs) {
                return Err(now.mono);
            }
            page.entries.pop_front();
            page.from = entry.key.successor();
            self.on_entry(now, &page.neighbour, entry);
        }
        self.offer_unlisted(now, page, page.to, looks)
    }

    /// Offers the neighbour the records of this node up to the key `to` that it may know to be over, although it does
    /// not list them.
    fn offer_unlisted(&mut self, now: Now, page: &mut Page, to: Key, looks: &mut usize) -> Result<(), Time> {
        let Some(from) = page.from.filter(|from| *from <= to) else { return Ok(()) };
        let listed = page.entries.front().map(|entry| entry.key);
        let room = self.offers.room();
        let mut unlisted = Vec::new();
        let mut stopped = None;
        for held in self.storage.range_unverified(now.mono, from..=to) {
            let key = held.record.key;
            if *looks == 0 || unlisted.len() == room {
                stopped = Some((key, now.mono + if *looks == 0 { Duration::ZERO } else { BACK_OFF_MIN }));
                break;
            }
            *looks -= 1;
            let is_plain = held.record.class == Class::Plain;
            if is_plain && listed != Some(key) && held.record.version.time().after(UNLISTED_AGE_MIN) <= now.wall {
                unlisted.push(key);
            }
        }
        if !unlisted.is_empty() {
            self.timers.hasten(Timer::Replicate, now.mono);
        }
        for key in unlisted {
            self.offers.add(page.neighbour, key, Reach::Each);
        }
        page.from = stopped.map(|(key, _)| key).or(Some(to));
        stopped.map_or(Ok(()), |(_, at)| Err(at))
    }

    /// `from` stores what `entry` says: this node fetches or buries the record, or notes the replica.
    fn on_entry(&mut self, now: Now, from: &Contact, entry: Entry) {
        if entry.rank.life == Life::Over {
            return self.bury_as_told(now, &entry);
        }
        let comparison = self.compare(now, &entry);
        if comparison == Comparison::Invalid {
            self.note_newer_claim(now, &entry);
        }
        if comparison == Comparison::Same {
            self.storage.heard(&entry.key, &from.id);
        }
        let has_room = self.syncing.fetches.len() < FETCHES_WAITING_MAX + SETTLE_NEIGHBOURS * ENTRIES_MAX;
        if comparison.is_missing_here() && has_room && self.may_belong_here(now, &entry.key) {
            self.syncing.fetches.push_back((*from, entry));
        }
    }

    /// Whether a record of `key` is worth fetching: this node stores an older one, or would be a replica
    /// of it with the default replication. An entry does not state the replication of its record.
    fn may_belong_here(&self, now: Now, key: &Key) -> bool {
        self.storage.find(now.mono, key).is_some() || self.is_replica(key, self.params.replication_default)
    }

    /// Whether no contact is left that could be asked instead of a neighbour.
    fn has_asked_all_contacts(&mut self) -> bool {
        self.table.closest(self.me.id.key(), self.params.k, &mut self.nearby);
        self.nearby.iter().all(|contact| self.syncing.neighbours.contains_key(&contact.id))
    }

    /// A neighbour has not answered: it is asked again, or another one is.
    fn neighbour_is(&mut self, now: Now, id: &NodeId, state: Neighbour) {
        self.syncing.update(id, state);
        self.timers.hasten(Timer::Sync, now.mono);
    }
}

/// Fetching.
impl Node {
    /// Asks for missing records, at most [`FETCHES_IN_FLIGHT_MAX`] at a time. A record that a peer has
    /// promised by an OFFER waits: if the peer does not send it, it is fetched afterwards.
    fn fetch(&mut self, now: Now, out: &mut Actions) {
        for _ in 0..self.syncing.fetches.len() {
            if self.wanted.fetches() >= self.syncing.fetches_max() {
                return;
            }
            let Some((contact, entry)) = self.syncing.fetches.pop_front() else { return };
            if !self.compare(now, &entry).is_missing_here() {
                continue;
            }
            if self.wanted.is_fetched(&entry.key) || self.wanted.is_awaited(now.mono, &entry.key, entry.rank) {
                self.syncing.fetches.push_back((contact, entry));
                self.timers.hasten(Timer::Sync, now.mono + self.params.rpc_timeout);
                continue;
            }
            self.wanted.begin_fetch(entry.key, entry.rank, contact.id);
            self.syncing.in_flight.push((contact, entry));
            self.call(now, contact, Purpose::FetchMissing(entry.key), out);
        }
    }

    /// A missing record has arrived, or will not. This node stores it if it is a replica, or stores an
    /// older one.
    pub(crate) fn on_missing_outcome(&mut self, now: Now, key: Key, Report { call, outcome }: Report<'_>) {
        if let Outcome::Reply { reply: Reply::Value { record: block, .. }, .. } = outcome {
            let is_wanted = self.storage.find(now.mono, &key).is_some() || self.is_replica(&key, block.replication);
            if let (Content::Value(_), Some(conn), true) = (block.content, call.conn, is_wanted)
                && self.store_copy(now, &block, self.source_at(conn)).is_ok()
            {
                self.syncing.fetch_succeeded();
                self.settle_later(now);
                self.on_replica(now, &key, block.rank(), &call.to.id);
            }
        }
        if !call.expired {
            self.wanted.end_fetch(&key);
            self.syncing.fetch_ended(&key, matches!(outcome, Outcome::Passed(_)));
            self.timers.hasten(Timer::Sync, now.mono);
        }
    }
}

/// Answering SYNCs of peers.
impl Node {
    /// Sends a page of what this node stores in `range`, in the order of keys: live records, and the
    /// young tombstones of plain records. A peer learns of old ones when it offers its records. The page ends before a
    /// record that cannot be verified in this turn.
    pub(crate) fn send_page(&mut self, now: Now, caller: &Caller, range: RangeInclusive<Key>, out: &mut Actions) {
        let (live, cut) = self.storage.page(now.mono, range.clone(), ENTRIES_MAX + 1, VERIFIED_PER_TURN_MAX);
        let live = live.into_iter().map(|held| Entry::of(&held.record));
        // The key of the last tombstone that is read, if a bound ends the reading: more may follow it.
        let mut last_read = None;
        let read = self.storage.tombstones(range).take(TOMBSTONES_PER_PAGE_MAX).enumerate();
        let read = read.inspect(|(nth, (key, _))| last_read = (nth + 1 == TOMBSTONES_PER_PAGE_MAX).then_some(**key));
        let ended = read.filter_map(|(_, (key, tombstone))| tombstone_entry(*key, tombstone));
        let ended = ended.filter(|entry| cut.is_none_or(|cut| entry.key < cut));
        let ended = ended.filter(|entry| self.storage.find(now.mono, &entry.key).is_none()).take(ENTRIES_MAX + 1);
        let mut entries: Vec<Entry> = ended.collect();
        entries.extend(live);
        entries.sort_unstable_by_key(|entry| entry.key);
        if cut.is_some() && entries.is_empty() {
            return out.reply_to(caller, Reply::Error(ErrorCode::TOO_MANY));
        }
        let complete = last_read.map_or(entries.len(), |last| entries.partition_point(|entry| entry.key <= last));
        // The peer asks for the keys behind the last entry, so a page with `more` must not be empty.
        let sent = if complete == 0 { entries.len() } else { complete };
        let more = entries.len() > ENTRIES_MAX || sent < entries.len() || last_read.is_some() || cut.is_some();
        entries.truncate(sent.min(ENTRIES_MAX));
        self.count_maintenance(1 + entries.len() * ENTRY_SIZE);
        out.reply_to(caller, Reply::Synced { more, entries: List::lend(&entries) });
    }

    /// Sends the entry of `key`: of the record, or of the tombstone of a plain one. A PUT asks for such a
    /// page of one key, so it does not count as maintenance.
    pub(crate) fn send_entry(&mut self, now: Now, caller: &Caller, key: Key, out: &mut Actions) {
        let entry = self.entry(now, key);
        out.reply_to(caller, Reply::Synced { more: false, entries: List::lend(entry.as_slice()) });
    }

    /// The entry of `key`: of the record, or of the tombstone of a plain one.
    pub(super) fn entry(&self, now: Now, key: Key) -> Option<Entry> {
        let (held, tombstone) = self.storage.known(now, &key);
        held.map(|held| Entry::of(&held.record)).or_else(|| tombstone_entry(key, tombstone?))
    }
}

/// The entry of a key whose plain records have ended up to `tombstone`; `None` if none has.
fn tombstone_entry(key: Key, tombstone: Tombstone) -> Option<Entry> {
    let rank = Rank { class: Class::Plain, life: Life::Over, version: tombstone.plain? };
    Some(Entry { key, rank, crc: 0 })
}
