//! GETs while replicas differ: which reply counts, when a GET ends, which replicas it repairs, and what
//! its node remembers (section 3).

use dht::id::Key;
use dht::node::action::{ClientId, DialError};
use dht::node::params::{Params, Reads};
use dht::record::envelope::hashed_key;
use dht::record::{Age, Class, Version, crc_of};
use dht::wire::api::{ApiReply, Put};
use dht::wire::peer::{Content, RecordBlock, Reply, Request, Want};

use crate::harness::{
    Harness, block, confirmed, failure, given, hashed, head, key, millis, nodes, secs, signed, stored, success,
    value_of, version_at,
};

/// A key far from this node, which is therefore out of scope for the records that the peers hold.
const N: u8 = 7;

/// A node with the quorum `quorum` and the scripted peers 1 to 8, all of which are nearer to the key 7.
fn with_eight_peers(quorum: u8) -> Harness {
    with_eight_peers_and(Params { read_quorum: quorum, ..Params::default() })
}

fn with_eight_peers_and(params: Params) -> Harness {
    let mut harness = Harness::with_contacts(params, 1..=8);
    (1..=8).for_each(|peer| harness.make_scripted(peer));
    harness
}

fn at(millis: u64, value: &'static [u8]) -> RecordBlock<'static> {
    RecordBlock { version: version_at(millis), ..block(N, value) }
}

#[expect(clippy::unnecessary_wraps, reason = "the others may be silent")]
fn nothing() -> Option<Reply<'static>> {
    Some(nodes(&[]))
}

#[expect(clippy::unnecessary_wraps, reason = "it is compared with an answer, which may be missing")]
fn shown(key: Key, value: &'static [u8]) -> Option<ApiReply<'static>> {
    Some(ApiReply::Success { key, value })
}

#[expect(clippy::unnecessary_wraps, reason = "it is compared with an answer, which may be missing")]
fn not_shown(key: Key) -> Option<ApiReply<'static>> {
    Some(ApiReply::Failure { key })
}

fn tombstone(millis: u64) -> RecordBlock<'static> {
    RecordBlock { content: Content::Tombstone, crc: 0, ..at(millis, b"over") }
}

fn wants(harness: &mut Harness) -> Vec<(dht::node::action::ConnId, dht::id::RpcId, Want)> {
    harness.all_requests(|request| match request {
        Request::FindValue { want, .. } => Some(*want),
        _ => None,
    })
}

/// The answer to `client` after the peers' replies `answers`, at the same instant.
fn answer(
    harness: &mut Harness,
    client: ClientId,
    answers: impl Fn(u8, Want) -> Option<Reply<'static>>,
) -> Option<ApiReply<'static>> {
    harness.answer_find_value(answers);
    harness.answer(client)
}

#[test]
fn one_node_is_asked_for_the_value_and_the_others_for_the_head() {
    let mut harness = with_eight_peers(2);
    harness.get(key(N));
    let asked: Vec<Want> = wants(&mut harness).into_iter().map(|(_, _, want)| want).collect();
    let head = Want { contacts: false, head_only: true, ..Want::default() };
    assert_eq!(asked, [Want { contacts: false, head_only: false, ..Want::default() }, head, head]);
}

#[test]
fn a_get_ends_once_a_quorum_of_replicas_agrees() {
    for quorum in 1..=3 {
        let mut harness = with_eight_peers(quorum);
        let client = harness.get(key(N));
        for (nth, (conn, rpc, want)) in wants(&mut harness).into_iter().enumerate() {
            let early = harness.answer(client);
            assert_eq!(early.is_some(), nth == usize::from(quorum), "{nth} have answered {quorum}");
            harness.reply(conn, rpc, given(at(0, b"v"), want));
            if early.is_some() {
                break;
            }
        }
    }
}

/// And not only at `request_timeout`: no time passes here.
#[test]
fn fewer_replicas_than_the_quorum_suffice_once_all_nearest_nodes_have_answered() {
    for replica in 1..=8 {
        let mut harness = with_eight_peers(2);
        let client = harness.get(key(N));
        let found = answer(&mut harness, client, |peer, want| match peer {
            peer if peer == replica => Some(given(at(0, b"v"), want)),
            _ => nothing(),
        });
        assert_eq!(found, success(N, b"v"), "{replica} holds it");
    }
}

#[test]
fn a_record_with_replication_1_needs_one_replica() {
    let mut harness = with_eight_peers_and(Params { replication_min: 1, ..Params::default() });
    let client = harness.get(key(N));
    let (conn, rpc, want) = wants(&mut harness)[0];
    harness.reply(conn, rpc, given(RecordBlock { replication: 1, ..at(0, b"v") }, want));
    assert_eq!(harness.answer(client), success(N, b"v"));
}

#[test]
fn the_local_record_counts_as_one_replica() {
    let mut harness = with_eight_peers(2);
    let caller = harness.accept_client(99);
    harness.ask(caller, Request::Store(at(0, b"v")));
    let client = harness.get(key(N));
    let asked = wants(&mut harness);
    assert!(asked.iter().all(|(_, _, want)| want.head_only), "the value is in hand");
    let (conn, rpc, want) = asked[0];
    harness.reply(conn, rpc, given(at(0, b"v"), want));
    assert_eq!(harness.answer(client), success(N, b"v"));
}

#[test]
fn the_largest_record_wins_unless_a_quorum_agrees_on_an_older_one_first() {
    for replica in 1..=8 {
        let mut harness = with_eight_peers(2);
        let client = harness.get(key(N));
        let found = answer(&mut harness, client, |peer, want| {
            Some(given(if peer == replica { at(9, b"new") } else { at(0, b"old") }, want))
        });
        let early = found == success(N, b"old");
        assert!(early || found == success(N, b"new"), "{found:?}");
        assert_eq!(early, ![6, 7].contains(&replica), "a quorum on the older record may answer first");
    }
}

#[test]
fn a_secure_get_finds_the_largest_record_at_any_replica() {
    for replica in 1..=8 {
        let mut harness = with_eight_peers_and(Params { reads: Reads::Secure, ..Params::default() });
        let client = harness.get(key(N));
        let found = answer(&mut harness, client, |peer, want| {
            assert!(want.contacts || !want.head_only, "it goes on past replicas");
            Some(given(if peer == replica { at(9, b"new") } else { at(0, b"old") }, want))
        });
        assert_eq!(found, success(N, b"new"), "{replica} has it");
    }
}

#[test]
fn a_secure_get_asks_peers_despite_a_local_record_in_scope() {
    let mut harness = Harness::with_contacts(Params { reads: Reads::Secure, ..Params::default() }, [1]);
    harness.make_scripted(1);
    let asker = harness.accept_client(99);
    harness.ask(asker, Request::Store(at(0, b"old")));
    let client = harness.get(key(N));
    assert_eq!(harness.answer(client), None);
    let found = answer(&mut harness, client, |_, want| Some(given(at(9, b"new"), want)));
    assert_eq!(found, success(N, b"new"));
}

#[test]
fn contacts_are_requested_once_one_replica_was_not_enough() {
    let mut harness = with_eight_peers(3);
    harness.get(key(N));
    let first = wants(&mut harness);
    assert!(first.iter().all(|(_, _, want)| !want.contacts));
    harness.reply(first[0].0, first[0].1, given(at(0, b"v"), first[0].2));
    assert!(wants(&mut harness).iter().all(|(_, _, want)| want.contacts));
}

/// The node that was asked for the value is gone or late.
#[test]
fn the_value_is_fetched_from_another_replica_if_the_first_is_gone_or_late() {
    for closes in [true, false] {
        let mut harness = with_eight_peers(2);
        let client = harness.get(key(N));
        let asked = wants(&mut harness);
        for (conn, rpc, want) in &asked[1..] {
            harness.reply(*conn, *rpc, given(at(0, b"v"), *want));
        }
        assert_eq!(harness.answer(client), None, "two agree, and none of them has given the value");
        if closes {
            harness.close(asked[0].0);
            for (dial, ..) in harness.dials() {
                harness.fail(dial, dht::node::action::DialError::Unreachable);
            }
        } else {
            harness.pass(secs(2));
        }
        let found = answer(&mut harness, client, |_, want| Some(given(at(0, b"v"), want)));
        assert_eq!(found, success(N, b"v"), "closes: {closes}");
    }
}

/// A head alone proves nothing.
#[test]
fn a_claim_of_a_larger_record_without_its_value_is_ignored() {
    let claim = head(RecordBlock { class: Class::Signed, ..at(9, b"no envelope") });
    let excuses: [Option<Reply<'static>>; 4] = [
        Some(nodes(&[])),
        Some(value_of(RecordBlock { class: Class::Signed, ..at(9, b"no envelope") })),
        Some(value_of(at(0, b"smaller than claimed"))),
        Some(Reply::Error(dht::wire::peer::ErrorCode::NOT_FOUND)),
    ];
    for excuse in excuses {
        let mut harness = with_eight_peers(2);
        let client = harness.get(key(N));
        let found = answer(&mut harness, client, |peer, want| match (peer, want.head_only) {
            (6, true) => Some(value_of(claim)),
            (6, false) => excuse,
            (_, _) => Some(given(at(0, b"truth"), want)),
        });
        assert_eq!(found, success(N, b"truth"), "{excuse:?}");
        assert!(harness.copies_by_peer().iter().all(|(peer, _)| *peer != 6), "nor is it repaired");
    }
}

#[test]
fn peers_that_claim_a_record_and_fall_silent_cost_a_get_one_timeout_in_total() {
    let mut harness = with_eight_peers(2);
    let client = harness.get(key(N));
    let lie = |peer: u8| RecordBlock { class: Class::Signed, ..at(u64::from(peer), b"lie") };
    for step in 0..=400 {
        harness.answer_find_value(|peer, want| match (peer, want.head_only) {
            (1 | 2, _) => Some(given(at(0, b"truth"), want)),
            (_, true) => Some(value_of(head(lie(peer)))),
            (_, false) => None,
        });
        if let Some(answer) = harness.answer(client) {
            assert_eq!(Some(answer), success(N, b"truth"));
            assert!((200..=400).contains(&step), "the lying peers had one timeout");
            return;
        }
        harness.pass(millis(10));
    }
    panic!("it still waits for the lying peers");
}

#[test]
fn a_version_from_the_far_future_is_ignored_in_a_head_and_in_a_value() {
    for far in [version_at(600_001), Version::from_bits(u64::MAX)] {
        let mut harness = with_eight_peers(2);
        let client = harness.get(key(N));
        let found = answer(&mut harness, client, |peer, want| match peer {
            5 | 6 => Some(given(RecordBlock { version: far, ..at(0, b"far") }, want)),
            _ => Some(given(at(0, b"now"), want)),
        });
        assert_eq!(found, success(N, b"now"));
    }
}

#[test]
fn stale_replicas_are_repaired_once_with_the_remaining_lifetime() {
    let mut harness = with_eight_peers_and(Params { reads: Reads::Secure, ..Params::default() });
    let client = harness.get(key(N));
    let found = answer(&mut harness, client, |peer, want| match peer {
        1..=3 => Some(given(at(0, b"old"), want)),
        4 => Some(given(RecordBlock { age: Age(5_000), ..at(9, b"new") }, want)),
        5 | 8 => nothing(),
        _ => Some(given(at(9, b"new"), want)),
    });
    assert_eq!(found, success(N, b"new"));
    let copies = harness.copies();
    let behind: Vec<u8> = copies.iter().map(|(conn, ..)| harness.peer_at(*conn)).collect();
    assert_eq!(behind, [5, 3, 2, 1], "8 is none of the three nearest, the others agree");
    for (conn, rpc, copy) in copies {
        assert_eq!((copy.value(), copy.version), (&b"new"[..], version_at(9)));
        assert!(copy.age <= Age(5_000));
        harness.reply(conn, rpc, stored(&copy));
    }
    harness.pass(secs(5));
    assert_eq!(harness.copies(), [], "once");
}

#[test]
fn a_stale_local_copy_is_repaired_too() {
    let mut harness = with_eight_peers(2);
    let asker = harness.accept_client(99);
    harness.ask(asker, Request::Store(at(0, b"old")));
    let client = harness.get(key(N));
    assert_eq!(answer(&mut harness, client, |_, want| Some(given(at(9, b"new"), want))), success(N, b"new"));
    let held = harness.node.storage().find(harness.now, &key(N)).expect("it is held");
    assert_eq!(&held.record.value[..], b"new");
}

#[test]
fn a_node_that_is_no_replica_stores_nothing_that_it_relays() {
    let mut harness = with_eight_peers(2);
    let client = harness.get(key(N));
    assert_eq!(answer(&mut harness, client, |_, want| Some(given(at(0, b"v"), want))), success(N, b"v"));
    assert!(harness.node.storage().is_empty());
    assert_eq!(harness.copies(), []);
}

/// Section 1, rule 2: a node answers FAILURE only after a lookup has ended.
#[test]
fn tombstones_that_agree_are_a_failure_once_the_lookup_has_ended() {
    let mut harness = with_eight_peers(2);
    let client = harness.get(key(N));
    let asked = wants(&mut harness);
    for (conn, rpc, _) in asked {
        harness.reply(conn, rpc, value_of(tombstone(5)));
        assert_eq!(harness.answer(client), None);
    }
    assert_eq!(answer(&mut harness, client, |_, _| nothing()), failure(N));
    assert_eq!(harness.copies(), [], "nothing is handed on");
}

#[test]
fn a_plain_tombstone_hides_plain_records_up_to_its_version_and_no_signed_ones() {
    for (millis, found) in [(4, failure(N)), (5, failure(N)), (6, success(N, b"v"))] {
        let mut harness = with_eight_peers(2);
        let client = harness.get(key(N));
        let seen = answer(&mut harness, client, |peer, want| match peer {
            6 => Some(value_of(tombstone(5))),
            _ => Some(given(at(millis, b"v"), want)),
        });
        assert_eq!(seen, found, "version of {millis}");
    }
    let mine = signed(1, 0, b"v");
    let mut harness = with_eight_peers(2);
    let client = harness.get(mine.key);
    let seen = answer(&mut harness, client, |peer, want| match peer {
        1..=4 => Some(value_of(RecordBlock { key: mine.key, ..tombstone(5) })),
        _ => Some(given(mine, want)),
    });
    assert_eq!(seen, shown(mine.key, mine.value()));
}

#[test]
fn a_signed_record_wins_over_plain_ones_of_any_version_and_replaces_them() {
    let mine = signed(1, 0, b"mine");
    let plain = RecordBlock { key: mine.key, ..at(9, b"plain") };
    let mut harness = with_eight_peers_and(Params { reads: Reads::Secure, ..Params::default() });
    let client = harness.get(mine.key);
    let found = answer(&mut harness, client, |peer, want| Some(given(if peer == 3 { mine } else { plain }, want)));
    assert_eq!(found, shown(mine.key, mine.value()), "the whole envelope: the client can verify it");
    let handed = harness.copies_by_peer();
    assert_eq!(handed.len(), 7);
    assert!(handed.iter().all(|(_, copy)| copy.value() == mine.value() && copy.class == Class::Signed));
}

#[test]
fn a_replay_of_a_lower_sequence_loses() {
    let (old, new) = (signed(1, 0, b"old"), signed(1, 9, b"new"));
    let mut harness = with_eight_peers_and(Params { reads: Reads::Secure, ..Params::default() });
    let client = harness.get(old.key);
    let found = answer(&mut harness, client, |peer, want| Some(given(if peer == 3 { new } else { old }, want)));
    assert_eq!(found, shown(new.key, new.value()));
}

/// One replay does not end a GET, whatever replication it claims.
#[test]
fn one_signed_reply_alone_does_not_end_a_get() {
    let (old, new) = (RecordBlock { replication: 1, ..signed(1, 0, b"old") }, signed(1, 9, b"new"));
    let mut harness = with_eight_peers(2);
    let client = harness.get(old.key);
    let asked = wants(&mut harness);
    harness.reply(asked[0].0, asked[0].1, given(old, asked[0].2));
    assert_eq!(harness.answer(client), None);
    for (conn, rpc, want) in &asked[1..] {
        harness.reply(*conn, *rpc, given(new, *want));
    }
    assert_eq!(answer(&mut harness, client, |_, want| Some(given(new, want))), shown(new.key, new.value()));
}

#[test]
fn a_signed_record_with_a_changed_ttl_is_ignored() {
    let mine = signed(1, 9, b"mine");
    let longer = RecordBlock { ttl: dht::record::Ttl::from_secs(600).expect("not zero"), ..mine };
    let mut harness = with_eight_peers(1);
    let client = harness.get(mine.key);
    assert_eq!(answer(&mut harness, client, |_, want| Some(given(longer, want))), not_shown(mine.key));
    assert_eq!(harness.copies(), [], "never of what could not be verified");
}

/// Section 4: an empty payload deletes the value.
#[test]
fn a_value_deleted_by_its_owner_is_a_failure_and_the_deletion_is_copied() {
    let (old, gone) = (signed(1, 0, b"old"), signed(1, 9, b""));
    let mut harness = with_eight_peers_and(Params { reads: Reads::Secure, ..Params::default() });
    let client = harness.get(old.key);
    let found = answer(&mut harness, client, |peer, want| Some(given(if peer == 3 { gone } else { old }, want)));
    assert_eq!(found, not_shown(old.key));
    assert_eq!(harness.copies_by_peer().len(), 7);
    harness.forget_actions();

    let mut here = Harness::founder();
    let asker = here.accept_client(99);
    here.ask(asker, Request::Store(gone));
    let client = here.get(gone.key);
    assert_eq!(here.answer(client), not_shown(gone.key), "and at once, where it is held");
}

#[test]
fn a_hashed_value_ends_a_get_at_once_with_any_quorum() {
    let record = hashed(b"it names itself");
    let mut harness = with_eight_peers(3);
    let client = harness.get(record.key);
    let (conn, rpc, want) = wants(&mut harness)[0];
    harness.reply(conn, rpc, given(record, want));
    assert_eq!(harness.answer(client), shown(record.key, b"it names itself"));
}

/// The bytes whose digest is an owner's key would otherwise occupy that key without a signature.
#[test]
fn a_hashed_record_at_the_key_of_an_owner_is_ignored() {
    let owner = signed(1, 0, b"mine");
    let trap: &'static [u8] = Vec::leak([b"dht-own-1", &owner.value()[..32], b"\x04salt"].concat());
    assert_eq!(hashed_key(trap), owner.key);
    let mut harness = with_eight_peers(1);
    let client = harness.get(owner.key);
    assert_eq!(answer(&mut harness, client, |_, want| Some(given(hashed(trap), want))), not_shown(owner.key));
}

/// Section 3: one node never serves an older value after a newer one.
#[test]
fn after_a_newer_value_two_replicas_that_agree_on_an_older_one_do_not_end_a_get() {
    let mut harness = with_eight_peers(2);
    let client = harness.get(key(N));
    assert_eq!(answer(&mut harness, client, |_, want| Some(given(at(9, b"new"), want))), success(N, b"new"));
    let client = harness.get(key(N));
    let found = answer(&mut harness, client, |peer, want| {
        Some(given(if peer == 8 { at(9, b"new") } else { at(0, b"old") }, want))
    });
    assert_eq!(found, success(N, b"new"), "8 is the farthest of all");
}

#[test]
fn after_a_newer_value_an_older_one_is_served_if_no_asked_node_has_the_newer() {
    let mut harness = with_eight_peers(2);
    let client = harness.get(key(N));
    assert_eq!(answer(&mut harness, client, |_, want| Some(given(at(9, b"new"), want))), success(N, b"new"));
    let client = harness.get(key(N));
    assert_eq!(answer(&mut harness, client, |_, want| Some(given(at(0, b"old"), want))), success(N, b"old"));
}

#[test]
fn an_older_copy_in_scope_is_not_served_after_a_newer_value_was_read() {
    let mut harness = Harness::with_contacts(Params::default(), [1, 2]);
    (1..=2).for_each(|peer| harness.make_scripted(peer));
    let writer = harness.put(confirmed(N, b"new"));
    harness.answer_find_value(|_, _| nothing());
    let copies = harness.copies();
    for (conn, rpc, copy) in &copies {
        harness.reply(*conn, *rpc, stored(copy));
    }
    assert_eq!(harness.answer(writer), success(N, b""));
    let client = harness.get(key(N));
    assert_eq!(harness.answer(client), success(N, b"new"), "held here, in scope");
}

#[test]
fn a_get_that_found_only_older_values_fails_at_its_deadline() {
    let mut harness = Harness::with_contacts(Params { alpha: 1, ..Params::default() }, 1..=20);
    (1..=20).for_each(|peer| harness.make_scripted(peer));
    let client = harness.get(key(N));
    assert_eq!(answer(&mut harness, client, |_, want| Some(given(at(9, b"new"), want))), success(N, b"new"));
    let client = harness.get(key(N));
    harness.answer_find_value(|peer, want| [7, 6].contains(&peer).then(|| given(at(0, b"old"), want)));
    harness.pass(millis(9_999));
    assert_eq!(harness.answer(client), None, "nodes that may hold the newer one are left to ask");
    harness.pass(millis(1));
    assert_eq!(harness.answer(client), failure(N));
}

#[test]
fn a_get_at_its_deadline_is_answered_with_the_value_found_so_far() {
    let mut harness = Harness::with_contacts(Params { alpha: 1, ..Params::default() }, 1..=20);
    (1..=20).for_each(|peer| harness.make_scripted(peer));
    let client = harness.get(key(N));
    let (conn, rpc, want) = wants(&mut harness)[0];
    harness.reply(conn, rpc, given(at(0, b"v"), want));
    harness.pass(millis(9_999));
    assert_eq!(harness.answer(client), None);
    harness.pass(millis(1));
    assert_eq!(harness.answer(client), success(N, b"v"));
}

/// The CRC of the value is part of what replicas must agree on.
#[test]
fn of_two_values_with_one_version_the_larger_is_served_from_any_replica() {
    let (small, large) = (at(0, b"a"), at(0, b"b"));
    assert_ne!(small.crc, crc_of(b"b"));
    for replica in 1..=8 {
        let mut harness = with_eight_peers_and(Params { reads: Reads::Secure, ..Params::default() });
        let client = harness.get(key(N));
        let found =
            answer(&mut harness, client, |peer, want| Some(given(if peer == replica { large } else { small }, want)));
        assert_eq!(found, success(N, b"b"));
    }
}

/// Section 1, rule 6, with `secure = yes`: the GET asks all nodes, and also compares the PUT in flight at
/// this node.
#[test]
fn a_secure_get_sees_a_put_in_flight_at_this_node() {
    let mut harness = with_eight_peers_and(Params { reads: Reads::Secure, ..Params::default() });
    harness.put(Put { replication: 3, ..confirmed(N, b"mine") });
    harness.answer_find_value(|_, _| nothing());
    let client = harness.get(key(N));
    assert_eq!(answer(&mut harness, client, |_, _| nothing()), success(N, b"mine"));
}

/// Section 3: one node never serves an older value after a newer one, also if it has served the older one
/// before.
#[test]
fn a_local_record_is_compared_again_once_a_newer_version_was_seen_elsewhere() {
    let mut harness = Harness::with_contacts(Params::default(), 1..=3);
    let asker = harness.accept_client(9);
    let record = RecordBlock { replication: 2, ..block(131, b"old") };
    harness.ask(asker, Request::Store(record));
    let from_here = |harness: &mut Harness| {
        let client = harness.get(key(131));
        harness.answer(client)
    };
    assert_eq!(from_here(&mut harness), success(131, b"old"));
    assert_eq!(from_here(&mut harness), success(131, b"old"));

    let nearer = [129, 130].map(|peer| (peer, harness.add_contact(peer)));
    for peer in [1, 2, 3, 129, 130] {
        harness.make_scripted(peer);
    }
    let over = RecordBlock { version: version_at(5), content: Content::Tombstone, crc: 0, ..record };
    let reader = harness.get(key(131));
    harness.answer_find_value(|_, _| Some(value_of(over)));
    assert_eq!(harness.answer(reader), failure(131));

    for (peer, conn) in nearer {
        harness.close(conn);
        let dial = harness.dial_of(peer);
        harness.fail(dial, DialError::Unreachable);
    }
    let reader = harness.get(key(131));
    assert_eq!(harness.answer(reader), None, "it is in scope again, and others are asked all the same");
    harness.answer_find_value(|_, _| Some(nodes(&[])));
    assert_eq!(harness.answer(reader), success(131, b"old"), "no asked node knows a newer one");
    assert_eq!(from_here(&mut harness), success(131, b"old"));
}
