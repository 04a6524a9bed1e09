//! The requests to peers that have no answer yet: whom we asked, why, and until when.
//!
//! Every request has [`Deadlines`], and is over exactly once: its reply takes it, its connection
//! cuts it off, or the last of them passes. [`Pending::passed`] reports each as it passes. A
//! request whose last deadline has passed stays a while longer, so that a late but right answer
//! still helps; such *forgiven* requests leave without a word, and are the first to give way when
//! the table is full.
//!
//! A reply is accepted from the node that was asked and from nobody else; a stranger that
//! guesses an id does not even remove it. All orders are those of deadlines or insertion, never
//! of a hash map. The table sends nothing and does not know what `T`, the reason of a request,
//! means.
//!
//! A request costs no allocation once the table has grown to what is under way at a time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::time::Duration;

use crate::id::{KeyMap, KeySeed, NodeId, RpcId};
use crate::time::Time;

/// A request that has no answer yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<T> {
    /// Whom we asked, and who alone may answer.
    pub asked: NodeId,
    /// What the answer is wanted for.
    pub why: T,
    /// Until when.
    pub deadlines: Deadlines,
}

/// Until when a request may be without its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Then its answer is later than usual.
    pub hedge_at: Time,
    /// Then whoever wants the answer goes on without it; no earlier than `hedge_at`.
    pub give_up_at: Time,
    /// Then whoever was asked counts as silent; no earlier than `give_up_at`.
    pub timeout_at: Time,
}

impl Deadlines {
    /// All at one moment.
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

/// Which deadline of a request has passed; one after the other does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// [`Deadlines::hedge_at`].
    Hedge,
    /// [`Deadlines::give_up_at`].
    GiveUp,
    /// [`Deadlines::timeout_at`].
    Timeout,
}

/// What [`Pending::take`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken<T> {
    /// The answer to a request under way.
    InFlight(T),
    /// The answer to a request that was reported as silent.
    Expired(T),
    /// No such request, or not one to that node.
    Unknown,
}

/// Why a request was not taken in, and so must not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// Requests under way: as many as the table holds.
    pub capacity: usize,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "all {} requests to peers are under way", self.capacity)
    }
}

impl std::error::Error for Full {}

/// The table of requests under way, and of forgiven ones.
#[derive(Debug)]
pub struct Pending<T> {
    capacity: usize,
    grace: Duration,
    entries: KeyMap<RpcId, Entry<T>>,
    /// Requests under way by their next deadline.
    under_way: Agenda,
    /// Forgiven requests by their end.
    expired: Agenda,
    next: Sequence,
}

impl<T> Pending<T> {
    /// A table of at most `capacity` requests, which keeps them for `grace` beyond their last
    /// deadlines. `seed` keys its hash map.
    pub fn new(capacity: usize, grace: Duration, seed: KeySeed) -> Self {
        Self {
            capacity,
            grace,
            entries: KeyMap::with_hasher(seed),
            under_way: Agenda::default(),
            expired: Agenda::default(),
            next: Sequence(0),
        }
    }

    /// Takes in the request `rpc` to `asked`, which is about to be sent.
    ///
    /// # Errors
    ///
    /// [`Full`] if the table is full of requests under way; the request must not be sent.
    ///
    /// # Panics
    ///
    /// If `rpc` is in the table already: 256 random bits are drawn for each request.
    pub fn insert(&mut self, rpc: RpcId, asked: NodeId, why: T, deadlines: Deadlines) -> Result<(), Full> {
        if self.entries.len() >= self.capacity && !self.drop_an_expired_one() {
            return Err(Full { capacity: self.capacity });
        }
        let nth = self.next;
        self.next = Sequence(nth.0 + 1);
        let turn = Turn { at: deadlines.hedge_at, nth, rpc };
        let request = Request { asked, why, deadlines };
        let before = self.entries.insert(rpc, Entry { request, next: Some(Passed::Hedge), turn });
        assert!(before.is_none(), "an RPC id is drawn once");
        self.under_way.add(turn);
        self.settle();
        Ok(())
    }

    /// Gives the request `rpc` other deadlines, none of which has passed; it has passed none from
    /// then on. Nothing, if it is forgiven or gone.
    pub fn put_off(&mut self, rpc: &RpcId, deadlines: Deadlines) {
        let Some(entry) = self.entries.get_mut(rpc).filter(|entry| !entry.is_expired()) else {
            return;
        };
        let turn = Turn { at: deadlines.hedge_at, ..entry.turn };
        (entry.request.deadlines, entry.next, entry.turn) = (deadlines, Some(Passed::Hedge), turn);
        self.under_way.add(turn);
        self.settle();
    }

    /// A reply to `rpc` came from `from`: takes the request out if it was `from` that was asked.
    ///
    /// Whether it was forgiven is decided by whether it was reported as silent, not by the clock:
    /// nobody gives up a request that the table then calls under way.
    pub fn take(&mut self, rpc: &RpcId, from: &NodeId) -> Taken<T> {
        if self.entries.get(rpc).is_none_or(|entry| entry.request.asked != *from) {
            return Taken::Unknown;
        }
        let entry = self.remove(rpc);
        self.settle();
        if entry.is_expired() { Taken::Expired(entry.request.why) } else { Taken::InFlight(entry.request.why) }
    }

    /// The next deadline that has come by `now`, and of which request; each is reported once, in
    /// order. `None` when there is none left.
    ///
    /// Forgiven requests whose time is up leave here.
    pub fn passed(&mut self, now: Time) -> Option<(RpcId, Passed, &mut Request<T>)> {
        while self.expired.first().is_some_and(|turn| turn.at <= now) {
            self.drop_an_expired_one();
        }
        let turn = self.under_way.take_first(now)?;
        let entry = self.entries.get_mut(&turn.rpc).expect("the first turn is always that of an entry");
        let passed = entry.next.expect("what is under way has a deadline left");
        entry.next = match passed {
            Passed::Hedge => Some(Passed::GiveUp),
            Passed::GiveUp => Some(Passed::Timeout),
            Passed::Timeout => None,
        };
        let (agenda, at) = match entry.next {
            Some(next) => (&mut self.under_way, entry.request.deadlines.of(next).max(turn.at)),
            None => (&mut self.expired, turn.at + self.grace),
        };
        entry.turn = Turn { at, ..turn };
        agenda.add(entry.turn);
        self.settle();
        let entry = self.entries.get_mut(&turn.rpc)?;
        Some((turn.rpc, passed, &mut entry.request))
    }

    /// A connection to `asked` closed: removes the requests that went out on it, of which
    /// `on_it` tells, forgiven ones too. Returns those under way, in order of insertion.
    pub fn cut_off(&mut self, asked: &NodeId, on_it: impl Fn(&T) -> bool) -> Vec<(RpcId, Request<T>)> {
        let requests = self.entries.values().filter(|entry| entry.request.asked == *asked);
        let cut = requests.filter(|entry| on_it(&entry.request.why)).map(|entry| entry.turn);
        let mut cut: Vec<Turn> = cut.collect();
        cut.sort_unstable_by_key(|turn| turn.nth);
        let entries = cut.into_iter().map(|turn| (turn.rpc, self.remove(&turn.rpc)));
        let under_way = entries.filter(|(_, entry)| !entry.is_expired());
        let under_way = under_way.map(|(rpc, entry)| (rpc, entry.request)).collect();
        self.settle();
        under_way
    }

    /// The request `rpc`, under way or forgiven.
    pub fn find(&self, rpc: &RpcId) -> Option<&Request<T>> {
        self.entries.get(rpc).map(|entry| &entry.request)
    }

    /// The reason of the request `rpc`, under way or forgiven.
    pub fn get_mut(&mut self, rpc: &RpcId) -> Option<&mut T> {
        self.entries.get_mut(rpc).map(|entry| &mut entry.request.why)
    }

    /// When [`Pending::passed`] will next have something to report; `None` if nothing is under way.
    pub fn next_deadline(&self) -> Option<Time> {
        self.under_way.first().map(|turn| turn.at)
    }

    /// How many requests have a deadline before `now` that nobody was told of: zero, if
    /// whoever drives the table keeps asking it.
    pub fn overdue(&self, now: Time) -> usize {
        self.entries.values().filter(|entry| !entry.is_expired() && entry.turn.at < now).count()
    }

    /// Requests in the table, under way and forgiven.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is neither a request under way nor a forgiven one.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Removes the forgiven request that has the least time left; returns whether there was one.
    fn drop_an_expired_one(&mut self) -> bool {
        let Some(turn) = self.expired.first() else { return false };
        self.remove(&turn.rpc);
        self.settle();
        true
    }

    fn remove(&mut self, rpc: &RpcId) -> Entry<T> {
        self.entries.remove(rpc).expect("only what was found is removed")
    }

    /// Sees to it that the first turns are those of entries, which whoever changes these calls last.
    fn settle(&mut self) {
        let entries = &self.entries;
        let is_current = |turn: &Turn| entries.get(&turn.rpc).is_some_and(|entry| entry.turn == *turn);
        self.under_way.settle(entries.len(), is_current);
        self.expired.settle(entries.len(), is_current);
    }
}

/// A request and its place in an agenda.
#[derive(Debug)]
struct Entry<T> {
    request: Request<T>,
    /// Which deadline passes next; none any more, if it is forgiven.
    next: Option<Passed>,
    turn: Turn,
}

impl<T> Entry<T> {
    /// Whether it was reported as silent.
    fn is_expired(&self) -> bool {
        self.next.is_none()
    }
}

/// How many requests came before: 2^64 are more than a node can send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Sequence(u64);

/// When a request is next dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    at: Time,
    nth: Sequence,
    rpc: RpcId,
}

/// Turns, the first of which is known.
///
/// A turn of a request that is over, or has another turn by now, stays until it is the first, or
/// until such ones are most of all: almost every request is answered before its first turn comes,
/// and what is never looked at need not be taken out of an order.
#[derive(Debug, Default)]
struct Agenda {
    turns: BinaryHeap<Reverse<Turn>>,
}

/// So many turns cost nothing to keep.
const TURNS_KEPT: usize = 64;

impl Agenda {
    fn add(&mut self, turn: Turn) {
        self.turns.push(Reverse(turn));
    }

    fn first(&self) -> Option<Turn> {
        self.turns.peek().map(|Reverse(turn)| *turn)
    }

    /// Takes the first turn, if it has come by `now`.
    fn take_first(&mut self, now: Time) -> Option<Turn> {
        self.first().filter(|turn| turn.at <= now)?;
        self.turns.pop().map(|Reverse(turn)| turn)
    }

    /// Forgets turns until the first is one that `is_current`, and most are, of which there are
    /// `current` at most.
    fn settle(&mut self, current: usize, is_current: impl Fn(&Turn) -> bool) {
        while self.turns.peek().is_some_and(|Reverse(turn)| !is_current(turn)) {
            self.turns.pop();
        }
        if self.turns.len() > 2 * current + TURNS_KEPT {
            self.turns.retain(|Reverse(turn)| is_current(turn));
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

    /// All deadlines at one moment.
    fn until(secs: u64) -> Deadlines {
        Deadlines::at(at(secs))
    }

    fn table(capacity: usize) -> Pending<&'static str> {
        Pending::new(capacity, GRACE, KeySeed::new([1, 2, 3, 4]))
    }

    /// The next request that falls silent.
    fn timeout_at<T>(table: &mut Pending<T>, now: Time) -> Option<RpcId> {
        while let Some((rpc, passed, _)) = table.passed(now) {
            if passed == Passed::Timeout {
                return Some(rpc);
            }
        }
        None
    }

    #[test]
    fn a_reply_takes_its_request_once() {
        let mut table = table(9);
        table.insert(rpc(1), node(1), "join", until(2)).expect("room");
        assert_eq!(table.take(&rpc(1), &node(1)), Taken::InFlight("join"));
        assert_eq!(table.take(&rpc(1), &node(1)), Taken::Unknown);
        assert!(table.is_empty());
        assert_eq!((table.next_deadline(), timeout_at(&mut table, at(99))), (None, None));
    }

    #[test]
    fn a_reply_from_a_stranger_does_not_remove_the_request() {
        let mut table = table(9);
        table.insert(rpc(1), node(1), "join", until(2)).expect("room");
        assert_eq!(table.take(&rpc(1), &node(2)), Taken::Unknown);
        assert_eq!(table.take(&rpc(2), &node(1)), Taken::Unknown);
        assert_eq!(table.take(&rpc(1), &node(1)), Taken::InFlight("join"));
    }

    #[test]
    fn each_request_that_falls_silent_is_reported_once_in_order_of_deadlines() {
        let mut table = table(9);
        for (n, deadline) in [(1, 5), (2, 3), (3, 5), (4, 9)] {
            table.insert(rpc(n), node(n), "get", until(deadline)).expect("room");
        }
        assert_eq!(table.next_deadline(), Some(at(3)));
        assert_eq!(timeout_at(&mut table, at(2)), None);
        assert_eq!(table.overdue(at(5)), 1);
        let told: Vec<_> = std::iter::from_fn(|| timeout_at(&mut table, at(5))).collect();
        assert_eq!(told, [rpc(2), rpc(1), rpc(3)], "of equal deadlines the one inserted first");
        assert_eq!((table.next_deadline(), table.overdue(at(9))), (Some(at(9)), 0));
        assert_eq!(table.overdue(at(10)), 1, "a deadline passed and nobody was told");
    }

    #[test]
    fn a_late_reply_is_still_right_until_its_time_is_up() {
        let mut table = table(9);
        table.insert(rpc(1), node(1), "put", until(2)).expect("room");
        table.insert(rpc(2), node(2), "get", until(2)).expect("room");
        assert_eq!(timeout_at(&mut table, at(2)), Some(rpc(1)));
        assert_eq!(timeout_at(&mut table, at(2)), Some(rpc(2)));

        assert_eq!(table.take(&rpc(1), &node(3)), Taken::Unknown, "late ones hear no strangers either");
        assert_eq!(table.take(&rpc(1), &node(1)), Taken::Expired("put"));
        assert_eq!(timeout_at(&mut table, at(11)), None);
        assert_eq!(table.len(), 1);
        assert_eq!(timeout_at(&mut table, at(12)), None);
        assert!(table.is_empty(), "ten seconds after its deadline it left without a word");
        assert_eq!(table.take(&rpc(2), &node(2)), Taken::Unknown);
    }

    #[test]
    fn a_full_table_gives_up_forgiven_requests_and_no_others() {
        let mut table = table(2);
        table.insert(rpc(1), node(1), "a", until(9)).expect("room");
        table.insert(rpc(2), node(2), "b", until(1)).expect("room");
        assert_eq!(table.insert(rpc(3), node(3), "c", until(9)), Err(Full { capacity: 2 }));

        assert_eq!(timeout_at(&mut table, at(1)), Some(rpc(2)));
        assert_eq!(table.insert(rpc(3), node(3), "c", until(9)), Ok(()));
        assert_eq!(table.take(&rpc(2), &node(2)), Taken::Unknown);
        assert_eq!(table.insert(rpc(4), node(4), "d", until(9)), Err(Full { capacity: 2 }));
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn a_closed_connection_cuts_off_what_went_out_on_it_in_order_of_insertion() {
        let mut table = table(9);
        for (n, asked, conn, deadline) in
            [(9, 1, "old", 7), (8, 1, "new", 7), (7, 2, "old", 7), (6, 1, "old", 4), (5, 1, "old", 1)]
        {
            table.insert(rpc(n), node(asked), conn, until(deadline)).expect("room");
        }
        assert_eq!(timeout_at(&mut table, at(1)), Some(rpc(5)));

        let cut = table.cut_off(&node(1), |conn| *conn == "old");
        let request = |deadline| Request { asked: node(1), why: "old", deadlines: until(deadline) };
        assert_eq!(cut, [(rpc(9), request(7)), (rpc(6), request(4))]);
        assert_eq!(table.len(), 2, "the late one went too");
        assert_eq!(table.take(&rpc(8), &node(1)), Taken::InFlight("new"));
        assert_eq!(table.take(&rpc(7), &node(2)), Taken::InFlight("old"));
    }

    #[test]
    fn the_deadlines_of_a_request_pass_one_after_the_other_and_may_be_put_off() {
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
        assert_eq!(table.take(&rpc(2), &node(2)), Taken::InFlight("get"), "nobody calls it silent yet");
        assert_eq!(passed(&mut table, 6), [(rpc(1), Passed::Timeout)]);
        assert_eq!(table.take(&rpc(1), &node(1)), Taken::Expired("get"));
    }

    #[test]
    fn the_reason_of_a_request_may_change_while_it_waits() {
        let mut table = table(9);
        table.insert(rpc(1), node(1), "waits", until(2)).expect("room");
        *table.get_mut(&rpc(1)).expect("it is there") = "sent";
        assert_eq!(table.get_mut(&rpc(2)), None);
        assert_eq!(table.take(&rpc(1), &node(1)), Taken::InFlight("sent"));
    }

    /// What can happen to the table; numbers name requests, nodes and seconds.
    #[derive(Clone, Debug)]
    enum Deed {
        Insert { asked: u8, deadline: u64 },
        Take { rpc: u8, from: u8 },
        Pass { secs: u64 },
        CutOff { asked: u8 },
    }

    fn deed() -> impl Strategy<Value = Deed> {
        prop_oneof![
            4 => (0..3_u8, 1..6_u64).prop_map(|(asked, deadline)| Deed::Insert { asked, deadline }),
            3 => (0..60_u8, 0..3_u8).prop_map(|(rpc, from)| Deed::Take { rpc, from }),
            2 => (0..8_u64).prop_map(|secs| Deed::Pass { secs }),
            1 => (0..3_u8).prop_map(|asked| Deed::CutOff { asked }),
        ]
    }

    /// How each request that the table took in ended.
    #[derive(Default)]
    struct Ends {
        answered: Vec<u8>,
        timeout_at: Vec<u8>,
        cut_off: Vec<u8>,
    }

    #[test]
    fn what_waits_long_does_not_make_the_table_keep_all_that_came_after_it() {
        let mut table = table(10);
        table.insert(rpc(0), node(1), "slow", until(9)).expect("room");
        for n in 0..10_000_u64 {
            let quick = rpc(u8::try_from(n % 200).expect("below 200") + 1);
            table.insert(quick, node(2), "quick", until(10)).expect("room");
            assert_eq!(table.take(&quick, &node(2)), Taken::InFlight("quick"));
        }
        assert!(table.under_way.turns.len() <= 2 + TURNS_KEPT);
        assert_eq!(timeout_at(&mut table, at(9)), Some(rpc(0)));
        assert_eq!(table.under_way.turns.len(), 0);
    }

    proptest! {
        /// Goal: no request is lost, and none ends twice.
        ///
        /// Method: any sequence of deeds, then time passes until nothing is under way.
        #[test]
        fn every_request_ends_exactly_once(deeds in proptest::collection::vec(deed(), 0..120)) {
            let capacity = 8;
            let mut table = Pending::new(capacity, GRACE, KeySeed::new([5, 6, 7, 8]));
            let mut now = Time::ZERO;
            let mut ends = Ends::default();
            let mut inserted = 0;
            for deed in deeds.into_iter().chain([Deed::Pass { secs: 99 }, Deed::Pass { secs: 99 }]) {
                match deed {
                    Deed::Insert { asked, deadline } => {
                        let deadlines = Deadlines::at(now + Duration::from_secs(deadline));
                        let room = table.insert(rpc(inserted), node(asked), inserted, deadlines);
                        inserted += u8::from(room.is_ok());
                    }
                    Deed::Take { rpc: n, from } => match table.take(&rpc(n), &node(from)) {
                        Taken::InFlight(n) => ends.answered.push(n),
                        Taken::Expired(n) => prop_assert!(ends.timeout_at.contains(&n)),
                        Taken::Unknown => {}
                    },
                    Deed::Pass { secs } => {
                        now = now + Duration::from_secs(secs);
                        while let Some((_, passed, request)) = table.passed(now) {
                            prop_assert!(request.deadlines.timeout_at <= now);
                            if passed == Passed::Timeout {
                                ends.timeout_at.push(request.why);
                            }
                        }
                        prop_assert_eq!(table.overdue(now), 0);
                        prop_assert!(table.next_deadline().is_none_or(|next| next > now));
                    }
                    Deed::CutOff { asked } => {
                        let cut = table.cut_off(&node(asked), |_| true);
                        prop_assert!(cut.is_sorted_by_key(|(_, request)| request.why));
                        ends.cut_off.extend(cut.iter().map(|(_, request)| request.why));
                    }
                }
                prop_assert!(table.len() <= capacity);
                let first = |expired| {
                    table.entries.values().filter(|entry| entry.is_expired() == expired).map(|entry| entry.turn).min()
                };
                prop_assert_eq!((table.under_way.first(), table.expired.first()), (first(false), first(true)));
            }
            let mut all = [ends.answered, ends.timeout_at, ends.cut_off].concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..inserted).collect::<Vec<_>>());
            prop_assert!(table.is_empty());
        }
    }
}
