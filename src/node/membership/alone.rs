//! Whether this node is *alone*: the only node of its network that runs.
//!
//! Without a live contact a node cannot see whether the others have stopped, or only the way to them is broken.
//! If they have stopped, waiting for them is of no use, and the node answers its clients at once. If the way is
//! broken, the others may store what a client asks for, and the node waits. The failures of its contacts decide:
//! a process that ended leaves a host that refuses connections, and a broken way leaves silence, or an error of
//! this host.
//!
//! Guarantees (`PROTOCOL.md` 2, Settled):
//!
//! - Silence alone never makes a node alone, nor does a fault of its own host.
//! - Failures count only some time after the last live contact was lost, and longer after the start: nodes that
//!   restart refuse connections too, for as long as they need to start.
//! - The state ends with the first sign of another node that serves.
//!
//! Not guaranteed: that no other node runs. This node may know only some of them, and whatever is in between can
//! refuse a connection in the name of a host that does not.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use log::info;

use crate::contact::Contact;
use crate::id::NodeId;
use crate::node::Node;
use crate::node::action::{Actions, DialError};
use crate::node::params::Serving;
use crate::node::status::Status;
use crate::time::{Now, Time};

/// From the loss of the last live contact to the attempts that count: a process that a supervisor starts again
/// at once is back by then.
pub(crate) const ALONE_PAUSE: Duration = Duration::from_millis(500);

/// The same from the start of this node. The nodes of a network may all be starting, some with a large store; at
/// this moment a node has made three attempts.
const ALONE_START_PAUSE: Duration = Duration::from_secs(5);

/// What is known of a contact that was not reached. The larger one is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Absence {
    /// It was not reached; it may run.
    Silent,
    /// Its host refused the connection, or closed it: it does not run.
    Refused,
}

/// An attempt to reach a contact that failed, and when.
#[derive(Clone, Copy, Debug)]
struct Failure {
    absence: Absence,
    at: Time,
}

/// The failures of contacts since one was live, or since the start.
#[derive(Debug)]
pub(crate) struct Absences {
    /// Failures before do not count.
    counts_from: Time,
    /// Of contacts of the table and of an earlier run, and of no others.
    contacts: BTreeMap<(NodeId, SocketAddr), Failure>,
    /// By the number of the bootstrap.
    bootstraps: Vec<Option<Failure>>,
    /// Whether the last live contact said GOODBYE.
    was_left: bool,
    /// Whether this node is alone.
    is_alone: bool,
}

impl Absences {
    /// Nothing has failed yet.
    pub(crate) fn new(now: Now, bootstraps: usize) -> Self {
        Self {
            counts_from: now.mono + ALONE_START_PAUSE,
            contacts: BTreeMap::new(),
            bootstraps: vec![None; bootstraps],
            was_left: false,
            is_alone: false,
        }
    }

    /// Whether this node is alone.
    pub(crate) fn is_alone(&self) -> bool {
        self.is_alone
    }

    /// When an attempt to reach `contact` last failed.
    pub(crate) fn failed_at(&self, contact: &Contact) -> Option<Time> {
        self.contacts.get(&place(contact)).map(|failure| failure.at)
    }

    /// Whether a failure of `contact` counts.
    fn is_absent(&self, contact: &Contact) -> bool {
        self.counted(self.contacts.get(&place(contact)).copied()).is_some()
    }

    fn counted(&self, failure: Option<Failure>) -> Option<Absence> {
        failure.filter(|failure| failure.at >= self.counts_from).map(|failure| failure.absence)
    }

    /// Whether a refusal counts: without one this node is not alone.
    fn has_refusal(&self) -> bool {
        let bootstraps = self.bootstraps.iter().flatten();
        let mut failures = self.contacts.values().chain(bootstraps);
        self.was_left || failures.any(|failure| self.counted(Some(*failure)) == Some(Absence::Refused))
    }

    fn reset(&mut self, now: Now, counts_from: Time) {
        *self = Self { counts_from, ..Self::new(now, self.bootstraps.len()) };
    }
}

fn place(contact: &Contact) -> (NodeId, SocketAddr) {
    (contact.id, contact.address)
}

/// What is remembered after another attempt has failed by `error`. A refusal outlasts later silence. After a
/// fault of this host nothing is known any more: the contact may have come back unnoticed.
fn after(before: Option<Failure>, error: DialError, at: Time) -> Option<Failure> {
    let absence = match error {
        DialError::Refused => Absence::Refused,
        DialError::Unreachable | DialError::NotAuthentic => Absence::Silent,
        DialError::LocalFault => return None,
    };
    let absence = before.map_or(absence, |before| before.absence.max(absence));
    Some(Failure { absence, at })
}

impl Node {
    /// The last live contact was lost: what is known of contacts from before is out of date.
    pub(crate) fn forget_absences(&mut self, now: Now) {
        self.absences.reset(now, now.mono + ALONE_PAUSE);
    }

    /// A contact of the table, or of an earlier run, was not reached.
    pub(crate) fn note_absent(&mut self, now: Now, contact: Contact, error: DialError) {
        if self.status != Status::Joining {
            return;
        }
        for number in self.bootstraps_at(&contact) {
            self.note_bootstrap_absent(now, number, error);
        }
        let in_table = self.table.find(&contact.id).is_some_and(|known| *known == contact);
        if !in_table && !self.address_book.remembered().contains(&contact) {
            return;
        }
        let before = self.absences.contacts.remove(&place(&contact));
        if let Some(failure) = after(before, error, now.mono) {
            self.absences.contacts.insert(place(&contact), failure);
        }
    }

    /// The bootstrap of that number was not reached.
    pub(crate) fn note_bootstrap_absent(&mut self, now: Now, number: usize, error: DialError) {
        let known = &mut self.absences.bootstraps[number];
        *known = after(*known, error, now.mono);
    }

    /// A peer has said GOODBYE. That is as good as a refusal, if it was the last live contact.
    pub(crate) fn note_goodbye(&mut self) {
        if self.status == Status::Joining && self.table.live() == 0 {
            self.absences.was_left = true;
        }
    }

    /// Whether a known contact was not tried since failures count, and is not being dialled.
    pub(crate) fn has_untried_contact(&self, now: Now) -> bool {
        let is_tried = |contact: &Contact| self.absences.is_absent(contact) || self.peers.is_dialling(&contact.id);
        now.mono >= self.absences.counts_from && !self.absent_contacts().all(is_tried)
    }

    /// The contacts of the table, none of which is live, and those of an earlier run.
    fn absent_contacts(&self) -> impl Iterator<Item = &Contact> {
        self.table.unresponsive().chain(self.address_book.remembered())
    }

    /// Begins the state if the failures show that this node is alone, and ends it if they no longer do.
    pub(crate) fn consider_alone(&mut self, now: Now, out: &mut Actions) {
        match (self.absences.is_alone, self.seems_alone()) {
            (false, true) => {
                let (known, bootstraps) = (self.absent_contacts().count(), self.absences.bootstraps.len());
                info!("alone reason=\"all known nodes refuse or are silent\" contacts={known} bootstraps={bootstraps}");
                self.absences.is_alone = true;
                self.resume_queries(now, out);
            }
            (true, false) => self.end_alone("a contact cannot be dialled from this host"),
            (false, false) | (true, true) => {}
        }
    }

    /// Whether all known contacts have failed since one was live, at least one of them by a refusal.
    fn seems_alone(&self) -> bool {
        let absences = &self.absences;
        let may_be = self.status == Status::Joining && self.params.serving == Serving::Yes && absences.has_refusal();
        may_be
            && self.table.live() == 0
            && !self.peers.has_serving()
            && self.other_bootstraps().all(|number| absences.counted(absences.bootstraps[number]).is_some())
            && self.absent_contacts().all(|contact| absences.is_absent(contact))
    }

    /// Another node has shown that it runs.
    pub(crate) fn not_alone(&mut self, now: Now, reason: &str) {
        if self.status == Status::Joining {
            self.end_alone(reason);
            // A visitor does not shorten the pause after the start.
            let counts_from = self.absences.counts_from.max(now.mono + ALONE_PAUSE);
            self.absences.reset(now, counts_from);
        }
    }

    fn end_alone(&mut self, reason: &str) {
        if std::mem::replace(&mut self.absences.is_alone, false) {
            info!("no longer alone reason=\"{reason}\"");
        }
    }
}
