//! A node that has lost all peers serves its records, and joins again once the peers return.

use dht::id::Key;
use dht::wire::api::ApiRequest;

use crate::common::eventually;
use crate::survival::homes::{self, Home};
use crate::survival::writers::{Outcome, ask, put};

fn key(number: u8) -> Key {
    Key::new([number.wrapping_mul(37); 32])
}

fn found(home: &Home, number: u8) -> bool {
    ask(home.api, &ApiRequest::Get { key: key(number) }) == Outcome::Success(vec![number])
}

fn write(home: &Home, number: u8) {
    let outcome = ask(home.api, &put(key(number), 3600, 20, &[number]));
    assert_eq!(outcome, Outcome::Success(Vec::new()), "{number}");
}

/// Each node finds a value that was PUT at any other.
fn expect_one_network(homes: &[Home], from: u8) {
    for (number, putter) in (from..).zip(homes) {
        write(putter, number);
        for getter in homes {
            assert!(found(getter, number), "{number} at {}", getter.api);
        }
    }
}

#[test]
fn a_node_whose_peers_all_die_serves_its_records_and_joins_again_once_they_return() {
    let mut homes = homes::start_network(6, "");
    for number in 0..20 {
        write(&homes[usize::from(number) % 6], number);
    }
    for at in [0, 1, 2, 3, 5] {
        homes[at].kill();
    }
    for number in 0..20 {
        assert!(found(&homes[4], number), "{number}, alone");
    }
    homes[4].server().log_line("joining again");
    for at in [0, 1, 2, 3, 5] {
        homes[at].start();
    }
    homes[4].server().nth_log_line("joined contacts=", 1);
    for home in &homes {
        eventually("all have settled", || found(home, 0).then_some(()));
    }
    expect_one_network(&homes, 100);
}

#[test]
fn a_node_whose_peers_all_hang_serves_its_records_and_joins_again_once_they_continue() {
    let homes = homes::start_network(6, "");
    for number in 0..20 {
        write(&homes[usize::from(number) % 6], number);
    }
    let others = [0, 1, 2, 3, 5].map(|at: usize| &homes[at]);
    for other in others {
        other.server().signal("STOP");
    }
    for number in 0..20 {
        assert!(found(&homes[4], number), "{number}, alone");
    }
    homes[4].server().log_line("joining again");
    for other in others {
        other.server().signal("CONT");
    }
    homes[4].server().nth_log_line("joined contacts=", 1);
    expect_one_network(&homes, 100);
}

#[test]
fn a_node_that_restarts_without_peers_serves_its_records() {
    let mut homes = homes::start_network(6, "");
    for number in 0..20 {
        write(&homes[usize::from(number) % 6], number);
    }
    for home in &mut homes {
        home.stop();
    }
    homes[4].start();
    for number in 0..20 {
        assert!(found(&homes[4], number), "{number}, alone");
    }
}

/// The founder has no bootstraps, but it remembers contacts.
#[test]
fn a_founder_that_restarts_joins_through_its_remembered_contacts() {
    let mut homes = homes::start_network(6, "");
    homes[0].stop();
    homes[0].start();
    homes[0].server().log_line("settled records=");
    expect_one_network(&homes, 50);
}

/// All bootstraps are dead when another node restarts.
#[test]
fn a_node_whose_bootstraps_are_all_dead_joins_through_its_remembered_contacts() {
    let mut homes = homes::start_network(8, "");
    for bootstrap in &mut homes[..4] {
        bootstrap.kill();
    }
    homes[6].stop();
    homes[6].start();
    homes[6].server().log_line("settled records=");
    expect_one_network(&homes[4..], 80);
}
