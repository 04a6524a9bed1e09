//! Close nodes that a PUT went on without, because they did not say what they store, or were unresponsive before. If the
//! record has fewer replicas than the one before, its replicas note the latter too.
//!
//! Such a node may have been cut off, or stopped for a few seconds, and return an older record alone when it is back.
//! Each is pinged until it answers, and then asked. If it stores an older record than the PUT has written, or clients have
//! seen at this node, it gets the newest one, and is asked again: the copy may be skipped or lost. A node that was gone for
//! longer asks its neighbours by itself ([`crate::node::membership::sleep`], [`crate::node::replication::sync`]).
//!
//! Bounds: [`UNHEARD_MAX`] keys, which are forgotten [`UNHEARD_TIME`] after the last PUT that went on without their
//! node. Each node is asked for [`ASKED_MAX`] of them at a time. [`STRANGERS_MAX`] of the nodes are no contacts.
//!
//! Non-goals: keys beyond the bound, and those of which all nodes that have noted them end, are left to the next round of
//! offers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::contact::Contact;
use crate::id::{Key, NodeId};
use crate::node::Node;
use crate::node::action::Actions;
use crate::node::purpose::{Copied, Outcome, Purpose, QueryId};
use crate::node::query::write_quorum::Put;
use crate::node::replication::offer::Reach;
use crate::node::rpc::outbound::Report;
use crate::node::timers::Timer;
use crate::record::{Life, Precedence, Rank, Tombstone, TombstoneClass};
use crate::time::{Now, Time};
use crate::wire::peer::Reply;

/// Keys of all nodes together; about 170 bytes each. In the seconds until a node counts as unresponsive, a busy network
/// writes some thousands, and several nodes may be silent.
const UNHEARD_MAX: usize = 1 << 16;

/// The next round of offers is about as far away.
const UNHEARD_TIME: Duration = Duration::from_mins(5);

/// Keys that one node is asked for at a time. Each answer may start a lookup.
const ASKED_MAX: usize = 16;

/// Nodes that are no contacts of this node. Peers have named them, which does not show that they exist, and each costs a
/// dial a second.
const STRANGERS_MAX: usize = 16;

/// A node that has left 64 requests in a row without an answer is gone, or answers PING only: all that it did not tell is
/// forgotten.
const FAILURES_MAX: usize = 4 * ASKED_MAX;

/// A node that has named an older version that often, although it got the newest one each time, keeps that on purpose.
const OLDER_MAX: u8 = 4;

/// The pause before a node is asked that was a live contact all the time, and before it is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// A version, and when its life ends.
type Version = (Precedence, Time);

/// The version that `put` writes.
fn version_of(put: &Put) -> Version {
    (put.record.rank().precedence(), put.expires)
}

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
    /// Where it was asked. It may be no contact of the table.
    contact: Contact,
    keys: BTreeMap<Key, Written>,
    /// When it is to be asked for each key. It is being asked for the others now.
    due: BTreeSet<(Time, Key)>,
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
    /// When the life of that version ends.
    ends: Time,
    /// How often the node has named an older one.
    older: u8,
    /// Whether the node is being asked for the key.
    is_asked: bool,
}

/// What a node that was asked has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// It stores that version, a newer one, or none.
    Newest,
    /// It stores an older one, and gets the newest.
    Older,
    /// It stores an older one, and this node has no room to look up the newest now.
    Busy,
    /// It has not answered.
    Nothing,
}

impl Unheard {
    /// A PUT of `key`, which writes `version` until `ends`, goes on without `contact`.
    fn note(&mut self, now: Now, contact: Contact, key: Key, (version, ends): Version) {
        let has_room = self.len < UNHEARD_MAX || self.find(&contact.id, &key).is_some();
        if !has_room && !self.make_room(now, &contact.id) {
            return;
        }
        let until = now.mono + UNHEARD_TIME;
        let new = || Untold { contact, keys: BTreeMap::new(), due: BTreeSet::new(), failures: 0, until };
        let untold = self.nodes.entry(contact.id).or_insert_with(new);
        (untold.contact, untold.until) = (contact, until);
        let written = untold.keys.entry(key).or_insert_with(|| {
            self.len += 1;
            untold.due.insert((now.mono, key));
            Written { newest: version, ends, older: 0, is_asked: false }
        });
        if (version, ends) > (written.newest, written.ends) {
            *written = Written { newest: version, ends, older: 0, ..*written };
        }
    }

    /// Makes room for a key of `id`. If nothing is old, forgets a key of the node with the most of them, so that nodes that
    /// are gone for good do not take all the room. `false` if no other node has more than `id`.
    fn make_room(&mut self, now: Now, id: &NodeId) -> bool {
        self.forget_old(now);
        if self.len < UNHEARD_MAX {
            return true;
        }
        let own = self.nodes.get(id).map_or(0, |untold| untold.keys.len());
        let others = self.nodes.values_mut().filter(|untold| untold.keys.len() > own + 1);
        let Some(most) = others.max_by_key(|untold| untold.keys.len()) else { return false };
        let Some((_, key)) = most.due.pop_last() else { return false };
        most.keys.remove(&key);
        self.len -= 1;
        true
    }

    /// What PUTs of `key` have written without `id`.
    fn find(&self, id: &NodeId, key: &Key) -> Option<&Written> {
        self.nodes.get(id)?.keys.get(key)
    }

    /// Takes the next key to ask `id` for. One that has not answered is asked for one key at a time.
    fn take_due(&mut self, now: Now, id: &NodeId) -> Option<Key> {
        let untold = self.nodes.get_mut(id)?;
        let in_flight = untold.keys.len() - untold.due.len();
        let may_ask = in_flight < if untold.failures == 0 { ASKED_MAX } else { 1 };
        let is_due = untold.due.first().is_some_and(|(at, _)| *at <= now.mono);
        if !may_ask || !is_due {
            return None;
        }
        let (_, key) = untold.due.pop_first()?;
        untold.keys.entry(key).and_modify(|written| written.is_asked = true);
        Some(key)
    }

    /// `id` was asked for `key`.
    fn asked(&mut self, now: Now, id: &NodeId, key: &Key, told: Told) {
        let Some(untold) = self.nodes.get_mut(id) else { return };
        untold.failures = if told == Told::Nothing { untold.failures + 1 } else { 0 };
        if untold.failures >= FAILURES_MAX {
            untold.until = now.mono;
        }
        // Otherwise the key was forgotten and noted again since: it is due already.
        let Some(written) = untold.keys.get_mut(key).filter(|written| written.is_asked) else { return };
        written.is_asked = false;
        written.older += u8::from(told == Told::Older);
        if told == Told::Newest || written.older == OLDER_MAX {
            untold.keys.remove(key);
            self.len -= 1;
        } else {
            untold.due.insert((now.mono + PAUSE, *key));
        }
    }

    fn forget_old(&mut self, now: Now) {
        self.nodes.retain(|_, untold| untold.until > now.mono);
        self.len = self.nodes.values().map(|untold| untold.keys.len()).sum();
    }
}

impl Node {
    /// A request of a PUT, which went to `peer`, has timed out or failed.
    pub(crate) fn note_unheard(&mut self, now: Now, peer: Contact, purpose: Purpose) {
        let Some((key, version)) = self.put_of(purpose).map(|put| (put.key(), version_of(put))) else { return };
        if self.is_known_or_one_of_few(&peer.id) {
            self.unheard.note(now, peer, key, version);
            self.ask_if_unheard(&peer.id, now.mono + PAUSE);
        }
    }

    fn is_known_or_one_of_few(&self, id: &NodeId) -> bool {
        let strangers = || self.unheard.nodes.keys().filter(|id| !self.table.contains(id)).count();
        self.table.contains(id) || self.unheard.nodes.contains_key(id) || strangers() < STRANGERS_MAX
    }

    /// A PUT sends its copies. It does not ask contacts that are unresponsive.
    pub(crate) fn note_unresponsive(&mut self, now: Now, query: QueryId) {
        if let Some(put) = self.queries.put(query) {
            let (key, version) = (put.key(), version_of(put));
            self.note_unresponsive_of(now, self.params.k, key, version);
        }
    }

    /// This node is a replica of `version` of `key`, which has replaced a record of `former` replicas, and has fewer: no
    /// offer would tell those that are unresponsive now. The node that runs the PUT may be far from them and not know them.
    pub(crate) fn note_former_replicas(&mut self, now: Now, key: Key, version: Version, former: u8) {
        self.note_unresponsive_of(now, former.into(), key, version);
    }

    /// The unresponsive contacts that are closer to `key` than the `n`-th live one do not know `version`.
    fn note_unresponsive_of(&mut self, now: Now, n: usize, key: Key, version: Version) {
        if self.table.unresponsive().next().is_none() {
            return;
        }
        let distance = |contact: &Contact| contact.id.key().distance(&key);
        self.table.closest(&key, n, &mut self.nearby);
        let farthest = self.nearby.get(n - 1).map(distance);
        let is_close = |contact: &&Contact| farthest.is_none_or(|farthest| distance(contact) < farthest);
        for contact in self.table.unresponsive().filter(is_close) {
            self.unheard.note(now, *contact, key, version);
            self.timers.hasten(Timer::Unheard, now.mono + PAUSE);
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

    /// Asks `id` at that moment, if there is anything to ask.
    pub(crate) fn ask_if_unheard(&mut self, id: &NodeId, at: Time) {
        if self.unheard.nodes.get(id).is_some_and(|untold| !untold.due.is_empty()) {
            self.timers.hasten(Timer::Unheard, at);
        }
    }

    /// Asks the nodes. A contact that is unresponsive is pinged first.
    pub(crate) fn ask_unheard(&mut self, now: Now, out: &mut Actions) {
        self.unheard.forget_old(now);
        let nodes = self.unheard.nodes.iter().filter(|(_, untold)| !untold.due.is_empty());
        let contacts: Vec<Contact> =
            nodes.map(|(id, untold)| *self.table.find(id).unwrap_or(&untold.contact)).collect();
        for contact in contacts {
            if self.table.is_unresponsive(&contact.id) {
                self.ping(now, contact, out);
            } else {
                self.ask_versions(now, contact, out);
            }
            self.ask_if_unheard(&contact.id, now.mono + PAUSE);
        }
    }

    /// Asks `contact` for the keys that are due.
    fn ask_versions(&mut self, now: Now, contact: Contact, out: &mut Actions) {
        while self.may_call()
            && self.queries.may_repair()
            && let Some(key) = self.unheard.take_due(now, &contact.id)
        {
            self.call(now, contact, Purpose::AskVersion(key), out);
        }
    }

    /// A peer says what it stores after the PUT that has asked has gone on without it, because it was silent for long: it
    /// gets the newest record if it stores an older one than that PUT has written, or clients have seen. Returns whether it
    /// does.
    pub(crate) fn on_late_answer(
        &mut self,
        now: Now,
        peer: Contact,
        stored: Option<(Key, Rank)>,
        out: &mut Actions,
    ) -> bool {
        let Some((key, rank)) = stored else { return false };
        let (seen, written) = (self.versions.newest(&key), self.unheard.find(&peer.id, &key).copied());
        let newest = seen.max(written.map(|written| written.newest));
        let is_older = rank.life == Life::Alive && Some(rank.precedence()) < newest;
        match written {
            Some(Written { newest, ends, .. }) if is_older && ends <= now.mono && newest.plain().is_some() => {
                self.tell_over(now, peer, key, newest);
            }
            _ if is_older => self.replace_copies(now, key, vec![peer], out),
            _ => {}
        }
        is_older
    }

    /// Tells `peer` by an OFFER that the life of `over`, a plain version of `key` that a PUT has written, has ended. That a
    /// peer says so would be no proof.
    fn tell_over(&mut self, now: Now, peer: Contact, key: Key, over: Precedence) {
        self.storage.bury(now, key, Tombstone::of_class(TombstoneClass::Plain, over.version()));
        self.offers.add(peer, key, Reach::Over);
        self.timers.hasten(Timer::Replicate, now.mono);
    }

    /// A node has said which version of `key` it stores, or will not.
    pub(crate) fn on_unheard_outcome(&mut self, now: Now, key: Key, report: Report<'_>, out: &mut Actions) {
        let Report { call, outcome } = report;
        let told = match outcome {
            Outcome::Reply { reply: Reply::Synced { entries, .. }, .. } => {
                let stored = entries.iter().next().filter(|entry| entry.key == key).map(|entry| (key, entry.rank));
                let may_repair = self.queries.may_repair();
                match self.on_late_answer(now, call.to, stored, out) {
                    true if may_repair => Told::Older,
                    true => Told::Busy,
                    false => Told::Newest,
                }
            }
            Outcome::Passed(_) | Outcome::Failed => Told::Nothing,
            Outcome::Reply { .. } | Outcome::Refused(_) => Told::Newest,
        };
        if !call.expired {
            self.unheard.asked(now, &call.to.id, &key, told);
            self.ask_if_unheard(&call.to.id, if told == Told::Newest { now.mono } else { now.mono + PAUSE });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::KEY_SIZE;
    use crate::time::WallTime;

    const NOW: Now = Now { mono: Time::ZERO, wall: WallTime::from_millis(0) };

    fn key(n: usize) -> Key {
        let mut key = [0; KEY_SIZE];
        key[..8].copy_from_slice(&(n as u64).to_be_bytes());
        Key::new(key)
    }

    fn contact(n: u8) -> Contact {
        Contact::new(NodeId::new(Key::new([n; KEY_SIZE])), ([192, 0, 2, n], 1000).into())
    }

    fn keys_of(unheard: &Unheard, n: u8) -> usize {
        unheard.nodes.get(&contact(n).id).map_or(0, |untold| untold.keys.len())
    }

    /// Nodes that are gone for good must not take all the room.
    #[test]
    fn a_full_table_forgets_keys_of_the_node_with_the_most() {
        let mut unheard = Unheard::default();
        let mut note = |n, nth| unheard.note(NOW, contact(n), key(nth), (Precedence::LOWEST, Time::ZERO));
        (0..UNHEARD_MAX).for_each(|nth| note(1, nth));
        (0..1_000).for_each(|nth| note(2, nth));
        (0..UNHEARD_MAX).for_each(|nth| note(3, nth));
        assert_eq!(unheard.len, UNHEARD_MAX);
        assert_eq!(keys_of(&unheard, 2), 1_000);
        assert!(keys_of(&unheard, 1).abs_diff(keys_of(&unheard, 3)) <= 2);
        assert_eq!(unheard.nodes.values().map(|untold| untold.keys.len()).sum::<usize>(), UNHEARD_MAX);
    }

    #[test]
    fn a_key_that_was_noted_again_while_its_node_was_asked_is_due_once() {
        let mut unheard = Unheard::default();
        let written = (Precedence::LOWEST, Time::ZERO);
        unheard.note(NOW, contact(1), key(1), written);
        assert_eq!(unheard.take_due(NOW, &contact(1).id), Some(key(1)));
        unheard.forget_old(Now { mono: Time::ZERO + UNHEARD_TIME, ..NOW });
        unheard.note(NOW, contact(1), key(1), written);
        unheard.asked(NOW, &contact(1).id, &key(1), Told::Nothing);
        let untold = &unheard.nodes[&contact(1).id];
        assert_eq!((untold.keys.len(), untold.due.len()), (1, 1));
    }
}
