//! Malformed requests: rule 10. Each closes its own connection and no other. Pending answers are
//! delivered before, and one log line names the fault.

use std::io::Write;
use std::thread;
use std::time::Duration;

use dht::limits::STRANGER_LOG_LINES_PER_SECOND;

use super::Joining;
use crate::common::client::{Answer, Client, get, key, put};
use crate::common::{PATIENCE, Server};

/// Malformed bytes, and the fault in the log.
struct Malformed {
    bytes: Vec<u8>,
    fault: String,
}

impl Malformed {
    /// A message of type `kind` with `size` in its header, and as many bytes.
    fn sized(kind: u16, size: u16, fault: &str) -> Self {
        let mut bytes = [size.to_be_bytes(), kind.to_be_bytes()].concat();
        bytes.resize(usize::from(size).max(4), 0);
        Self { bytes, fault: fault.to_owned() }
    }
}

/// Sends each of `messages` on a connection of its own, behind a GET.
fn each_closes_its_connection_and_no_other(messages: &[Malformed]) {
    assert!(messages.len() < STRANGER_LOG_LINES_PER_SECOND as usize, "all of them shall be logged");
    let server = Server::start("");
    let mut bystander = Client::connect(server.api());
    bystander.put(key("k"), b"value");
    for Malformed { bytes, fault } in messages {
        let mut client = Client::connect(server.api());
        let address = client.socket().local_addr().expect("it is connected");
        client.send(&[get(key("k")), bytes.clone(), get(key("k"))].concat());
        assert_eq!(client.answer(), Answer::Success(key("k"), b"value".to_vec()), "{fault}");
        client.expect_end();

        assert_eq!(bystander.get(key("k")).as_deref(), Some(&b"value"[..]), "{fault}");
        let line = server.log_line(&format!("client dropped addr={address} "));
        assert!(line.contains("WARN") && line.contains(&format!("fault=\"{fault}\"")), "{line} is not about {fault}");
    }
    let lines = server.log().iter().filter(|line| line.contains("client dropped")).count();
    assert_eq!(lines, messages.len(), "one line about each");
}

#[test]
fn an_unknown_message_type_closes_the_connection() {
    let unknown = |kind, size| Malformed::sized(kind, size, &format!("type {kind} is unknown here"));
    each_closes_its_connection_and_no_other(&[
        unknown(0, 36),
        unknown(649, 36),
        unknown(654, 36),
        unknown(660, 36), // a PING between nodes
        unknown(u16::MAX, u16::MAX),
        unknown(652, 36), // SUCCESS
        unknown(652, 100),
        unknown(653, 36), // FAILURE
        Malformed { bytes: b"GET / HTTP/1.1\r\n\r\n".to_vec(), fault: "type 21536 is unknown here".to_owned() },
    ]);
}

#[test]
fn a_size_below_the_header_closes_the_connection() {
    let below = |kind, size| Malformed::sized(kind, size, &format!("size {size} is below the 4-byte header"));
    each_closes_its_connection_and_no_other(&[below(651, 0), below(651, 1), below(650, 2), below(650, 3)]);
}

#[test]
fn a_put_without_a_value_closes_the_connection() {
    let short = |size: u16| {
        let fault = format!("DHT PUT has a body of {} bytes, expected 37 to 65531", size - 4);
        Malformed::sized(650, size, &fault)
    };
    each_closes_its_connection_and_no_other(&[short(4), short(8), short(36), short(39), short(40)]);
}

#[test]
fn a_get_of_other_than_36_bytes_closes_the_connection() {
    let other = |size: u16| {
        let fault = format!("DHT GET has a body of {} bytes, expected 32", size - 4);
        Malformed::sized(651, size, &fault)
    };
    each_closes_its_connection_and_no_other(&[other(4), other(35), other(37), other(40), other(u16::MAX)]);
}

#[test]
fn an_undefined_flag_or_a_value_both_signed_and_hashed_closes_the_connection() {
    let flagged = |flags: u8| {
        let mut bytes = put(key("k"), 60, b"never stored");
        bytes[7] = flags;
        let expected = "1 (confirm), 2 (signed) or 4 (hashed), or 1 with one of the others";
        Malformed { bytes, fault: format!("flags is {flags}, expected {expected}") }
    };
    each_closes_its_connection_and_no_other(&[6, 7, 8, 16, 32, 64, 128, 9, 255].map(flagged));
}

#[test]
fn a_malformed_header_closes_the_connection_without_waiting_for_the_body() {
    let server = Server::start("");
    let mut client = Client::connect(server.api());
    client.send(&[0xff, 0xff, 0x02, 0x8b]); // a GET of 65 535 bytes, of which no more will come
    client.expect_end();
}

#[test]
fn slow_answers_are_sent_before_a_malformed_message_closes_the_connection() {
    let joining = Joining::start("request_timeout = 200ms");
    let mut client = Client::connect(joining.server.api());
    client.put(key("held"), b"here");
    client.send(&[get(key("slow")), get(key("held")), vec![0, 36, 0, 0]].concat());
    joining.server.log_line("fault=\"type 0 is unknown here\"");
    assert_eq!(client.answer(), Answer::Failure(key("slow")));
    assert_eq!(client.answer(), Answer::Success(key("held"), b"here".to_vec()));
    client.expect_end();
}

/// A close with unread bytes in the socket resets the connection, which discards answers that the client
/// has not read yet.
#[test]
fn bytes_behind_a_malformed_message_do_not_discard_the_answers_before_it() {
    const GETS: usize = 20;
    const BEHIND: usize = 2 << 20;
    let server = Server::start("");
    let mut client = Client::connect(server.api());
    let value = vec![b'v'; 60_000];
    client.put(key("k"), &value);
    client.send(&[get(key("k")).repeat(GETS), vec![0, 0, 0, 0]].concat());
    let mut socket = client.socket();
    let writing = thread::spawn(move || socket.write_all(&vec![0; BEHIND]));
    for at in 0..GETS {
        assert!(client.answer() == Answer::Success(key("k"), value.clone()), "answer {at}");
    }
    client.expect_end();
    writing.join().expect("no panic").expect("all of it was read, and thrown away");
}

#[test]
fn a_put_before_a_malformed_message_is_stored() {
    let server = Server::start("");
    let mut client = Client::connect(server.api());
    client.send(&[put(key("k"), 60, b"value"), vec![0, 0, 0, 0]].concat());
    client.expect_end();
    assert_eq!(Client::connect(server.api()).get(key("k")).as_deref(), Some(&b"value"[..]));
}

/// At most [`STRANGER_LOG_LINES_PER_SECOND`]: to log all these lines would take longer than a test may.
#[test]
fn a_flood_of_malformed_messages_does_not_flood_the_log() {
    const FLOOD: u32 = 1_000;
    assert!(PATIENCE * STRANGER_LOG_LINES_PER_SECOND < Duration::from_secs(FLOOD.into()));
    let server = Server::start("");
    for _ in 0..FLOOD {
        let mut client = Client::connect(server.api());
        client.send(&[0, 0, 0, 0]);
        client.expect_end();
    }
    let lines = server.log().iter().filter(|line| line.contains("client dropped")).count();
    assert!(lines < FLOOD as usize, "{lines} lines");
}
