//! PUTs of one key at this node take turns: one makes attempts, and later ones wait. If two ran at a time, copies of the
//! earlier record could reach nodes after the later PUT has looked there, and these nodes would go on serving it.
//!
//! A turn ends with its attempt. The latest PUT that waits has the next turn. It *stands for* all earlier ones that have
//! not ended, because its record is newer: their clients get the answer that it gets. An earlier one for which no client
//! waits ends when a later one arrives. So a key that is written again and again costs two PUTs at a time.
//!
//! PUTs of hashed records take no turns, because none of them replaces another; nor do those that pass a record on.

use std::collections::BTreeSet;
use std::collections::hash_map::Entry;

use crate::id::Key;
use crate::node::Node;
use crate::node::action::Actions;
use crate::node::purpose::QueryId;
use crate::node::query::put::PutEnd;
use crate::node::query::write_quorum::Put;
use crate::node::query::{Queries, Query};
use crate::node::status::Status;
use crate::node::timers::Timer;
use crate::time::Now;

/// The PUTs of one key that have not ended.
#[derive(Debug)]
pub(super) struct Turns {
    /// The one whose turn it is. It makes an attempt, or waits until it may.
    running: QueryId,
    /// Earlier ones, for which a later one stands, and later ones, which wait for their turn.
    waiting: BTreeSet<QueryId>,
}

impl Turns {
    fn latest(&self) -> QueryId {
        self.waiting.last().map_or(self.running, |last| self.running.max(*last))
    }

    /// The next one to have its turn, if it is not the running one.
    fn later(&self) -> Option<QueryId> {
        self.waiting.last().copied().filter(|last| *last > self.running)
    }

    /// The latest PUT before `id`.
    fn previous(&self, id: QueryId) -> Option<QueryId> {
        let waiting = self.waiting.range(..id).next_back().copied();
        waiting.max(Some(self.running).filter(|running| *running < id))
    }

    /// The PUTs that are earlier than `id`.
    fn earlier(&self, id: QueryId) -> impl Iterator<Item = QueryId> {
        self.waiting.range(..id).copied().chain(Some(self.running).filter(|running| *running < id))
    }
}

impl Queries {
    /// The latest running PUT of `key`.
    pub(crate) fn writing(&self, key: &Key) -> Option<&Put> {
        let Query::Put(put) = self.running.get(&self.writing.get(key)?.latest())? else { return None };
        Some(put)
    }

    /// The PUT `id` of `key` waits for its turn, or has it at once.
    pub(super) fn queue_put(&mut self, id: QueryId, key: Key, takes_turns: bool) {
        let turns = match self.writing.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(Turns { running: id, waiting: BTreeSet::new() });
                return;
            }
            Entry::Occupied(turns) => turns.into_mut(),
        };
        let latest = turns.latest();
        if takes_turns {
            turns.waiting.insert(id);
        } else {
            turns.running = id;
        }
        if let Some(earlier) = self.put(latest) {
            earlier.is_latest = false;
        }
    }

    /// The PUT `id` of `key` has ended. If it was its turn, the latest one that waits has it now.
    pub(super) fn unqueue_put(&mut self, id: QueryId, key: &Key) {
        let Some(turns) = self.writing.get_mut(key) else { return };
        turns.waiting.remove(&id);
        if turns.running == id {
            match turns.waiting.pop_last() {
                Some(next) => turns.running = next,
                None => drop(self.writing.remove(key)),
            }
        }
    }

    /// Whether it is the turn of the PUT `id` of `key`.
    pub(super) fn has_turn(&self, key: &Key, id: QueryId) -> bool {
        self.writing.get(key).is_some_and(|turns| turns.running == id)
    }

    /// Whether it is the turn of the PUT `id` of `key`, and a later one waits.
    pub(super) fn has_successor(&self, key: &Key, id: QueryId) -> bool {
        self.writing.get(key).is_some_and(|turns| turns.running == id && turns.later().is_some())
    }

    /// The PUTs of `key` that have not ended and are earlier than `id`.
    fn earlier_puts(&self, key: &Key, id: QueryId) -> Vec<QueryId> {
        self.writing.get(key).into_iter().flat_map(|turns| turns.earlier(id)).collect()
    }

    /// The PUT of `key` that may begin an attempt now; `None` while one makes an attempt.
    fn next_turn(&mut self, key: &Key) -> Option<QueryId> {
        let running = self.writing.get(key)?.running;
        if !self.put(running)?.is_parked() {
            return None;
        }
        let turns = self.writing.get_mut(key)?;
        if let Some(later) = turns.later() {
            turns.waiting.remove(&later);
            turns.waiting.insert(running);
            turns.running = later;
        }
        Some(turns.running)
    }
}

impl Node {
    /// The PUT `query` of `key` is new. It stands for the one before it, if that has not ended, and so for all earlier
    /// ones.
    pub(super) fn stand_for_previous(&mut self, key: &Key, query: QueryId, out: &mut Actions) {
        let previous = self.queries.writing.get(key).and_then(|turns| turns.previous(query));
        if let Some(previous) = previous {
            self.stand_for(query, previous, self.queries.has_turn(key, previous), out);
        }
    }

    /// The PUT `query` stands for the earlier PUT `id`, which ends if no client waits for it and it does not have its
    /// turn.
    fn stand_for(&mut self, query: QueryId, id: QueryId, has_turn: bool, out: &mut Actions) {
        let Some(earlier) = self.queries.put(id) else { return };
        let (are_awaited, with_its_own) = (earlier.is_told(), 1 + earlier.earlier.ended);
        let ends = !has_turn && earlier.client.is_none();
        if ends {
            self.finish_put(id, PutEnd::Replaced, out);
        }
        if let Some(put) = self.queries.put(query) {
            put.earlier.are_awaited |= are_awaited;
            put.earlier.ended += if ends { with_its_own } else { 0 };
        }
    }

    /// Lets the PUT of `key` whose turn it is make an attempt, unless another one makes one, or the node must wait.
    pub(crate) fn start_turn(&mut self, now: Now, key: &Key, out: &mut Actions) {
        if self.status == Status::Left || self.access(now).waits() {
            return;
        }
        let Some(query) = self.queries.next_turn(key) else { return };
        for earlier in self.queries.earlier_puts(key, query) {
            self.timers.cancel(Timer::Retry(earlier));
            self.stand_for(query, earlier, false, out);
        }
        self.look_up_replicas(now, query, out);
    }

    /// The attempt of the PUT `query` of `key` has ended without success. It is the turn of a later one, which stands for it.
    pub(super) fn give_way(&mut self, now: Now, key: &Key, query: QueryId, out: &mut Actions) {
        if let Some(put) = self.queries.put(query) {
            put.park();
        }
        self.start_turn(now, key, out);
    }

    /// Ends the PUTs of `key` that `query` stands for.
    pub(super) fn finish_earlier(&mut self, key: &Key, query: QueryId, end: PutEnd, out: &mut Actions) {
        for earlier in self.queries.earlier_puts(key, query) {
            self.finish_put(earlier, end, out);
        }
    }
}
