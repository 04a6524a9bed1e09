//! A node that never had a peer: only its own disk has its values.

use std::fs;
use std::net::SocketAddr;

use dht::disk::store::{Store, Trust};
use dht::id::Key;

use crate::common::client::{Answer, Client, key};
use crate::common::eventually;
use crate::survival::homes::Home;
use crate::survival::writers::{Outcome, ask, put};

/// Confirmed values of a test.
const VALUES: u8 = 20;

fn name(number: u8) -> Key {
    key(&format!("alone {number}"))
}

fn write(api: SocketAddr, number: u8) {
    let outcome = Client::connect(api).put_confirmed(name(number), &[number; 300]);
    assert_eq!(outcome, Answer::Success(name(number), Vec::new()));
}

fn expect_all(home: &Home) {
    for number in 0..VALUES {
        let value = Client::connect(home.api).get(name(number));
        assert_eq!(value, Some(vec![number; 300]), "{number}");
    }
}

/// The number of keys that a node killed now would find on disk.
fn keys_on_disk(home: &Home) -> Option<usize> {
    let (records, copy) = (home.data("records"), home.data("copy"));
    fs::create_dir_all(&copy).expect("a directory for this test");
    for entry in fs::read_dir(&records).expect("a node that runs has its store") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), copy.join(entry.file_name())).expect("a copy");
    }
    // A copy that was made during a write may be refused.
    Store::reopen(&copy, Trust::All).map(|store| store.len()).ok()
}

/// The node is killed as soon as a PUT is confirmed.
#[test]
fn a_killed_lone_node_has_every_confirmed_value() {
    for durability in ["durability = always", "durability = 1m"] {
        let mut home = Home::alone(durability);
        for number in 0..VALUES {
            home.start();
            write(home.api, number);
            home.kill();
        }
        home.start();
        expect_all(&home);
    }
}

/// Nobody waits for these values, so only the interval makes the node save them.
#[test]
fn with_an_interval_a_killed_lone_node_has_every_persisted_value() {
    let mut home = Home::alone("durability = 50ms");
    home.start();
    let mut client = Client::connect(home.api);
    (0..VALUES).for_each(|number| client.put(name(number), &[number; 300]));
    eventually("all is saved of its own accord", || (keys_on_disk(&home) == Some(usize::from(VALUES))).then_some(()));
    home.kill();
    home.start();
    expect_all(&home);
}

/// A regular stop does not wait for the interval.
#[test]
fn a_stopped_lone_node_has_every_confirmed_value() {
    let mut home = Home::alone("durability = 1m");
    home.start();
    (0..VALUES).for_each(|number| write(home.api, number));
    home.stop();
    home.start();
    expect_all(&home);
}

#[test]
fn with_durability_none_a_restart_begins_empty_and_moves_the_old_store_aside() {
    let mut home = Home::alone("durability = always");
    home.start();
    (0..VALUES).for_each(|number| write(home.api, number));
    home.stop();
    home.configure("durability = none");
    for _ in 0..2 {
        home.start();
        let mut client = Client::connect(home.api);
        assert_eq!(client.get(name(0)), None);
        assert_eq!(client.put_confirmed(name(0), b"for now"), Answer::Success(name(0), Vec::new()));
        assert_eq!(client.get(name(0)).as_deref(), Some(&b"for now"[..]));
        home.stop();
    }
    assert!(!home.data("records.aside.1").exists(), "only what holds something is moved");
    fs::remove_dir_all(home.data("records")).expect("it has contacts at most");
    fs::rename(home.data("records.aside"), home.data("records")).expect("it was moved aside");
    home.configure("durability = always");
    home.start();
    expect_all(&home);
}

/// What was confirmed before is written again, into a new store, before the next value is confirmed.
#[test]
fn a_node_whose_store_was_deleted_or_replaced_loses_no_confirmed_value() {
    type Loss = fn(&Home);
    let losses: [(&str, Loss); 4] = [
        ("records/00000001.log is missing", |home| {
            fs::remove_file(home.data("records/00000001.log")).expect("the node has it");
        }),
        ("it was cut", |home| {
            let file = fs::File::options().write(true).open(home.data("records/00000001.log"));
            file.and_then(|file| file.set_len(0)).expect("the node has it");
        }),
        ("is missing", |home| fs::remove_dir_all(home.data("records")).expect("the node has it")),
        ("is another file", |home| {
            keys_on_disk(home);
            fs::rename(home.data("records"), home.data("away")).expect("the node has it");
            fs::rename(home.data("copy"), home.data("records")).expect("it was copied");
        }),
    ];
    for (words, lose) in losses {
        let mut home = Home::alone("durability = always");
        home.start();
        (0..VALUES - 1).for_each(|number| write(home.api, number));
        lose(&home);
        write(home.api, VALUES - 1);
        home.server().log_line(words);
        home.server().log_line("store begun anew");
        home.kill();
        home.start();
        expect_all(&home);
    }
}

/// Most values end at once. Their space is given back while the node runs.
#[test]
fn the_space_of_values_that_have_ended_is_given_back() {
    let mut home = Home::alone("durability = always");
    home.start();
    let size = |home: &Home| -> u64 {
        let files = fs::read_dir(home.data("records")).expect("the node has it").flatten();
        files.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
    };
    let value = vec![7; 60_000];
    for number in 0..1_000_u32 {
        let name = key(&format!("short {number}"));
        assert_eq!(ask(home.api, &put(name, 1, 1, &value)), Outcome::Success(Vec::new()));
    }
    // At most half a segment that is not due, the newest segment and the reserve.
    eventually("the space is given back", || (size(&home) < 12 << 20).then_some(()));
    home.kill();
    home.start();
    assert!(size(&home) < 12 << 20);
}
