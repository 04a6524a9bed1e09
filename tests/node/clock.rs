//! Wall clocks that are wrong, are set, or differ from those of peers (sections 2 and 3, Clocks).

use dht::node::action::ConnId;
use dht::node::params::Params;
use dht::record::Age;
use dht::time::WallTime;
use dht::wire::api::Put;
use dht::wire::codec::List;
use dht::wire::peer::{Entry, ErrorCode, FLAG_TELLS_TIME, Hello, RecordBlock, Reply, Request, Want};

use crate::harness::{
    Disk, Harness, block, confirmed, failure, greeting, key, larger, millis, nodes, secs, stored, success, synced,
    version_at,
};

pub(crate) const HOUR_MILLIS: u64 = 3_600_000;

/// A confirmed PUT with the longest life.
fn lasting(n: u8, value: &[u8]) -> Put<'_> {
    Put { ttl: u16::MAX, ..confirmed(n, value) }
}

/// A founder whose wall clock is an hour fast, with a value that it has taken meanwhile.
fn fast_founder() -> Harness {
    let mut harness = Harness::founder();
    harness.wall_ahead = HOUR_MILLIS;
    let client = harness.put(lasting(1, b"of a fast clock"));
    assert_eq!(harness.answer(client), success(1, b""));
    harness
}

pub(crate) fn got(harness: &mut Harness, n: u8) -> Option<dht::wire::api::ApiReply<'static>> {
    let client = harness.get(key(n));
    harness.pass(secs(11));
    harness.answer(client)
}

#[test]
fn a_version_of_a_fast_clock_does_not_block_its_key_when_the_clock_is_right() {
    let mut harness = fast_founder();
    harness.wall_ahead = 0;
    assert_eq!(got(&mut harness, 1), failure(1));
    let client = harness.put(lasting(1, b"later"));
    assert_eq!(harness.answer(client), success(1, b""));
    assert_eq!(got(&mut harness, 1), success(1, b"later"));
    harness.pass(secs(2 * 3_600));
    assert_eq!(got(&mut harness, 1), success(1, b"later"), "the calendar has passed the other version");
}

#[test]
fn a_record_is_used_again_when_the_wall_clock_is_set_right() {
    let mut harness = fast_founder();
    harness.wall_ahead = 0; // the wrong setting, this time
    assert_eq!(got(&mut harness, 1), failure(1));
    harness.wall_ahead = HOUR_MILLIS;
    assert_eq!(got(&mut harness, 1), success(1, b"of a fast clock"));
}

/// All clocks of a network may be behind together, so that nothing contradicts the later PUT.
#[test]
fn a_record_that_was_overwritten_while_it_was_set_aside_does_not_come_back() {
    for (ttl, expected) in [(u16::MAX, success(1, b"later")), (1, failure(1))] {
        let mut harness = fast_founder();
        harness.pass(secs(1));
        harness.wall_ahead = 0;
        let client = harness.put(Put { ttl, ..confirmed(1, b"later") });
        assert_eq!(harness.answer(client), success(1, b""));
        harness.pass(secs(2));
        harness.wall_ahead = HOUR_MILLIS;
        assert_eq!(got(&mut harness, 1), expected, "TTL {ttl}");
    }
}

/// A node that synchronizes may get a record that is older than the one that it has set aside.
#[test]
fn a_record_that_was_set_aside_comes_back_though_an_older_one_was_stored_meanwhile() {
    let mut harness = Harness::founder();
    harness.wall_ahead = HOUR_MILLIS;
    harness.pass(secs(2_000));
    let conn = harness.accept_client(9);
    let client = harness.put(lasting(1, b"newer"));
    assert_eq!(harness.answer(client), success(1, b""));
    harness.wall_ahead = 0;
    harness.wake();
    let older = lasting_block(1_000);
    assert_eq!(harness.ask(conn, Request::Store(older)), stored(&older));
    harness.wall_ahead = HOUR_MILLIS;
    assert_eq!(got(&mut harness, 1), success(1, b"newer"));
}

#[test]
fn a_version_that_becomes_possible_only_because_time_passes_is_dropped() {
    let mut harness = fast_founder();
    harness.wall_ahead = 0;
    harness.wake();
    harness.pass(secs(3_600));
    // A small change of the clock, long after the version became possible.
    harness.wall_ahead = 60_000;
    assert_eq!(got(&mut harness, 1), failure(1));
    assert!(harness.node.storage().is_empty());
}

// ── records that only a fast clock refuses ───────────────────────────────────────────────────

/// A node whose clock is 16 hours fast; it stores a record that a peer has taken by a right clock.
fn replica_16_hours_ahead() -> (Harness, ConnId) {
    let mut harness = Harness::founder();
    harness.wall_ahead = 16 * HOUR_MILLIS;
    let conn = harness.accept_client(9);
    let copy = lasting_block(0);
    assert_eq!(harness.ask(conn, Request::Store(copy)), stored(&copy));
    (harness, conn)
}

/// A record with the longest life and of that age, in seconds, whose version was drawn at the start of the test.
fn lasting_block(age: u32) -> RecordBlock<'static> {
    let ttl = dht::record::Ttl::from_secs(u16::MAX).expect("not zero");
    RecordBlock { ttl, age: Age(1_000 * age), ..block(1, b"v") }
}

pub(crate) fn tombstone_of(harness: &Harness) -> Option<dht::record::Tombstone> {
    harness.node.storage().tombstone(harness.now(), &key(1))
}

/// By its clock no record of that version can be alive after 2.4 hours; by right clocks it lives for 18.2 hours.
#[test]
fn a_record_that_only_a_fast_clock_refuses_leaves_no_tombstone_and_comes_back_when_the_clock_is_set_right() {
    let (mut harness, _) = replica_16_hours_ahead();
    harness.pass(secs(2 * 3_600));
    assert!(is_stored(&harness));
    harness.pass(secs(1_800));
    harness.wake();
    assert!(!is_stored(&harness));
    assert_eq!(tombstone_of(&harness), None);
    harness.wall_ahead = 0;
    harness.wake();
    assert!(is_stored(&harness));
    harness.pass(secs(u64::from(u16::MAX) - 2 * 3_600 - 1_800 - 1));
    assert!(is_stored(&harness));
    harness.pass(secs(1));
    assert!(!is_stored(&harness));
    assert!(tombstone_of(&harness).is_some(), "its life has ended");
}

#[test]
fn a_clock_that_is_set_right_before_a_record_is_hidden_gives_it_its_whole_life() {
    let (mut harness, _) = replica_16_hours_ahead();
    harness.pass(secs(3_600));
    harness.wall_ahead = 0;
    harness.pass(secs(10 * 3_600));
    assert!(is_stored(&harness));
}

/// A node that gets the copy would end its life as early as the fast clock does.
#[test]
fn a_fast_clock_does_not_make_the_copies_older_that_a_node_passes_on() {
    let (mut harness, conn) = replica_16_hours_ahead();
    harness.pass(secs(60));
    let answer = harness.ask(conn, Request::FindValue { key: key(1), want: Want::default() });
    let Reply::Value { record, .. } = answer else { panic!("{answer:?}") };
    assert_eq!(record.age, Age(60_000));
}

/// A wrong clock of another node may have made the copy too old; the other replicas store it for hours.
#[test]
fn a_copy_that_ends_before_its_version_is_as_old_as_its_ttl_leaves_no_tombstone() {
    let ttl = u32::from(u16::MAX);
    for (age, is_left) in [(ttl - 1, false), (0, true)] {
        let mut harness = Harness::founder();
        let conn = harness.accept_client(9);
        let copy = lasting_block(age);
        assert_eq!(harness.ask(conn, Request::Store(copy)), stored(&copy));
        harness.pass(secs(u64::from(ttl - age)));
        assert!(!is_stored(&harness));
        assert_eq!(tombstone_of(&harness).is_some(), is_left, "{age}");
    }
}

// ── PUTs that other nodes do not accept ──────────────────────────────────────────────────────

/// A node with two contacts, too few to judge its clock.
fn with_two_contacts() -> Harness {
    Harness::with_contacts(Params::default(), [1, 2])
}

#[test]
fn a_put_that_all_others_refuse_as_too_early_fails_at_once_and_does_not_live_on() {
    let mut harness = with_two_contacts();
    let client = harness.put(lasting(1, b"glitch"));
    for (conn, rpc, _) in harness.copies() {
        harness.reply(conn, rpc, Reply::Error(ErrorCode::TOO_EARLY));
    }
    assert_eq!(harness.answer(client), failure(1));
    assert!(harness.node.storage().is_empty());
    harness.pass(secs(600));
    assert!(harness.copies().is_empty(), "it is not tried again");
    let client = harness.put(lasting(1, b"anew"));
    for (conn, rpc, copy) in harness.copies() {
        harness.reply(conn, rpc, stored(&copy));
    }
    assert_eq!(harness.answer(client), success(1, b""));
}

#[test]
fn a_refused_put_gives_way_to_the_value_that_it_has_replaced() {
    let mut harness = Harness::founder();
    let client = harness.put(lasting(1, b"confirmed"));
    assert_eq!(harness.answer(client), success(1, b""));
    harness.add_contact(1);
    harness.add_contact(2);
    let client = harness.put(lasting(1, b"refused"));
    for (conn, rpc, _) in harness.copies() {
        harness.reply(conn, rpc, Reply::Error(ErrorCode::TOO_EARLY));
    }
    assert_eq!(harness.answer(client), failure(1));
    let held = harness.node.storage().find(harness.now, &key(1)).expect("the earlier record");
    assert_eq!(&*held.record.value, b"confirmed");
}

#[test]
fn a_put_that_all_others_refuse_because_its_life_is_over_does_not_live_on() {
    let mut harness = with_two_contacts();
    let client = harness.put(lasting(1, b"of 1970"));
    for (conn, rpc, _) in harness.copies() {
        harness.reply(conn, rpc, Reply::Error(ErrorCode::GONE));
    }
    assert_eq!((harness.answer(client), harness.node.storage().len()), (failure(1), 0));
}

#[test]
fn a_put_that_one_peer_stores_is_not_refused_because_all_others_refuse_the_copies_of_a_later_attempt() {
    let mut harness = with_two_contacts();
    let client = harness.put(Put { replication: 3, ..lasting(1, b"v") });
    for _ in 0..100 {
        for (conn, rpc, copy) in harness.copies() {
            let is_first = harness.peer_at(conn) == 1;
            harness.reply(conn, rpc, if is_first { stored(&copy) } else { Reply::Error(ErrorCode::GONE) });
        }
        assert_eq!((harness.answer(client), harness.node.storage().len()), (None, 1));
        harness.pass(millis(100));
    }
    assert_eq!((harness.answer(client), harness.node.storage().len()), (failure(1), 1), "the result is unknown");
}

/// A clock that is slow by an hour: the replicas store versions that are too far ahead for it.
#[test]
fn a_put_is_not_confirmed_while_replicas_store_versions_far_ahead() {
    let mut harness = with_two_contacts();
    let client = harness.put(lasting(1, b"of a slow clock"));
    let ahead = version_at(HOUR_MILLIS);
    for (conn, rpc, copy) in harness.copies() {
        let reply = if harness.peer_at(conn) == 1 { larger(1, ahead) } else { stored(&copy) };
        harness.reply(conn, rpc, reply);
    }
    assert_eq!(harness.answer(client), failure(1), "one peer stores it, and one contradicts");
}

/// The replicas that a lookup or a version probe meets count too.
#[test]
fn a_version_far_ahead_that_a_probe_meets_contradicts_a_put() {
    let mut harness = Harness::with_contacts(Params { replication_min: 1, ..Params::default() }, [1, 2]);
    harness.make_scripted(1);
    harness.make_scripted(2);
    let client = harness.put(Put { replication: 1, ..lasting(1, b"of a slow clock") });
    let ahead = RecordBlock { version: version_at(HOUR_MILLIS), ..block(1, b"w") };
    harness.answer_find_value(|_, want| Some(crate::harness::given(ahead, want)));
    for (conn, rpc, copy) in harness.copies() {
        harness.reply(conn, rpc, stored(&copy));
    }
    for (conn, rpc, ()) in harness.all_requests(|request| matches!(request, Request::Sync { .. }).then_some(())) {
        let entry = Entry { key: key(1), rank: ahead.rank(), crc: ahead.crc };
        harness.reply(conn, rpc, synced(&[entry]));
    }
    assert_eq!(harness.answer(client), failure(1));
}

/// A node that has stored a confirmed value while it was alone. Its clock is a day ahead, and two contacts do not
/// answer until the test says so.
fn with_two_silent_contacts() -> Harness {
    let mut harness = Harness::founder();
    harness.wall_ahead = 24 * HOUR_MILLIS;
    let client = harness.put(lasting(1, b"confirmed"));
    assert_eq!(harness.answer(client), success(1, b""));
    for peer in [1, 2] {
        harness.add_contact(peer);
        harness.make_scripted(peer);
    }
    harness
}

fn stored_value(harness: &Harness) -> Option<Vec<u8>> {
    harness.node.storage().find(harness.now, &key(1)).map(|held| held.record.value.to_vec())
}

#[test]
fn a_put_that_is_refused_because_the_clock_was_set_does_not_come_back_with_the_clock() {
    let mut harness = with_two_silent_contacts();
    let client = harness.put(lasting(1, b"refused"));
    harness.disk = Disk::Waits;
    harness.wall_ahead = 0;
    harness.pass(secs(2));
    assert_eq!((harness.answer(client), stored_value(&harness)), (failure(1), None));
    let saved: Vec<_> = harness.batches().iter().flat_map(|batch| batch.keys.clone()).collect();
    let on_disk = saved.iter().find(|saved| saved.key == key(1)).and_then(|saved| saved.record.as_ref());
    assert_eq!(on_disk.map(|on_disk| &*on_disk.record.value), Some(&b"confirmed"[..]), "set aside, and kept");
    harness.wall_ahead = 24 * HOUR_MILLIS;
    harness.wake();
    assert_eq!(stored_value(&harness).as_deref(), Some(&b"confirmed"[..]));
}

/// Peers may have stored the copies that were sent before the clock was set.
#[test]
fn a_put_whose_copies_are_in_flight_when_the_clock_is_set_ends_as_the_peers_say() {
    for accept in [true, false] {
        let mut harness = with_two_silent_contacts();
        let client = harness.put(Put { replication: 2, ..lasting(1, b"later") });
        harness.answer_find_value(|_, _| Some(nodes(&[])));
        let copies = harness.copies();
        harness.wall_ahead = 0;
        harness.wake();
        assert_eq!(harness.answer(client), None);
        for (conn, rpc, copy) in copies {
            harness.reply(conn, rpc, if accept { stored(&copy) } else { Reply::Error(ErrorCode::TOO_EARLY) });
        }
        assert_eq!(harness.answer(client), if accept { success(1, b"") } else { failure(1) });
        harness.wall_ahead = 24 * HOUR_MILLIS;
        harness.wake();
        let expected = if accept { &b"later"[..] } else { b"confirmed" };
        assert_eq!(stored_value(&harness).as_deref(), Some(expected), "{accept}");
    }
}

#[test]
fn a_refused_put_that_was_set_aside_does_not_come_back_with_the_clock() {
    let mut harness = Harness::new(Params::default());
    harness.wall_ahead = 24 * HOUR_MILLIS;
    harness.add_contact(1);
    harness.add_contact(2);
    let client = harness.put(Put { replication: 3, ..lasting(1, b"refused") });
    let copies = harness.copies();
    assert_eq!(stored_value(&harness).as_deref(), Some(&b"refused"[..]), "its own copy");
    harness.wall_ahead = 0;
    harness.wake();
    for (conn, rpc, _) in copies {
        harness.reply(conn, rpc, Reply::Error(ErrorCode::TOO_EARLY));
    }
    assert_eq!(harness.answer(client), failure(1));
    harness.wall_ahead = 24 * HOUR_MILLIS;
    harness.wake();
    assert_eq!(stored_value(&harness), None);
}

// ── the clocks of peers ──────────────────────────────────────────────────────────────────────

/// `peers` are contacts whose wall clocks show the start of the test when they are met.
fn judged_by(peers: impl IntoIterator<Item = u8>, wall_ahead: u64) -> Harness {
    let mut harness = Harness::new(Params::default());
    harness.wall_ahead = wall_ahead;
    for peer in peers {
        // Peers of different address groups.
        harness.add_contact_at(peer, std::net::SocketAddr::from(([198, 51, peer, 1], 7402)));
    }
    harness
}

#[test]
fn a_node_that_three_peers_call_too_fast_refuses_puts() {
    let mut harness = judged_by([1, 2, 3], HOUR_MILLIS);
    let client = harness.put(lasting(1, b"too early for all others"));
    assert_eq!(harness.answer(client), failure(1));
    harness.wall_ahead = 0;
    let client = harness.put(lasting(1, b"v"));
    for (conn, rpc, copy) in harness.copies() {
        harness.reply(conn, rpc, stored(&copy));
    }
    assert_eq!(harness.answer(client), success(1, b""), "its own step shows at once");
}

#[test]
fn two_peers_do_not_judge_and_an_address_group_counts_once() {
    let mut harness = judged_by([1, 2], HOUR_MILLIS);
    let client = harness.put(lasting(1, b"v"));
    assert_eq!((harness.copies().len(), harness.answer(client)), (2, None));
    let mut harness = Harness::new(Params::default());
    harness.wall_ahead = HOUR_MILLIS;
    for peer in 1..6 {
        harness.add_contact(peer); // all of one group
    }
    let client = harness.put(lasting(1, b"v"));
    assert_eq!((harness.copies().is_empty(), harness.answer(client)), (false, None));
}

#[test]
fn three_peers_that_agree_outweigh_a_peer_that_contradicts() {
    let mut harness = judged_by([1, 2, 3], 0);
    let client = harness.put(Put { replication: 3, ..lasting(1, b"v") });
    for (at, (conn, rpc, copy)) in harness.copies().into_iter().enumerate() {
        harness.reply(conn, rpc, if at == 0 { Reply::Error(ErrorCode::TOO_EARLY) } else { stored(&copy) });
    }
    for (conn, rpc, copy) in harness.copies() {
        harness.reply(conn, rpc, stored(&copy));
    }
    assert_eq!(harness.answer(client), success(1, b""));
}

/// The clock of that node is wrong, or it lies; but only if most others agree with the own clock.
#[test]
fn a_node_that_refuses_a_version_by_its_clock_does_not_block_puts_if_the_own_clock_is_right() {
    for (peers, is_confirmed) in [(5, true), (2, false)] {
        for (ahead, kind) in [0, HOUR_MILLIS].into_iter().flat_map(|ahead| (0..3).map(move |kind| (ahead, kind))) {
            let mut harness = Harness::new(Params::default());
            for peer in 1..=peers {
                let at = std::net::SocketAddr::from(([198, 51, peer, 1], 7402));
                let wall = if peer == peers { version_at(ahead).time() } else { greeting().wall };
                harness.add_contact_saying(peer, at, Hello { wall, ..greeting() });
            }
            let client = harness.put(Put { replication: 8, ..lasting(1, b"v") });
            for (conn, rpc, copy) in harness.copies() {
                let reply = match kind {
                    _ if harness.peer_at(conn) != peers => stored(&copy),
                    0 => Reply::Error(ErrorCode::GONE),
                    1 => Reply::Error(ErrorCode::TOO_EARLY),
                    _ => larger(1, version_at(HOUR_MILLIS)),
                };
                harness.reply(conn, rpc, reply);
            }
            let answer = harness.answer(client);
            assert_eq!(answer == success(1, b""), is_confirmed, "{peers} peers, ahead by {ahead}, kind {kind}");
        }
    }
}

/// Nodes that do not store the larger record would take the copy, and two of them would agree for a reader.
#[test]
fn a_slow_clock_sends_no_copy_of_a_put_once_its_lookup_has_met_a_version_of_right_clocks() {
    let mut harness = Harness::new(Params::default());
    let wall = version_at(HOUR_MILLIS).time();
    for peer in 1..=5 {
        let at = std::net::SocketAddr::from(([198, 51, peer, 1], 7402));
        harness.add_contact_saying(peer, at, Hello { wall, ..greeting() });
        harness.make_scripted(peer);
    }
    let client = harness.put(Put { replication: 3, ..lasting(1, b"of a slow clock") });
    let newer = RecordBlock { version: version_at(HOUR_MILLIS), ..block(1, b"w") };
    let answer = |peer, want| if peer == 1 { crate::harness::given(newer, want) } else { nodes(&[]) };
    harness.answer_find_value(|peer, want| Some(answer(peer, want)));
    assert_eq!((harness.copies().len(), harness.answer(client)), (0, failure(1)));
}

/// A node with three peers that tell the time, and a value with a life of half an hour.
fn with_timekeepers() -> Harness {
    let mut harness = Harness::new(Params::default());
    for peer in [1, 2, 3] {
        let at = std::net::SocketAddr::from(([198, 51, peer, 1], 7402));
        harness.add_contact_saying(peer, at, Hello { flags: 1 | FLAG_TELLS_TIME, ..greeting() });
    }
    let short = Put { ttl: 1_800, ..confirmed(1, b"of half an hour") };
    harness.put(short);
    for (conn, rpc, copy) in harness.copies() {
        harness.reply(conn, rpc, stored(&copy));
    }
    assert_eq!(harness.node.storage().len(), 1);
    harness
}

/// The node asks its three peers for the time. `wall_of` says what each shows, in milliseconds after the start.
fn ask_all(harness: &mut Harness, wall_of: impl Fn(u8) -> u64) {
    harness.wake();
    let asked = harness.all_requests(|request| matches!(request, Request::Time).then_some(()));
    assert_eq!(asked.len(), 3);
    for (conn, rpc, ()) in asked {
        let wall = WallTime::from_millis(version_at(wall_of(harness.peer_at(conn))).time().as_millis());
        harness.reply(conn, rpc, Reply::Time(wall));
    }
    harness.wake();
}

pub(crate) fn is_stored(harness: &Harness) -> bool {
    harness.node.storage().find(harness.now, &key(1)).is_some()
}

/// The host was suspended, and even the monotonic clock stood still.
#[test]
fn a_jump_that_all_peers_confirm_makes_records_older() {
    let mut harness = with_timekeepers();
    harness.wall_ahead = HOUR_MILLIS;
    ask_all(&mut harness, |_| HOUR_MILLIS);
    assert!(!is_stored(&harness));
}

/// The clocks of three nodes of seven were set by as much, and they answer first.
#[test]
fn a_jump_that_only_a_minority_confirms_makes_no_record_older() {
    let mut harness = Harness::new(Params::default());
    for peer in 1..=7 {
        let at = std::net::SocketAddr::from(([198, 51, peer, 1], 7402));
        harness.add_contact_saying(peer, at, Hello { flags: 1 | FLAG_TELLS_TIME, ..greeting() });
    }
    harness.put(Put { ttl: 1_800, ..confirmed(1, b"of half an hour") });
    for (conn, rpc, copy) in harness.copies() {
        harness.reply(conn, rpc, stored(&copy));
    }
    harness.wall_ahead = HOUR_MILLIS;
    harness.wake();
    let wall = WallTime::from_millis(version_at(HOUR_MILLIS).time().as_millis());
    for (conn, rpc, ()) in harness.all_requests(|request| matches!(request, Request::Time).then_some(())) {
        if harness.peer_at(conn) <= 3 {
            harness.reply(conn, rpc, Reply::Time(wall));
        }
    }
    assert!(is_stored(&harness));
}

/// Two nodes with wrong clocks that are put right together seem to confirm each other's suspension.
#[test]
fn a_jump_that_a_peer_denies_makes_no_record_older() {
    let mut harness = with_timekeepers();
    harness.wall_ahead = HOUR_MILLIS;
    ask_all(&mut harness, |peer| if peer == 2 { 0 } else { HOUR_MILLIS });
    assert!(is_stored(&harness));
}

#[test]
fn a_clock_that_returns_to_its_earlier_setting_makes_no_record_older() {
    let mut harness = with_timekeepers();
    harness.wall_ahead = 5 * 60_000;
    ask_all(&mut harness, |_| 0);
    harness.wall_ahead = 0;
    ask_all(&mut harness, |_| 0);
    harness.wall_ahead = 5 * 60_000;
    ask_all(&mut harness, |_| 5 * 60_000);
    let expires = harness.node.storage().find(harness.now, &key(1)).map(|held| held.expires);
    assert_eq!(expires, Some(harness.now + secs(1_800)));
}

#[test]
fn a_peer_that_does_not_tell_the_time_is_not_asked() {
    let mut harness = judged_by([1, 2, 3], 0);
    harness.pass(secs(3_600));
    assert!(harness.all_requests(|request| matches!(request, Request::Time).then_some(())).is_empty());
    let conn = harness.accept_client(9);
    let wall = harness.now().wall;
    assert_eq!(harness.ask(conn, Request::Time), Reply::Time(wall));
}

/// A replica whose clock most peers call slow by `behind` milliseconds; it stores a record of the start of the test.
fn slow_replica(behind: u64) -> (Harness, ConnId) {
    let mut harness = Harness::new(Params::default());
    let wall = WallTime::from_millis(version_at(behind).time().as_millis());
    for peer in [1, 2, 3] {
        let at = std::net::SocketAddr::from(([198, 51, peer, 1], 7402));
        harness.add_contact_saying(peer, at, Hello { wall, ..greeting() });
    }
    let conn = harness.accept_client(9);
    let old = RecordBlock { ttl: dht::record::Ttl::from_secs(u16::MAX).expect("not 0"), ..block(1, b"old") };
    assert_eq!(harness.ask(conn, Request::Store(old)), stored(&old));
    (harness, conn)
}

fn gives_value(harness: &mut Harness, conn: ConnId) -> bool {
    let answer = harness.ask(conn, Request::FindValue { key: key(1), want: Want::default() });
    matches!(answer, Reply::Value { .. })
}

/// Two replicas whose clocks are slow would agree on the old record.
#[test]
fn a_record_whose_successor_only_a_slow_clock_refuses_is_not_given_to_others() {
    for by_offer in [true, false] {
        let (mut harness, conn) = slow_replica(HOUR_MILLIS);
        let newer = RecordBlock { version: version_at(HOUR_MILLIS), ..block(1, b"newer") };
        let entry = Entry { key: key(1), rank: newer.rank(), crc: newer.crc };
        let request =
            if by_offer { Request::Offer(List::lend(std::slice::from_ref(&entry))) } else { Request::Store(newer) };
        assert_eq!(harness.ask(conn, request), Reply::Error(ErrorCode::TOO_EARLY));
        assert!(!gives_value(&mut harness, conn), "{by_offer}");
        assert!(is_stored(&harness));
    }
}

#[test]
fn a_version_that_is_too_far_ahead_for_peers_too_hides_no_record() {
    for (behind, ahead) in [(HOUR_MILLIS, 2 * HOUR_MILLIS), (0, HOUR_MILLIS)] {
        let (mut harness, conn) = slow_replica(behind);
        let far = RecordBlock { version: version_at(ahead), ..block(1, b"far") };
        assert_eq!(harness.ask(conn, Request::Store(far)), Reply::Error(ErrorCode::TOO_EARLY));
        assert!(gives_value(&mut harness, conn), "{behind}");
    }
}

#[test]
fn a_node_whose_clock_was_set_synchronizes_before_its_answers_count() {
    let (mut harness, conn) = slow_replica(HOUR_MILLIS);
    for peer in [1, 2, 3] {
        harness.make_scripted(peer);
    }
    harness.wall_ahead = HOUR_MILLIS;
    let want = Want::default();
    let answer = harness.ask(conn, Request::FindValue { key: key(1), want });
    assert_eq!(answer, Reply::Error(ErrorCode::TOO_MANY), "it may have refused a newer record");
    assert_eq!(harness.node.status(), dht::node::Status::Settling);
}

/// Neighbours with wrong clocks may have refused what this node lacks.
#[test]
fn a_node_synchronizes_with_neighbours_whose_clocks_are_right() {
    let mut harness = Harness::new(Params::default());
    harness.wall_ahead = 60_000;
    for peer in 1..=5 {
        let at = std::net::SocketAddr::from(([198, 51, peer, 1], 7402));
        let wall = if peer <= 2 { version_at(HOUR_MILLIS).time() } else { version_at(0).time() };
        harness.add_contact_saying(peer, at, Hello { wall, ..greeting() });
    }
    for peer in 1..=5 {
        harness.make_scripted(peer);
    }
    harness.wall_ahead = 0;
    assert_eq!(neighbours_asked(&mut harness), [3, 4, 5]);
}

/// The peers that the node asks for their records. Everything else they answer by nothing.
fn neighbours_asked(harness: &mut Harness) -> Vec<u8> {
    let mut asked = std::collections::BTreeSet::new();
    for _ in 0..10 {
        harness.wake();
        for (conn, rpc, request) in harness.all_requests(|request| Some(*request)) {
            match request {
                Request::Sync { .. } => drop(asked.insert(harness.peer_at(conn))),
                _ => harness.reply(conn, rpc, nodes(&[])),
            }
        }
    }
    asked.into_iter().collect()
}

/// The node remembers the clocks of 16 peers, and not those of the two nearest neighbours, which may have been set
/// together with its own.
#[test]
fn a_node_whose_clock_was_set_also_asks_three_neighbours_whose_clocks_are_known_to_be_right() {
    let mut harness = Harness::new(Params::default());
    harness.wall_ahead = 60_000;
    for peer in 1..=18 {
        harness.add_contact_at(peer, std::net::SocketAddr::from(([198, 51, peer, 1], 7402)));
    }
    for peer in 1..=18 {
        harness.make_scripted(peer);
    }
    harness.wall_ahead = 0;
    assert_eq!(neighbours_asked(&mut harness), [1, 2, 3, 4, 5]);
}

/// A leaving neighbour must not take it for handed over.
#[test]
fn an_offer_of_a_version_far_ahead_is_refused() {
    let mut harness = Harness::founder();
    let conn = harness.accept_client(9);
    let ahead = RecordBlock { version: version_at(HOUR_MILLIS), ..block(1, b"w") };
    let entry = Entry { key: key(1), rank: ahead.rank(), crc: ahead.crc };
    let answer = harness.ask(conn, Request::Offer(List::lend(&[entry])));
    assert_eq!(answer, Reply::Error(ErrorCode::TOO_EARLY));
}
