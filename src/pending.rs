//! The requests to peers that have no reply yet: the node asked, the reason, and the deadlines.
//!
//! A request is *in flight* until its reply arrives, its connection ends, or its last deadline passes;
//! exactly one of these happens. [`Pending::passed`] reports each deadline once. After the last one the
//! request is *expired*: it stays in the table for a grace period, so that a late but correct reply can
//! still be used. An expired request leaves without a report, and a full table drops expired requests
//! first.
//!
//! A reply counts only if it comes from the node that was asked. A reply of another node that guesses an
//! rpc id does not even remove the request. All orders are those of deadlines and of insertion, never that
//! of a hash map.
//!
//! The table counts the bytes of the answers that a node owes: a caller that asks only while
//! [`Pending::has_room_for`] is true never makes a node owe more than the bound of each [`AnswerKind`]. An
//! expired request still counts, because its answer may be on its way.
//!
//! The table sends nothing and does not know the meaning of `T`, the reason of a request. A request
//! allocates no memory once the table has grown to the usual number of requests.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::id::{KeyMap, KeySeed, NodeId, RpcId};
use crate::limits::{ACKNOWLEDGEMENTS_OWED_MAX, LISTINGS_OWED_MAX, VALUES_OWED_MAX};
use crate::time::Time;

/// A request without a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<T> {
    /// The node that was asked; only its reply counts.
    pub asked: NodeId,
    /// What the reply is wanted for.
    pub why: T,
    /// When the reply is late, overdue, and given up.
    pub deadlines: Deadlines,
}

/// The deadlines of a request, in the order in which they pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// From this moment the reply is later than usual: another node may be asked too.
    pub hedge_at: Time,
    /// From this moment the caller goes on without the reply; not before `hedge_at`.
    pub give_up_at: Time,
    /// From this moment the request has timed out and its node has failed to answer; not before
    /// `give_up_at`.
    pub timeout_at: Time,
}

impl Deadlines {
    /// All three deadlines at the same moment.
    pub fn at(timeout_at: Time) -> Self {
        Self { hedge_at: timeout_at, give_up_at: timeout_at, timeout_at }
    }

    fn of(&self, passing: Passed) -> Time {
        match passing {
            Passed::Hedge => self.hedge_at,
            Passed::GiveUp => self.give_up_at,
            Passed::Timeout => self.timeout_at,
        }
    }
}

/// A deadline of a request that has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// [`Deadlines::hedge_at`].
    Hedge,
    /// [`Deadlines::give_up_at`].
    GiveUp,
    /// [`Deadlines::timeout_at`].
    Timeout,
}

/// The largest answer that a request can get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Which bound it counts against.
    pub kind: AnswerKind,
    /// Its size in bytes.
    pub bytes: usize,
}

/// Each kind of answer has a bound of its own, so that none waits behind larger ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AnswerKind {
    /// It may carry a value.
    Value,
    /// It lists contacts or entries, or carries a head.
    Listing,
    /// It says what became of something that was sent or offered.
    Acknowledgement,
}

impl AnswerKind {
    /// The most bytes of such answers that one node may owe.
    fn owed_max(self) -> usize {
        match self {
            AnswerKind::Value => VALUES_OWED_MAX,
            AnswerKind::Listing => LISTINGS_OWED_MAX,
            AnswerKind::Acknowledgement => ACKNOWLEDGEMENTS_OWED_MAX,
        }
    }
}

/// The bytes of the answers that one node owes, by kind.
#[derive(Clone, Copy, Debug, Default)]
struct Owed {
    all: [usize; 3],
    /// Those to expired requests.
    overdue: [usize; 3],
}

impl Owed {
    fn sum(&self) -> usize {
        self.all.iter().sum()
    }
}

/// The outcome of [`Pending::take`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken<T> {
    /// The reply belongs to a request in flight with this reason.
    InFlight(T),
    /// The reply belongs to an expired request with this reason.
    Expired(T),
    /// No request has this id, or another node was asked.
    Unknown,
}

/// The request was not inserted, because all requests of the full table are in flight; it must not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The requests in flight and the expired ones.
#[derive(Debug)]
pub struct Pending<T> {
    capacity: usize,
    grace: Duration,
    entries: KeyMap<RpcId, Entry<T>>,
    /// What each node owes, if it owes anything.
    owed: KeyMap<NodeId, Owed>,
    /// By the next deadline of each request.
    in_flight: MomentQueue,
    /// By the end of the grace period of each request.
    expired: MomentQueue,
    next: Sequence,
}

impl<T> Pending<T> {
    /// A table of at most `capacity` requests. An expired request stays for `grace` after its timeout.
    /// `seed` keys the hash map.
    pub fn new(capacity: usize, grace: Duration, seed: KeySeed) -> Self {
        Self {
            capacity,
            grace,
            entries: KeyMap::with_hasher(seed.clone()),
            owed: KeyMap::with_hasher(seed),
            in_flight: MomentQueue::default(),
            expired: MomentQueue::default(),
            next: Sequence(0),
        }
    }

    /// Inserts the request `rpc` to `asked`, which is about to be sent.
    ///
    /// # Errors
    ///
    /// [`Full`] if all requests of a full table are in flight.
    ///
    /// # Panics
    ///
    /// If `rpc` is in the table already; a caller draws 256 random bits for each request.
    pub fn insert(&mut self, rpc: RpcId, asked: NodeId, why: T, deadlines: Deadlines) -> Result<(), Full> {
        if self.entries.len() >= self.capacity && !self.drop_one_expired() {
            return Err(Full);
        }
        let nth = self.next;
        self.next = Sequence(nth.0 + 1);
        let moment = Moment { at: deadlines.hedge_at, nth, rpc };
        let request = Request { asked, why, deadlines };
        let before = self.entries.insert(rpc, Entry { request, answer: None, next: Some(Passed::Hedge), moment });
        assert!(before.is_none(), "an RPC id is drawn once");
        self.in_flight.add(moment);
        self.pop_stale();
        Ok(())
    }

    /// Whether `asked` may be made to owe `answer` too.
    pub fn has_room_for(&self, asked: &NodeId, answer: Answer) -> bool {
        let owed = self.owed.get(asked).map_or(0, |owed| owed.all[answer.kind as usize]);
        owed + answer.bytes <= answer.kind.owed_max()
    }

    /// Whether half of the answers that `asked` may owe are overdue: one that waits for room waits for a node that does not
    /// answer.
    pub fn is_behind(&self, asked: &NodeId, kind: AnswerKind) -> bool {
        let overdue = self.owed.get(asked).map_or(0, |owed| owed.overdue[kind as usize]);
        2 * overdue >= kind.owed_max()
    }

    /// The request `rpc` is sent: from now on its node owes `answer`, until the request leaves the table.
    pub fn owe(&mut self, rpc: &RpcId, answer: Answer) {
        let Some(entry) = self.entries.get_mut(rpc).filter(|entry| entry.answer.is_none()) else { return };
        entry.answer = Some(answer);
        self.owed.entry(entry.request.asked).or_default().all[answer.kind as usize] += answer.bytes;
    }

    /// The bytes of the answers that `asked` owes.
    pub fn owed_by(&self, asked: &NodeId) -> usize {
        self.owed.get(asked).map_or(0, Owed::sum)
    }

    /// Replaces the deadlines of the request `rpc`; none of the new ones counts as passed. Does nothing if
    /// the request is expired or not in the table.
    pub fn put_off(&mut self, rpc: &RpcId, deadlines: Deadlines) {
        let Some(entry) = self.entries.get_mut(rpc).filter(|entry| !entry.is_expired()) else {
            return;
        };
        let moment = Moment { at: deadlines.hedge_at, ..entry.moment };
        (entry.request.deadlines, entry.next, entry.moment) = (deadlines, Some(Passed::Hedge), moment);
        self.in_flight.add(moment);
        self.pop_stale();
    }

    /// A reply to `rpc` has arrived from `from`: removes the request if `from` is the node that was asked.
    ///
    /// The request is expired if its timeout was reported, whatever the clock says. So a caller never gives
    /// up a request that the table still calls in flight.
    pub fn take(&mut self, rpc: &RpcId, from: &NodeId) -> Taken<T> {
        if self.entries.get(rpc).is_none_or(|entry| entry.request.asked != *from) {
            return Taken::Unknown;
        }
        let entry = self.remove(rpc);
        self.pop_stale();
        if entry.is_expired() { Taken::Expired(entry.request.why) } else { Taken::InFlight(entry.request.why) }
    }

    /// A deadline that has passed at `now`, with its request; `None` if all of them were reported. Each
    /// deadline is reported once, in the order of time.
    ///
    /// This also removes expired requests at the end of their grace period.
    pub fn passed(&mut self, now: Time) -> Option<(RpcId, Passed, &mut Request<T>)> {
        while self.expired.first().is_some_and(|moment| moment.at <= now) {
            self.drop_one_expired();
        }
        let moment = self.in_flight.take_first(now)?;
        let entry = self.entries.get_mut(&moment.rpc).expect("the first moment is never stale");
        let passed = entry.next.expect("a request in flight has a deadline left");
        entry.next = match passed {
            Passed::Hedge => Some(Passed::GiveUp),
            Passed::GiveUp => Some(Passed::Timeout),
            Passed::Timeout => None,
        };
        let (queue, at) = match entry.next {
            Some(next) => (&mut self.in_flight, entry.request.deadlines.of(next).max(moment.at)),
            None => (&mut self.expired, moment.at + self.grace),
        };
        if let (None, Some(answer), Some(owed)) = (entry.next, entry.answer, self.owed.get_mut(&entry.request.asked)) {
            owed.overdue[answer.kind as usize] += answer.bytes;
        }
        entry.moment = Moment { at, ..moment };
        queue.add(entry.moment);
        self.pop_stale();
        let entry = self.entries.get_mut(&moment.rpc)?;
        Some((moment.rpc, passed, &mut entry.request))
    }

    /// A connection to `asked` has ended: removes its requests, which are those with a reason `on_it`.
    /// Returns the ones in flight in the order of insertion, and drops the expired ones.
    pub fn cut_off(&mut self, asked: &NodeId, on_it: impl Fn(&T) -> bool) -> Vec<(RpcId, Request<T>)> {
        let requests = self.entries.values().filter(|entry| entry.request.asked == *asked);
        let cut = requests.filter(|entry| on_it(&entry.request.why)).map(|entry| entry.moment);
        let mut cut: Vec<Moment> = cut.collect();
        cut.sort_unstable_by_key(|moment| moment.nth);
        let entries = cut.into_iter().map(|moment| (moment.rpc, self.remove(&moment.rpc)));
        let in_flight = entries.filter(|(_, entry)| !entry.is_expired());
        let in_flight = in_flight.map(|(rpc, entry)| (rpc, entry.request)).collect();
        self.pop_stale();
        in_flight
    }

    /// The request `rpc`, in flight or expired.
    pub fn find(&self, rpc: &RpcId) -> Option<&Request<T>> {
        self.entries.get(rpc).map(|entry| &entry.request)
    }

    /// The reason of the request `rpc`, if it is in flight.
    pub fn in_flight_mut(&mut self, rpc: &RpcId) -> Option<&mut T> {
        let entry = self.entries.get_mut(rpc).filter(|entry| !entry.is_expired())?;
        Some(&mut entry.request.why)
    }

    /// The next deadline of the requests in flight: [`Pending::passed`] has nothing to report before.
    pub fn next_deadline(&self) -> Option<Time> {
        self.in_flight.first().map(|moment| moment.at)
    }

    /// How many requests have a deadline before `now` that was not reported. It is 0 if the owner has
    /// called [`Pending::passed`] for that time.
    pub fn overdue(&self, now: Time) -> usize {
        self.entries.values().filter(|entry| !entry.is_expired() && entry.moment.at < now).count()
    }

    /// The number of requests, in flight and expired.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the table has no request, in flight or expired.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Removes the expired request with the earliest end; returns whether there was one.
    fn drop_one_expired(&mut self) -> bool {
        let Some(moment) = self.expired.first() else { return false };
        self.remove(&moment.rpc);
        self.pop_stale();
        true
    }

    fn remove(&mut self, rpc: &RpcId) -> Entry<T> {
        let entry = self.entries.remove(rpc).expect("only what was found is removed");
        if let (Some(answer), Some(owed)) = (entry.answer, self.owed.get_mut(&entry.request.asked)) {
            owed.all[answer.kind as usize] -= answer.bytes;
            owed.overdue[answer.kind as usize] -= if entry.is_expired() { answer.bytes } else { 0 };
            if owed.sum() == 0 {
                self.owed.remove(&entry.request.asked);
            }
        }
        entry
    }

    /// Removes stale deadlines from the front of both queues. Call it after every change of the table.
    fn pop_stale(&mut self) {
        let entries = &self.entries;
        let is_current = |moment: &Moment| entries.get(&moment.rpc).is_some_and(|entry| entry.moment == *moment);
        self.in_flight.pop_stale(entries.len(), is_current);
        self.expired.pop_stale(entries.len(), is_current);
    }
}

/// A request, and what is queued for it.
#[derive(Debug)]
struct Entry<T> {
    request: Request<T>,
    /// The answer that its node owes; `None` until the request is sent.
    answer: Option<Answer>,
    /// The deadline that passes next; `None` if the request is expired.
    next: Option<Passed>,
    moment: Moment,
}

impl<T> Entry<T> {
    /// Whether the timeout of the request was reported.
    fn is_expired(&self) -> bool {
        self.next.is_none()
    }
}

/// How many requests were inserted before. A node never sends 2^64 requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Sequence(u64);

/// The next moment at which something happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Moment {
    at: Time,
    nth: Sequence,
    rpc: RpcId,
}

/// Moments of requests, the earliest in front.
///
/// A moment is *stale* if its request has left the table or has a newer moment in a queue. It is removed when
/// it reaches the front, or when stale moments are the majority. Almost all replies arrive before the first
/// deadline, so removing them at once would mostly be wasted work.
#[derive(Debug, Default)]
struct MomentQueue {
    moments: BinaryHeap<Reverse<Moment>>,
}

/// A queue removes its stale moments only above this number, because fewer cost next to nothing.
const STALE_MOMENTS_MAX: usize = 64;

impl MomentQueue {
    fn add(&mut self, moment: Moment) {
        self.moments.push(Reverse(moment));
    }

    fn first(&self) -> Option<Moment> {
        self.moments.peek().map(|Reverse(moment)| *moment)
    }

    /// Removes and returns the first moment, if it has passed at `now`.
    fn take_first(&mut self, now: Time) -> Option<Moment> {
        self.first().filter(|moment| moment.at <= now)?;
        self.moments.pop().map(|Reverse(moment)| moment)
    }

    /// Removes moments from the front until the first is `is_current`. Removes all stale ones if they are
    /// the majority; `current` is the largest possible number of the others.
    fn pop_stale(&mut self, current: usize, is_current: impl Fn(&Moment) -> bool) {
        while self.moments.peek().is_some_and(|Reverse(moment)| !is_current(moment)) {
            self.moments.pop();
        }
        if self.moments.len() > 2 * current + STALE_MOMENTS_MAX {
            self.moments.retain(|Reverse(moment)| is_current(moment));
        }
    }
}

#[cfg(test)]
mod tests;
