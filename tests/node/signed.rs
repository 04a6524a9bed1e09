//! Signed and hashed records: who may write them, and how forgeries are refused (sections 3 and 4).

use dht::id::Key;
use dht::node::action::ConnId;
use dht::node::params::Params;
use dht::record::envelope::hashed_key;
use dht::record::{Age, Class, Life, Rank, Ttl, Version, crc_of};
use dht::wire::api::{ApiReply, Confirm, Put};
use dht::wire::peer::{Content, ErrorCode, RecordBlock, Reply, Request, StoreOutcome, Want};

use crate::harness::{
    Harness, block, given, hashed, key, larger, nodes, quiet, secs, signed, signed_for, stored, value_of, version_at,
};

const VALUE_ALONE: Want = Want { contacts: false, head_only: false, catching_up: false };

/// A founder, and a connection of a peer that sends requests to it.
fn founder_with_caller() -> (Harness, ConnId) {
    let mut harness = Harness::founder();
    let conn = harness.accept_client(9);
    (harness, conn)
}

fn refused(code: ErrorCode) -> Reply<'static> {
    Reply::Error(code)
}

fn find(harness: &mut Harness, conn: ConnId, key: Key) -> Reply<'static> {
    harness.ask(conn, Request::FindValue { key, want: VALUE_ALONE })
}

/// The reply to a STORE: the node holds a larger record, with the rank of `record`.
fn beaten_by(record: &RecordBlock<'_>) -> Reply<'static> {
    let held = Rank { class: record.class, life: Life::Alive, version: record.version };
    Reply::Stored { key: record.key, outcome: StoreOutcome::Larger, held }
}

/// The confirmed PUT of that record.
fn put_of(record: &RecordBlock<'static>) -> Put<'static> {
    let Content::Value(value) = record.content else { panic!("a record without a value") };
    Put { ttl: 0, replication: 3, confirm: Confirm::Yes, class: record.class, key: record.key, value }
}

#[expect(clippy::unnecessary_wraps, reason = "it is compared with an answer, which may be missing")]
fn done(key: Key) -> Option<ApiReply<'static>> {
    Some(ApiReply::Success { key, value: b"" })
}

#[expect(clippy::unnecessary_wraps, reason = "it is compared with an answer, which may be missing")]
fn failed(key: Key) -> Option<ApiReply<'static>> {
    Some(ApiReply::Failure { key })
}

/// The record with a changed value and the CRC of that value.
fn forged(record: RecordBlock<'static>, change: impl FnOnce(&mut Vec<u8>)) -> RecordBlock<'static> {
    let mut value = record.value().to_vec();
    change(&mut value);
    let value: &'static [u8] = Vec::leak(value);
    RecordBlock { crc: crc_of(value), content: Content::Value(value), ..record }
}

/// Attempts of a stranger at the key of an owner, derived from a record that the owner signed.
fn forgeries() -> Vec<RecordBlock<'static>> {
    let mine = signed(1, 5, b"mine");
    vec![
        forged(mine, |value| *value.last_mut().expect("a payload") ^= 1),
        forged(mine, |value| value[60] ^= 1),
        RecordBlock { version: version_at(6), ..mine },
        forged(RecordBlock { version: version_at(6), ..mine }, |value| {
            value[32..40].copy_from_slice(&version_at(6).bits().to_be_bytes());
        }),
        RecordBlock { ttl: Ttl::from_secs(600).expect("not zero"), ..mine },
        forged(RecordBlock { ttl: Ttl::from_secs(600).expect("not zero"), ..mine }, |value| {
            value[40..42].copy_from_slice(&600_u16.to_be_bytes());
        }),
        forged(mine, |value| value[43] = b'p'),
        RecordBlock { key: key(5), ..mine },
        RecordBlock { key: mine.key, ..signed(2, 9, b"a stranger's") },
        RecordBlock { class: Class::Hashed, version: Version::from_bits(0), ..mine },
        forged(mine, |value| value.truncate(50)),
    ]
}

#[test]
fn a_signed_record_is_stored_and_found_whole() {
    let (mut harness, conn) = founder_with_caller();
    let mine = signed(1, 0, b"mine");
    assert_eq!(harness.ask(conn, Request::Store(mine)), stored(&mine));
    assert_eq!(find(&mut harness, conn, mine.key), value_of(mine));
    let deletion = signed(1, 1, b"");
    assert_eq!(harness.ask(conn, Request::Store(deletion)), stored(&deletion), "an empty payload is a record too");
    assert_eq!(find(&mut harness, conn, mine.key), value_of(deletion));
}

#[test]
fn no_forged_record_is_stored() {
    for (nth, forgery) in forgeries().into_iter().enumerate() {
        let (mut harness, conn) = founder_with_caller();
        assert_eq!(harness.ask(conn, Request::Store(forgery)), refused(ErrorCode::NOT_VERIFIED), "forgery {nth}");
        assert!(harness.node.storage().is_empty());
    }
}

/// Flips each bit of the envelope in turn: public key, sequence, TTL, salt, signature and payload. The
/// CRC is right, so only the signature can reveal the change.
#[test]
fn a_flip_of_any_bit_of_an_envelope_is_detected() {
    let (mut harness, conn) = founder_with_caller();
    let mine = signed(1, 5, b"mine");
    for bit in 0..8 * mine.value().len() {
        let forgery = forged(mine, |value| value[bit / 8] ^= 1 << (bit % 8));
        assert_eq!(harness.ask(conn, Request::Store(forgery)), refused(ErrorCode::NOT_VERIFIED), "bit {bit}");
    }
    assert!(harness.node.storage().is_empty());
    assert_eq!(harness.ask(conn, Request::Store(mine)), stored(&mine));
}

#[test]
fn no_forged_record_is_accepted_from_a_client() {
    for (nth, forgery) in forgeries().into_iter().enumerate() {
        let mut harness = Harness::founder();
        let put = Put { ttl: forgery.ttl.as_secs(), ..put_of(&forgery) };
        let client = harness.put(put);
        // Of the fields outside the envelope a PUT carries only the class, the key and the TTL.
        let may_be_true = forgery.value() == signed(1, 5, b"mine").value() && forgery.version == version_at(6);
        assert_eq!(harness.answer(client) == failed(forgery.key), !may_be_true, "forgery {nth}");
        let unasked = harness.put(Put { confirm: Confirm::No, ..put });
        assert_eq!(harness.answer(unasked), None, "it is dropped and counted");
        assert_eq!(harness.node.counters().puts_refused, if may_be_true { 0 } else { 2 });
    }
}

#[test]
fn a_hashed_record_is_stored_only_at_its_digest() {
    let (mut harness, conn) = founder_with_caller();
    let record = hashed(b"value");
    assert_eq!(harness.ask(conn, Request::Store(record)), stored(&record));
    assert_eq!(find(&mut harness, conn, record.key), value_of(record));
    for lie in [
        RecordBlock { key: key(5), ..record },
        RecordBlock { version: Version::from_bits(1), ..hashed(b"other") },
        RecordBlock { version: version_at(0), ..hashed(b"other") },
    ] {
        assert_eq!(harness.ask(conn, Request::Store(lie)), refused(ErrorCode::NOT_VERIFIED));
    }
}

#[test]
fn a_plain_store_does_not_replace_a_signed_record() {
    let (mut harness, conn) = founder_with_caller();
    let mine = signed(1, 0, b"mine");
    harness.ask(conn, Request::Store(mine));
    for millis in [0, 9, 500_000] {
        let plain = RecordBlock { key: mine.key, version: version_at(millis), ..block(1, b"plain") };
        assert_eq!(harness.ask(conn, Request::Store(plain)), beaten_by(&mine));
    }
    assert_eq!(find(&mut harness, conn, mine.key), value_of(mine));
}

#[test]
fn a_signed_record_replaces_a_plain_one() {
    let (mut harness, conn) = founder_with_caller();
    let mine = signed(1, 0, b"mine");
    let plain = RecordBlock { key: mine.key, version: version_at(500_000), ..block(1, b"plain") };
    harness.ask(conn, Request::Store(plain));
    assert_eq!(harness.ask(conn, Request::Store(mine)), stored(&mine));
    assert_eq!(find(&mut harness, conn, mine.key), value_of(mine));
}

/// The cheap checks come first: a smaller record is refused before its signature is verified.
#[test]
fn a_lower_sequence_is_answered_with_the_held_one_even_if_it_is_forged() {
    let (mut harness, conn) = founder_with_caller();
    let (old, new) = (signed(1, 0, b"old"), signed(1, 5, b"new"));
    harness.ask(conn, Request::Store(new));
    for replay in [old, forged(old, |value| value[60] ^= 1)] {
        assert_eq!(harness.ask(conn, Request::Store(replay)), beaten_by(&new));
    }
    assert_eq!(find(&mut harness, conn, new.key), value_of(new));
}

#[test]
fn an_equal_signed_record_extends_the_lifetime_only_within_the_signed_ttl() {
    let (mut harness, conn) = founder_with_caller();
    let aged = |age| RecordBlock { age: Age(age), ..signed(1, 0, b"mine") };
    for age in [40_000, 20_000, 50_000] {
        assert_eq!(harness.ask(conn, Request::Store(aged(age))), stored(&aged(0)));
    }
    assert_eq!(find(&mut harness, conn, aged(0).key), value_of(aged(20_000)));
    let longer = RecordBlock { ttl: Ttl::from_secs(6_000).expect("not zero"), ..aged(0) };
    assert_eq!(harness.ask(conn, Request::Store(longer)), refused(ErrorCode::NOT_VERIFIED));
    assert_eq!(find(&mut harness, conn, aged(0).key), value_of(aged(20_000)));
}

#[test]
fn an_expired_signed_version_is_replaced_neither_by_itself_nor_by_a_plain_record() {
    let (mut harness, conn) = founder_with_caller();
    let mine = signed(1, 5, b"mine");
    harness.ask(conn, Request::Store(RecordBlock { age: Age(59_000), ..mine }));
    harness.pass(secs(1));
    for over in [mine, signed(1, 0, b"old"), forged(mine, |value| value[60] ^= 1)] {
        assert_eq!(harness.ask(conn, Request::Store(over)), refused(ErrorCode::GONE));
    }
    let plain = RecordBlock { key: mine.key, ..block(1, b"plain") };
    assert_eq!(harness.ask(conn, Request::Store(plain)), refused(ErrorCode::GONE));
    assert_eq!(find(&mut harness, conn, mine.key), nodes(&[]), "a signed tombstone stays where it is");
    let next = signed(1, 6, b"next");
    assert_eq!(harness.ask(conn, Request::Store(next)), stored(&next));
}

/// The version `u64::MAX` is refused, and the next honest PUT is visible.
/// Section 3, Tombstones: a node that knew the successor of a signed record does not return that record any more.
#[test]
fn a_get_finds_no_signed_record_whose_successor_has_ended_here() {
    for knows_successor in [false, true] {
        let mut harness = Harness::with_contacts(Params::default(), [1]);
        let caller = harness.accept_client(9);
        let (older, newer) = (signed_for(3_600, 1, 1_000, b"older"), signed_for(10, 1, 2_000, b"newer"));
        if knows_successor {
            harness.ask(caller, Request::Store(newer));
        }
        harness.pass(secs(20));
        harness.make_scripted(1);
        let client = harness.get(older.key);
        harness.answer_find_value(|_, want| Some(given(RecordBlock { age: Age(19_000), ..older }, want)));
        let found = ApiReply::Success { key: older.key, value: older.value() };
        let expected = if knows_successor { failed(older.key) } else { Some(found) };
        assert_eq!(harness.answer(client), expected);
    }
}

#[test]
fn a_store_with_the_largest_version_does_not_lock_the_key() {
    let (mut harness, conn) = founder_with_caller();
    let far = RecordBlock { version: Version::from_bits(u64::MAX), ..block(5, b"for ever") };
    assert_eq!(harness.ask(conn, Request::Store(far)), refused(ErrorCode::TOO_EARLY));
    let writer = harness.put(Put { confirm: Confirm::Yes, ..quiet(5, b"honest") });
    assert_eq!(harness.answer(writer), done(key(5)));
    let reader = harness.get(key(5));
    assert_eq!(harness.answer(reader), crate::harness::success(5, b"honest"));
    assert_eq!(harness.ask(conn, Request::Store(far)), refused(ErrorCode::TOO_EARLY));
}

/// A node with the peers 1 to 8, which hold nothing.
fn with_eight_peers() -> Harness {
    Harness::with_contacts(Params { replication_min: 1, ..Params::default() }, 1..=8)
}

#[test]
fn copies_of_a_signed_put_carry_the_ttl_that_its_owner_signed() {
    let params = Params { ttl_min: Ttl::from_secs(600).expect("not zero"), ..Params::default() };
    for ttl in [0, 60] {
        let mut harness = Harness::with_contacts(params.clone(), 1..=8);
        let mine = signed(1, 0, b"mine");
        let client = harness.put(Put { ttl, ..put_of(&mine) });
        let copies = harness.copies();
        assert_eq!(copies.len(), 3);
        for (conn, rpc, copy) in copies {
            assert_eq!(copy, mine, "its TTL is never clamped");
            harness.reply(conn, rpc, stored(&copy));
        }
        assert_eq!(harness.answer(client), done(mine.key));
    }
}

#[test]
fn a_signed_put_with_another_ttl_than_the_signed_one_is_refused() {
    for ttl in [1, 59, 61, 65_535] {
        let mut harness = with_eight_peers();
        let mine = signed(1, 0, b"mine");
        let client = harness.put(Put { ttl, ..put_of(&mine) });
        assert_eq!((harness.answer(client), harness.copies()), (failed(mine.key), vec![]));
    }
}

#[test]
fn a_signed_put_from_the_far_future_or_already_expired_is_refused() {
    for wall_ahead in [0, 66_135_000 + 600_001] {
        let mut harness = with_eight_peers();
        harness.wall_ahead = wall_ahead;
        let far = signed(1, 600_001, b"mine");
        let client = harness.put(put_of(&far));
        assert_eq!(
            (harness.answer(client), harness.copies()),
            (failed(far.key), vec![]),
            "the clock is {wall_ahead} on"
        );
    }
}

#[test]
fn a_put_below_a_larger_local_record_is_refused_at_once() {
    let (mut harness, conn) = founder_with_caller();
    let mine = signed(1, 5, b"mine");
    harness.ask(conn, Request::Store(mine));
    let plain = Put { confirm: Confirm::Yes, key: mine.key, ..quiet(1, b"plain") };
    for put in [plain, put_of(&signed(1, 4, b"older"))] {
        let client = harness.put(put);
        assert_eq!(harness.answer(client), failed(mine.key));
        let reader = harness.get(mine.key);
        assert_eq!(harness.answer(reader), Some(ApiReply::Success { key: mine.key, value: mine.value() }));
    }
}

#[test]
fn a_plain_put_on_a_signed_key_fails_and_its_value_is_no_longer_served() {
    let mine = signed(1, 0, b"mine");
    let mut harness = with_eight_peers();
    let writer = harness.put(Put { confirm: Confirm::Yes, replication: 20, key: mine.key, ..quiet(1, b"plain") });
    let reader = harness.get(mine.key);
    assert_eq!(
        harness.answer(reader),
        Some(ApiReply::Success { key: mine.key, value: b"plain" }),
        "no larger record was known"
    );
    let copies = harness.copies();
    harness.reply(copies[0].0, copies[0].1, beaten_by(&mine));
    let reader = harness.get(mine.key);
    assert_ne!(harness.answer(reader), Some(ApiReply::Success { key: mine.key, value: b"plain" }));
    for (conn, rpc, copy) in &copies[1..] {
        harness.reply(*conn, *rpc, stored(copy));
    }
    assert_eq!(harness.answer(writer), failed(mine.key));
    assert_eq!(harness.node.storage().len(), 1, "its own copy is held, in scope");
    (1..=8).for_each(|peer| harness.make_scripted(peer));
    let reader = harness.get(mine.key);
    assert_eq!(harness.answer(reader), None);
    harness.answer_find_value(|peer, want| Some(if peer == 3 { given(mine, want) } else { nodes(&[]) }));
    assert_eq!(harness.answer(reader), Some(ApiReply::Success { key: mine.key, value: mine.value() }));
}

#[test]
fn a_signed_put_is_superseded_only_by_a_higher_sequence() {
    let (mine, higher) = (signed(1, 0, b"mine"), signed(1, 1, b"higher"));
    let mut harness = with_eight_peers();
    let client = harness.put(put_of(&mine));
    let copies = harness.copies();
    let plain = RecordBlock { key: mine.key, version: version_at(500_000), ..block(1, b"plain") };
    harness.reply(copies[0].0, copies[0].1, beaten_by(&plain));
    assert_eq!(harness.answer(client), None, "that cannot be");
    let mut left = copies[1..].to_vec();
    left.extend(harness.copies());
    for (conn, rpc, _) in left {
        assert_eq!(harness.answer(client), None, "one alone may lie");
        harness.reply(conn, rpc, beaten_by(&higher));
    }
    assert_eq!(harness.answer(client), failed(mine.key));
    harness.forget_actions();
    harness.pass(secs(60));
    assert_eq!(harness.copies_by_peer(), [], "its version cannot be drawn anew");
}

#[test]
fn a_hashed_put_is_confirmed_despite_a_claim_of_a_larger_record() {
    let record = hashed(b"it names itself");
    let mut harness = with_eight_peers();
    let client = harness.put(Put { ttl: 60, ..put_of(&record) });
    let copies = harness.copies();
    harness.reply(copies[0].0, copies[0].1, beaten_by(&RecordBlock { version: version_at(0), ..record }));
    let mut left = copies[1..].to_vec();
    left.extend(harness.copies());
    for (conn, rpc, copy) in left {
        assert_eq!(copy, record);
        harness.reply(conn, rpc, stored(&copy));
    }
    assert_eq!(harness.answer(client), done(record.key));
}

#[test]
fn a_hashed_put_at_another_key_than_its_digest_is_refused() {
    let mut harness = with_eight_peers();
    let client = harness.put(Put { class: Class::Hashed, confirm: Confirm::Yes, ..quiet(5, b"value") });
    assert_ne!(hashed_key(b"value"), key(5));
    assert_eq!(harness.answer(client), failed(key(5)));
}

/// A lookup need not believe such a claim: the replica repeats it in its reply to the STORE.
#[test]
fn a_larger_head_found_by_the_lookup_does_not_end_a_put() {
    let mut harness = with_eight_peers();
    harness.make_scripted(1);
    let client = harness.put(Put { confirm: Confirm::Yes, replication: 3, ..quiet(1, b"v") });
    let claim = RecordBlock { class: Class::Signed, ..block(1, b"lie") };
    harness.answer_find_value(|_, _| Some(value_of(crate::harness::head(claim))));
    let copies = harness.copies();
    assert_eq!(copies.len(), 3);
    for (conn, rpc, copy) in copies {
        harness.reply(conn, rpc, stored(&copy));
    }
    assert_eq!(harness.answer(client), done(key(1)));
}

/// Section 3: the other node's clock runs fast, so this one draws its version above that one.
#[test]
fn a_found_version_ahead_of_the_local_clock_is_overtaken_before_the_first_copy() {
    let ahead = RecordBlock { version: version_at(300_000), ..block(1, b"fast") };
    let over = RecordBlock { content: Content::Tombstone, crc: 0, ..ahead };
    for met in [crate::harness::head(ahead), over] {
        let mut harness = with_eight_peers();
        harness.make_scripted(2);
        let client = harness.put(Put { confirm: Confirm::Yes, replication: 3, ..quiet(1, b"v") });
        harness.answer_find_value(|_, _| Some(value_of(met)));
        let copies = harness.copies();
        assert!(copies.iter().all(|(_, _, copy)| copy.version.bits() == version_at(300_000).bits() + 1));
        for (conn, rpc, copy) in copies {
            harness.reply(conn, rpc, stored(&copy));
        }
        assert_eq!(harness.answer(client), done(key(1)));
    }
}

#[test]
fn a_found_version_of_the_far_future_is_not_overtaken() {
    let far = RecordBlock { version: version_at(600_001), ..block(1, b"far") };
    let mut harness = with_eight_peers();
    harness.make_scripted(2);
    harness.put(Put { replication: 3, ..quiet(1, b"v") });
    harness.answer_find_value(|_, _| Some(value_of(crate::harness::head(far))));
    assert!(harness.copies_by_peer().iter().all(|(_, copy)| copy.version < version_at(1_000)));
}

/// The tombstone of an expired record is a lower bound for the next version.
#[test]
fn the_next_version_of_a_key_is_above_the_version_that_expired_locally() {
    let (mut harness, conn) = founder_with_caller();
    let ahead = RecordBlock { version: version_at(300_000), age: Age(59_000), ..block(5, b"brief") };
    harness.ask(conn, Request::Store(ahead));
    harness.pass(secs(1));
    let found = find(&mut harness, conn, key(5));
    let Reply::Value { record, .. } = found else { panic!("{found:?}") };
    assert_eq!((record.content, record.version), (Content::Tombstone, version_at(300_000)));
    assert_eq!(harness.ask(conn, Request::Store(RecordBlock { age: Age(0), ..ahead })), refused(ErrorCode::GONE));
    let writer = harness.put(Put { confirm: Confirm::Yes, ..quiet(5, b"next") });
    assert_eq!(harness.answer(writer), done(key(5)));
    assert_eq!(harness.ask(conn, Request::Store(ahead)), larger(5, Version::from_bits(version_at(300_000).bits() + 1)));
}
