//! The last process that runs: it answers its clients without the others if these have ended, and waits for them
//! if they are only silent.

use crate::common::client::{Answer, Client, key};
use crate::common::eventually;
use crate::survival::homes::{self, Home};

/// Of three processes only `last` runs, and answers its clients alone: a new value is stored, and a missing one is not
/// found. When the others are started again, they read what was confirmed without them.
fn expect_served_alone_and_handed_over(homes: &mut [Home], last: usize, name: &str) {
    homes[last].server().log_line("alone reason=");
    expect_served_alone(&homes[last], name);
    for other in (0..homes.len()).filter(|other| *other != last) {
        homes[other].start();
    }
    homes[last].server().log_line("no longer alone");
    for home in homes {
        eventually("the value is found", || Client::connect(home.api).get(key(name)));
    }
}

/// What the only running node may answer.
fn expect_served_alone(home: &Home, name: &str) {
    let mut client = Client::connect(home.api);
    let new = key(name);
    assert_eq!(client.put_confirmed(new, b"alone"), Answer::Success(new, Vec::new()));
    assert_eq!(client.get(new).as_deref(), Some(&b"alone"[..]));
    assert_eq!(client.get(key("no node stores this")), None);
}

#[test]
fn the_last_of_three_processes_answers_alone_and_hands_over_when_the_killed_ones_are_back() {
    let mut homes = homes::start_network(3, "");
    homes[0].kill();
    homes[1].kill();
    expect_served_alone_and_handed_over(&mut homes, 2, "after kills");
}

#[test]
fn the_last_of_three_processes_answers_alone_after_the_others_have_left() {
    let mut homes = homes::start_network(3, "");
    homes[0].stop();
    homes[2].stop();
    expect_served_alone_and_handed_over(&mut homes, 1, "after goodbyes");
}

/// It restarts into a network of which nothing else runs.
#[test]
fn a_process_that_is_started_again_without_the_others_answers_alone() {
    let mut homes = homes::start_network(3, "");
    for home in &mut homes {
        home.kill();
    }
    homes[2].start();
    expect_served_alone_and_handed_over(&mut homes, 2, "after a restart");
}

/// A process that is suspended accepts connections and says nothing, like a host behind a broken link.
#[test]
fn a_process_whose_peers_are_silent_confirms_nothing_alone() {
    let homes = homes::start_network(2, "rpc_timeout = 500ms\nrequest_timeout = 3s");
    homes[0].server().signal("STOP");
    let mut client = Client::connect(homes[1].api);
    assert_eq!(client.get(key("no node stores this")), None);
    homes[1].server().log_line("joining again");
    let new = key("while the other is silent");
    assert_eq!(client.put_confirmed(new, b"not yet"), Answer::Failure(new));
    homes[1].server().log_line("put not confirmed");
    assert!(!homes[1].server().log().iter().any(|line| line.contains("alone reason=")));
    homes[0].server().signal("CONT");
    eventually("the value is found", || Client::connect(homes[0].api).get(new));
}
