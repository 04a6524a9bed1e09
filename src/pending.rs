//! The requests to peers that have no answer yet: whom we asked, why, and until when.
//!
//! Every request has a deadline, and is over exactly once: its reply takes it, its connection
//! cuts it off, or its deadline passes and [`Pending::missed`] reports it. A missed request
//! stays a while longer as *late*, so that a late but right answer still helps; late requests
//! leave without a word, and are the first to give way when the table is full.
//!
//! A reply is accepted from the node that was asked and from nobody else; a stranger that
//! guesses an id does not even remove it. All orders are those of deadline or insertion, never
//! of a hash map. The table sends nothing and does not know what `T`, the reason of a request,
//! means.

use std::collections::BTreeMap;
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
    /// When it counts as missed.
    pub deadline: Time,
}

/// What [`Pending::take`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken<T> {
    /// The answer to a request under way.
    OnTime(T),
    /// The answer to a request that was reported as missed.
    Late(T),
    /// No such request, or not one to that node.
    Unasked,
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

/// The table of requests under way, and of late ones.
#[derive(Debug)]
pub struct Pending<T> {
    capacity: usize,
    late: Duration,
    entries: KeyMap<RpcId, Entry<T>>,
    /// Late requests by their end, then those under way by their deadline.
    agenda: BTreeMap<Turn, RpcId>,
    /// The requests to each node, in order of insertion.
    by_node: BTreeMap<(NodeId, Sequence), RpcId>,
    next: Sequence,
}

impl<T> Pending<T> {
    /// A table of at most `capacity` requests, which keeps the late ones for `late` beyond their
    /// deadlines. `seed` keys its hash map.
    pub fn new(capacity: usize, late: Duration, seed: KeySeed) -> Self {
        Self {
            capacity,
            late,
            entries: KeyMap::with_hasher(seed),
            agenda: BTreeMap::new(),
            by_node: BTreeMap::new(),
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
    pub fn insert(&mut self, rpc: RpcId, asked: NodeId, why: T, deadline: Time) -> Result<(), Full> {
        if self.entries.len() >= self.capacity && !self.forget_a_late_one() {
            return Err(Full { capacity: self.capacity });
        }
        let nth = self.next;
        self.next = Sequence(nth.0 + 1);
        let turn = Turn { stage: Stage::UnderWay, at: deadline, nth };
        self.agenda.insert(turn, rpc);
        self.by_node.insert((asked, nth), rpc);
        let before = self.entries.insert(rpc, Entry { request: Request { asked, why, deadline }, turn });
        assert!(before.is_none(), "an RPC id is drawn once");
        Ok(())
    }

    /// A reply to `rpc` came from `from`: takes the request out if it was `from` that was asked.
    ///
    /// Whether it was on time is decided by whether it was reported as missed, not by the clock:
    /// nobody gives up a request that the table then calls punctual.
    pub fn take(&mut self, rpc: &RpcId, from: &NodeId) -> Taken<T> {
        if self.entries.get(rpc).is_none_or(|entry| entry.request.asked != *from) {
            return Taken::Unasked;
        }
        let entry = self.remove(rpc);
        match entry.turn.stage {
            Stage::UnderWay => Taken::OnTime(entry.request.why),
            Stage::Late => Taken::Late(entry.request.why),
        }
    }

    /// The next request whose deadline has come by `now`; each is reported once, in order of
    /// deadlines, and is late from then on. `None` when there is none left.
    ///
    /// Late requests whose time is up leave here.
    pub fn missed(&mut self, now: Time) -> Option<(RpcId, &Request<T>)> {
        while self.first_late().is_some_and(|turn| turn.at <= now) {
            self.forget_a_late_one();
        }
        let (&turn, &rpc) = self.agenda.range(Turn::FIRST_UNDER_WAY..).next()?;
        if turn.at > now {
            return None;
        }
        let late = Turn { stage: Stage::Late, at: turn.at + self.late, nth: turn.nth };
        self.agenda.remove(&turn);
        self.agenda.insert(late, rpc);
        let entry = self.entries.get_mut(&rpc).expect("the agenda names only entries");
        entry.turn = late;
        Some((rpc, &entry.request))
    }

    /// A connection to `asked` closed: removes the requests that went out on it, of which
    /// `on_it` tells, late ones too. Returns those under way, in order of insertion.
    pub fn cut_off(&mut self, asked: &NodeId, on_it: impl Fn(&T) -> bool) -> Vec<(RpcId, Request<T>)> {
        let all = (*asked, Sequence(0))..=(*asked, Sequence(u64::MAX));
        let cut = self.by_node.range(all).map(|(_, rpc)| *rpc);
        let cut: Vec<RpcId> =
            cut.filter(|rpc| self.entries.get(rpc).is_some_and(|entry| on_it(&entry.request.why))).collect();
        let entries = cut.into_iter().map(|rpc| (rpc, self.remove(&rpc)));
        entries
            .filter(|(_, entry)| entry.turn.stage == Stage::UnderWay)
            .map(|(rpc, entry)| (rpc, entry.request))
            .collect()
    }

    /// The reason of the request `rpc`, under way or late.
    pub fn get_mut(&mut self, rpc: &RpcId) -> Option<&mut T> {
        self.entries.get_mut(rpc).map(|entry| &mut entry.request.why)
    }

    /// When [`Pending::missed`] will next have something to report; `None` if nothing is under way.
    pub fn next_deadline(&self) -> Option<Time> {
        self.agenda.range(Turn::FIRST_UNDER_WAY..).next().map(|(turn, _)| turn.at)
    }

    /// How many requests have a deadline before `now` that nobody was told of: zero, if
    /// whoever drives the table keeps asking it.
    pub fn overdue(&self, now: Time) -> usize {
        let until = Turn { at: now, ..Turn::FIRST_UNDER_WAY };
        self.agenda.range(Turn::FIRST_UNDER_WAY..until).count()
    }

    /// Requests in the table, under way and late.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is neither a request under way nor a late one.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn first_late(&self) -> Option<Turn> {
        self.agenda.first_key_value().map(|(turn, _)| *turn).filter(|turn| turn.stage == Stage::Late)
    }

    /// Removes the late request that has the least time left; returns whether there was one.
    fn forget_a_late_one(&mut self) -> bool {
        let Some(turn) = self.first_late() else { return false };
        let rpc = self.agenda[&turn];
        self.remove(&rpc);
        true
    }

    fn remove(&mut self, rpc: &RpcId) -> Entry<T> {
        let entry = self.entries.remove(rpc).expect("only what was found is removed");
        self.agenda.remove(&entry.turn);
        self.by_node.remove(&(entry.request.asked, entry.turn.nth));
        entry
    }
}

/// A request and its place in the agenda.
#[derive(Debug)]
struct Entry<T> {
    request: Request<T>,
    turn: Turn,
}

/// How many requests came before: 2^64 are more than a node can send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Sequence(u64);

/// When a request is next dealt with; unique by its sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    stage: Stage,
    at: Time,
    nth: Sequence,
}

impl Turn {
    /// Before all that are under way, behind all that are late.
    const FIRST_UNDER_WAY: Turn = Turn { stage: Stage::UnderWay, at: Time::ZERO, nth: Sequence(0) };
}

/// How far a request has come; late ones stand first, for they go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Reported as missed.
    Late,
    /// Its deadline has not been reported.
    UnderWay,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::Key;

    const LATE: Duration = Duration::from_secs(10);

    fn rpc(n: u8) -> RpcId {
        RpcId::new([n; 32])
    }

    fn node(n: u8) -> NodeId {
        NodeId::new(Key::new([n; 32]))
    }

    fn at(secs: u64) -> Time {
        Time::ZERO + Duration::from_secs(secs)
    }

    fn table(capacity: usize) -> Pending<&'static str> {
        Pending::new(capacity, LATE, KeySeed::new([1, 2, 3, 4]))
    }

    fn missed<T>(table: &mut Pending<T>, now: Time) -> Option<RpcId> {
        table.missed(now).map(|(rpc, _)| rpc)
    }

    #[test]
    fn a_reply_takes_its_request_once() {
        let mut table = table(9);
        table.insert(rpc(1), node(1), "join", at(2)).expect("room");
        assert_eq!(table.take(&rpc(1), &node(1)), Taken::OnTime("join"));
        assert_eq!(table.take(&rpc(1), &node(1)), Taken::Unasked);
        assert!(table.is_empty());
        assert_eq!((table.next_deadline(), missed(&mut table, at(99))), (None, None));
    }

    #[test]
    fn a_reply_from_a_stranger_does_not_remove_the_request() {
        let mut table = table(9);
        table.insert(rpc(1), node(1), "join", at(2)).expect("room");
        assert_eq!(table.take(&rpc(1), &node(2)), Taken::Unasked);
        assert_eq!(table.take(&rpc(2), &node(1)), Taken::Unasked);
        assert_eq!(table.take(&rpc(1), &node(1)), Taken::OnTime("join"));
    }

    #[test]
    fn each_missed_request_is_reported_once_in_order_of_deadlines() {
        let mut table = table(9);
        for (n, deadline) in [(1, 5), (2, 3), (3, 5), (4, 9)] {
            table.insert(rpc(n), node(n), "get", at(deadline)).expect("room");
        }
        assert_eq!(table.next_deadline(), Some(at(3)));
        assert_eq!(missed(&mut table, at(2)), None);
        assert_eq!(table.overdue(at(5)), 1);
        let told: Vec<_> = std::iter::from_fn(|| missed(&mut table, at(5))).collect();
        assert_eq!(told, [rpc(2), rpc(1), rpc(3)], "of equal deadlines the one inserted first");
        assert_eq!((table.next_deadline(), table.overdue(at(9))), (Some(at(9)), 0));
        assert_eq!(table.overdue(at(10)), 1, "a deadline passed and nobody was told");
    }

    #[test]
    fn a_late_reply_is_still_right_until_its_time_is_up() {
        let mut table = table(9);
        table.insert(rpc(1), node(1), "put", at(2)).expect("room");
        table.insert(rpc(2), node(2), "get", at(2)).expect("room");
        assert_eq!(missed(&mut table, at(2)), Some(rpc(1)));
        assert_eq!(missed(&mut table, at(2)), Some(rpc(2)));

        assert_eq!(table.take(&rpc(1), &node(3)), Taken::Unasked, "late ones hear no strangers either");
        assert_eq!(table.take(&rpc(1), &node(1)), Taken::Late("put"));
        assert_eq!(missed(&mut table, at(11)), None);
        assert_eq!(table.len(), 1);
        assert_eq!(missed(&mut table, at(12)), None);
        assert!(table.is_empty(), "ten seconds after its deadline it left without a word");
        assert_eq!(table.take(&rpc(2), &node(2)), Taken::Unasked);
    }

    #[test]
    fn a_full_table_gives_up_late_requests_and_no_others() {
        let mut table = table(2);
        table.insert(rpc(1), node(1), "a", at(9)).expect("room");
        table.insert(rpc(2), node(2), "b", at(1)).expect("room");
        assert_eq!(table.insert(rpc(3), node(3), "c", at(9)), Err(Full { capacity: 2 }));

        assert_eq!(missed(&mut table, at(1)), Some(rpc(2)));
        assert_eq!(table.insert(rpc(3), node(3), "c", at(9)), Ok(()));
        assert_eq!(table.take(&rpc(2), &node(2)), Taken::Unasked);
        assert_eq!(table.insert(rpc(4), node(4), "d", at(9)), Err(Full { capacity: 2 }));
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn a_closed_connection_cuts_off_what_went_out_on_it_in_order_of_insertion() {
        let mut table = table(9);
        for (n, asked, conn, deadline) in
            [(9, 1, "old", 7), (8, 1, "new", 7), (7, 2, "old", 7), (6, 1, "old", 4), (5, 1, "old", 1)]
        {
            table.insert(rpc(n), node(asked), conn, at(deadline)).expect("room");
        }
        assert_eq!(missed(&mut table, at(1)), Some(rpc(5)));

        let cut = table.cut_off(&node(1), |conn| *conn == "old");
        let request = |deadline| Request { asked: node(1), why: "old", deadline: at(deadline) };
        assert_eq!(cut, [(rpc(9), request(7)), (rpc(6), request(4))]);
        assert_eq!(table.len(), 2, "the late one went too");
        assert_eq!(table.take(&rpc(8), &node(1)), Taken::OnTime("new"));
        assert_eq!(table.take(&rpc(7), &node(2)), Taken::OnTime("old"));
    }

    #[test]
    fn the_reason_of_a_request_may_change_while_it_waits() {
        let mut table = table(9);
        table.insert(rpc(1), node(1), "waits", at(2)).expect("room");
        *table.get_mut(&rpc(1)).expect("it is there") = "sent";
        assert_eq!(table.get_mut(&rpc(2)), None);
        assert_eq!(table.take(&rpc(1), &node(1)), Taken::OnTime("sent"));
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
        missed: Vec<u8>,
        cut_off: Vec<u8>,
    }

    proptest! {
        /// Goal: no request is lost, and none ends twice.
        ///
        /// Method: any sequence of deeds, then time passes until nothing is under way.
        #[test]
        fn every_request_ends_exactly_once(deeds in proptest::collection::vec(deed(), 0..120)) {
            let capacity = 8;
            let mut table = Pending::new(capacity, LATE, KeySeed::new([5, 6, 7, 8]));
            let mut now = Time::ZERO;
            let mut ends = Ends::default();
            let mut inserted = 0;
            for deed in deeds.into_iter().chain([Deed::Pass { secs: 99 }, Deed::Pass { secs: 99 }]) {
                match deed {
                    Deed::Insert { asked, deadline } => {
                        let room = table.insert(rpc(inserted), node(asked), inserted, now + Duration::from_secs(deadline));
                        inserted += u8::from(room.is_ok());
                    }
                    Deed::Take { rpc: n, from } => match table.take(&rpc(n), &node(from)) {
                        Taken::OnTime(n) => ends.answered.push(n),
                        Taken::Late(n) => prop_assert!(ends.missed.contains(&n)),
                        Taken::Unasked => {}
                    },
                    Deed::Pass { secs } => {
                        now = now + Duration::from_secs(secs);
                        while let Some((_, request)) = table.missed(now) {
                            prop_assert!(request.deadline <= now);
                            ends.missed.push(request.why);
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
                prop_assert_eq!((table.agenda.len(), table.by_node.len()), (table.len(), table.len()));
            }
            let mut all = [ends.answered, ends.missed, ends.cut_off].concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..inserted).collect::<Vec<_>>());
            prop_assert!(table.is_empty());
        }
    }
}
