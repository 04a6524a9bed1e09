//! Keeping records held by those who shall hold them: what is offered, to whom, and when.
//!
//! Offers have four occasions, and each is a *walk* over the storage, a bounded bit of it in a
//! turn:
//!
//! * A *round*: a record is due at half of its remaining life or after `replicate_interval`. Then it
//!   is offered to one of those who shall hold it, the next farther one, and by the last one to
//!   the nearest: in this ring each is offered it once, for 45 bytes. What is due soon is taken
//!   along, and due together ever after, so that records share their OFFERs.
//! * *Changes*: a contact came, or went. It is offered what it shall hold now, or whoever holds in
//!   its place is: by the two nearest holders, and by the farthest, who would know best.
//! * After *settling*, what no neighbour was heard to hold.
//! * Before *leaving*, what too few others were heard to hold, to all who shall hold it.
//!
//! Whoever of two holds the larger record when an offer shows that they differ, offers it to *all*
//! who shall hold it; so one disagreement found anywhere in the ring ends all of them.
//!
//! Targets come from the own table, never from a search. How an offer is made, answered and
//! followed by copies is the business of [`crate::node::replication::offer`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use log::debug;
use rand::RngExt;

use crate::contact::Contact;
use crate::id::{KEY_SIZE, Key, NodeId};
use crate::limits::{
    CHANGES_MAX, CHANGES_REST, COPIES_IN_FLIGHT_MAX, COPIES_TO_ONE_MAX, COPIES_WAITING_MAX, ENTRIES_MAX,
    ENTRIES_WAITING_MAX, HEARD_ENOUGH, K_MAX, OFFER_PAUSE_MIN, ROUND_AFTER_CUT_OFF, SCAN_PAUSE, SCANNED_PER_TURN_MAX,
    STRAY_PAUSE, WIDEN_PAUSE,
};
use crate::node::Node;
use crate::node::action::Actions;
use crate::node::timers::Timer;
use crate::record::Rank;
use crate::storage::Held;
use crate::time::{Now, Time};

/// What is due within this part of `replicate_interval` is taken along in a round.
const TAKEN_ALONG: f64 = 0.2;

/// Offers to make, offers made, and copies that were wanted.
#[derive(Debug)]
pub(in crate::node) struct Replicating {
    /// The first that need not rest is under way; of each kind there is one that has not begun.
    scans: VecDeque<Scan>,
    /// What is to be offered, by whom it is offered to.
    pub(in crate::node) waiting: BTreeMap<NodeId, Offer>,
    /// Entries in `waiting`.
    entries: usize,
    /// When the walk may go on.
    rested: Time,
    /// When the next walk over changes may begin.
    changes_rested: Time,
    pub(in crate::node) in_flight: BTreeMap<OfferId, Offer>,
    next: u64,
    /// Copies that were wanted, with the contacts that wanted them.
    pub(in crate::node) copies: BTreeMap<(NodeId, Key), Contact>,
    /// How many copies are on their way, by whom they go to.
    pub(in crate::node) copying: BTreeMap<NodeId, usize>,
    /// What this node has asked for.
    pub(in crate::node) asked_for: BTreeMap<Key, AskedFor>,
    /// When a record may be offered to all once more.
    widened: BTreeMap<Key, Time>,
}

/// Names an offer; never used for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::node) struct OfferId(u64);

/// Records for one peer.
#[derive(Debug)]
pub(in crate::node) struct Offer {
    pub(in crate::node) to: Contact,
    pub(in crate::node) keys: BTreeMap<Key, Reach>,
}

/// A record that this node has asked for.
#[derive(Clone, Copy, Debug)]
pub(in crate::node) struct AskedFor {
    pub(in crate::node) rank: Rank,
    /// Who offered it.
    pub(in crate::node) of: NodeId,
    /// How long that one is waited for before another one is asked.
    pub(in crate::node) until: Time,
}

/// Whom a record is offered to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::node) enum Reach {
    /// One of those who shall hold it; all others too, if that one wants it.
    One,
    /// Each who needs it: whoever wants it gets a copy, and that is all.
    Each,
}

/// A walk over all records, in the order of their keys.
#[derive(Debug)]
struct Scan {
    why: Trigger,
    /// When it began, once it has.
    began: Option<Time>,
    /// The last key that it has looked at.
    after: Option<Key>,
}

/// Why records are offered.
#[derive(Debug)]
enum Trigger {
    /// What is due by `until` is offered now, and again at `next`.
    Round { until: Time, next: Time },
    /// Contacts came and went.
    Changes { met: BTreeSet<NodeId>, gone: BTreeSet<NodeId> },
    /// This node has settled.
    Settled(Unsettled),
    /// This node is leaving.
    Leaving,
}

/// What is offered once this node has settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::node) enum Unsettled {
    /// What nobody was heard to hold.
    Unheard,
    /// Everything: it may all be old.
    All,
}

/// What a walk sees of a record.
#[derive(Clone, Copy, Debug)]
struct ScanEntry {
    key: Key,
    replication: usize,
    due: Time,
    expires: Time,
    heard_from: usize,
}

impl Scan {
    fn new(why: Trigger) -> Self {
        Self { why, began: None, after: None }
    }
}

impl Replicating {
    pub(in crate::node) fn new() -> Self {
        Self {
            scans: VecDeque::new(),
            waiting: BTreeMap::new(),
            entries: 0,
            rested: Time::ZERO,
            changes_rested: Time::ZERO,
            in_flight: BTreeMap::new(),
            next: 0,
            copies: BTreeMap::new(),
            copying: BTreeMap::new(),
            asked_for: BTreeMap::new(),
            widened: BTreeMap::new(),
        }
    }

    /// Nothing is offered or copied to `id` any more.
    pub(in crate::node) fn forget(&mut self, id: &NodeId) {
        if let Some(offer) = self.waiting.remove(id) {
            self.entries -= offer.keys.len();
        }
        self.copies.retain(|(to, _), _| to != id);
    }

    /// Whether a walk is under way that can go on: it may add to what waits.
    pub(in crate::node) fn is_scanning(&self, now: Time) -> bool {
        self.next_scan(now).is_some() && self.has_room()
    }

    /// Which walk goes on now: the first, but for one over changes that must not begin yet.
    fn next_scan(&self, now: Time) -> Option<usize> {
        let rests = |scan: &Scan| {
            scan.began.is_none() && matches!(scan.why, Trigger::Changes { .. }) && now < self.changes_rested
        };
        self.scans.iter().position(|scan| !rests(scan))
    }

    /// Whether there is anything to do in the next turn.
    pub(in crate::node) fn is_waiting(&self) -> bool {
        !self.scans.is_empty() || !self.waiting.is_empty() || !self.copies.is_empty()
    }

    /// Whether what one record may bring about has room.
    fn has_room(&self) -> bool {
        self.entries + K_MAX <= ENTRIES_WAITING_MAX
    }

    /// Notes that the record of `key` is to be offered to `to`; not beyond the bound.
    fn offer(&mut self, to: Contact, key: Key, reach: Reach) {
        if self.entries >= ENTRIES_WAITING_MAX {
            return;
        }
        let offer = self.waiting.entry(to.id).or_insert_with(|| Offer { to, keys: BTreeMap::new() });
        if offer.keys.insert(key, reach).is_none() {
            self.entries += 1;
        }
    }

    /// Notes that `to` lacks the record of `key`; not beyond the bound.
    pub(in crate::node) fn copy(&mut self, to: Contact, key: Key) {
        if self.copies.len() < COPIES_WAITING_MAX {
            self.copies.insert((to.id, key), to);
        }
    }

    /// Takes a copy that may be sent now, for some are under way to each peer and overall.
    pub(in crate::node) fn take_copy_to_send(&mut self) -> Option<(Contact, Key)> {
        if self.copying.values().sum::<usize>() >= COPIES_IN_FLIGHT_MAX {
            return None;
        }
        let mut from = Bound::Unbounded;
        while let Some((&(to, key), &contact)) = self.copies.range((from, Bound::Unbounded)).next() {
            let in_flight = self.copying.entry(to).or_default();
            if *in_flight < COPIES_TO_ONE_MAX {
                *in_flight += 1;
                self.copies.remove(&(to, key));
                return Some((contact, key));
            }
            from = Bound::Excluded((to, Key::new([u8::MAX; KEY_SIZE])));
        }
        None
    }

    /// A copy to `to` is not under way any more.
    pub(in crate::node) fn copy_over(&mut self, to: &NodeId) {
        if let Some(in_flight) = self.copying.get_mut(to) {
            *in_flight -= 1;
            if *in_flight == 0 {
                self.copying.remove(to);
            }
        }
    }

    /// Names an offer that is about to be made.
    pub(in crate::node) fn begin(&mut self, offer: Offer) -> OfferId {
        let id = OfferId(self.next);
        self.next += 1;
        self.in_flight.insert(id, offer);
        id
    }

    /// Takes a full OFFER at most out of what waits for `to`.
    pub(in crate::node) fn take_waiting(&mut self, to: &NodeId) -> Option<Offer> {
        let waiting = self.waiting.get_mut(to)?;
        let rest = waiting.keys.keys().nth(ENTRIES_MAX).copied().map(|first| waiting.keys.split_off(&first));
        let taken = Offer { to: waiting.to, keys: std::mem::take(&mut waiting.keys) };
        self.entries -= taken.keys.len();
        match rest {
            Some(rest) => waiting.keys = rest,
            None => drop(self.waiting.remove(to)),
        }
        Some(taken)
    }

    /// The walk over changes that has not begun; it may be too late for one that has.
    fn changes(&mut self) -> Option<(&mut BTreeSet<NodeId>, &mut BTreeSet<NodeId>)> {
        let fresh = |scan: &Scan| scan.began.is_none() && matches!(scan.why, Trigger::Changes { .. });
        if !self.scans.iter().any(fresh) {
            let why = Trigger::Changes { met: BTreeSet::new(), gone: BTreeSet::new() };
            self.scans.push_back(Scan::new(why));
        }
        self.scans.iter_mut().rev().find_map(|scan| match &mut scan.why {
            Trigger::Changes { met, gone } => Some((met, gone)),
            Trigger::Round { .. } | Trigger::Settled(_) | Trigger::Leaving => None,
        })
    }
}

/// Occasions.
impl Node {
    /// The record of `key` is due anew: when others may need it again.
    pub(in crate::node) fn plan_offer(&mut self, now: Now, key: &Key) {
        let Some(held) = self.storage.find(now.mono, key) else { return };
        let (expires, replication) = (held.expires, held.record.replication);
        let at = self.first_offer(now.mono, key, replication, expires);
        self.storage.schedule(key, at);
    }

    /// When a record of `key` that is new here, with this replication and this end, is due: when
    /// others may need it again.
    pub(in crate::node) fn first_offer(&mut self, now: Time, key: &Key, replication: u8, expires: Time) -> Time {
        let Some(half) = half_worth_an_offer(now, expires) else { return expires };
        let mut next = self.params.replicate_interval.min(half);
        if self.is_settled() && !self.in_scope(key, replication) {
            // Whoever brought it did not know those who are responsible for it; they may know better.
            next = next.min(STRAY_PAUSE);
        }
        now + self.jitter(next).max(OFFER_PAUSE_MIN)
    }

    /// When a record whose life ends at `expires` is due after now: at `next`, or at half of the
    /// life that is left; never again, if that is not worth it.
    fn next_offer(&mut self, now: Time, expires: Time, next: Time) -> Time {
        let Some(half) = half_worth_an_offer(now, expires) else { return expires };
        next.max(now + OFFER_PAUSE_MIN).min(now + self.jitter(half))
    }

    /// Records are due: a round begins, or goes on with them.
    pub(in crate::node) fn begin_round(&mut self, now: Now, due: &[Key]) {
        if due.is_empty() {
            return;
        }
        if !self.is_settled() {
            return due.iter().for_each(|key| self.plan_offer(now, key));
        }
        let in_flight = self.upkeep.replicating.scans.iter().find_map(|scan| match scan.why {
            Trigger::Round { next, .. } => Some(next),
            Trigger::Changes { .. } | Trigger::Settled(_) | Trigger::Leaving => None,
        });
        let next = in_flight.unwrap_or_else(|| {
            let interval = self.params.replicate_interval;
            let next = now.mono + self.jitter(interval);
            let why = Trigger::Round { until: now.mono + interval.mul_f64(TAKEN_ALONG), next };
            self.upkeep.replicating.scans.push_back(Scan::new(why));
            next
        });
        for key in due {
            let Some(held) = self.storage.find(now.mono, key) else { continue };
            let seen = ScanEntry::of(held);
            if self.upkeep.replicating.has_room() {
                self.offer_in_round(now, seen, next);
            } else {
                self.storage.schedule(key, now.mono + OFFER_PAUSE_MIN);
            }
        }
        self.timers.hasten(Timer::Replicate, now.mono);
    }

    /// A contact entered the table, or woke up: it is offered what it shall hold.
    pub(in crate::node) fn offer_to_newcomer(&mut self, now: Now, id: &NodeId) {
        self.note_change(now, |met, gone| move_over(id, gone, met));
    }

    /// A contact died, or left: whoever holds in its place is offered what it held.
    pub(in crate::node) fn offer_in_place_of(&mut self, now: Now, id: &NodeId) {
        self.note_change(now, |met, gone| move_over(id, met, gone));
    }

    /// Contacts came or went: the next walk over changes is told by `note`, of whom it knows as met
    /// and as gone.
    fn note_change(&mut self, now: Now, note: impl FnOnce(&mut BTreeSet<NodeId>, &mut BTreeSet<NodeId>)) {
        if self.is_settled() && !self.storage.is_empty() {
            if let Some((met, gone)) = self.upkeep.replicating.changes() {
                note(met, gone);
            }
            self.timers.hasten(Timer::Replicate, now.mono);
        }
    }

    /// This node has settled: `what` is offered; everything, if that is under way yet.
    pub(in crate::node) fn offer_after_settling(&mut self, now: Now, what: Unsettled) {
        let scans = &mut self.upkeep.replicating.scans;
        let all = scans.iter().any(|scan| matches!(scan.why, Trigger::Settled(Unsettled::All)));
        let what = if all { Unsettled::All } else { what };
        scans.retain(|scan| !matches!(scan.why, Trigger::Settled(_)));
        scans.push_back(Scan::new(Trigger::Settled(what)));
        self.timers.hasten(Timer::Replicate, now.mono);
    }

    /// This node leaves: what too few hold is offered, if there is anybody.
    pub(in crate::node) fn offer_before_leaving(&mut self, now: Now) {
        self.upkeep.replicating.scans.clear();
        if self.table.live() > 0 && !self.storage.is_empty() {
            self.upkeep.replicating.scans.push_back(Scan::new(Trigger::Leaving));
            self.timers.hasten(Timer::Replicate, now.mono);
        }
    }

    /// Whether there is anything to offer or to copy yet, and anybody to take it.
    pub(in crate::node) fn is_replicating(&self) -> bool {
        let replicating = &self.upkeep.replicating;
        let busy = replicating.is_waiting() || !replicating.in_flight.is_empty() || !replicating.copying.is_empty();
        busy && self.table.live() > 0
    }
}

/// One turn.
impl Node {
    /// Goes on with the first walk, and sends what there is to send.
    pub(in crate::node) fn replicate(&mut self, now: Now, out: &mut Actions) {
        self.scan_on(now);
        self.send_offers(now, out);
        self.send_copies(now, out);
        let replicating = &self.upkeep.replicating;
        if replicating.is_scanning(now.mono) {
            self.timers.hasten(Timer::Replicate, now.mono.max(replicating.rested));
        } else if !replicating.scans.is_empty() && replicating.has_room() {
            self.timers.hasten(Timer::Replicate, replicating.changes_rested);
        }
    }

    /// Looks at the next records on behalf of the walk that is under way.
    fn scan_on(&mut self, now: Now) {
        if !self.upkeep.replicating.has_room() || now.mono < self.upkeep.replicating.rested {
            return;
        }
        let Some(at) = self.upkeep.replicating.next_scan(now.mono) else { return };
        let Some(mut scan) = self.upkeep.replicating.scans.remove(at) else { return };
        let began = *scan.began.get_or_insert(now.mono);
        let next = self.storage.walk(scan.after.as_ref()).take(SCANNED_PER_TURN_MAX).map(ScanEntry::of);
        let next: Vec<ScanEntry> = next.collect();
        let over = next.len() < SCANNED_PER_TURN_MAX;
        for seen in next {
            if !self.upkeep.replicating.has_room() {
                return self.upkeep.replicating.scans.insert(at, scan);
            }
            scan.after = Some(seen.key);
            if seen.expires > now.mono {
                self.look_at(now, seen, &scan.why);
            }
        }
        if over {
            debug!("walk done entries={}", self.upkeep.replicating.entries);
            if matches!(scan.why, Trigger::Changes { .. }) {
                self.upkeep.replicating.changes_rested = now.mono + now.mono.since(began) * CHANGES_REST;
            }
        } else {
            let pause = if self.is_leaving() { Duration::ZERO } else { SCAN_PAUSE };
            self.upkeep.replicating.rested = now.mono + pause;
            self.upkeep.replicating.scans.insert(at, scan);
        }
    }

    fn look_at(&mut self, now: Now, seen: ScanEntry, why: &Trigger) {
        match why {
            // Not what has just been offered and is due again soon, for its life is short.
            Trigger::Round { until, next } if seen.due <= *until && seen.is_due_soon(now.mono) => {
                self.offer_in_round(now, seen, *next);
            }
            Trigger::Changes { met, gone } => self.offer_after_changes(seen, met, gone),
            Trigger::Settled(Unsettled::All) => {
                self.offer_to_nearest(seen);
                let again = self.jitter(ROUND_AFTER_CUT_OFF);
                self.storage.hasten(&seen.key, now.mono + again);
            }
            Trigger::Settled(Unsettled::Unheard) if seen.heard_from == 0 => self.offer_along_the_ring(seen),
            Trigger::Round { .. } | Trigger::Settled(Unsettled::Unheard) => {}
            Trigger::Leaving => {
                if seen.heard_from < seen.replication.min(self.table.live()) {
                    self.offer_to_all(&seen.key, seen.replication, None);
                }
            }
        }
    }

    /// The record is offered in its round, unless enough others were heard to hold it. Where this
    /// node shall not hold it those may be as wrong as itself.
    fn offer_in_round(&mut self, now: Now, seen: ScanEntry, next: Time) {
        let enough = seen.heard_from >= HEARD_ENOUGH.min(seen.replication);
        if !enough || !self.table.fewer_closer(&seen.key, seen.replication) {
            self.offer_along_the_ring(seen);
        }
        let at = self.next_offer(now.mono, seen.expires, next);
        self.storage.schedule(&seen.key, at);
    }

    /// Offers the record to the next farther one of those who shall hold it; the last one, and
    /// whoever shall not hold it at all, to the nearest.
    fn offer_along_the_ring(&mut self, seen: ScanEntry) {
        let own_index = self.find_nearest(&seen.key, seen.replication);
        let others = replicas_beside(&self.nearby, own_index, seen.replication);
        if let Some(to) = others.get(own_index).or(others.first()).copied() {
            self.upkeep.replicating.offer(to, seen.key, Reach::One);
        }
    }

    /// Offers the record to the nearest one, who knows best who else shall hold it.
    fn offer_to_nearest(&mut self, seen: ScanEntry) {
        self.find_nearest(&seen.key, 1);
        if let Some(to) = self.nearby.first().copied() {
            self.upkeep.replicating.offer(to, seen.key, Reach::One);
        }
    }

    /// Offers the record to those of `met` who shall hold it, and to those who shall hold it now
    /// because some of `gone` do not.
    fn offer_after_changes(&mut self, seen: ScanEntry, met: &BTreeSet<NodeId>, gone: &BTreeSet<NodeId>) {
        let ScanEntry { key, replication, .. } = seen;
        let own_index = self.find_nearest(&key, replication);
        let others = replicas_beside(&self.nearby, own_index, replication);
        let is_met = |contact: &&Contact| met.contains(&contact.id);
        let nearer_before = own_index - self.nearby[..own_index].iter().filter(is_met).count();
        let farthest = own_index + 2 >= replication;
        if nearer_before > 1 && !farthest {
            return;
        }
        for contact in others.iter().filter(is_met) {
            self.upkeep.replicating.offer(*contact, key, Reach::Each);
        }
        let Some(last) = others.last() else { return };
        let limit = last.id.key().distance(&key);
        let places = gone.iter().filter(|id| id.key().distance(&key) < limit).count();
        for contact in others.iter().rev().take(places) {
            self.upkeep.replicating.offer(*contact, key, Reach::Each);
        }
    }

    /// Offers the record of `key` to all who shall hold it, but for this node and `except`.
    fn offer_to_all(&mut self, key: &Key, replication: usize, except: Option<&NodeId>) {
        let own_index = self.find_nearest(key, replication);
        let replication = if self.is_leaving() { replication + 1 } else { replication };
        for contact in replicas_beside(&self.nearby, own_index, replication) {
            if Some(&contact.id) != except {
                self.upkeep.replicating.offer(*contact, *key, Reach::Each);
            }
        }
    }

    /// Somebody was found to hold less than this node does: all who shall hold the record of `key`
    /// are offered it, but for `except`, who is taken care of.
    pub(in crate::node) fn widen(&mut self, now: Now, key: &Key, except: &NodeId) {
        let replicating = &mut self.upkeep.replicating;
        if replicating.widened.len() >= ENTRIES_WAITING_MAX {
            replicating.widened.retain(|_, again| *again > now.mono);
        }
        let too_soon = replicating.widened.get(key).is_some_and(|again| *again > now.mono);
        let crowded = replicating.widened.len() >= ENTRIES_WAITING_MAX || !replicating.has_room();
        let Some(held) = self.storage.find(now.mono, key).filter(|_| !too_soon && !crowded) else { return };
        let replication = usize::from(held.record.replication);
        replicating.widened.insert(*key, now.mono + WIDEN_PAUSE);
        self.offer_to_all(key, replication, Some(except));
    }

    /// Gathers the `n` contacts nearest to `key`, and says how many of them are nearer to it than
    /// this node.
    fn find_nearest(&mut self, key: &Key, n: usize) -> usize {
        self.table.closest(key, n, &mut self.nearby);
        let own = self.me.id.key().distance(key);
        self.nearby.partition_point(|contact| contact.id.key().distance(key) < own)
    }

    /// `span`, 20 % more or less, so that nodes that started together do not stay in step.
    pub(in crate::node) fn jitter(&mut self, span: Duration) -> Duration {
        span.mul_f64(self.rng.random_range(0.8..1.2))
    }
}

impl ScanEntry {
    fn of(held: &Held) -> Self {
        Self {
            key: held.record.key,
            replication: usize::from(held.record.replication),
            due: held.due(),
            expires: held.expires,
            heard_from: held.heard_from() as usize,
        }
    }

    /// Whether it is due before long, for the life that it has left.
    fn is_due_soon(&self, now: Time) -> bool {
        self.due < self.expires && self.due.since(now) <= self.expires.since(now).mul_f64(TAKEN_ALONG / 2.0)
    }
}

/// `id` is one of `to` from now on, if there is room, and none of `from`.
fn move_over(id: &NodeId, from: &mut BTreeSet<NodeId>, to: &mut BTreeSet<NodeId>) {
    from.remove(id);
    if to.len() < CHANGES_MAX {
        to.insert(*id);
    }
}

/// Those of `nearest`, the contacts nearest to a key, who shall hold its record besides this node,
/// if that is among the `replication` nearest itself.
fn replicas_beside(nearest: &[Contact], own_index: usize, replication: usize) -> &[Contact] {
    let others = if own_index < replication { replication - 1 } else { replication };
    &nearest[..others.min(nearest.len())]
}

/// Half of the life that is left to a record which ends at `expires`, if that is long enough for
/// the record to be offered.
fn half_worth_an_offer(now: Time, expires: Time) -> Option<Duration> {
    let half = expires.since(now) / 2;
    (half >= OFFER_PAUSE_MIN).then_some(half)
}
