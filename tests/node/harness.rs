//! The harness: one node, scripted peers, and a clock that the test moves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;

use dht::contact::Contact;
use dht::id::{Key, NodeId, RpcId};
use dht::identity::PublicKey;
use dht::node::action::{Action, Actions, ClientId, ConnId, DialError, DialId, Encoded, Origin, Taken};
use dht::node::params::{Bootstrap, Endpoint, Params};
use dht::node::persisted::{Batch, Saved};
use dht::node::{Me, Node};
use dht::record::envelope::{hashed_key, owned_key, seal};
use dht::record::{Age, Class, Life, Rank, Ttl, Version, crc_of};
use dht::time::{Now, Time, WallTime};
use dht::wire::Source;
use dht::wire::api::{ApiReply, ApiRequest, Confirm, Put};
use dht::wire::codec::List;
use dht::wire::frame::next_frame;
use dht::wire::peer::{
    Content, Entry, FLAG_DIALLED, FLAG_SERVING, Hello, PROTOCOL, PeerMessage, RecordBlock, Reply, Request,
    StoreOutcome, Want,
};

/// The port on which every peer listens.
pub(crate) const PORT: u16 = 7402;

/// The port that every peer dials from.
const EPHEMERAL: u16 = 50_000;

/// Wall clock at the start of a test, in milliseconds since 1970.
const EPOCH_MILLIS: u64 = 1_700_000_000_000;

/// Turns that a node may ask for at one instant.
const TURNS_MAX: u32 = 1_000;

/// The id of the node under test. The ids of all peers below 128 are in the other half of the key space.
pub(crate) const ME: NodeId = NodeId::new(Key::new([128; 32]));

/// A message to or from a peer. Its bytes are leaked, so that a test need not care for lifetimes.
pub(crate) type Message = PeerMessage<'static>;

/// An action of the node, decoded.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum NodeAction {
    Dial(DialId, Endpoint, Option<NodeId>),
    Send(ConnId, Message),
    Reply(ClientId, ApiReply<'static>),
    Close(ConnId),
    Save(Arc<Batch>),
}

/// What happens to a batch that the node wants to save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    /// It is written at once, and on disk if the node asks for that.
    Works,
    /// The write fails.
    Fails,
    /// It waits until the test reports a result.
    Waits,
}

/// One node and its peers.
pub(crate) struct Harness {
    pub(crate) node: Node,
    pub(crate) now: Time,
    /// How far the node's wall clock runs ahead, in milliseconds.
    pub(crate) wall_ahead: u64,
    out: Actions,
    actions: Vec<NodeAction>,
    /// All actions so far as text, for comparison.
    pub(crate) transcript: Vec<u8>,
    /// Peers that accept every dial, and answer PING, FIND NODE and SYNC without the test.
    automatic: BTreeSet<NodeId>,
    /// Whether such an answer is being given.
    is_answering: bool,
    conns: BTreeMap<ConnId, NodeId>,
    /// Connections over which the peer has sent HELLO. Before that no peer replies.
    greeted: BTreeSet<ConnId>,
    /// The address that each dial went to.
    dialled: BTreeMap<DialId, SocketAddr>,
    numbers_used: u64,
    pub(crate) disk: Disk,
}

/// Start, and the clock.
impl Harness {
    pub(crate) fn new(params: Params) -> Self {
        let now = Now { mono: Time::ZERO, wall: WallTime::from_millis(EPOCH_MILLIS) };
        Self {
            node: Node::new(Me { id: ME, port: PORT }, params, [7; 32], now),
            now: now.mono,
            wall_ahead: 0,
            out: Actions::new(),
            actions: Vec::new(),
            transcript: Vec::new(),
            automatic: BTreeSet::new(),
            is_answering: false,
            conns: BTreeMap::new(),
            greeted: BTreeSet::new(),
            dialled: BTreeMap::new(),
            numbers_used: 0,
            disk: Disk::Works,
        }
    }

    /// A node without bootstraps: it is settled at once.
    pub(crate) fn founder() -> Self {
        Self::new(Params::default())
    }

    /// A settled node with connections to `peers`, all of which answer automatically.
    pub(crate) fn with_contacts(params: Params, peers: impl IntoIterator<Item = u8>) -> Self {
        let mut harness = Self::new(params);
        for peer in peers {
            harness.add_contact(peer);
        }
        harness
    }

    /// A node whose bootstrap is the peer 1; it has not been woken yet.
    pub(crate) fn newcomer() -> Self {
        Self::new(Params { bootstraps: vec![bootstrap(1, None)], ..Params::default() })
    }

    pub(crate) fn now(&self) -> Now {
        let millis = u64::try_from(self.now.since(Time::ZERO).as_millis()).expect("a short test");
        Now { mono: self.now, wall: WallTime::from_millis(EPOCH_MILLIS + millis + self.wall_ahead) }
    }

    /// Moves the clock by `span`, and wakes the node at each of its deadlines.
    pub(crate) fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        let mut turns = 0;
        while let Some(deadline) = self.node.next_deadline().filter(|deadline| *deadline <= end) {
            turns = if deadline > self.now { 0 } else { turns + 1 };
            assert!(turns < TURNS_MAX, "the node wants turn after turn at {}", self.now);
            self.now = self.now.max(deadline);
            self.wake();
        }
        self.now = end;
    }

    pub(crate) fn wake(&mut self) {
        self.act(Node::on_timeout);
    }

    /// Calls one verb of the node, and records its actions. If the disk works, records are written that the node wants
    /// to save now, as an event loop does it in the same turn.
    pub(crate) fn act(&mut self, verb: impl FnOnce(&mut Node, Now, &mut Actions)) {
        self.call(verb);
        for _ in 0..TURNS_MAX {
            let is_due = self.node.next_deadline().is_some_and(|deadline| deadline <= self.now);
            if self.disk != Disk::Works || self.is_answering || self.node.unsaved() == 0 || !is_due {
                break;
            }
            self.call(Node::on_timeout);
        }
    }

    fn call(&mut self, verb: impl FnOnce(&mut Node, Now, &mut Actions)) {
        let now = self.now();
        verb(&mut self.node, now, &mut self.out);
        let actions = std::mem::take(&mut self.out);
        for action in actions.iter() {
            let action = decoded(&actions, action);
            self.transcript.extend_from_slice(format!("{action:?}\n").as_bytes());
            match &action {
                NodeAction::Close(conn) => drop(self.conns.remove(conn)),
                NodeAction::Dial(dial, Endpoint::Address(to), _) => drop(self.dialled.insert(*dial, *to)),
                NodeAction::Dial(..) | NodeAction::Send(..) | NodeAction::Reply(..) | NodeAction::Save(_) => {}
            }
            self.actions.push(action);
        }
        if self.is_answering {
            return; // an automatic answer led to these actions; the loop below handles them
        }
        self.is_answering = true;
        while let Some(at) = self.actions.iter().position(|action| self.is_automatic(action)) {
            let action = self.actions.remove(at);
            self.answer_automatically(action);
        }
        self.is_answering = false;
    }

    fn is_automatic(&self, action: &NodeAction) -> bool {
        match action {
            NodeAction::Dial(_, _, expect) => expect.is_some_and(|id| self.automatic.contains(&id)),
            // The message first: tests collect thousands of STOREs, and a match costs less than two look-ups.
            NodeAction::Send(conn, message) => {
                matches!(
                    message,
                    PeerMessage::Request(
                        _,
                        Request::Ping
                            | Request::FindNode { .. }
                            | Request::Sync { .. }
                            | Request::FindValue { want: Want { contacts: true, .. }, .. }
                    )
                ) && self.greeted.contains(conn)
                    && self.conns.get(conn).is_some_and(|id| self.automatic.contains(id))
            }
            NodeAction::Save(_) => self.disk != Disk::Waits,
            NodeAction::Reply(..) | NodeAction::Close(_) => false,
        }
    }

    fn answer_automatically(&mut self, action: NodeAction) {
        match action {
            NodeAction::Dial(dial, Endpoint::Address(address), Some(id)) => {
                let conn = self.secure(id, address, Origin::Dialled(dial));
                self.send(conn, &hello());
            }
            NodeAction::Send(conn, PeerMessage::Request(rpc, Request::Ping)) => self.reply(conn, rpc, Reply::Pong),
            NodeAction::Send(conn, PeerMessage::Request(rpc, Request::Sync { .. })) => {
                self.reply(conn, rpc, synced(&[]));
            }
            NodeAction::Send(conn, PeerMessage::Request(rpc, _)) => self.reply(conn, rpc, nodes(&[])),
            NodeAction::Save(batch) => {
                let saved = match self.disk {
                    Disk::Works if batch.sync => Saved::Durable,
                    Disk::Works => Saved::Written,
                    Disk::Fails | Disk::Waits => Saved::Failed,
                };
                self.act(|node, now, out| node.on_saved(now, saved, out));
            }
            action => unreachable!("{action:?} is not answered automatically"),
        }
    }
}

/// Peers.
impl Harness {
    /// The peer `id` at `address` has a secured connection to the node.
    pub(crate) fn secure(&mut self, id: NodeId, address: SocketAddr, origin: Origin) -> ConnId {
        let conn = ConnId(self.next_number());
        self.conns.insert(conn, id);
        self.act(|node, now, out| node.on_secured(now, conn, id, address, origin, out));
        conn
    }

    /// `peer` dials the node.
    pub(crate) fn accept(&mut self, peer: u8) -> ConnId {
        let address = SocketAddr::new(address(peer).ip(), EPHEMERAL);
        self.secure(id(peer), address, Origin::Accepted)
    }

    /// `peer` dials the node and sends the HELLO of a peer that does not serve; the node will not dial it
    /// back.
    pub(crate) fn accept_client(&mut self, peer: u8) -> ConnId {
        let conn = self.accept(peer);
        self.send(conn, &PeerMessage::Hello(Hello { flags: 0, port: 0, ..greeting() }));
        self.sent(conn);
        conn
    }

    /// The node's dial reaches `peer`, which sends HELLO.
    pub(crate) fn complete_dial(&mut self, dial: DialId, peer: u8) -> ConnId {
        let conn = self.secure(id(peer), address(peer), Origin::Dialled(dial));
        self.send(conn, &hello());
        conn
    }

    /// `peer` dials the node, and the node dials it back; then the first connection closes. The peer is
    /// in the table from then on, and answers automatically.
    pub(crate) fn add_contact(&mut self, peer: u8) -> ConnId {
        let first = self.accept(peer);
        self.send(first, &hello());
        let dial = self.dial_of(peer);
        self.close(first);
        let conn = self.complete_dial(dial, peer);
        self.sent(first);
        self.sent(conn);
        self.automatic.insert(id(peer));
        conn
    }

    /// `peer`, which listens at `at`, is in the table from then on, and answers automatically.
    pub(crate) fn add_contact_at(&mut self, peer: u8, at: SocketAddr) -> ConnId {
        self.add_contact_saying(peer, at, greeting())
    }

    /// The same with that HELLO.
    pub(crate) fn add_contact_saying(&mut self, peer: u8, at: SocketAddr, hello: Hello<'_>) -> ConnId {
        let first = self.secure(id(peer), SocketAddr::new(at.ip(), EPHEMERAL), Origin::Accepted);
        self.send(first, &PeerMessage::Hello(hello));
        let dials = self.dials();
        let [(dial, Endpoint::Address(to), _)] = &dials[..] else { panic!("{dials:?}") };
        assert_eq!(*to, at);
        self.close(first);
        let conn = self.secure(id(peer), at, Origin::Dialled(*dial));
        self.send(conn, &PeerMessage::Hello(Hello { flags: hello.flags | FLAG_DIALLED, ..hello }));
        self.sent(first);
        self.sent(conn);
        self.automatic.insert(id(peer));
        conn
    }

    /// From now on `peer` answers only as the test says.
    pub(crate) fn make_scripted(&mut self, peer: u8) {
        self.automatic.remove(&id(peer));
    }

    /// From now on `peer` accepts dials, and answers PING, FIND NODE and SYNC.
    pub(crate) fn make_automatic(&mut self, peer: u8) {
        self.automatic.insert(id(peer));
    }

    pub(crate) fn send(&mut self, conn: ConnId, message: &PeerMessage<'_>) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        if matches!(message, PeerMessage::Hello(_)) {
            self.greeted.insert(conn);
        }
        self.send_bytes(conn, &bytes);
    }

    pub(crate) fn send_bytes(&mut self, conn: ConnId, bytes: &[u8]) {
        let (frame, size) = next_frame(Source::Peer, bytes).expect("a possible frame").expect("a whole one");
        assert_eq!(size, bytes.len());
        self.act(|node, now, out| node.on_frame(now, conn, frame, out));
    }

    pub(crate) fn reply(&mut self, conn: ConnId, rpc: RpcId, reply: Reply<'_>) {
        self.send(conn, &PeerMessage::Reply(rpc, reply));
    }

    /// The peer sends a request; returns the node's reply.
    pub(crate) fn ask(&mut self, conn: ConnId, request: Request<'_>) -> Reply<'static> {
        let rpc = RpcId::new([0xaa; 32]);
        self.sent(conn);
        self.send(conn, &PeerMessage::Request(rpc, request));
        let replies = self.take(|action| match action {
            NodeAction::Send(to, PeerMessage::Reply(echo, reply)) if *to == conn => Some((*echo, *reply)),
            _ => None,
        });
        match replies[..] {
            [(echo, reply)] if echo == rpc => reply,
            _ => panic!("not one answer to {request:?} but {replies:?}"),
        }
    }

    /// The peer, which was unresponsive, sends a request, and answers the PING that follows.
    pub(crate) fn come_back(&mut self, conn: ConnId) {
        self.send(conn, &PeerMessage::Request(RpcId::new([0xbb; 32]), Request::Ping));
        let pings = self.all_requests(|request| matches!(request, Request::Ping).then_some(()));
        for (conn, rpc, ()) in pings {
            self.reply(conn, rpc, Reply::Pong);
        }
    }

    /// The peer closes the connection.
    pub(crate) fn close(&mut self, conn: ConnId) {
        self.conns.remove(&conn);
        self.act(|node, now, out| node.on_closed(now, conn, out));
    }

    pub(crate) fn fail(&mut self, dial: DialId, error: DialError) {
        self.act(|node, now, out| node.on_dial_failed(now, dial, error, out));
    }
}

/// Clients.
impl Harness {
    pub(crate) fn get(&mut self, key: Key) -> ClientId {
        self.request(ApiRequest::Get { key })
    }

    pub(crate) fn put(&mut self, put: Put<'_>) -> ClientId {
        self.request(ApiRequest::Put(put))
    }

    /// A client sends `request` on a connection of its own. The node must have room for it.
    fn request(&mut self, request: ApiRequest<'_>) -> ClientId {
        let client = ClientId { connection: self.next_number(), request: 1 };
        assert_ne!(self.try_request(client, request), Taken::NoRoom);
        client
    }

    /// `client` sends `request`.
    pub(crate) fn try_request(&mut self, client: ClientId, request: ApiRequest<'_>) -> Taken {
        let mut taken = Taken::NoRoom;
        self.act(|node, now, out| taken = node.on_request(now, client, request, out));
        taken
    }

    /// The answer to `client` since the last call.
    pub(crate) fn answer(&mut self, client: ClientId) -> Option<ApiReply<'static>> {
        let mut answers = self.take(|action| match action {
            NodeAction::Reply(to, reply) if *to == client => Some(*reply),
            _ => None,
        });
        assert!(answers.len() <= 1, "{client:?} was answered {answers:?}");
        answers.pop()
    }

    /// All answers to clients.
    pub(crate) fn answers(&mut self) -> Vec<(ClientId, ApiReply<'static>)> {
        self.take(|action| match action {
            NodeAction::Reply(client, reply) => Some((*client, *reply)),
            _ => None,
        })
    }

    /// The replies to STOREs by which the node says that it holds the record: key and rank.
    pub(crate) fn acknowledgements(&mut self) -> Vec<(Key, Rank)> {
        self.take(|action| match action {
            NodeAction::Send(_, PeerMessage::Reply(_, Reply::Stored { key, outcome: StoreOutcome::Held, held })) => {
                Some((*key, *held))
            }
            _ => None,
        })
    }

    fn next_number(&mut self) -> u64 {
        self.numbers_used += 1;
        self.numbers_used
    }
}

/// What the node has done. Each method removes what it returns.
impl Harness {
    /// All messages sent over `conn`.
    pub(crate) fn sent(&mut self, conn: ConnId) -> Vec<Message> {
        self.take(|action| match action {
            NodeAction::Send(to, message) if *to == conn => Some(*message),
            _ => None,
        })
    }

    /// The requests sent over `conn`.
    pub(crate) fn requests(&mut self, conn: ConnId) -> Vec<(RpcId, Request<'static>)> {
        self.take(|action| match action {
            NodeAction::Send(to, PeerMessage::Request(rpc, request)) if *to == conn => Some((*rpc, *request)),
            _ => None,
        })
    }

    /// The one request sent over `conn`.
    pub(crate) fn only_request(&mut self, conn: ConnId) -> (RpcId, Request<'static>) {
        let asked = self.requests(conn);
        assert_eq!(asked.len(), 1, "{asked:?}");
        asked[0]
    }

    /// The requests of one kind, over all connections.
    pub(crate) fn all_requests<T>(&mut self, of: impl Fn(&Request<'static>) -> Option<T>) -> Vec<(ConnId, RpcId, T)> {
        self.take(|action| match action {
            NodeAction::Send(to, PeerMessage::Request(rpc, request)) => of(request).map(|found| (*to, *rpc, found)),
            _ => None,
        })
    }

    /// The STOREs sent: connection, RPC id and record.
    pub(crate) fn copies(&mut self) -> Vec<(ConnId, RpcId, RecordBlock<'static>)> {
        self.all_requests(|request| match request {
            Request::Store(block) => Some(*block),
            _ => None,
        })
    }

    /// The OFFERs sent: connection, RPC id and entries.
    pub(crate) fn offers(&mut self) -> Vec<(ConnId, RpcId, Vec<Entry>)> {
        self.all_requests(|request| match request {
            Request::Offer(entries) => Some(entries.iter().collect()),
            _ => None,
        })
    }

    /// Every peer wants all that it was offered. Returns the STOREs that follow.
    pub(crate) fn want_all_offers(&mut self) -> Vec<(ConnId, RpcId, RecordBlock<'static>)> {
        for (conn, rpc, entries) in self.offers() {
            let keys: Vec<Key> = entries.iter().map(|entry| entry.key).collect();
            self.reply(conn, rpc, Reply::Wanted(List::lend(&keys)));
        }
        self.pass(Duration::ZERO);
        self.copies()
    }

    /// The STOREs sent: peer and record.
    pub(crate) fn copies_by_peer(&mut self) -> Vec<(u8, RecordBlock<'static>)> {
        let copies = self.copies();
        copies.into_iter().map(|(conn, _, copy)| (self.peer_at(conn), copy)).collect()
    }

    /// The batches that the node wants to save.
    pub(crate) fn batches(&mut self) -> Vec<Arc<Batch>> {
        self.take(|action| match action {
            NodeAction::Save(batch) => Some(Arc::clone(batch)),
            _ => None,
        })
    }

    /// Answers FIND VALUE as `answers` says, until no such request is left; `None` means no reply.
    pub(crate) fn answer_find_value(&mut self, answers: impl Fn(u8, Want) -> Option<Reply<'static>>) {
        for _ in 0..TURNS_MAX {
            let asked = self.all_requests(|request| match request {
                Request::FindValue { want, .. } => Some(*want),
                _ => None,
            });
            if asked.is_empty() {
                return;
            }
            for (conn, rpc, want) in asked {
                if let Some(reply) = answers(self.peer_at(conn), want) {
                    self.reply(conn, rpc, reply);
                }
            }
        }
        panic!("the node asks and asks");
    }

    /// The number of the peer at the other end of `conn`.
    pub(crate) fn peer_at(&self, conn: ConnId) -> u8 {
        self.id_at(conn).key().as_bytes()[0]
    }

    pub(crate) fn dials(&mut self) -> Vec<(DialId, Endpoint, Option<NodeId>)> {
        self.take(|action| match action {
            NodeAction::Dial(dial, to, expect) => Some((*dial, to.clone(), *expect)),
            _ => None,
        })
    }

    /// The only dial to the address of `peer`.
    pub(crate) fn dial_of(&mut self, peer: u8) -> DialId {
        let dials = self.take(|action| match action {
            NodeAction::Dial(dial, Endpoint::Address(to), _) if *to == address(peer) => Some(*dial),
            _ => None,
        });
        assert_eq!(dials.len(), 1, "peer {peer} was dialled {} times", dials.len());
        dials[0]
    }

    /// The peer at the address that `dial` went to.
    pub(crate) fn peer_dialled(&self, dial: DialId) -> Option<u8> {
        let to = self.dialled.get(&dial)?;
        (1..128).find(|peer| address(*peer) == *to)
    }

    pub(crate) fn has_closed(&mut self, conn: ConnId) -> bool {
        !self.take(|action| (*action == NodeAction::Close(conn)).then_some(())).is_empty()
    }

    /// The id of the peer at the other end of `conn`.
    pub(crate) fn id_at(&self, conn: ConnId) -> NodeId {
        self.conns[&conn]
    }

    /// Forgets all actions except the STOREs.
    pub(crate) fn forget_all_but_copies(&mut self) {
        let copy =
            |action: &NodeAction| matches!(action, NodeAction::Send(_, PeerMessage::Request(_, Request::Store(_))));
        self.actions.retain(copy);
    }

    pub(crate) fn forget_actions(&mut self) {
        self.actions.clear();
    }

    pub(crate) fn knows(&self, peer: u8) -> bool {
        self.node.table().iter().any(|contact| contact.id == id(peer))
    }

    fn take<T>(&mut self, of: impl Fn(&NodeAction) -> Option<T>) -> Vec<T> {
        let mut taken = Vec::new();
        self.actions.retain(|action| match of(action) {
            Some(found) => {
                taken.push(found);
                false
            }
            None => true,
        });
        taken
    }
}

fn decoded(actions: &Actions, action: &Action) -> NodeAction {
    match action {
        Action::Dial { dial, to, expect } => NodeAction::Dial(*dial, to.clone(), *expect),
        Action::Send { conn, message, .. } => NodeAction::Send(*conn, message_of(actions, message)),
        Action::Reply { client, message } => {
            let (frame, _) = next_frame(Source::Server, whole(actions, message)).expect("possible").expect("whole");
            NodeAction::Reply(*client, ApiReply::decode(frame).expect("an answer"))
        }
        Action::Close { conn, .. } => NodeAction::Close(*conn),
        Action::Save { batch } => NodeAction::Save(Arc::clone(batch)),
    }
}

/// The bytes of `message`, leaked.
pub(crate) fn whole(actions: &Actions, message: &Encoded) -> &'static [u8] {
    let (head, value) = actions.bytes(message);
    Vec::leak([head, value].concat())
}

fn message_of(actions: &Actions, message: &Encoded) -> Message {
    let (frame, _) = next_frame(Source::Peer, whole(actions, message)).expect("possible").expect("whole");
    PeerMessage::decode(frame).expect("a message")
}

pub(crate) const fn key(n: u8) -> Key {
    Key::new([n; 32])
}

pub(crate) const fn id(n: u8) -> NodeId {
    NodeId::new(key(n))
}

/// The address on which the peer `n` listens.
pub(crate) fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], PORT))
}

pub(crate) fn contact(n: u8) -> Contact {
    Contact::new(id(n), address(n))
}

pub(crate) fn bootstrap(n: u8, pin: Option<NodeId>) -> Bootstrap {
    Bootstrap { at: Endpoint::Address(address(n)), pin }
}

pub(crate) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(crate) fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// The HELLO of a serving peer of the same network, which has this node as a contact.
pub(crate) fn greeting() -> Hello<'static> {
    let wall = WallTime::from_millis(EPOCH_MILLIS);
    Hello {
        protocol: PROTOCOL,
        flags: FLAG_SERVING | FLAG_DIALLED,
        network: [0; 32],
        port: PORT,
        wall,
        agent: "harness",
    }
}

pub(crate) fn hello() -> Message {
    PeerMessage::Hello(greeting())
}

/// The reply to FIND NODE with `contacts`.
pub(crate) fn nodes(contacts: &[Contact]) -> Reply<'_> {
    Reply::Nodes(List::lend(contacts))
}

/// A plain record of 60 s and replication 3, as a peer sends it. Its version is the start of the test.
pub(crate) fn block(n: u8, value: &'static [u8]) -> RecordBlock<'static> {
    RecordBlock {
        ttl: Ttl::from_secs(60).expect("not zero"),
        replication: 3,
        class: Class::Plain,
        key: key(n),
        version: version_at(0),
        age: Age(0),
        crc: crc_of(value),
        content: Content::Value(value),
    }
}

/// A signed record of 60 s and replication 3, as a peer sends it. The owner `owner` signed it `millis`
/// milliseconds after the start of the test.
pub(crate) fn signed(owner: u8, millis: u64, payload: &[u8]) -> RecordBlock<'static> {
    signed_for(60, owner, millis, payload)
}

/// The same with a life of `secs` seconds.
pub(crate) fn signed_for(secs: u16, owner: u8, millis: u64, payload: &[u8]) -> RecordBlock<'static> {
    let owner = SigningKey::from_bytes(&[owner; 32]);
    let ttl = Ttl::from_secs(secs).expect("not zero");
    let value: &'static [u8] = Vec::leak(seal(&owner, version_at(millis), ttl, b"salt", payload));
    let key = owned_key(&PublicKey::new(owner.verifying_key().to_bytes()), b"salt");
    RecordBlock { class: Class::Signed, key, version: version_at(millis), ttl, ..block_of(value) }
}

/// A hashed record of 60 s and replication 3, as a peer sends it.
pub(crate) fn hashed(value: &'static [u8]) -> RecordBlock<'static> {
    RecordBlock { class: Class::Hashed, key: hashed_key(value), version: Version::from_bits(0), ..block_of(value) }
}

/// The plain record of the key 0 with that value.
fn block_of(value: &'static [u8]) -> RecordBlock<'static> {
    block(0, value)
}

/// The record without its value.
pub(crate) fn head(record: RecordBlock<'static>) -> RecordBlock<'static> {
    RecordBlock { content: Content::Head, ..record }
}

/// The reply to FIND VALUE of a replica that holds `record`.
pub(crate) fn given(record: RecordBlock<'static>, want: Want) -> Reply<'static> {
    value_of(if want.head_only { head(record) } else { record })
}

/// The reply to FIND VALUE with that record and no contacts.
pub(crate) fn value_of(record: RecordBlock<'_>) -> Reply<'_> {
    Reply::Value { contacts: List::lend(&[]), is_tentative: false, record }
}

/// The last page of a SYNC.
pub(crate) fn synced(entries: &[Entry]) -> Reply<'_> {
    Reply::Synced { more: false, entries: List::lend(entries) }
}

/// The reply to a STORE: the peer holds `block` now.
pub(crate) fn stored(block: &RecordBlock<'_>) -> Reply<'static> {
    let held = Rank { class: block.class, life: Life::Alive, version: block.version };
    Reply::Stored { key: block.key, outcome: StoreOutcome::Held, held }
}

/// The reply to a STORE: the peer holds a larger record.
pub(crate) fn larger(n: u8, version: Version) -> Reply<'static> {
    let held = Rank { class: Class::Plain, life: Life::Alive, version };
    Reply::Stored { key: key(n), outcome: StoreOutcome::Larger, held }
}

/// The version of a write `millis` milliseconds after the start of the test.
pub(crate) fn version_at(millis: u64) -> Version {
    Version::from_bits((EPOCH_MILLIS + millis) << 16)
}

/// A PUT with default TTL and replication, without confirmation.
pub(crate) fn quiet(n: u8, value: &[u8]) -> Put<'_> {
    Put { ttl: 0, replication: 0, confirm: Confirm::No, class: Class::Plain, key: key(n), value }
}

/// The same with confirmation.
pub(crate) fn confirmed(n: u8, value: &[u8]) -> Put<'_> {
    Put { confirm: Confirm::Yes, ..quiet(n, value) }
}

#[expect(clippy::unnecessary_wraps, reason = "it is compared with an answer, which may be missing")]
pub(crate) fn success(n: u8, value: &'static [u8]) -> Option<ApiReply<'static>> {
    Some(ApiReply::Success { key: key(n), value })
}

#[expect(clippy::unnecessary_wraps, reason = "it is compared with an answer, which may be missing")]
pub(crate) fn failure(n: u8) -> Option<ApiReply<'static>> {
    Some(ApiReply::Failure { key: key(n) })
}
