//! Close nodes that a PUT went on without, because they did not say what they store, or were unresponsive before.
//!
//! Such a node may have been cut off, or stopped for a few seconds, and return an older record alone when it is back.
//! Each is asked as soon as it is a live contact, until it has answered. If it stores an older record than clients have
//! seen at this node, it gets the newest one. A node that was gone for longer asks its neighbours by itself
//! ([`crate::node::membership::sleep`], [`crate::node::replication::sync`]).
//!
//! Bounds: [`UNHEARD_MAX`] keys, which are forgotten [`UNHEARD_TIME`] after the last PUT that went on without their
//! node. Each node is asked for [`ASKED_MAX`] of them at a time.
//!
//! Non-goals: keys beyond the bound, and nodes that are no contacts, are left to the next round of offers.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::contact::Contact;
use crate::id::{Key, NodeId};
use crate::node::Node;
use crate::node::action::Actions;
use crate::node::purpose::{Copied, Outcome, Purpose, QueryId};
use crate::node::query::write_quorum::Put;
use crate::node::rpc::outbound::Report;
use crate::node::timers::Timer;
use crate::record::Precedence;
use crate::time::{Now, Time};
use crate::wire::peer::Reply;

/// Keys of all nodes together; about 120 bytes each. In the seconds until a node counts as unresponsive, a busy network
/// writes some thousands.
const UNHEARD_MAX: usize = 1 << 14;

/// The next round of offers is about as far away.
const UNHEARD_TIME: Duration = Duration::from_mins(5);

/// Keys that one node is asked for at a time. Each answer may start a lookup.
const ASKED_MAX: usize = 16;

/// A node that has left 64 requests in a row without an answer answers PING only: all that it did not tell is forgotten.
const FAILURES_MAX: usize = 4 * ASKED_MAX;

/// The pause before a node is asked that was a live contact all the time, and before it is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// What those nodes did not tell.
#[derive(Debug, Default)]
pub(crate) struct Unheard {
    nodes: BTreeMap<NodeId, Untold>,
    /// The keys of all nodes.
    len: usize,
}

/// What one node did not tell.
#[derive(Debug)]
struct Untold {
    keys: BTreeMap<Key, Written>,
    /// For how many of them it is being asked.
    in_flight: usize,
    /// Requests in a row without an answer.
    failures: usize,
    /// When all is forgotten.
    until: Time,
}

/// What PUTs of one key have written without a node.
#[derive(Clone, Copy, Debug)]
struct Written {
    /// The newest version.
    newest: Precedence,
    /// Whether the node is being asked for it.
    is_asked: bool,
}

impl Unheard {
    /// A PUT of `key`, which writes `version`, goes on without `id`.
    fn note(&mut self, now: Now, id: NodeId, key: Key, version: Precedence) {
        if self.len == UNHEARD_MAX {
            self.forget_old(now);
        }
        if self.len == UNHEARD_MAX {
            return;
        }
        let until = now.mono + UNHEARD_TIME;
        let new = || Untold { keys: BTreeMap::new(), in_flight: 0, failures: 0, until };
        let untold = self.nodes.entry(id).or_insert_with(new);
        untold.until = until;
        let written = untold.keys.entry(key).or_insert_with(|| {
            self.len += 1;
            Written { newest: version, is_asked: false }
        });
        written.newest = written.newest.max(version);
    }

    /// The newest version of `key` that PUTs have written without `id`.
    pub(super) fn newest(&self, id: &NodeId, key: &Key) -> Option<Precedence> {
        Some(self.nodes.get(id)?.keys.get(key)?.newest)
    }

    /// The next key to ask `id` for.
    fn next(&mut self, id: &NodeId) -> Option<Key> {
        let untold = self.nodes.get_mut(id).filter(|untold| untold.in_flight < ASKED_MAX)?;
        let (key, written) = untold.keys.iter_mut().find(|(_, written)| !written.is_asked)?;
        written.is_asked = true;
        untold.in_flight += 1;
        Some(*key)
    }

    /// `id` was asked for `key`, and has answered or not.
    fn asked(&mut self, now: Now, id: &NodeId, key: &Key, has_answered: bool) {
        let Some(untold) = self.nodes.get_mut(id) else { return };
        untold.in_flight = untold.in_flight.saturating_sub(1);
        if has_answered {
            untold.failures = 0;
            self.len -= usize::from(untold.keys.remove(key).is_some());
            return;
        }
        untold.failures += 1;
        untold.keys.entry(*key).and_modify(|written| written.is_asked = false);
        if untold.failures >= FAILURES_MAX {
            untold.until = now.mono;
        }
    }

    fn forget_old(&mut self, now: Now) {
        self.nodes.retain(|_, untold| untold.until > now.mono);
        self.len = self.nodes.values().map(|untold| untold.keys.len()).sum();
    }
}

impl Node {
    /// A request of a PUT, which went to `id`, has timed out or failed.
    pub(crate) fn note_unheard(&mut self, now: Now, id: NodeId, purpose: Purpose) {
        let Some((key, version)) = self.put_of(purpose).map(|put| (put.key(), put.record.rank().precedence())) else {
            return;
        };
        self.unheard.note(now, id, key, version);
        self.ask_if_unheard(&id, now.mono + PAUSE);
    }

    /// A PUT sends its copies. It does not ask contacts that are unresponsive.
    pub(crate) fn note_unresponsive(&mut self, now: Now, query: QueryId) {
        if self.table.unresponsive().next().is_none() {
            return;
        }
        let Some(put) = self.queries.put(query) else { return };
        let (key, version) = (put.key(), put.record.rank().precedence());
        let (k, distance) = (self.params.k, |contact: &Contact| contact.id.key().distance(&key));
        self.table.closest(&key, k, &mut self.nearby);
        let farthest = self.nearby.get(k - 1).map(distance);
        let is_close = |contact: &&Contact| farthest.is_none_or(|farthest| distance(contact) < farthest);
        for contact in self.table.unresponsive().filter(is_close) {
            self.unheard.note(now, contact.id, key, version);
        }
    }

    /// The PUT that has made the request.
    pub(crate) fn put_of(&mut self, purpose: Purpose) -> Option<&Put> {
        match purpose {
            Purpose::Lookup(query) => self.queries.put(query).map(|put| &*put),
            Purpose::ProbeVersion(attempt) | Purpose::Copy(Copied::Put(attempt)) => self.queries.attempt(attempt),
            _ => None,
        }
    }

    /// Asks `id` at that moment, if it is a live contact then.
    pub(crate) fn ask_if_unheard(&mut self, id: &NodeId, at: Time) {
        if self.unheard.nodes.get(id).is_some_and(|untold| untold.keys.len() > untold.in_flight) {
            self.timers.hasten(Timer::Unheard, at);
        }
    }

    /// Asks the nodes that are live contacts.
    pub(crate) fn ask_unheard(&mut self, now: Now, out: &mut Actions) {
        self.unheard.forget_old(now);
        let known = self.unheard.nodes.keys().filter_map(|id| self.table.find(id).copied());
        let live: Vec<Contact> = known.filter(|contact| !self.table.is_unresponsive(&contact.id)).collect();
        for contact in live {
            while self.may_call()
                && self.queries.may_repair()
                && let Some(key) = self.unheard.next(&contact.id)
            {
                self.call(now, contact, Purpose::AskVersion(key), out);
            }
            self.ask_if_unheard(&contact.id, now.mono + PAUSE);
        }
    }

    /// A node has said which version of `key` it stores, or will not.
    pub(crate) fn on_unheard_outcome(&mut self, now: Now, key: Key, report: Report<'_>, out: &mut Actions) {
        let Report { call, outcome } = report;
        if let Outcome::Reply { reply: Reply::Synced { entries, .. }, .. } = outcome {
            let stored = entries.iter().next().filter(|entry| entry.key == key);
            self.on_late_answer(now, call.to, stored.map(|entry| (key, entry.rank)), out);
        }
        if !call.expired {
            let has_answered = !matches!(outcome, Outcome::Passed(_) | Outcome::Failed);
            self.unheard.asked(now, &call.to.id, &key, has_answered);
            self.ask_if_unheard(&call.to.id, if has_answered { now.mono } else { now.mono + PAUSE });
        }
    }
}
