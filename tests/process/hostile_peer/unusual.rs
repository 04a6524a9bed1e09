//! Unusual but valid behaviour works, and unusual harmless behaviour changes nothing.

use std::io::Write;

use dht::id::Key;
use rustls::client::ClientSessionStore;
use rustls::{CipherSuite, ClientConnection, HandshakeKind, NamedGroup, ProtocolVersion, ServerConnection};

use super::{Harness, NETWORK, POW_BITS, client_of, node};
use crate::common::client::Client;
use crate::scripted_peer::connection::{Ending, PeerConnection, connect};
use crate::scripted_peer::message::{self, Contact, Form, Hello, Record, hex};
use crate::scripted_peer::neighbour::{Behaviour, Neighbour, Opened};
use crate::scripted_peer::tls::{Dialect, any_name, hash, puzzle_bits};

#[test]
fn the_tls_channel_matches_section_5() {
    let harness = Harness::start("");
    let tls = &harness.observer.tls;
    assert_eq!(tls.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(tls.alpn_protocol(), Some(&b"dht/1"[..]));
    // This side prefers AES-256, which comes first in its list.
    let suite = tls.negotiated_cipher_suite().expect("the handshake is over").suite();
    assert!(
        matches!(suite, CipherSuite::TLS13_AES_128_GCM_SHA256 | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
        "{suite:?}"
    );
    let group = tls.negotiated_key_exchange_group().expect("the handshake is over").name();
    assert_eq!(group, NamedGroup::X25519);
    let (id, key) = harness.observer.met();
    assert_eq!((key.len(), hex(&key[..12])), (44, "302a300506032b6570032100".to_owned()));
    assert!(puzzle_bits(&id) >= POW_BITS);
    assert_eq!(hex(&id)[..8], harness.server.id());
}

#[test]
fn a_session_is_never_resumed() {
    let mut harness = Harness::start("");
    let dialect = node("the one with a ticket");
    let config = dialect.client();
    // A valid ticket, from a server of this test.
    let mut client = ClientConnection::new(config.clone(), any_name()).expect("a client");
    let mut server = ServerConnection::new(dialect.server(1)).expect("a server");
    while client.wants_write() || server.wants_write() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).expect("memory takes all");
        }
        server.read_tls(&mut &wire[..]).expect("memory has all");
        server.process_new_packets().expect("TLS");
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).expect("memory takes all");
        }
        client.read_tls(&mut &wire[..]).expect("memory has all");
        client.process_new_packets().expect("TLS");
    }
    let ticket = dialect.tickets.take_tls13_ticket(&any_name()).expect("our own server gives one");
    dialect.tickets.insert_tls13_ticket(any_name(), ticket);

    let tls = ClientConnection::new(config, any_name()).expect("a client");
    let offered = dialect.tickets.take_tls13_ticket(&any_name()).is_none();
    assert!(offered, "the ticket stands in this hello");
    let mut conn = PeerConnection::open(connect(harness.server.p2p()), tls.into(), usize::MAX).expect("a handshake");
    conn.greet(&Hello::of_client(NETWORK));
    conn.expect_pong();
    assert_eq!(conn.tls.handshake_kind(), Some(HandshakeKind::Full));
    assert!(dialect.tickets.take_tls13_ticket(&any_name()).is_none(), "the node gave a ticket");
    harness.observer.expect_pong();
}

#[test]
fn a_peer_may_send_byte_by_byte() {
    let harness = Harness::start("");
    let mut slow =
        PeerConnection::dial_over(connect(harness.server.p2p()), &node("the slow one"), 1).expect("a handshake");
    slow.greet(&Hello::of_client(NETWORK));
    slow.expect_pong();
    let record = Record::new([7; 32], b"drop by drop".to_vec(), harness.wall);
    assert_eq!(slow.ask(message::STORE, &record.bytes()).kind, message::STORE_REPLY);
    assert_eq!(Client::connect(harness.server.api()).get(Key::new([7; 32])), Some(record.value));
}

#[test]
fn a_peer_may_send_requests_together_with_its_hello() {
    let harness = Harness::start("");
    let mut conn = PeerConnection::dial(harness.server.p2p(), &node("the hasty one")).expect("a handshake");
    let pings = (0..100).map(|number| message::rpc(message::PING, &[number; 32], &[]));
    conn.send(&[Hello::of_client(NETWORK).bytes(), pings.flatten().collect()].concat());
    assert_eq!(conn.receive().expect("a HELLO").kind, message::HELLO);
    for number in 0..100 {
        let reply = conn.receive().expect("a reply");
        assert_eq!((reply.kind, reply.rpc()), (message::PING_REPLY, [number; 32]));
    }
}

#[test]
fn values_of_all_sizes_use_the_short_or_long_form_by_their_size() {
    let harness = Harness::start("");
    let mut conn = client_of(harness.server.p2p(), "the one with a load");
    let mut api = Client::connect(harness.server.api());
    for size in [1_u32, 4060, 65_446, 65_447, 65_448, 65_495] {
        let key = hash(&size.to_be_bytes());
        let value: Vec<u8> = (0..size).map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1]).collect();
        let record = Record::new(key, value, harness.wall);
        let stored = conn.ask(message::STORE, &record.bytes());
        let outcome = [&key[..], &[0, 0], &record.version.to_be_bytes()].concat();
        assert_eq!((stored.kind, stored.rest()), (message::STORE_REPLY, &outcome[..]), "{size} bytes");

        let found = conn.ask(message::FIND_VALUE, &[&key[..], &[0]].concat());
        let form = if size > 65_446 { Form::Long } else { Form::Short };
        assert_eq!((found.kind, found.form, found.rest()[0]), (message::FIND_VALUE_REPLY, form, 0), "{size} bytes");
        let block = Record::read(&found.rest()[1..]);
        assert!(block.age >= record.age, "it has become younger: {} ms", block.age);
        assert_eq!(Record { age: record.age, ..block }, record, "{size} bytes");

        let head = conn.ask(message::FIND_VALUE, &[&key[..], &[2]].concat());
        let block = Record::read(&head.rest()[1..]);
        assert_eq!((block.flags, block.check, block.value.len()), (8, record.check, 0), "{size} bytes");
        assert!(api.get(Key::new(key)) == Some(record.value), "{size} bytes");
    }
}

#[test]
fn a_client_gets_the_value_of_a_peer_but_never_a_damaged_one() {
    let harness = Harness::start("");
    let whole = Record::new([1; 32], vec![b'w'; 65_495], harness.wall);
    let damaged = Record { check: 1, ..Record::new([2; 32], b"damaged".to_vec(), harness.wall) };
    let _replica = harness.introduce("the replica", Some(whole.clone()));
    let mut api = Client::connect(harness.server.api());
    assert!(api.get(Key::new(whole.key)) == Some(whole.value));

    let _liar = harness.introduce("the liar", Some(damaged.clone()));
    assert_eq!(api.get(Key::new(damaged.key)), None);
    harness.server.log_line("fault=\"FIND VALUE REPLY: ");
}

#[test]
fn an_expired_or_future_record_is_refused_with_its_error_code() {
    let harness = Harness::start("");
    let mut conn = client_of(harness.server.p2p(), "the one with a load");
    let mut refusal = |change: fn(&mut Record)| {
        let mut record = Record::new([3; 32], b"value".to_vec(), harness.wall);
        change(&mut record);
        let reply = conn.ask(message::STORE, &record.bytes());
        assert_eq!(reply.kind, message::ERROR);
        u16::from_be_bytes(reply.rest().try_into().expect("a code"))
    };
    assert_eq!(refusal(|record| record.age = 3_600_000), 410);
    assert_eq!(refusal(|record| record.version -= 67_000_000 << 16), 410); // whatever its TTL says
    assert_eq!(refusal(|record| record.version += 700_000 << 16), 425);
    assert_eq!(refusal(|record| record.version = u64::MAX), 425);
    assert_eq!(Client::connect(harness.server.api()).get(Key::new([3; 32])), None);
}

#[test]
fn of_two_records_of_a_key_the_larger_is_held_in_any_order_of_arrival() {
    let harness = Harness::start("");
    let mut conn = client_of(harness.server.p2p(), "the one with a load");
    let newer = Record::new([4; 32], b"newer".to_vec(), harness.wall);
    let older = Record::new([4; 32], b"older".to_vec(), harness.wall - 1000);
    let held = [&newer.key[..], &[1, 0], &newer.version.to_be_bytes()].concat();
    assert_eq!(conn.ask(message::STORE, &newer.bytes()).rest()[32], 0);
    assert_eq!(conn.ask(message::STORE, &older.bytes()).rest(), held, "a larger one is held");
    assert_eq!(Client::connect(harness.server.api()).get(Key::new([4; 32])), Some(newer.value));
}

#[test]
fn replies_without_a_request_change_nothing() {
    let mut harness = Harness::start("");
    let mut conn = client_of(harness.server.p2p(), "the talkative");
    let contact = Contact { address: ([127, 0, 0, 1], 9).into(), id: [9; 32] }.bytes();
    for number in 0..1000_u64 {
        let id = hash(&number.to_be_bytes());
        match number % 4 {
            0 => conn.send(&message::rpc(message::PING_REPLY, &id, &[])),
            1 => conn.send(&message::rpc(message::FIND_NODE_REPLY, &id, &contact)),
            2 => conn.send(&message::rpc(message::STORE_REPLY, &id, &[&[5; 32][..], &[0; 10]].concat())),
            _ => conn.send(&message::rpc(message::ERROR, &id, &[1, 144])),
        }
    }
    conn.expect_pong();
    assert_eq!(harness.named(), []);
    harness.expect_no_trace(&[], &[]);
}

#[test]
fn a_connection_that_ends_within_a_message_leaves_no_trace() {
    let mut harness = Harness::start("");
    let half = &message::rpc(message::STORE, &[1; 32], &vec![0; 60_000])[..30_000];
    let mut closing = client_of(harness.server.p2p(), "the one that closes");
    closing.send(half);
    closing.close();
    let (messages, ending) = closing.expect_end();
    assert!(messages.is_empty() && matches!(ending, Ending::Closed | Ending::Cut), "{messages:?} {ending:?}");
    let mut vanishing = client_of(harness.server.p2p(), "the one that vanishes");
    vanishing.send(half);
    drop(vanishing);
    harness.observer.expect_pong();
    harness.expect_no_trace(&[], &[]);
}

#[test]
fn half_open_connections_do_not_block_other_peers_or_clients() {
    let harness = Harness::start("");
    let mut halves: Vec<_> = (0..200).map(|_| connect(harness.server.p2p())).collect();
    for half in &mut halves[100..] {
        half.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").expect("the server reads");
    }
    let mut api = Client::connect(harness.server.api());
    for number in 0..100 {
        api.put(Key::new([number; 32]), &[number]);
        assert_eq!(api.get(Key::new([number; 32])), Some(vec![number]));
    }
    client_of(harness.server.p2p(), "the one that means it").expect_pong();
}

#[test]
fn of_two_connections_opened_by_one_peer_the_newer_survives() {
    let harness = Harness::start("rpc_timeout = 200 ms");
    for key in harness.keys_around("twice") {
        let dial = || {
            let mut conn = PeerConnection::dial(harness.server.p2p(), &Dialect::of_node(&key)).expect("a handshake");
            conn.greet(&Hello::of_client(NETWORK));
            conn.expect_pong();
            conn
        };
        let (mut older, mut newer) = (dial(), dial());
        assert_eq!(older.expect_end(), (vec![], Ending::Closed));
        newer.expect_pong();
    }
}

#[test]
fn of_two_connections_opened_by_both_sides_the_smaller_ids_survives() {
    let harness = Harness::start("rpc_timeout = 200 ms");
    let [smaller, larger] = harness.keys_around("from both sides");
    let survivors = [(smaller, Opened::ByPeer, Opened::ByServer), (larger, Opened::ByServer, Opened::ByPeer)];
    for (key, survivor, loser) in survivors {
        let neighbour = Neighbour::start(Behaviour::of_node(Dialect::of_node(&key), NETWORK));
        neighbour.dial(harness.server.p2p());
        assert_eq!(neighbour.expect_end(), (loser, Ending::Closed));
        assert_eq!(Client::connect(harness.server.api()).get(Key::new(key.id())), None);
        assert_eq!(neighbour.expect(message::FIND_VALUE), survivor);
    }
}
