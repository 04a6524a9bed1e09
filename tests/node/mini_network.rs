//! A mini network: real nodes over connections that deliver at once and in order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dht::counters::NodeCounters;
use dht::id::{Key, NodeId};
use dht::node::action::{Action, Actions, ClientId, ConnId, DialError, DialId, Origin, Taken};
use dht::node::params::{Endpoint, Params};
use dht::node::persisted::{Pack, PackId, PersistedKey, Saved};
use dht::node::{Me, Node};
use dht::time::{Now, Time, WallTime};
use dht::wire::Source;
use dht::wire::api::{ApiReply, ApiRequest};
use dht::wire::frame::next_frame;

use crate::harness::{PORT, address, bootstrap, id, whole};

/// Real nodes with one clock. The node `n` has the id and the address of the peer `n`.
pub(crate) struct MiniNetwork {
    pub(crate) nodes: BTreeMap<u8, Node>,
    now: Time,
    events: VecDeque<Event>,
    /// For each open end of a connection: its node, the other end, and which side dialled.
    ends: BTreeMap<ConnId, (u8, ConnId, Origin)>,
    answers: Vec<(ClientId, ApiReply<'static>)>,
    numbers_used: u64,
    /// The disk of each node, live or dead.
    disks: BTreeMap<u8, BTreeMap<Key, PersistedKey>>,
    /// The packs on it.
    packs: BTreeMap<u8, BTreeMap<PackId, Arc<Pack>>>,
    /// Nodes that reach only one another.
    isolated: BTreeSet<u8>,
}

enum Event {
    Dialled { by: u8, dial: DialId, to: Endpoint, expect: Option<NodeId> },
    Arrives { at: ConnId, bytes: &'static [u8] },
    Closed { at: ConnId },
    Saved { by: u8, saved: Saved },
}

impl MiniNetwork {
    pub(crate) fn new(members: impl IntoIterator<Item = (u8, Params)>) -> Self {
        let mut network = Self {
            nodes: BTreeMap::new(),
            now: Time::ZERO,
            events: VecDeque::new(),
            ends: BTreeMap::new(),
            answers: Vec::new(),
            numbers_used: 0,
            disks: BTreeMap::new(),
            packs: BTreeMap::new(),
            isolated: BTreeSet::new(),
        };
        for (number, params) in members {
            network.start(number, params);
        }
        network
    }

    /// Nodes with these parameters; the first founds the network, the others join through it.
    pub(crate) fn joined(members: impl IntoIterator<Item = u8>, params: &Params) -> Self {
        let mut members = members.into_iter();
        let founder = members.next().expect("a founder");
        let others = Params { bootstraps: vec![bootstrap(founder, None)], ..params.clone() };
        let mut network = Self::new([(founder, params.clone())]);
        for member in members {
            network.start(member, others.clone());
            network.pass(Duration::from_secs(1));
        }
        network.pass(Duration::from_mins(2));
        network
    }

    /// Starts the node `number` with what is on its disk.
    pub(crate) fn start(&mut self, number: u8, params: Params) {
        let now = self.now();
        let mut node = Node::new(Me { id: id(number), port: PORT }, params, [number; 32], now);
        for pack in self.packs.entry(number).or_default().values() {
            node.restore_pack(now, Pack::clone(pack));
        }
        for kept in self.disks.entry(number).or_default().values() {
            node.restore(now, kept.clone());
        }
        node.restored(now);
        self.nodes.insert(number, node);
    }

    /// The replicas of `key`, and the value that each holds.
    pub(crate) fn held(&self, key: Key) -> BTreeMap<u8, &[u8]> {
        let held = self.nodes.iter().map(|(number, node)| (*number, node.storage().find(self.now, &key)));
        held.filter_map(|(number, held)| Some((number, &*held?.record.value))).collect()
    }

    /// The `n` live nodes nearest to `key`.
    pub(crate) fn nearest(&self, key: Key, n: usize) -> BTreeSet<u8> {
        let mut all: Vec<u8> = self.nodes.keys().copied().collect();
        all.sort_by_key(|number| id(*number).key().distance(&key));
        all.into_iter().take(n).collect()
    }

    /// The sum of the counters of all nodes.
    pub(crate) fn counters(&self) -> NodeCounters {
        let mut sum = NodeCounters::default();
        for node in self.nodes.values() {
            sum += *node.counters();
        }
        sum
    }

    /// From now on `members` reach only one another; other messages are lost silently.
    pub(crate) fn isolate(&mut self, members: impl IntoIterator<Item = u8>) {
        self.isolated = members.into_iter().collect();
    }

    fn reach(&self, one: u8, other: u8) -> bool {
        self.isolated.contains(&one) == self.isolated.contains(&other)
    }

    fn now(&self) -> Now {
        let millis = u64::try_from(self.now.since(Time::ZERO).as_millis()).expect("a short test");
        Now { mono: self.now, wall: WallTime::from_millis(1_700_000_000_000 + millis) }
    }

    /// Moves the clock by `span`, and wakes each node at its deadlines.
    pub(crate) fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        for _ in 0..1_000_000 {
            let next = self.nodes.iter().filter_map(|(number, node)| Some((node.next_deadline()?, *number))).min();
            let Some((deadline, number)) = next.filter(|(deadline, _)| *deadline <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(deadline);
            self.act(number, Node::on_timeout);
        }
        panic!("the nodes want turn after turn at {}", self.now);
    }

    /// Calls one verb of a node, and handles all events that follow at this instant.
    pub(crate) fn act(&mut self, number: u8, verb: impl FnOnce(&mut Node, Now, &mut Actions)) {
        self.perform(number, verb);
        self.handle_all();
    }

    /// Handles all events of this instant. A node whose deadline is now is woken: an event loop does it in the same turn.
    fn handle_all(&mut self) {
        for _ in 0..1_000_000 {
            while let Some(event) = self.events.pop_front() {
                self.handle(event);
            }
            let is_due = |node: &Node| node.next_deadline().is_some_and(|deadline| deadline <= self.now);
            let Some(number) = self.nodes.iter().find(|(_, node)| is_due(node)).map(|(number, _)| *number) else {
                return;
            };
            self.perform(number, Node::on_timeout);
        }
        panic!("the nodes want turn after turn at {}", self.now);
    }

    pub(crate) fn request(&mut self, number: u8, request: ApiRequest<'_>) -> Option<ApiReply<'static>> {
        let client = self.ask(number, request);
        self.answer(client)
    }

    /// The same, for a request that may take time.
    pub(crate) fn ask(&mut self, number: u8, request: ApiRequest<'_>) -> ClientId {
        self.ask_at_once(&[(number, request)])[0]
    }

    /// The same, for requests that arrive before the nodes exchange any message. Each comes on a connection of its own.
    pub(crate) fn ask_at_once(&mut self, requests: &[(u8, ApiRequest<'_>)]) -> Vec<ClientId> {
        let mut clients = Vec::new();
        for (number, request) in requests {
            self.numbers_used += 1;
            let client = ClientId { connection: self.numbers_used, request: 1 };
            self.perform(*number, |node, now, out| {
                assert_ne!(node.on_request(now, client, *request, out), Taken::NoRoom);
            });
            clients.push(client);
        }
        self.handle_all();
        clients
    }

    pub(crate) fn answer(&mut self, client: ClientId) -> Option<ApiReply<'static>> {
        let at = self.answers.iter().position(|(to, _)| *to == client)?;
        Some(self.answers.swap_remove(at).1)
    }

    /// A node dies: its peers see their connections close.
    pub(crate) fn kill(&mut self, number: u8) {
        self.nodes.remove(&number);
        let ends: Vec<_> = self.ends.iter().filter(|(_, end)| end.0 == number).map(|(at, end)| (*at, end.1)).collect();
        for (at, other) in ends {
            self.ends.remove(&at);
            self.events.push_back(Event::Closed { at: other });
        }
        self.handle_all();
    }

    /// The connections of a node: the other node, and whether this one dialled.
    pub(crate) fn connections(&self, number: u8) -> Vec<(u8, bool)> {
        let of_it = self.ends.values().filter(|end| end.0 == number);
        of_it.map(|(_, other, origin)| (self.ends[other].0, matches!(origin, Origin::Dialled(_)))).collect()
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Dialled { by, dial, to, expect } => self.dialled(by, dial, &to, expect),
            Event::Arrives { at, bytes } => {
                let Some(&(number, other, _)) = self.ends.get(&at) else { return };
                if self.ends.get(&other).is_some_and(|end| !self.reach(number, end.0)) {
                    return;
                }
                let (frame, _) = next_frame(Source::Peer, bytes).expect("possible").expect("whole");
                self.perform(number, |node, now, out| node.on_frame(now, at, frame, out));
            }
            Event::Saved { by, saved } => self.perform(by, |node, now, out| node.on_saved(now, saved, out)),
            Event::Closed { at } => {
                if let Some((number, ..)) = self.ends.remove(&at) {
                    self.perform(number, |node, now, out| node.on_closed(now, at, out));
                }
            }
        }
    }

    fn dialled(&mut self, by: u8, dial: DialId, to: &Endpoint, expect: Option<NodeId>) {
        let found = self.nodes.keys().copied().find(|number| *to == Endpoint::Address(address(*number)));
        let error = match (found, expect) {
            (None, _) => Err(DialError::Refused),
            (Some(found), _) if !self.reach(by, found) => Err(DialError::Unreachable),
            (Some(found), Some(expect)) if id(found) != expect => Err(DialError::NotAuthentic),
            (Some(found), _) => Ok(found),
        };
        match error {
            Err(error) => self.perform(by, |node, now, out| node.on_dial_failed(now, dial, error, out)),
            Ok(found) => {
                let (here, there) = (ConnId(2 * self.numbers_used), ConnId(2 * self.numbers_used + 1));
                self.numbers_used += 1;
                let from = SocketAddr::new(address(by).ip(), 50_000);
                self.ends.insert(here, (by, there, Origin::Dialled(dial)));
                self.ends.insert(there, (found, here, Origin::Accepted));
                self.perform(found, |node, now, out| {
                    node.on_secured(now, there, id(by), from, Origin::Accepted, out);
                });
                self.perform(by, |node, now, out| {
                    node.on_secured(now, here, id(found), address(found), Origin::Dialled(dial), out);
                });
            }
        }
    }

    fn perform(&mut self, number: u8, verb: impl FnOnce(&mut Node, Now, &mut Actions)) {
        let now = self.now();
        let Some(node) = self.nodes.get_mut(&number) else { return };
        let mut out = Actions::new();
        verb(node, now, &mut out);
        for action in out.iter() {
            match action {
                Action::Dial { dial, to, expect } => {
                    let (dial, to, expect) = (*dial, to.clone(), *expect);
                    self.events.push_back(Event::Dialled { by: number, dial, to, expect });
                }
                Action::Send { conn, message, .. } => {
                    if let Some((_, other, _)) = self.ends.get(conn) {
                        let bytes = whole(&out, message);
                        self.events.push_back(Event::Arrives { at: *other, bytes });
                    }
                }
                Action::Reply { client, message } => {
                    let (frame, _) =
                        next_frame(Source::Server, whole(&out, message)).expect("possible").expect("whole");
                    self.answers.push((*client, ApiReply::decode(frame).expect("an answer")));
                }
                Action::Save { batch } => {
                    let disk = self.disks.entry(number).or_default();
                    for kept in &batch.keys {
                        disk.insert(kept.key, kept.clone());
                    }
                    let packs = self.packs.entry(number).or_default();
                    for pack in &batch.packs {
                        packs.insert(pack.id, Arc::clone(pack));
                    }
                    packs.retain(|_, pack| !pack.tombstones.is_empty());
                    let saved = if batch.sync { Saved::Durable } else { Saved::Written };
                    self.events.push_back(Event::Saved { by: number, saved });
                }
                Action::Close { conn, .. } => {
                    if let Some((_, other, _)) = self.ends.remove(conn) {
                        self.events.push_back(Event::Closed { at: other });
                    }
                }
            }
        }
    }
}
