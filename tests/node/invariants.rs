//! Invariants of a node in every state: the turns at one instant end, everything has a deadline, each
//! request of a client is answered once and in time, nothing is acknowledged that is not on disk, and the
//! same calls produce the same actions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dht::id::{Key, RpcId};
use dht::limits::PENDING_MAX;
use dht::node::Node;
use dht::node::action::{ClientId, ConnId, DialError};
use dht::node::params::{Durability, Params};
use dht::node::persisted::{Batch, Saved};
use dht::record::{Age, Class, Rank};
use dht::time::Time;
use dht::wire::api::{ApiReply, Put};
use dht::wire::peer::{ErrorCode, Hello, PeerMessage, RecordBlock, Reply, Request, StoreOutcome, Want};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::harness::{
    Disk, Harness, block, bootstrap, confirmed, contact, greeting, hello, key, larger, millis, nodes, quiet, secs,
    stored, value_of, version_at,
};

/// One event. Its numbers select a peer, connection or dial, modulo their count.
#[derive(Clone, Copy, Debug)]
enum Event {
    Accept(u8),
    Hello {
        at: usize,
        serving: bool,
    },
    Meet {
        dial: usize,
        greets: bool,
    },
    FailDial {
        dial: usize,
        authentic: bool,
    },
    Ask {
        at: usize,
        request: usize,
        n: u8,
    },
    Answer {
        asked: usize,
        reply: usize,
        n: u8,
    },
    Stray {
        at: usize,
        reply: usize,
        n: u8,
    },
    Goodbye(usize),
    Close(usize),
    Get(u8),
    Put {
        n: u8,
        ttl: u16,
        confirm: bool,
    },
    /// The disk reports that it has written the batch in flight, or could not.
    Saved {
        durable: bool,
    },
    Pass(u64),
    /// The host stops: the node is woken only at the end, after many of its deadlines.
    Stall(u64),
}

fn any_event() -> impl Strategy<Value = Event> {
    let which = || 0..1000_usize;
    prop_oneof![
        3 => any::<u8>().prop_map(Event::Accept),
        4 => (which(), prop::bool::weighted(0.8)).prop_map(|(at, serving)| Event::Hello { at, serving }),
        6 => (which(), prop::bool::weighted(0.9)).prop_map(|(dial, greets)| Event::Meet { dial, greets }),
        2 => (which(), any::<bool>()).prop_map(|(dial, authentic)| Event::FailDial { dial, authentic }),
        3 => (which(), which(), any::<u8>()).prop_map(|(at, request, n)| Event::Ask { at, request, n }),
        9 => (which(), which(), any::<u8>()).prop_map(|(asked, reply, n)| Event::Answer { asked, reply, n }),
        1 => (which(), which(), any::<u8>()).prop_map(|(at, reply, n)| Event::Stray { at, reply, n }),
        1 => which().prop_map(Event::Goodbye),
        2 => which().prop_map(Event::Close),
        3 => any::<u8>().prop_map(Event::Get),
        3 => (any::<u8>(), any_ttl(), any::<bool>()).prop_map(|(n, ttl, confirm)| Event::Put { n, ttl, confirm }),
        3 => prop::bool::weighted(0.8).prop_map(|durable| Event::Saved { durable }),
        5 => (0..4_000_u64).prop_map(Event::Pass),
        1 => (0..15_000_u64).prop_map(Event::Stall),
    ]
}

/// The configured life, a life that ends before `request_timeout`, or a longer one.
fn any_ttl() -> impl Strategy<Value = u16> {
    prop_oneof![Just(0), 1..4_u16, 1..3_600_u16]
}

/// A harness, and what the events need to know about the run so far.
struct RandomRun {
    harness: Harness,
    conns: Vec<ConnId>,
    dials: Vec<dht::node::action::DialId>,
    asked: Vec<(ConnId, RpcId, Request<'static>)>,
    /// Requests of clients without an answer, and when they were made.
    owed: BTreeMap<ClientId, Time>,
    /// The batch that the disk has not written yet.
    batch: Option<Arc<Batch>>,
    /// The rank of the record of each key that is on disk.
    on_disk: BTreeMap<Key, Rank>,
    /// Keys of which some peer has acknowledged a copy.
    copied: BTreeSet<Key>,
    /// The latest PUT of each key. It replaces the others, also if its life ends first.
    latest: BTreeMap<Key, ClientId>,
}

fn pick<T: Copy>(of: &[T], nth: usize) -> Option<T> {
    (!of.is_empty()).then(|| of[nth % of.len()])
}

impl RandomRun {
    fn new(params: Params) -> Self {
        let mut harness = Harness::new(params);
        harness.disk = Disk::Waits;
        Self {
            harness,
            conns: Vec::new(),
            dials: Vec::new(),
            asked: Vec::new(),
            owed: BTreeMap::new(),
            batch: None,
            on_disk: BTreeMap::new(),
            copied: BTreeSet::new(),
            latest: BTreeMap::new(),
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            // The peers' addresses end in the number of the peer: 0, 255 and the node's own number are
            // left out.
            Event::Accept(n) => {
                let conn = self.harness.accept(1 + n % 127);
                self.conns.push(conn);
            }
            Event::Hello { at, serving } => {
                let flags = u16::from(serving);
                self.send(at, &PeerMessage::Hello(Hello { flags, ..greeting() }));
            }
            Event::Meet { dial, greets } => self.complete_dial(dial, greets),
            Event::FailDial { dial, authentic } => {
                let error = if authentic { DialError::Unreachable } else { DialError::NotAuthentic };
                if let Some(dial) = self.take_dial(dial) {
                    self.harness.fail(dial, error);
                }
            }
            Event::Ask { at, request, n } => {
                let request = any_request(request, n);
                self.send(at, &PeerMessage::Request(RpcId::new([n; 32]), request));
            }
            Event::Answer { asked, reply, n } => self.answer(asked, reply, n),
            Event::Stray { at, reply, n } => {
                let known = [contact(1 + n % 127)];
                self.send(at, &PeerMessage::Reply(RpcId::new([n; 32]), any_reply(reply, n, &known)));
            }
            Event::Goodbye(at) => self.send(at, &PeerMessage::Goodbye),
            Event::Close(at) => {
                if let Some(conn) = pick(&self.conns, at) {
                    self.harness.close(conn);
                }
            }
            Event::Get(n) => {
                let client = self.harness.get(key(n));
                self.owed.insert(client, self.harness.now);
            }
            Event::Put { n, ttl, confirm } => {
                let put = if confirm { confirmed(n, b"value") } else { quiet(n, b"value") };
                let client = self.harness.put(Put { ttl, ..put });
                self.latest.insert(put.key, client);
                if confirm {
                    self.owed.insert(client, self.harness.now);
                }
            }
            Event::Saved { durable } => self.saved(durable),
            Event::Pass(span) => self.harness.pass(millis(span)),
            Event::Stall(span) => {
                self.harness.now = self.harness.now + millis(span);
                self.harness.wake();
                self.harness.pass(millis(0));
            }
        }
        self.check_invariants();
    }

    /// The disk reports the result of the batch in flight.
    fn saved(&mut self, durable: bool) {
        let Some(batch) = self.batch.take() else { return };
        if durable {
            for persisted in &batch.keys {
                match &persisted.record {
                    Some(persisted) => self.on_disk.insert(persisted.record.key, persisted.record.rank()),
                    None => self.on_disk.remove(&persisted.key),
                };
            }
        }
        let saved = if durable { Saved::Durable } else { Saved::Failed };
        self.harness.act(|node, now, out| node.on_saved(now, saved, out));
    }

    /// Collects what the node wants, and checks its invariants.
    fn check_invariants(&mut self) {
        let peers = 1..128;
        for (dial, ..) in self.harness.dials() {
            self.dials.push(dial);
        }
        let asked = self.harness.all_requests(|request| Some(*request));
        self.asked.extend(asked);
        self.check_answers();
        self.check_acknowledgements();
        self.batch = self.harness.batches().pop().or(self.batch.take());
        self.harness.forget_actions();
        let harness = &self.harness;
        let node = &harness.node;
        assert_eq!(node.connections_without_deadline(), 0);
        assert!(node.requests(harness.now).0 <= PENDING_MAX);
        assert!(!node.table().holds_its_owner() && node.table().overfull_bucket().is_none());
        assert!(node.lookups().all(|lookup| lookup.in_flight() <= node.params().alpha));
        assert!(node.table().iter().all(|contact| peers.contains(&contact.id.key().as_bytes()[0])));
        node.storage().check_invariants().expect("a sound storage");
    }

    /// Each request of a client is answered once and in time, and a PUT by SUCCESS only if a node stores its
    /// record durably.
    fn check_answers(&mut self) {
        for (client, reply) in self.harness.answers() {
            let Some(_) = self.owed.remove(&client) else { panic!("{client:?} is not owed {reply:?}") };
            if let ApiReply::Success { key, value: b"" } = reply
                && self.latest[&key] == client
            {
                let stored = self.copied.contains(&key) || self.on_disk.contains_key(&key);
                assert!(stored, "{key:.8} is confirmed, and on no disk");
            }
        }
        let timeout = self.harness.node.params().request_timeout;
        let late = self.owed.iter().find(|(_, since)| **since + timeout < self.harness.now);
        assert!(late.is_none(), "{late:?} is not answered at {}", self.harness.now);
    }

    /// A STORE is acknowledged only once its record, or a larger one, is on disk.
    fn check_acknowledgements(&mut self) {
        for (key, held) in self.harness.acknowledgements() {
            let on_disk = self.on_disk.get(&key).map(|rank| rank.precedence());
            assert!(on_disk >= Some(held.precedence()), "{key:.8} is acknowledged, and not on disk");
        }
    }

    fn take_dial(&mut self, nth: usize) -> Option<dht::node::action::DialId> {
        (!self.dials.is_empty()).then(|| self.dials.swap_remove(nth % self.dials.len()))
    }

    /// The dial reaches the peer at its address.
    fn complete_dial(&mut self, dial: usize, greets: bool) {
        let Some(dial) = self.take_dial(dial) else { return };
        let Some(peer) = self.harness.peer_dialled(dial) else { return };
        let conn = self.harness.secure(
            crate::harness::id(peer),
            crate::harness::address(peer),
            dht::node::action::Origin::Dialled(dial),
        );
        self.conns.push(conn);
        if greets {
            self.harness.send(conn, &hello());
        }
    }

    fn send(&mut self, at: usize, message: &PeerMessage<'_>) {
        if let Some(conn) = pick(&self.conns, at) {
            self.harness.send(conn, message);
        }
    }

    /// A reply to a pending request, mostly of the right type.
    fn answer(&mut self, asked: usize, reply: usize, n: u8) {
        if self.asked.is_empty() {
            return;
        }
        let (conn, rpc, request) = self.asked.swap_remove(asked % self.asked.len());
        let known = [contact(1 + n % 127), contact(1 + n % 53)];
        let fitting = match request {
            Request::Ping => Reply::Pong,
            Request::Store(block) => stored(&block),
            Request::FindValue { key, .. } if n.is_multiple_of(3) => {
                value_of(RecordBlock { key, ..block(0, b"found") })
            }
            _ => nodes(&known),
        };
        let reply = if reply.is_multiple_of(4) { any_reply(reply / 4, n, &known) } else { fitting };
        if let Reply::Stored { key, outcome: StoreOutcome::Held, .. } = reply {
            self.copied.insert(key);
        }
        self.harness.send(conn, &PeerMessage::Reply(rpc, reply));
    }
}

fn any_request(nth: usize, n: u8) -> Request<'static> {
    let old = RecordBlock { age: Age(u32::from(n) * 300), ..block(n, b"stored") };
    let all = [
        Request::Ping,
        Request::FindNode { target: key(n) },
        Request::FindValue {
            key: key(n),
            want: Want { contacts: n.is_multiple_of(2), head_only: n.is_multiple_of(3), ..Want::default() },
        },
        Request::Store(old),
        Request::Store(RecordBlock { class: Class::Signed, ..old }),
        Request::Store(RecordBlock { version: version_at(u64::from(n) * 10_000), ..old }),
        Request::Sync { from: key(0), to: key(n) },
    ];
    all[nth % all.len()]
}

fn any_reply(nth: usize, n: u8, known: &[dht::contact::Contact]) -> Reply<'_> {
    let all = [
        Reply::Pong,
        nodes(known),
        value_of(block(n, b"found")),
        stored(&block(n, b"v")),
        larger(n, version_at(u64::from(n) * 10_000)),
        Reply::Error(ErrorCode(400 + u16::from(n))),
    ];
    all[nth % all.len()]
}

fn params(founder: bool) -> Params {
    let bootstraps = if founder { vec![] } else { vec![bootstrap(1, None), bootstrap(2, None)] };
    let durability = Durability::Always;
    Params { k: 3, replication_min: 1, replication_default: 3, bootstraps, durability, ..Params::default() }
}

fn run(founder: bool, events: &[Event]) -> RandomRun {
    let mut run = RandomRun::new(params(founder));
    for event in events {
        run.apply(*event);
    }
    run
}

/// For any messages in any order: no panic; each invariant holds after each event (see
/// `RandomRun::check_invariants`); and without further input the node becomes idle.
fn the_invariants_hold(founder: bool, events: &[Event]) {
    let mut run = run(founder, events);
    run.harness.pass(secs(10));
    run.check_invariants();
    assert_eq!(run.owed.len(), 0, "answers are owed");
    let lookups: Vec<_> = run.harness.node.lookups().map(|lookup| *lookup.target()).collect();
    assert!(lookups.len() <= 3, "lookups that never end: {lookups:?}");
    run.harness.pass(secs(3_700));
    run.check_invariants();
    assert_eq!(run.harness.node.storage().len(), 0);
    run.harness.act(Node::leave);
    run.harness.pass(secs(10));
    run.saved(true);
    assert!(run.harness.node.has_left());
    assert_eq!(run.harness.node.connections(), 0);
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(100_000))]

    #[test]
    #[ignore = "a longer run of the test below, two minutes"]
    fn the_invariants_hold_for_any_input_in_a_long_run(founder: bool, events in vec(any_event(), 0..300)) {
        the_invariants_hold(founder, &events);
    }
}

proptest! {
    #![proptest_config(cases(1_000))]

    #[test]
    fn the_invariants_hold_for_any_input(founder: bool, events in vec(any_event(), 0..300)) {
        the_invariants_hold(founder, &events);
    }

    /// The same calls in the same order produce the same actions.
    #[test]
    fn the_same_events_produce_the_same_transcript(founder: bool, events in vec(any_event(), 0..150)) {
        prop_assert_eq!(run(founder, &events).harness.transcript, run(founder, &events).harness.transcript);
    }
}

#[test]
fn an_idle_node_wakes_fewer_than_4000_times_an_hour() {
    let mut lone = Harness::founder();
    assert_eq!(lone.node.next_deadline(), None, "a founder waits for others");
    lone.add_contact(1);
    lone.pass(secs(5));
    let mut turns = 0;
    let end = lone.now + secs(3600);
    while let Some(deadline) = lone.node.next_deadline().filter(|deadline| *deadline <= end) {
        assert!(deadline > lone.now, "a busy loop at {deadline}");
        lone.pass(deadline.since(lone.now));
        turns += 1;
    }
    assert!(turns < 4_000, "{turns} turns in an hour of silence");
}
