//! Requests to peers that wait before they are sent.
//!
//! A request waits for one of two things:
//!
//! - *an answer*: its peer owes so many bytes that the largest answer to it could exceed the bound
//!   ([`crate::pending::Pending::has_room_for`]). It leaves, in the order of arrival, when an answer has come.
//!   So a peer has room in its outbox for every answer that it owes this node. Values, listings and
//!   acknowledgements have bounds of their own: a copy waits neither for values nor for lookups.
//! - *a pause*: the peer has refused it (ERROR 429), or this node has no room for it: in the outbox of the
//!   connection, in the table of requests, or among the dials. It leaves after 50 ms, then after pauses that
//!   double up to 1 s.
//!
//! Only the purpose waits; the message is composed when it leaves. A GET asks another node meanwhile, like
//! when a reply is late. A PUT goes on without a peer that has refused a request for `rpc_timeout`, or whose answers to
//! others are overdue while the request waits for them; the request is sent again while the PUT runs, and a peer that has
//! refused a copy knows that it has missed a record ([`crate::node::records::missed`]).
//! Waiting says nothing about the peer: it does not count as a failure of it, nor against its `rpc_timeout`. It
//! ends at `request_timeout` after the request was made; then the request fails.
//!
//! While [`CALLS_WAITING_MAX`] requests wait, none is made: queries and maintenance ask [`Waiting::has_room`]
//! before they take a step, and keep their state if there is none. A request that was sent and refused always
//! finds room, so at most that number and those in flight wait. No bound is taken for an answer of a peer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::NodeId;
use crate::limits::{CALLS_WAITING_MAX, PEER_MESSAGE_SIZE_MAX, SYNC_REPLY_SIZE_MAX, WANT_SIZE_MAX};
use crate::node::Node;
use crate::node::action::Actions;
use crate::node::purpose::{Outcome, Purpose};
use crate::node::rpc::outbound::Call;
use crate::node::timers::Timers;
use crate::pending::{Answer, AnswerKind, Passed};
use crate::time::{Now, Time};

/// The pause before a request is sent again that was refused for want of room; further pauses double.
pub(crate) const BACK_OFF_MIN: Duration = Duration::from_millis(50);

/// The longest such pause.
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// The largest answer of each kind. A request that waits leaves when there is room for it.
const LARGEST: [(AnswerKind, usize); 3] = [
    (AnswerKind::Acknowledgement, WANT_SIZE_MAX),
    (AnswerKind::Listing, SYNC_REPLY_SIZE_MAX),
    (AnswerKind::Value, PEER_MESSAGE_SIZE_MAX),
];

/// Identifies a waiting request; a smaller one has waited longer.
type WaitId = u64;

/// The requests that wait.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    calls: BTreeMap<WaitId, (Call, Cause)>,
    /// When a pause is over, or the owner of a request is told that it still waits.
    due: Timers<WaitId>,
    /// Those that wait for an answer, by peer and kind, in the order of arrival.
    queues: BTreeSet<(NodeId, AnswerKind, WaitId)>,
    next: WaitId,
}

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// An answer of that kind from its peer.
    Answer(AnswerKind),
    /// The end of a pause.
    Pause,
}

impl Waiting {
    /// Whether another request may be made: it is sent, or waits.
    pub(crate) fn has_room(&self) -> bool {
        self.calls.len() < CALLS_WAITING_MAX
    }

    /// How many requests wait.
    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }

    /// When a request is due.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.due.next()
    }

    /// Whether a request waits for an answer of `kind` from `peer`.
    pub(super) fn is_queued(&self, peer: &NodeId, kind: AnswerKind) -> bool {
        !self.queues.is_empty() && self.first_for(peer, kind).is_some()
    }

    /// The request that has waited longest for an answer of `kind` from `peer`.
    fn first_for(&self, peer: &NodeId, kind: AnswerKind) -> Option<WaitId> {
        self.queues.range((*peer, kind, 0)..=(*peer, kind, WaitId::MAX)).next().map(|&(.., id)| id)
    }

    fn add(&mut self, call: Call, cause: Cause, due: Time) {
        let id = self.next;
        self.next += 1;
        self.calls.insert(id, (call, cause));
        self.due.set(id, due);
        if let Cause::Answer(kind) = cause {
            self.queues.insert((call.to.id, kind, id));
        }
    }

    /// The owner of the request has had the final outcome.
    fn expire(&mut self, id: WaitId) {
        self.calls.entry(id).and_modify(|(call, _)| call.expired = true);
    }

    fn take(&mut self, id: WaitId) -> Option<Call> {
        let (call, cause) = self.calls.remove(&id)?;
        self.due.cancel(id);
        if let Cause::Answer(kind) = cause {
            self.queues.remove(&(call.to.id, kind, id));
        }
        Some(call)
    }

    /// Removes the requests to `to` that `which` selects, those that have waited longest first.
    pub(super) fn take_all(&mut self, to: &NodeId, which: impl Fn(&Call) -> bool) -> Vec<Call> {
        let of_it = self.calls.iter().filter(|(_, (call, _))| call.to.id == *to && which(call));
        let ids: Vec<WaitId> = of_it.map(|(id, _)| *id).collect();
        ids.into_iter().filter_map(|id| self.take(id)).collect()
    }
}

impl Node {
    /// The peer of `call` owes too much: the request waits until it has answered.
    pub(super) fn wait_for_answer(&mut self, now: Now, call: Call, kind: AnswerKind) {
        let late_after = self.peers.answers_of(&call.to.id).hedge_after(self.params.rpc_timeout);
        let due = (now.mono + late_after).min(call.begun + self.params.request_timeout);
        self.waiting.add(call, Cause::Answer(kind), due);
    }

    /// The peer has no room for `call` now (ERROR 429), or this node has none. The request is sent again after
    /// a pause, as long as its owner may wait for it; the refusal says nothing about what the peer stores.
    pub(super) fn back_off(&mut self, now: Now, call: Call, out: &mut Actions) {
        let pause = BACK_OFF_MIN * 2_u32.saturating_pow(call.refusals.min(10));
        let pause = self.jitter(pause.min(BACK_OFF_MAX));
        let may_wait = now.mono + pause < call.begun + self.params.request_timeout;
        let has_own_pause = match call.purpose {
            Purpose::Ping | Purpose::AskTime | Purpose::Relay(..) => true,
            Purpose::Offer(_) => self.status.is_leaving(),
            _ => false,
        };
        if call.expired && call.refusals == 0 || !may_wait || has_own_pause {
            return self.on_outcome(now, &call, Outcome::Failed, out);
        }
        let is_long = now.mono >= call.begun + self.params.rpc_timeout;
        let is_passed = is_long && self.put_of(call.purpose).is_some();
        let refusals = call.refusals + 1;
        let expired = call.expired || is_passed;
        let paused = Call { conn: None, timeout_at: None, refusals, has_waited: false, expired, ..call };
        self.waiting.add(paused, Cause::Pause, now.mono + pause);
        if is_passed {
            return self.on_outcome(now, &call, Outcome::Passed(Passed::Timeout), out);
        }
        self.note_wait(now, &call, out);
    }

    /// Tells the owner of a waiting request that no answer has come: it may ask another node too.
    fn note_wait(&mut self, now: Now, call: &Call, out: &mut Actions) {
        if matches!(call.purpose, Purpose::Lookup(_) | Purpose::Fetch(_) | Purpose::Copy(_)) {
            let is_long = now.mono >= call.begun + self.params.rpc_timeout;
            let passed = if is_long { Passed::GiveUp } else { Passed::Hedge };
            self.on_outcome(now, call, Outcome::Passed(passed), out);
        }
    }

    /// `peer` owes less: sends the requests that wait for that, as long as there is room.
    pub(super) fn send_waiting(&mut self, now: Now, peer: &NodeId, out: &mut Actions) {
        if self.waiting.calls.is_empty() {
            return;
        }
        for (kind, bytes) in LARGEST {
            while self.pending.has_room_for(peer, Answer { kind, bytes })
                && let Some(call) = self.waiting.first_for(peer, kind).and_then(|id| self.waiting.take(id))
            {
                self.dispatch(now, Call { has_waited: true, ..call }, out);
            }
        }
        self.resume_waiting_for_room(now, out);
    }

    /// Handles the waiting requests that are due.
    pub(crate) fn pass_waits(&mut self, now: Now, out: &mut Actions) {
        while let Some(id) = self.waiting.due.take_next(now.mono) {
            let Some(&(call, cause)) = self.waiting.calls.get(&id) else { continue };
            let end = call.begun + self.params.request_timeout;
            match cause {
                Cause::Pause => {
                    self.waiting.take(id);
                    self.dispatch(now, call, out);
                }
                Cause::Answer(_) if now.mono >= end => {
                    self.waiting.take(id);
                    self.on_outcome(now, &call, Outcome::Failed, out);
                }
                Cause::Answer(kind) => {
                    let long = call.begun + self.params.rpc_timeout;
                    let next = if now.mono < long { long } else { now.mono + self.params.rpc_timeout };
                    self.waiting.due.set(id, next.min(end));
                    let is_behind = now.mono >= long && self.pending.is_behind(&call.to.id, kind);
                    if is_behind && self.put_of(call.purpose).is_some() {
                        self.waiting.expire(id);
                        self.on_outcome(now, &call, Outcome::Passed(Passed::Timeout), out);
                    } else if now.mono < long + self.params.rpc_timeout {
                        self.note_wait(now, &call, out);
                    }
                    self.send_waiting(now, &call.to.id, out);
                }
            }
        }
        self.resume_waiting_for_room(now, out);
    }
}
