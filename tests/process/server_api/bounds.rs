//! Bounds and deadlines: clients that do not read, clients that do not send, and too many clients.

use std::thread;

use super::Joining;
use crate::common::Server;
use crate::common::client::{Answer, Client, get, key, put};

// ── clients that do not read ─────────────────────────────────────────────────────────────────

#[test]
fn a_client_that_reads_late_gets_all_its_answers_while_others_are_served() {
    const GETS: usize = 20_000;
    let server = Server::start("");
    let mut late = Client::connect(server.api());
    let mut other = Client::connect(server.api());
    let value = vec![b'v'; 1_000];
    late.put(key("k"), &value);
    let mut writer = late.socket();
    let writing = thread::spawn(move || {
        let requests: Vec<u8> = (0..GETS).flat_map(|at| get(key(if at % 2 == 0 { "k" } else { "nobody" }))).collect();
        std::io::Write::write_all(&mut writer, &requests).expect("the server reads on");
    });
    for at in 0..1_000 {
        let key = key(&format!("other {at}"));
        other.put(key, b"served");
        assert_eq!(other.get(key).as_deref(), Some(&b"served"[..]));
    }
    for at in 0..GETS {
        let expected = match at % 2 {
            0 => Answer::Success(key("k"), value.clone()),
            _ => Answer::Failure(key("nobody")),
        };
        assert_eq!(late.answer(), expected, "answer {at}");
    }
    writing.join().expect("it has sent all");
}

/// 10 MiB of GETs ask for 17 GB of answers. The server fills its bounds and the kernel's buffers, then
/// stops reading until the client reads.
#[test]
fn the_server_stops_reading_from_a_client_that_never_reads_and_uses_little_memory() {
    const MEMORY_MAX_KIB: u64 = 32 << 10;
    const REQUESTS_MAX: usize = 64 << 20;
    /// Turns of the server's loop in which it reads nothing from that client.
    const IDLE_TURNS: usize = 200;
    let server = Server::start("");
    let (mut deaf, mut other) = (Client::connect(server.api()), Client::connect(server.api()));
    let value = vec![b'v'; 60_000];
    deaf.put(key("k"), &value);
    assert!(deaf.get(key("k")) == Some(value));
    let before = server.memory_kib();

    let requests = get(key("k")).repeat(1_000);
    let (mut sent, mut idle_turns) = (0, 0);
    while idle_turns < IDLE_TURNS {
        let count = deaf.try_send(&requests[sent % requests.len()..]);
        sent += count;
        assert!(sent < REQUESTS_MAX, "the server reads on");
        idle_turns = if count == 0 { idle_turns + 1 } else { 0 };
        assert_eq!(other.get(key("nobody")), None, "others are served");
    }

    let grown = server.memory_kib().saturating_sub(before);
    assert!(grown < MEMORY_MAX_KIB, "{grown} KiB more");
    drop(deaf);
    assert_eq!(other.get(key("nobody")), None);
}

#[test]
fn a_flood_of_values_costs_little_more_memory_than_storage_bytes_max() {
    const MEMORY_MAX_KIB: u64 = 32 << 10;
    const PUTS: usize = 2_000;
    let server = Server::start("storage_bytes_max = 1 MiB");
    let mut client = Client::connect(server.api());
    assert_eq!(client.get(key("k")), None);
    let before = server.memory_kib();
    let value = vec![b'v'; 60_000];
    for at in 0..PUTS {
        client.put(key(&format!("{at}")), &value);
    }
    assert!(client.get(key("0")) == Some(value), "the first had room");
    assert_eq!(client.get(key(&format!("{}", PUTS - 1))), None, "the last had none");
    let grown = server.memory_kib().saturating_sub(before);
    assert!(grown < MEMORY_MAX_KIB, "{grown} KiB more");
}

// ── clients that do not send ─────────────────────────────────────────────────────────────────

#[test]
fn an_idle_client_is_closed_also_within_a_request() {
    let server = Server::start("api_idle_timeout = 500ms");
    let (mut silent, mut halfway) = (Client::connect(server.api()), Client::connect(server.api()));
    halfway.send(&get(key("k"))[..20]);
    silent.expect_end();
    halfway.expect_end();
}

#[test]
fn a_client_that_sends_requests_is_not_closed_as_idle() {
    let server = Server::start("api_idle_timeout = 2s");
    let mut asking = Client::connect(server.api());
    asking.put(key("k"), b"value");
    let silent = Client::connect(server.api());
    while !silent.is_readable() {
        assert_eq!(asking.get(key("k")).as_deref(), Some(&b"value"[..]));
    }
    assert_eq!(asking.get(key("k")).as_deref(), Some(&b"value"[..]), "the silent one came later, and is gone");
}

/// The server continues in its poll, which the signal interrupts.
#[test]
fn a_client_that_has_sent_a_request_to_a_suspended_server_is_not_closed_as_idle() {
    let [server, other] = [(); 2].map(|()| Server::start("api_idle_timeout = 1s"));
    let mut client = Client::connect(server.api());
    client.put(key("k"), b"value");
    assert_eq!(client.get(key("k")).as_deref(), Some(&b"value"[..]));
    server.signal("STOP");
    client.send(&get(key("k")));
    Client::connect(other.api()).expect_end(); // the time of an idle client is over
    server.signal("CONT");
    assert_eq!(client.answer(), Answer::Success(key("k"), b"value".to_vec()));
}

#[test]
fn a_client_with_a_pending_answer_is_not_closed_as_idle() {
    let joining = Joining::start("api_idle_timeout = 1s\nrequest_timeout = 2s");
    let mut waiting = Client::connect(joining.server.api());
    waiting.send(&[put(key("held"), 60, b"here"), get(key("slow"))].concat());
    let mut silent = Client::connect(joining.server.api());
    silent.expect_end();
    assert_eq!(waiting.answer(), Answer::Failure(key("slow")));
    assert_eq!(waiting.get(key("held")).as_deref(), Some(&b"here"[..]), "its silence begins with the answer");
    waiting.expect_end();
}

/// The bound is a constant of ten seconds, so this test waits for ten seconds.
#[test]
fn a_client_with_half_a_request_is_closed_after_ten_seconds() {
    let server = Server::start("");
    let mut halfway = Client::connect(server.api());
    halfway.send(&get(key("k"))[..20]);
    let mut silent = Client::connect(server.api());
    halfway.expect_end();
    server.log_line("fault=\"half a message for 10 s\"");
    assert_eq!(silent.get(key("k")), None, "a client without half a request may be silent");
}

// ── too many clients ─────────────────────────────────────────────────────────────────────────

#[test]
fn connections_beyond_api_connections_max_are_closed_and_those_within_it_work() {
    let server = Server::start("api_connections_max = 2");
    let (mut first, mut second) = (Client::connect(server.api()), Client::connect(server.api()));
    assert_eq!((first.get(key("k")), second.get(key("k"))), (None, None));

    Client::connect(server.api()).expect_end();
    server.log_line("clients refused connected=2");
    first.put(key("k"), b"value");
    assert_eq!(first.get(key("k")).as_deref(), Some(&b"value"[..]));
    assert_eq!(second.get(key("k")).as_deref(), Some(&b"value"[..]));

    first.finish();
    first.expect_end();
    assert_eq!(second.get(key("k")).as_deref(), Some(&b"value"[..]));
    assert_eq!(Client::connect(server.api()).get(key("k")).as_deref(), Some(&b"value"[..]), "there is room again");
}

#[test]
fn without_free_file_descriptors_the_server_pauses_accepting_until_some_are_free() {
    const CLIENTS: usize = 60;
    let server = Server::start_after("ulimit -n 40", "");
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(server.api())).collect();
    server.log_line("accepting paused");
    for client in &mut clients[..10] {
        client.put(key("k"), b"value");
        assert_eq!(client.get(key("k")).as_deref(), Some(&b"value"[..]), "an early client is served");
    }
    let mut latest = clients.split_off(CLIENTS - 10);
    drop(clients);
    for client in &mut latest {
        assert_eq!(client.get(key("k")).as_deref(), Some(&b"value"[..]), "a late client is served in the end");
    }
    server.log_line("accepting again");
}
