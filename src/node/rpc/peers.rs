//! Who is connected, who is being dialled, and which of two connections survives.
//!
//! A peer is *reached* when its HELLO has arrived; it enters the table only once this node
//! itself dialled an address and met that id there. A peer that dialled us is therefore dialled
//! back, if the table has room for it (`PROTOCOL.md` 2).
//!
//! Of two connections to one peer the one that the smaller id opened survives, of two by the
//! same opener the newer; the other retires: it takes no new requests and is closed by the
//! smaller id's side when nothing is owed on it, at the latest after `rpc_timeout`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use log::{debug, warn};

use crate::contact::Contact;
use crate::id::{KeyMap, KeySeed, NodeId, RpcId};
use crate::limits::{
    DIALS_MAX, HELLO_TIMEOUT, PEER_IDLE_TIMEOUT, PROBES_MAX, UNRESPONSIVE_PAUSE, WAITING_PER_PEER_MAX,
};
use crate::node::Node;
use crate::node::action::{Actions, ConnId, DialError, DialId, Fault, Origin};
use crate::node::params::{Endpoint, Serving};
use crate::node::rpc::rtt::Rtts;
use crate::routing::{Observed, Suggested};
use crate::time::{Now, Time};
use crate::wire::peer::{ErrorCode, FLAG_SERVING, Hello, PROTOCOL, PeerMessage, Reply};

/// What this program calls itself in its HELLO.
const AGENT: &str = concat!("dht-server/", env!("CARGO_PKG_VERSION"));

/// A connection to a peer whose id is proven.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conn {
    pub(crate) peer: NodeId,
    pub(crate) address: SocketAddr,
    origin: Origin,
    phase: Phase,
    /// When the last message came in.
    heard: Time,
    /// Requests of ours that went out on it and are not over.
    calls: u32,
    /// How quick the peer is.
    rtts: Rtts,
    /// When its HELLO is due, or it may have been idle, or it is closed.
    deadline: Time,
    /// Where the peer says that others may dial it; 0 if they may not.
    port: u16,
    /// When it may be dialled back once more.
    dial_back: Time,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The peer has not said HELLO.
    Greeting,
    /// It has.
    Open,
    /// Another one took its place, or the peer said GOODBYE.
    Retiring,
}

/// A connection that is being opened.
#[derive(Debug)]
struct Dial {
    why: DialReason,
    /// Requests that wait for it.
    waiting: Vec<RpcId>,
}

/// Why somebody is dialled.
#[derive(Clone, Copy, Debug)]
enum DialReason {
    /// To join, through the bootstrap of that number.
    Bootstrap(usize),
    /// To ask it something.
    Request(Contact),
    /// To see whether it is there: it dialled us, or a place in the table is free.
    Probe(Contact),
}

impl DialReason {
    fn contact(self) -> Option<Contact> {
        match self {
            DialReason::Bootstrap(_) => None,
            DialReason::Request(contact) | DialReason::Probe(contact) => Some(contact),
        }
    }
}

/// How a connection came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It was closed, which says nothing about the peer: what was asked is asked once more.
    Closed,
    /// The peer failed: what was asked of it will not be answered.
    Failed,
}

/// All connections, and those to come.
#[derive(Debug)]
pub(crate) struct Peers {
    conns: BTreeMap<ConnId, Conn>,
    by_id: KeyMap<NodeId, Vec<ConnId>>,
    /// Of all connections, the earliest first.
    deadlines: BTreeSet<(Time, ConnId)>,
    dials: BTreeMap<DialId, Dial>,
    dialling: KeyMap<NodeId, DialId>,
    probes: usize,
    next_dial: u64,
}

impl Peers {
    pub(crate) fn new(seed: KeySeed) -> Self {
        Self {
            conns: BTreeMap::new(),
            by_id: KeyMap::with_hasher(seed.clone()),
            deadlines: BTreeSet::new(),
            dials: BTreeMap::new(),
            dialling: KeyMap::with_hasher(seed),
            probes: 0,
            next_dial: 0,
        }
    }

    /// The connection, if it is still there.
    pub(crate) fn find(&self, conn: ConnId) -> Option<&Conn> {
        self.conns.get(&conn)
    }

    /// The connection over which `id` can be asked now. The dialler need not wait for the
    /// peer's HELLO: what it sends is handled after its own HELLO has been judged.
    pub(crate) fn route(&self, id: &NodeId) -> Option<ConnId> {
        let preference = |conn: &Conn| match (conn.phase, conn.origin) {
            (Phase::Open, _) => Some(1),
            (Phase::Greeting, Origin::Dialled(_)) => Some(0),
            (Phase::Greeting, Origin::Accepted) | (Phase::Retiring, _) => None,
        };
        let usable = self.by_id.get(id)?.iter().filter_map(|conn| Some((preference(&self.conns[conn])?, conn)));
        // Of several the newest, which comes last.
        usable.max_by_key(|(preference, _)| *preference).map(|(_, conn)| *conn)
    }

    /// Notes that a request went out.
    pub(crate) fn sent(&mut self, conn: ConnId) {
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.calls += 1;
        }
    }

    /// Notes that a request is over: answered, or missed.
    pub(crate) fn ended(&mut self, conn: ConnId) {
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.calls = conn.calls.saturating_sub(1);
        }
    }

    /// How quick the peer at the other end of `conn` is.
    pub(crate) fn rtts(&self, conn: ConnId) -> Rtts {
        self.conns.get(&conn).map_or_else(Rtts::default, |conn| conn.rtts)
    }

    /// The same, for whoever learns more of it.
    pub(crate) fn rtts_mut(&mut self, conn: ConnId) -> Option<&mut Rtts> {
        self.conns.get_mut(&conn).map(|conn| &mut conn.rtts)
    }

    /// What an answer of `id` takes on the average; `None` if it cannot be asked now, or was not yet.
    pub(crate) fn smoothed_rtt(&self, id: &NodeId) -> Option<Duration> {
        self.rtts(self.route(id)?).answers.smoothed()
    }

    /// Whether nothing came on `conn` since `since`.
    pub(crate) fn quiet_since(&self, conn: ConnId, since: Time) -> bool {
        self.conns.get(&conn).is_some_and(|conn| conn.heard < since)
    }

    /// When something last came from `id`; `None` without a connection to it.
    pub(crate) fn last_heard(&self, id: &NodeId) -> Option<Time> {
        self.by_id.get(id)?.iter().map(|conn| self.conns[conn].heard).max()
    }

    /// Where the peer at the other end of `conn` may be dialled, if it may.
    pub(crate) fn contact_at(&self, conn: ConnId) -> Option<Contact> {
        let conn = self.conns.get(&conn)?;
        match conn.origin {
            Origin::Dialled(_) => Some(Contact::new(conn.peer, conn.address)),
            Origin::Accepted => {
                let address = SocketAddr::new(conn.address.ip(), conn.port);
                (conn.port != 0).then(|| Contact::new(conn.peer, address))
            }
        }
    }

    /// Sets the deadline of a connection, whatever it was.
    fn set_deadline(&mut self, id: ConnId, at: Time) {
        let conn = self.conns.get_mut(&id).expect("only what is there has a deadline");
        self.deadlines.remove(&(conn.deadline, id));
        conn.deadline = at;
        self.deadlines.insert((at, id));
    }

    /// The earliest deadline of a connection.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|&(at, _)| at)
    }

    /// The next connection whose deadline has come by `now`; it has none until another is set.
    pub(crate) fn due(&mut self, now: Time) -> Option<ConnId> {
        let &(at, id) = self.deadlines.first().filter(|(at, _)| *at <= now)?;
        self.deadlines.remove(&(at, id));
        Some(id)
    }

    /// How many connections have no deadline.
    pub(crate) fn without_deadline(&self) -> usize {
        self.conns.iter().filter(|(id, conn)| !self.deadlines.contains(&(conn.deadline, **id))).count()
    }

    /// Connections over which the peer can be told something, in the order they were made.
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

    /// Puts a request among those that wait for the dial of `id` that is under way. `false` if
    /// too many do, or none is under way.
    pub(crate) fn wait_for_dial(&mut self, id: &NodeId, rpc: RpcId) -> bool {
        let Some(dial) = self.dialling.get(id).and_then(|dial| self.dials.get_mut(dial)) else { return false };
        if dial.waiting.len() >= WAITING_PER_PEER_MAX {
            return false;
        }
        dial.waiting.push(rpc);
        true
    }

    /// The least recently heard open connection on which nothing is awaited.
    fn idlest(&self) -> Option<ConnId> {
        let idle = self.conns.iter().filter(|(_, conn)| conn.phase == Phase::Open && conn.calls == 0);
        idle.min_by_key(|(id, conn)| (conn.heard, **id)).map(|(id, _)| *id)
    }
}

/// Opening connections.
impl Node {
    /// Dials `contact` because it is to be asked something. `false` if too many dials are under
    /// way.
    pub(crate) fn dial_to_ask(&mut self, contact: Contact, out: &mut Actions) -> bool {
        self.peers.dialling.contains_key(&contact.id) || self.dial(DialReason::Request(contact), out)
    }

    /// Dials `contact` to see whether it is there, unless that is known or under way.
    pub(crate) fn probe(&mut self, contact: Contact, out: &mut Actions) {
        let dialled = |conn: &ConnId| {
            let conn = &self.peers.conns[conn];
            matches!(conn.origin, Origin::Dialled(_)) && conn.address == contact.address
        };
        let known = self.peers.by_id.get(&contact.id).is_some_and(|conns| conns.iter().any(dialled));
        let in_flight = self.peers.dialling.contains_key(&contact.id);
        if !known && !in_flight && self.peers.probes < PROBES_MAX && contact.id != self.me.id {
            self.dial(DialReason::Probe(contact), out);
        }
    }

    /// Dials the bootstrap of that number.
    pub(crate) fn dial_bootstrap(&mut self, number: usize, out: &mut Actions) {
        let in_flight = |dial: &Dial| matches!(dial.why, DialReason::Bootstrap(other) if other == number);
        if !self.peers.dials.values().any(in_flight) {
            self.dial(DialReason::Bootstrap(number), out);
        }
    }

    fn dial(&mut self, why: DialReason, out: &mut Actions) -> bool {
        // Who leaves still looks for what it owes, and for nothing else.
        let unwanted = self.status.is_leaving() && !matches!(why, DialReason::Request(_));
        if self.peers.dials.len() >= DIALS_MAX || unwanted {
            self.counters.requests_dropped += 1;
            return false;
        }
        let id = DialId(self.peers.next_dial);
        self.peers.next_dial += 1;
        let (to, expect) = match why {
            DialReason::Bootstrap(number) => {
                let bootstrap = &self.params.bootstraps[number];
                (bootstrap.at.clone(), bootstrap.pin)
            }
            DialReason::Request(contact) | DialReason::Probe(contact) => {
                (Endpoint::Address(contact.address), Some(contact.id))
            }
        };
        if let Some(contact) = why.contact() {
            self.peers.dialling.insert(contact.id, id);
        }
        if matches!(why, DialReason::Probe(_)) {
            self.peers.probes += 1;
        }
        self.peers.dials.insert(id, Dial { why, waiting: Vec::new() });
        out.dial(id, to, expect);
        true
    }

    fn end_dial(&mut self, id: DialId) -> Option<Dial> {
        let dial = self.peers.dials.remove(&id)?;
        if let Some(contact) = dial.why.contact() {
            self.peers.dialling.remove(&contact.id);
        }
        if matches!(dial.why, DialReason::Probe(_)) {
            self.peers.probes -= 1;
        }
        Some(dial)
    }

    /// No connection came of a dial.
    pub fn on_dial_failed(&mut self, now: Now, id: DialId, error: DialError, out: &mut Actions) {
        let Some(dial) = self.end_dial(id) else { return };
        match dial.why {
            DialReason::Bootstrap(number) => {
                warn!("bootstrap unreachable at={} error={error:?}", self.params.bootstraps[number].at);
            }
            DialReason::Request(contact) | DialReason::Probe(contact) => {
                debug!("dial failed contact={contact} error={error:?}");
                self.calls_failed(now, dial.waiting, &contact.id, out);
                self.not_reached(now, contact, error, out);
            }
        }
        self.finish(now, out);
    }

    /// A TLS handshake has ended: `peer` is at the other end of the connection `id`, seen at `address`.
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
            Origin::Dialled(dial) => self.end_dial(dial),
            Origin::Accepted => None,
        };
        if peer == self.me.id {
            out.close(id, None);
            if let Some(Dial { why: DialReason::Bootstrap(number), .. }) = dial {
                self.bootstrap_is_me(now, number, out);
            }
            return;
        }
        let address = crate::contact::canonical(address);
        let conn = Conn {
            peer,
            address,
            origin,
            phase: Phase::Greeting,
            heard: now.mono,
            calls: 0,
            rtts: Rtts::default(),
            deadline: Time::ZERO,
            port: 0,
            dial_back: Time::ZERO,
        };
        self.peers.conns.insert(id, conn);
        self.peers.by_id.entry(peer).or_default().push(id);
        self.peers.set_deadline(id, now.mono + HELLO_TIMEOUT);
        out.send(id, &PeerMessage::Hello(self.hello(now)), None);
        if self.status.is_leaving() {
            out.send(id, &PeerMessage::Goodbye, None);
        }
        if let Some(dial) = dial {
            if let DialReason::Bootstrap(number) = dial.why {
                self.bootstrap_reached(number, Contact::new(peer, address));
            }
            for rpc in dial.waiting {
                self.transmit_waiting(now, id, rpc, out);
            }
        }
    }

    fn hello(&self, now: Now) -> Hello<'static> {
        let (flags, port) = match self.params.serving {
            Serving::Yes => (FLAG_SERVING, self.me.port),
            Serving::No => (0, 0),
        };
        Hello { protocol: PROTOCOL, flags, network: self.params.network, port, wall: now.wall, agent: AGENT }
    }
}

/// Using and ending connections.
impl Node {
    /// Notes that a message came in on `conn`. Returns the peer, and whether it has said HELLO;
    /// `None` if the connection is not ours any more.
    pub(crate) fn heard_on(&mut self, now: Now, conn: ConnId) -> Option<(Conn, bool)> {
        let entry = self.peers.conns.get_mut(&conn)?;
        entry.heard = now.mono;
        Some((*entry, entry.phase != Phase::Greeting))
    }

    /// A peer's HELLO, its first message.
    pub(crate) fn on_hello(&mut self, now: Now, id: ConnId, hello: &Hello<'_>, out: &mut Actions) {
        let conn = self.peers.conns[&id];
        if hello.protocol != PROTOCOL {
            return self.turn_away(now, id, Fault::Protocol { found: hello.protocol }, out);
        }
        if hello.network != self.params.network {
            return self.turn_away(now, id, Fault::OtherNetwork, out);
        }
        debug!("peer reached addr={} id={:.8} agent={:?}", conn.address, conn.peer, hello.agent);
        let entry = self.peers.conns.get_mut(&id).expect("it was just found");
        entry.phase = Phase::Open;
        self.peers.set_deadline(id, now.mono + PEER_IDLE_TIMEOUT);
        self.retire_duplicate(now, id, out);
        self.bound_connections(now, out);
        if hello.flags & FLAG_SERVING == 0 {
            if self.table.contains(&conn.peer) {
                self.contact_lost(now, &conn.peer, out); // it served once
            }
            return;
        }
        match conn.origin {
            Origin::Dialled(_) => {
                let contact = Contact::new(conn.peer, conn.address);
                self.met(now, contact, out);
                self.contact_reached(now, contact, out);
            }
            Origin::Accepted => {
                self.peers.conns.entry(id).and_modify(|conn| conn.port = hello.port);
                self.dial_back(now, id, out);
            }
        }
    }

    /// Dials whoever is at the other end of `id`, if it dialled this node and could be a contact;
    /// now and then, for a dial may be lost.
    pub(crate) fn dial_back(&mut self, now: Now, id: ConnId, out: &mut Actions) {
        let Some(conn) = self.peers.conns.get_mut(&id) else { return };
        let contact = Contact::new(conn.peer, SocketAddr::new(conn.address.ip(), conn.port));
        if conn.port == 0 || now.mono < conn.dial_back || !self.params.families.reach(contact.address) {
            return;
        }
        conn.dial_back = now.mono + UNRESPONSIVE_PAUSE;
        let unresponsive = self.table.is_unresponsive(&contact.id);
        if self.table.suggest(contact) == Suggested::Room || unresponsive {
            self.probe(contact, out);
        }
    }

    /// This node dialled `contact` and met it there: it may enter the table.
    fn met(&mut self, now: Now, contact: Contact, out: &mut Actions) {
        let unresponsive = self.table.is_unresponsive(&contact.id);
        match self.table.observe(now.mono, contact) {
            Observed::Added => self.contact_found(now, contact, out),
            Observed::Refreshed if unresponsive => self.contact_found(now, contact, out),
            Observed::Refreshed | Observed::Own => {}
            Observed::Full { suspect } => self.ping(now, suspect, out),
        }
    }

    /// A peer that must not stay: its connection ends.
    fn turn_away(&mut self, now: Now, id: ConnId, fault: Fault, out: &mut Actions) {
        self.counters.faults += 1;
        out.close(id, Some(fault));
        self.conn_ended(now, id, Ending::Failed, out);
    }

    /// A message that is none, or that may not come now: ERROR 400 if it can be addressed, and
    /// the end of the connection.
    pub(crate) fn malformed(&mut self, now: Now, id: ConnId, fault: Fault, rpc: Option<RpcId>, out: &mut Actions) {
        if let Some(rpc) = rpc {
            out.send(id, &PeerMessage::Reply(rpc, Reply::Error(ErrorCode::MALFORMED)), None);
        }
        self.turn_away(now, id, fault, out);
    }

    /// The peer is leaving: it is not asked any more, nor named to others, and what it was asked
    /// it will not answer.
    pub(crate) fn on_goodbye(&mut self, now: Now, id: ConnId, out: &mut Actions) {
        let peer = self.peers.conns[&id].peer;
        debug!("peer leaving id={peer:.8}");
        for conn in self.peers.by_id[&peer].clone() {
            // One that waits for its HELLO may be of the peer's next life.
            if self.peers.conns[&conn].phase == Phase::Open {
                self.retire(now, conn);
            }
        }
        self.contact_lost(now, &peer, out);
        for (_, request) in self.pending.cut_off(&peer, |_| true) {
            self.call_failed(now, &request.why, out);
        }
    }

    /// Ends a connection from this side.
    pub(crate) fn hang_up(&mut self, now: Now, id: ConnId, ending: Ending, out: &mut Actions) {
        out.close(id, None);
        self.conn_ended(now, id, ending, out);
    }

    /// A connection has ended: what was asked over it is asked once more, or fails.
    pub(crate) fn conn_ended(&mut self, now: Now, id: ConnId, ending: Ending, out: &mut Actions) {
        let Some(conn) = self.peers.conns.remove(&id) else { return };
        self.peers.deadlines.remove(&(conn.deadline, id));
        let siblings = self.peers.by_id.get_mut(&conn.peer).expect("each connection is listed");
        siblings.retain(|sibling| *sibling != id);
        let siblings = siblings.clone();
        if siblings.is_empty() {
            self.peers.by_id.remove(&conn.peer);
        } else if conn.phase == Phase::Open {
            // Both sides may have chosen differently which one is to retire.
            let left = siblings.iter().rev().find(|sibling| self.peers.conns[sibling].phase == Phase::Retiring);
            if let (Some(&left), None) = (left, self.peers.route(&conn.peer)) {
                self.peers.conns.get_mut(&left).expect("it is listed").phase = Phase::Open;
                self.peers.set_deadline(left, now.mono + PEER_IDLE_TIMEOUT);
            }
        }
        let cut = self.pending.cut_off(&conn.peer, |ask| ask.conn == Some(id));
        let unreached = conn.phase == Phase::Greeting && matches!(conn.origin, Origin::Dialled(_));
        for (_, request) in cut {
            let wanted = !request.why.is_retry && !request.why.expired;
            let again = ending == Ending::Closed && !unreached && wanted;
            if !(again && self.call_again(now, &request, out)) {
                self.call_failed(now, &request.why, out);
            }
        }
        if unreached || ending == Ending::Failed {
            self.contact_failed(now, &conn.peer, out);
        }
    }

    /// The deadline of a connection has come.
    pub(crate) fn on_conn_deadline(&mut self, now: Now, id: ConnId, out: &mut Actions) {
        let Some(conn) = self.peers.find(id).copied() else { return };
        match conn.phase {
            Phase::Greeting => {
                self.turn_away(now, id, Fault::NoHello, out);
            }
            Phase::Open => {
                let idle_until = conn.heard + PEER_IDLE_TIMEOUT;
                if idle_until <= now.mono && conn.calls == 0 {
                    self.hang_up(now, id, Ending::Closed, out);
                } else {
                    let later = idle_until.max(now.mono + self.params.rpc_timeout);
                    self.peers.set_deadline(id, later);
                }
            }
            Phase::Retiring => self.hang_up(now, id, Ending::Closed, out),
        }
    }

    /// A request on `id` is over: a connection that retires may have no other left.
    pub(crate) fn close_if_retired(&mut self, now: Now, id: ConnId, out: &mut Actions) {
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
        let by_me = |conn: &Conn| matches!(conn.origin, Origin::Dialled(_));
        let smaller_opened = |conn: &Conn| by_me(conn) == (self.me.id < conn.peer);
        let older_survives = smaller_opened(&self.peers.conns[&older]) && !smaller_opened(&conn);
        let loser = if older_survives { newer } else { older };
        self.retire(now, loser);
        self.close_if_retired(now, loser, out);
    }

    fn retire(&mut self, now: Now, id: ConnId) {
        let conn = self.peers.conns.get_mut(&id).expect("the caller found it");
        conn.phase = Phase::Retiring;
        // The smaller id closes it; should it not, this side does, somewhat later.
        let patience = if self.me.id < conn.peer { 1 } else { 2 };
        self.peers.set_deadline(id, now.mono + self.params.rpc_timeout * patience);
    }

    /// Closes what has been idle longest while there are more connections than there may be.
    fn bound_connections(&mut self, now: Now, out: &mut Actions) {
        if self.peers.len() > self.params.peer_connections_max
            && let Some(idlest) = self.peers.idlest()
        {
            self.hang_up(now, idlest, Ending::Closed, out);
        }
    }
}
