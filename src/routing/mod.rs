//! Whom this node knows: a [`Table`] of k-buckets (Kademlia, sections 2.2 to 2.4 and 4.1).
//!
//! Bucket *i* holds up to k contacts whose ids share exactly *i* leading bits with the own id:
//! few of the far half of the space, all of the own neighbourhood. Buckets grow on demand.
//!
//! The laws:
//!
//! * Only who was dialled and met at its address enters ([`Table::observe`]). What somebody
//!   else says makes a candidate ([`Table::suggest`]), which the caller dials.
//! * A full bucket never drops a live contact for a newcomer: the caller asks the least recently
//!   seen one, and the newcomer takes its place if that one fails. Who is old, lives long.
//! * A contact that failed is *asleep*: it keeps its place while nobody needs it, as a way back
//!   when everything failed at once, and is neither named to others nor counted for scope.
//! * The own id is never in.
//!
//! What orders everything here is bit *i* of the own distance to a key: where it is set, all of
//! bucket *i* is nearer to the key than we are, and nearer than all buckets beyond; where it is
//! not, it is farther than both. So [`Table::closest`] knows which bucket comes next, and
//! [`Table::fewer_closer`] only adds sizes.
//!
//! The buckets are fixed, one for each length of prefix: the irregular splitting of section 2.4,
//! for networks whose ids are far from uniform, is not done. Nothing here dials, asks or waits,
//! and nothing here is random: whoever owns the table does that.

mod bucket;

use std::cmp::Reverse;
use std::time::Duration;

use arrayvec::ArrayVec;

use crate::contact::Contact;
use crate::id::{Distance, Key, NodeId};
use crate::limits::K_MAX;
use crate::time::Time;

use bucket::Bucket;

/// What became of a contact that was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// It is new, and live from now on.
    Added,
    /// It holds a place already, and is the most recently seen now.
    Refreshed,
    /// All k places are held by live contacts. The newcomer is a candidate; the caller sends a
    /// PING to `suspect`, and tells [`Table::heard`] or [`Table::failed`] how that went.
    Full {
        /// The least recently seen contact of the bucket.
        suspect: Contact,
    },
    /// It is this node itself.
    Own,
}

/// What became of a contact that somebody named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suggested {
    /// A place is free, or held by one that sleeps: worth a dial now.
    Room,
    /// All places are held by live contacts: it waits among the candidates, which are bounded.
    Queued,
    /// It holds a place already.
    Known,
    /// It is this node itself.
    Own,
}

/// The contacts of one node.
#[derive(Debug)]
pub struct Table {
    me: NodeId,
    k: usize,
    /// By the number of bits that a contact shares with `me`; none beyond the nearest contact
    /// there ever was.
    buckets: Vec<Bucket>,
    /// When the own neighbourhood was last looked up, and found.
    neighbourhood: Option<Time>,
    changes: u64,
}

impl Table {
    /// An empty table of the node `me`, with `k` contacts to a bucket.
    ///
    /// # Panics
    ///
    /// If `k` is not in 1..=[`K_MAX`].
    pub fn new(me: NodeId, k: usize) -> Self {
        assert!((1..=K_MAX).contains(&k), "k is checked where parameters are read");
        Self { me, k, buckets: Vec::new(), neighbourhood: None, changes: 0 }
    }

    /// `contact` was dialled by this node, and met at its address: it becomes the most recently
    /// seen of its bucket, its failures are forgotten and its address is this one.
    pub fn observe(&mut self, now: Time, contact: Contact) -> Observed {
        let Some(at) = self.index(contact.id.key()) else { return Observed::Own };
        self.grow(at);
        let bucket = &mut self.buckets[at];
        let observed = bucket.observe(self.k, contact);
        self.changes += u64::from(observed == Observed::Added);
        if bucket.live().len() == self.k {
            bucket.refreshed.get_or_insert(now); // a lookup could not add to it
        }
        observed
    }

    /// A message of `id` came in, on whatever connection. Returns whether it holds a place; it
    /// is then live, and the most recently seen of its bucket.
    pub fn heard(&mut self, id: &NodeId) -> bool {
        let k = self.k;
        self.bucket_mut(id).is_some_and(|bucket| bucket.heard(k, id))
    }

    /// Somebody named `contact`, or it connected to this node: nobody knows yet who is to be met
    /// at its address. It is remembered as a candidate, up to a bound for each bucket.
    ///
    /// No bucket is made for hearsay: where there is none, the contact is not remembered.
    pub fn suggest(&mut self, contact: Contact) -> Suggested {
        if contact.id == self.me {
            return Suggested::Own;
        }
        let k = self.k;
        self.bucket_mut(&contact.id).map_or(Suggested::Room, |bucket| bucket.suggest(k, contact))
    }

    /// A request to `id` missed its deadline, or a dial of it failed. The contact falls asleep,
    /// and is forgotten when it fails [`CONTACT_FAILURES_MAX`] times in a row; a candidate is
    /// forgotten at once.
    ///
    /// A place that no live contact holds goes to the newest candidate that was met (Kademlia,
    /// sections 2.2 and 4.1). Without one, the newest that was named is taken off the list and
    /// returned for the caller to dial, which ends in [`Table::observe`] or here again.
    ///
    /// [`CONTACT_FAILURES_MAX`]: crate::limits::CONTACT_FAILURES_MAX
    pub fn failed(&mut self, id: &NodeId) -> Option<Contact> {
        self.changes += 1;
        let k = self.k;
        self.bucket_mut(id)?.failed(k, id)
    }

    /// `id` said GOODBYE, or somebody else was met at its address: it is gone at once. Its place
    /// is filled as in [`Table::failed`]; a candidate to dial is returned.
    pub fn remove(&mut self, id: &NodeId) -> Option<Contact> {
        self.changes += 1;
        let k = self.k;
        self.bucket_mut(id)?.remove(k, id)
    }

    /// Whether `id` holds a place, live or asleep.
    pub fn contains(&self, id: &NodeId) -> bool {
        self.index(id.key()).and_then(|at| self.buckets.get(at)).is_some_and(|bucket| bucket.contains(id))
    }

    /// The contact `id`, with the address where it was met, if it holds a place, live or asleep.
    pub fn find(&self, id: &NodeId) -> Option<&Contact> {
        let bucket = self.buckets.get(self.index(id.key())?)?;
        bucket.live().iter().chain(bucket.unresponsive()).find(|contact| contact.id == *id)
    }

    /// Whether `id` holds a place, and failed since it was last heard.
    pub fn is_unresponsive(&self, id: &NodeId) -> bool {
        let bucket = self.index(id.key()).and_then(|at| self.buckets.get(at));
        bucket.is_some_and(|bucket| bucket.unresponsive().any(|contact| contact.id == *id))
    }

    /// Fills `out` with the `n` live contacts nearest to `target`, nearest first; with all, if
    /// there are fewer. What was in `out` is gone.
    pub fn closest(&self, target: &Key, n: usize, out: &mut Vec<Contact>) {
        out.clear();
        let own = self.me.key().distance(target);
        for at in nearest_first(own, self.buckets.len()) {
            if out.len() >= n {
                break;
            }
            // Each distance is worked out once: this is most of what an answer costs.
            let live = self.buckets[at].live();
            let away = |contact: &Contact| contact.id.key().distance(target);
            let mut nearest: ArrayVec<_, K_MAX> = live.iter().map(|contact| (away(contact), contact)).collect();
            nearest.sort_unstable_by_key(|(distance, _)| *distance);
            out.extend(nearest.iter().take(n - out.len()).map(|(_, contact)| **contact));
        }
    }

    /// Whether fewer than `n` live contacts are closer to `key` than this node is: the question
    /// of scope (`PROTOCOL.md` 2), answered without a search.
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

    /// How many live contacts are closer to `key` than `id` is, which need not be known. This
    /// node itself is not counted.
    pub fn closer_than(&self, key: &Key, id: &NodeId) -> usize {
        let own = self.me.key().distance(key);
        let home = self.index(id.key());
        let limit = id.key().distance(key);
        let nearer_in = |(at, bucket): (usize, &Bucket)| match home {
            Some(home) if at == home => {
                bucket.live().iter().filter(|contact| contact.id.key().distance(key) < limit).count()
            }
            Some(home) if at > home && own.bit(home) => 0,
            Some(home) if at > home => bucket.live().len(),
            Some(_) | None if own.bit(at) => bucket.live().len(),
            Some(_) | None => 0,
        };
        self.buckets.iter().enumerate().map(nearer_in).sum()
    }

    /// How many contacts are live.
    pub fn live(&self) -> usize {
        self.buckets.iter().map(|bucket| bucket.live().len()).sum()
    }

    /// How many contacts there are, live and asleep.
    pub fn len(&self) -> usize {
        self.buckets.iter().map(Bucket::len).sum()
    }

    /// Whether nobody is known, not even somebody asleep.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The live contacts, from the far half of the space inwards, each bucket from the least to
    /// the most recently seen.
    pub fn iter(&self) -> impl Iterator<Item = &Contact> {
        self.buckets.iter().flat_map(Bucket::live)
    }

    /// The contacts that failed and are not yet forgotten: the way back when everything failed
    /// at once. In the order of [`Table::iter`], each bucket from the one that sleeps longest.
    pub fn unresponsive(&self) -> impl Iterator<Item = &Contact> {
        self.buckets.iter().flat_map(Bucket::unresponsive)
    }

    /// A lookup for `target` has ended: the bucket around it is fresh.
    ///
    /// A lookup for the own id refreshes the neighbourhood, which is all buckets that together
    /// hold no more than the k nearest. With fewer than k live contacts it refreshes nothing: the
    /// network is small, or the lookup went wrong. A bucket that the neighbourhood later grows
    /// is as fresh as that lookup.
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

    /// Much may have changed unseen: no bucket counts as fresh any more.
    pub fn all_stale(&mut self) {
        self.neighbourhood = None;
        for bucket in &mut self.buckets {
            bucket.refreshed = None;
        }
    }

    /// The bucket that most needs a lookup, if one does: of those no deeper than the nearest
    /// live contact, one that never had any and is not full, the nearest first; then the one
    /// that had none for longest, and for `interval` at least.
    ///
    /// This is both refreshes of Kademlia, section 2.3: after joining, of all buckets further
    /// away than the closest neighbour, one lookup at a time; and of each, once in an interval.
    /// The caller looks up a random [`Key::diverging_at`] this index, and calls
    /// [`Table::looked_up`].
    pub fn stale_bucket(&self, now: Time, interval: Duration) -> Option<usize> {
        let (refreshed, at) = self.least_fresh()?;
        (due(refreshed, interval) <= now).then_some(at)
    }

    /// When [`Table::stale_bucket`] will name one, should nothing be looked up until then; a
    /// moment that is past, if it does already. `None` without a live contact.
    pub fn next_refresh(&self, interval: Duration) -> Option<Time> {
        let (refreshed, _) = self.least_fresh()?;
        Some(due(refreshed, interval))
    }

    /// How often somebody may have come or gone: whoever checks invariants need not look at the
    /// table again while this stands still.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Whether the own id is in, which breaks a law: for whoever checks invariants.
    pub fn holds_its_owner(&self) -> bool {
        self.buckets.iter().any(|bucket| bucket.contains(&self.me))
    }

    /// The first bucket with more than k contacts, which breaks a law: for whoever checks
    /// invariants.
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

    /// Makes the buckets up to `at`. Doubling would leave half of them unused.
    fn grow(&mut self, at: usize) {
        let missing = (at + 1).saturating_sub(self.buckets.len());
        self.buckets.reserve_exact(missing);
        self.buckets.extend((0..missing).map(|_| Bucket::new(self.neighbourhood)));
    }

    /// Of the buckets no deeper than the nearest live contact, the one refreshed longest ago,
    /// and when; of several, the nearest.
    fn least_fresh(&self) -> Option<(Option<Time>, usize)> {
        let nearest = self.buckets.iter().rposition(|bucket| !bucket.live().is_empty())?;
        let age = |(at, bucket): (usize, &Bucket)| (bucket.refreshed, Reverse(at));
        let (refreshed, Reverse(at)) = self.buckets[..=nearest].iter().enumerate().map(age).min()?;
        Some((refreshed, at))
    }
}

/// When a bucket that was last refreshed then is due again: at once, if it never was.
fn due(refreshed: Option<Time>, interval: Duration) -> Time {
    refreshed.map_or(Time::ZERO, |then| then + interval)
}

/// The indexes of `count` buckets in the order of their distance to a key, which is at `own`
/// from us: inwards those whose contacts are nearer to it than we are, then outwards the others.
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

    /// The contact of bucket `shared` that `tail` tells from the others.
    fn contact_in(shared: usize, tail: u8) -> Contact {
        contact(me().key().diverging_at(shared, &Key::new([tail; KEY_SIZE])))
    }

    fn table(k: usize, places: &[(usize, u8)]) -> Table {
        let mut table = Table::new(me(), k);
        for &(shared, tail) in places {
            table.observe(at(0), contact_in(shared, tail));
        }
        table
    }

    /// Keys from all over the space, and many near the own id, as a lookup would find them.
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
                    table.failed(&NodeId::new(id));
                }
            }
            table
        })
    }

    /// What can happen to a table.
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
        fn closest_is_what_a_search_of_all_contacts_finds(table in any_table(), target in any_key(), n in 0..60_usize) {
            let mut expected: Vec<Contact> = table.iter().copied().collect();
            expected.sort_by_key(|contact| contact.id.key().distance(&target));
            expected.truncate(n);
            let mut found = vec![contact_in(0, 0)];
            table.closest(&target, n, &mut found);
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn scope_is_what_a_search_of_all_contacts_finds(table in any_table(), key in any_key(), n in 0..60_usize) {
            let own = me().key().distance(&key);
            let closer = table.iter().filter(|contact| contact.id.key().distance(&key) < own).count();
            prop_assert_eq!(table.fewer_closer(&key, n), closer < n);
            prop_assert_eq!(table.closer_than(&key, &me()), closer);
        }

        #[test]
        fn a_rank_is_what_a_search_of_all_contacts_finds(table in any_table(), key in any_key(), id in any_key()) {
            let ids: Vec<Key> = table.iter().map(|contact| *contact.id.key()).chain([id]).collect();
            for id in ids {
                let limit = id.distance(&key);
                let closer = table.iter().filter(|contact| contact.id.key().distance(&key) < limit).count();
                prop_assert_eq!(table.closer_than(&key, &NodeId::new(id)), closer);
            }
        }

        /// Few ids, so that each meets many events; small buckets, so that they are often full.
        #[test]
        fn the_laws_hold_whatever_happens(k in 1..5_usize, events in vec((any_event(), 0..4_usize, 0..12_u8), 0..300)) {
            let mut table = Table::new(me(), k);
            for (event, shared, tail) in events {
                let contact = contact_in(shared, tail);
                let live_before: Vec<NodeId> = table.iter().map(|contact| contact.id).collect();
                let known_before = table.contains(&contact.id);
                let to_dial = match event {
                    Event::Observe => {
                        let observed = table.observe(at(0), contact);
                        prop_assert_eq!(known_before, observed == Observed::Refreshed);
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
                    Event::Failed => table.failed(&contact.id),
                    Event::Remove => {
                        let candidate = table.remove(&contact.id);
                        prop_assert!(!table.contains(&contact.id));
                        candidate
                    }
                };
                prop_assert!(to_dial.is_none_or(|candidate| !table.contains(&candidate.id)));
                let loser = matches!(event, Event::Failed | Event::Remove).then_some(contact.id);
                for id in live_before {
                    prop_assert!(Some(id) == loser || table.iter().any(|contact| contact.id == id), "{id} lost its place");
                }
                prop_assert!(!table.holds_its_owner());
                prop_assert_eq!(table.overfull_bucket(), None);
                let mut ids: Vec<NodeId> = table.iter().chain(table.unresponsive()).map(|contact| contact.id).collect();
                prop_assert_eq!(ids.len(), table.len());
                ids.sort();
                ids.dedup();
                prop_assert_eq!(ids.len(), table.len(), "somebody has two places");
            }
        }
    }

    #[test]
    fn the_owner_is_met_and_named_in_vain() {
        let mut table = Table::new(me(), 3);
        assert_eq!(table.observe(at(0), contact(*me().key())), Observed::Own);
        assert_eq!(table.suggest(contact(*me().key())), Suggested::Own);
        assert!(!table.heard(&me()));
        assert_eq!(table.failed(&me()), None);
        assert_eq!(table.remove(&me()), None);
        assert!(table.is_empty());
        assert!(!table.holds_its_owner());
    }

    #[test]
    fn hearsay_makes_no_bucket() {
        let mut table = table(3, &[(0, 1)]);
        assert_eq!(table.suggest(contact_in(255, 0)), Suggested::Room);
        assert_eq!(table.buckets.len(), 1);
        assert_eq!(table.observe(at(0), contact_in(255, 0)), Observed::Added);
        assert_eq!(table.buckets.len(), 256);
    }

    #[test]
    fn an_asleep_contact_is_in_the_table_and_out_of_every_answer() {
        let mut table = table(3, &[(0, 1), (2, 1)]);
        let far = contact_in(0, 1);
        table.failed(&far.id);

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
    fn a_table_without_live_contacts_has_nothing_to_refresh() {
        let mut table = table(3, &[]);
        assert_eq!((table.stale_bucket(at(9999), HOUR), table.next_refresh(HOUR)), (None, None));
        table.observe(at(0), contact_in(4, 1));
        table.failed(&contact_in(4, 1).id);
        assert_eq!((table.stale_bucket(at(9999), HOUR), table.next_refresh(HOUR)), (None, None));
    }

    #[test]
    fn a_bucket_that_fills_by_itself_needs_no_lookup_at_once() {
        let table = table(2, &[(0, 1), (0, 2)]);
        assert_eq!(table.stale_bucket(at(0), HOUR), None);
        assert_eq!(table.next_refresh(HOUR), Some(at(3600)));
    }

    #[test]
    fn a_lookup_for_the_own_id_refreshes_the_k_nearest_and_what_grows_among_them() {
        let mut table = table(3, &[(0, 1), (0, 2), (1, 1), (1, 2), (3, 1)]);
        table.looked_up(at(10), me().key());
        assert_eq!(table.stale_bucket(at(10), HOUR), Some(0), "not among the 3 nearest");
        table.looked_up(at(11), contact_in(0, 9).id.key());
        assert_eq!(table.stale_bucket(at(11), HOUR), None);
        table.observe(at(12), contact_in(7, 1));
        assert_eq!(table.next_refresh(HOUR), Some(at(3610)));
    }

    #[test]
    fn a_lookup_for_the_own_id_that_found_fewer_than_k_refreshes_nothing() {
        let mut table = table(3, &[(0, 1), (1, 1)]);
        table.looked_up(at(10), me().key());
        assert_eq!(table.stale_bucket(at(10), HOUR), Some(1));
    }
}
