//! Tests of the order in which connections are served: those that take long wait for the others.

use super::*;
use crate::net::conn::Phase;

/// Flag of a PUT whose value is signed.
const SIGNED: u8 = 2;

/// Two clients, of which the first one is served first if both have an event.
fn two_clients() -> (Host, Client, Client) {
    let mut host = Host::new();
    let (mut first, mut second) = (Client::new(host.api), Client::new(host.api));
    for client in [&mut first, &mut second] {
        client.send(&[get(0)]);
        run_until(&mut host, client, |_, client| client.replies().len() == 1);
    }
    host.echo().gets.clear();
    (host, first, second)
}

/// Lets one deferred connection be served in a turn.
fn give_no_time(host: &mut Host) {
    host.event_loop.pace.input = Duration::ZERO;
    host.event_loop.pace.output = Duration::ZERO;
}

/// Both send these numbers of GETs at the same time. Returns for each GET whether it was one of the first client.
fn order(host: &mut Host, clients: [&mut Client; 2], gets: [usize; 2]) -> Vec<bool> {
    let [first, second] = clients;
    let before = [first.replies().len(), second.replies().len()];
    for (client, gets) in [(&mut *first, gets[0]), (&mut *second, gets[1])] {
        client.send(&(1..=gets).map(get).collect::<Vec<_>>());
        client.pump();
    }
    run_until(host, first, |_, first| {
        second.pump();
        first.replies().len() >= before[0] + gets[0] && second.replies().len() >= before[1] + gets[1]
    });
    let takers: Vec<u64> = std::mem::take(&mut host.echo().gets).iter().map(|(client, _)| client.connection).collect();
    let of_first = takers.iter().min().copied();
    takers.iter().map(|taker| Some(*taker) == of_first).collect()
}

#[test]
fn a_client_with_large_answers_waits_for_the_others_after_the_first_one() {
    let (mut host, mut first, mut second) = two_clients();
    host.echo().value = Arc::from(vec![7; VALUE_SIZE_MAX]);
    let order = order(&mut host, [&mut first, &mut second], [20, 1]);
    assert_eq!(order.iter().position(|is_first| !is_first), Some(1), "{order:?}");
}

#[test]
fn a_client_with_many_requests_waits_for_the_others_after_some() {
    let (mut host, mut first, mut second) = two_clients();
    let order = order(&mut host, [&mut first, &mut second], [1_000, 1]);
    let before = order.iter().position(|is_first| !is_first).expect("one of the second client");
    assert!(before > 0 && before < 200, "{before}");
}

#[test]
fn a_client_whose_last_requests_took_long_is_served_after_the_others_and_in_one_slice() {
    let (mut host, mut first, mut second) = two_clients();
    order(&mut host, [&mut first, &mut second], [150, 1]);
    for _ in 0..3 {
        let order = order(&mut host, [&mut first, &mut second], [150, 1]);
        assert!(!order[0] && order[1..].iter().all(|is_first| *is_first), "{order:?}");
    }
    order(&mut host, [&mut first, &mut second], [1, 1]);
    let order = order(&mut host, [&mut first, &mut second], [1, 1]);
    assert_eq!(order, [true, false], "a light client is served in its turn");
}

#[test]
fn a_client_that_sends_a_large_request_waits_for_the_others_earlier() {
    let (mut host, mut first, mut second) = two_clients();
    first.send(&[put_value(0, &vec![7; 40_000])]); // one read, and not yet a whole slice
    let order = order(&mut host, [&mut first, &mut second], [70, 1]);
    let before = order.iter().position(|is_first| !is_first).expect("one of the second client");
    assert!(before < 70, "{before}");
}

#[test]
fn a_client_whose_signatures_must_be_verified_waits_for_the_others_after_the_first_one() {
    let (mut host, mut first, mut second) = two_clients();
    first.send(&vec![put_value(SIGNED, b"value"); 2]);
    assert_eq!(order(&mut host, [&mut first, &mut second], [1, 1]), [false, true]);
}

#[test]
fn what_is_left_of_the_output_is_written_after_new_output() {
    let (mut host, mut first, mut second) = two_clients();
    host.echo().behaviour = Behaviour::Deferred;
    host.echo().value = Arc::from(vec![7; VALUE_SIZE_MAX]);
    for client in [&mut first, &mut second] {
        client.send(&[get(1)]);
        client.pump();
    }
    run_until(&mut host, &mut first, |host, _| host.event_loop.service.gets.len() == 2);
    let slots = host.event_loop.connections.slots();
    host.echo().answer_gets();
    host.event_loop.call(Echo::on_timeout);
    let unsent = |host: &mut Host, at: usize| host.event_loop.connections.at(slots[at]).client().outbox().len();
    let whole = unsent(&mut host, 0);
    assert_eq!(whole, ANSWER_SIZE_MAX);
    host.event_loop.flush_new();
    assert_eq!([unsent(&mut host, 0), unsent(&mut host, 1)], [whole - FIRST_OUTPUT_SLICE; 2]);
    assert_eq!(host.event_loop.connections.at(slots[0]).client().behind_since(), None, "its socket has room");
    assert!(host.event_loop.connections.has_work());
    run_until(&mut host, &mut first, |_, first| {
        second.pump();
        first.replies().len() == 2 && second.replies().len() == 2
    });
}

#[test]
fn a_deferred_client_is_served_in_parts_while_there_is_no_time() {
    let (mut host, mut first, mut second) = two_clients();
    order(&mut host, [&mut first, &mut second], [150, 0]);
    give_no_time(&mut host);
    first.send(&vec![get(0); 500]);
    first.pump();
    host.turn();
    let served = host.echo().gets.len();
    assert!(served > 100 && served < 300, "{served}");
    run_until(&mut host, &mut first, |_, first| first.replies().len() == 651);
}

#[test]
fn deferred_input_and_deferred_output_take_turns_while_there_is_no_time() {
    let (mut host, mut first, mut second) = two_clients();
    order(&mut host, [&mut first, &mut second], [150, 0]);
    second.send(&[get(1)]);
    host.echo().behaviour = Behaviour::Deferred;
    host.echo().value = Arc::from(vec![7; VALUE_SIZE_MAX]);
    run_until(&mut host, &mut second, |host, _| host.event_loop.service.gets.len() == 1);
    let slots = host.event_loop.connections.slots();
    host.echo().answer_gets();
    host.event_loop.call(Echo::on_timeout);
    host.event_loop.flush_new(); // the second client is left with deferred output
    host.echo().behaviour = Behaviour::Immediate;
    give_no_time(&mut host);
    first.send(&vec![get(0); 300]);
    first.pump();
    let mut after = Vec::new();
    for _ in 0..2 {
        host.turn();
        let gets = std::mem::take(&mut host.echo().gets).len();
        after.push((gets > 0, host.event_loop.connections.at(slots[1]).client().outbox().is_empty()));
    }
    assert_eq!(after, [(true, false), (false, true)]);
    run_until(&mut host, &mut first, |_, first| first.replies().len() == 451);
}

#[test]
fn a_connection_that_is_closed_is_flushed_and_discarded_after_the_others() {
    let mut host = Host::new();
    let mut faulty = Client::new(host.api);
    faulty.unsent = vec![0; 1_000];
    faulty.reads = false;
    run_until(&mut host, &mut faulty, |host, _| host.event_loop.counters.faults == 1);
    let slot = host.event_loop.connections.slots()[0];
    let conn = host.event_loop.connections.at(slot);
    assert!(conn.phase == Phase::Lingering && conn.deferred.input);
}

#[test]
fn a_full_pool_takes_a_connection_instead_of_a_lingering_one() {
    let mut host = Host::with(1, |options| options.api_connections_max = 1);
    let mut faulty = Client::new(host.api);
    faulty.unsent = vec![0; 1_000];
    faulty.reads = false;
    run_until(&mut host, &mut faulty, |host, _| host.event_loop.counters.faults == 1);
    assert_eq!(host.event_loop.connections.slots().len(), 1, "it lingers");
    let mut next = Client::with_requests(&host, &[get(1)]);
    run_until(&mut host, &mut next, |_, next| next.replies().len() == 1);
    assert_eq!(host.event_loop.counters.refused, 0);
    let mut third = Client::new(host.api);
    run_until(&mut host, &mut third, |_, third| third.ended);
    assert_eq!(host.event_loop.counters.refused, 1, "an open connection stays");
}

/// A late turn in which two deferred clients send the rest of their requests. The poll reports this many events at once.
fn late_turn(events: usize) {
    let (mut host, mut first, mut second) = two_clients();
    host.events = Events::with_capacity(events);
    give_no_time(&mut host);
    let half = get(1).len() / 2;
    second.send(&vec![get(0); 150]);
    second.send(&[get(1)[..half].to_vec()]);
    order(&mut host, [&mut first, &mut second], [150, 0]);
    run_until(&mut host, &mut second, |_, second| second.replies().len() == 151);
    host.echo().gets.clear(); // from now on both are deferred
    first.send(&[get(2)]);
    second.send(&[get(1)[half..].to_vec()]);
    first.pump();
    second.pump();
    host.event_loop.pace.late_after = Duration::from_secs(1);
    host.event_loop.clock.skip(Duration::from_mins(1));
    host.turn();
    let gets: Vec<Key> = host.echo().gets.iter().map(|(_, key)| *key).collect();
    assert_eq!(gets, [key(2), key(1)]);
    assert_eq!((host.event_loop.counters.faults, host.event_loop.connections.slots().len()), (0, 2));
}

#[test]
fn in_a_late_turn_deferred_connections_are_served_before_deadlines() {
    late_turn(64);
}

#[test]
fn in_a_late_turn_all_events_are_handled_before_deadlines() {
    late_turn(1);
}
