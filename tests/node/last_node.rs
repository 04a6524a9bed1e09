//! The last node that runs (section 2, Settled): it answers at once if the others have stopped, and waits if only
//! the way to them may be broken.

use std::time::Duration;

use dht::id::Key;
use dht::limits::REMEMBERED_DIALS;
use dht::node::Status;
use dht::node::action::{ConnId, DialError};
use dht::node::params::{Durability, Params, Serving};
use dht::node::persisted::Saved;
use dht::wire::peer::{PeerMessage, RecordBlock, Reply, Request};

use crate::harness::{
    Disk, Harness, bootstrap, confirmed, contact, failure, hello, key, larger, millis, quiet, secs, stored, success,
    version_at,
};

/// A settled node whose only contact is the peer 1, its bootstrap.
fn joined(params: &Params) -> Harness {
    let mut harness = Harness::new(Params { bootstraps: vec![bootstrap(1, None)], ..params.clone() });
    harness.wake();
    let dial = harness.dial_of(1);
    harness.make_automatic(1);
    harness.complete_dial(dial, 1);
    harness.pass(secs(1));
    assert_eq!(harness.node.status(), Status::Settled);
    harness
}

/// Moves the clock by `span`. Every dial fails as `error` says for its peer; `None` leaves it in flight.
fn fail_dials(harness: &mut Harness, span: Duration, error: impl Fn(u8) -> Option<DialError>) {
    let end = harness.now + span;
    loop {
        for (dial, ..) in harness.dials() {
            let peer = harness.peer_dialled(dial).expect("a peer");
            if let Some(error) = error(peer) {
                harness.fail(dial, error);
            }
        }
        let Some(next) = harness.node.next_deadline().filter(|next| *next <= end) else { break };
        harness.pass(next.since(harness.now));
    }
    harness.pass(end.since(harness.now));
}

/// All connections of the node are closed by the peers, which answer nothing any more.
fn stop_peers(harness: &mut Harness, peers: impl IntoIterator<Item = u8>) {
    for peer in peers {
        harness.make_scripted(peer);
    }
    for conn in 0..40 {
        harness.close(ConnId(conn));
    }
}

/// A node whose only contact has stopped: its host refuses connections.
fn last_node(params: &Params) -> Harness {
    let mut harness = joined(params);
    stop_peers(&mut harness, [1]);
    fail_dials(&mut harness, secs(1), |_| Some(DialError::Refused));
    assert_eq!(harness.node.status(), Status::Joining);
    harness.forget_actions();
    harness
}

fn answers_at_once(harness: &mut Harness) -> bool {
    let reader = harness.get(key(99));
    harness.answer(reader) == failure(99)
}

#[test]
fn the_last_node_answers_at_once_when_all_others_have_stopped() {
    let mut harness = last_node(&Params::default());
    let reader = harness.get(key(7));
    assert_eq!(harness.answer(reader), failure(7));
    let writer = harness.put(confirmed(1, b"v"));
    assert_eq!(harness.answer(writer), success(1, b""));
    let reader = harness.get(key(1));
    assert_eq!(harness.answer(reader), success(1, b"v"));
}

#[test]
fn requests_that_wait_are_answered_when_the_last_contact_turns_out_to_have_stopped() {
    let mut harness = joined(&Params::default());
    stop_peers(&mut harness, [1]);
    fail_dials(&mut harness, millis(100), |_| Some(DialError::Refused));
    let (reader, writer) = (harness.get(key(7)), harness.put(confirmed(1, b"v")));
    assert_eq!((harness.answer(reader), harness.answer(writer)), (None, None), "the process may be back in a moment");
    fail_dials(&mut harness, secs(1), |_| Some(DialError::Refused));
    assert_eq!((harness.answer(reader), harness.answer(writer)), (failure(7), success(1, b"")));
}

/// Under `always` the record is on disk before it is confirmed.
#[test]
fn the_last_node_confirms_what_is_on_its_disk() {
    let mut harness = last_node(&Params { durability: Durability::Always, ..Params::default() });
    harness.disk = Disk::Waits;
    let writer = harness.put(confirmed(1, b"v"));
    harness.pass(millis(1));
    assert_eq!(harness.answer(writer), None);
    harness.act(|node, now, out| node.on_saved(now, Saved::Durable, out));
    assert_eq!(harness.answer(writer), success(1, b""));
}

#[test]
fn silence_and_faults_of_this_host_do_not_make_a_node_the_last_one() {
    for error in [DialError::Unreachable, DialError::NotAuthentic, DialError::LocalFault] {
        let mut harness = joined(&Params::default());
        stop_peers(&mut harness, [1]);
        fail_dials(&mut harness, secs(60), |_| Some(error));
        let (reader, writer) = (harness.get(key(7)), harness.put(confirmed(1, b"v")));
        fail_dials(&mut harness, millis(9_999), |_| Some(error));
        assert_eq!((harness.answer(reader), harness.answer(writer)), (None, None), "{error:?}");
        fail_dials(&mut harness, millis(1), |_| Some(error));
        assert_eq!((harness.answer(reader), harness.answer(writer)), (failure(7), failure(1)), "{error:?}");
    }
}

/// A node that has the contacts 1, its bootstrap, and 2.
fn with_two_contacts() -> Harness {
    let mut harness = joined(&Params::default());
    harness.add_contact(2);
    harness.pass(secs(1));
    harness
}

#[test]
fn one_refusal_is_enough_if_all_other_contacts_are_silent() {
    let mut harness = with_two_contacts();
    stop_peers(&mut harness, [1, 2]);
    let error = |peer| Some(if peer == 2 { DialError::Refused } else { DialError::Unreachable });
    fail_dials(&mut harness, secs(10), error);
    assert!(answers_at_once(&mut harness));
}

#[test]
fn a_contact_that_this_host_could_not_dial_may_run() {
    let mut harness = with_two_contacts();
    stop_peers(&mut harness, [1, 2]);
    let error = |peer| Some(if peer == 2 { DialError::Refused } else { DialError::LocalFault });
    fail_dials(&mut harness, secs(60), error);
    assert!(!answers_at_once(&mut harness));
    fail_dials(&mut harness, secs(80), |_| Some(DialError::Refused));
    assert!(answers_at_once(&mut harness), "now it has tried all");
    fail_dials(&mut harness, secs(80), error);
    assert!(!answers_at_once(&mut harness), "the contact may have come back unnoticed");
}

#[test]
fn a_contact_whose_dial_is_in_flight_may_run() {
    let mut harness = with_two_contacts();
    stop_peers(&mut harness, [1, 2]);
    fail_dials(&mut harness, secs(1), |peer| (peer == 2).then_some(DialError::Refused));
    assert!(!answers_at_once(&mut harness));
}

/// The dial of its address is silent: the whole host was switched off.
#[test]
fn the_goodbye_of_the_last_contact_counts_as_a_refusal() {
    for says_goodbye in [true, false] {
        let mut harness = joined(&Params::default());
        harness.make_scripted(1);
        if says_goodbye {
            harness.send(ConnId(1), &PeerMessage::Goodbye);
        }
        stop_peers(&mut harness, [1]);
        fail_dials(&mut harness, secs(10), |_| Some(DialError::Unreachable));
        assert_eq!(harness.node.status(), Status::Joining);
        assert_eq!(answers_at_once(&mut harness), says_goodbye);
    }
}

/// A supervisor has started the process of the contact again.
#[test]
fn a_contact_that_is_back_in_a_moment_is_never_taken_for_stopped() {
    let mut harness = joined(&Params::default());
    stop_peers(&mut harness, [1]);
    fail_dials(&mut harness, millis(400), |_| Some(DialError::Refused));
    let reader = harness.get(key(7));
    assert_eq!(harness.answer(reader), None);
    harness.make_automatic(1);
    harness.pass(millis(200));
    for (dial, ..) in harness.dials() {
        harness.complete_dial(dial, 1);
    }
    assert!(harness.node.status().has_joined());
    assert_eq!(harness.answer(reader), None, "the contact is asked");
    assert!(!harness.all_requests(|request| matches!(request, Request::FindValue { .. }).then_some(())).is_empty());
}

#[test]
fn the_last_node_waits_again_as_soon_as_a_peer_connects() {
    let mut harness = last_node(&Params::default());
    let client = harness.accept_client(9);
    assert!(answers_at_once(&mut harness), "that peer stores nothing");
    harness.close(client);
    let conn = harness.accept(2);
    assert!(answers_at_once(&mut harness), "it may be any peer until it has sent its HELLO");
    harness.send(conn, &hello());
    let reader = harness.get(key(7));
    assert_eq!(harness.answer(reader), None);
    // While it is connected, refusals of others say nothing.
    fail_dials(&mut harness, secs(9), |_| Some(DialError::Refused));
    assert_eq!(harness.answer(reader), None);
    harness.close(conn);
    fail_dials(&mut harness, secs(80), |_| Some(DialError::Refused));
    assert!(answers_at_once(&mut harness));
}

/// The peer 1 is back, and answers copies as `answer` says. Returns the keys of the copies.
fn come_back(harness: &mut Harness, answer: impl Fn(&RecordBlock<'static>) -> Reply<'static>) -> Vec<Key> {
    harness.make_automatic(1);
    let mut copied = Vec::new();
    for _ in 0..100 {
        harness.pass(millis(50));
        for (dial, ..) in harness.dials() {
            harness.complete_dial(dial, 1);
        }
        for (conn, rpc, copy) in harness.copies() {
            copied.push(copy.key);
            harness.reply(conn, rpc, answer(&copy));
        }
    }
    copied
}

#[test]
fn what_the_last_node_confirmed_is_handed_to_a_contact_that_comes_back() {
    let mut harness = last_node(&Params::default());
    let writer = harness.put(confirmed(1, b"alone"));
    assert_eq!(harness.answer(writer), success(1, b""));
    harness.put(quiet(2, b"unasked"));
    let mut copied = come_back(&mut harness, stored);
    copied.sort_unstable();
    assert_eq!(copied, [key(1), key(2)]);
    harness.pass(secs(300));
    assert_eq!(harness.copies(), [], "each is done");
}

/// Others exist, although it knows none of them now.
#[test]
fn a_founder_hands_over_what_it_confirmed_after_all_contacts_had_left() {
    let mut harness = Harness::founder();
    let conn = harness.add_contact(1);
    harness.make_scripted(1);
    harness.send(conn, &PeerMessage::Goodbye);
    harness.close(conn);
    assert!(harness.node.table().is_empty());
    let writer = harness.put(confirmed(1, b"alone"));
    assert_eq!(harness.answer(writer), success(1, b""));
    let conn = harness.accept(1);
    harness.send(conn, &hello());
    assert_eq!(come_back(&mut harness, stored), [key(1)]);
}

#[test]
fn a_newer_record_of_a_contact_that_comes_back_wins_over_what_was_confirmed_alone() {
    let mut harness = last_node(&Params::default());
    let writer = harness.put(confirmed(1, b"alone"));
    assert_eq!(harness.answer(writer), success(1, b""));
    let copied = come_back(&mut harness, |_| larger(1, version_at(2_500)));
    assert_eq!(copied, [key(1)]);
    harness.pass(secs(300));
    assert_eq!(harness.copies(), [], "the PUT has ended");
    let reader = harness.get(key(1));
    assert_eq!(harness.answer(reader), None, "the newer record is looked up");
}

/// Nodes that all restart refuse connections until they listen.
#[test]
fn after_a_start_refusals_count_only_after_five_seconds() {
    let mut harness = Harness::new(Params::default());
    for peer in 1..=4 {
        let now = harness.now();
        harness.node.remember(now, contact(peer));
    }
    harness.wake();
    fail_dials(&mut harness, millis(4_999), |_| Some(DialError::Refused));
    assert!(!answers_at_once(&mut harness));
    fail_dials(&mut harness, secs(5), |_| Some(DialError::Refused));
    assert!(answers_at_once(&mut harness));
}

/// Its only contact of the earlier run has stopped, but perhaps not the bootstrap.
#[test]
fn a_bootstrap_that_this_host_could_not_dial_may_run() {
    for (error, is_alone) in [(DialError::LocalFault, false), (DialError::Unreachable, true)] {
        let mut harness = Harness::newcomer();
        let now = harness.now();
        harness.node.remember(now, contact(2));
        fail_dials(&mut harness, secs(30), |peer| Some(if peer == 2 { DialError::Refused } else { error }));
        assert_eq!(answers_at_once(&mut harness), is_alone, "{error:?}");
    }
}

/// A visitor in the first second does not shorten that.
#[test]
fn a_peer_that_comes_and_goes_during_the_start_does_not_make_refusals_count_earlier() {
    let mut harness = Harness::newcomer();
    harness.wake();
    let conn = harness.accept(2);
    harness.send(conn, &hello());
    harness.close(conn);
    fail_dials(&mut harness, millis(4_999), |_| Some(DialError::Refused));
    assert!(!answers_at_once(&mut harness));
}

#[test]
fn all_remembered_contacts_must_have_failed_and_are_tried_within_seconds() {
    const REMEMBERED: u8 = 100;
    let mut harness = Harness::new(Params::default());
    for peer in 1..=REMEMBERED {
        let now = harness.now();
        harness.node.remember(now, contact(peer));
    }
    harness.wake();
    let attempts = u32::from(REMEMBERED).div_ceil(u32::try_from(REMEMBERED_DIALS).expect("small"));
    fail_dials(&mut harness, secs(60), |peer| (peer != 50).then_some(DialError::Refused));
    assert!(!answers_at_once(&mut harness), "one dial is in flight");
    let mut harness = Harness::new(Params::default());
    for peer in 1..=REMEMBERED {
        let now = harness.now();
        harness.node.remember(now, contact(peer));
    }
    harness.wake();
    // Three attempts of the first seconds, and with each further one some contacts, 20 % later at most.
    fail_dials(&mut harness, secs(10) + millis(1_200) * attempts, |_| Some(DialError::Refused));
    assert!(answers_at_once(&mut harness));
}

#[test]
fn a_node_that_does_not_serve_goes_on_waiting() {
    let mut harness = last_node(&Params { serving: Serving::No, ..Params::default() });
    let (reader, writer) = (harness.get(key(7)), harness.put(confirmed(1, b"v")));
    assert_eq!((harness.answer(reader), harness.answer(writer)), (None, None));
}

/// A founder knows its contacts too: what it may answer depends on how they failed.
#[test]
fn a_founder_that_is_cut_off_waits_and_one_that_is_left_alone_does_not() {
    for (error, is_alone) in [(DialError::Refused, true), (DialError::Unreachable, false)] {
        let mut harness = Harness::founder();
        harness.add_contact(1);
        stop_peers(&mut harness, [1]);
        fail_dials(&mut harness, secs(10), |_| Some(error));
        assert_eq!(harness.node.status(), Status::Joining, "{error:?}");
        assert_eq!(answers_at_once(&mut harness), is_alone, "{error:?}");
    }
}
