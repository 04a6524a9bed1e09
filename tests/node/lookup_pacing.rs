//! How many nodes a lookup asks, and which: as few as suffice, the fast ones first, one more if a reply
//! is later than usual (section 3; RFC 6298 defines usual).

use dht::id::RpcId;
use dht::node::action::ConnId;
use dht::node::params::Params;
use dht::wire::peer::{RecordBlock, Request, Want};

use crate::harness::{
    Harness, block, confirmed, contact, failure, given, key, millis, nodes, secs, stored, success, synced, value_of,
};

/// A key far from this node, which is therefore out of scope for the records that the peers hold.
const N: u8 = 7;

/// Milliseconds before any request may count as late, however fast the peer was so far.
const HEDGE_MIN: u64 = 10;

/// A node with the quorum `quorum` and the scripted peers 1 to 8. Each peer has answered before, after
/// `took` milliseconds.
fn with_known_rtts(quorum: u8, took: impl Fn(u8) -> u64) -> Harness {
    let params = Params { read_quorum: quorum, ..Params::default() };
    let mut harness = Harness::with_contacts(params, 1..=8);
    (1..=8).for_each(|peer| harness.make_scripted(peer));
    let mut asked = Vec::new();
    for n in [100, 200, 100, 200] {
        harness.get(key(n));
        asked.extend(value_requests(&mut harness));
        for _ in 0..500 {
            let since = harness.now;
            for (peer, conn, rpc, _) in std::mem::take(&mut asked) {
                harness.pass(millis(took(peer)).saturating_sub(harness.now.since(since)));
                harness.reply(conn, rpc, nodes(&[]));
            }
            asked = value_requests(&mut harness);
        }
        assert_eq!(asked.len(), 0, "all were asked");
    }
    harness.forget_actions();
    harness
}

/// The FIND VALUE requests since the last call.
fn value_requests(harness: &mut Harness) -> Vec<(u8, ConnId, RpcId, Want)> {
    let asked = harness.all_requests(|request| match request {
        Request::FindValue { want, .. } => Some(*want),
        _ => None,
    });
    asked.into_iter().map(|(conn, rpc, want)| (harness.peer_at(conn), conn, rpc, want)).collect()
}

fn peers(asked: &[(u8, ConnId, RpcId, Want)]) -> Vec<u8> {
    asked.iter().map(|(peer, ..)| *peer).collect()
}

fn held() -> RecordBlock<'static> {
    RecordBlock { replication: 8, ..block(N, b"v") }
}

#[test]
fn a_get_asks_only_as_many_nodes_as_its_quorum_while_replies_are_on_time() {
    for quorum in 1..=3 {
        let mut harness = with_known_rtts(quorum, |_| 0);
        let client = harness.get(key(N));
        let asked = value_requests(&mut harness);
        assert_eq!(peers(&asked), [7, 6, 5][..usize::from(quorum)], "the nearest");
        assert_eq!(asked.iter().filter(|(.., want)| !want.head_only).count(), 1, "the value from one of them");
        assert!(asked.iter().all(|(.., want)| !want.contacts));
        for (_, conn, rpc, want) in asked {
            assert_eq!(harness.answer(client), None);
            harness.reply(conn, rpc, given(held(), want));
        }
        assert_eq!(harness.answer(client), success(N, b"v"));
        assert_eq!(value_requests(&mut harness), []);
    }
}

#[test]
fn a_get_asks_alpha_nodes_if_none_of_them_has_ever_replied() {
    let mut harness = Harness::with_contacts(Params { read_quorum: 1, ..Params::default() }, 1..=8);
    (1..=8).for_each(|peer| harness.make_scripted(peer));
    harness.get(key(N));
    assert_eq!(peers(&value_requests(&mut harness)), [7, 6, 5], "alpha");
}

#[test]
fn a_reply_later_than_usual_is_hedged_and_still_counts() {
    let mut harness = with_known_rtts(1, |_| 0);
    let client = harness.get(key(N));
    let [(_, nearest, rpc, want)] = value_requests(&mut harness)[..] else { panic!("one is asked") };
    harness.pass(millis(HEDGE_MIN - 1));
    assert_eq!(value_requests(&mut harness), []);
    harness.pass(millis(1));
    let second = value_requests(&mut harness);
    assert_eq!(peers(&second), [6], "one more");
    assert!(!second[0].3.head_only, "for the value");
    harness.reply(nearest, rpc, given(held(), want));
    assert_eq!(harness.answer(client), success(N, b"v"));
}

/// A reply time that is late for one peer is usual for another.
#[test]
fn a_slow_peer_is_hedged_later() {
    let mut harness = with_known_rtts(1, |_| 100);
    harness.get(key(N));
    assert_eq!(value_requests(&mut harness).len(), 1);
    harness.pass(millis(100));
    assert_eq!(value_requests(&mut harness), []);
    harness.pass(millis(150));
    assert_eq!(value_requests(&mut harness).len(), 1);
}

#[test]
fn among_similarly_near_nodes_the_fastest_is_asked() {
    let mut harness = with_known_rtts(1, |peer| if peer == 5 { 5 } else { 80 });
    harness.get(key(N));
    assert_eq!(peers(&value_requests(&mut harness)), [5]);
    let mut harness = with_known_rtts(1, |peer| if peer == 8 { 5 } else { 80 });
    harness.get(key(N));
    assert_eq!(peers(&value_requests(&mut harness)), [7], "8 is far");
}

#[test]
fn a_get_whose_lookup_makes_no_progress_asks_at_most_alpha_at_a_time() {
    let mut harness = with_known_rtts(1, |_| 0);
    let client = harness.get(key(N));
    let [(_, conn, rpc, _)] = value_requests(&mut harness)[..] else { panic!("one is asked") };
    harness.reply(conn, rpc, nodes(&[contact(1)]));
    let mut in_flight = value_requests(&mut harness);
    assert_eq!(peers(&in_flight), [6, 5, 4]);
    while let Some((_, conn, rpc, want)) = in_flight.pop() {
        assert!(!want.head_only || in_flight.len() < 3);
        harness.reply(conn, rpc, nodes(&[contact(1)]));
        in_flight.extend(value_requests(&mut harness));
        assert!(in_flight.len() <= 3);
    }
    assert_eq!(harness.answer(client), failure(N), "all were asked");
}

#[test]
fn a_replica_that_contradicts_the_first_makes_a_get_ask_alpha_at_a_time() {
    let mut harness = with_known_rtts(2, |_| 0);
    harness.get(key(N));
    let asked = value_requests(&mut harness);
    let newer = RecordBlock { version: crate::harness::version_at(9), ..held() };
    for ((_, conn, rpc, want), record) in asked.into_iter().zip([held(), newer]) {
        harness.reply(conn, rpc, value_of(if want.head_only { crate::harness::head(record) } else { record }));
    }
    let asked = value_requests(&mut harness);
    assert_eq!(peers(&asked), [6, 5, 4, 3], "the one that claims the larger one for its value, and three more");
    assert!(asked[1..].iter().all(|(.., want)| want.contacts));
}

/// `THREATS.md` E7: the deadline is at least 200 ms.
#[test]
fn an_overdue_copy_goes_to_the_next_target_and_its_late_reply_still_counts() {
    let mut harness = with_known_rtts(1, |_| 0);
    let client = harness.put(dht::wire::api::Put { replication: 3, ..confirmed(N, b"v") });
    harness.answer_find_value(|_, _| Some(nodes(&[])));
    let copies = harness.copies();
    assert_eq!(copies.len(), 3);
    for (conn, rpc, ()) in harness.all_requests(|request| matches!(request, Request::Sync { .. }).then_some(())) {
        harness.reply(conn, rpc, synced(&[]));
    }
    for (conn, rpc, copy) in &copies[1..] {
        harness.reply(*conn, *rpc, stored(copy));
    }
    harness.pass(millis(199));
    assert_eq!(harness.copies(), []);
    harness.pass(millis(1));
    assert_eq!(harness.copies_by_peer().iter().map(|(peer, _)| *peer).collect::<Vec<_>>(), [4]);
    assert_eq!(harness.answer(client), None);
    harness.reply(copies[0].0, copies[0].1, stored(&copies[0].2));
    assert_eq!(harness.answer(client), success(N, b""));
}

#[test]
fn the_lookup_of_a_put_ends_without_an_overdue_node_if_enough_others_answer() {
    let mut harness = with_known_rtts(1, |_| 0);
    harness.put(dht::wire::api::Put { replication: 3, ..confirmed(N, b"v") });
    harness.answer_find_value(|peer, _| (peer != 7).then(|| nodes(&[])));
    harness.pass(millis(199));
    harness.answer_find_value(|_, _| Some(nodes(&[])));
    assert_eq!(harness.copies(), []);
    harness.pass(millis(1));
    harness.answer_find_value(|_, _| Some(nodes(&[])));
    assert_eq!(harness.copies_by_peer().len(), 3);
}

/// A moment without replies must not leave a record with fewer replicas.
#[test]
fn the_lookup_of_a_put_waits_for_overdue_nodes_while_too_few_have_answered() {
    let mut harness = with_known_rtts(1, |_| 0);
    let client = harness.put(dht::wire::api::Put { replication: 3, ..confirmed(N, b"v") });
    let mut asked = Vec::new();
    for _ in 0..100 {
        asked.extend(value_requests(&mut harness));
        harness.pass(millis(10));
    }
    assert_eq!((asked.len(), harness.copies().len(), harness.answer(client)), (8, 0, None));
    for (_, conn, rpc, _) in asked.into_iter().take(3) {
        harness.reply(conn, rpc, nodes(&[]));
    }
    assert_eq!(harness.copies().len(), 3);
}

/// A GET waits for a node that may still reply: that node may hold the value.
#[test]
fn a_get_waits_for_the_last_pending_reply_until_its_timeout() {
    let mut harness = with_known_rtts(1, |_| 0);
    let client = harness.get(key(N));
    let mut late = None;
    for _ in 0..150 {
        for (peer, conn, rpc, _) in value_requests(&mut harness) {
            if peer == 7 {
                late = Some((conn, rpc));
            } else {
                harness.reply(conn, rpc, nodes(&[contact(1)]));
            }
        }
        harness.pass(millis(10));
    }
    assert_eq!(harness.answer(client), None);
    let (conn, rpc) = late.expect("the nearest was asked");
    harness.reply(conn, rpc, value_of(held()));
    assert_eq!(harness.answer(client), success(N, b"v"));
    harness.pass(secs(1));
}
