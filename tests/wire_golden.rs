//! Each message as hex by hand, both ways: these bytes are that message, and that message is
//! these bytes. Source: `PROTOCOL.md` 1 and 2.

mod frames;

use std::collections::BTreeSet;

use dht::contact::{Contact, Family};
use dht::id::{Key, NodeId, RpcId};
use dht::record::envelope::verify;
use dht::record::{Age, Class, Life, Rank, Ttl, Version};
use dht::time::WallTime;
use dht::wire::Source;
use dht::wire::api::{ApiReply, ApiRequest, Confirm, Put};
use dht::wire::codec::List;
use dht::wire::frame::next_frame;
use dht::wire::peer::{
    Bridges, Content, Entry, ErrorCode, FLAG_BRIDGE, FLAG_IPV4, FLAG_IPV6, FLAG_SERVING, Hello, PROTOCOL, PeerMessage,
    RecordBlock, Reply, Request, StoreOutcome, Want,
};
use frames::{ENVELOPE, Golden, Message, hex};

const NINE: &[u8] = b"123456789";

/// `first`, `first` + 1, and so on.
fn counting(first: u8) -> [u8; 32] {
    std::array::from_fn(|at| first + u8::try_from(at).expect("32 bytes"))
}

fn rpc() -> RpcId {
    RpcId::new(counting(0xa0))
}

fn key() -> Key {
    Key::new(counting(0))
}

fn other_key() -> Key {
    let mut bytes = counting(0);
    (bytes[0], bytes[31]) = (0xff, 0xff);
    Key::new(bytes)
}

/// The SHA-256 of [`NINE`].
fn nine_key() -> Key {
    Key::from_hex("15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225").expect("64 digits")
}

/// Where the owner of [`ENVELOPE`] may write.
fn owned_key() -> Key {
    Key::from_hex("8409e9612de9df5aa80e22a6199bfc313650a4e4d34ef358961e7eaa0d457814").expect("64 digits")
}

fn contact(id: u8, address: &str) -> Contact {
    Contact::new(NodeId::new(Key::new([id; 32])), address.parse().expect("a literal of this test"))
}

fn v4() -> Contact {
    contact(0x11, "192.0.2.7:7402")
}

fn v6() -> Contact {
    contact(0x22, "[2001:db8::9]:7402")
}

fn rank(class: Class, life: Life, version: u64) -> Rank {
    Rank { class, life, version: Version::from_bits(version) }
}

fn entry() -> Entry {
    Entry { key: key(), rank: rank(Class::Plain, Life::Alive, 0x018b_cfe5_6800_0007), crc: 0xcbf4_3926 }
}

fn tombstone_entry() -> Entry {
    Entry { key: other_key(), rank: rank(Class::Signed, Life::Over, 0x018b_cfe5_6800_0008), crc: 0 }
}

fn block(crc: u32, content: Content<'_>) -> RecordBlock<'_> {
    RecordBlock {
        ttl: Ttl::from_secs(3600).expect("not zero"),
        replication: 8,
        class: Class::Plain,
        key: key(),
        version: Version::from_bits(0x018b_cfe5_6800_0007),
        age: Age(1000),
        crc,
        content,
    }
}

fn nine() -> RecordBlock<'static> {
    block(0xcbf4_3926, Content::Value(NINE))
}

/// The frame called `name` decodes to `message`, whole, and `message` encodes to it.
#[track_caller]
fn both_ways(name: &str, message: Message<'_>) {
    let Golden { source, bytes, .. } = frames::named(name);
    let (frame, size) = next_frame(source, &bytes).expect("a message").expect("a whole one");
    assert_eq!(size, bytes.len(), "{name}: its size");
    assert!(Message::decode(source, frame) == Ok(message), "{name}: its fields");
    assert!(message.encode() == bytes, "{name}: its bytes");
}

#[track_caller]
fn request(name: &str, request: Request<'_>) {
    both_ways(name, Message::Peer(PeerMessage::Request(rpc(), request)));
}

#[track_caller]
fn reply(name: &str, reply: Reply<'_>) {
    both_ways(name, Message::Peer(PeerMessage::Reply(rpc(), reply)));
}

#[track_caller]
fn value(name: &str, contacts: &[Contact], record: RecordBlock<'_>) {
    reply(name, Reply::Value { contacts: List::lend(contacts), is_tentative: false, record });
}

#[test]
fn dht_put() {
    let put = |put| Message::Request(ApiRequest::Put(put));
    let plain = Put { ttl: 60, replication: 3, confirm: Confirm::No, class: Class::Plain, key: key(), value: NINE };
    both_ways("PUT", put(plain));
    both_ways("PUT, confirm", put(Put { ttl: 0, replication: 0, confirm: Confirm::Yes, value: b"v", ..plain }));
    let signed = Put { ttl: 0, class: Class::Signed, key: owned_key(), value: &hex(ENVELOPE), ..plain };
    both_ways("PUT, signed", put(signed));
    both_ways("PUT, signed, confirm", put(Put { ttl: 3600, confirm: Confirm::Yes, ..signed }));
    let hashed = Put { class: Class::Hashed, key: nine_key(), ..plain };
    both_ways("PUT, hashed", put(hashed));
    both_ways("PUT, hashed, confirm", put(Put { confirm: Confirm::Yes, ..hashed }));
    both_ways("PUT, largest", put(Put { ttl: 65_535, replication: 255, value: &b"v".repeat(65_495), ..plain }));
}

#[test]
fn dht_get() {
    both_ways("GET", Message::Request(ApiRequest::Get { key: key() }));
}

#[test]
fn dht_success() {
    let success = |value| Message::Reply(ApiReply::Success { key: key(), value });
    both_ways("SUCCESS", success(NINE));
    both_ways("SUCCESS, confirmed", success(&[]));
    both_ways("SUCCESS, largest", success(&b"v".repeat(65_495)));
}

#[test]
fn dht_failure() {
    both_ways("FAILURE", Message::Reply(ApiReply::Failure { key: key() }));
}

#[test]
fn hello() {
    let hello = |hello| Message::Peer(PeerMessage::Hello(hello));
    let serving = Hello {
        protocol: PROTOCOL,
        flags: FLAG_SERVING,
        network: counting(0xc0),
        port: 7402,
        wall: WallTime::from_millis(1_700_000_000_000),
        agent: "dht-server/0.1",
    };
    both_ways("HELLO", hello(serving));
    let stranger = Hello { protocol: 2, flags: 0x8002, port: 0, wall: WallTime::from_millis(0), agent: "", ..serving };
    both_ways("HELLO, shortest", hello(stranger));
    let flags = FLAG_SERVING | FLAG_IPV4 | FLAG_IPV6 | FLAG_BRIDGE;
    both_ways("HELLO, bridge", hello(Hello { flags, ..serving }));
    both_ways("HELLO, longest", hello(Hello { agent: &"v".repeat(64), ..serving }));
}

#[test]
fn goodbye() {
    both_ways("GOODBYE", Message::Peer(PeerMessage::Goodbye));
}

#[test]
fn bridges() {
    let bridges = |name, flags, known: &[Contact]| {
        both_ways(name, Message::Peer(PeerMessage::Bridges(Bridges { flags, known: List::lend(known) })));
    };
    bridges("BRIDGES", FLAG_SERVING | FLAG_IPV4, &[v4(), v6()]);
    bridges("BRIDGES, none", FLAG_SERVING | FLAG_IPV4 | FLAG_IPV6 | FLAG_BRIDGE, &[]);
    bridges("BRIDGES, largest", FLAG_SERVING | FLAG_IPV6, &[v6(); 4]);
}

#[test]
fn relay() {
    request("RELAY", Request::Relay { family: Family::V6, record: nine() });
    let letters = b"v".repeat(65_495);
    let relay = |size, crc| Request::Relay { family: Family::V4, record: block(crc, Content::Value(&letters[..size])) };
    request("RELAY, largest short", relay(65_446, 0x1b3f_f362));
    request("RELAY, largest", relay(65_495, 0x5aa3_07aa));
}

#[test]
fn ping() {
    request("PING", Request::Ping);
    reply("PING REPLY", Reply::Pong);
}

#[test]
fn store() {
    request("STORE", Request::Store(nine()));
    let envelope = hex(ENVELOPE);
    let sealed = block(0x0a54_d40d, Content::Value(&envelope));
    request("STORE, signed", Request::Store(RecordBlock { class: Class::Signed, key: owned_key(), ..sealed }));
    let hashed = RecordBlock {
        ttl: Ttl::from_secs(1).expect("not zero"),
        replication: 20,
        class: Class::Hashed,
        key: nine_key(),
        version: Version::from_bits(0),
        age: Age(u32::MAX),
        ..nine()
    };
    request("STORE, hashed", Request::Store(hashed));
}

/// The records in these frames are what they claim to be: `PROTOCOL.md` 4, byte by byte.
#[test]
fn what_a_golden_store_claims_is_proven() {
    for name in ["STORE, signed", "STORE, hashed"] {
        let Golden { source, bytes, .. } = frames::named(name);
        let (frame, _) = next_frame(source, &bytes).expect("a message").expect("a whole one");
        let Ok(PeerMessage::Request(_, Request::Store(record))) = PeerMessage::decode(frame) else {
            panic!("{name} is a STORE");
        };
        let proven = verify(&record.key, record.class, record.version, record.ttl, record.value());
        assert_eq!(proven, Ok(()), "{name}");
    }
}

/// The long form begins where the short one ends: at a value of 65 448 bytes.
#[test]
fn store_of_a_large_value() {
    let letters = b"v".repeat(65_495);
    let store = |size, crc| Request::Store(block(crc, Content::Value(&letters[..size])));
    request("STORE, largest short", store(65_447, 0xc8c3_0403));
    request("STORE, smallest long", store(65_448, 0xf2a5_a93a));
    request("STORE, largest", store(65_495, 0x5aa3_07aa));
}

#[test]
fn store_reply() {
    let stored = |outcome, held| Reply::Stored { key: key(), outcome, held };
    let plain = rank(Class::Plain, Life::Alive, 0x018b_cfe5_6800_0007);
    reply("STORE REPLY", stored(StoreOutcome::Held, plain));
    let signed = rank(Class::Signed, Life::Alive, 0x018b_cfe5_6800_0008);
    reply("STORE REPLY, larger", stored(StoreOutcome::Larger, signed));
    reply("STORE REPLY, hashed", stored(StoreOutcome::Held, rank(Class::Hashed, Life::Alive, 0)));
    let over = rank(Class::Plain, Life::Over, 0x018b_cfe5_6800_0008);
    reply("STORE REPLY, tombstone", stored(StoreOutcome::Larger, over));
}

#[test]
fn find_node() {
    request("FIND NODE", Request::FindNode { target: key() });
    reply("FIND NODE REPLY", Reply::Nodes(List::lend(&[v4(), v6()])));
    reply("FIND NODE REPLY, no contacts", Reply::Nodes(List::lend(&[])));
    reply("FIND NODE REPLY, largest", Reply::Nodes(List::lend(&[v6(); 20])));
}

#[test]
fn find_value() {
    let find =
        |contacts, head_only| Request::FindValue { key: key(), want: Want { contacts, head_only, ..Want::default() } };
    request("FIND VALUE", find(false, false));
    request("FIND VALUE, contacts", find(true, false));
    request("FIND VALUE, head", find(false, true));
    request("FIND VALUE, contacts and head", find(true, true));
    let catching_up = Want { catching_up: true, ..Want::default() };
    request("FIND VALUE, catching up", Request::FindValue { key: key(), want: catching_up });
}

#[test]
fn find_value_reply() {
    value("VALUE", &[], nine());
    value("VALUE, with contacts", &[v4(), v6()], nine());
    let contacts = [v4(), v6()];
    let tentative = Reply::Value { contacts: List::lend(&contacts), is_tentative: true, record: nine() };
    reply("VALUE, tentative", tentative);
    let head = block(0xcbf4_3926, Content::Head);
    value("VALUE, head", &[], head);
    value("VALUE, signed head with a contact", &[v6()], RecordBlock { class: Class::Signed, ..head });
    value("VALUE, tombstone", &[], RecordBlock { content: Content::Tombstone, ..head });
}

#[test]
fn find_value_reply_of_a_large_value() {
    let letters = b"v".repeat(65_495);
    let record = |size, crc| block(crc, Content::Value(&letters[..size]));
    value("VALUE, largest short", &[], record(65_446, 0x1b3f_f362));
    value("VALUE, smallest long", &[], record(65_447, 0xc8c3_0403));
    value("VALUE, largest of all", &[v4(); 20], record(65_495, 0x5aa3_07aa));
    assert_eq!(frames::named("VALUE, largest of all").bytes.len(), 66_588);
}

#[test]
fn offer_and_want() {
    request("OFFER", Request::Offer(List::lend(&[entry(), tombstone_entry()])));
    request("OFFER, largest", Request::Offer(List::lend(&[entry()].repeat(500))));
    reply("WANT", Reply::Wanted(List::lend(&[other_key(), key()])));
    reply("WANT, nothing", Reply::Wanted(List::lend(&[])));
    reply("WANT, largest", Reply::Wanted(List::lend(&[key()].repeat(500))));
}

#[test]
fn sync() {
    request("SYNC", Request::Sync { from: key(), to: other_key() });
    let two = [entry(), tombstone_entry()];
    reply("SYNC REPLY", Reply::Synced { more: true, entries: List::lend(&two) });
    reply("SYNC REPLY, nothing", Reply::Synced { more: false, entries: List::lend(&[]) });
    reply("SYNC REPLY, largest", Reply::Synced { more: false, entries: List::lend(&[entry()].repeat(500)) });
}

#[test]
fn time() {
    request("TIME", Request::Time);
    reply("TIME REPLY", Reply::Time(WallTime::from_millis(1_700_000_000_000)));
}

#[test]
fn error() {
    reply("ERROR", Reply::Error(ErrorCode::OUT_OF_SCOPE));
    let unknown = PeerMessage::Reply(RpcId::new([0; 32]), Reply::Error(ErrorCode(65_535)));
    both_ways("ERROR, unknown", Message::Peer(unknown));
}

/// The codes as the protocol lists them: 400 to 507.
#[test]
fn error_codes() {
    let codes = [
        ErrorCode::MALFORMED,
        ErrorCode::NOT_VERIFIED,
        ErrorCode::NOT_FOUND,
        ErrorCode::OUT_OF_SCOPE,
        ErrorCode::GONE,
        ErrorCode::TOO_EARLY,
        ErrorCode::TOO_MANY,
        ErrorCode::SERVER_ERROR,
        ErrorCode::LEAVING,
        ErrorCode::FULL,
    ];
    assert_eq!(codes.map(|code| code.0), [400, 403, 404, 406, 410, 425, 429, 500, 503, 507]);
}

/// What an ERROR about a malformed message names.
#[test]
fn every_message_but_hello_goodbye_and_bridges_begins_with_its_rpc_id() {
    for Golden { name, bytes, .. } in frames::all().iter().filter(|golden| golden.source == Source::Peer) {
        let (frame, _) = next_frame(Source::Peer, bytes).expect("a message").expect("a whole one");
        let expected = match *name {
            name if ["HELLO", "GOODBYE", "BRIDGES"].contains(&name.split(',').next().expect("a name")) => None,
            "ERROR, unknown" => Some(RpcId::new([0; 32])),
            _ => Some(rpc()),
        };
        assert_eq!(PeerMessage::rpc_of(frame), expected, "{name}");
    }
}

/// A head with its value behind it is the whole message: what senders of large values rely on.
#[test]
fn a_value_is_always_the_end_of_its_message() {
    for Golden { name, source, bytes } in frames::all() {
        let (frame, _) = next_frame(source, &bytes).expect("a message").expect("a whole one");
        let mut out = Vec::new();
        let value = match Message::decode(source, frame).expect("golden") {
            Message::Peer(message) => {
                message.encode_head(&mut out);
                message.value()
            }
            Message::Reply(reply) => {
                reply.encode_head(&mut out);
                match reply {
                    ApiReply::Success { value, .. } => value,
                    ApiReply::Failure { .. } => &[],
                }
            }
            Message::Request(_) => continue, // a client sends it in one piece
        };
        out.extend_from_slice(value);
        assert!(out == bytes, "{name}");
    }
}

#[test]
fn no_type_of_message_is_without_a_golden_frame() {
    let numbers = |source, numbers: &mut dyn Iterator<Item = u16>| -> BTreeSet<u16> {
        numbers.filter(|number| Source::kind(source, *number).is_some()).collect()
    };
    for source in [Source::Module, Source::Server, Source::Peer] {
        let golden = frames::all().into_iter().filter(|golden| golden.source == source);
        let mut golden = golden.map(|golden| u16::from_be_bytes([golden.bytes[2], golden.bytes[3]]));
        assert_eq!(numbers(source, &mut golden), numbers(source, &mut (0..=u16::MAX)), "{source:?}");
    }
}
