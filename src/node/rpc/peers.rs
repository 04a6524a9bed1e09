//! Connections to peers: dialling, HELLO, duplicates, and the end of a connection.
//!
//! A peer is *reached* when its HELLO has arrived. It enters the routing table only when this node has
//! dialled its address and found its id there; so a peer that dials this node is dialled back, if the table
//! has room for it (`PROTOCOL.md` 2).
//!
//! Of two connections to one peer the one that the smaller id opened survives, of two that the same node
//! opened the newer one. The other one *retires*: it carries no new requests, and the node with the smaller
//! id closes it when no reply is outstanding on it, at the latest after `rpc_timeout`.
//!
//! Not guaranteed: that a request outlives its connection more than once. A request whose connection was
//! closed is sent again on another one, once, with the deadline that it had.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use log::{debug, warn};

use crate::contact::{Contact, canonical};
use crate::id::{KeyMap, KeySeed, NodeId, RpcId};
use crate::limits::{DIALS_MAX, HELLO_TIMEOUT, PEER_IDLE_TIMEOUT, PROBES_MAX, SETTLE_MAX, UNRESPONSIVE_PAUSE};
use crate::node::Node;
use crate::node::action::{Actions, ConnId, DialError, DialId, Fault, Origin};
use crate::node::params::{Endpoint, Serving};
use crate::node::purpose::Outcome;
use crate::node::rpc::bridges::Loss;
use crate::node::rpc::families::Dialled;
use crate::node::rpc::rtt::{Rtt, Rtts};
use crate::node::timers::Timers;
use crate::routing::{Observed, Suggested};
use crate::time::{Now, Time};
use crate::wire::peer::{
    ErrorCode, FLAG_DIALLED, FLAG_KNOWS_TENTATIVE, FLAG_SERVING, FLAG_TELLS_TIME, FLAG_UNSETTLED, Hello, PROTOCOL,
    PeerMessage, Reply,
};

/// How often a request is sent again at most because its connections end, while another connection with the peer is
/// open. After both nodes have dialled each other, one of two connections is closed; more often is unusual.
const CUT_OFFS_MAX: u8 = 3;

/// Requests that wait for a connection to one peer.
const WAITING_PER_PEER_MAX: usize = 256;

/// What this program calls itself in its HELLO.
const AGENT: &str = concat!("dht-server/", env!("CARGO_PKG_VERSION"));

/// A connection to a peer whose id is proven.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conn {
    pub(crate) peer: NodeId,
    pub(crate) address: SocketAddr,
    origin: Origin,
    phase: Phase,
    /// When the last message arrived.
    pub(super) last_heard: Time,
    /// Requests of this node that are in flight on it.
    pub(super) calls: u32,
    /// The round trip times of the peer.
    pub(super) rtts: Rtts,
    /// Where other nodes may dial the peer: the port that was dialled, or the one that its HELLO states.
    /// 0 if it does not accept connections.
    port: u16,
    /// When the peer may be dialled back again.
    dial_back_at: Time,
    /// When the handshake ended.
    opened: Time,
    /// The flags that the peer has announced last.
    pub(super) flags: u16,
    /// When the peer was last told which bridges this node knows.
    pub(super) told_at: Option<Time>,
}

impl Conn {
    pub(super) fn is_dialled(&self) -> bool {
        matches!(self.origin, Origin::Dialled(_))
    }

    /// The peer as a contact, if it accepts connections.
    pub(super) fn contact(&self) -> Option<Contact> {
        let address = SocketAddr::new(self.address.ip(), self.port);
        (self.port != 0).then(|| Contact::new(self.peer, address))
    }
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The HELLO of the peer has not arrived.
    Greeting,
    /// It has arrived.
    Open,
    /// Another connection replaces it, or the peer has said GOODBYE.
    Retiring,
}

/// A connection that is being opened.
#[derive(Debug)]
struct Dial {
    reason: DialReason,
    /// Requests that wait for it.
    waiting: Vec<RpcId>,
}

/// Why this node dials.
#[derive(Clone, Copy, Debug)]
enum DialReason {
    /// To join through the bootstrap of that number.
    Bootstrap(usize),
    /// To send a request.
    Request(Contact),
    /// To verify the address of a contact: it dialled this node, or the table has room for it.
    Probe(Contact),
}

impl Dial {
    fn is_to(&self, id: &NodeId) -> bool {
        match self.reason {
            DialReason::Bootstrap(_) => false,
            DialReason::Request(contact) | DialReason::Probe(contact) => contact.id == *id,
        }
    }
}

/// How a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It was closed, which does not count against the peer: its requests are sent again once.
    Closed,
    /// The peer failed: the requests to it fail.
    Failed,
}

/// All connections and dials.
#[derive(Debug)]
pub(crate) struct Peers {
    pub(super) conns: BTreeMap<ConnId, Conn>,
    by_id: KeyMap<NodeId, Vec<ConnId>>,
    /// For each connection: when its HELLO is due, or it is idle for too long, or it is closed.
    pub(crate) deadlines: Timers<ConnId>,
    dials: BTreeMap<DialId, Dial>,
    next_dial: u64,
}

impl Peers {
    pub(crate) fn new(seed: KeySeed) -> Self {
        Self {
            conns: BTreeMap::new(),
            by_id: KeyMap::with_hasher(seed),
            deadlines: Timers::default(),
            dials: BTreeMap::new(),
            next_dial: 0,
        }
    }

    /// The connection, if it has not ended.
    pub(crate) fn find(&self, conn: ConnId) -> Option<&Conn> {
        self.conns.get(&conn)
    }

    /// The connection that carries requests to `id` now. A dialler need not wait for the HELLO of the
    /// peer: the peer handles its requests after its HELLO.
    pub(crate) fn route(&self, id: &NodeId) -> Option<ConnId> {
        let preference = |conn: &Conn| match (conn.phase, conn.origin) {
            (Phase::Open, _) => Some(1),
            (Phase::Greeting, Origin::Dialled(_)) => Some(0),
            (Phase::Greeting, Origin::Accepted) | (Phase::Retiring, _) => None,
        };
        let usable = self.by_id.get(id)?.iter().filter_map(|conn| Some((preference(&self.conns[conn])?, conn)));
        // Of several the newest, which is the last.
        usable.max_by_key(|(preference, _)| *preference).map(|(_, conn)| *conn)
    }

    /// The round trip times of the peer on `conn`.
    pub(crate) fn rtts(&self, conn: ConnId) -> Rtts {
        self.conns.get(&conn).map_or_else(Rtts::default, |conn| conn.rtts)
    }

    /// The round trip times of requests that `id` answers from memory.
    pub(super) fn answers_of(&self, id: &NodeId) -> Rtt {
        self.route(id).map_or_else(Rtt::default, |conn| self.rtts(conn).answers)
    }

    /// The smoothed round trip time of `id`; `None` without a usable connection or before the first reply.
    pub(crate) fn smoothed_rtt(&self, id: &NodeId) -> Option<Duration> {
        self.rtts(self.route(id)?).answers.smoothed()
    }

    /// When the last message of `id` arrived; `None` without a connection to it.
    pub(crate) fn last_heard(&self, id: &NodeId) -> Option<Time> {
        self.by_id.get(id)?.iter().map(|conn| self.conns[conn].last_heard).max()
    }

    /// Whether the peer on `conn` knows the bit by which a FIND VALUE REPLY says that its record is tentative.
    pub(crate) fn knows_tentative(&self, conn: ConnId) -> bool {
        self.find(conn).is_some_and(|conn| conn.flags & FLAG_KNOWS_TENTATIVE != 0)
    }

    /// Whether `id` has said not long ago that it had not settled.
    pub(crate) fn is_unsettled(&self, now: Now, id: &NodeId) -> bool {
        let says_so = |conn: &Conn| conn.flags & FLAG_UNSETTLED != 0 && now.mono < conn.opened + SETTLE_MAX;
        self.route(id).is_some_and(|conn| says_so(&self.conns[&conn]))
    }

    /// Whether `id` answers TIME on the connection that carries requests to it.
    pub(crate) fn tells_time(&self, id: &NodeId) -> bool {
        self.route(id).is_some_and(|conn| self.conns[&conn].flags & FLAG_TELLS_TIME != 0)
    }

    /// The peer on `conn` as a contact, if it accepts connections.
    pub(crate) fn contact_at(&self, conn: ConnId) -> Option<Contact> {
        self.find(conn)?.contact()
    }

    /// How many connections have no deadline.
    pub(crate) fn without_deadline(&self) -> usize {
        self.conns.keys().filter(|id| !self.deadlines.is_set(**id)).count()
    }

    /// Connections on which a HELLO has arrived, in the order of their ids.
    pub(crate) fn reached(&self) -> Vec<ConnId> {
        self.conns.iter().filter(|(_, conn)| conn.phase != Phase::Greeting).map(|(id, _)| *id).collect()
    }

    /// How many connections there are.
    pub(crate) fn len(&self) -> usize {
        self.conns.len()
    }

    /// All connections.
    pub(crate) fn ids(&self) -> impl Iterator<Item = ConnId> {
        self.conns.keys().copied()
    }

    /// Whether a peer is connected that serves.
    pub(crate) fn has_serving(&self) -> bool {
        self.conns.values().any(|conn| conn.phase == Phase::Open && conn.port != 0)
    }

    /// Whether a peer that was dialled may still send its HELLO.
    pub(crate) fn are_expected(&self) -> bool {
        let is_greeting = |conn: &Conn| conn.phase == Phase::Greeting && conn.is_dialled();
        !self.dials.is_empty() || self.conns.values().any(is_greeting)
    }

    /// Whether a dial of `id` is in flight.
    pub(crate) fn is_dialling(&self, id: &NodeId) -> bool {
        self.dials.values().any(|dial| dial.is_to(id))
    }

    /// Whether this node has dialled `contact`, and the connection is open.
    pub(super) fn is_verified(&self, contact: &Contact) -> bool {
        let verifies = |conn: &ConnId| {
            let conn = &self.conns[conn];
            conn.is_dialled() && conn.address == contact.address
        };
        self.by_id.get(&contact.id).is_some_and(|conns| conns.iter().any(verifies))
    }

    /// Whether a message of `id` has arrived on any connection after `since`.
    pub(crate) fn heard_since(&self, id: &NodeId, since: Time) -> bool {
        let conns = self.by_id.get(id).into_iter().flatten();
        conns.into_iter().any(|conn| self.conns[conn].last_heard > since)
    }

    /// Lets a request wait for the dial of `id` that is in flight. `false` if none is, or too many
    /// requests wait for it.
    pub(crate) fn wait_for_dial(&mut self, id: &NodeId, rpc: RpcId) -> bool {
        let dial = self.dials.values_mut().find(|dial| dial.is_to(id));
        let Some(dial) = dial.filter(|dial| dial.waiting.len() < WAITING_PER_PEER_MAX) else { return false };
        dial.waiting.push(rpc);
        true
    }

    /// The requests that wait for a dial of `id`.
    fn take_waiting_for_dial(&mut self, id: &NodeId) -> Vec<RpcId> {
        let dials = self.dials.values_mut().filter(|dial| dial.is_to(id));
        dials.flat_map(|dial| std::mem::take(&mut dial.waiting)).collect()
    }

    /// The open connection without a request in flight whose last message is the oldest.
    fn idlest(&self) -> Option<ConnId> {
        let idle = self.conns.iter().filter(|(_, conn)| conn.phase == Phase::Open && conn.calls == 0);
        idle.min_by_key(|(id, conn)| (conn.last_heard, **id)).map(|(id, _)| *id)
    }
}

/// Opening connections.
impl Node {
    /// Dials `contact` to send it a request, unless a dial is in flight. `false` if too many dials are.
    pub(crate) fn dial_to_ask(&mut self, contact: Contact, out: &mut Actions) -> bool {
        self.peers.is_dialling(&contact.id) || self.dial(DialReason::Request(contact), out)
    }

    /// Dials `contact` to verify its address, unless that is verified or a dial is in flight. `false` if too many dials
    /// are.
    pub(crate) fn probe(&mut self, contact: Contact, out: &mut Actions) -> bool {
        let is_known =
            self.peers.is_verified(&contact) || self.peers.is_dialling(&contact.id) || contact.id == self.me.id;
        let probes = self.peers.dials.values().filter(|dial| matches!(dial.reason, DialReason::Probe(_)));
        is_known || probes.count() < PROBES_MAX && self.dial(DialReason::Probe(contact), out)
    }

    /// Dials the bootstrap of that number, unless a dial of it is in flight.
    pub(crate) fn dial_bootstrap(&mut self, number: usize, out: &mut Actions) {
        let in_flight = |dial: &Dial| matches!(dial.reason, DialReason::Bootstrap(other) if other == number);
        if !self.peers.dials.values().any(in_flight) {
            self.dial(DialReason::Bootstrap(number), out);
        }
    }

    fn dial(&mut self, reason: DialReason, out: &mut Actions) -> bool {
        // A leaving node dials only to hand over records and to finish the queries of its clients.
        let is_unwanted = self.status.is_leaving() && !matches!(reason, DialReason::Request(_));
        let bound = match reason {
            DialReason::Request(_) => DIALS_MAX - PROBES_MAX,
            DialReason::Bootstrap(_) | DialReason::Probe(_) => DIALS_MAX,
        };
        if self.peers.dials.len() >= bound || is_unwanted {
            self.counters.requests_dropped += 1;
            return false;
        }
        let id = DialId(self.peers.next_dial);
        self.peers.next_dial += 1;
        self.peers.dials.insert(id, Dial { reason, waiting: Vec::new() });
        match reason {
            DialReason::Bootstrap(number) => {
                let bootstrap = &self.params.bootstraps[number];
                out.dial(id, bootstrap.at.clone(), bootstrap.pin);
            }
            DialReason::Request(contact) | DialReason::Probe(contact) => {
                out.dial(id, Endpoint::Address(contact.address), Some(contact.id));
            }
        }
        true
    }

    /// A dial has failed.
    pub fn on_dial_failed(&mut self, now: Now, id: DialId, error: DialError, out: &mut Actions) {
        let Some(dial) = self.peers.dials.remove(&id) else { return };
        match dial.reason {
            DialReason::Bootstrap(number) => {
                warn!("bootstrap unreachable at={} error={error:?}", self.params.bootstraps[number].at);
                self.note_bootstrap_absent(now, number, error);
            }
            DialReason::Request(contact) | DialReason::Probe(contact) => {
                debug!("dial failed contact={contact} error={error:?}");
                if error == DialError::Unreachable {
                    self.note_dial(now, contact, Dialled::Failed);
                }
                self.fail_calls(now, &contact.id, |call| call.conn.is_none(), out);
                match self.peers.route(&contact.id) {
                    // The peer has connected meanwhile: it did not run when the dial began.
                    Some(conn) if error == DialError::Unreachable => self.dial_back(now, conn, out),
                    Some(_) | None => {
                        self.not_reached(now, contact, error, out);
                        self.note_absent(now, contact, error);
                    }
                }
            }
        }
        self.consider_alone(now, out);
        self.consider_joined(now, out);
        self.finish(now, out);
    }

    /// A TLS handshake has succeeded: the connection `id` leads to `peer` at `address`.
    pub fn on_secured(
        &mut self,
        now: Now,
        id: ConnId,
        peer: NodeId,
        address: SocketAddr,
        origin: Origin,
        out: &mut Actions,
    ) {
        let dial = match origin {
            Origin::Dialled(dial) => self.peers.dials.remove(&dial),
            Origin::Accepted => None,
        };
        if peer == self.me.id {
            out.close(id, None);
            if let Some(Dial { reason: DialReason::Bootstrap(number), .. }) = dial {
                self.bootstrap_is_me(now, number, out);
            }
            return;
        }
        let address = canonical(address);
        let conn = Conn {
            peer,
            address,
            origin,
            phase: Phase::Greeting,
            last_heard: now.mono,
            calls: 0,
            rtts: Rtts::default(),
            port: if matches!(origin, Origin::Dialled(_)) { address.port() } else { 0 },
            dial_back_at: Time::ZERO,
            opened: now.mono,
            flags: 0,
            told_at: None,
        };
        self.peers.conns.insert(id, conn);
        self.peers.by_id.entry(peer).or_default().push(id);
        self.peers.deadlines.set(id, now.mono + HELLO_TIMEOUT);
        out.send(id, &PeerMessage::Hello(self.hello(now, &peer)), None);
        if self.status.is_leaving() {
            out.send(id, &PeerMessage::Goodbye, None);
        }
        if let Some(dial) = dial {
            self.note_dial(now, Contact::new(peer, address), Dialled::Reached);
            if let DialReason::Bootstrap(number) = dial.reason {
                self.bootstrap_reached(number, Contact::new(peer, address));
            }
            for rpc in dial.waiting {
                self.transmit_waiting(now, id, rpc, out);
            }
        }
    }

    /// The HELLO to `peer`.
    fn hello(&self, now: Now, peer: &NodeId) -> Hello<'static> {
        let port = match self.params.serving {
            Serving::Yes => self.me.port,
            Serving::No => 0,
        };
        let unsettled = if self.join.was_settled() { 0 } else { FLAG_UNSETTLED };
        let dialled = if self.table.contains(peer) { FLAG_DIALLED } else { 0 };
        Hello {
            protocol: PROTOCOL,
            flags: self.flags() | unsettled | dialled,
            network: self.params.network,
            port,
            wall: now.wall,
            agent: AGENT,
        }
    }
}

/// Using and ending connections.
impl Node {
    /// Notes that a message arrived on `conn`. Returns the connection, and whether the HELLO of the peer has
    /// arrived; `None` if the connection has ended.
    pub(crate) fn heard_on(&mut self, now: Now, conn: ConnId) -> Option<(Conn, bool)> {
        let entry = self.peers.conns.get_mut(&conn)?;
        entry.last_heard = now.mono;
        Some((*entry, entry.phase != Phase::Greeting))
    }

    /// The HELLO of a peer, its first message.
    pub(crate) fn on_hello(&mut self, now: Now, id: ConnId, hello: &Hello<'_>, out: &mut Actions) {
        let conn = self.peers.conns[&id];
        if hello.protocol != PROTOCOL {
            return self.refuse(now, id, Fault::Protocol { found: hello.protocol }, out);
        }
        if hello.network != self.params.network {
            return self.refuse(now, id, Fault::OtherNetwork, out);
        }
        debug!("peer reached addr={} id={:.8} agent={:?}", conn.address, conn.peer, hello.agent);
        let entry = self.peers.conns.get_mut(&id).expect("it was just found");
        entry.phase = Phase::Open;
        entry.flags = hello.flags;
        self.peers.deadlines.set(id, now.mono + PEER_IDLE_TIMEOUT);
        self.retire_duplicate(now, id, out);
        self.bound_connections(now, out);
        self.send_instead_of_dialling(now, &conn.peer, out);
        if conn.is_dialled() || self.clocks.knows(&conn.peer) {
            self.clock_heard(now, conn.peer, conn.address, hello.wall, out);
        }
        self.name_bridges(now, id, out);
        if hello.flags & FLAG_SERVING == 0 {
            if self.table.contains(&conn.peer) {
                self.contact_lost(now, &conn.peer, out); // it does not serve any more
            }
            return;
        }
        self.not_alone(now, "a peer has connected");
        match conn.origin {
            Origin::Dialled(_) => {
                let contact = Contact::new(conn.peer, conn.address);
                self.add_contact(now, contact, out);
                self.contact_reached(now, contact, out);
            }
            Origin::Accepted => {
                self.peers.conns.entry(id).and_modify(|conn| conn.port = hello.port);
                self.dial_back(now, id, out);
            }
        }
        self.note_dialled(now, conn.peer, !conn.is_dialled() || hello.flags & FLAG_DIALLED != 0);
        self.on_flags(now, id, hello.flags, Loss::Restarted, out);
        self.consider_joined(now, out);
    }

    /// `peer` has connected by itself: requests that wait for a dial of it need not wait for that any longer.
    fn send_instead_of_dialling(&mut self, now: Now, peer: &NodeId, out: &mut Actions) {
        let Some(route) = self.peers.route(peer) else { return };
        for rpc in self.peers.take_waiting_for_dial(peer) {
            self.transmit_waiting(now, route, rpc, out);
        }
    }

    /// Dials back the peer on `id`, if the table may take it. Repeated after a pause: a dial may fail. If this node
    /// has dialled the peer and that connection is open, the table has forgotten a contact that answers again.
    pub(crate) fn dial_back(&mut self, now: Now, id: ConnId, out: &mut Actions) {
        let serves = |conn: &&mut Conn| conn.flags & FLAG_SERVING != 0;
        let Some(conn) = self.peers.conns.get_mut(&id).filter(serves) else { return };
        let Some(contact) = conn.contact().filter(|contact| self.params.families.reach(contact.address)) else {
            return;
        };
        if now.mono < conn.dial_back_at || self.peers.dials.values().any(|dial| dial.is_to(&contact.id)) {
            return; // the end of a dial that is in flight calls this again
        }
        let is_unresponsive = self.table.is_unresponsive(&contact.id);
        let may_enter = self.table.suggest(contact) == Suggested::Room || is_unresponsive;
        let is_verified = self.peers.is_verified(&contact);
        if may_enter && !is_verified && !self.probe(contact, out) {
            return; // there is no room for the dial: the next message of the peer calls this again
        }
        self.peers.conns.entry(id).and_modify(|conn| conn.dial_back_at = now.mono + UNRESPONSIVE_PAUSE);
        if may_enter && is_verified && self.peers.route(&contact.id).is_some() {
            self.add_contact(now, contact, out);
        }
    }

    /// This node has dialled `contact` and found its id there: it may enter the table.
    fn add_contact(&mut self, now: Now, contact: Contact, out: &mut Actions) {
        match self.table.observe(now.mono, contact) {
            Observed::Added => self.contact_found(now, contact, out),
            Observed::Refreshed | Observed::Own => {}
            Observed::Unresponsive => self.ping(now, contact, out),
            Observed::Full { suspect } => self.ping(now, suspect, out),
        }
    }

    /// A peer has violated the protocol: its connection ends.
    fn refuse(&mut self, now: Now, id: ConnId, fault: Fault, out: &mut Actions) {
        self.counters.faults += 1;
        out.close(id, Some(fault));
        self.conn_ended(now, id, Ending::Failed, out);
    }

    /// A message cannot be decoded, or must not arrive now. A request is answered with ERROR 400; the
    /// connection ends.
    pub(crate) fn malformed(&mut self, now: Now, id: ConnId, fault: Fault, rpc: Option<RpcId>, out: &mut Actions) {
        if let Some(rpc) = rpc {
            out.send(id, &PeerMessage::Reply(rpc, Reply::Error(ErrorCode::MALFORMED)), None);
        }
        self.refuse(now, id, fault, out);
    }

    /// The peer is leaving: it gets no more requests, is not named to other nodes, and the requests to it
    /// fail.
    pub(crate) fn on_goodbye(&mut self, now: Now, id: ConnId, out: &mut Actions) {
        let peer = self.peers.conns[&id].peer;
        debug!("peer leaving id={peer:.8}");
        for conn in self.peers.by_id[&peer].clone() {
            // A connection that waits for its HELLO may be of the restarted peer.
            if self.peers.conns[&conn].phase == Phase::Open {
                self.retire(now, conn);
            }
        }
        self.contact_left(now, &peer, out);
        self.fail_calls(now, &peer, |_| true, out);
    }

    /// Ends a connection from this side.
    pub(crate) fn hang_up(&mut self, now: Now, id: ConnId, ending: Ending, out: &mut Actions) {
        out.close(id, None);
        self.conn_ended(now, id, ending, out);
    }

    /// A connection has ended: its requests are sent again, or fail.
    pub(crate) fn conn_ended(&mut self, now: Now, id: ConnId, ending: Ending, out: &mut Actions) {
        let Some(conn) = self.peers.conns.remove(&id) else { return };
        self.peers.deadlines.cancel(id);
        let siblings = self.peers.by_id.get_mut(&conn.peer).expect("each connection is listed");
        siblings.retain(|sibling| *sibling != id);
        let siblings = siblings.clone();
        if siblings.is_empty() {
            self.peers.by_id.remove(&conn.peer);
        } else if conn.phase == Phase::Open {
            // The two nodes may have retired different connections: then a retiring one is used again.
            let last = siblings.iter().rev().find(|sibling| self.peers.conns[sibling].phase == Phase::Retiring);
            if let (Some(&last), None) = (last, self.peers.route(&conn.peer)) {
                self.peers.conns.get_mut(&last).expect("it is listed").phase = Phase::Open;
                self.peers.deadlines.set(last, now.mono + PEER_IDLE_TIMEOUT);
            }
        }
        let cut = self.pending.cut_off(&conn.peer, |ask| ask.conn == Some(id));
        let has_failed = ending == Ending::Failed || (conn.phase == Phase::Greeting && conn.is_dialled());
        // If another connection is open, the one that has ended was perhaps the duplicate, and the peer is well.
        let cut_offs_max = if self.peers.route(&conn.peer).is_some() { CUT_OFFS_MAX } else { 1 };
        for (_, request) in cut {
            let may_retry = !has_failed && request.why.cut_offs < cut_offs_max && !request.why.expired;
            if may_retry {
                self.call_again(now, &request, out);
            } else {
                self.on_outcome(now, &request.why, Outcome::Failed, out);
            }
        }
        if has_failed {
            self.contact_failed(now, &conn.peer, Loss::Silent, out);
            if let Some(contact) = conn.contact() {
                self.note_absent(now, contact, DialError::Unreachable);
            }
        }
        self.send_waiting(now, &conn.peer, out);
    }

    /// The deadline of a connection has passed.
    pub(crate) fn on_conn_deadline(&mut self, now: Now, id: ConnId, out: &mut Actions) {
        let Some(conn) = self.peers.find(id).copied() else { return };
        match conn.phase {
            Phase::Greeting => self.refuse(now, id, Fault::NoHello, out),
            Phase::Open if conn.calls > 0 || now.mono < conn.last_heard + PEER_IDLE_TIMEOUT => {
                let later = (conn.last_heard + PEER_IDLE_TIMEOUT).max(now.mono + self.params.rpc_timeout);
                self.peers.deadlines.set(id, later);
            }
            Phase::Open | Phase::Retiring => self.hang_up(now, id, Ending::Closed, out),
        }
    }

    /// A request on `id` was answered, or has timed out.
    pub(crate) fn end_call(&mut self, now: Now, id: ConnId, out: &mut Actions) {
        if let Some(conn) = self.peers.conns.get_mut(&id) {
            conn.calls = conn.calls.saturating_sub(1);
            self.close_if_retired(now, id, out);
        }
    }

    /// Closes a retired connection without a request in flight, if this side is to close it.
    fn close_if_retired(&mut self, now: Now, id: ConnId, out: &mut Actions) {
        let Some(conn) = self.peers.find(id) else { return };
        if conn.phase == Phase::Retiring && conn.calls == 0 && self.me.id < conn.peer {
            self.hang_up(now, id, Ending::Closed, out);
        }
    }

    /// `newer` was opened: if the peer has another open connection, one of the two retires.
    fn retire_duplicate(&mut self, now: Now, newer: ConnId, out: &mut Actions) {
        let conn = self.peers.conns[&newer];
        let open = |sibling: &&ConnId| **sibling != newer && self.peers.conns[sibling].phase == Phase::Open;
        let Some(&older) = self.peers.by_id[&conn.peer].iter().find(open) else { return };
        let smaller_opened = |conn: &Conn| conn.is_dialled() == (self.me.id < conn.peer);
        let older_survives = smaller_opened(&self.peers.conns[&older]) && !smaller_opened(&conn);
        let loser = if older_survives { newer } else { older };
        self.retire(now, loser);
        let survivor = self.peers.conns[if older_survives { &older } else { &newer }];
        if now.mono - survivor.last_heard >= self.params.rpc_timeout
            && let Some(contact) = survivor.contact()
        {
            // The peer has perhaps lost the older connection: the newer one is closed only after an answer on the other.
            self.peers.deadlines.set(loser, now.mono + self.params.rpc_timeout * 2);
            return self.ping(now, contact, out);
        }
        self.close_if_retired(now, loser, out);
    }

    fn retire(&mut self, now: Now, id: ConnId) {
        let conn = self.peers.conns.get_mut(&id).expect("the caller found it");
        conn.phase = Phase::Retiring;
        // The node with the smaller id closes it; if that fails, the other node does, later.
        let timeouts = if self.me.id < conn.peer { 1 } else { 2 };
        self.peers.deadlines.set(id, now.mono + self.params.rpc_timeout * timeouts);
    }

    /// Closes the connection that is idle longest, if there are more than `peer_connections_max`.
    fn bound_connections(&mut self, now: Now, out: &mut Actions) {
        if self.peers.len() > self.params.peer_connections_max
            && let Some(idlest) = self.peers.idlest()
        {
            self.hang_up(now, idlest, Ending::Closed, out);
        }
    }
}
