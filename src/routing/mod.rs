//! The contacts of this node: a [`Table`] of k-buckets (Kademlia, sections 2.2 to 2.4 and 4.1).
//!
//! Bucket *i* holds up to k contacts whose ids share exactly *i* leading bits with the own id. So the table
//! knows a few contacts of the far half of the key space and all of the own neighbourhood. It makes buckets
//! when they are needed.
//!
//! A *member* of the table is a contact in a bucket: *live*, or *unresponsive* if it failed and has not answered
//! since. A bucket also has a bounded list of *replacements*, from which it fills a free place.
//!
//! Rules:
//!
//! * A contact becomes a member only after this node has dialled it and has met its id at that address
//!   ([`Table::observe`]). A contact that another node names is at most a replacement ([`Table::suggest`]),
//!   which the caller has to dial.
//! * A full bucket never drops a live member for a new contact. The caller pings the least recently seen
//!   member, and the new contact replaces it only if it fails: contacts that have been up for long tend to
//!   stay up.
//! * An unresponsive member stays until a new contact replaces it, so that a node whose own link failed
//!   finds its way back. It is neither named to other nodes nor counted for scope.
//! * The own id is never a member.
//!
//! All orders follow from bit *i* of the distance between the own id and a key. If the bit is set, all ids
//! of bucket *i* are closer to the key than the own id, and closer than all ids of later buckets. If it is
//! not set, they are farther than both. So [`Table::closest`] knows which bucket comes next, and
//! [`Table::fewer_closer`] only adds sizes.
//!
//! There is one bucket for each length of the shared prefix. The irregular splitting of section 2.4, for
//! networks whose ids are not uniform, is left out. This module dials no contact, sends nothing, waits for
//! nothing and draws nothing at random; the owner of the table does.

mod bucket;

use std::cmp::Reverse;
use std::time::Duration;

use arrayvec::ArrayVec;

use crate::contact::Contact;
use crate::id::{Distance, Key, NodeId};
use crate::limits::K_MAX;
use crate::time::Time;

use bucket::Bucket;

/// The outcome of [`Table::observe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// It is a new member and live.
    Added,
    /// It was a live member already; now it is the most recently seen.
    Refreshed,
    /// It is an unresponsive member: it accepts connections again, but has not answered. The caller pings it and reports
    /// the result to [`Table::heard`] or [`Table::failed`].
    Unresponsive,
    /// All k members of the bucket are live. The contact is a replacement now. The caller pings `suspect`
    /// and reports the result to [`Table::heard`] or [`Table::failed`].
    Full {
        /// The least recently seen member of the bucket.
        suspect: Contact,
    },
    /// It is this node.
    Own,
}

/// The outcome of [`Table::suggest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suggested {
    /// The bucket has fewer than k live members: the caller should dial the contact now.
    Room,
    /// All k members of the bucket are live: the contact is one of its replacements.
    Queued,
    /// It is a member already.
    Known,
    /// It is this node.
    Own,
}

/// The contacts of one node.
#[derive(Debug)]
pub struct Table {
    me: NodeId,
    k: usize,
    /// By the number of leading bits that a contact shares with `me`; up to the closest contact that was
    /// ever a member.
    buckets: Vec<Bucket>,
    /// When a lookup for the own id last found at least k contacts.
    neighbourhood: Option<Time>,
    changes: u64,
}

impl Table {
    /// An empty table of the node `me`, with buckets of `k` contacts.
    ///
    /// # Panics
    ///
    /// If `k` is not in 1..=[`K_MAX`].
    pub fn new(me: NodeId, k: usize) -> Self {
        assert!((1..=K_MAX).contains(&k), "k is validated where parameters are read");
        Self { me, k, buckets: Vec::new(), neighbourhood: None, changes: 0 }
    }

    /// This node has dialled `contact` and met it at its address. The table forgets its earlier address. It becomes the
    /// most recently seen member of its bucket, unless it is unresponsive: then it must answer first.
    pub fn observe(&mut self, now: Time, contact: Contact) -> Observed {
        let Some(at) = self.index(contact.id.key()) else { return Observed::Own };
        self.grow(at);
        let bucket = &mut self.buckets[at];
        let observed = bucket.observe(self.k, contact);
        self.changes += u64::from(observed == Observed::Added);
        if bucket.live().len() == self.k {
            bucket.refreshed.get_or_insert(now); // a lookup could not add to a full bucket
        }
        observed
    }

    /// `id` has answered a request; or it is live, and any message of it has arrived. If it is a member, it is live again
    /// and the most recently seen of its bucket, and the table forgets its failures. Returns whether it is a member.
    pub fn heard(&mut self, id: &NodeId) -> bool {
        let k = self.k;
        self.bucket_mut(id).is_some_and(|bucket| bucket.heard(k, id))
    }

    /// Another node has named `contact`, or `contact` has connected to this node: no dial has proven which
    /// node is at its address. It becomes a replacement; their number is bounded per bucket.
    ///
    /// An unproven contact makes no new bucket: if there is none for it, the table does not remember it.
    pub fn suggest(&mut self, contact: Contact) -> Suggested {
        if contact.id == self.me {
            return Suggested::Own;
        }
        let k = self.k;
        self.bucket_mut(&contact.id).map_or(Suggested::Room, |bucket| bucket.suggest(k, contact))
    }

    /// A request to `id` timed out, or a dial of it failed. A member becomes unresponsive, and is forgotten
    /// after [`CONTACT_FAILURES_MAX`] failures in a row, each [`CONTACT_FAILURE_PAUSE`] or more after the one before; a
    /// replacement is forgotten at once.
    ///
    /// If the bucket now has fewer than k live members, its newest replacement that was dialled becomes one
    /// (Kademlia, sections 2.2 and 4.1). If there is none, the newest that was only reported is removed
    /// from the list and returned. The caller dials it, and reports to [`Table::observe`] or again here.
    ///
    /// [`CONTACT_FAILURES_MAX`]: crate::limits::CONTACT_FAILURES_MAX
    /// [`CONTACT_FAILURE_PAUSE`]: crate::limits::CONTACT_FAILURE_PAUSE
    pub fn failed(&mut self, now: Time, id: &NodeId) -> Option<Contact> {
        self.changes += 1;
        let k = self.k;
        self.bucket_mut(id)?.failed(now, k, id)
    }

    /// `id` has sent GOODBYE, or its address belongs to another node now. It is forgotten at once, and the
    /// bucket is filled as by [`Table::failed`]. Returns a contact that the caller has to dial.
    pub fn remove(&mut self, id: &NodeId) -> Option<Contact> {
        self.changes += 1;
        let k = self.k;
        self.bucket_mut(id)?.remove(k, id)
    }

    /// Whether `id` is a member, live or unresponsive.
    pub fn contains(&self, id: &NodeId) -> bool {
        self.find(id).is_some()
    }

    /// The member `id`, live or unresponsive, with the address where it was met.
    pub fn find(&self, id: &NodeId) -> Option<&Contact> {
        let bucket = self.buckets.get(self.index(id.key())?)?;
        bucket.live().iter().chain(bucket.unresponsive()).find(|contact| contact.id == *id)
    }

    /// Whether `id` is a member that failed since the last message from it.
    pub fn is_unresponsive(&self, id: &NodeId) -> bool {
        let bucket = self.index(id.key()).and_then(|at| self.buckets.get(at));
        bucket.is_some_and(|bucket| bucket.unresponsive().any(|contact| contact.id == *id))
    }

    /// Replaces the content of `out` by the `n` live members closest to `target`, the closest first; by all
    /// of them, if there are fewer.
    pub fn closest(&self, target: &Key, n: usize, out: &mut Vec<Contact>) {
        self.closest_of(target, n, |_| true, out);
    }

    /// The same, of the live members that `wants` selects.
    pub fn closest_of(&self, target: &Key, n: usize, wants: impl Fn(&Contact) -> bool, out: &mut Vec<Contact>) {
        out.clear();
        let own = self.me.key().distance(target);
        for at in nearest_first(own, self.buckets.len()) {
            if out.len() >= n {
                break;
            }
            // Computes each distance once: this is most of the cost of a reply.
            let live = self.buckets[at].live().iter().filter(|contact| wants(contact));
            let away = |contact: &Contact| contact.id.key().distance(target);
            let mut nearest: ArrayVec<_, K_MAX> = live.map(|contact| (away(contact), contact)).collect();
            nearest.sort_unstable_by_key(|(distance, _)| *distance);
            out.extend(nearest.iter().take(n - out.len()).map(|(_, contact)| **contact));
        }
    }

    /// Whether fewer than `n` live members are closer to `key` than this node is. This decides scope
    /// (`PROTOCOL.md` 2, Scope) without comparing distances.
    pub fn fewer_closer(&self, key: &Key, n: usize) -> bool {
        let own = self.me.key().distance(key);
        let mut closer = 0;
        for (at, bucket) in self.buckets.iter().enumerate() {
            if closer >= n {
                break;
            }
            if own.bit(at) {
                closer += bucket.live().len();
            }
        }
        closer < n
    }

    /// The same, if this node surely knows: `key` is *near*, which means that fewer than k live members share as many
    /// leading bits with the own id as `key` does. Of that part of the key space this node knows all nodes, because each
    /// of them looks up its own id and finds the others, as far as k of them. Of a part that is farther away it may know
    /// few.
    pub fn surely_fewer_closer(&self, key: &Key, n: usize) -> bool {
        let own = self.me.key().distance(key);
        let (mut closer, mut near, mut is_near) = (0, 0, false);
        for (at, bucket) in self.buckets.iter().enumerate() {
            let (live, differs) = (bucket.live().len(), own.bit(at));
            is_near |= differs; // the first bit that differs begins the part of the table that is near
            closer += if differs { live } else { 0 };
            near += if is_near { live } else { 0 };
        }
        closer < n && near < self.k
    }

    /// How many live members are closer to `key` than `id` is; `id` need not be a member. This node is not
    /// counted.
    pub fn closer_than(&self, key: &Key, id: &NodeId) -> usize {
        let own = self.me.key().distance(key);
        let bucket_of_id = self.index(id.key());
        let limit = id.key().distance(key);
        let nearer_in = |(at, bucket): (usize, &Bucket)| match bucket_of_id {
            Some(bucket_of_id) if at == bucket_of_id => {
                bucket.live().iter().filter(|contact| contact.id.key().distance(key) < limit).count()
            }
            Some(bucket_of_id) if at > bucket_of_id && own.bit(bucket_of_id) => 0,
            Some(bucket_of_id) if at > bucket_of_id => bucket.live().len(),
            Some(_) | None if own.bit(at) => bucket.live().len(),
            Some(_) | None => 0,
        };
        self.buckets.iter().enumerate().map(nearer_in).sum()
    }

    /// The number of live members.
    pub fn live(&self) -> usize {
        self.buckets.iter().map(|bucket| bucket.live().len()).sum()
    }

    /// The number of members, live and unresponsive.
    pub fn len(&self) -> usize {
        self.buckets.iter().map(Bucket::len).sum()
    }

    /// Whether the table has no members.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The live members, from the far half of the key space inwards; within a bucket from the least to the
    /// most recently seen.
    pub fn iter(&self) -> impl Iterator<Item = &Contact> {
        self.buckets.iter().flat_map(Bucket::live)
    }

    /// The unresponsive members. They are the way back after all contacts failed at once. In the order of
    /// [`Table::iter`]; within a bucket from the one that failed first.
    pub fn unresponsive(&self) -> impl Iterator<Item = &Contact> {
        self.buckets.iter().flat_map(Bucket::unresponsive)
    }

    /// A lookup for `target` has ended: the bucket around it counts as refreshed.
    ///
    /// A lookup for the own id refreshes the neighbourhood: the last buckets, as long as they have no more
    /// than k live members together. With fewer than k live members in the whole table it refreshes
    /// nothing, because the network is small or the lookup has failed. A bucket that is made later in the
    /// neighbourhood counts as refreshed by that lookup.
    pub fn looked_up(&mut self, now: Time, target: &Key) {
        if let Some(at) = self.index(target) {
            if let Some(bucket) = self.buckets.get_mut(at) {
                bucket.refreshed = Some(now);
            }
            return;
        }
        if self.live() < self.k {
            return;
        }
        self.neighbourhood = Some(now);
        let mut nearest = 0;
        for bucket in self.buckets.iter_mut().rev() {
            nearest += bucket.live().len();
            if nearest > self.k {
                break;
            }
            bucket.refreshed = Some(now);
        }
    }

    /// No bucket counts as refreshed any more, because many contacts may have come and gone unnoticed.
    pub fn all_stale(&mut self) {
        self.neighbourhood = None;
        for bucket in &mut self.buckets {
            bucket.refreshed = None;
        }
    }

    /// The index of the bucket that most needs a lookup; `None` if none does. Considered are the buckets up
    /// to that of the closest live member. A bucket that was never refreshed and is not full comes first,
    /// the closest such bucket before the others; then the one that was refreshed longest ago, if that is
    /// at least `interval`.
    ///
    /// This covers both refreshes of Kademlia, section 2.3: after joining, all buckets farther than the
    /// closest neighbour, one lookup at a time; later, each bucket once per interval. The caller looks up a
    /// random [`Key::diverging_at`] this index and then calls [`Table::looked_up`].
    pub fn stale_bucket(&self, now: Time, interval: Duration) -> Option<usize> {
        let (refreshed, at) = self.least_fresh()?;
        (due(refreshed, interval) <= now).then_some(at)
    }

    /// When [`Table::stale_bucket`] will return a bucket if no lookup ends before; a past moment if it does
    /// so now. `None` without a live member.
    pub fn next_refresh(&self, interval: Duration) -> Option<Time> {
        let (refreshed, _) = self.least_fresh()?;
        Some(due(refreshed, interval))
    }

    /// A number that grows whenever a contact may have joined or left the table. While it stays the same,
    /// the invariants need not be checked again.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Whether the own id is a member, which breaks an invariant. For the simulator and for tests.
    pub fn holds_its_owner(&self) -> bool {
        self.iter().chain(self.unresponsive()).any(|contact| contact.id == self.me)
    }

    /// The index of a bucket with more than k members, which breaks an invariant. For the simulator and for
    /// tests.
    pub fn overfull_bucket(&self) -> Option<usize> {
        self.buckets.iter().position(|bucket| bucket.len() > self.k)
    }

    /// The index of the bucket around `key`; `None` for the own id.
    fn index(&self, key: &Key) -> Option<usize> {
        self.me.key().distance(key).shared_bits()
    }

    fn bucket_mut(&mut self, id: &NodeId) -> Option<&mut Bucket> {
        let at = self.index(id.key())?;
        self.buckets.get_mut(at)
    }

    /// Makes the buckets up to `at`. Doubling the capacity would leave half of it unused.
    fn grow(&mut self, at: usize) {
        let missing = (at + 1).saturating_sub(self.buckets.len());
        self.buckets.reserve_exact(missing);
        self.buckets.extend((0..missing).map(|_| Bucket::new(self.neighbourhood)));
    }

    /// Of the buckets up to that of the closest live member: the time of the oldest refresh, and the index
    /// of that bucket; of several, the closest one.
    fn least_fresh(&self) -> Option<(Option<Time>, usize)> {
        let nearest = self.buckets.iter().rposition(|bucket| !bucket.live().is_empty())?;
        let age = |(at, bucket): (usize, &Bucket)| (bucket.refreshed, Reverse(at));
        let (refreshed, Reverse(at)) = self.buckets[..=nearest].iter().enumerate().map(age).min()?;
        Some((refreshed, at))
    }
}

/// When a bucket is due for a lookup that was last refreshed at `refreshed`: at once, if it never was.
fn due(refreshed: Option<Time>, interval: Duration) -> Time {
    refreshed.map_or(Time::ZERO, |then| then + interval)
}

/// The indexes of `count` buckets, those closest to a key first; `own` is the distance of the own id to
/// that key. First come the buckets closer than the own id, inwards, then the others, outwards.
fn nearest_first(own: Distance, count: usize) -> impl Iterator<Item = usize> {
    let nearer = (0..count).filter(move |&at| own.bit(at));
    let farther = (0..count).rev().filter(move |&at| !own.bit(at));
    nearer.chain(farther)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::KEY_SIZE;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn at(secs: u64) -> Time {
        Time::ZERO + Duration::from_secs(secs)
    }

    fn me() -> NodeId {
        NodeId::new(Key::new([0x5a; KEY_SIZE]))
    }

    fn contact(id: Key) -> Contact {
        Contact::new(NodeId::new(id), ([192, 0, 2, 1], 1000).into())
    }

    /// A contact of bucket `shared`; another `tail` makes another contact.
    fn contact_in(shared: usize, tail: u8) -> Contact {
        contact(me().key().diverging_at(shared, &Key::new([tail; KEY_SIZE])))
    }

    fn table(k: usize, members: &[(usize, u8)]) -> Table {
        let mut table = Table::new(me(), k);
        for &(shared, tail) in members {
            table.observe(at(0), contact_in(shared, tail));
        }
        table
    }

    /// Keys from the whole space, and many close to the own id, as a lookup finds them.
    fn any_key() -> impl Strategy<Value = Key> {
        let anywhere = any::<[u8; KEY_SIZE]>().prop_map(Key::new);
        let near = (0..12_usize, any::<[u8; KEY_SIZE]>())
            .prop_map(|(shared, tail)| me().key().diverging_at(shared, &Key::new(tail)));
        prop_oneof![anywhere, near, Just(*me().key())]
    }

    fn any_table() -> impl Strategy<Value = Table> {
        (1..=K_MAX, vec((any_key(), prop::bool::weighted(0.2)), 0..200)).prop_map(|(k, met)| {
            let mut table = Table::new(me(), k);
            for (id, fails) in met {
                table.observe(at(0), contact(id));
                if fails {
                    table.failed(at(0), &NodeId::new(id));
                }
            }
            table
        })
    }

    /// A call of a method that changes the table.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        Observe,
        Heard,
        Suggest,
        Failed,
        Remove,
    }

    fn any_event() -> impl Strategy<Value = Event> {
        use Event::{Failed, Heard, Observe, Remove, Suggest};
        prop_oneof![4 => Just(Observe), 1 => Just(Heard), 3 => Just(Suggest), 3 => Just(Failed), 1 => Just(Remove)]
    }

    proptest! {
        #[test]
        fn closest_agrees_with_sorting_all_live_contacts(table in any_table(), target in any_key(), n in 0..60_usize) {
            let mut expected: Vec<Contact> = table.iter().copied().collect();
            expected.sort_by_key(|contact| contact.id.key().distance(&target));
            expected.truncate(n);
            let mut found = vec![contact_in(0, 0)];
            table.closest(&target, n, &mut found);
            prop_assert_eq!(&found, &expected);
            let wants = |contact: &Contact| contact.id.key().as_bytes()[31].is_multiple_of(2);
            table.closest_of(&target, 60, wants, &mut found);
            let mut expected: Vec<Contact> = table.iter().copied().filter(wants).collect();
            expected.sort_by_key(|contact| contact.id.key().distance(&target));
            expected.truncate(60);
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn fewer_closer_agrees_with_counting_live_contacts(table in any_table(), key in any_key(), n in 0..60_usize) {
            let own = me().key().distance(&key);
            let closer = table.iter().filter(|contact| contact.id.key().distance(&key) < own).count();
            prop_assert_eq!(table.fewer_closer(&key, n), closer < n);
            prop_assert_eq!(table.closer_than(&key, &me()), closer);
        }

        #[test]
        fn the_table_surely_knows_who_is_closer_while_at_most_k_live_contacts_share_as_many_bits(
            table in any_table(),
            key in any_key(),
            n in 0..60_usize,
        ) {
            let shared = |other: &Key| me().key().distance(other).shared_bits().unwrap_or(usize::MAX);
            let near = table.iter().filter(|contact| shared(contact.id.key()) >= shared(&key)).count();
            prop_assert_eq!(table.surely_fewer_closer(&key, n), table.fewer_closer(&key, n) && near < table.k);
        }

        #[test]
        fn closer_than_agrees_with_counting_live_contacts(table in any_table(), key in any_key(), id in any_key()) {
            let ids: Vec<Key> = table.iter().map(|contact| *contact.id.key()).chain([id]).collect();
            for id in ids {
                let limit = id.distance(&key);
                let closer = table.iter().filter(|contact| contact.id.key().distance(&key) < limit).count();
                prop_assert_eq!(table.closer_than(&key, &NodeId::new(id)), closer);
            }
        }

        /// A few ids, so that each is in many events; small buckets, so that they are often full.
        #[test]
        fn the_rules_hold_after_any_sequence_of_events(
            k in 1..5_usize,
            events in vec((any_event(), 0..4_usize, 0..12_u8), 0..300),
        ) {
            let mut table = Table::new(me(), k);
            for (event, shared, tail) in events {
                let contact = contact_in(shared, tail);
                let live_before: Vec<NodeId> = table.iter().map(|contact| contact.id).collect();
                let known_before = table.contains(&contact.id);
                let to_dial = match event {
                    Event::Observe => {
                        let observed = table.observe(at(0), contact);
                        let is_known = matches!(observed, Observed::Refreshed | Observed::Unresponsive);
                        prop_assert_eq!(known_before, is_known);
                        prop_assert_eq!(observed == Observed::Unresponsive, table.is_unresponsive(&contact.id));
                        prop_assert_eq!(table.contains(&contact.id), !matches!(observed, Observed::Full { .. }));
                        None
                    }
                    Event::Heard => {
                        prop_assert_eq!(table.heard(&contact.id), known_before);
                        None
                    }
                    Event::Suggest => {
                        prop_assert_eq!(table.suggest(contact) == Suggested::Known, known_before);
                        None
                    }
                    Event::Failed => table.failed(at(0), &contact.id),
                    Event::Remove => {
                        let candidate = table.remove(&contact.id);
                        prop_assert!(!table.contains(&contact.id));
                        candidate
                    }
                };
                prop_assert!(to_dial.is_none_or(|candidate| !table.contains(&candidate.id)));
                let loser = matches!(event, Event::Failed | Event::Remove).then_some(contact.id);
                for id in live_before {
                    let is_live = table.iter().any(|contact| contact.id == id);
                    prop_assert!(Some(id) == loser || is_live, "{id} is no live member any more");
                }
                prop_assert!(!table.holds_its_owner());
                prop_assert_eq!(table.overfull_bucket(), None);
                let mut ids: Vec<NodeId> = table.iter().chain(table.unresponsive()).map(|contact| contact.id).collect();
                prop_assert_eq!(ids.len(), table.len());
                ids.sort();
                ids.dedup();
                prop_assert_eq!(ids.len(), table.len(), "a contact is a member twice");
            }
        }
    }

    #[test]
    fn the_own_id_is_never_added() {
        let mut table = Table::new(me(), 3);
        assert_eq!(table.observe(at(0), contact(*me().key())), Observed::Own);
        assert_eq!(table.suggest(contact(*me().key())), Suggested::Own);
        assert!(!table.heard(&me()));
        assert_eq!(table.failed(at(0), &me()), None);
        assert_eq!(table.remove(&me()), None);
        assert!(table.is_empty());
        assert!(!table.holds_its_owner());
    }

    #[test]
    fn a_contact_that_is_only_named_makes_no_bucket() {
        let mut table = table(3, &[(0, 1)]);
        assert_eq!(table.suggest(contact_in(255, 0)), Suggested::Room);
        assert_eq!(table.buckets.len(), 1);
        assert_eq!(table.observe(at(0), contact_in(255, 0)), Observed::Added);
        assert_eq!(table.buckets.len(), 256);
    }

    #[test]
    fn an_unresponsive_contact_stays_a_member_but_is_in_no_answer() {
        let mut table = table(3, &[(0, 1), (2, 1)]);
        let far = contact_in(0, 1);
        table.failed(at(0), &far.id);

        let mut found = Vec::new();
        table.closest(far.id.key(), 3, &mut found);
        assert_eq!(found, [contact_in(2, 1)]);
        assert!(table.fewer_closer(far.id.key(), 1));
        assert_eq!(table.unresponsive().collect::<Vec<_>>(), [&far]);
        assert_eq!((table.live(), table.len()), (1, 2));
        assert!(table.contains(&far.id));

        assert!(table.heard(&far.id));
        assert_eq!((table.live(), table.unresponsive().count()), (2, 0));
    }

    #[test]
    fn a_table_without_live_contacts_has_no_stale_bucket() {
        let mut table = table(3, &[]);
        assert_eq!((table.stale_bucket(at(9999), HOUR), table.next_refresh(HOUR)), (None, None));
        table.observe(at(0), contact_in(4, 1));
        table.failed(at(0), &contact_in(4, 1).id);
        assert_eq!((table.stale_bucket(at(9999), HOUR), table.next_refresh(HOUR)), (None, None));
    }

    #[test]
    fn a_full_bucket_counts_as_refreshed() {
        let table = table(2, &[(0, 1), (0, 2)]);
        assert_eq!(table.stale_bucket(at(0), HOUR), None);
        assert_eq!(table.next_refresh(HOUR), Some(at(3600)));
    }

    #[test]
    fn a_lookup_for_the_own_id_refreshes_the_buckets_of_the_k_closest_and_those_made_later() {
        let mut table = table(3, &[(0, 1), (0, 2), (1, 1), (1, 2), (3, 1)]);
        table.looked_up(at(10), me().key());
        assert_eq!(table.stale_bucket(at(10), HOUR), Some(0), "not among the 3 nearest");
        table.looked_up(at(11), contact_in(0, 9).id.key());
        assert_eq!(table.stale_bucket(at(11), HOUR), None);
        table.observe(at(12), contact_in(7, 1));
        assert_eq!(table.next_refresh(HOUR), Some(at(3610)));
    }

    #[test]
    fn a_lookup_for_the_own_id_refreshes_nothing_with_fewer_than_k_contacts() {
        let mut table = table(3, &[(0, 1), (1, 1)]);
        table.looked_up(at(10), me().key());
        assert_eq!(table.stale_bucket(at(10), HOUR), Some(1));
    }
}
