//! PUTs of one key at one node take turns, and what a PUT does that meets a larger record.

use std::collections::{BTreeMap, BTreeSet};

use dht::node::action::{ClientId, Taken};
use dht::node::params::{Durability, Params};
use dht::node::persisted::Saved;
use dht::record::{Age, Life, Rank, Version};
use dht::wire::api::{ApiReply, ApiRequest, Confirm, Put};
use dht::wire::peer::{Content, ErrorCode, RecordBlock, Reply, Request, StoreOutcome};

use crate::durability::say;
use crate::harness::{
    Disk, Harness, block, confirmed, failure, given, hashed, key, larger, millis, nodes, quiet, secs, success, synced,
    value_of, version_at,
};
use crate::join::join;
use crate::mini_network::MiniNetwork;
use crate::put::{Copy, store_all};
use crate::put_stale_replicas::probes;
use crate::waiting::nth_key;

const MEMBERS: [u8; 5] = [5, 55, 105, 155, 205];

/// A node with eight contacts. Three of them shall hold the key 1.
fn harness() -> Harness {
    Harness::with_contacts(Params { replication_min: 1, ..Params::default() }, 1..=8)
}

/// A confirmed PUT of the key 1.
fn put(value: &[u8]) -> Put<'_> {
    Put { replication: 3, ..confirmed(1, value) }
}

/// The copies that were sent since the last call; all of them are of `value`.
fn copies_of(harness: &mut Harness, value: &[u8]) -> Vec<Copy> {
    let copies = harness.copies();
    assert!(!copies.is_empty());
    assert!(copies.iter().all(|(_, _, copy)| copy.value() == value), "{copies:?}");
    copies
}

/// Confirmed PUTs of the key `n`.
fn of_key(n: u8, value: &'static [u8], replication: u8) -> ApiRequest<'static> {
    ApiRequest::Put(Put { replication, ..confirmed(n, value) })
}

/// What each node returns for the key `n`.
fn read_everywhere(network: &mut MiniNetwork, n: u8) -> Vec<Option<ApiReply<'static>>> {
    MEMBERS.map(|member| network.request(member, ApiRequest::Get { key: key(n) })).into()
}

/// The earlier PUT asks for more replicas than the later one. None of its copies remains at a node where the later one
/// does not replace it.
#[test]
fn of_two_puts_at_once_the_later_one_is_read_everywhere() {
    let mut network = MiniNetwork::joined(MEMBERS, &Params::default());
    for n in 0..40 {
        let at = MEMBERS[usize::from(n) % MEMBERS.len()];
        let clients = network.ask_at_once(&[(at, of_key(n, b"earlier", 5)), (at, of_key(n, b"later", 3))]);
        let answers: Vec<_> = clients.into_iter().map(|client| network.answer(client)).collect();
        assert_eq!(answers, [success(n, b""), success(n, b"")], "key {n}");
        assert_eq!(read_everywhere(&mut network, n), vec![success(n, b"later"); 5], "key {n}");
    }
}

/// The same at two nodes. The one that meets the larger record sends it to the nodes that have taken its own.
#[test]
fn of_two_puts_at_two_nodes_the_larger_one_is_read_everywhere() {
    let mut network = MiniNetwork::joined(MEMBERS, &Params::default());
    for n in 0..40 {
        let at = |by: usize| MEMBERS[(usize::from(n) + by) % MEMBERS.len()];
        let by = 1 + usize::from(n) / MEMBERS.len() % 4;
        let clients = network.ask_at_once(&[(at(0), of_key(n, b"of five", 5)), (at(by), of_key(n, b"of three", 3))]);
        assert!(clients.into_iter().any(|client| network.answer(client) == success(n, b"")), "key {n}");
        network.pass(secs(1));
        let read = read_everywhere(&mut network, n);
        assert!(read[0].is_some() && read.iter().all(|answer| *answer == read[0]), "key {n}: {read:?}");
    }
}

#[test]
fn the_last_of_many_puts_stands_for_those_before_it() {
    let mut harness = harness();
    let clients = [b"1", b"2", b"3", b"4"].map(|value| harness.put(put(value)));
    let first = copies_of(&mut harness, b"1");
    store_all(&mut harness, &first);
    assert_eq!(clients.map(|client| harness.answer(client)), [success(1, b""), None, None, None]);
    let last = copies_of(&mut harness, b"4");
    store_all(&mut harness, &last[1..]);
    assert_eq!(clients.map(|client| harness.answer(client)), [None; 4]);
    store_all(&mut harness, &last[..1]);
    assert_eq!(clients[1..].iter().map(|client| harness.answer(*client)).collect::<Vec<_>>(), vec![success(1, b""); 3]);
    assert_eq!((harness.copies(), harness.node.counters().puts_held), (vec![], 4));
}

/// Another node has accepted a later PUT meanwhile, and may have confirmed it: the age of its record shows that. That of
/// a tombstone says nothing.
#[test]
fn a_put_that_has_waited_for_its_turn_is_raised_above_earlier_puts_only() {
    let other = RecordBlock { version: version_at(900), ..block(1, b"other") };
    let ended = RecordBlock { age: Age(1_000), content: Content::Tombstone, crc: 0, ..other };
    let cases = [
        (RecordBlock { age: Age(1_500), ..other }, true),
        (RecordBlock { age: Age(1_499), ..other }, false),
        (ended, true),
    ];
    for (other, is_earlier) in cases {
        let mut harness = harness();
        (1..=8).for_each(|peer| harness.make_scripted(peer));
        let first = harness.put(put(b"1"));
        harness.answer_find_value(|_, _| Some(nodes(&[])));
        let second = harness.put(put(b"2"));
        harness.pass(millis(1_500));
        let copies = copies_of(&mut harness, b"1");
        store_all(&mut harness, &copies);
        for (_, conn, rpc) in probes(&mut harness) {
            harness.reply(conn, rpc, synced(&[]));
        }
        assert_eq!((harness.answer(first), harness.answer(second)), (success(1, b""), None));
        harness.answer_find_value(|_, want| {
            Some(if other.value().is_empty() { value_of(other) } else { given(other, want) })
        });
        let copies = copies_of(&mut harness, b"2");
        assert!(copies.iter().all(|(_, _, copy)| (copy.version > other.version) == is_earlier), "{copies:?}");
        if !is_earlier {
            harness.reply(copies[0].0, copies[0].1, larger(1, other.version));
            store_all(&mut harness, &copies[1..]);
            assert_eq!(harness.answer(second), failure(1));
        }
    }
}

/// PUTs that come during the turn of another one make one more turn, not two.
#[test]
fn puts_that_come_during_the_second_turn_wait_for_a_third() {
    let mut harness = harness();
    let clients: Vec<_> = [b"1", b"2"].map(|value| harness.put(put(value))).into();
    let first = copies_of(&mut harness, b"1");
    store_all(&mut harness, &first);
    let second = copies_of(&mut harness, b"2");
    let late = [b"3", b"4"].map(|value| harness.put(put(value)));
    store_all(&mut harness, &second);
    assert_eq!(clients.into_iter().map(|client| harness.answer(client)).collect::<Vec<_>>(), vec![success(1, b""); 2]);
    let third = copies_of(&mut harness, b"4");
    store_all(&mut harness, &third);
    assert_eq!(late.map(|client| harness.answer(client)), [success(1, b""), success(1, b"")]);
}

/// Only PUTs with a client count towards the requests of a connection while they wait: the value of another one is not
/// needed any more.
#[test]
fn a_put_without_confirmation_ends_when_a_later_one_comes() {
    let mut harness = harness();
    for request in 0..1_000 {
        let put = ApiRequest::Put(Put { replication: 3, ..quiet(1, b"value") });
        assert_eq!(harness.try_request(ClientId { connection: 1, request }, put), Taken::InFlight);
    }
    for _ in 0..2 {
        let copies = copies_of(&mut harness, b"value");
        store_all(&mut harness, &copies);
    }
    assert_eq!((harness.copies(), harness.node.counters().puts_held), (vec![], 1_000));
}

#[test]
fn a_put_whose_attempt_fails_is_answered_with_the_later_one() {
    let mut harness = harness();
    let clients = [b"1", b"2"].map(|value| harness.put(put(value)));
    let unanswered = copies_of(&mut harness, b"1");
    let later = (0..9).find_map(|_| {
        harness.pass(secs(1));
        let copies = harness.copies();
        copies.iter().any(|(_, _, copy)| copy.value() == b"2").then_some(copies)
    });
    store_all(&mut harness, &later.expect("the turn of the later one"));
    assert_eq!(clients.map(|client| harness.answer(client)), [success(1, b""), success(1, b"")]);
    store_all(&mut harness, &unanswered);
    harness.pass(secs(60));
    assert_eq!(harness.copies(), []);
}

#[test]
fn each_put_of_a_key_fails_at_its_own_deadline() {
    let mut harness = harness();
    let mut clients = Vec::new();
    for value in [b"1", b"2", b"3"] {
        clients.push(harness.put(put(value)));
        harness.pass(secs(1));
    }
    harness.pass(secs(6));
    for client in clients {
        assert_eq!(harness.answer(client), None);
        harness.pass(secs(1));
        assert_eq!(harness.answer(client), failure(1));
    }
    harness.copies();
    harness.pass(secs(600));
    copies_of(&mut harness, b"3");
}

/// The first two clients wait. The last one does not, but its record is on disk before the second client is answered.
#[test]
fn a_put_that_stands_for_a_confirmed_one_is_on_disk_before_the_answer() {
    let params = Params { durability: Durability::Interval(secs(1)), replication_min: 1, ..Params::default() };
    let mut harness = Harness::with_contacts(params, [1]);
    harness.pass(secs(2)); // its first contacts are saved
    harness.disk = Disk::Waits;
    let clients = [b"1", b"2"].map(|value| harness.put(confirmed(1, value)));
    let copies = copies_of(&mut harness, b"1");
    store_all(&mut harness, &copies);
    harness.pass(secs(0));
    harness.put(quiet(1, b"3"));
    say(&mut harness, Saved::Written);
    assert_eq!(clients.map(|client| harness.answer(client)), [success(1, b""), None]);
    let copies = copies_of(&mut harness, b"3");
    store_all(&mut harness, &copies);
    assert_eq!(harness.answer(clients[1]), None);
    say(&mut harness, Saved::Written);
    assert_eq!(harness.answer(clients[1]), success(1, b""));
}

/// A founder that knows no other node stores an unconfirmed PUT at once, unless confirmed ones of the key wait.
#[test]
fn a_put_without_confirmation_stands_for_confirmed_ones_of_a_lone_founder() {
    let params = Params { durability: Durability::Interval(secs(1)), replication_min: 1, ..Params::default() };
    let mut harness = Harness::new(params);
    harness.pass(secs(2)); // its first contacts are saved
    harness.disk = Disk::Waits;
    let clients = [b"1", b"2"].map(|value| harness.put(confirmed(1, value)));
    harness.pass(secs(0));
    harness.put(quiet(1, b"3"));
    for _ in 0..3 {
        say(&mut harness, Saved::Written);
    }
    assert_eq!(clients.map(|client| harness.answer(client)), [success(1, b""), success(1, b"")]);
    let reader = harness.get(key(1));
    assert_eq!(harness.answer(reader), success(1, b"3"));
}

/// None of them replaces another, so none waits.
#[test]
fn puts_of_a_hashed_record_take_no_turns() {
    let mut harness = harness();
    let record = hashed(b"value");
    let put = Put { key: record.key, class: record.class, value: record.value(), ..put(b"") };
    let clients = [put, put].map(|put| harness.put(put));
    let copies = harness.copies();
    assert_eq!(copies.len(), 4, "two of each; this node stores the third copy");
    store_all(&mut harness, &copies);
    assert!(clients.iter().all(|client| harness.answer(*client).is_some()));
}

/// The latest of the PUTs that waited for the node to join stands for the others.
#[test]
fn puts_that_wait_for_the_node_to_join_make_one_turn() {
    let mut harness = Harness::newcomer();
    let clients = [b"1", b"2", b"3"].map(|value| harness.put(put(value)));
    harness.pass(secs(1));
    assert_eq!(harness.copies(), []);
    join(&mut harness);
    let copies = copies_of(&mut harness, b"3");
    store_all(&mut harness, &copies);
    assert_eq!(clients.map(|client| harness.answer(client)), [success(1, b""), success(1, b""), success(1, b"")]);
}

/// A peer stores a larger record than the one of a PUT. When the other copies have been stored, this node looks up the
/// larger record, and sends it to the peers that have taken a copy of the smaller one.
#[test]
fn peers_that_have_taken_a_superseded_copy_get_the_larger_record() {
    let mut harness = harness();
    let client = harness.put(put(b"smaller"));
    let copies = copies_of(&mut harness, b"smaller");
    let newer = RecordBlock { version: Version::from_bits(copies[0].2.version.bits() + 1), ..block(1, b"larger") };
    (1..=8).for_each(|peer| harness.make_scripted(peer));
    harness.reply(copies[0].0, copies[0].1, larger(1, newer.version));
    store_all(&mut harness, &copies[1..2]);
    assert_eq!(harness.answer(client), None);
    harness.reply(copies[2].0, copies[2].1, Reply::Error(ErrorCode::FULL));
    assert_eq!(harness.answer(client), failure(1));
    let nearest = harness.peer_at(copies[0].0);
    harness.answer_find_value(|peer, want| Some(if peer == nearest { given(newer, want) } else { nodes(&[]) }));
    let repairs = copies_of(&mut harness, b"larger");
    let behind = harness.peer_at(copies[1].0);
    assert!(repairs.iter().any(|(conn, ..)| harness.peer_at(*conn) == behind), "{repairs:?}");
    assert!(repairs.iter().all(|(conn, ..)| harness.peer_at(*conn) != nearest), "{repairs:?}");
    harness.pass(secs(60));
    assert_eq!(harness.copies(), []);
}

/// The same, if this node alone has stored the smaller record.
#[test]
fn a_node_with_a_superseded_record_looks_up_the_larger_one_for_itself() {
    let mut harness = harness();
    let client = harness.put(Put { key: key(128), ..put(b"smaller") });
    let copies = copies_of(&mut harness, b"smaller");
    let newer = RecordBlock { version: Version::from_bits(copies[0].2.version.bits() + 1), ..block(128, b"larger") };
    (1..=8).for_each(|peer| harness.make_scripted(peer));
    for (conn, rpc, _) in &copies {
        harness.reply(*conn, *rpc, larger(128, newer.version));
    }
    assert_eq!(harness.answer(client), failure(128));
    harness.answer_find_value(|_, want| Some(given(newer, want)));
    let held = harness.node.storage().find(harness.now, &key(128));
    assert_eq!(held.map(|held| &held.record.value[..]), Some(&b"larger"[..]));
}

/// The lookup finds only the smaller record. To send that to more nodes would let them agree on it.
#[test]
fn a_lookup_for_superseded_copies_spreads_no_smaller_record() {
    let mut harness = harness();
    let client = harness.put(put(b"smaller"));
    let copies = copies_of(&mut harness, b"smaller");
    (1..=8).for_each(|peer| harness.make_scripted(peer));
    harness.reply(copies[0].0, copies[0].1, larger(1, Version::from_bits(copies[0].2.version.bits() + 1)));
    store_all(&mut harness, &copies[1..]);
    assert_eq!(harness.answer(client), failure(1));
    let (stored_at, smaller) = (harness.peer_at(copies[1].0), copies[1].2);
    harness.answer_find_value(|peer, want| Some(if peer == stored_at { given(smaller, want) } else { nodes(&[]) }));
    harness.pass(secs(10));
    assert_eq!(harness.copies(), []);
}

/// No client waits for the lookup of a larger record, so it is not repeated, and few run at a time.
#[test]
fn lookups_for_superseded_copies_are_bounded() {
    let mut harness = harness();
    let keys: Vec<_> = (0..80).map(nth_key).collect();
    for key in &keys {
        harness.put(Put { key: *key, confirm: Confirm::No, ..put(b"smaller") });
    }
    let copies = copies_of(&mut harness, b"smaller");
    (1..=8).for_each(|peer| harness.make_scripted(peer));
    let first = copies[0].0;
    let (refused, taken): (Vec<_>, Vec<_>) = copies.into_iter().partition(|(conn, ..)| *conn == first);
    store_all(&mut harness, &taken);
    for (conn, rpc, copy) in refused {
        let held = Rank { class: copy.class, life: Life::Alive, version: Version::from_bits(copy.version.bits() + 1) };
        harness.reply(conn, rpc, Reply::Stored { key: copy.key, outcome: StoreOutcome::Larger, held });
    }
    let asked = |request: &Request<'_>| match request {
        Request::FindValue { key, .. } => Some(*key),
        _ => None,
    };
    let mut times_asked = BTreeMap::new();
    for _ in 0..60 {
        for (conn, _, key) in harness.all_requests(asked) {
            *times_asked.entry((key, conn)).or_insert(0) += 1;
        }
        harness.pass(secs(1));
    }
    let keys: BTreeSet<_> = times_asked.keys().map(|(key, _)| key).collect();
    assert_eq!(keys.len(), 64);
    assert!(times_asked.values().all(|times| *times == 1), "{times_asked:?}");
}
