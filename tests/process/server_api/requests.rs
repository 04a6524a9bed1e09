//! PUT and GET: rules 1 to 9.

use std::thread;

use dht::id::Key;
use dht::limits::{API_OWED_MAX, CLIENT_REQUESTS_MAX};
use dht::record::Class;
use dht::wire::api::{ApiRequest, Confirm, Put};

use super::Joining;
use crate::common::client::{Answer, Client, encode, get, key, put};
use crate::common::{Server, eventually};

/// The key number `at` of a test.
fn numbered(at: usize) -> Key {
    key(&format!("key {at}"))
}

fn ask_until_gone(client: &mut Client, key: Key) {
    eventually("a value expires", || client.get(key).is_none().then_some(()));
}

// ── rules 1 and 2: what is answered ──────────────────────────────────────────────────────────

#[test]
fn a_put_is_not_answered_and_the_get_behind_it_is() {
    let server = Server::start("");
    let mut client = Client::connect(server.api());
    client.put(key("lolz"), b"bernd");
    assert_eq!(client.get(key("lolz")).as_deref(), Some(&b"bernd"[..]));
}

#[test]
fn a_get_of_an_unknown_key_is_a_failure() {
    let server = Server::start("");
    let mut client = Client::connect(server.api());
    client.send(&get(key("nobody")));
    assert_eq!(client.answer(), Answer::Failure(key("nobody")));
}

#[test]
fn a_confirmed_put_is_answered_by_a_success_of_36_bytes() {
    let server = Server::start("");
    let mut client = Client::connect(server.api());
    assert_eq!(client.put_confirmed(key("k"), b"value"), Answer::Success(key("k"), Vec::new()));
    assert_eq!(client.get(key("k")).as_deref(), Some(&b"value"[..]));
}

#[test]
fn a_refused_put_without_confirmation_gets_no_answer_and_the_connection_stays() {
    let server = Server::start("storage_bytes_max = 1 MiB");
    let mut client = Client::connect(server.api());
    let value = vec![7; 60_000];
    let refused = (0..20).find(|at| client.put_confirmed(numbered(*at), &value) == Answer::Failure(numbered(*at)));
    let refused = refused.expect("a MiB holds no twenty values of 60 000 bytes");
    assert!(refused > 10, "it holds ten at least");

    client.put(key("one too many"), &value);
    assert_eq!(client.get(key("one too many")), None);
    assert!(client.get(numbered(0)) == Some(value), "what was held before is still held");
    server.log_line("the storage is full");
}

#[test]
fn while_a_node_joins_gets_and_confirmations_fail_at_request_timeout() {
    let joining = Joining::start("request_timeout = 100ms");
    let mut client = Client::connect(joining.server.api());
    assert_eq!(client.get(key("nobody")), None);
    assert_eq!(client.put_confirmed(key("k"), b"v"), Answer::Failure(key("k")));
    assert_eq!(client.get(key("k")).as_deref(), Some(&b"v"[..]), "FAILURE means unknown: it is held");
}

// ── rule 3: the order of answers ─────────────────────────────────────────────────────────────

#[test]
fn ten_thousand_pipelined_gets_are_answered_in_order() {
    const GETS: usize = 10_000;
    let server = Server::start("");
    let mut client = Client::connect(server.api());
    for at in (0..GETS).step_by(2) {
        client.put(numbered(at), format!("value {at}").as_bytes());
    }
    // The client sends all of them before it reads an answer.
    let requests: Vec<u8> = (0..GETS).flat_map(|at| get(numbered(at))).collect();
    client.send(&requests);
    for at in 0..GETS {
        let expected = match at % 2 {
            0 => Answer::Success(numbered(at), format!("value {at}").into_bytes()),
            _ => Answer::Failure(numbered(at)),
        };
        assert_eq!(client.answer(), expected, "answer {at}");
    }
}

#[test]
fn a_ready_answer_waits_for_the_pending_answers_before_it() {
    let joining = Joining::start("request_timeout = 200ms");
    let mut client = Client::connect(joining.server.api());
    client.put(key("held"), b"here");
    client.send(&[get(key("slow")), get(key("held")), get(key("slow too")), get(key("held"))].concat());
    assert_eq!(client.answer(), Answer::Failure(key("slow")));
    assert_eq!(client.answer(), Answer::Success(key("held"), b"here".to_vec()));
    assert_eq!(client.answer(), Answer::Failure(key("slow too")));
    assert_eq!(client.answer(), Answer::Success(key("held"), b"here".to_vec()));
}

#[test]
fn a_slow_request_does_not_delay_other_connections() {
    let joining = Joining::start("request_timeout = 1h");
    let mut slow = Client::connect(joining.server.api());
    slow.send(&get(key("slow")));
    let mut quick = Client::connect(joining.server.api());
    quick.put(key("held"), b"here");
    assert_eq!(quick.get(key("held")).as_deref(), Some(&b"here"[..]));
    assert!(!slow.is_readable());
}

#[test]
fn requests_beyond_api_owed_max_are_read_later_and_answered_too() {
    const GETS: usize = 2 * API_OWED_MAX + 100;
    let joining = Joining::start("request_timeout = 200ms");
    let mut client = Client::connect(joining.server.api());
    let requests: Vec<u8> = (0..GETS).flat_map(|at| get(numbered(at))).collect();
    client.send(&requests);
    for at in 0..GETS {
        assert_eq!(client.answer(), Answer::Failure(numbered(at)));
    }
}

#[test]
fn requests_beyond_client_requests_max_wait_on_their_connections_and_are_answered_too() {
    const CLIENTS: usize = CLIENT_REQUESTS_MAX / API_OWED_MAX + 2;
    let joining = Joining::start("request_timeout = 200ms");
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(joining.server.api())).collect();
    for client in &mut clients {
        client.send(&(0..API_OWED_MAX).flat_map(|at| get(numbered(at))).collect::<Vec<u8>>());
    }
    for client in &mut clients {
        for at in 0..API_OWED_MAX {
            assert_eq!(client.answer(), Answer::Failure(numbered(at)));
        }
    }
}

#[test]
fn a_confirmation_is_sent_in_the_order_of_the_requests() {
    let server = Server::start("");
    let mut client = Client::connect(server.api());
    let request =
        Put { ttl: 60, replication: 1, confirm: Confirm::Yes, class: Class::Plain, key: key("k"), value: b"value" };
    client.send(&[get(key("k")), encode(&ApiRequest::Put(request)), get(key("k"))].concat());
    assert_eq!(client.answer(), Answer::Failure(key("k")));
    assert_eq!(client.answer(), Answer::Success(key("k"), Vec::new()));
    assert_eq!(client.answer(), Answer::Success(key("k"), b"value".to_vec()));
}

// ── rule 5: how requests arrive ──────────────────────────────────────────────────────────────

#[test]
fn a_put_and_a_get_may_share_a_segment() {
    let server = Server::start("");
    let mut client = Client::connect(server.api());
    client.send(&[put(key("k"), 60, b"value"), get(key("k"))].concat());
    assert_eq!(client.answer(), Answer::Success(key("k"), b"value".to_vec()));
}

#[test]
fn a_get_may_arrive_byte_by_byte() {
    let server = Server::start("");
    let mut client = Client::connect(server.api());
    let mut other = Client::connect(server.api());
    client.put(key("k"), b"value");
    for byte in get(key("k")) {
        client.send(&[byte]);
        other.get(key("nobody")); // a turn of the server's loop, so that the next byte comes alone
    }
    assert_eq!(client.answer(), Answer::Success(key("k"), b"value".to_vec()));
}

#[test]
fn a_put_may_arrive_byte_by_byte() {
    let server = Server::start("");
    let mut client = Client::connect(server.api());
    let mut other = Client::connect(server.api());
    for byte in put(key("k"), 60, b"value") {
        client.send(&[byte]);
        other.get(key("nobody"));
    }
    assert_eq!(client.get(key("k")).as_deref(), Some(&b"value"[..]));
}

#[test]
fn a_put_whose_client_closes_right_behind_it_is_stored() {
    let server = Server::start("");
    Client::connect(server.api()).put(key("k"), b"value"); // and it is dropped
    let mut client = Client::connect(server.api());
    assert_eq!(eventually("the value is there", || client.get(key("k"))), b"value");
}

#[test]
fn requests_before_a_half_close_are_all_answered_and_then_the_server_closes() {
    let server = Server::start("");
    let mut client = Client::connect(server.api());
    client.send(&[put(key("k"), 60, b"value"), get(key("k")), get(key("nobody"))].concat());
    client.finish();
    assert_eq!(client.answer(), Answer::Success(key("k"), b"value".to_vec()));
    assert_eq!(client.answer(), Answer::Failure(key("nobody")));
    client.expect_end();
}

#[test]
fn slow_answers_are_still_sent_after_a_half_close() {
    let joining = Joining::start("request_timeout = 200ms");
    let mut client = Client::connect(joining.server.api());
    client.send(&[put(key("k"), 60, b"value"), get(key("slow")), get(key("k"))].concat());
    client.finish();
    assert_eq!(client.answer(), Answer::Failure(key("slow")));
    assert_eq!(client.answer(), Answer::Success(key("k"), b"value".to_vec()));
    client.expect_end();
}

#[test]
fn more_answers_than_the_server_buffers_are_sent_after_a_half_close() {
    const GETS: usize = 300;
    let server = Server::start("");
    let mut client = Client::connect(server.api());
    let value = vec![b'x'; 60_000];
    client.put(key("k"), &value);
    client.send(&get(key("k")).repeat(GETS));
    client.finish();
    for at in 0..GETS {
        assert!(client.answer() == Answer::Success(key("k"), value.clone()), "answer {at}");
    }
    client.expect_end();
}

#[test]
fn an_incomplete_request_before_a_half_close_is_ignored() {
    let server = Server::start("");
    let mut client = Client::connect(server.api());
    client.send(&[put(key("k"), 60, b"value"), get(key("k"))].concat());
    client.send(&get(key("k"))[..20]);
    client.finish();
    assert_eq!(client.answer(), Answer::Success(key("k"), b"value".to_vec()));
    client.expect_end();
}

#[test]
fn eight_clients_are_served_at_the_same_time() {
    let server = Server::start("");
    let api = server.api();
    let clients: Vec<_> = (0..8)
        .map(|number| {
            thread::spawn(move || {
                let mut client = Client::connect(api);
                for at in 0..200 {
                    let key = numbered(1_000 * number + at);
                    let value = format!("{number} {at}").into_bytes();
                    client.put(key, &value);
                    assert_eq!(client.get(key), Some(value));
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("it found all that it had put");
    }
}

// ── rules 6 and 9: which value is read ───────────────────────────────────────────────────────

#[test]
fn a_value_put_on_one_connection_is_read_on_another() {
    let server = Server::start("");
    let (mut writer, mut reader) = (Client::connect(server.api()), Client::connect(server.api()));
    assert_eq!(writer.put_confirmed(key("k"), b"first"), Answer::Success(key("k"), Vec::new()));
    assert_eq!(reader.get(key("k")).as_deref(), Some(&b"first"[..]));
    writer.put(key("k"), b"second");
    assert_eq!(writer.get(key("k")).as_deref(), Some(&b"second"[..]));
    assert_eq!(reader.get(key("k")).as_deref(), Some(&b"second"[..]));
}

#[test]
fn a_value_that_is_not_replicated_yet_is_read_at_once() {
    let joining = Joining::start("request_timeout = 1h");
    let (mut writer, mut reader) = (Client::connect(joining.server.api()), Client::connect(joining.server.api()));
    for value in [&b"first"[..], b"second"] {
        writer.put(key("k"), value);
        assert_eq!(writer.get(key("k")).as_deref(), Some(value));
        assert_eq!(reader.get(key("k")).as_deref(), Some(value));
    }
}

#[test]
fn a_later_put_replaces_the_value_even_within_one_batch() {
    let server = Server::start("");
    let mut client = Client::connect(server.api());
    let values: Vec<Vec<u8>> = (0..200).map(|at| format!("value {}", 200 - at).into_bytes()).collect();
    let requests = values.iter().flat_map(|value| [put(key("k"), 60, value), get(key("k"))].concat());
    client.send(&requests.collect::<Vec<u8>>());
    for value in values {
        assert_eq!(client.answer(), Answer::Success(key("k"), value));
    }
}

// ── rules 7 and 8: TTL and replication ───────────────────────────────────────────────────────

#[test]
fn a_value_with_ttl_1_expires_despite_reads_and_one_with_ttl_0_stays() {
    let server = Server::start("");
    let mut client = Client::connect(server.api());
    client.send(&[put(key("long"), 0, b"default"), put(key("short"), 1, b"a second"), get(key("short"))].concat());
    assert_eq!(client.answer(), Answer::Success(key("short"), b"a second".to_vec()));
    ask_until_gone(&mut client, key("short"));
    assert_eq!(client.get(key("long")).as_deref(), Some(&b"default"[..]));
}

#[test]
fn ttl_0_means_the_default() {
    let server = Server::start("ttl_default = 1");
    let mut client = Client::connect(server.api());
    client.send(&[put(key("long"), 60, b"a minute"), put(key("short"), 0, b"default"), get(key("short"))].concat());
    assert_eq!(client.answer(), Answer::Success(key("short"), b"default".to_vec()));
    ask_until_gone(&mut client, key("short"));
    assert_eq!(client.get(key("long")).as_deref(), Some(&b"a minute"[..]));
}

#[test]
fn a_ttl_is_clamped_to_the_longest() {
    let server = Server::start("ttl_max = 1\nttl_default = 1");
    let mut client = Client::connect(server.api());
    client.send(&[put(key("k"), u16::MAX, b"for hours"), get(key("k"))].concat());
    assert_eq!(client.answer(), Answer::Success(key("k"), b"for hours".to_vec()));
    ask_until_gone(&mut client, key("k"));
}

#[test]
fn a_ttl_is_clamped_to_the_shortest() {
    let server = Server::start("ttl_min = 60");
    let brief = Server::start("");
    let (mut client, mut clock) = (Client::connect(server.api()), Client::connect(brief.api()));
    client.send(&put(key("k"), 1, b"a minute"));
    assert_eq!(client.get(key("k")).as_deref(), Some(&b"a minute"[..]));
    clock.send(&put(key("k"), 1, b"a second, begun later"));
    ask_until_gone(&mut clock, key("k"));
    assert_eq!(client.get(key("k")).as_deref(), Some(&b"a minute"[..]));
}

#[test]
fn a_lone_node_confirms_any_replication() {
    let server = Server::start("");
    let mut client = Client::connect(server.api());
    for replication in [0, 1, 20, 21, 255] {
        let key = numbered(replication.into());
        let request =
            Put { ttl: 60, replication, confirm: Confirm::Yes, class: Class::Plain, key, value: &[replication, 1] };
        assert_eq!(client.ask(&ApiRequest::Put(request)), Answer::Success(key, Vec::new()));
        assert_eq!(client.get(key), Some(vec![replication, 1]));
    }
}
