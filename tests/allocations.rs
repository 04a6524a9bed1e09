//! Allocations per request. A GET of a local record makes none, a PUT of an existing key one for its
//! value, and a request of a peer none. A lookup allocates, but its requests to other nodes do not.
//!
//! The tests drive a node as the event loop does: they lend one [`Actions`] to every verb, and take the
//! answers out of it. The kernel and TLS are not part of this.

use std::time::Duration;

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;

use dht::id::{Key, KeySeed, NodeId, RpcId};
use dht::node::action::{Action, Actions, ClientId, ConnId, DialId, Origin};
use dht::node::params::{Durability, Params};
use dht::node::{Me, Node};
use dht::record::{Age, Class, Record, Tombstone, Ttl, Version, crc_of};
use dht::storage::{OLD_TOMBSTONE_BYTES, Storage, TOMBSTONE_BYTES};
use dht::time::{Now, Time, WallTime};
use dht::wire::api::{ApiRequest, Confirm, Put};
use dht::wire::codec::List;
use dht::wire::frame::next_frame;
use dht::wire::peer::{Content, FLAG_SERVING, Hello, PROTOCOL, PeerMessage, RecordBlock, Reply, Request, Want};
use dht::wire::{FIND_NODE, FIND_VALUE, Source};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const NOW: Now = Now { mono: Time::ZERO, wall: WallTime::from_millis(1_700_000_000_000) };
const KEYS: u8 = 100;
const ROUNDS: u64 = 20;

struct Lone {
    node: Node,
    out: Actions,
    requests: u64,
}

impl Lone {
    /// A founder without peers, with a value of `size` bytes under each key.
    fn holding(size: usize) -> Self {
        let me = Me { id: NodeId::new(Key::new([128; 32])), port: 7402 };
        let params = Params { durability: Durability::None, ..Params::default() };
        let mut lone = Self { node: Node::new(me, params, [7; 32], NOW), out: Actions::new(), requests: 0 };
        let value = vec![1; size];
        for _ in 0..2 {
            for key in 0..KEYS {
                lone.put(key, &value);
                assert_eq!(lone.get(key), 36 + size, "the value is there");
            }
        }
        lone
    }

    fn put(&mut self, key: u8, value: &[u8]) {
        let (confirm, class, key) = (Confirm::No, Class::Plain, Key::new([key; 32]));
        self.ask(ApiRequest::Put(Put { ttl: 3_600, replication: 1, confirm, class, key, value }));
        assert!(self.out.is_empty(), "it has no answer");
    }

    /// Returns the size of the answer.
    fn get(&mut self, key: u8) -> usize {
        self.ask(ApiRequest::Get { key: Key::new([key; 32]) });
        let bytes = self.out.answers().parts().map(<[u8]>::len).sum();
        self.out.answers().clear();
        bytes
    }

    fn ask(&mut self, request: ApiRequest<'_>) {
        self.requests += 1;
        let client = ClientId { connection: 1, request: self.requests };
        if request.is_answered() {
            self.out.expect(client);
        }
        self.node.on_request(NOW, client, request, &mut self.out);
        assert!(!self.out.is_awaited(), "it is answered at once");
    }
}

#[test]
fn a_get_of_a_local_record_allocates_nothing() {
    for size in [1, 100, 60_000] {
        let mut lone = Lone::holding(size);
        let allocated = allocation_counter::measure(|| {
            for _ in 0..ROUNDS {
                for key in 0..KEYS {
                    assert_eq!(lone.get(key), 36 + size);
                }
            }
        });
        assert_eq!(allocated.count_total, 0, "values of {size} bytes");
    }
}

#[test]
fn a_put_of_an_existing_key_allocates_only_its_value() {
    for size in [1, 100, 60_000] {
        let mut lone = Lone::holding(size);
        let value = vec![2; size];
        let allocated = allocation_counter::measure(|| {
            for _ in 0..ROUNDS {
                for key in 0..KEYS {
                    lone.put(key, &value);
                }
            }
        });
        assert_eq!(allocated.count_total, ROUNDS * u64::from(KEYS), "values of {size} bytes");
    }
}

/// A node, and peers that hold nothing and reply to every request with no contacts.
struct Crowd {
    node: Node,
    out: Actions,
    requests: u64,
    /// Requests of the node without a reply yet.
    asked: Vec<(ConnId, RpcId)>,
    bytes: Vec<u8>,
}

impl Crowd {
    /// A node with connections in both directions to `peers` peers.
    fn of(peers: u8) -> Self {
        let me = Me { id: NodeId::new(Key::new([255; 32])), port: 7402 };
        let params = Params { durability: Durability::None, ..Params::default() };
        let node = Node::new(me, params, [7; 32], NOW);
        let (asked, bytes) = (Vec::with_capacity(10_000), Vec::with_capacity(100_000));
        let mut crowd = Self { node, out: Actions::new(), requests: 0, asked, bytes };
        for peer in 1..=peers {
            let id = NodeId::new(Key::new([peer; 32]));
            let address = SocketAddr::from((Ipv4Addr::new(10, peer, 0, 1), 7402));
            crowd.meet(ConnId(u64::from(peer)), id, address, Origin::Accepted);
            let dial = crowd.dialled().expect("a stranger is dialled back");
            crowd.meet(ConnId(u64::from(peer) + 1_000), id, address, Origin::Dialled(dial));
            crowd.settle();
        }
        crowd
    }

    fn meet(&mut self, conn: ConnId, id: NodeId, address: SocketAddr, origin: Origin) {
        self.node.on_secured(NOW, conn, id, address, origin, &mut self.out);
        let (flags, wall) = (FLAG_SERVING, NOW.wall);
        let hello = Hello { protocol: PROTOCOL, flags, network: [0; 32], port: 7402, wall, agent: "crowd" };
        self.hear(conn, &PeerMessage::Hello(hello));
    }

    fn dialled(&self) -> Option<DialId> {
        self.out.iter().find_map(|action| match action {
            Action::Dial { dial, .. } => Some(*dial),
            _ => None,
        })
    }

    fn hear(&mut self, conn: ConnId, message: &PeerMessage<'_>) {
        self.bytes.clear();
        message.encode(&mut self.bytes);
        let (frame, _) = next_frame(Source::Peer, &self.bytes).expect("possible").expect("whole");
        self.node.on_frame(NOW, conn, frame, &mut self.out);
    }

    /// Replies to all requests of the node until there are none; returns their number.
    fn settle(&mut self) -> u64 {
        let mut answered = 0;
        loop {
            for action in self.out.iter() {
                let Action::Send { conn, message, .. } = action else { continue };
                let (head, _) = self.out.bytes(message);
                let number = u16::from_be_bytes([head[2], head[3]]);
                if number == FIND_NODE.number || number == FIND_VALUE.number {
                    let rpc = head[4..36].try_into().expect("32 bytes");
                    self.asked.push((*conn, RpcId::new(rpc)));
                }
            }
            self.out.clear();
            let Some((conn, rpc)) = self.asked.pop() else { return answered };
            answered += 1;
            self.hear(conn, &PeerMessage::Reply(rpc, Reply::Nodes(List::lend(&[]))));
        }
    }

    /// GETs at the same time, all of which fail; returns how many requests they made.
    fn get_all(&mut self, keys: Range<u8>) -> u64 {
        for key in keys {
            self.requests += 1;
            let client = ClientId { connection: 1, request: self.requests };
            self.node.on_request(NOW, client, ApiRequest::Get { key: Key::new([key; 32]) }, &mut self.out);
        }
        self.settle()
    }
}

/// Allocations and requests per GET of many at the same time, with `peers` peers.
fn cost_of_a_search(peers: u8) -> (u64, u64) {
    let mut crowd = Crowd::of(peers);
    let mut asked = 0;
    crowd.get_all(0..KEYS);
    let allocated = allocation_counter::measure(|| asked = crowd.get_all(0..KEYS));
    (allocated.count_total / u64::from(KEYS), asked / u64::from(KEYS))
}

/// Two lists of a lookup grow by doubling: its candidates, and their replies.
#[test]
fn a_lookup_allocates_but_its_requests_do_not() {
    let (few, many) = (cost_of_a_search(8), cost_of_a_search(16));
    assert_eq!((few.1, many.1), (8, 16));
    assert!(many.0 <= few.0 + 2, "{many:?} after {few:?}");
    assert!(many.0 < many.1, "{many:?}");
}

#[test]
fn requests_of_a_peer_allocate_nothing() {
    let mut crowd = Crowd::of(8);
    let (conn, rpc, value) = (ConnId(1), RpcId::new([9; 32]), [1; 100]);
    let block = |key: u8| RecordBlock {
        ttl: Ttl::from_secs(3_600).expect("not zero"),
        replication: 3,
        class: Class::Plain,
        key: Key::new([key; 32]),
        version: Version::from_bits(1 << 16),
        age: Age(0),
        crc: crc_of(&value),
        content: Content::Value(&value),
    };
    let mut ask = |request: Request<'_>| {
        crowd.hear(conn, &PeerMessage::Request(rpc, request));
        assert_eq!(crowd.out.iter().filter(|action| matches!(action, Action::Send { .. })).count(), 1);
        crowd.settle();
    };
    for key in 200..220 {
        ask(Request::Store(block(key)));
    }
    let wants = [(true, true), (true, false), (false, true), (false, false)];
    let wants = wants.map(|(contacts, head_only)| Want { contacts, head_only, ..Want::default() });
    let mut round = || {
        for (held, missing) in (200..220).zip(100..120) {
            ask(Request::Ping);
            ask(Request::FindNode { target: Key::new([missing; 32]) });
            for want in wants {
                ask(Request::FindValue { key: Key::new([held; 32]), want });
                ask(Request::FindValue { key: Key::new([missing; 32]), want });
            }
            ask(Request::Sync { from: Key::new([missing; 32]), to: Key::new([missing; 32]) });
            ask(Request::Store(block(held)));
        }
    };
    round();
    assert_eq!(allocation_counter::measure(round).count_total, 0);
}

/// A storage without records, with the tombstones of `count` keys. Those of every second key lapse first.
fn buried(count: u64) -> Storage {
    let mut storage = Storage::new(NodeId::new(Key::new([0; 32])), usize::MAX, KeySeed::new([1, 2, 3, 4]));
    let mut rng = StdRng::seed_from_u64(1);
    for number in 0..count {
        let millis = NOW.wall.as_millis() - 600_000 * (number % 2) - 1_000;
        let over = Tombstone { signed: None, plain: Some(Version::from_bits(millis << 16)) };
        storage.bury(NOW, Key::new(rng.random()), over);
        storage.forget_changed();
    }
    storage
}

/// The store on disk takes 41 bytes of memory for its key besides (`disk::index`): 96 in all.
#[test]
fn an_old_tombstone_takes_25_bytes_of_memory_at_most() {
    assert_eq!(OLD_TOMBSTONE_BYTES, 25);
    let an_hour_later = Now { mono: NOW.mono + Duration::from_hours(1), wall: NOW.wall.after(Duration::from_hours(1)) };
    for count in [2_000, 100_000, 150_000] {
        let mut storage = None;
        let measured = allocation_counter::measure(|| {
            let mut buried = buried(count);
            while !buried.turn_old(an_hour_later).is_round_done {
                buried.forget_changed();
            }
            storage = Some(buried);
        });
        let storage = storage.expect("it was made");
        assert_eq!((storage.bytes() as u64, storage.has_young_tombstones()), (count * 25, false));
        let empty = allocation_counter::measure(|| drop(buried(0))).bytes_max;
        // Room for the names of changed keys, which the storage keeps.
        let bound = i64::try_from(count * 25 + empty).expect("few bytes") + 32 * 256 * 2;
        assert!(measured.bytes_current <= bound, "{count} tombstones: {} bytes", measured.bytes_current);
    }
}

#[test]
fn a_tombstone_takes_55_bytes_of_memory_at_most_and_one_that_has_lapsed_none() {
    let mut measured = Vec::new();
    for count in [2_000, 100_000, 150_000] {
        let mut storage = None;
        let all = allocation_counter::measure(|| storage = Some(buried(count))).bytes_current;
        let mut storage = storage.expect("it was made");
        let next = storage.next_due().expect("there are tombstones");
        let lapsed = allocation_counter::measure(|| {
            while storage.next_due() == Some(next) {
                storage.sweep(Now { mono: next, ..NOW }, 10);
                storage.forget_changed();
            }
        });
        assert_eq!(storage.bytes() as u64, count / 2 * 55);
        measured.push((count, all, all + lapsed.bytes_current));
    }
    // The tables of a storage of no records, and room for the names of changed keys, which the storage keeps.
    let empty = allocation_counter::measure(|| drop(buried(0))).bytes_max;
    let empty = i64::try_from(empty).expect("few bytes") + 1_024;
    assert_eq!(TOMBSTONE_BYTES, 55);
    for (count, all, half) in measured {
        let bounds = [count, count / 2].map(|count| i64::try_from(count * 55).expect("few bytes") + empty);
        assert!(all <= bounds[0] && half <= bounds[1], "{count} tombstones: {all} bytes, half of them: {half} bytes");
    }
}

/// A storage with `count` records of 100 bytes, due at different moments of `span`.
fn filled(count: u64, span: Duration) -> Storage {
    let mut storage = Storage::new(NodeId::new(Key::new([0; 32])), usize::MAX, KeySeed::new([1, 2, 3, 4]));
    let mut rng = StdRng::seed_from_u64(1);
    for number in 0..count {
        let (key, value) = (Key::new(rng.random()), [number.to_le_bytes()[0]; 100]);
        let (class, version) = (Class::Plain, Version::from_bits(NOW.wall.as_millis() << 16));
        let ttl = Ttl::from_secs(u16::MAX).expect("not zero");
        let record = Record { key, class, version, ttl, replication: 1, crc: crc_of(&value), value: value[..].into() };
        let expires = NOW.mono + Duration::from_secs(u16::MAX.into());
        let due = NOW.mono + span.mul_f64(rng.random());
        storage.store(NOW, record, expires, due, dht::record::Source::Peer, |_| true);
        storage.forget_changed();
    }
    storage
}

/// With the 41 bytes that the store on disk takes for its key (`disk::index`), and with the allocator's headers, which
/// the counter does not see.
#[test]
fn a_record_of_100_bytes_takes_300_bytes_of_memory_at_most() {
    const HEADER: i64 = 8;
    const IN_INDEX_OF_DISK: i64 = 41;
    let (hour, longest) = (Duration::from_hours(1), Duration::from_secs(u16::MAX.into()));
    // The hash tables have doubled just before the last number of records.
    for (count, span, own_ticks) in [(2_000, longest, true), (60_000, longest, true), (120_000, hour, false)] {
        let mut storage = None;
        let measured = allocation_counter::measure(|| storage = Some(filled(count, span)));
        let storage = storage.expect("it was made");
        let empty = allocation_counter::measure(|| drop(filled(0, span))).bytes_max;
        let empty = i64::try_from(empty).expect("few bytes") + 8_192; // an open chunk of slots
        let bytes = measured.bytes_current + measured.count_current * HEADER - empty;
        let records = i64::try_from(count).expect("few");
        let counted = i64::try_from(storage.bytes()).expect("few") + if own_ticks { 17 * records } else { 0 };
        assert!(bytes <= counted, "{count} records: {bytes} bytes, counted {counted}");
        let each = bytes / records + IN_INDEX_OF_DISK;
        assert!(own_ticks || each <= 300, "{count} records: {each} bytes each");
    }
}
