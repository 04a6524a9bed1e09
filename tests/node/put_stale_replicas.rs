//! PUT: nodes among the k nearest that shall not hold the record, but may be stale replicas. The PUT asks
//! each for its version: a version probe, the SYNC of one key.

use std::collections::BTreeSet;

use dht::contact::Contact;
use dht::id::{Key, RpcId};
use dht::node::action::{ClientId, ConnId, DialError};
use dht::node::params::Params;
use dht::record::{Age, Class, Life, Rank, Ttl, Version};
use dht::wire::api::{ApiReply, Put};
use dht::wire::peer::{Content, Entry, ErrorCode, RecordBlock, Reply, Request};

use crate::harness::{
    Harness, block, confirmed, contact, given, head, hello, key, millis, nodes, secs, stored, success, synced,
    value_of, version_at,
};

/// A version probe: the peer, its connection and the RPC id.
pub(crate) type Probe = (u8, ConnId, RpcId);

/// A node with the scripted peers 1 to 8, each of which has answered once, at once.
fn with_scripted_peers() -> Harness {
    let mut harness = Harness::with_contacts(Params { replication_min: 1, ..Params::default() }, 1..=8);
    (1..=8).for_each(|peer| harness.make_scripted(peer));
    harness.get(key(9));
    assert_eq!(look_up(&mut harness).len(), 8);
    harness.forget_actions();
    harness
}

/// A confirmed PUT of the key 1; the peers 1, 2 and 3 shall hold it.
fn put_to_three() -> Put<'static> {
    Put { replication: 3, ..confirmed(1, b"value") }
}

/// The lookup of a PUT finds nothing; returns the peers that it asked.
fn look_up(harness: &mut Harness) -> Vec<u8> {
    let asked = std::cell::RefCell::new(Vec::new());
    harness.answer_find_value(|peer, _| {
        asked.borrow_mut().push(peer);
        Some(nodes(&[]))
    });
    asked.into_inner()
}

/// The version probes of the key 1 since the last call.
pub(crate) fn probes(harness: &mut Harness) -> Vec<Probe> {
    let only = |request: &Request<'_>| (*request == Request::Sync { from: key(1), to: key(1) }).then_some(());
    let asked = harness.all_requests(only);
    asked.into_iter().map(|(conn, rpc, ())| (harness.peer_at(conn), conn, rpc)).collect()
}

/// All peers store their copies; returns these peers and the versions.
fn store_copies(harness: &mut Harness) -> Vec<(u8, Version)> {
    let copies = harness.copies();
    for (conn, rpc, copy) in &copies {
        harness.reply(*conn, *rpc, stored(copy));
    }
    copies.iter().map(|(conn, _, copy)| (harness.peer_at(*conn), copy.version)).collect()
}

fn storing_peers(harness: &mut Harness) -> Vec<u8> {
    store_copies(harness).into_iter().map(|(peer, _)| peer).collect()
}

fn entry(key: Key, life: Life, version: Version) -> Entry {
    Entry { key, rank: Rank { class: Class::Plain, life, version }, crc: 0 }
}

/// Answers all probes but the first with an empty page; returns the first.
fn all_but_one(harness: &mut Harness, probes: &[Probe]) -> Probe {
    for (_, conn, rpc) in &probes[1..] {
        harness.reply(*conn, *rpc, synced(&[]));
    }
    probes[0]
}

/// A PUT that waits for one version probe only: its copies and the other probes are answered.
fn with_one_open_probe() -> (Harness, ClientId, Probe) {
    let mut harness = with_scripted_peers();
    let client = harness.put(put_to_three());
    look_up(&mut harness);
    storing_peers(&mut harness);
    let asked = probes(&mut harness);
    let open = all_but_one(&mut harness, &asked);
    (harness, client, open)
}

/// The lookup of a PUT may end once as many nodes have answered as shall hold the record. The PUT probes
/// the other ones of the k nearest while its copies are in flight.
#[test]
fn a_put_sends_version_probes_to_the_other_close_nodes_while_its_copies_are_in_flight() {
    let mut harness = with_scripted_peers();
    let client = harness.put(put_to_three());
    assert_eq!(look_up(&mut harness), [1, 3, 2]);
    let asked = probes(&mut harness);
    assert_eq!(asked.iter().map(|(peer, ..)| *peer).collect::<Vec<_>>(), [5, 4, 7, 6, 8]);
    assert_eq!(storing_peers(&mut harness), [1, 3, 2]);
    let (_, conn, rpc) = all_but_one(&mut harness, &asked);
    assert_eq!(harness.answer(client), None, "one may hold an older record");
    harness.reply(conn, rpc, synced(&[]));
    assert_eq!(harness.answer(client), success(1, b""));
    assert_eq!(harness.node.counters().puts_held, 1);
}

/// Section 1, rule 9: a later PUT replaces the value everywhere, also at replicas beyond its own
/// replication.
#[test]
fn a_stale_replica_gets_a_copy_too() {
    let mut harness = with_scripted_peers();
    let client = harness.put(put_to_three());
    let older = RecordBlock { content: Content::Head, replication: 8, ..block(1, b"older") };
    harness.answer_find_value(|peer, _| Some(if peer == 2 { value_of(older) } else { nodes(&[]) }));
    assert_eq!(storing_peers(&mut harness), [1, 3, 2]);
    let asked = probes(&mut harness);
    let (peer, conn, rpc) = all_but_one(&mut harness, &asked);
    harness.reply(conn, rpc, synced(&[entry(key(1), Life::Alive, older.version)]));
    assert_eq!(harness.answer(client), None, "enough nodes hold it, but two stale replicas could still form a quorum");
    assert_eq!(storing_peers(&mut harness), [peer]);
    assert_eq!(harness.answer(client), success(1, b""));
    assert_eq!(harness.node.counters().puts_held, 1);
}

#[test]
fn a_probed_node_without_an_older_record_gets_no_copy() {
    let newer = version_at(1_000);
    for told in [entry(key(2), Life::Alive, version_at(0)), entry(key(1), Life::Over, version_at(0))] {
        let mut harness = with_scripted_peers();
        let client = harness.put(put_to_three());
        look_up(&mut harness);
        assert_eq!(storing_peers(&mut harness).len(), 3);
        let asked = probes(&mut harness);
        let (_, conn, rpc) = all_but_one(&mut harness, &asked);
        harness.reply(conn, rpc, synced(&[told, entry(key(1), Life::Alive, newer)]));
        assert_eq!((harness.answer(client), harness.copies()), (success(1, b""), vec![]), "{told:?}");
    }
}

/// A probed node may hold an older record until it replies or its deadline passes.
#[test]
fn a_put_waits_for_a_version_probe_until_its_timeout() {
    let older = entry(key(1), Life::Alive, version_at(0));
    for answers in [true, false] {
        let mut harness = with_scripted_peers();
        let client = harness.put(put_to_three());
        look_up(&mut harness);
        assert_eq!(storing_peers(&mut harness).len(), 3);
        let asked = probes(&mut harness);
        let (slow, conn, rpc) = all_but_one(&mut harness, &asked);
        harness.pass(millis(1_999));
        assert_eq!(harness.answer(client), None);
        if answers {
            harness.reply(conn, rpc, synced(&[older]));
            assert_eq!(storing_peers(&mut harness), [slow]);
        } else {
            harness.pass(millis(1));
        }
        assert_eq!(harness.answer(client), success(1, b""));
    }
}

/// It may have been stalled for some seconds, and would return its record alone.
#[test]
fn a_node_that_answers_a_version_probe_after_the_put_has_ended_gets_a_copy_if_its_record_is_older() {
    for (version, gets_copy) in [(version_at(0), true), (version_at(1 << 40), false)] {
        let mut harness = with_scripted_peers();
        let client = harness.put(put_to_three());
        look_up(&mut harness);
        let newest = store_copies(&mut harness)[0].1;
        let asked = probes(&mut harness);
        let (slow, conn, rpc) = all_but_one(&mut harness, &asked);
        harness.pass(secs(2));
        assert_eq!(harness.answer(client), success(1, b""));
        harness.reply(conn, rpc, synced(&[entry(key(1), Life::Alive, version)]));
        harness.answer_find_value(|peer, want| {
            let stored = RecordBlock { version: newest, ..block(1, b"value") };
            Some(if peer <= 3 { given(stored, want) } else { nodes(&[]) })
        });
        let copies = harness.copies_by_peer();
        let to_slow: Vec<Version> =
            copies.iter().filter(|(peer, _)| *peer == slow).map(|(_, copy)| copy.version).collect();
        assert_eq!(to_slow, if gets_copy { vec![newest] } else { vec![] });
    }
}

/// It may have been cut off for a moment only, and would return its older record alone.
#[test]
fn a_stale_replica_that_does_not_answer_its_copy_is_looked_up_again_first() {
    let mut harness = Harness::with_contacts(Params { replication_min: 1, ..Params::default() }, 1..=3);
    (1..=3).for_each(|peer| harness.make_scripted(peer));
    let client = harness.put(Put { replication: 4, ..put_to_three() });
    let older = RecordBlock { content: Content::Head, ..block(1, b"older") };
    for answer in [None, success(1, b"")] {
        harness.answer_find_value(|peer, _| Some(if peer == 3 { value_of(older) } else { nodes(&[]) }));
        for (conn, rpc, copy) in harness.copies() {
            harness.reply(conn, rpc, if harness.peer_at(conn) == 3 { Reply::Pong } else { stored(&copy) });
        }
        assert_eq!(harness.answer(client), answer);
        (1..=3).for_each(|peer| harness.make_scripted(peer));
        harness.pass(secs(1));
    }
}

#[test]
fn a_put_does_not_wait_long_for_a_version_probe_that_a_busy_node_refuses() {
    let (mut harness, client, (_, mut conn, mut rpc)) = with_one_open_probe();
    for (tenths, answer) in [(15, None), (15, success(1, b""))] {
        for _ in 0..tenths {
            harness.reply(conn, rpc, Reply::Error(ErrorCode::TOO_MANY));
            harness.pass(millis(100));
            if let Some((_, again, number)) = probes(&mut harness).pop() {
                (conn, rpc) = (again, number);
            }
        }
        assert_eq!(harness.answer(client), answer);
    }
}

#[test]
fn a_put_does_not_wait_for_a_refused_version_probe() {
    let (mut harness, client, (_, conn, rpc)) = with_one_open_probe();
    harness.reply(conn, rpc, Reply::Error(ErrorCode::LEAVING));
    assert_eq!(harness.answer(client), success(1, b""));
}

/// Section 3: a PUT overtakes a version of a faster clock once, so that a liar with ever larger versions
/// cannot keep it from its end. It overtakes none of a PUT that began later: the age of the record shows that.
#[test]
fn a_probed_version_ahead_of_the_local_clock_is_overtaken_once_if_its_put_began_before() {
    for (age, is_earlier) in [(10, true), (9, false)] {
        let mut harness = with_scripted_peers();
        let client = harness.put(put_to_three());
        look_up(&mut harness);
        harness.pass(millis(10));
        let first = harness.copies();
        let [(ahead, conn, rpc), ..] = probes(&mut harness)[..] else { panic!("there are version probes") };
        harness.reply(conn, rpc, synced(&[entry(key(1), Life::Alive, version_at(300_000))]));
        let fast = RecordBlock { version: version_at(300_000), age: Age(age), ..head(block(1, b"fast")) };
        harness.answer_find_value(|peer, _| Some(if peer == ahead { value_of(fast) } else { nodes(&[]) }));
        for (conn, rpc, copy) in &first {
            harness.reply(*conn, *rpc, stored(copy));
        }
        assert_eq!(harness.answer(client), None, "replies to the first spreading do not count");
        let version = if is_earlier { Version::from_bits(fast.version.bits() + 1) } else { first[0].2.version };
        let mut copies = vec![(1, version), (3, version), (2, version)];
        copies.extend(is_earlier.then_some((ahead, version)));
        assert_eq!(store_copies(&mut harness), copies);
        assert_eq!((harness.answer(client), look_up(&mut harness)), (success(1, b""), vec![]));
        harness.pass(secs(30));
        assert_eq!(harness.copies(), []);
    }
}

/// The request to `silent` among those of the lookup of a PUT; the others find nothing.
fn look_up_without(harness: &mut Harness, silent: u8) -> (ConnId, RpcId) {
    let mut of_silent = None;
    while of_silent.is_none() {
        let asked = harness.all_requests(|request| matches!(request, Request::FindValue { .. }).then_some(()));
        assert!(!asked.is_empty(), "it is not asked");
        for (conn, rpc, ()) in asked {
            if harness.peer_at(conn) == silent {
                of_silent = Some((conn, rpc));
            } else {
                harness.reply(conn, rpc, nodes(&[]));
            }
        }
    }
    harness.pass(millis(200));
    look_up(harness);
    of_silent.expect("it was found")
}

/// No probe finds an older record.
fn answer_probes(harness: &mut Harness) {
    for (_, conn, rpc) in probes(harness) {
        harness.reply(conn, rpc, synced(&[]));
    }
}

/// A node that is slow may store an older record, and return it alone.
#[test]
fn a_put_waits_for_a_close_node_that_answers_its_lookup_late() {
    let older = RecordBlock { content: Content::Head, ..block(1, b"older") };
    for stores_older in [false, true] {
        let mut harness = with_scripted_peers();
        let client = harness.put(put_to_three());
        let (conn, rpc) = look_up_without(&mut harness, 3);
        answer_probes(&mut harness);
        let copies = harness.copies();
        let slow = copies.iter().find(|copy| harness.peer_at(copy.0) == 3).expect("it is near");
        for (conn, rpc, copy) in copies.iter().filter(|copy| copy.0 != slow.0) {
            harness.reply(*conn, *rpc, stored(copy));
        }
        harness.pass(millis(200));
        store_copies(&mut harness);
        assert_eq!(harness.answer(client), None, "three nodes store it, and another may store an older record");
        harness.reply(conn, rpc, if stores_older { value_of(older) } else { nodes(&[]) });
        assert_eq!(harness.answer(client).is_some(), !stores_older);
        harness.reply(slow.0, slow.1, stored(&slow.2));
        assert_eq!(harness.answer(client).is_some(), stores_older);
    }
}

/// It was stopped for some seconds, and its connections have ended.
#[test]
fn a_node_that_a_put_went_on_without_is_asked_what_it_stores_when_it_is_back() {
    for (is_back, version, gets_copy) in [(true, 0, true), (true, 1 << 40, false), (false, 0, false)] {
        let mut harness = with_scripted_peers();
        let client = harness.put(put_to_three());
        look_up(&mut harness);
        let newest = store_copies(&mut harness)[0].1;
        let asked = probes(&mut harness);
        let (slow, conn, _) = all_but_one(&mut harness, &asked);
        harness.close(conn);
        let dial = harness.dial_of(slow);
        harness.pass(secs(2));
        assert_eq!(harness.answer(client), success(1, b""));
        harness.fail(dial, DialError::Unreachable);
        harness.pass(secs(1));
        assert_eq!(probes(&mut harness), []);
        if is_back {
            let conn = harness.accept(slow);
            harness.send(conn, &hello());
            harness.come_back(conn);
            harness.pass(millis(0));
        }
        for (peer, conn, rpc) in probes(&mut harness) {
            assert_eq!(peer, slow);
            harness.reply(conn, rpc, synced(&[entry(key(1), Life::Alive, version_at(version))]));
        }
        harness.answer_find_value(|peer, want| {
            let stored = RecordBlock { version: newest, ..block(1, b"value") };
            Some(if peer <= 3 { given(stored, want) } else { nodes(&[]) })
        });
        let copies = harness.copies_by_peer();
        assert_eq!(copies.iter().any(|(peer, _)| *peer == slow), gets_copy, "{is_back} {version} {copies:?}");
    }
}

/// The peers 1 to 4, of which 4 is unresponsive since the last PING, and the record of `put`, which the others have
/// confirmed.
fn put_without_an_unresponsive_contact(put: Put<'_>) -> (Harness, RecordBlock<'static>) {
    let mut harness = Harness::with_contacts(Params { replication_min: 1, ..Params::default() }, 1..=4);
    harness.make_scripted(4);
    harness.get(key(9));
    harness.pass(secs(2)); // the lookup of the GET
    harness.pass(secs(2)); // a PING
    let dial = harness.dial_of(4);
    harness.fail(dial, DialError::Unreachable);
    harness.forget_actions();
    let client = harness.put(put);
    let copies = harness.copies();
    for (conn, rpc, copy) in &copies {
        assert!(harness.peer_at(*conn) != 4);
        harness.reply(*conn, *rpc, stored(copy));
    }
    assert_eq!(harness.answer(client), success(1, b""));
    (harness, copies[0].2)
}

/// The peer 4 is back: the connections on which it is asked which version of the key 1 it stores.
fn probes_when_back(harness: &mut Harness) -> Vec<Probe> {
    let conn = harness.accept(4);
    harness.send(conn, &hello());
    harness.come_back(conn);
    harness.pass(millis(0));
    probes(harness)
}

/// A PUT asks no contact that is unresponsive.
#[test]
fn a_contact_that_was_unresponsive_during_a_put_is_asked_what_it_stores_when_it_is_back() {
    let (mut harness, _) = put_without_an_unresponsive_contact(put_to_three());
    let asked = probes_when_back(&mut harness);
    assert_eq!(asked.iter().map(|(peer, ..)| *peer).collect::<Vec<_>>(), [4]);
}

/// The node is pinged each second, and cannot be reached.
fn fail_pings(harness: &mut Harness, peer: u8) {
    for _ in 0..5 {
        harness.pass(secs(1));
        let dial = harness.dial_of(peer);
        harness.fail(dial, DialError::Unreachable);
    }
}

#[test]
fn a_contact_that_was_unresponsive_during_a_put_is_pinged_until_it_answers() {
    let (mut harness, _) = put_without_an_unresponsive_contact(put_to_three());
    fail_pings(&mut harness, 4);
}

/// It is a contact of others, which have named it.
#[test]
fn a_node_that_a_put_went_on_without_is_asked_although_it_is_in_no_table() {
    let mut harness = with_scripted_peers();
    harness.put(put_to_three());
    for (conn, rpc, ()) in harness.all_requests(|request| matches!(request, Request::FindValue { .. }).then_some(())) {
        harness.reply(conn, rpc, nodes(&[contact(9)]));
    }
    look_up(&mut harness);
    let dial = harness.dial_of(9);
    harness.pass(secs(2));
    harness.fail(dial, DialError::Unreachable);
    harness.forget_actions();
    fail_pings(&mut harness, 9);
}

/// A hostile peer names nodes that do not exist.
#[test]
fn a_put_makes_this_node_dial_16_nodes_that_are_no_contacts_later_at_most() {
    let mut harness = with_scripted_peers();
    for nth in 1..=3 {
        harness.put(confirmed(nth, b"value"));
        let named: Vec<Contact> = (100..120).map(|peer| contact(peer + 20 * nth)).collect();
        for (conn, rpc, ()) in harness.all_requests(|asked| matches!(asked, Request::FindValue { .. }).then_some(())) {
            harness.reply(conn, rpc, nodes(&named));
        }
    }
    (1..=8).for_each(|peer| harness.make_automatic(peer));
    let mut last = BTreeSet::new();
    for _ in 0..20 {
        harness.pass(secs(1));
        last.clear();
        for (dial, to, _) in harness.dials() {
            last.insert(format!("{to:?}"));
            harness.fail(dial, DialError::Unreachable);
        }
    }
    assert_eq!(last.len(), 16, "{last:?}");
}

/// The copy may have been lost. But a node that stores none on purpose is not asked for ever.
#[test]
fn a_node_that_says_that_it_stores_an_older_record_is_asked_again_up_to_three_times() {
    let (mut harness, _) = put_without_an_unresponsive_contact(put_to_three());
    let mut asked = probes_when_back(&mut harness);
    let mut count = 0;
    for _ in 0..10 {
        for (_, conn, rpc) in std::mem::take(&mut asked) {
            count += 1;
            harness.reply(conn, rpc, synced(&[entry(key(1), Life::Alive, version_at(0))]));
        }
        look_up(&mut harness);
        harness.pass(secs(1));
        asked = probes(&mut harness);
    }
    assert_eq!(count, 4);
}

/// What other nodes say of it does not count: any could say so of any record.
#[test]
fn a_node_that_a_put_went_on_without_is_told_that_the_record_is_over() {
    for (ttl, is_over) in [(3, true), (60, false)] {
        let (mut harness, written) = put_without_an_unresponsive_contact(Put { ttl, ..put_to_three() });
        harness.pass(secs(3));
        harness.forget_actions();
        let [(_, conn, rpc)] = probes_when_back(&mut harness)[..] else { panic!("one key") };
        harness.reply(conn, rpc, synced(&[entry(key(1), Life::Alive, version_at(0))]));
        let over = RecordBlock { ttl: Ttl::from_secs(1).expect("not zero"), age: Age(1_000), ..written };
        let over = RecordBlock { replication: 1, crc: 0, content: Content::Tombstone, ..over };
        (1..=3).for_each(|peer| harness.make_scripted(peer));
        harness.answer_find_value(|peer, _| Some(if peer == 4 { nodes(&[]) } else { value_of(over) }));
        harness.pass(millis(0));
        let told = harness.offers().into_iter().filter(|(to, ..)| *to == conn);
        let told: Vec<Entry> = told.flat_map(|(.., entries)| entries).collect();
        let expected = [entry(key(1), Life::Over, written.version)];
        assert_eq!(told, if is_over { &expected[..] } else { &[] }, "{ttl}");
    }
}

/// The node that runs the PUT may be far from the key, and not know them.
#[test]
fn a_replica_of_a_record_with_fewer_replicas_asks_former_ones_that_were_unresponsive() {
    for (replication, asks) in [(3, true), (8, false)] {
        let mut harness = Harness::with_contacts(Params { replication_min: 1, ..Params::default() }, 1..=4);
        let teller = harness.accept_client(200);
        let older = RecordBlock { replication: 8, ..block(129, b"older") };
        assert_eq!(harness.ask(teller, Request::Store(older)), stored(&older));
        harness.make_scripted(4);
        harness.get(key(9));
        harness.pass(secs(4));
        let newer = RecordBlock { replication, version: version_at(1_000), ..block(129, b"newer") };
        assert_eq!(harness.ask(teller, Request::Store(newer)), stored(&newer));
        let conn = harness.accept(4);
        harness.send(conn, &hello());
        harness.come_back(conn);
        harness.pass(millis(0));
        let only = |request: &Request<'_>| (*request == Request::Sync { from: key(129), to: key(129) }).then_some(());
        assert_eq!(!harness.all_requests(only).is_empty(), asks, "{replication}");
    }
}

/// What clients have seen of the key is forgotten by then.
#[test]
fn a_node_that_a_put_went_on_without_gets_the_record_although_many_others_were_read_since() {
    let (mut harness, newest) = put_without_an_unresponsive_contact(put_to_three());
    for n in 0..16_384_u32 {
        let mut other = [9; 32];
        other[..4].copy_from_slice(&n.to_be_bytes());
        let other = Key::new(other);
        let client = harness.get(other);
        harness.answer_find_value(|_, want| Some(given(RecordBlock { key: other, ..block(9, b"other") }, want)));
        assert!(matches!(harness.answer(client), Some(ApiReply::Success { .. })));
    }
    (1..=3).for_each(|peer| harness.make_scripted(peer));
    for (_, conn, rpc) in probes_when_back(&mut harness) {
        harness.reply(conn, rpc, synced(&[entry(key(1), Life::Alive, version_at(0))]));
    }
    harness.answer_find_value(|_, want| Some(given(newest, want)));
    let copies = harness.copies_by_peer();
    assert!(copies.iter().any(|(peer, _)| *peer == 4), "{copies:?}");
}

#[test]
fn a_put_does_not_wait_for_a_close_node_that_is_silent_for_rpc_timeout() {
    let mut harness = with_scripted_peers();
    let client = harness.put(put_to_three());
    look_up_without(&mut harness, 3);
    answer_probes(&mut harness);
    let not_slow = |harness: &mut Harness| {
        for (conn, rpc, copy) in harness.copies() {
            if harness.peer_at(conn) != 3 {
                harness.reply(conn, rpc, stored(&copy));
            }
        }
    };
    not_slow(&mut harness);
    harness.pass(millis(200));
    not_slow(&mut harness);
    harness.pass(millis(1_599));
    assert_eq!(harness.answer(client), None);
    harness.pass(millis(1));
    assert_eq!(harness.answer(client), success(1, b""));
}

#[test]
fn a_slow_stale_replica_is_awaited_though_others_store_the_record() {
    let mut harness = with_scripted_peers();
    let client = harness.put(put_to_three());
    let older = RecordBlock { content: Content::Head, ..block(1, b"older") };
    harness.answer_find_value(|peer, _| Some(if peer == 3 { value_of(older) } else { nodes(&[]) }));
    answer_probes(&mut harness);
    let copies = harness.copies();
    let slow = copies.iter().find(|copy| harness.peer_at(copy.0) == 3).expect("it is near");
    for (conn, rpc, copy) in copies.iter().filter(|copy| copy.0 != slow.0) {
        harness.reply(*conn, *rpc, stored(copy));
    }
    harness.pass(millis(200));
    assert_eq!(store_copies(&mut harness).len(), 1, "another node gets a copy");
    assert_eq!(harness.answer(client), None, "three nodes store it, and another an older record");
    harness.reply(slow.0, slow.1, stored(&slow.2));
    assert_eq!(harness.answer(client), success(1, b""));
}

#[test]
fn a_node_that_answers_the_lookup_of_a_put_after_its_end_gets_the_record() {
    let mut harness = with_scripted_peers();
    let client = harness.put(put_to_three());
    let (slow, rpc) = look_up_without(&mut harness, 3);
    let mut version = None;
    for _ in 0..4 {
        answer_probes(&mut harness);
        for (conn, rpc, copy) in harness.copies() {
            if harness.peer_at(conn) != 3 {
                version = Some(copy.version);
                harness.reply(conn, rpc, stored(&copy));
            }
        }
        harness.ask(slow, Request::Ping); // its connection lives
        harness.pass(millis(600));
    }
    assert_eq!(harness.answer(client), success(1, b""));
    let older = RecordBlock { content: Content::Head, ..block(1, b"older") };
    harness.forget_actions();
    harness.reply(slow, rpc, value_of(older));
    let new = RecordBlock { version: version.expect("copies"), ..block(1, b"value") };
    harness.answer_find_value(|peer, want| Some(if peer < 3 { given(new, want) } else { nodes(&[]) }));
    let copies = harness.copies_by_peer();
    assert!(copies.iter().any(|(peer, copy)| *peer == 3 && copy.value() == b"value"), "{copies:?}");
}
