//! The bridges that a node knows, and what it makes of their failures (`PROTOCOL.md` 2, Address families).
//!
//! A pure state: [`crate::node::rpc::families`] dials the bridges, and reports what becomes of them.
//!
//! A known bridge is evidence of another family: while there is evidence, no PUT is confirmed without a bridge that
//! has stored its record there. So a failure changes what this node asks, and only some failures end the evidence:
//!
//! - A bridge that does not serve a request is *avoided* for a while: another one is asked first. It is still asked
//!   if no other is left. Requests that run at the same time fail for the same reason, and count as one failure.
//! - A bridge that is silent, or has restarted and is no bridge yet, is *absent*: it is not asked. It is evidence
//!   for [`ABSENCE_MAX`].
//! - A bridge that does not run, has left, or says that it is none any more, is absent too. It is evidence for
//!   [`SEEK_TIME`], in which another one may be found.
//! - A node that has never served a request, and fails to for [`UNPROVEN_MAX`], was perhaps never a bridge. It is
//!   none for a while.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::contact::Contact;
use crate::id::{Key, NodeId};
use crate::limits::BRIDGES_MAX;
use crate::time::Time;

/// How long a node looks for a bridge after all that it knows are gone, before it takes its family for the whole
/// network. Its peers answer within a round trip; a dial fails after two seconds.
const SEEK_TIME: Duration = Duration::from_millis(2_500);

/// The time after which an absent bridge is given up. A contact that does not answer leaves the routing table after
/// about the same time.
const ABSENCE_MAX: Duration = Duration::from_mins(1);

/// The shortest time between two searches for bridges.
const SEEK_PAUSE: Duration = Duration::from_secs(1);

/// How long a bridge is avoided after a failure; each further time twice as long.
const AVOID_MIN: Duration = Duration::from_secs(5);

/// The longest such time.
const AVOID_MAX: Duration = Duration::from_hours(1);

/// Failures in a row before a node that has never served a request is none for a while.
const UNPROVEN_FAILURES_MAX: u32 = 3;

/// The time that such failures last at least.
const UNPROVEN_MAX: Duration = Duration::from_mins(1);

/// How long a node that has failed as a bridge is none for this node; each further time twice as long.
const BAN_MIN: Duration = Duration::from_mins(1);

/// The longest such time.
const BAN_MAX: Duration = Duration::from_hours(1);

/// Bans that are remembered.
const BANS_MAX: usize = 64;

/// Bridges that are remembered, with those that are absent or avoided.
const REMEMBERED_MAX: usize = 4 * BRIDGES_MAX;

/// How a bridge was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// It does not run, has left, or says that it is no bridge any more.
    Gone,
    /// It does not answer. It may run.
    Silent,
    /// It has restarted, and is no bridge yet.
    Restarted,
}

/// The bridges that a node knows.
#[derive(Debug, Default)]
pub(crate) struct Bridges {
    known: BTreeMap<NodeId, Bridge>,
    /// Until when a node is no bridge, and how long that time is.
    bans: BTreeMap<NodeId, (Time, Duration)>,
    /// When this node last looked for bridges.
    sought_at: Option<Time>,
}

#[derive(Clone, Copy, Debug)]
struct Bridge {
    contact: Contact,
    absence: Option<Absence>,
    failing: Option<Failing>,
    /// Whether it has ever served a request of this node.
    has_served: bool,
}

/// Why a bridge is not asked, and since when.
#[derive(Clone, Copy, Debug)]
struct Absence {
    why: Absent,
    since: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Absent {
    /// A peer has named it, or it has connected; this node has not dialled it yet.
    Named,
    /// It was lost.
    Lost(Loss),
}

/// Requests in a row that a bridge has not served; those that run at the same time count as one.
#[derive(Clone, Copy, Debug)]
struct Failing {
    failures: u32,
    first: Time,
    last: Time,
}

impl Absence {
    /// Until when the bridge is evidence of another family.
    fn evident_until(&self) -> Time {
        self.since
            + match self.why {
                Absent::Named | Absent::Lost(Loss::Gone) => SEEK_TIME,
                Absent::Lost(Loss::Silent | Loss::Restarted) => ABSENCE_MAX,
            }
    }

    /// What is known after another sign of absence. It prolongs no evidence, unless the bridge has restarted. A refusal
    /// outlasts later silence. A node that this one has never met as a bridge is lost as none.
    fn after(self, loss: Loss, now: Time) -> Self {
        match self.why {
            Absent::Lost(before) if loss != before && loss != Loss::Silent => {
                Self { why: Absent::Lost(loss), since: now }
            }
            Absent::Lost(_) | Absent::Named => self,
        }
    }
}

impl Bridge {
    fn new(contact: Contact) -> Self {
        Self { contact, absence: None, failing: None, has_served: false }
    }

    fn is_avoided(&self, now: Time) -> bool {
        self.failing.is_some_and(|failing| {
            let pause = AVOID_MIN * 2_u32.saturating_pow(failing.failures.min(16) - 1);
            now < failing.last + pause.min(AVOID_MAX)
        })
    }

    fn is_evident(&self, now: Time) -> bool {
        self.absence.is_none_or(|absence| now < absence.evident_until())
    }
}

impl Bridges {
    /// Whether `id` may become a bridge of this node, or one that is not absent any more.
    pub(super) fn may_add(&self, now: Time, id: &NodeId) -> bool {
        let is_banned = self.bans.get(id).is_some_and(|(until, _)| *until > now);
        let wanted = |bridge: &&Bridge| bridge.absence.is_none() && !bridge.is_avoided(now);
        let has_room = || self.known.values().filter(wanted).count() < BRIDGES_MAX;
        !is_banned && self.known.get(id).map_or_else(has_room, |bridge| bridge.absence.is_some())
    }

    /// This node has dialled `contact`, which is a bridge.
    pub(super) fn add(&mut self, now: Time, contact: Contact) {
        self.make_room(now, &contact.id);
        let bridge = self.known.entry(contact.id).or_insert(Bridge::new(contact));
        *bridge = Bridge { contact, absence: None, ..*bridge };
    }

    /// `contact` may be a bridge; this node is about to dial it.
    pub(super) fn name(&mut self, now: Time, contact: Contact) {
        self.make_room(now, &contact.id);
        let absence = Some(Absence { why: Absent::Named, since: now });
        self.known.entry(contact.id).or_insert(Bridge { absence, ..Bridge::new(contact) });
    }

    /// Forgets the bridges that are given up, and one more if there is no room for `id`.
    fn make_room(&mut self, now: Time, id: &NodeId) {
        self.known.retain(|_, bridge| bridge.absence.is_none_or(|absence| now < absence.since + ABSENCE_MAX));
        if self.known.len() < REMEMBERED_MAX || self.known.contains_key(id) {
            return;
        }
        let worth = |bridge: &Bridge| {
            let failures = bridge.failing.map_or(0, |failing| failing.failures);
            (bridge.has_served, bridge.is_evident(now), bridge.absence.is_none(), u32::MAX - failures)
        };
        if let Some(least) = self.known.values().min_by_key(|bridge| worth(bridge)).map(|bridge| bridge.contact.id) {
            self.known.remove(&least);
        }
    }

    /// The address at which this node has met the bridge `id`.
    pub(super) fn find(&self, id: &NodeId) -> Option<&Contact> {
        let is_met = |bridge: &&Bridge| bridge.absence.is_none_or(|absence| absence.why != Absent::Named);
        self.known.get(id).filter(is_met).map(|bridge| &bridge.contact)
    }

    /// The bridges that are not absent.
    pub(super) fn present(&self) -> impl Iterator<Item = &Contact> {
        self.known.values().filter(|bridge| bridge.absence.is_none()).map(|bridge| &bridge.contact)
    }

    /// The bridge to ask about `key` next: not one of those `tried`; one that is avoided only if no other is left.
    pub(super) fn choose(&self, now: Time, key: &Key, tried: &[NodeId]) -> Option<Contact> {
        let untried = |bridge: &&Bridge| bridge.absence.is_none() && !tried.contains(&bridge.contact.id);
        let order = |bridge: &&Bridge| (bridge.is_avoided(now), bridge.contact.id.key().distance(key));
        self.known.values().filter(untried).min_by_key(order).map(|bridge| bridge.contact)
    }

    /// Whether a bridge is known that has not been given up: another family exists.
    pub(super) fn are_expected(&self, now: Time) -> bool {
        self.known.values().any(|bridge| bridge.is_evident(now))
    }

    /// `id` is lost. Returns whether it was a bridge until now, and not absent.
    pub(super) fn lose(&mut self, now: Time, id: &NodeId, loss: Loss) -> bool {
        let Some(bridge) = self.known.get_mut(id) else { return false };
        let was_present = bridge.absence.is_none();
        let first = Absence { why: Absent::Lost(loss), since: now };
        bridge.absence = Some(bridge.absence.map_or(first, |absence| absence.after(loss, now)));
        was_present
    }

    /// A message of `id` has arrived. Returns whether it is a bridge that was silent until now.
    pub(super) fn heard(&mut self, id: &NodeId) -> bool {
        let Some(bridge) = self.known.get_mut(id) else { return false };
        let was_silent = bridge.absence.is_some_and(|absence| absence.why == Absent::Lost(Loss::Silent));
        if was_silent {
            bridge.absence = None;
        }
        was_silent
    }

    /// Whether `id` is a bridge and not absent.
    pub(super) fn is_present(&self, id: &NodeId) -> bool {
        self.known.get(id).is_some_and(|bridge| bridge.absence.is_none())
    }

    /// `id` has served a request.
    pub(super) fn served(&mut self, id: &NodeId) {
        if let Some(bridge) = self.known.get_mut(id) {
            bridge.failing = None;
            bridge.has_served = true;
            self.bans.remove(id);
        }
    }

    /// `id` has not served a request that was made at `begun`. Returns for how long it is no bridge now, if it has
    /// failed from the beginning.
    pub(super) fn failed(&mut self, now: Time, id: &NodeId, begun: Time) -> Option<Duration> {
        let bridge = self.known.get_mut(id)?;
        let before = bridge.failing.unwrap_or(Failing { failures: 0, first: now, last: begun });
        if begun < before.last {
            return None; // it was made before the last failure
        }
        let failing = Failing { failures: before.failures + 1, last: now, ..before };
        bridge.failing = Some(failing);
        let is_unproven = !bridge.has_served && failing.failures >= UNPROVEN_FAILURES_MAX;
        (is_unproven && now - failing.first >= UNPROVEN_MAX).then(|| self.ban(now, id))
    }

    fn ban(&mut self, now: Time, id: &NodeId) -> Duration {
        let before = self.bans.get(id).map_or(BAN_MIN / 2, |(_, span)| *span);
        let span = (2 * before).min(BAN_MAX);
        self.bans.retain(|_, (until, span)| *until + *span > now);
        if self.bans.len() < BANS_MAX {
            self.bans.insert(*id, (now + span, span));
        }
        span
    }

    /// The bridges to dial because none is present; `None` if this node has looked for bridges just before.
    pub(super) fn seek(&mut self, now: Time) -> Option<Vec<Contact>> {
        if self.sought_at.is_some_and(|at| now < at + SEEK_PAUSE) {
            return None;
        }
        self.sought_at = Some(now);
        let may_run = |absence: Absence| absence.why != Absent::Lost(Loss::Gone);
        let absent = self.known.values().filter(|bridge| bridge.absence.is_some_and(may_run));
        Some(absent.map(|bridge| bridge.contact).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn contact(number: u8) -> Contact {
        Contact::new(NodeId::new(Key::new([number; 32])), SocketAddr::from(([127, 0, 0, number], 1000)))
    }

    fn id(number: u8) -> NodeId {
        contact(number).id
    }

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    fn with(numbers: &[u8]) -> Bridges {
        let mut bridges = Bridges::default();
        for number in numbers {
            bridges.add(at(0), contact(*number));
        }
        bridges
    }

    fn chosen(bridges: &Bridges, now: Time) -> Option<NodeId> {
        bridges.choose(now, id(1).key(), &[]).map(|contact| contact.id)
    }

    #[test]
    fn requests_that_run_at_the_same_time_count_as_one_failure() {
        let mut bridges = with(&[1]);
        for _ in 0..10 {
            bridges.failed(at(2_000), &id(1), at(0));
        }
        assert_eq!(bridges.known[&id(1)].failing.map(|failing| failing.failures), Some(1));
        bridges.failed(at(4_000), &id(1), at(2_000));
        assert_eq!(bridges.known[&id(1)].failing.map(|failing| failing.failures), Some(2));
    }

    #[test]
    fn a_bridge_that_fails_is_asked_after_others_but_still_asked() {
        let mut bridges = with(&[1, 2]);
        bridges.served(&id(1));
        for second in 0..1_000 {
            assert_eq!(bridges.failed(at(1_000 * second + 1), &id(1), at(1_000 * second + 1)), None);
        }
        assert_eq!(chosen(&bridges, at(1_000_000)), Some(id(2)));
        bridges.lose(at(1_000_000), &id(2), Loss::Gone);
        assert_eq!(chosen(&bridges, at(1_000_000)), Some(id(1)));
        assert!(bridges.are_expected(at(9_000_000)));
        bridges.served(&id(1));
        bridges.add(at(1_000_000), contact(2));
        assert_eq!(chosen(&bridges, at(1_000_000)), Some(id(1)));
    }

    #[test]
    fn the_evidence_of_a_bridge_lasts_longer_if_it_may_run() {
        for (loss, lasts) in [(Loss::Gone, SEEK_TIME), (Loss::Silent, ABSENCE_MAX), (Loss::Restarted, ABSENCE_MAX)] {
            let mut bridges = with(&[1]);
            assert!(bridges.lose(at(0), &id(1), loss));
            assert_eq!(chosen(&bridges, at(0)), None);
            let last = Time::ZERO + lasts;
            assert!(bridges.are_expected(last.earlier(Duration::from_millis(1))), "{loss:?}");
            assert!(!bridges.are_expected(last), "{loss:?}");
            bridges.lose(at(1_000), &id(1), loss);
            assert!(!bridges.are_expected(last), "the same sign prolongs nothing: {loss:?}");
        }
    }

    #[test]
    fn a_refusal_outlasts_later_silence_and_a_new_start_ends_it() {
        let mut bridges = with(&[1]);
        bridges.lose(at(0), &id(1), Loss::Gone);
        bridges.lose(at(1_000), &id(1), Loss::Silent);
        assert!(!bridges.are_expected(at(2_500)));
        bridges.lose(at(2_600), &id(1), Loss::Restarted);
        assert!(bridges.are_expected(at(50_000)), "it runs, and may be a bridge soon");
        bridges.add(at(51_000), contact(1));
        assert_eq!(chosen(&bridges, at(51_000)), Some(id(1)));
    }

    #[test]
    fn a_node_that_was_only_named_is_no_evidence_for_longer_if_it_is_none() {
        let mut bridges = Bridges::default();
        bridges.name(at(0), contact(1));
        for (millis, loss) in [(100, Loss::Restarted), (200, Loss::Gone), (300, Loss::Silent)] {
            bridges.lose(at(millis), &id(1), loss);
        }
        bridges.name(at(1_000), contact(1));
        assert!(bridges.are_expected(at(2_499)) && !bridges.are_expected(at(2_500)));
        assert_eq!(bridges.find(&id(1)), None, "this node has not met it");
    }

    #[test]
    fn a_node_that_never_serves_a_request_is_no_bridge_after_a_while() {
        let mut bridges = with(&[1]);
        assert_eq!(bridges.failed(at(0), &id(1), at(0)), None);
        assert_eq!(bridges.failed(at(30_000), &id(1), at(28_000)), None);
        assert_eq!(bridges.failed(at(60_000), &id(1), at(58_000)), Some(BAN_MIN));
        bridges.lose(at(60_000), &id(1), Loss::Gone);
        assert!(!bridges.may_add(at(119_999), &id(1)) && bridges.may_add(at(120_000), &id(1)));
        bridges.add(at(120_000), contact(1));
        for nth in 0..2 {
            bridges.failed(at(120_000 + nth), &id(1), at(120_000 + nth));
        }
        assert_eq!(bridges.failed(at(180_000), &id(1), at(180_000)), Some(2 * BAN_MIN), "the next time it is longer");
    }

    #[test]
    fn the_number_of_bridges_is_bounded_and_one_that_has_served_stays() {
        let mut bridges = with(&[1, 2, 3]);
        bridges.served(&id(1));
        bridges.lose(at(0), &id(1), Loss::Silent);
        for number in 10..200 {
            bridges.name(at(0), contact(number));
            bridges.lose(at(0), &id(number), Loss::Gone);
        }
        assert_eq!(bridges.known.len(), REMEMBERED_MAX);
        assert!(bridges.find(&id(1)).is_some() && bridges.find(&id(2)).is_some());
        let full = with(&[1, 2, 3, 4]);
        assert!(!full.may_add(at(0), &id(5)));
    }
}
