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
struct Owed([usize; 3]);

impl Owed {
    fn of(&mut self, kind: AnswerKind) -> &mut usize {
        &mut self.0[kind as usize]
    }

    fn sum(&self) -> usize {
        self.0.iter().sum()
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
        let owed = self.owed.get(asked).map_or(0, |owed| owed.0[answer.kind as usize]);
        owed + answer.bytes <= answer.kind.owed_max()
    }

    /// The request `rpc` is sent: from now on its node owes `answer`, until the request leaves the table.
    pub fn owe(&mut self, rpc: &RpcId, answer: Answer) {
        let Some(entry) = self.entries.get_mut(rpc).filter(|entry| entry.answer.is_none()) else { return };
        entry.answer = Some(answer);
        *self.owed.entry(entry.request.asked).or_default().of(answer.kind) += answer.bytes;
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

    /// The reason of the request `rpc`, in flight or expired.
    pub fn get_mut(&mut self, rpc: &RpcId) -> Option<&mut T> {
        self.entries.get_mut(rpc).map(|entry| &mut entry.request.why)
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
            *owed.of(answer.kind) -= answer.bytes;
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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::Key;

    const GRACE: Duration = Duration::from_secs(10);

    fn rpc(n: u8) -> RpcId {
        RpcId::new([n; 32])
    }

    fn node(n: u8) -> NodeId {
        NodeId::new(Key::new([n; 32]))
    }

    fn at(secs: u64) -> Time {
        Time::ZERO + Duration::from_secs(secs)
    }

    /// All deadlines `secs` seconds after the start.
    fn until(secs: u64) -> Deadlines {
        Deadlines::at(at(secs))
    }

    fn table(capacity: usize) -> Pending<&'static str> {
        Pending::new(capacity, GRACE, KeySeed::new([1, 2, 3, 4]))
    }

    /// The next request that times out.
    fn next_timeout<T>(table: &mut Pending<T>, now: Time) -> Option<RpcId> {
        while let Some((rpc, passed, _)) = table.passed(now) {
            if passed == Passed::Timeout {
                return Some(rpc);
            }
        }
        None
    }

    #[test]
    fn a_reply_removes_its_request_once() {
        let mut table = table(9);
        table.insert(rpc(1), node(1), "join", until(2)).expect("room");
        assert_eq!(table.take(&rpc(1), &node(1)), Taken::InFlight("join"));
        assert_eq!(table.take(&rpc(1), &node(1)), Taken::Unknown);
        assert!(table.is_empty());
        assert_eq!((table.next_deadline(), next_timeout(&mut table, at(99))), (None, None));
    }

    #[test]
    fn a_reply_from_another_node_does_not_remove_the_request() {
        let mut table = table(9);
        table.insert(rpc(1), node(1), "join", until(2)).expect("room");
        assert_eq!(table.take(&rpc(1), &node(2)), Taken::Unknown);
        assert_eq!(table.take(&rpc(2), &node(1)), Taken::Unknown);
        assert_eq!(table.take(&rpc(1), &node(1)), Taken::InFlight("join"));
    }

    #[test]
    fn each_timeout_is_reported_once_in_the_order_of_deadlines() {
        let mut table = table(9);
        for (n, deadline) in [(1, 5), (2, 3), (3, 5), (4, 9)] {
            table.insert(rpc(n), node(n), "get", until(deadline)).expect("room");
        }
        assert_eq!(table.next_deadline(), Some(at(3)));
        assert_eq!(next_timeout(&mut table, at(2)), None);
        assert_eq!(table.overdue(at(5)), 1);
        let timed_out: Vec<_> = std::iter::from_fn(|| next_timeout(&mut table, at(5))).collect();
        assert_eq!(timed_out, [rpc(2), rpc(1), rpc(3)], "of equal deadlines the one inserted first");
        assert_eq!((table.next_deadline(), table.overdue(at(9))), (Some(at(9)), 0));
        assert_eq!(table.overdue(at(10)), 1, "a deadline passed and was not reported");
    }

    #[test]
    fn a_reply_after_the_timeout_counts_until_the_end_of_the_grace_period() {
        let mut table = table(9);
        table.insert(rpc(1), node(1), "put", until(2)).expect("room");
        table.insert(rpc(2), node(2), "get", until(2)).expect("room");
        assert_eq!(next_timeout(&mut table, at(2)), Some(rpc(1)));
        assert_eq!(next_timeout(&mut table, at(2)), Some(rpc(2)));

        assert_eq!(table.take(&rpc(1), &node(3)), Taken::Unknown, "an expired request ignores other nodes too");
        assert_eq!(table.take(&rpc(1), &node(1)), Taken::Expired("put"));
        assert_eq!(next_timeout(&mut table, at(11)), None);
        assert_eq!(table.len(), 1);
        assert_eq!(next_timeout(&mut table, at(12)), None);
        assert!(table.is_empty(), "ten seconds after its timeout it left without a report");
        assert_eq!(table.take(&rpc(2), &node(2)), Taken::Unknown);
    }

    #[test]
    fn a_full_table_drops_expired_requests_and_none_in_flight() {
        let mut table = table(2);
        table.insert(rpc(1), node(1), "a", until(9)).expect("room");
        table.insert(rpc(2), node(2), "b", until(1)).expect("room");
        assert_eq!(table.insert(rpc(3), node(3), "c", until(9)), Err(Full));

        assert_eq!(next_timeout(&mut table, at(1)), Some(rpc(2)));
        assert_eq!(table.insert(rpc(3), node(3), "c", until(9)), Ok(()));
        assert_eq!(table.take(&rpc(2), &node(2)), Taken::Unknown);
        assert_eq!(table.insert(rpc(4), node(4), "d", until(9)), Err(Full));
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn a_closed_connection_cuts_off_its_requests_in_the_order_of_insertion() {
        let mut table = table(9);
        for (n, asked, conn, deadline) in
            [(9, 1, "old", 7), (8, 1, "new", 7), (7, 2, "old", 7), (6, 1, "old", 4), (5, 1, "old", 1)]
        {
            table.insert(rpc(n), node(asked), conn, until(deadline)).expect("room");
        }
        assert_eq!(next_timeout(&mut table, at(1)), Some(rpc(5)));

        let cut = table.cut_off(&node(1), |conn| *conn == "old");
        let request = |deadline| Request { asked: node(1), why: "old", deadlines: until(deadline) };
        assert_eq!(cut, [(rpc(9), request(7)), (rpc(6), request(4))]);
        assert_eq!(table.len(), 2, "the late one went too");
        assert_eq!(table.take(&rpc(8), &node(1)), Taken::InFlight("new"));
        assert_eq!(table.take(&rpc(7), &node(2)), Taken::InFlight("old"));
    }

    #[test]
    fn the_deadlines_of_a_request_pass_in_order_and_may_be_put_off() {
        let deadlines = |hedge_at, give_up_at, timeout_at| Deadlines {
            hedge_at: at(hedge_at),
            give_up_at: at(give_up_at),
            timeout_at: at(timeout_at),
        };
        let mut table = table(9);
        table.insert(rpc(1), node(1), "get", deadlines(1, 3, 5)).expect("room");
        table.insert(rpc(2), node(2), "get", deadlines(2, 2, 5)).expect("room");
        let passed = |table: &mut Pending<_>, secs| {
            let all = std::iter::from_fn(|| table.passed(at(secs)).map(|(rpc, passed, _)| (rpc, passed)));
            all.collect::<Vec<_>>()
        };
        assert_eq!(table.next_deadline(), Some(at(1)));
        assert_eq!(passed(&mut table, 1), [(rpc(1), Passed::Hedge)]);
        assert_eq!(passed(&mut table, 2), [(rpc(2), Passed::Hedge), (rpc(2), Passed::GiveUp)]);

        table.put_off(&rpc(1), deadlines(4, 4, 6));
        assert_eq!(passed(&mut table, 3), []);
        assert_eq!(passed(&mut table, 4), [(rpc(1), Passed::Hedge), (rpc(1), Passed::GiveUp)]);
        assert_eq!(table.take(&rpc(2), &node(2)), Taken::InFlight("get"), "its timeout was not reported yet");
        assert_eq!(passed(&mut table, 6), [(rpc(1), Passed::Timeout)]);
        assert_eq!(table.take(&rpc(1), &node(1)), Taken::Expired("get"));
    }

    #[test]
    fn the_reason_of_a_request_can_be_changed_while_it_is_in_flight() {
        let mut table = table(9);
        table.insert(rpc(1), node(1), "waits", until(2)).expect("room");
        *table.get_mut(&rpc(1)).expect("it is there") = "sent";
        assert_eq!(table.get_mut(&rpc(2)), None);
        assert_eq!(table.take(&rpc(1), &node(1)), Taken::InFlight("sent"));
    }

    /// A call of a method of the table; the numbers stand for requests, nodes and seconds.
    #[derive(Clone, Debug)]
    enum Action {
        Insert { asked: u8, deadline: u64 },
        Take { rpc: u8, from: u8 },
        Pass { secs: u64 },
        CutOff { asked: u8 },
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            4 => (0..3_u8, 1..6_u64).prop_map(|(asked, deadline)| Action::Insert { asked, deadline }),
            3 => (0..60_u8, 0..3_u8).prop_map(|(rpc, from)| Action::Take { rpc, from }),
            2 => (0..8_u64).prop_map(|secs| Action::Pass { secs }),
            1 => (0..3_u8).prop_map(|asked| Action::CutOff { asked }),
        ]
    }

    /// How each inserted request ended.
    #[derive(Default)]
    struct Ends {
        answered: Vec<u8>,
        timed_out: Vec<u8>,
        cut_off: Vec<u8>,
    }

    #[test]
    fn a_slow_request_does_not_make_the_table_remember_those_answered_since() {
        let mut table = table(10);
        table.insert(rpc(0), node(1), "slow", until(9)).expect("room");
        for n in 0..10_000_u64 {
            let quick = rpc(u8::try_from(n % 200).expect("below 200") + 1);
            table.insert(quick, node(2), "quick", until(10)).expect("room");
            assert_eq!(table.take(&quick, &node(2)), Taken::InFlight("quick"));
        }
        assert!(table.in_flight.moments.len() <= 2 + STALE_MOMENTS_MAX);
        assert_eq!(next_timeout(&mut table, at(9)), Some(rpc(0)));
        assert_eq!(table.in_flight.moments.len(), 0);
    }

    proptest! {
        /// Goal: no request is lost, and none ends twice.
        ///
        /// Method: any sequence of actions; then time passes until no request is in flight.
        #[test]
        fn every_request_ends_exactly_once(actions in proptest::collection::vec(action(), 0..120)) {
            let capacity = 8;
            let mut table = Pending::new(capacity, GRACE, KeySeed::new([5, 6, 7, 8]));
            let mut now = Time::ZERO;
            let mut ends = Ends::default();
            let mut inserted = 0;
            for action in actions.into_iter().chain([Action::Pass { secs: 99 }, Action::Pass { secs: 99 }]) {
                match action {
                    Action::Insert { asked, deadline } => {
                        let deadlines = Deadlines::at(now + Duration::from_secs(deadline));
                        let room = table.insert(rpc(inserted), node(asked), inserted, deadlines);
                        if room.is_ok() && inserted % 4 > 0 {
                            let kinds = [AnswerKind::Value, AnswerKind::Listing, AnswerKind::Acknowledgement];
                            let kind = kinds[usize::from(inserted % 3)];
                            table.owe(&rpc(inserted), Answer { kind, bytes: usize::from(inserted) });
                        }
                        inserted += u8::from(room.is_ok());
                    }
                    Action::Take { rpc: n, from } => match table.take(&rpc(n), &node(from)) {
                        Taken::InFlight(n) => ends.answered.push(n),
                        Taken::Expired(n) => prop_assert!(ends.timed_out.contains(&n)),
                        Taken::Unknown => {}
                    },
                    Action::Pass { secs } => {
                        now = now + Duration::from_secs(secs);
                        while let Some((_, passed, request)) = table.passed(now) {
                            prop_assert!(request.deadlines.timeout_at <= now);
                            if passed == Passed::Timeout {
                                ends.timed_out.push(request.why);
                            }
                        }
                        prop_assert_eq!(table.overdue(now), 0);
                        prop_assert!(table.next_deadline().is_none_or(|next| next > now));
                    }
                    Action::CutOff { asked } => {
                        let cut = table.cut_off(&node(asked), |_| true);
                        prop_assert!(cut.is_sorted_by_key(|(_, request)| request.why));
                        ends.cut_off.extend(cut.iter().map(|(_, request)| request.why));
                    }
                }
                prop_assert!(table.len() <= capacity);
                for asked in (0..3).map(node) {
                    let of_it = table.entries.values().filter(|entry| entry.request.asked == asked);
                    let owed: usize = of_it.filter_map(|entry| entry.answer).map(|answer| answer.bytes).sum();
                    prop_assert_eq!(table.owed_by(&asked), owed);
                }
                let first = |expired| {
                    table.entries.values().filter(|entry| entry.is_expired() == expired).map(|entry| entry.moment).min()
                };
                prop_assert_eq!((table.in_flight.first(), table.expired.first()), (first(false), first(true)));
            }
            let mut all = [ends.answered, ends.timed_out, ends.cut_off].concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..inserted).collect::<Vec<_>>());
            prop_assert!(table.is_empty() && table.owed.is_empty());
        }
    }
}
