//! A malformed or misplaced message ends its own connection and no other. ERROR 400 comes first if the
//! message has an RPC id.

use super::{Harness, NETWORK, client_of, node};
use crate::scripted_peer::connection::{Ending, PeerConnection};
use crate::scripted_peer::message::{self, Hello, Message, Record, long, rpc, short};
use crate::scripted_peer::tls::Hash;

const RPC: Hash = [0xa5; 32];
const KEY: Hash = [0x4b; 32];

/// ERROR 400 to the request [`RPC`].
fn error_400() -> Message {
    Message { kind: message::ERROR, form: message::Form::Short, body: [&RPC[..], &[1, 144]].concat() }
}

/// Messages with a valid header and invalid fields.
fn wrong_fields(wall: u64) -> Vec<(&'static str, Vec<u8>)> {
    let store = |change: fn(&mut Record)| {
        let mut record = Record::new(KEY, b"value".to_vec(), wall);
        change(&mut record);
        rpc(message::STORE, &RPC, &record.bytes())
    };
    let record = Record::new(KEY, b"value".to_vec(), wall).bytes();
    let found = |count: u8| rpc(message::FIND_VALUE_REPLY, &RPC, &[&[count], &record[..]].concat());
    vec![
        ("STORE without a TTL", store(|record| record.ttl = 0)),
        ("STORE of no copies", store(|record| record.replication = 0)),
        ("STORE both signed and hashed", store(|record| record.flags = 3)),
        ("STORE with an unknown flag", store(|record| record.flags = 16)),
        ("STORE of a tombstone", store(|record| record.flags = 4)),
        ("STORE of a head", store(|record| record.flags = 8)),
        ("STORE of a damaged value", store(|record| record.value[4] ^= 1)),
        ("STORE with a wrong check", store(|record| record.check ^= 1)),
        ("FIND VALUE with an unknown want", rpc(message::FIND_VALUE, &RPC, &[&KEY[..], &[8]].concat())),
        ("OFFER of an entry and a bit", rpc(message::OFFER, &RPC, &[0; 46])),
        ("OFFER with an unknown flag", rpc(message::OFFER, &RPC, &[0xff; 45])),
        ("STORE REPLY with a third outcome", rpc(message::STORE_REPLY, &RPC, &[&KEY[..], &[2], &[0; 9]].concat())),
        ("STORE REPLY both signed and hashed", rpc(message::STORE_REPLY, &RPC, &[&KEY[..], &[0, 3], &[0; 8]].concat())),
        ("FIND NODE REPLY of a contact and a bit", rpc(message::FIND_NODE_REPLY, &RPC, &[0; 51])),
        ("FIND VALUE REPLY of 21 contacts", found(21)),
        ("FIND VALUE REPLY of contacts that are not there", found(1)),
        ("WANT of a key and a bit", rpc(message::WANT, &RPC, &[0; 33])),
        ("SYNC REPLY of neither more nor less", rpc(message::SYNC_REPLY, &RPC, &[2])),
    ]
}

/// Messages with an invalid header.
fn wrong_headers(wall: u64) -> Vec<(&'static str, Vec<u8>)> {
    let record = |size| Record::new(KEY, vec![b'v'; size], wall).bytes();
    let body = |rest: &[u8]| [&RPC[..], rest].concat();
    let zeros = |size| body(&vec![0; size]);
    vec![
        ("a size of 1", vec![0, 1, 2, 0x94]),
        ("a size of 3", vec![0, 3, 2, 0x94]),
        ("a type between the requests", short(668, &RPC)),
        ("a type beyond all", short(0xffff, &RPC)),
        ("DHT GET", short(651, &KEY)),
        ("PING of a byte too few", short(message::PING, &RPC[1..])),
        ("PING of a byte too many", short(message::PING, &zeros(1))),
        ("PING without an rpc id", short(message::PING, &[])),
        ("PING REPLY of a byte too many", short(message::PING_REPLY, &zeros(1))),
        ("FIND NODE of a byte too few", short(message::FIND_NODE, &body(&KEY[1..]))),
        ("FIND VALUE that wants nothing", short(message::FIND_VALUE, &body(&KEY))),
        ("GOODBYE with a last word", short(message::GOODBYE, b"!")),
        ("STORE of an empty value", short(message::STORE, &body(&record(0)))),
        ("OFFER of nothing", short(message::OFFER, &RPC)),
        ("OFFER of 501", short(message::OFFER, &zeros(501 * 45))),
        ("SYNC of a byte too many", short(message::SYNC, &zeros(65))),
        ("WANT of 501", short(message::WANT, &zeros(501 * 32))),
        ("SYNC REPLY of 501", short(message::SYNC_REPLY, &zeros(1 + 501 * 45))),
        ("FIND NODE REPLY of 21 contacts", short(message::FIND_NODE_REPLY, &zeros(21 * 50))),
        ("ERROR without a code", short(message::ERROR, &RPC)),
        ("PING in the long form", long(message::PING, &RPC)),
        ("STORE in the long form without need", long(message::STORE, &body(&record(65_447)))),
        ("STORE of a value too long", long(message::STORE, &body(&record(65_496)))),
        ("FIND VALUE REPLY too long", long(message::FIND_VALUE_REPLY, &zeros(66_549))),
        ("a size that would take all memory", [&[0, 0, 2, 0x95][..], &[0xff; 4]].concat()),
    ]
}

/// Messages that must not come before HELLO, and invalid HELLOs.
fn before_hello() -> Vec<(&'static str, Vec<u8>, Vec<Message>)> {
    let hello = |change: fn(&mut Hello)| {
        let mut hello = Hello::of_client(NETWORK);
        change(&mut hello);
        hello.bytes()
    };
    vec![
        ("PING before HELLO", rpc(message::PING, &RPC, &[]), vec![error_400()]),
        ("FIND NODE before HELLO", rpc(message::FIND_NODE, &RPC, &KEY), vec![error_400()]),
        ("PING REPLY before HELLO", rpc(message::PING_REPLY, &RPC, &[]), vec![error_400()]),
        ("GOODBYE before HELLO", short(message::GOODBYE, &[]), vec![]),
        ("HELLO of a byte too few", short(message::HELLO, &[0; 45]), vec![]),
        ("HELLO of a long-winded agent", hello(|hello| hello.agent = vec![b'a'; 65]), vec![]),
        ("HELLO of an agent that is no text", hello(|hello| hello.agent = vec![0xc3, 0x28]), vec![]),
    ]
}

#[test]
fn a_malformed_message_ends_its_connection_and_no_other() {
    let mut harness = Harness::start("");
    let answered = wrong_fields(harness.wall).into_iter().map(|(name, bytes)| (name, bytes, vec![error_400()]));
    let silent = wrong_headers(harness.wall).into_iter().map(|(name, bytes)| (name, bytes, vec![]));
    for (name, bytes, expected) in answered.chain(silent) {
        let mut conn = client_of(harness.server.p2p(), "the malformed");
        conn.send(&bytes);
        assert_eq!(conn.expect_end(), (expected, Ending::Closed), "{name}");
        harness.observer.expect_pong();
    }
    for (name, bytes, expected) in before_hello() {
        let mut conn = PeerConnection::dial(harness.server.p2p(), &node("the early")).expect("a handshake");
        conn.send(&bytes);
        let (messages, ending) = conn.expect_end();
        let (hello, rest) = messages.split_first().expect("the server's HELLO");
        assert_eq!(hello.kind, message::HELLO, "{name}");
        assert_eq!((rest, ending), (&expected[..], Ending::Closed), "{name}");
        harness.observer.expect_pong();
    }
    harness.expect_no_trace(&[], &[]);
}

#[test]
fn each_fault_that_ends_a_connection_is_logged_once() {
    let harness = Harness::start("");
    let after_hello = |bytes: &[u8]| {
        let mut conn = client_of(harness.server.p2p(), "the malformed");
        conn.send(bytes);
        conn.expect_end();
        conn.local()
    };
    let field = after_hello(&rpc(message::FIND_VALUE, &RPC, &[&KEY[..], &[9]].concat()));
    let header = after_hello(&[0, 3, 2, 0x94]);
    let second = after_hello(&Hello::of_client(NETWORK).bytes());
    let mut early = PeerConnection::dial(harness.server.p2p(), &node("the early")).expect("a handshake");
    early.send(&rpc(message::PING, &RPC, &[]));
    early.expect_end();
    let mut garbled = client_of(harness.server.p2p(), "the garbled");
    garbled.send_raw(b"\x17\x03\x03\x00\x20 these are no ciphertext of ours ");
    let (messages, ending) = garbled.expect_end();
    assert!(messages.is_empty() && matches!(ending, Ending::Alert(_)), "{messages:?} {ending:?}");

    let refused = [
        (field, "want"),
        (header, "size 3 is below the 4-byte header"),
        (second, "a second HELLO"),
        (early.local(), "PING before HELLO"),
        (garbled.local(), "peer dropped"),
    ];
    harness.expect_no_trace(&[], &refused);
}

#[test]
fn requests_before_a_malformed_message_are_answered() {
    let harness = Harness::start("");
    let mut conn = client_of(harness.server.p2p(), "the malformed");
    let (ping, wrong) = (rpc(message::PING, &[1; 32], &[]), rpc(message::FIND_VALUE, &RPC, &[&KEY[..], &[8]].concat()));
    conn.send(&[&ping[..], &wrong, &ping].concat());
    let (messages, ending) = conn.expect_end();
    let kinds: Vec<_> = messages.iter().map(|message| message.kind).collect();
    assert_eq!((kinds, ending), (vec![message::PING_REPLY, message::ERROR], Ending::Closed));
}
