//! One k-bucket (Kademlia, section 2.2): the contacts whose ids share a prefix of one length with the own
//! id.
//!
//! A bucket has three lists, each in the order of time. `live` goes from the least to the most recently
//! seen contact. `unresponsive` are the contacts that failed and have not answered since; they stay
//! while nothing replaces them (section 4.1). Both lists together hold at most k contacts, the members.
//! `replacements` are the contacts that may become members.
//!
//! The rule: a live member stops being live only by failing or by leaving the network, never for a new
//! contact. So a contact that this node has dialled is a replacement only while all k members are live.

use crate::contact::Contact;
use crate::id::NodeId;
use crate::limits::{CONTACT_FAILURE_PAUSE, CONTACT_FAILURES_MAX};
use crate::routing::{Observed, Suggested};
use crate::time::Time;

/// Replacements in one bucket (the replacement cache of Kademlia, section 4.1). The newest are tried first,
/// so 8 suffice, even if every second one is dead; k of them would add half to the memory of a table.
const REPLACEMENTS_MAX: usize = 8;

/// The contacts whose ids share a prefix of one length with the own id.
#[derive(Debug)]
pub(super) struct Bucket {
    /// When a lookup last covered this part of the key space; `None` is never.
    pub(super) refreshed: Option<Time>,
    live: Vec<Contact>,
    unresponsive: Vec<Unresponsive>,
    /// The next to be used last: first those that were reported, then those that were dialled, both from
    /// the oldest to the newest.
    replacements: Vec<Replacement>,
}

#[derive(Debug)]
struct Unresponsive {
    contact: Contact,
    /// Failures in a row, at least 1.
    failures: u8,
    /// When the last of them was counted.
    counted: Time,
}

#[derive(Debug)]
struct Replacement {
    contact: Contact,
    provenance: Provenance,
}

/// How this node knows a replacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Provenance {
    /// Another node has named it: it must be dialled before it becomes a member.
    Reported,
    /// This node has dialled it and met its id, while all members were live: it may become a member at
    /// once.
    Dialled,
}

// The simulator has 20 000 tables of 250 contacts: at 64 bytes each these take 320 MB.
const _: () = {
    assert!(size_of::<Contact>() <= 64);
    assert!(size_of::<Replacement>() <= 68);
    assert!(size_of::<Bucket>() <= 88);
};

impl Bucket {
    /// An empty bucket that was last refreshed at `refreshed`.
    pub(super) const fn new(refreshed: Option<Time>) -> Self {
        Self { refreshed, live: Vec::new(), unresponsive: Vec::new(), replacements: Vec::new() }
    }

    /// The live members, the least recently seen first.
    pub(super) fn live(&self) -> &[Contact] {
        &self.live
    }

    /// The unresponsive members, the one that failed first in front.
    pub(super) fn unresponsive(&self) -> impl Iterator<Item = &Contact> {
        self.unresponsive.iter().map(|unresponsive| &unresponsive.contact)
    }

    /// The number of members, live and unresponsive.
    pub(super) fn len(&self) -> usize {
        self.live.len() + self.unresponsive.len()
    }

    /// See [`super::Table::observe`].
    pub(super) fn observe(&mut self, k: usize, contact: Contact) -> Observed {
        self.replacements.retain(|replacement| replacement.contact.id != contact.id);
        if let Some(known) = self.unresponsive.iter_mut().find(|known| known.contact.id == contact.id) {
            known.contact = contact;
            return Observed::Unresponsive;
        }
        if self.remove_member(&contact.id).is_some() {
            push(&mut self.live, k, contact);
            return Observed::Refreshed;
        }
        if let (Some(&suspect), true) = (self.live.first(), self.live.len() == k) {
            self.add_replacement(Replacement { contact, provenance: Provenance::Dialled });
            return Observed::Full { suspect };
        }
        self.admit(k, contact);
        Observed::Added
    }

    /// See [`super::Table::heard`].
    pub(super) fn heard(&mut self, k: usize, id: &NodeId) -> bool {
        let Some(contact) = self.remove_member(id) else { return false };
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
        match self.replacements.iter().position(|replacement| replacement.contact.id == contact.id) {
            Some(at) if self.replacements[at].provenance == Provenance::Dialled => return Suggested::Queued,
            Some(at) => drop(self.replacements.remove(at)),
            None => {}
        }
        self.add_replacement(Replacement { contact, provenance: Provenance::Reported });
        if self.live.len() < k { Suggested::Room } else { Suggested::Queued }
    }

    /// See [`super::Table::failed`].
    pub(super) fn failed(&mut self, now: Time, k: usize, id: &NodeId) -> Option<Contact> {
        if let Some(at) = self.live.iter().position(|live| live.id == *id) {
            let contact = self.live.remove(at);
            push(&mut self.unresponsive, k, Unresponsive { contact, failures: 1, counted: now });
        } else if let Some(at) = self.unresponsive.iter().position(|unresponsive| unresponsive.contact.id == *id) {
            let unresponsive = &mut self.unresponsive[at];
            if now >= unresponsive.counted + CONTACT_FAILURE_PAUSE {
                unresponsive.counted = now;
                unresponsive.failures += 1;
            }
            if unresponsive.failures >= CONTACT_FAILURES_MAX {
                self.unresponsive.remove(at);
            }
        } else {
            self.replacements.retain(|replacement| replacement.contact.id != *id);
        }
        self.fill(k)
    }

    /// See [`super::Table::remove`].
    pub(super) fn remove(&mut self, k: usize, id: &NodeId) -> Option<Contact> {
        self.replacements.retain(|replacement| replacement.contact.id != *id);
        self.remove_member(id);
        self.fill(k)
    }

    /// If fewer than k members are live, makes the newest replacement that was dialled a member. Without
    /// one, returns the newest that was reported, for the caller to dial.
    fn fill(&mut self, k: usize) -> Option<Contact> {
        if self.live.len() == k {
            return None;
        }
        let Replacement { contact, provenance } = self.replacements.pop()?;
        match provenance {
            Provenance::Reported => Some(contact),
            Provenance::Dialled => {
                self.admit(k, contact);
                None
            }
        }
    }

    /// Makes `newcomer` a live member. In a full bucket it replaces the unresponsive member that failed
    /// first.
    fn admit(&mut self, k: usize, newcomer: Contact) {
        if self.len() == k {
            self.unresponsive.remove(0);
        }
        push(&mut self.live, k, newcomer);
    }

    /// Removes the member `id`, if it is one.
    fn remove_member(&mut self, id: &NodeId) -> Option<Contact> {
        if let Some(at) = self.live.iter().position(|live| live.id == *id) {
            return Some(self.live.remove(at));
        }
        let at = self.unresponsive.iter().position(|unresponsive| unresponsive.contact.id == *id)?;
        Some(self.unresponsive.remove(at).contact)
    }

    /// Adds a replacement. In a full list it displaces the oldest reported one; a dialled one displaces the
    /// oldest dialled one only if none was reported. So reported contacts, of which any peer can make any
    /// number, never displace a dialled one.
    fn add_replacement(&mut self, replacement: Replacement) {
        let mut at = match replacement.provenance {
            Provenance::Dialled => self.replacements.len(),
            Provenance::Reported => self.replacements.partition_point(|other| other.provenance == Provenance::Reported),
        };
        if self.replacements.len() == REPLACEMENTS_MAX {
            if at == 0 {
                return;
            }
            self.replacements.remove(0);
            at -= 1;
        }
        self.replacements.insert(at, replacement);
    }
}

/// Appends to a list that never holds more than `max` items, and reserves no memory for more: doubling the
/// capacity would give a full bucket of 20 room for 32.
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
    fn a_contact_met_at_another_address_has_the_new_address() {
        let mut bucket = full();
        assert_eq!(bucket.observe(K, at_port(1, 2000)), Observed::Refreshed);
        assert_eq!(bucket.live(), [contact(0), contact(2), at_port(1, 2000)]);
    }

    #[test]
    fn an_unresponsive_contact_that_is_met_has_the_new_address_and_is_live_when_it_answers() {
        let mut bucket = full();
        bucket.failed(Time::ZERO, K, &contact(1).id);
        assert_eq!(bucket.observe(K, at_port(1, 2000)), Observed::Unresponsive);
        assert_eq!(bucket.live(), [contact(0), contact(2)]);
        assert!(bucket.heard(K, &contact(1).id));
        assert_eq!(bucket.live(), [contact(0), contact(2), at_port(1, 2000)]);
    }

    #[test]
    fn naming_a_live_contact_changes_neither_its_address_nor_its_order() {
        let mut bucket = full();
        assert_eq!(bucket.suggest(K, at_port(0, 2000)), Suggested::Known);
        assert_eq!(bucket.live(), [contact(0), contact(1), contact(2)]);
    }

    #[test]
    fn an_unresponsive_contact_named_at_another_address_is_worth_a_dial() {
        let mut bucket = full();
        assert_eq!(bucket.failed(Time::ZERO, K, &contact(0).id), None);
        assert_eq!(bucket.suggest(K, contact(0)), Suggested::Known);
        assert_eq!(bucket.suggest(K, at_port(0, 2000)), Suggested::Room);
    }

    #[test]
    fn a_new_contact_replaces_the_contact_that_failed_first() {
        let mut bucket = full();
        bucket.failed(Time::ZERO, K, &contact(1).id);
        bucket.failed(Time::ZERO, K, &contact(0).id);
        assert_eq!(bucket.suggest(K, contact(7)), Suggested::Room);
        assert_eq!(bucket.observe(K, contact(7)), Observed::Added);
        assert_eq!(bucket.live(), [contact(2), contact(7)]);
        assert_eq!(bucket.unresponsive().collect::<Vec<_>>(), [&contact(0)]);
    }

    #[test]
    fn a_dialled_replacement_is_preferred_to_a_newer_reported_one() {
        let mut bucket = full();
        assert_eq!(bucket.observe(K, contact(7)), Observed::Full { suspect: contact(0) });
        assert_eq!(bucket.suggest(K, contact(8)), Suggested::Queued);
        assert_eq!(bucket.failed(Time::ZERO, K, &contact(1).id), None);
        assert_eq!(bucket.live(), [contact(0), contact(2), contact(7)]);
        assert_eq!(bucket.remove(K, &contact(0).id), Some(contact(8)));
    }

    #[test]
    fn a_replacement_that_leaves_or_fails_is_forgotten() {
        let mut bucket = full();
        for n in 7..10 {
            assert_eq!(bucket.suggest(K, contact(n)), Suggested::Queued);
        }
        assert_eq!(bucket.failed(Time::ZERO, K, &contact(9).id), None, "all members are live");
        assert_eq!(bucket.remove(K, &contact(8).id), None);
        assert_eq!(bucket.failed(Time::ZERO, K, &contact(0).id), Some(contact(7)));
        assert_eq!(bucket.failed(Time::ZERO, K, &contact(7).id), None, "all replacements were tried");
    }

    #[test]
    fn reported_contacts_never_displace_a_dialled_replacement() {
        let mut bucket = full();
        bucket.observe(K, contact(7));
        for n in 50..250 {
            bucket.suggest(K, contact(n));
        }
        assert_eq!(bucket.replacements.len(), REPLACEMENTS_MAX);
        bucket.failed(Time::ZERO, K, &contact(0).id);
        assert!(bucket.live.contains(&contact(7)));
        let newest = (50..250).rev().take(REPLACEMENTS_MAX - 1);
        bucket.remove(K, &contact(7).id);
        assert_eq!(bucket.replacements.last().map(|last| last.contact), newest.clone().nth(1).map(contact));
        for n in newest.skip(1) {
            assert_eq!(bucket.failed(Time::ZERO, K, &contact(0).id), Some(contact(n)));
        }
    }

    #[test]
    fn a_reported_contact_is_ignored_while_all_replacements_were_dialled() {
        let mut bucket = full();
        for n in 10..10 + 2 * u8::try_from(REPLACEMENTS_MAX).expect("a small bound") {
            bucket.observe(K, contact(n));
        }
        bucket.suggest(K, contact(99));
        assert_eq!(bucket.replacements.len(), REPLACEMENTS_MAX);
        assert!(bucket.replacements.iter().all(|replacement| replacement.provenance == Provenance::Dialled));
    }

    #[test]
    fn a_full_bucket_allocates_memory_for_exactly_k_contacts() {
        let k = 20;
        let mut bucket = Bucket::new(None);
        for n in 0..20 {
            bucket.observe(k, contact(n));
        }
        assert_eq!(bucket.live.capacity(), k);
    }
}
