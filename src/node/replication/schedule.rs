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
use std::time::Duration;

use log::debug;
use rand::RngExt;

use crate::contact::Contact;
use crate::id::{Key, NodeId};
use crate::limits::{
    CHANGES_MAX, CHANGES_REST, ENTRIES_WAITING_MAX, HEARD_ENOUGH, OFFER_PAUSE_MIN, ROUND_AFTER_CUT_OFF, SCAN_PAUSE,
    SCANNED_PER_TURN_MAX, STRAY_PAUSE, WIDEN_PAUSE,
};
use crate::node::Node;
use crate::node::action::Actions;
use crate::node::replication::offer::Reach;
use crate::node::timers::Timer;
use crate::storage::Held;
use crate::time::{Now, Time};

/// What is due within this part of `replicate_interval` is taken along in a round.
const TAKEN_ALONG: f64 = 0.2;

/// Scans of the storage, and when each may go on.
#[derive(Debug)]
pub(crate) struct Schedule {
    /// The first that need not rest goes on; of each kind there is one that has not begun.
    scans: VecDeque<Scan>,
    /// When the scan may go on.
    rested: Time,
    /// When the next scan after changes may begin.
    changes_rested: Time,
    /// When a record may be offered to all its replicas once more.
    widened: BTreeMap<Key, Time>,
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
pub(crate) enum Unsettled {
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

impl Schedule {
    pub(crate) fn new() -> Self {
        Self { scans: VecDeque::new(), rested: Time::ZERO, changes_rested: Time::ZERO, widened: BTreeMap::new() }
    }

    /// Which scan goes on now: the first, but for one after changes that must not begin yet.
    fn next_scan(&self, now: Time) -> Option<usize> {
        let rests = |scan: &Scan| {
            scan.began.is_none() && matches!(scan.why, Trigger::Changes { .. }) && now < self.changes_rested
        };
        self.scans.iter().position(|scan| !rests(scan))
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
    pub(crate) fn plan_offer(&mut self, now: Now, key: &Key) {
        let Some(held) = self.storage.find(now.mono, key) else { return };
        let (expires, replication) = (held.expires, held.record.replication);
        let at = self.first_offer(now.mono, key, replication, expires);
        self.storage.schedule(key, at);
    }

    /// When a record of `key` that is new here, with this replication and this end, is due: when
    /// others may need it again.
    pub(crate) fn first_offer(&mut self, now: Time, key: &Key, replication: u8, expires: Time) -> Time {
        let Some(half) = half_worth_an_offer(now, expires) else { return expires };
        let mut next = self.params.replicate_interval.min(half);
        if self.status.is_settled() && !self.in_scope(key, replication) {
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
    pub(crate) fn begin_round(&mut self, now: Now, due: &[Key]) {
        if due.is_empty() {
            return;
        }
        if !self.status.is_settled() {
            return due.iter().for_each(|key| self.plan_offer(now, key));
        }
        let in_flight = self.schedule.scans.iter().find_map(|scan| match scan.why {
            Trigger::Round { next, .. } => Some(next),
            Trigger::Changes { .. } | Trigger::Settled(_) | Trigger::Leaving => None,
        });
        let next = in_flight.unwrap_or_else(|| {
            let interval = self.params.replicate_interval;
            let next = now.mono + self.jitter(interval);
            let why = Trigger::Round { until: now.mono + interval.mul_f64(TAKEN_ALONG), next };
            self.schedule.scans.push_back(Scan::new(why));
            next
        });
        for key in due {
            let Some(held) = self.storage.find(now.mono, key) else { continue };
            let seen = ScanEntry::of(held);
            if self.offers.has_room() {
                self.offer_in_round(now, seen, next);
            } else {
                self.storage.schedule(key, now.mono + OFFER_PAUSE_MIN);
            }
        }
        self.timers.hasten(Timer::Replicate, now.mono);
    }

    /// A contact entered the table, or woke up: it is offered what it shall hold.
    pub(crate) fn offer_to_newcomer(&mut self, now: Now, id: &NodeId) {
        self.note_change(now, |met, gone| move_over(id, gone, met));
    }

    /// A contact died, or left: whoever holds in its place is offered what it held.
    pub(crate) fn offer_in_place_of(&mut self, now: Now, id: &NodeId) {
        self.note_change(now, |met, gone| move_over(id, met, gone));
    }

    /// Contacts came or went: the next walk over changes is told by `note`, of whom it knows as met
    /// and as gone.
    fn note_change(&mut self, now: Now, note: impl FnOnce(&mut BTreeSet<NodeId>, &mut BTreeSet<NodeId>)) {
        if self.status.is_settled() && !self.storage.is_empty() {
            if let Some((met, gone)) = self.schedule.changes() {
                note(met, gone);
            }
            self.timers.hasten(Timer::Replicate, now.mono);
        }
    }

    /// This node has settled: `what` is offered; everything, if that is under way yet.
    pub(crate) fn offer_after_settling(&mut self, now: Now, what: Unsettled) {
        let scans = &mut self.schedule.scans;
        let all = scans.iter().any(|scan| matches!(scan.why, Trigger::Settled(Unsettled::All)));
        let what = if all { Unsettled::All } else { what };
        scans.retain(|scan| !matches!(scan.why, Trigger::Settled(_)));
        scans.push_back(Scan::new(Trigger::Settled(what)));
        self.timers.hasten(Timer::Replicate, now.mono);
    }

    /// This node leaves: what too few hold is offered, if there is anybody.
    pub(crate) fn offer_before_leaving(&mut self, now: Now) {
        self.schedule.scans.clear();
        if self.table.live() > 0 && !self.storage.is_empty() {
            self.schedule.scans.push_back(Scan::new(Trigger::Leaving));
            self.timers.hasten(Timer::Replicate, now.mono);
        }
    }

    /// Whether a scan, an offer or a hand-over waits.
    pub(crate) fn has_replication_work(&self) -> bool {
        !self.schedule.scans.is_empty() || self.offers.is_waiting() || self.copies.is_waiting()
    }

    /// Whether anything is left to offer or to hand over, and a contact to take it.
    pub(crate) fn is_replicating(&self) -> bool {
        let in_flight = self.offers.is_offering() || self.copies.is_handing_over();
        (self.has_replication_work() || in_flight) && self.table.live() > 0
    }

    /// Whether a scan can go on, and may add to the offers that wait.
    pub(crate) fn is_scanning(&self, now: Time) -> bool {
        self.schedule.next_scan(now).is_some() && self.offers.has_room()
    }
}

/// One turn.
impl Node {
    /// Goes on with the first scan, and sends what there is to send.
    pub(crate) fn replicate(&mut self, now: Now, out: &mut Actions) {
        self.scan_on(now);
        self.send_offers(now, out);
        self.send_hand_overs(now, out);
        if self.is_scanning(now.mono) {
            self.timers.hasten(Timer::Replicate, now.mono.max(self.schedule.rested));
        } else if !self.schedule.scans.is_empty() && self.offers.has_room() {
            self.timers.hasten(Timer::Replicate, self.schedule.changes_rested);
        }
    }

    /// Looks at the next records on behalf of the walk that is under way.
    fn scan_on(&mut self, now: Now) {
        if !self.offers.has_room() || now.mono < self.schedule.rested {
            return;
        }
        let Some(at) = self.schedule.next_scan(now.mono) else { return };
        let Some(mut scan) = self.schedule.scans.remove(at) else { return };
        let began = *scan.began.get_or_insert(now.mono);
        let next = self.storage.walk(scan.after.as_ref()).take(SCANNED_PER_TURN_MAX).map(ScanEntry::of);
        let next: Vec<ScanEntry> = next.collect();
        let over = next.len() < SCANNED_PER_TURN_MAX;
        for seen in next {
            if !self.offers.has_room() {
                return self.schedule.scans.insert(at, scan);
            }
            scan.after = Some(seen.key);
            if seen.expires > now.mono {
                self.look_at(now, seen, &scan.why);
            }
        }
        if over {
            debug!("walk done entries={}", self.offers.entries());
            if matches!(scan.why, Trigger::Changes { .. }) {
                self.schedule.changes_rested = now.mono + now.mono.since(began) * CHANGES_REST;
            }
        } else {
            let pause = if self.status.is_leaving() { Duration::ZERO } else { SCAN_PAUSE };
            self.schedule.rested = now.mono + pause;
            self.schedule.scans.insert(at, scan);
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
            self.offers.add(to, seen.key, Reach::One);
        }
    }

    /// Offers the record to the nearest one, who knows best who else shall hold it.
    fn offer_to_nearest(&mut self, seen: ScanEntry) {
        self.find_nearest(&seen.key, 1);
        if let Some(to) = self.nearby.first().copied() {
            self.offers.add(to, seen.key, Reach::One);
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
            self.offers.add(*contact, key, Reach::Each);
        }
        let Some(last) = others.last() else { return };
        let limit = last.id.key().distance(&key);
        let places = gone.iter().filter(|id| id.key().distance(&key) < limit).count();
        for contact in others.iter().rev().take(places) {
            self.offers.add(*contact, key, Reach::Each);
        }
    }

    /// Offers the record of `key` to all who shall hold it, but for this node and `except`.
    fn offer_to_all(&mut self, key: &Key, replication: usize, except: Option<&NodeId>) {
        let own_index = self.find_nearest(key, replication);
        let replication = if self.status.is_leaving() { replication + 1 } else { replication };
        for contact in replicas_beside(&self.nearby, own_index, replication) {
            if Some(&contact.id) != except {
                self.offers.add(*contact, *key, Reach::Each);
            }
        }
    }

    /// Somebody was found to hold less than this node does: all who shall hold the record of `key`
    /// are offered it, but for `except`, who is taken care of.
    pub(crate) fn widen(&mut self, now: Now, key: &Key, except: &NodeId) {
        let schedule = &mut self.schedule;
        if schedule.widened.len() >= ENTRIES_WAITING_MAX {
            schedule.widened.retain(|_, again| *again > now.mono);
        }
        let too_soon = schedule.widened.get(key).is_some_and(|again| *again > now.mono);
        let crowded = schedule.widened.len() >= ENTRIES_WAITING_MAX || !self.offers.has_room();
        let Some(held) = self.storage.find(now.mono, key).filter(|_| !too_soon && !crowded) else { return };
        let replication = usize::from(held.record.replication);
        schedule.widened.insert(*key, now.mono + WIDEN_PAUSE);
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
    pub(crate) fn jitter(&mut self, span: Duration) -> Duration {
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
