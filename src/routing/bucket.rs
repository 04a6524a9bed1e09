//! One k-bucket (Kademlia, section 2.2): the contacts that share a prefix of one length with us.
//!
//! Three lists, each in the order of time. `live` goes from the least to the most recently seen
//! contact. `unresponsive` are those that failed since they were last heard (section 4.1: kept while
//! nothing replaces them). Both together hold at most k, and an asleep contact gives way to
//! whoever was met. `candidates` wait for a place.
//!
//! The law: a live contact leaves its place by failing or by taking its leave, never for a
//! newcomer. It follows that somebody who was met is a candidate only while all k are live.

use crate::contact::Contact;
use crate::id::NodeId;
use crate::limits::{CONTACT_FAILURES_MAX, REPLACEMENTS_MAX};
use crate::routing::{Observed, Suggested};
use crate::time::Time;

/// The contacts whose ids share a prefix of one length with the own id.
#[derive(Debug)]
pub(super) struct Bucket {
    /// When this part of the space was last looked up; `None` is never.
    pub(super) refreshed: Option<Time>,
    live: Vec<Contact>,
    unresponsive: Vec<Unresponsive>,
    /// The most welcome last: those that were only named before those that were met, and
    /// each of the two from the oldest to the newest.
    candidates: Vec<Candidate>,
}

#[derive(Debug)]
struct Unresponsive {
    contact: Contact,
    /// In a row, at least one.
    failures: u8,
}

#[derive(Debug)]
struct Candidate {
    contact: Contact,
    provenance: Provenance,
}

/// How we know of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Provenance {
    /// Somebody says so: it must be dialled before it may enter.
    Named,
    /// It was dialled and met when the bucket was full: it may enter at once.
    Met,
}

// A simulator keeps 20 000 tables of 250 contacts: 64 bytes each are 320 MB.
const _: () = {
    assert!(size_of::<Contact>() <= 64);
    assert!(size_of::<Candidate>() <= 68);
    assert!(size_of::<Bucket>() <= 88);
};

impl Bucket {
    /// An empty bucket whose part of the space was last looked up at `refreshed`.
    pub(super) const fn new(refreshed: Option<Time>) -> Self {
        Self { refreshed, live: Vec::new(), unresponsive: Vec::new(), candidates: Vec::new() }
    }

    /// The contacts that did not fail, least recently seen first.
    pub(super) fn live(&self) -> &[Contact] {
        &self.live
    }

    /// The contacts that failed, the one that sleeps longest first.
    pub(super) fn unresponsive(&self) -> impl Iterator<Item = &Contact> {
        self.unresponsive.iter().map(|unresponsive| &unresponsive.contact)
    }

    /// How many contacts hold a place, live or asleep.
    pub(super) fn len(&self) -> usize {
        self.live.len() + self.unresponsive.len()
    }

    /// Whether `id` holds a place, live or asleep.
    pub(super) fn contains(&self, id: &NodeId) -> bool {
        self.live.iter().chain(self.unresponsive()).any(|contact| contact.id == *id)
    }

    /// See [`super::Table::observe`].
    pub(super) fn observe(&mut self, k: usize, contact: Contact) -> Observed {
        self.candidates.retain(|candidate| candidate.contact.id != contact.id);
        if self.take(&contact.id).is_some() {
            push(&mut self.live, k, contact);
            return Observed::Refreshed;
        }
        if let (Some(&suspect), true) = (self.live.first(), self.live.len() == k) {
            self.keep(Candidate { contact, provenance: Provenance::Met });
            return Observed::Full { suspect };
        }
        self.enter(k, contact);
        Observed::Added
    }

    /// See [`super::Table::heard`].
    pub(super) fn heard(&mut self, k: usize, id: &NodeId) -> bool {
        let Some(contact) = self.take(id) else { return false };
        push(&mut self.live, k, contact);
        true
    }

    /// See [`super::Table::suggest`].
    pub(super) fn suggest(&mut self, k: usize, contact: Contact) -> Suggested {
        if self.live.iter().any(|live| live.id == contact.id) {
            return Suggested::Known;
        }
        if let Some(unresponsive) = self.unresponsive().find(|unresponsive| unresponsive.id == contact.id) {
            return if unresponsive.address == contact.address { Suggested::Known } else { Suggested::Room };
        }
        match self.candidates.iter().position(|candidate| candidate.contact.id == contact.id) {
            Some(at) if self.candidates[at].provenance == Provenance::Met => return Suggested::Queued,
            Some(at) => drop(self.candidates.remove(at)),
            None => {}
        }
        self.keep(Candidate { contact, provenance: Provenance::Named });
        if self.live.len() < k { Suggested::Room } else { Suggested::Queued }
    }

    /// See [`super::Table::failed`].
    pub(super) fn failed(&mut self, k: usize, id: &NodeId) -> Option<Contact> {
        if let Some(at) = self.live.iter().position(|live| live.id == *id) {
            let contact = self.live.remove(at);
            push(&mut self.unresponsive, k, Unresponsive { contact, failures: 1 });
        } else if let Some(at) = self.unresponsive.iter().position(|unresponsive| unresponsive.contact.id == *id) {
            self.unresponsive[at].failures += 1;
            if self.unresponsive[at].failures >= CONTACT_FAILURES_MAX {
                self.unresponsive.remove(at);
            }
        } else {
            self.candidates.retain(|candidate| candidate.contact.id != *id);
        }
        self.fill(k)
    }

    /// See [`super::Table::remove`].
    pub(super) fn remove(&mut self, k: usize, id: &NodeId) -> Option<Contact> {
        self.candidates.retain(|candidate| candidate.contact.id != *id);
        self.take(id);
        self.fill(k)
    }

    /// Gives a place that no live contact holds to the newest candidate that was met; without
    /// one, returns the newest that was named, for the caller to dial.
    fn fill(&mut self, k: usize) -> Option<Contact> {
        if self.live.len() == k {
            return None;
        }
        let Candidate { contact, provenance } = self.candidates.pop()?;
        match provenance {
            Provenance::Named => Some(contact),
            Provenance::Met => {
                self.enter(k, contact);
                None
            }
        }
    }

    /// Appends a newcomer to the live contacts; if all places are taken, the one that sleeps
    /// longest gives way.
    fn enter(&mut self, k: usize, newcomer: Contact) {
        if self.len() == k {
            self.unresponsive.remove(0);
        }
        push(&mut self.live, k, newcomer);
    }

    /// Takes `id` out of its place, if it holds one.
    fn take(&mut self, id: &NodeId) -> Option<Contact> {
        if let Some(at) = self.live.iter().position(|live| live.id == *id) {
            return Some(self.live.remove(at));
        }
        let at = self.unresponsive.iter().position(|unresponsive| unresponsive.contact.id == *id)?;
        Some(self.unresponsive.remove(at).contact)
    }

    /// Adds a candidate, the oldest of the least welcome making room: hearsay, of which anybody
    /// can make any amount, never displaces somebody who was met.
    fn keep(&mut self, candidate: Candidate) {
        let mut at = match candidate.provenance {
            Provenance::Met => self.candidates.len(),
            Provenance::Named => self.candidates.partition_point(|other| other.provenance == Provenance::Named),
        };
        if self.candidates.len() == REPLACEMENTS_MAX {
            if at == 0 {
                return;
            }
            self.candidates.remove(0);
            at -= 1;
        }
        self.candidates.insert(at, candidate);
    }
}

/// Appends to a list that never holds more than `max`, and never allocates for more either:
/// doubling alone would leave a full bucket of 20 with room for 32.
fn push<T>(list: &mut Vec<T>, max: usize, item: T) {
    assert!(list.len() < max, "a bucket holds at most k");
    if list.len() == list.capacity() {
        list.reserve_exact(list.len().max(4).min(max - list.len()));
    }
    list.push(item);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{KEY_SIZE, Key};

    const K: usize = 3;

    fn contact(n: u8) -> Contact {
        at_port(n, 1000)
    }

    fn at_port(n: u8, port: u16) -> Contact {
        Contact::new(NodeId::new(Key::new([n; KEY_SIZE])), ([192, 0, 2, n], port).into())
    }

    fn full() -> Bucket {
        let mut bucket = Bucket::new(None);
        for n in 0..3 {
            assert_eq!(bucket.observe(K, contact(n)), Observed::Added);
        }
        bucket
    }

    #[test]
    fn a_contact_met_at_another_address_has_moved() {
        let mut bucket = full();
        assert_eq!(bucket.observe(K, at_port(1, 2000)), Observed::Refreshed);
        assert_eq!(bucket.live(), [contact(0), contact(2), at_port(1, 2000)]);
    }

    #[test]
    fn hearsay_neither_moves_nor_refreshes_a_live_contact() {
        let mut bucket = full();
        assert_eq!(bucket.suggest(K, at_port(0, 2000)), Suggested::Known);
        assert_eq!(bucket.live(), [contact(0), contact(1), contact(2)]);
    }

    #[test]
    fn an_asleep_contact_that_is_named_elsewhere_is_worth_a_dial() {
        let mut bucket = full();
        assert_eq!(bucket.failed(K, &contact(0).id), None);
        assert_eq!(bucket.suggest(K, contact(0)), Suggested::Known);
        assert_eq!(bucket.suggest(K, at_port(0, 2000)), Suggested::Room);
    }

    #[test]
    fn the_contact_that_sleeps_longest_gives_way_to_a_newcomer() {
        let mut bucket = full();
        bucket.failed(K, &contact(1).id);
        bucket.failed(K, &contact(0).id);
        assert_eq!(bucket.suggest(K, contact(7)), Suggested::Room);
        assert_eq!(bucket.observe(K, contact(7)), Observed::Added);
        assert_eq!(bucket.live(), [contact(2), contact(7)]);
        assert_eq!(bucket.unresponsive().collect::<Vec<_>>(), [&contact(0)]);
    }

    #[test]
    fn a_candidate_that_was_met_is_preferred_to_newer_hearsay() {
        let mut bucket = full();
        assert_eq!(bucket.observe(K, contact(7)), Observed::Full { suspect: contact(0) });
        assert_eq!(bucket.suggest(K, contact(8)), Suggested::Queued);
        assert_eq!(bucket.failed(K, &contact(1).id), None);
        assert_eq!(bucket.live(), [contact(0), contact(2), contact(7)]);
        assert_eq!(bucket.remove(K, &contact(0).id), Some(contact(8)));
    }

    #[test]
    fn a_candidate_that_takes_its_leave_or_fails_is_no_candidate() {
        let mut bucket = full();
        for n in 7..10 {
            assert_eq!(bucket.suggest(K, contact(n)), Suggested::Queued);
        }
        assert_eq!(bucket.failed(K, &contact(9).id), None, "no place is free");
        assert_eq!(bucket.remove(K, &contact(8).id), None);
        assert_eq!(bucket.failed(K, &contact(0).id), Some(contact(7)));
        assert_eq!(bucket.failed(K, &contact(7).id), None, "all candidates were tried");
    }

    #[test]
    fn any_amount_of_hearsay_leaves_the_candidates_that_were_met() {
        let mut bucket = full();
        bucket.observe(K, contact(7));
        for n in 50..250 {
            bucket.suggest(K, contact(n));
        }
        assert_eq!(bucket.candidates.len(), REPLACEMENTS_MAX);
        bucket.failed(K, &contact(0).id);
        assert!(bucket.contains(&contact(7).id));
        let newest = (50..250).rev().take(REPLACEMENTS_MAX - 1);
        bucket.remove(K, &contact(7).id);
        assert_eq!(bucket.candidates.last().map(|last| last.contact), newest.clone().nth(1).map(contact));
        for n in newest.skip(1) {
            assert_eq!(bucket.failed(K, &contact(0).id), Some(contact(n)));
        }
    }

    #[test]
    fn hearsay_finds_no_place_among_candidates_that_were_all_met() {
        let mut bucket = full();
        for n in 10..10 + 2 * u8::try_from(REPLACEMENTS_MAX).expect("a small bound") {
            bucket.observe(K, contact(n));
        }
        bucket.suggest(K, contact(99));
        assert_eq!(bucket.candidates.len(), REPLACEMENTS_MAX);
        assert!(bucket.candidates.iter().all(|candidate| candidate.provenance == Provenance::Met));
    }

    #[test]
    fn a_full_bucket_allocates_for_k_and_no_more() {
        let k = 20;
        let mut bucket = Bucket::new(None);
        for n in 0..20 {
            bucket.observe(k, contact(n));
        }
        assert_eq!(bucket.live.capacity(), k);
    }
}
