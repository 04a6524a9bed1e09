//! The address book: contacts that are known although they are not in the routing table.
//!
//! *Remembered* contacts are from an earlier run; the node joins through them. Contacts that have *left* said
//! GOODBYE in this run. The table forgets these at once, but a node that stops soon afterwards needs them: if
//! all nodes of a network stop at the same time, each has heard the GOODBYE of the others, and each must find
//! them again at its next start. So they are persisted beside the contacts of the table.

use std::collections::VecDeque;
use std::time::Duration;

use crate::contact::Contact;
use crate::id::NodeId;
use crate::routing::Table;
use crate::time::Time;

/// Contacts that are persisted: enough that some of them are up, however long the node was off.
const CONTACTS_PERSISTED_MAX: usize = 256;

/// How long a contact that has left is persisted: longer than it takes to stop all nodes of a network by hand.
/// Contacts that left before would only delay the next start.
const LEFT_KEPT: Duration = Duration::from_mins(10);

/// Contacts outside the routing table.
#[derive(Debug, Default)]
pub(crate) struct AddressBook {
    remembered: Vec<Contact>,
    /// The contacts that have left, and when; the latest first.
    left: VecDeque<(Contact, Time)>,
    has_met: bool,
}

impl AddressBook {
    /// Adds a contact of an earlier run; returns whether there was room for it.
    pub(crate) fn remember(&mut self, contact: Contact) -> bool {
        let has_room = self.remembered.len() < CONTACTS_PERSISTED_MAX;
        if has_room {
            self.remembered.push(contact);
        }
        has_room
    }

    /// The contacts of an earlier run.
    pub(crate) fn remembered(&self) -> &[Contact] {
        &self.remembered
    }

    /// `contact` has left.
    pub(crate) fn note_left(&mut self, now: Time, contact: Contact) {
        self.left.retain(|(known, _)| known.id != contact.id);
        self.left.truncate(CONTACTS_PERSISTED_MAX - 1);
        self.left.push_front((contact, now));
    }

    /// The contact `id` is in the table, perhaps again.
    pub(crate) fn note_met(&mut self, id: &NodeId) {
        self.has_met = true;
        self.left.retain(|(contact, _)| contact.id != *id);
    }

    /// Whether any contact was in the table in this run.
    pub(crate) fn has_met(&self) -> bool {
        self.has_met
    }

    /// The contacts to persist. Live ones come first, then unresponsive ones, then those that have left. `None`
    /// if there are none: an empty list never replaces an earlier one, since a node that knows no other
    /// node would found another network at its next start.
    pub(crate) fn to_persist(&self, now: Time, table: &Table) -> Option<Vec<Contact>> {
        let left = self.left.iter().take_while(|(_, since)| now.since(*since) < LEFT_KEPT).map(|(contact, _)| contact);
        let known = table.iter().chain(table.unresponsive()).chain(left);
        let contacts: Vec<Contact> = known.take(CONTACTS_PERSISTED_MAX).copied().collect();
        (!contacts.is_empty()).then_some(contacts)
    }
}
