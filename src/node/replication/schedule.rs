//! Which record is offered to which contact, and when.
//!
//! Replication keeps each record on its replicas, the nodes nearest to its key, while nodes come and go.
//! Offers have four triggers. Each trigger starts a *scan* over the storage, which handles a bounded
//! number of records in a turn:
//!
//! * [`Trigger::Round`]: a record is due after `replicate_interval`, or after half of its remaining life
//!   if that is less. Each replica then offers it to one other replica, the next farther one; the
//!   farthest offers it to the nearest. So each replica gets one offer in a round, of 45 bytes. A round
//!   includes records that are due soon and gives all of them the same next due time: from then on they
//!   share their OFFERs.
//! * [`Trigger::Changes`]: contacts were added or lost. A new contact is offered the records that it
//!   should store; the replica that follows a lost contact is offered the records of that contact. Only
//!   the two nearest replicas and the farthest one make these offers: they know the range best. But a contact that
//!   is back is offered by every replica what was written since that replica had lost it: the others may not have
//!   noticed that it was away, and it may not have noticed either.
//! * [`Trigger::Settled`]: this node has settled. It offers the records that no neighbour is known to store.
//! * [`Trigger::Leaving`]: this node leaves. It offers all records to all their other replicas.
//!
//! If an OFFER reveals a difference, the node with the larger record offers it to *all* replicas. So one
//! difference found between any two replicas repairs all of them. A node that replaces a record by one with fewer
//! replicas offers that to all former replicas at once.
//!
//! A bridge makes each of these offers in each address family, as if it were a network of its own.
//!
//! Targets come from the routing table of this node, never from a lookup: where the table is wrong, a
//! record may be offered to a node that is not its replica, and that node does not want it.
//! [`crate::node::replication::offer`] sends the offers, answers those of peers and hands records over.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use log::debug;
use rand::RngExt;

use crate::contact::{Contact, Family};
use crate::id::{Key, NodeId};
use crate::limits::{
    CHANGES_REST, ENTRIES_WAITING_MAX, ROUND_AFTER_CUT_OFF, SCAN_PAUSE, SCANNED_PER_TURN_MAX, STRAY_PAUSE,
    VERIFIED_PER_TURN_MAX,
};
use crate::node::Node;
use crate::node::action::Actions;
use crate::node::replication::offer::Reach;
use crate::node::rpc::waiting::BACK_OFF_MIN;
use crate::node::timers::Timer;
use crate::storage::Held;
use crate::time::{Now, Time, WallTime};

/// Contacts that came, and likewise contacts that went, for which one scan of the storage looks. It is more
/// than a table holds; contacts beyond it wait for the next round.
const CHANGES_MAX: usize = 1_024;

/// How long it is remembered when a contact was lost, if many are.
const LOSS_REMEMBERED: Duration = Duration::from_hours(1);

/// By so much the wall clocks of two nodes may differ without harm, when they tell whether a record was written after a
/// contact was lost.
const CLOCKS_DIFFER: Duration = Duration::from_mins(1);

/// The shortest time between two offers of a record with a short life. A record that lives less than twice
/// as long is not offered again.
const OFFER_PAUSE_MIN: Duration = Duration::from_secs(15);

/// The shortest time between two offers of a record to all of its replicas after a difference was found.
const WIDEN_PAUSE: Duration = Duration::from_secs(10);

/// If this many other nodes are known to store a record since it was last offered, it is not offered in
/// this round; fewer suffice if fewer shall store it. One peer that lies must not be enough.
const HEARD_ENOUGH: usize = 8;

/// A round includes the records that are due within this part of `replicate_interval`.
const DUE_SOON: f64 = 0.2;

/// Scans of the storage, and when each may continue.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    /// The first scan that need not wait continues. At most one scan of each kind has not begun.
    scans: VecDeque<Scan>,
    /// When the current scan may continue.
    scan_at: Time,
    /// When the next scan for changes may begin.
    changes_at: Time,
    /// When a record may next be offered to all its replicas.
    all_replicas_at: BTreeMap<Key, Time>,
    /// Contacts that were lost and are not back, and when; at most [`CHANGES_MAX`].
    lost: BTreeMap<NodeId, WallTime>,
    /// What has happened since all records were last offered, if this node is leaving.
    hand_over: HandOver,
}

/// A pass over all records, in the order of their keys.
#[derive(Debug)]
struct Scan {
    trigger: Trigger,
    /// When it began; `None` if it has not.
    began: Option<Time>,
    /// The last key that it has visited.
    after: Option<Key>,
}

/// Why records are offered.
#[derive(Debug)]
enum Trigger {
    /// Records that are due by `until` are offered now, and are due again at `next`.
    Round { until: Time, next: Time },
    /// Contacts were added or lost.
    Changes(BTreeMap<NodeId, Change>),
    /// This node has settled.
    Settled(Selection),
    /// This node is leaving.
    Leaving,
}

/// What has happened to a contact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It entered the table: it is offered the records that it should store.
    Added,
    /// The same, and it was lost at that moment: every replica offers it what was written since.
    Back(WallTime),
    /// It left, or became unresponsive: the replicas that follow it are offered the records that it stored.
    Lost,
}

/// Which records are offered once this node has settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// Those that no peer is known to store.
    Unreplicated,
    /// All: each of them may be old.
    All,
}

/// How far the hand-over of a leaving node has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum HandOver {
    /// All contacts that were asked store the records.
    #[default]
    Complete,
    /// Contacts have wanted records, or one is lost: all records are offered again at once.
    Unverified,
    /// A contact has refused a record, or did not answer: all records are offered again after a pause.
    Refused,
}

/// What a scan reads of a record.
#[derive(Clone, Copy, Debug)]
struct ScanEntry {
    key: Key,
    replication: usize,
    /// The time in its version.
    written: WallTime,
    due: Time,
    expires: Time,
    known_replicas: usize,
}

impl Scan {
    fn new(trigger: Trigger) -> Self {
        Self { trigger, began: None, after: None }
    }

    /// Whether it is for changes and can take more of them: one that has begun has visited some keys.
    fn takes_changes(&self) -> bool {
        self.began.is_none() && matches!(self.trigger, Trigger::Changes(_))
    }
}

impl Schedule {
    /// The index of the scan that continues now: the first, except one for changes that must not begin yet.
    fn next_scan(&self, now: Time) -> Option<usize> {
        self.scans.iter().position(|scan| !scan.takes_changes() || now >= self.changes_at)
    }

    /// Adds a change to the next scan for changes, up to a bound; a later change of a contact replaces
    /// an earlier one.
    fn add_change(&mut self, id: NodeId, change: Change) {
        if !self.scans.iter().any(Scan::takes_changes) {
            self.scans.push_back(Scan::new(Trigger::Changes(BTreeMap::new())));
        }
        let scan = self.scans.iter_mut().find(|scan| scan.takes_changes());
        if let Some(Scan { trigger: Trigger::Changes(changes), .. }) = scan {
            changes.remove(&id);
            if changes.values().filter(|other| other.is_loss() == change.is_loss()).count() < CHANGES_MAX {
                changes.insert(id, change);
            }
        }
    }

    /// Notes that the contact `id` is lost, or what it means that it was added.
    fn note_change(&mut self, now: Now, id: NodeId, change: Change) -> Change {
        if !change.is_loss() {
            return self.lost.remove(&id).map_or(change, Change::Back);
        }
        if self.lost.len() >= CHANGES_MAX {
            self.lost.retain(|_, at| now.wall.since(*at) < LOSS_REMEMBERED);
        }
        if self.lost.len() < CHANGES_MAX {
            self.lost.entry(id).or_insert(now.wall);
        }
        change
    }
}

impl Change {
    fn is_loss(self) -> bool {
        self == Change::Lost
    }
}

/// Triggers.
impl Node {
    /// Schedules the first offer of the record of `key`.
    pub(crate) fn plan_offer(&mut self, now: Now, key: &Key) {
        let Some(held) = self.storage.find_unverified(now.mono, key) else { return };
        let (expires, replication) = (held.expires, held.record.replication);
        let at = self.first_offer(now.mono, key, replication, expires);
        self.storage.schedule(key, at);
    }

    /// When a record of `key` that is new on this node is due, if it has this replication and ends at
    /// `expires`.
    pub(crate) fn first_offer(&mut self, now: Time, key: &Key, replication: u8, expires: Time) -> Time {
        let Some(half) = half_worth_an_offer(now, expires) else { return expires };
        let mut next = self.params.replicate_interval.min(half);
        if self.status.is_settled() && !self.is_replica(key, replication) {
            // Its source did not know the replicas; this node may know them.
            next = next.min(STRAY_PAUSE);
        }
        now + self.jitter(next).max(OFFER_PAUSE_MIN)
    }

    /// When a record whose life ends at `expires` is due again: at `next`, or after half of the
    /// remaining life if that is earlier; never, if the remaining life is too short for an offer.
    fn next_offer(&mut self, now: Time, expires: Time, next: Time) -> Time {
        let Some(half) = half_worth_an_offer(now, expires) else { return expires };
        next.max(now + OFFER_PAUSE_MIN).min(now + self.jitter(half))
    }

    /// The records `due` are due: a round begins, or the current one offers them.
    pub(crate) fn begin_round(&mut self, now: Now, due: &[Key]) {
        if due.is_empty() {
            return;
        }
        if !self.status.is_settled() {
            return due.iter().for_each(|key| self.plan_offer(now, key));
        }
        let in_flight = self.schedule.scans.iter().find_map(|scan| match scan.trigger {
            Trigger::Round { next, .. } => Some(next),
            Trigger::Changes(_) | Trigger::Settled(_) | Trigger::Leaving => None,
        });
        let next = in_flight.unwrap_or_else(|| {
            let interval = self.params.replicate_interval;
            let next = now.mono + self.jitter(interval);
            let trigger = Trigger::Round { until: now.mono + interval.mul_f64(DUE_SOON), next };
            self.schedule.scans.push_back(Scan::new(trigger));
            next
        });
        for key in due {
            let Some(held) = self.storage.find(now.mono, key) else { continue };
            let entry = ScanEntry::of(held);
            if self.offers.has_room() {
                self.offer_in_round(now, entry, next);
            } else {
                self.storage.schedule(key, now.mono + OFFER_PAUSE_MIN);
            }
        }
        self.timers.hasten(Timer::Replicate, now.mono);
    }

    /// A contact was added or lost: its records are offered. Until this node settles for the first time it has
    /// nothing to offer; [`Node::offer_after_settling`] follows. If it settles again because it had lost contacts, its
    /// records may be newer than those of the contacts that come back.
    pub(crate) fn offer_after_change(&mut self, now: Now, id: &NodeId, change: Change) {
        let change = self.schedule.note_change(now, *id, change);
        let may_offer = self.status.is_settled() || self.status.has_joined() && self.is_cut_off();
        if may_offer && !self.storage.is_empty() {
            self.schedule.add_change(*id, change);
            self.timers.hasten(Timer::Replicate, now.mono);
        }
    }

    /// This node has settled: it offers the records of `selection`, or all if a scan that offers all
    /// has not ended yet.
    pub(crate) fn offer_after_settling(&mut self, now: Now, selection: Selection) {
        let scans = &mut self.schedule.scans;
        let is_offering_all = scans.iter().any(|scan| matches!(scan.trigger, Trigger::Settled(Selection::All)));
        let selection = if is_offering_all { Selection::All } else { selection };
        scans.retain(|scan| !matches!(scan.trigger, Trigger::Settled(_)));
        scans.push_back(Scan::new(Trigger::Settled(selection)));
        self.timers.hasten(Timer::Replicate, now.mono);
    }

    /// This node leaves: it offers all records after `pause`, if a contact is live.
    pub(crate) fn offer_before_leaving(&mut self, now: Now, pause: Duration) {
        self.schedule.scans.clear();
        if self.table.live() > 0 && !self.storage.is_empty() {
            self.schedule.scans.push_back(Scan::new(Trigger::Leaving));
            self.schedule.scan_at = now.mono + pause;
            self.timers.hasten(Timer::Replicate, self.schedule.scan_at);
        }
    }

    /// If this node is leaving, it has to offer its records again, for this reason.
    pub(crate) fn hand_over_again(&mut self, why: HandOver) {
        if self.status.is_leaving() {
            self.schedule.hand_over = self.schedule.hand_over.max(why);
        }
    }

    /// How far the hand-over has come; it counts as complete from now on.
    pub(crate) fn take_hand_over(&mut self) -> HandOver {
        std::mem::take(&mut self.schedule.hand_over)
    }

    /// Whether a scan, an offer or a hand-over waits.
    pub(crate) fn has_replication_work(&self) -> bool {
        !self.schedule.scans.is_empty() || self.offers.is_waiting() || self.copies.is_waiting()
    }

    /// Whether anything is left to offer or to hand over, and a contact is live.
    pub(crate) fn is_replicating(&self) -> bool {
        let in_flight = self.offers.is_offering() || self.copies.is_handing_over();
        (self.has_replication_work() || in_flight) && self.table.live() > 0
    }

    /// Whether a scan can continue and may add to the waiting offers.
    pub(crate) fn is_scanning(&self, now: Time) -> bool {
        self.schedule.next_scan(now).is_some() && self.offers.has_room()
    }
}

/// One turn.
impl Node {
    /// Continues the current scan, and sends the offers and hand-overs that may leave.
    pub(crate) fn replicate(&mut self, now: Now, out: &mut Actions) {
        if !self.may_call() {
            return self.timers.hasten(Timer::Replicate, now.mono + BACK_OFF_MIN);
        }
        self.continue_scan(now);
        self.send_offers(now, out);
        self.send_hand_overs(now, out);
        if self.is_scanning(now.mono) {
            self.timers.hasten(Timer::Replicate, now.mono.max(self.schedule.scan_at));
        } else if !self.schedule.scans.is_empty() && self.offers.has_room() {
            self.timers.hasten(Timer::Replicate, self.schedule.changes_at);
        }
    }

    /// Visits the next records of the current scan.
    fn continue_scan(&mut self, now: Now) {
        if !self.offers.has_room() || now.mono < self.schedule.scan_at {
            return;
        }
        let Some(at) = self.schedule.next_scan(now.mono) else { return };
        let Some(mut scan) = self.schedule.scans.remove(at) else { return };
        let began = *scan.began.get_or_insert(now.mono);
        let next = self.storage.walk(scan.after.as_ref()).take(SCANNED_PER_TURN_MAX);
        let next = next.map(|held| (ScanEntry::of(held), self.storage.is_hidden(&held.record)));
        let next: Vec<(ScanEntry, bool)> = next.collect();
        let is_last = next.len() < SCANNED_PER_TURN_MAX;
        let mut proofs = VERIFIED_PER_TURN_MAX;
        for (entry, is_hidden) in next {
            if !self.offers.has_room() || !self.storage.verify_within(&entry.key, &mut proofs) {
                return self.schedule.scans.insert(at, scan);
            }
            scan.after = Some(entry.key);
            // A record that proves nothing may still be there.
            let is_sound = self.storage.unverified() == 0 || self.storage.find(now.mono, &entry.key).is_some();
            if is_sound && entry.expires > now.mono && !is_hidden {
                self.visit(now, entry, &scan.trigger);
            }
        }
        if is_last {
            debug!("scan done entries={}", self.offers.entries());
            if matches!(scan.trigger, Trigger::Changes(_)) {
                self.schedule.changes_at = now.mono + now.mono.since(began) * CHANGES_REST;
            }
        } else {
            let pause = if self.status.is_leaving() { Duration::ZERO } else { SCAN_PAUSE };
            self.schedule.scan_at = now.mono + pause;
            self.schedule.scans.insert(at, scan);
        }
    }

    /// Offers a record that a scan visits, if its trigger applies to the record.
    fn visit(&mut self, now: Now, entry: ScanEntry, trigger: &Trigger) {
        match trigger {
            // A record with a short life that has just been offered is due before `until` again: not now.
            Trigger::Round { until, next } if entry.due <= *until && entry.is_due_soon(now.mono) => {
                self.offer_in_round(now, entry, *next);
            }
            Trigger::Changes(changes) => {
                for overlay in self.overlays() {
                    self.offer_after_changes(entry, changes, *overlay);
                }
            }
            Trigger::Settled(Selection::All) => {
                self.offer_to_nearest(entry);
                let again = self.jitter(ROUND_AFTER_CUT_OFF);
                self.storage.hasten(&entry.key, now.mono + again);
            }
            Trigger::Settled(Selection::Unreplicated) if entry.known_replicas == 0 => self.offer_to_next(entry),
            Trigger::Round { .. } | Trigger::Settled(Selection::Unreplicated) => {}
            Trigger::Leaving => self.offer_to_replicas(&entry.key, entry.replication, None),
        }
    }

    /// Offers a record in its round, unless enough other replicas are known. A node that is no replica
    /// offers it in any case: the peers that are known to store it may be no replicas either.
    fn offer_in_round(&mut self, now: Now, entry: ScanEntry, next: Time) {
        let is_enough = entry.known_replicas >= HEARD_ENOUGH.min(entry.replication);
        if !is_enough || !self.fewer_closer(&entry.key, entry.replication) {
            self.offer_to_next(entry);
        }
        let at = self.next_offer(now.mono, entry.expires, next);
        self.storage.schedule(&entry.key, at);
    }

    /// Offers the record to the next farther replica. The farthest replica, and a node that is no
    /// replica, offer it to the nearest.
    fn offer_to_next(&mut self, entry: ScanEntry) {
        for overlay in self.overlays() {
            let own_index = self.find_nearest(&entry.key, entry.replication, *overlay);
            let others = other_replicas(&self.nearby, own_index, entry.replication);
            if let Some(to) = others.get(own_index).or(others.first()).copied() {
                self.offers.add(to, entry.key, Reach::One);
            }
        }
    }

    /// Offers the record to the contact nearest to it, which knows its replicas best.
    fn offer_to_nearest(&mut self, entry: ScanEntry) {
        for overlay in self.overlays() {
            self.find_nearest(&entry.key, 1, *overlay);
            if let Some(to) = self.nearby.first().copied() {
                self.offers.add(to, entry.key, Reach::One);
            }
        }
    }

    /// Offers the record to each added contact that is a replica of it, and to each node that is a
    /// replica only since a nearer contact was lost.
    fn offer_after_changes(&mut self, entry: ScanEntry, changes: &BTreeMap<NodeId, Change>, overlay: Option<Family>) {
        let ScanEntry { key, replication, written, .. } = entry;
        let own_index = self.find_nearest(&key, replication, overlay);
        let others = other_replicas(&self.nearby, own_index, replication);
        let missed = |contact: &&Contact| match changes.get(&contact.id) {
            Some(Change::Back(lost)) => written >= lost.before(CLOCKS_DIFFER),
            Some(Change::Added | Change::Lost) | None => false,
        };
        let is_added = |contact: &&Contact| changes.get(&contact.id).is_some_and(|change| !change.is_loss());
        let nearer_before = own_index - self.nearby[..own_index].iter().filter(is_added).count();
        let is_farthest = own_index + 2 >= replication;
        if nearer_before > 1 && !is_farthest {
            for contact in others.iter().filter(missed) {
                self.offers.add(*contact, key, Reach::Each);
            }
            return;
        }
        for contact in others.iter().filter(is_added) {
            self.offers.add(*contact, key, Reach::Each);
        }
        let Some(last) = others.last() else { return };
        let limit = last.id.key().distance(&key);
        let is_nearer_lost =
            |(id, change): &(&NodeId, &Change)| **change == Change::Lost && id.key().distance(&key) < limit;
        let vacancies = changes.iter().filter(is_nearer_lost).count();
        for contact in others.iter().rev().take(vacancies) {
            self.offers.add(*contact, key, Reach::Each);
        }
    }

    /// Offers the record of `key` to all other replicas except `except`.
    fn offer_to_replicas(&mut self, key: &Key, replication: usize, except: Option<&NodeId>) {
        for overlay in self.overlays() {
            let own_index = self.find_nearest(key, replication, *overlay);
            // A leaving node counts itself out: one more contact is a replica.
            let replication = if self.status.is_leaving() { replication + 1 } else { replication };
            for contact in other_replicas(&self.nearby, own_index, replication) {
                if Some(&contact.id) != except {
                    self.offers.add(*contact, *key, Reach::Each);
                }
            }
        }
    }

    /// This node has replaced a record of `key` that had `former` replicas by one with fewer. All of the former replicas
    /// are offered it: copies of two PUTs at different nodes may have crossed, so that one of them stores the smaller
    /// record although neither PUT has met it there.
    pub(crate) fn offer_to_former_replicas(&mut self, now: Now, key: &Key, former: u8) {
        if self.offers.has_room() {
            self.offer_to_replicas(key, former.into(), None);
            self.timers.hasten(Timer::Replicate, now.mono);
        }
    }

    /// A peer stores a smaller record of `key` than this node, or none: all replicas are offered it
    /// except that peer, which gets a copy. A record is not offered to all again within
    /// [`WIDEN_PAUSE`].
    pub(crate) fn offer_to_all_replicas(&mut self, now: Now, key: &Key, except: &NodeId) {
        let all_replicas_at = &mut self.schedule.all_replicas_at;
        if all_replicas_at.len() >= ENTRIES_WAITING_MAX {
            all_replicas_at.retain(|_, at| *at > now.mono);
        }
        let is_too_soon = all_replicas_at.get(key).is_some_and(|at| *at > now.mono);
        if is_too_soon || all_replicas_at.len() >= ENTRIES_WAITING_MAX || !self.offers.has_room() {
            return;
        }
        let Some(held) = self.storage.find(now.mono, key) else { return };
        all_replicas_at.insert(*key, now.mono + WIDEN_PAUSE);
        self.offer_to_replicas(key, usize::from(held.record.replication), Some(except));
    }

    /// Gathers the `n` contacts nearest to `key` in `overlay`. Returns how many of them are nearer to it than
    /// this node.
    fn find_nearest(&mut self, key: &Key, n: usize, overlay: Option<Family>) -> usize {
        self.gather_nearest(key, n, overlay);
        let own = self.me.id.key().distance(key);
        self.nearby.partition_point(|contact| contact.id.key().distance(key) < own)
    }

    /// `span`, 20 % more or less, so that nodes that started together do not act together.
    pub(crate) fn jitter(&mut self, span: Duration) -> Duration {
        span.mul_f64(self.rng.random_range(0.8..1.2))
    }

    /// Sets `timer` to `pause` from now, with jitter, unless it is set to an earlier moment.
    pub(crate) fn hasten_after(&mut self, timer: Timer, now: Now, pause: Duration) {
        let pause = self.jitter(pause);
        self.timers.hasten(timer, now.mono + pause);
    }
}

impl ScanEntry {
    fn of(held: &Held) -> Self {
        Self {
            key: held.record.key,
            replication: usize::from(held.record.replication),
            written: held.record.version.time(),
            due: held.due(),
            expires: held.expires,
            known_replicas: held.heard_from() as usize,
        }
    }

    /// Whether it is due soon compared with its remaining life.
    fn is_due_soon(&self, now: Time) -> bool {
        self.due < self.expires && self.due.since(now) <= self.expires.since(now).mul_f64(DUE_SOON / 2.0)
    }
}

/// The replicas of a record besides this node. `nearest` are the contacts nearest to its key; this node
/// is a replica if fewer than `replication` of them are nearer than it.
fn other_replicas(nearest: &[Contact], own_index: usize, replication: usize) -> &[Contact] {
    let others = if own_index < replication { replication - 1 } else { replication };
    &nearest[..others.min(nearest.len())]
}

/// Half of the remaining life of a record that ends at `expires`, if that is long enough for an offer.
fn half_worth_an_offer(now: Time, expires: Time) -> Option<Duration> {
    let half = expires.since(now) / 2;
    (half >= OFFER_PAUSE_MIN).then_some(half)
}
