//! Invariants of a node in every state: the turns at one instant end, everything has a deadline, and the
//! same calls produce the same actions.

use dht::id::RpcId;
use dht::limits::PENDING_MAX;
use dht::node::action::{ClientId, ConnId, DialError};
use dht::node::params::Params;
use dht::record::{Age, Class};
use dht::wire::peer::{ErrorCode, Hello, PeerMessage, RecordBlock, Reply, Request, Want};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::harness::{
    Harness, block, bootstrap, confirmed, contact, greeting, hello, key, larger, millis, nodes, quiet, secs, stored,
    value_of, version_at,
};

/// One event. Its numbers select a peer, connection or dial, modulo their count.
#[derive(Clone, Copy, Debug)]
enum Event {
    Accept(u8),
    Hello { at: usize, serving: bool },
    Meet { dial: usize, greets: bool },
    FailDial { dial: usize, authentic: bool },
    Ask { at: usize, request: usize, n: u8 },
    Answer { asked: usize, reply: usize, n: u8 },
    Stray { at: usize, reply: usize, n: u8 },
    Goodbye(usize),
    Close(usize),
    Get(u8),
    Put { n: u8, confirm: bool },
    Pass(u64),
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
        3 => (any::<u8>(), any::<bool>()).prop_map(|(n, confirm)| Event::Put { n, confirm }),
        5 => (0..4_000_u64).prop_map(Event::Pass),
    ]
}

/// A harness, and what the events need to know about the run so far.
struct RandomRun {
    harness: Harness,
    conns: Vec<ConnId>,
    dials: Vec<dht::node::action::DialId>,
    asked: Vec<(ConnId, RpcId, Request<'static>)>,
    owed: Vec<ClientId>,
}

fn pick<T: Copy>(of: &[T], nth: usize) -> Option<T> {
    (!of.is_empty()).then(|| of[nth % of.len()])
}

impl RandomRun {
    fn new(params: Params) -> Self {
        Self {
            harness: Harness::new(params),
            conns: Vec::new(),
            dials: Vec::new(),
            asked: Vec::new(),
            owed: Vec::new(),
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
                self.owed.push(client);
            }
            Event::Put { n, confirm } => {
                let client = self.harness.put(if confirm { confirmed(n, b"value") } else { quiet(n, b"value") });
                if confirm {
                    self.owed.push(client);
                }
            }
            Event::Pass(span) => self.harness.pass(millis(span)),
        }
        self.check_invariants();
    }

    /// Collects what the node wants, and checks its invariants.
    fn check_invariants(&mut self) {
        let peers = 1..128;
        for (dial, ..) in self.harness.dials() {
            self.dials.push(dial);
        }
        let asked = self.harness.all_requests(|request| Some(*request));
        self.asked.extend(asked);
        let harness = &mut self.harness;
        self.owed.retain(|client| harness.answer(*client).is_none());
        harness.forget_actions();
        let node = &harness.node;
        assert_eq!(node.connections_without_deadline(), 0);
        assert!(node.requests(harness.now).0 <= PENDING_MAX);
        assert!(!node.table().holds_its_owner() && node.table().overfull_bucket().is_none());
        assert!(node.lookups().all(|lookup| lookup.in_flight() <= node.params().alpha));
        assert!(node.table().iter().all(|contact| peers.contains(&contact.id.key().as_bytes()[0])));
        node.storage().check_invariants().expect("a sound storage");
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
            want: Want { contacts: n.is_multiple_of(2), head_only: n.is_multiple_of(3) },
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
    Params { k: 3, replication_default: 3, bootstraps, ..Params::default() }
}

fn run(founder: bool, events: &[Event]) -> RandomRun {
    let mut run = RandomRun::new(params(founder));
    for event in events {
        run.apply(*event);
    }
    run
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// For any messages in any order: no panic; each invariant holds after each event (see
    /// `RandomRun::check_invariants`); every request of a client is answered in time; and without further
    /// input the node becomes idle.
    #[test]
    fn the_invariants_hold_for_any_input_of_peers(founder: bool, events in vec(any_event(), 0..300)) {
        let mut run = run(founder, &events);
        run.harness.pass(secs(10));
        run.check_invariants();
        prop_assert_eq!(&run.owed, &[], "answers are owed");
        let lookups: Vec<_> = run.harness.node.lookups().map(|lookup| *lookup.target()).collect();
        prop_assert!(lookups.len() <= 3, "searches that never end: {lookups:?}");
        run.harness.pass(secs(3_700));
        run.check_invariants();
        prop_assert_eq!(run.harness.node.storage().len(), 0);
        run.harness.act(dht::node::Node::leave);
        run.harness.pass(secs(10));
        prop_assert!(run.harness.node.has_left());
        prop_assert_eq!(run.harness.node.connections(), 0);
    }

    /// The same calls in the same order produce the same actions.
    #[test]
    fn the_same_events_produce_the_same_transcript(founder: bool, events in vec(any_event(), 0..150)) {
        prop_assert_eq!(run(founder, &events).harness.transcript, run(founder, &events).harness.transcript);
    }
}

#[test]
fn an_idle_node_wakes_fewer_than_100_times_an_hour() {
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
    assert!(turns < 100, "{turns} turns in an hour of silence");
}
