//! One node alone: it serves what it holds, and finds the others when they return.

use dht::id::Key;
use dht::wire::api::ApiRequest;

use crate::common::eventually;
use crate::survival::homes::{self, Place};
use crate::survival::writers::{Said, ask, put};

fn key(number: u8) -> Key {
    Key::new([number.wrapping_mul(37); 32])
}

fn found(place: &Place, number: u8) -> bool {
    ask(place.api, &ApiRequest::Get { key: key(number) }) == Said::Success(vec![number])
}

fn write(place: &Place, number: u8) {
    let said = ask(place.api, &put(key(number), 3600, 20, &[number]));
    assert_eq!(said, Said::Success(Vec::new()), "{number}");
}

/// PUT at each, and found at each.
fn expect_one_network(places: &[Place], from: u8) {
    for (number, putter) in (from..).zip(places) {
        write(putter, number);
        for getter in places {
            assert!(found(getter, number), "{number} at {}", getter.api);
        }
    }
}

#[test]
fn a_node_whose_peers_all_die_serves_its_records_and_joins_again_once_they_return() {
    let mut places = homes::settle(6, "");
    for number in 0..20 {
        write(&places[usize::from(number) % 6], number);
    }
    for at in [0, 1, 2, 3, 5] {
        places[at].kill();
    }
    for number in 0..20 {
        assert!(found(&places[4], number), "{number}, alone");
    }
    places[4].server().log_line("joining again");
    for at in [0, 1, 2, 3, 5] {
        places[at].start();
    }
    places[4].server().nth_log_line("joined contacts=", 1);
    for place in &places {
        eventually("all have settled", || found(place, 0).then_some(()));
    }
    expect_one_network(&places, 100);
}

#[test]
fn a_node_whose_peers_all_hang_serves_its_records_and_joins_again_once_they_continue() {
    let places = homes::settle(6, "");
    for number in 0..20 {
        write(&places[usize::from(number) % 6], number);
    }
    let others = [0, 1, 2, 3, 5].map(|at: usize| &places[at]);
    for other in others {
        other.server().signal("STOP");
    }
    for number in 0..20 {
        assert!(found(&places[4], number), "{number}, alone");
    }
    places[4].server().log_line("joining again");
    for other in others {
        other.server().signal("CONT");
    }
    places[4].server().nth_log_line("joined contacts=", 1);
    expect_one_network(&places, 100);
}

#[test]
fn a_node_that_restarts_without_peers_serves_its_records() {
    let mut places = homes::settle(6, "");
    for number in 0..20 {
        write(&places[usize::from(number) % 6], number);
    }
    for place in &mut places {
        place.stop();
    }
    places[4].start();
    for number in 0..20 {
        assert!(found(&places[4], number), "{number}, alone");
    }
}

/// Seed 000's "bootstrap recovery": the founder has no bootstraps, but it remembers.
#[test]
fn a_founder_that_restarts_joins_through_its_remembered_contacts() {
    let mut places = homes::settle(6, "");
    places[0].stop();
    places[0].start();
    places[0].server().log_line("settled records=");
    expect_one_network(&places, 50);
}

/// All bootstraps of everybody are dead, and a node that is not one of them restarts.
#[test]
fn a_node_whose_bootstraps_are_all_dead_joins_through_its_remembered_contacts() {
    let mut places = homes::settle(8, "");
    for bootstrap in &mut places[..4] {
        bootstrap.kill();
    }
    places[6].stop();
    places[6].start();
    places[6].server().log_line("settled records=");
    expect_one_network(&places[4..], 80);
}
