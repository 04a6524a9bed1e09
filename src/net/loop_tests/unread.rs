//! Tests of the account of what clients hold that do not read. The kernel's buffers are made small, so that
//! answers soon wait in the process; the clock is moved ahead instead of waiting.

use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};

use super::*;
use crate::limits::{
    ANSWER_SIZE_MAX, API_ANSWERS_EXPECTED_MAX, API_ANSWERS_MAX, API_INPUT_MAX, API_READ_MIN, CLIENT_BUFFER_KEPT_MAX,
};
use crate::net::account::{PROGRESS_MIN, UNREAD_TIMEOUT, Usage};
use crate::net::conn::Side;

/// The value of the tests: its answer has 60 000 bytes.
const VALUE: usize = 59_964;

const ANSWER: usize = 60_000;

/// The size of the kernel's buffers. With much smaller ones, connections on the loopback interface stall.
const KERNEL_BUFFER: usize = 32 << 10;

/// A second less than a client has for reading.
const ALMOST: Duration = Duration::from_secs(UNREAD_TIMEOUT.as_secs() - 1);

/// Many turns, for what must not happen.
const TURNS: usize = 300;

fn host(behaviour: Behaviour) -> Host {
    let mut host = Host::new();
    host.echo().behaviour = behaviour;
    host.echo().value = vec![7; VALUE].into();
    host
}

/// A connected client whose socket has small buffers on both sides. It sends nothing yet.
fn client(host: &mut Host) -> Client {
    let before = host.event_loop.connections.slots().len();
    let client = Client::new(host.api);
    set_socket_recv_buffer_size(&client.socket, KERNEL_BUFFER).expect("the kernel takes any size");
    while host.event_loop.connections.slots().len() == before {
        host.turn();
    }
    for slot in host.event_loop.connections.slots() {
        let stream = &host.event_loop.connections.at(slot).socket.stream;
        set_socket_send_buffer_size(stream, KERNEL_BUFFER).expect("the kernel takes any size");
    }
    client
}

/// A client that sends `gets` GETs at once and reads nothing.
fn silent(host: &mut Host, gets: usize) -> Client {
    let mut client = client(host);
    client.reads = false;
    client.send(&(0..gets).map(get).collect::<Vec<_>>());
    client.pump();
    turns(host);
    client
}

fn turns(host: &mut Host) {
    for _ in 0..TURNS {
        host.turn();
    }
}

fn skip(host: &mut Host, time: Duration) {
    host.event_loop.clock.skip(time);
    turns(host);
}

/// What the client holds that connected as number `at`, and is still connected.
fn usage(host: &mut Host, at: usize) -> Usage {
    let slot = host.event_loop.connections.slots()[at];
    host.event_loop.connections.at(slot).usage()
}

fn connected(host: &Host) -> usize {
    host.event_loop.connections.slots().len()
}

/// The sum of the account, after checking that it is one.
fn all(host: &mut Host) -> Usage {
    let mut sum = Usage::default();
    for at in 0..connected(host) {
        let one = usage(host, at);
        sum.finished += one.finished;
        sum.reserved += one.reserved;
        sum.input += one.input;
    }
    assert_eq!(host.event_loop.connections.account.all(), sum);
    sum
}

/// Reads at least `len` bytes.
fn read(host: &mut Host, client: &mut Client, len: usize) {
    let until = client.received.len() + len;
    let mut buffer = [0; 1024];
    for _ in 0..TURNS_MAX {
        if client.received.len() >= until {
            return;
        }
        host.turn();
        match client.socket.read(&mut buffer) {
            Ok(len) => client.received.extend_from_slice(&buffer[..len]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("the connection ended: {error}"),
        }
    }
    panic!("the bytes never came");
}

#[test]
fn a_client_that_reads_nothing_holds_a_bounded_number_of_answers_and_is_closed_after_30_s() {
    let mut host = host(Behaviour::Immediate);
    let mut honest = client(&mut host);
    let silent = silent(&mut host, 100);
    let held = usage(&mut host, 1).finished;
    let bound = API_ANSWERS_EXPECTED_MAX;
    assert!(held > bound - 2 * ANSWER_SIZE_MAX && held <= bound, "{held} bytes");
    skip(&mut host, ALMOST);
    assert_eq!(connected(&host), 2);
    honest.send(&[get(1)]);
    run_until(&mut host, &mut honest, |_, client| client.replies().len() == 1);
    skip(&mut host, Duration::from_secs(1));
    assert_eq!((connected(&host), host.event_loop.counters.faults), (1, 1));
    assert_eq!(all(&mut host).answers(), 0, "its answers are freed");
    honest.send(&[get(2)]);
    run_until(&mut host, &mut honest, |_, client| client.replies().len() == 2);
    drop(silent);
}

#[test]
fn values_that_arrive_later_count_before_they_arrive() {
    let mut host = host(Behaviour::Deferred);
    let mut client = silent(&mut host, 100);
    let mut taken = 0;
    for _ in 0..5 {
        taken += host.echo().gets.len();
        host.echo().answer_gets();
        turns(&mut host);
        let held = usage(&mut host, 0);
        assert!(held.finished <= API_ANSWERS_EXPECTED_MAX, "{held:?}");
    }
    assert!((16..=20).contains(&taken), "{taken} requests taken of a client that reads nothing");
    client.reads = true;
    run_until(&mut host, &mut client, |host, client| {
        assert!(host.event_loop.connections.account.all().finished <= API_ANSWERS_EXPECTED_MAX);
        client.received.len() == 100 * ANSWER || !host.event_loop.service.gets.is_empty()
    });
    for _ in 0..100 {
        host.echo().answer_gets();
        run_until(&mut host, &mut client, |host, client| {
            client.received.len() == 100 * ANSWER || !host.event_loop.service.gets.is_empty()
        });
    }
    let expected: Vec<_> = (0..100).map(|number| (key(number), Some(VALUE))).collect();
    assert_eq!(client.replies(), expected);
}

#[test]
fn a_client_that_reads_a_byte_a_second_is_closed_although_it_never_stops() {
    let mut host = host(Behaviour::Immediate);
    let mut client = silent(&mut host, 100);
    for second in 0..UNREAD_TIMEOUT.as_secs() {
        assert_eq!(connected(&host), 1, "after {second} s");
        read(&mut host, &mut client, 1);
        skip(&mut host, Duration::from_secs(1));
    }
    assert_eq!((connected(&host), host.event_loop.counters.faults), (0, 1));
}

#[test]
fn a_slow_client_that_reads_continuously_gets_all_its_answers() {
    let mut host = host(Behaviour::Immediate);
    let mut client = silent(&mut host, 30);
    for _ in 0..10 {
        read(&mut host, &mut client, 8 * PROGRESS_MIN);
        skip(&mut host, ALMOST);
        assert_eq!(connected(&host), 1);
    }
    client.reads = true;
    run_until(&mut host, &mut client, |_, client| client.received.len() == 30 * ANSWER);
    assert_eq!(client.replies().len(), 30);
}

#[test]
fn a_slow_client_that_has_closed_its_side_gets_all_its_answers_and_a_silent_one_is_closed() {
    let mut host = host(Behaviour::Immediate);
    let (mut slow, silent) = (silent(&mut host, 10), silent(&mut host, 10));
    for client in [&slow, &silent] {
        client.socket.shutdown(Shutdown::Write).expect("the connection is open");
    }
    turns(&mut host);
    for _ in 0..2 {
        read(&mut host, &mut slow, 8 * PROGRESS_MIN);
        skip(&mut host, UNREAD_TIMEOUT / 2);
    }
    assert_eq!(connected(&host), 1);
    slow.reads = true;
    run_until(&mut host, &mut slow, |_, client| client.ended);
    assert_eq!(slow.replies().len(), 10);
}

#[test]
fn when_all_clients_together_hold_too_much_those_are_closed_that_have_not_read_for_the_longest_time() {
    let bound = 10 * ANSWER_SIZE_MAX;
    let mut host = host(Behaviour::Immediate);
    host.event_loop.connections.account.set_bounds(bound, API_INPUT_MAX);
    let mut slow = silent(&mut host, 100);
    let mut honest = client(&mut host);
    let mut others = Vec::new();
    for count in 1..=40 {
        host.event_loop.clock.skip(Duration::from_millis(100));
        others.push(silent(&mut host, 100));
        read(&mut host, &mut slow, 8 * PROGRESS_MIN);
        honest.send(&[get(count)]);
        run_until(&mut host, &mut honest, |host, client| {
            assert!(host.event_loop.connections.account.all().finished <= bound);
            client.replies().len() == count
        });
        let all = all(&mut host);
        assert!(all.finished <= bound, "{all:?}");
    }
    let closed = host.event_loop.counters.faults;
    assert!(closed >= 30, "{closed} clients closed");
    slow.reads = true;
    run_until(&mut host, &mut slow, |_, client| client.replies().len() == 100);
}

#[test]
fn answers_of_many_clients_in_one_turn_hardly_exceed_the_bound() {
    let bound = 10 * ANSWER_SIZE_MAX;
    let mut host = host(Behaviour::Immediate);
    host.event_loop.connections.account.set_bounds(bound, API_INPUT_MAX);
    let mut clients: Vec<Client> = (0..40).map(|_| silent(&mut host, 0)).collect();
    for client in &mut clients {
        client.send(&(0..10).map(get).collect::<Vec<_>>());
        client.pump();
    }
    turns(&mut host);
    let peak = host.event_loop.connections.account.finished_peak();
    assert!(peak > bound && peak <= bound + bound / 2 + ANSWER_SIZE_MAX, "{peak} bytes");
}

#[test]
fn a_client_that_has_read_while_the_host_slept_is_not_closed() {
    let mut host = host(Behaviour::Immediate);
    let mut client = silent(&mut host, 30);
    let mut buffer = [0; 1024];
    while let Ok(len) = client.socket.read(&mut buffer) {
        client.received.extend_from_slice(&buffer[..len]);
    }
    assert!(client.received.len() > PROGRESS_MIN);
    skip(&mut host, 2 * UNREAD_TIMEOUT);
    assert_eq!(connected(&host), 1);
    skip(&mut host, UNREAD_TIMEOUT);
    assert_eq!(connected(&host), 0, "it has not read since");
}

#[test]
fn a_client_that_is_owed_nothing_is_served_while_others_hold_all_the_room() {
    let mut host = host(Behaviour::Deferred);
    host.event_loop.connections.account.set_bounds(4 * ANSWER_SIZE_MAX, API_INPUT_MAX);
    let clients: Vec<Client> = (0..10).map(|_| silent(&mut host, 10)).collect();
    let mut askers: Vec<u64> = host.echo().gets.iter().map(|(client, _)| client.connection).collect();
    assert!(askers.len() <= clients.len() + 4, "{askers:?}");
    askers.sort_unstable();
    askers.dedup();
    assert_eq!(askers.len(), clients.len(), "each has one request in flight at least");
}

#[test]
fn a_client_that_waits_for_room_continues_when_an_answer_arrives_that_must_wait_for_an_earlier_one() {
    let mut host = host(Behaviour::Deferred);
    host.echo().value = vec![7; 5].into();
    let mut client = silent(&mut host, 100);
    assert_eq!(host.echo().gets.len(), 16);
    let first = host.echo().gets.remove(0);
    host.echo().answer_gets();
    turns(&mut host);
    assert!(host.echo().gets.len() >= 15, "{} requests in flight", host.echo().gets.len());
    host.echo().gets.insert(0, first);
    client.reads = true;
    for _ in 0..100 {
        host.echo().answer_gets();
        run_until(&mut host, &mut client, |host, client| {
            assert!(host.event_loop.connections.account.all().answers() <= API_ANSWERS_MAX);
            client.replies().len() == 100 || !host.event_loop.service.gets.is_empty()
        });
    }
    let expected: Vec<_> = (0..100).map(|number| (key(number), Some(5))).collect();
    assert_eq!(client.replies(), expected);
}

#[test]
fn requests_that_wait_are_left_in_the_kernel_beyond_a_bound() {
    let mut host = host(Behaviour::Deferred);
    let bound = 100_000;
    host.event_loop.connections.account.set_bounds(usize::MAX, bound);
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..20 {
        clients.push(silent(&mut host, 1_000));
    }
    let input = all(&mut host).input;
    assert!(input > bound / 2 && input <= bound + clients.len() * 2 * API_READ_MIN, "{input} bytes");
    host.echo().behaviour = Behaviour::Immediate;
    host.echo().value = vec![7; 5].into();
    host.echo().answer_gets();
    for client in &mut clients {
        client.reads = true;
        run_until(&mut host, client, |_, client| client.received.len() == 1_000 * 41);
    }
}

#[test]
fn an_idle_client_keeps_small_buffers() {
    let mut host = host(Behaviour::Deferred);
    let mut client = silent(&mut host, 2_000);
    assert!(usage(&mut host, 0).input > 50_000);
    client.reads = true;
    for _ in 0..2_000 {
        if client.received.len() == 2_000 * ANSWER {
            break;
        }
        host.echo().answer_gets();
        run_until(&mut host, &mut client, |host, client| {
            client.received.len() == 2_000 * ANSWER || !host.event_loop.service.gets.is_empty()
        });
    }
    turns(&mut host);
    let slot = host.event_loop.connections.slots()[0];
    let conn = host.event_loop.connections.at(slot);
    let inbox = conn.inbox.capacity();
    let Side::Client(state) = &mut conn.side else { panic!("a client") };
    let sizes = [inbox, state.outbox().capacity()];
    assert!(sizes.iter().all(|size| *size <= CLIENT_BUFFER_KEPT_MAX), "{sizes:?}");
}
