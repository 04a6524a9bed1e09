//! Tests of [`Pending`].

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
    *table.in_flight_mut(&rpc(1)).expect("it is there") = "sent";
    assert_eq!(table.in_flight_mut(&rpc(2)), None);
    assert_eq!(table.passed(at(2)).map(|(_, passed, request)| (passed, request.why)), Some((Passed::Hedge, "sent")));
    assert_eq!(next_timeout(&mut table, at(2)), Some(rpc(1)));
    assert_eq!(table.in_flight_mut(&rpc(1)), None, "it is expired");
}

#[test]
fn a_node_is_behind_while_half_of_the_answers_that_it_may_owe_are_overdue() {
    let mut table = table(9);
    let half = Answer { kind: AnswerKind::Listing, bytes: LISTINGS_OWED_MAX / 2 };
    for n in 1..=2 {
        table.insert(rpc(n), node(1), "get", until(u64::from(n))).expect("room");
        table.owe(&rpc(n), half);
    }
    assert!(!table.has_room_for(&node(1), half) && !table.is_behind(&node(1), half.kind));
    assert_eq!(next_timeout(&mut table, at(1)), Some(rpc(1)));
    assert!(table.is_behind(&node(1), half.kind));
    assert!(!table.is_behind(&node(1), AnswerKind::Value) && !table.is_behind(&node(2), half.kind));
    assert_eq!(table.take(&rpc(1), &node(1)), Taken::Expired("get"));
    assert!(!table.is_behind(&node(1), half.kind));
    assert_eq!(next_timeout(&mut table, at(2)), Some(rpc(2)));
    assert!(table.is_behind(&node(1), half.kind));
    assert_eq!(table.passed(at(2) + GRACE), None);
    assert!(!table.is_behind(&node(1), half.kind) && table.is_empty());
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
