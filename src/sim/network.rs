//! The simulated network between the nodes: latency, loss, and connections that break.
//!
//! Each host has an address in each of its address families, and dials addresses of these families only; other
//! dials fail at once. The latency between two hosts is constant. A connection carries
//! messages in both directions, in order: a delayed message delays all messages after it. A connection ends
//! at each of its two ends separately; when both ends are closed, its index is reused.
//!
//! Non-goals: the network runs no node. The world asks when a message arrives, schedules the arrival, and
//! asks again at that time whether the receiver is still there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use crate::contact::Family;
use crate::limits::DIAL_TIMEOUT;
use crate::node::action::{ConnId, DialError};
use crate::node::params::{Endpoint, Families};
use crate::sim::{Chance, Faults, Number};
use crate::time::Time;

/// The port of every serving node.
pub(super) const PORT: u16 = 4000;

/// The port that a dialler uses. No node listens there.
const EPHEMERAL_PORT: u16 = 50_000;

/// One-way latencies between two hosts, in microseconds.
const LATENCY_MICROS: Range<u32> = 10_000..100_000;

/// The jitter of a message is at most this part of the latency.
const JITTER_PART: u32 = 8;

/// How long a stalled connection delays its messages.
const STALL: Range<Duration> = Duration::from_millis(200)..Duration::from_secs(5);

/// How a node stops without leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// The process is killed: its connections are reset, and dials to it are refused.
    Process,
    /// The host fails: no other host is notified, and dials to it time out.
    Host,
}

/// Hosts and the connections between them.
#[derive(Debug)]
pub(super) struct Network {
    seed: u64,
    pub(super) faults: Faults,
    hosts: Vec<Host>,
    links: Vec<Link>,
    /// Indexes of links whose ends are both closed.
    free: Vec<u32>,
}

/// The result of a dial.
pub(super) struct Dial {
    /// When the dialler learns the result.
    pub(super) at: Time,
    /// The node that accepts the connection, and the family of its address; or why the dial failed.
    pub(super) acceptor: Result<(Number, Family), DialError>,
}

/// A connection that is open at the dialler's end.
pub(super) struct Connected {
    pub(super) dialler: ConnId,
    pub(super) acceptor: ConnId,
    /// When the handshake ends at the acceptor's end, which is before any message arrives there.
    pub(super) accepted_at: Time,
}

/// The result of sending a message.
pub(super) enum Delivery {
    /// It arrives at this time, at this end of the connection.
    Arrives(Time, ConnId),
    /// It is lost.
    Lost,
    /// The connection breaks; both ends learn that.
    Broken([(Time, ConnId); 2]),
}

/// How a host responds to a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Listens,
    Refuses,
    Silent,
}

#[derive(Clone, Debug)]
struct Host {
    condition: Condition,
    families: Families,
    /// Whether it completes handshakes. If not, dials to it time out.
    accepts: bool,
    /// The side of a partition. Only hosts of the same side reach each other.
    side: u8,
    /// Whether its outboxes never have room for a reply.
    is_full: bool,
    /// The number of connections that are open at this host.
    open: u32,
    /// The connections with an end at this host that is not closed, in no particular order. Only a kill of
    /// this host uses them.
    links: Vec<u32>,
}

/// A connection. Small, since a large world has a million of them.
#[derive(Clone, Debug)]
struct Link {
    /// How often this index was used.
    generation: u32,
    latency_micros: u32,
    /// The family of its addresses.
    family: Family,
    /// The connection carries nothing any more, and no end is notified.
    silent: bool,
    ends: [End; 2],
}

#[derive(Clone, Debug)]
struct End {
    host: Number,
    state: EndState,
    /// Whether this end has sent a message. The outbox is empty before the first message of a connection, so
    /// that one is never lost alone.
    has_sent: bool,
    /// When the last message from this end arrives. Later messages arrive later.
    arrival: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndState {
    /// The handshake is not complete at this end.
    Opening,
    Open,
    Closed,
}

/// The address of that family at which the node `number` listens.
pub(super) fn address_of(number: Number, family: Family) -> SocketAddr {
    let [w, x, y, z] = (number.0 + 1).to_be_bytes();
    let ip = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(10, x, y, z)),
        Family::V6 => {
            IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, u16::from_be_bytes([w, x]), u16::from_be_bytes([y, z])))
        }
    };
    SocketAddr::new(ip, PORT)
}

/// The address of that family from which the node `number` dials.
pub(super) fn source_of(number: Number, family: Family) -> SocketAddr {
    SocketAddr::new(address_of(number, family).ip(), EPHEMERAL_PORT)
}

/// The node that listens at the address `to`, and the family of the address.
pub(super) fn listener_at(to: &Endpoint) -> Option<(Number, Family)> {
    let Endpoint::Address(address) = to else { return None };
    let number = match address.ip() {
        IpAddr::V4(ip) => {
            let [10, x, y, z] = ip.octets() else { return None };
            u32::from_be_bytes([0, x, y, z])
        }
        IpAddr::V6(ip) => {
            let [0xfd, .., w, x, y, z] = ip.octets() else { return None };
            u32::from_be_bytes([w, x, y, z])
        }
    };
    let number = number.checked_sub(1).map(Number)?;
    (address.port() == PORT).then_some((number, Family::of(*address)))
}

impl Network {
    /// A network without hosts.
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        Self { seed, faults, hosts: Vec::new(), links: Vec::new(), free: Vec::new() }
    }

    /// Adds the host of the next number.
    pub(super) fn add_host(&mut self, listens: bool, families: Families) {
        let condition = if listens { Condition::Listens } else { Condition::Refuses };
        let host = Host { condition, families, accepts: true, side: 0, is_full: false, open: 0, links: Vec::new() };
        self.hosts.push(host);
    }

    /// The address families of a host.
    pub(super) fn families(&self, number: Number) -> Families {
        self.hosts[number.index()].families
    }

    /// The address at which the host `from` dials `to`, which may be added later: IPv4, unless one of them
    /// lacks it. It need not be one that `from` can dial.
    pub(super) fn address_for(&self, from: Number, to: Number) -> SocketAddr {
        let theirs = self.hosts.get(to.index()).map_or(Families::Both, |host| host.families);
        let is_shared = |family: &Family| self.families(from).include(*family) && theirs.include(*family);
        let shared = [Family::V4, Family::V6].into_iter().find(is_shared);
        address_of(to, shared.or(theirs.single()).unwrap_or(Family::V4))
    }

    /// Makes a stopped host listen again.
    pub(super) fn revive(&mut self, number: Number) {
        self.hosts[number.index()].condition = Condition::Listens;
    }

    /// Dials `to`: success after two round trips for TCP and TLS, a refusal after one, or a timeout. A dial
    /// to a family that the host lacks fails at once.
    pub(super) fn dial(&self, rng: &mut StdRng, now: Time, from: Number, to: &Endpoint) -> Dial {
        let timeout = Dial { at: now + DIAL_TIMEOUT, acceptor: Err(DialError::Unreachable) };
        let lost = happens(rng, self.faults.loss);
        let known = listener_at(to).filter(|(number, _)| number.index() < self.hosts.len());
        if known.is_some_and(|(_, family)| !self.families(from).include(family)) {
            return Dial { at: now, acceptor: Err(DialError::LocalFault) };
        }
        let listens = |(number, family): &(Number, Family)| self.families(*number).include(*family);
        let known = known.filter(listens);
        let Some((acceptor, family)) = known.filter(|(number, _)| !lost && self.can_dial(from, *number)) else {
            return timeout;
        };
        let one_way = Duration::from_micros(self.latency_micros(from, acceptor).into());
        match self.hosts[acceptor.index()].condition {
            Condition::Listens => Dial { at: now + one_way * 4, acceptor: Ok((acceptor, family)) },
            Condition::Refuses => Dial { at: now + one_way * 2, acceptor: Err(DialError::Refused) },
            Condition::Silent => timeout,
        }
    }

    /// Completes the handshake of a dial at the dialler's end; fails if `to` has stopped meanwhile.
    pub(super) fn connect(
        &mut self,
        now: Time,
        from: Number,
        to: Number,
        family: Family,
    ) -> Result<Connected, DialError> {
        match self.hosts[to.index()].condition {
            Condition::Listens if self.can_dial(from, to) => {}
            Condition::Refuses if self.can_dial(from, to) => return Err(DialError::Refused),
            Condition::Listens | Condition::Refuses | Condition::Silent => return Err(DialError::Unreachable),
        }
        let latency_micros = self.latency_micros(from, to);
        let accepted_at = now + Duration::from_micros(latency_micros.into());
        let end = |host, state, arrival| End { host, state, has_sent: false, arrival };
        let ends = [end(from, EndState::Open, accepted_at), end(to, EndState::Opening, now)];
        let index = self.free.pop().unwrap_or_else(|| {
            let index = u32::try_from(self.links.len()).expect("fewer than 2^32 connections at once");
            self.links.push(Link { generation: 0, latency_micros, family, silent: true, ends: ends.clone() });
            index
        });
        let link = &mut self.links[index as usize];
        *link = Link { generation: link.generation + 1, latency_micros, family, silent: false, ends };
        let dialler = first_end(link.generation, index);
        let connected = Connected { dialler, acceptor: other_end(dialler), accepted_at };
        self.hosts[from.index()].open += 1;
        self.hosts[from.index()].links.push(index);
        self.hosts[to.index()].links.push(index);
        Ok(connected)
    }

    /// Completes the handshake at the acceptor's end `conn`; returns the acceptor, the dialler and the family
    /// of their addresses. `None` if the connection has ended.
    pub(super) fn accept(&mut self, conn: ConnId) -> Option<(Number, Number, Family)> {
        let (link, end) = self.link_mut(conn)?;
        if link.silent || link.ends[end].state != EndState::Opening {
            return None;
        }
        link.ends[end].state = EndState::Open;
        let (acceptor, dialler, family) = (link.ends[end].host, link.ends[1 - end].host, link.family);
        self.hosts[acceptor.index()].open += 1;
        Some((acceptor, dialler, family))
    }

    /// Sends a message from the end `conn`.
    pub(super) fn send(&mut self, rng: &mut StdRng, now: Time, conn: ConnId) -> Delivery {
        let faults = self.faults;
        let Some((link, end)) = self.link_mut(conn) else { return Delivery::Lost };
        if link.silent || link.ends[end].state != EndState::Open {
            return Delivery::Lost;
        }
        if std::mem::replace(&mut link.ends[end].has_sent, true) && happens(rng, faults.loss) {
            return Delivery::Lost;
        }
        if happens(rng, faults.breaks) {
            let here = link.arrive(rng, now, 1 - end, Duration::ZERO);
            let there = link.arrive(rng, now, end, Duration::ZERO);
            link.silent = true;
            return Delivery::Broken([(here, conn), (there, other_end(conn))]);
        }
        let stall = if happens(rng, faults.stalls) { rng.random_range(STALL) } else { Duration::ZERO };
        Delivery::Arrives(link.arrive(rng, now, end, stall), other_end(conn))
    }

    /// Whether an outbox of `number` has no room for a reply.
    pub(super) fn refuses(&self, rng: &mut StdRng, number: Number) -> bool {
        self.hosts[number.index()].is_full || happens(rng, self.faults.refusals)
    }

    /// From now on, the outboxes of hosts have no room for replies, as `is_full` says.
    pub(super) fn fill(&mut self, is_full: impl Fn(Number) -> bool) {
        for (host, number) in self.hosts.iter_mut().zip(0..) {
            host.is_full = is_full(Number(number));
        }
    }

    /// Whether an outbox has no room for replies.
    pub(super) fn is_full(&self) -> bool {
        self.hosts.iter().any(|host| host.is_full)
    }

    /// Sets whether a host completes handshakes.
    pub(super) fn set_accepts(&mut self, number: Number, accepts: bool) {
        self.hosts[number.index()].accepts = accepts;
    }

    /// The host of the end `conn`; `None` if both ends are closed.
    pub(super) fn host_of(&mut self, conn: ConnId) -> Option<Number> {
        self.link_mut(conn).map(|(link, end)| link.ends[end].host)
    }

    /// Breaks this part of the connections of a host; returns both ends of each, and when they learn that.
    pub(super) fn break_links(
        &mut self,
        rng: &mut StdRng,
        now: Time,
        number: Number,
        part: Chance,
    ) -> Vec<(Time, ConnId)> {
        let mut notified = Vec::new();
        for index in self.hosts[number.index()].links.clone() {
            let link = &mut self.links[index as usize];
            if !link.silent && happens(rng, part) {
                let first = first_end(link.generation, index);
                for conn in [first, other_end(first)] {
                    notified.push((link.arrive(rng, now, 1 - end_of(conn), Duration::ZERO), conn));
                }
                link.silent = true;
            }
        }
        notified
    }

    /// The node that receives a message at the end `conn`; `None` if the end is closed.
    pub(super) fn receive(&mut self, conn: ConnId) -> Option<Number> {
        let (link, end) = self.link_mut(conn)?;
        let End { host, state, .. } = link.ends[end];
        (!link.silent && state == EndState::Open).then_some(host)
    }

    /// Closes the end `conn` by its own host; returns when the other end is notified.
    pub(super) fn close(&mut self, rng: &mut StdRng, now: Time, conn: ConnId) -> Option<(Time, ConnId)> {
        let (link, end) = self.link_mut(conn)?;
        let is_notified = !link.silent && link.ends[1 - end].state != EndState::Closed;
        let notified = is_notified.then(|| (link.arrive(rng, now, end, Duration::ZERO), other_end(conn)));
        self.close_end(conn);
        notified
    }

    /// Notifies the end `conn` that the other end has closed; returns its node if the connection was open.
    pub(super) fn receive_close(&mut self, conn: ConnId) -> Option<Number> {
        let (link, end) = self.link_mut(conn)?;
        let host = link.ends[end].host;
        let was_open = link.ends[end].state == EndState::Open;
        self.close_end(conn);
        was_open.then_some(host)
    }

    /// Stops hosts; returns the ends of connections that are notified, and when.
    pub(super) fn kill(
        &mut self,
        rng: &mut StdRng,
        now: Time,
        death: Death,
        numbers: &[Number],
    ) -> Vec<(Time, ConnId)> {
        for number in numbers {
            self.hosts[number.index()].condition = match death {
                Death::Process => Condition::Refuses,
                Death::Host => Condition::Silent,
            };
        }
        let mut notified = Vec::new();
        for number in numbers {
            for index in std::mem::take(&mut self.hosts[number.index()].links) {
                let link = &mut self.links[index as usize];
                link.silent |= death == Death::Host;
                let first = first_end(link.generation, index);
                for conn in [first, other_end(first)] {
                    if self.links[index as usize].ends[end_of(conn)].is_open_at(*number) {
                        notified.extend(self.close(rng, now, conn));
                    }
                }
            }
        }
        notified
    }

    /// Partitions the hosts: connections between two sides become silent, and dials between them time out.
    pub(super) fn partition(&mut self, side_of: impl Fn(Number) -> u8) {
        for (host, number) in self.hosts.iter_mut().zip(0..) {
            host.side = side_of(Number(number));
        }
        for link in &mut self.links {
            let [a, b] = [0, 1].map(|end| self.hosts[link.ends[end].host.index()].side);
            link.silent |= a != b;
        }
    }

    /// From now on all dials to `number` time out; its connections go on.
    pub(super) fn shield(&mut self, number: Number) {
        self.hosts[number.index()].accepts = false;
    }

    /// Whether there is a partition.
    pub(super) fn is_partitioned(&self) -> bool {
        self.hosts.iter().any(|host| host.side != self.hosts[0].side)
    }

    /// Connections that are open at one end or both.
    pub(super) fn connections(&self) -> usize {
        self.links.len() - self.free.len()
    }

    /// Connections that are open at `number`'s end.
    pub(super) fn open_at(&self, number: Number) -> usize {
        self.hosts[number.index()].open as usize
    }

    fn can_reach(&self, a: Number, b: Number) -> bool {
        self.hosts[a.index()].side == self.hosts[b.index()].side
    }

    fn can_dial(&self, from: Number, to: Number) -> bool {
        self.can_reach(from, to) && self.hosts[to.index()].accepts
    }

    /// The one-way latency between two hosts. It is derived from their numbers, so it is constant.
    fn latency_micros(&self, a: Number, b: Number) -> u32 {
        let pair = u64::from(a.min(b).0) << 32 | u64::from(a.max(b).0);
        let Range { start, end } = LATENCY_MICROS;
        let drawn = mixed(self.seed ^ mixed(pair)) % u64::from(end - start);
        start + u32::try_from(drawn).expect("the remainder is below a 32-bit number")
    }

    /// The connection of the end `conn`, and the index of that end; `None` if both ends are closed.
    fn link_mut(&mut self, conn: ConnId) -> Option<(&mut Link, usize)> {
        let link = self.links.get_mut(index_of(conn) as usize)?;
        let is_closed = link.ends.iter().all(|end| end.state == EndState::Closed);
        (u64::from(link.generation) == conn.0 >> 33 && !is_closed).then_some((link, end_of(conn)))
    }

    /// Closes the end `conn`. When both ends are closed, the index of the connection becomes free.
    fn close_end(&mut self, conn: ConnId) {
        let Some((link, end)) = self.link_mut(conn) else { return };
        let host = link.ends[end].host;
        let before = std::mem::replace(&mut link.ends[end].state, EndState::Closed);
        let is_other_closed = link.ends[1 - end].state == EndState::Closed;
        if before != EndState::Closed && is_other_closed {
            self.free.push(index_of(conn));
        }
        let host = &mut self.hosts[host.index()];
        if before == EndState::Open {
            host.open -= 1;
        }
        if let Some(at) = host.links.iter().position(|link| *link == index_of(conn)) {
            host.links.swap_remove(at);
        }
    }
}

impl Link {
    /// When a message that is sent now from the end `end` arrives at the other end. `stall` delays it, and it
    /// never arrives before an earlier one.
    fn arrive(&mut self, rng: &mut StdRng, now: Time, end: usize, stall: Duration) -> Time {
        let jitter = rng.random_range(0..=self.latency_micros / JITTER_PART);
        let transfer = Duration::from_micros((self.latency_micros + jitter).into());
        let arrival = &mut self.ends[end].arrival;
        *arrival = (*arrival).max(now + transfer + stall);
        *arrival
    }
}

impl End {
    /// Whether this is an end at the host `number` that is not closed.
    fn is_open_at(&self, number: Number) -> bool {
        self.host == number && self.state != EndState::Closed
    }
}

/// The dialler's end of the connection `index` in its `generation`.
fn first_end(generation: u32, index: u32) -> ConnId {
    ConnId(u64::from(generation) << 33 | u64::from(index) << 1)
}

fn index_of(conn: ConnId) -> u32 {
    u32::try_from(conn.0 >> 1 & u64::from(u32::MAX)).expect("masked to 32 bits")
}

/// The index of the end `conn` within its connection.
fn end_of(conn: ConnId) -> usize {
    (conn.0 & 1) as usize
}

fn other_end(conn: ConnId) -> ConnId {
    ConnId(conn.0 ^ 1)
}

/// Draws whether an event of this chance happens.
pub(super) fn happens(rng: &mut StdRng, chance: Chance) -> bool {
    chance > Chance::NEVER && rng.random_bool(chance.0)
}

/// A hash of `x` (the finaliser of `SplitMix64`).
fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    const A: Number = Number(0);
    const B: Number = Number(1);

    /// Two hosts, and a connection that A dialled and B accepted.
    fn connected(faults: Faults) -> (Network, StdRng, Connected) {
        let mut network = Network::new(1, faults);
        network.add_host(true, Families::Both);
        network.add_host(true, Families::Both);
        let connected = network.connect(Time::ZERO, A, B, Family::V4).expect("both hosts listen");
        assert_eq!(network.accept(connected.acceptor), Some((B, A, Family::V4)));
        (network, StdRng::seed_from_u64(1), connected)
    }

    fn at(endpoint: Number) -> Endpoint {
        Endpoint::Address(address_of(endpoint, Family::V4))
    }

    fn arrival(delivery: &Delivery) -> Time {
        match delivery {
            Delivery::Arrives(at, _) => *at,
            Delivery::Lost | Delivery::Broken(_) => panic!("the message arrives"),
        }
    }

    #[test]
    fn an_address_identifies_the_node_that_listens_there() {
        for number in [0, 1, 255, 65_535, 1_000_000].map(Number) {
            for family in [Family::V4, Family::V6] {
                let [address, source] = [address_of(number, family), source_of(number, family)].map(Endpoint::Address);
                assert_eq!(listener_at(&address), Some((number, family)));
                assert_eq!(listener_at(&source), None, "no node listens at an ephemeral port");
            }
        }
        assert_eq!(listener_at(&Endpoint::Name { host: "localhost".into(), port: PORT }), None);
    }

    #[test]
    fn messages_and_the_close_of_a_connection_arrive_in_order() {
        let stalls = Chance::percent(20.0).expect("a percentage");
        let (mut network, mut rng, ends) = connected(Faults { stalls, ..Faults::NONE });
        let mut last = ends.accepted_at;
        for _ in 0..200 {
            let next = arrival(&network.send(&mut rng, Time::ZERO, ends.dialler));
            assert!(next >= last, "{next} is before {last}");
            last = next;
        }
        let (notified, conn) = network.close(&mut rng, Time::ZERO, ends.dialler).expect("the other end is open");
        assert!(notified >= last, "the close arrives after the messages");
        assert_eq!(conn, ends.acceptor);
    }

    #[test]
    fn the_first_message_of_each_end_is_never_lost_alone() {
        let loss = Chance::percent(100.0).expect("a percentage");
        let (mut network, mut rng, ends) = connected(Faults { loss, ..Faults::NONE });
        for conn in [ends.dialler, ends.acceptor] {
            assert!(matches!(network.send(&mut rng, Time::ZERO, conn), Delivery::Arrives(..)));
            assert!(matches!(network.send(&mut rng, Time::ZERO, conn), Delivery::Lost));
        }
        assert_eq!(
            network.dial(&mut rng, Time::ZERO, A, &at(B)).acceptor,
            Err(DialError::Unreachable),
            "a lost dial fails"
        );
    }

    #[test]
    fn a_broken_connection_carries_nothing_and_both_ends_are_notified() {
        let breaks = Chance::percent(100.0).expect("a percentage");
        let (mut network, mut rng, ends) = connected(Faults { breaks, ..Faults::NONE });
        let Delivery::Broken(notified) = network.send(&mut rng, Time::ZERO, ends.dialler) else { panic!("it breaks") };
        assert_eq!(notified.map(|(_, conn)| conn), [ends.dialler, ends.acceptor]);
        assert_eq!(network.receive(ends.acceptor), None);
        assert_eq!(network.receive_close(ends.dialler), Some(A));
        assert_eq!(network.receive_close(ends.acceptor), Some(B));
        assert_eq!((network.connections(), network.open_at(A), network.open_at(B)), (0, 0, 0));
    }

    #[test]
    fn a_killed_process_notifies_its_peers_and_refuses_dials_and_a_failed_host_is_silent() {
        for (death, count, within) in [(Death::Process, 1, DIAL_TIMEOUT / 2), (Death::Host, 0, DIAL_TIMEOUT)] {
            let (mut network, mut rng, ends) = connected(Faults::NONE);
            let notified = network.kill(&mut rng, Time::ZERO, death, &[B]);
            assert_eq!(notified.len(), count, "{death:?}");
            assert_eq!(network.receive(ends.acceptor), None, "{death:?}");
            let dial = network.dial(&mut rng, Time::ZERO, A, &at(B));
            let error = if death == Death::Process { DialError::Refused } else { DialError::Unreachable };
            assert_eq!(dial.acceptor, Err(error), "{death:?}");
            assert!(dial.at.since(Time::ZERO) <= within, "{death:?}");
            assert_eq!(network.connect(Time::ZERO, A, B, Family::V4).err(), Some(error), "{death:?}");
            network.revive(B);
            assert_eq!(network.dial(&mut rng, Time::ZERO, A, &at(B)).acceptor, Ok((B, Family::V4)), "{death:?}");
        }
    }

    #[test]
    fn a_kill_closes_all_connections_of_its_hosts_including_those_among_them() {
        for death in [Death::Process, Death::Host] {
            let (mut network, mut rng, ends) = connected(Faults::NONE);
            let own = network.connect(Time::ZERO, A, A, Family::V4).expect("both hosts listen");
            network.accept(own.acceptor);
            network.connect(Time::ZERO, A, B, Family::V4).expect("both hosts listen"); // not accepted yet
            network.kill(&mut rng, Time::ZERO, death, &[A, B]);
            assert_eq!((network.connections(), network.open_at(A), network.open_at(B)), (0, 0, 0), "{death:?}");
            assert_eq!(network.receive_close(ends.acceptor), None, "{death:?}");
        }
    }

    #[test]
    fn a_connection_across_a_partition_stays_silent_after_the_heal() {
        let (mut network, mut rng, ends) = connected(Faults::NONE);
        network.partition(|number| u8::from(number == A));
        assert!(matches!(network.send(&mut rng, Time::ZERO, ends.dialler), Delivery::Lost));
        assert_eq!(network.dial(&mut rng, Time::ZERO, A, &at(B)).acceptor, Err(DialError::Unreachable));
        network.partition(|_| 0);
        assert!(matches!(network.send(&mut rng, Time::ZERO, ends.dialler), Delivery::Lost));
        assert_eq!(network.dial(&mut rng, Time::ZERO, A, &at(B)).acceptor, Ok((B, Family::V4)));
    }

    #[test]
    fn a_host_dials_and_listens_in_its_own_address_families_only() {
        let mut network = Network::new(1, Faults::NONE);
        let mut rng = StdRng::seed_from_u64(1);
        for families in [Families::V4, Families::V6, Families::Both] {
            network.add_host(true, families);
        }
        let [v4, v6, both] = [0, 1, 2].map(Number);
        let mut dial = |from, to, family| {
            let dial = network.dial(&mut rng, Time::ZERO, from, &Endpoint::Address(address_of(to, family)));
            dial.acceptor.map_err(|_| dial.at.since(Time::ZERO))
        };
        assert_eq!(dial(v4, v6, Family::V6), Err(Duration::ZERO), "the dialler lacks the family");
        assert_eq!(dial(both, v6, Family::V4), Err(DIAL_TIMEOUT), "no host has that address");
        for (from, to, family) in [(v4, both, Family::V4), (v6, both, Family::V6), (both, v6, Family::V6)] {
            assert_eq!(dial(from, to, family), Ok((to, family)));
            assert_eq!(network.address_for(from, to), address_of(to, family));
        }
        assert_eq!(network.address_for(v6, Number(9)), address_of(Number(9), Family::V6), "not added yet");
    }

    #[test]
    fn the_id_of_a_connection_is_never_reused() {
        let (mut network, mut rng, old) = connected(Faults::NONE);
        network.close(&mut rng, Time::ZERO, old.dialler);
        network.receive_close(old.acceptor);
        let new = network.connect(Time::ZERO, A, B, Family::V4).expect("both hosts listen");
        assert_eq!(network.connections(), 1, "the index is reused");
        assert_ne!((new.dialler, new.acceptor), (old.dialler, old.acceptor));
        assert_eq!(network.receive(old.dialler), None);
        assert!(matches!(network.send(&mut rng, Time::ZERO, old.dialler), Delivery::Lost));
    }
}
