//! What lies between the nodes: latency, loss, and connections that break.
//!
//! Every host has an address of its own; a pair of hosts is always as far apart. A connection
//! carries messages both ways, each way in order: what is delayed delays all that follow it.
//! It ends twice, once for each end, and its place is used again when both have ended.
//!
//! Nothing here runs anything: the world asks when something arrives, puts it into its queue, and
//! asks again, when the time has come, whether anybody is there to receive it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use crate::limits::DIAL_TIMEOUT;
use crate::node::action::ConnId;
use crate::node::params::Endpoint;
use crate::sim::{Chance, Faults, Number};
use crate::time::Time;

/// Where every serving node listens.
pub(super) const PORT: u16 = 4000;

/// Where a dialler dials from, as the other side sees it: nobody listens there.
const EPHEMERAL_PORT: u16 = 50_000;

/// Microseconds that lie between two hosts, one way.
const LATENCY_MICROS: Range<u32> = 10_000..100_000;

/// A message takes up to this part of the latency longer than the last one.
const JITTER_PART: u32 = 8;

/// How long a stalled connection carries nothing.
const STALL: Range<Duration> = Duration::from_millis(200)..Duration::from_secs(5);

/// How a host ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// The process is killed: its connections are reset, dials to it are refused.
    Process,
    /// The whole host is gone: nobody hears a thing.
    Host,
}

/// Hosts and the connections between them.
#[derive(Debug)]
pub(super) struct Network {
    seed: u64,
    pub(super) faults: Faults,
    hosts: Vec<Host>,
    links: Vec<Link>,
    free: Vec<u32>,
}

/// What became of a dial, and when the dialler will know.
pub(super) struct Dial {
    pub(super) at: Time,
    /// Who is to be met there; nobody, if the dial failed.
    pub(super) met: Option<Number>,
}

/// A connection that is open at the dialler's end.
pub(super) struct Connected {
    pub(super) dialler: ConnId,
    pub(super) acceptor: ConnId,
    /// When the handshake ends at the acceptor's end: before anything that is sent over it.
    pub(super) accepted_at: Time,
}

/// What becomes of a message.
pub(super) enum Fate {
    /// It arrives then, at that end of its connection.
    Arrives(Time, ConnId),
    /// It does not.
    Lost,
    /// Its connection breaks, which both ends hear.
    Broken([(Time, ConnId); 2]),
}

/// What a machine on the network does when it is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Listens,
    Refuses,
    Silent,
}

#[derive(Clone, Debug)]
struct Host {
    condition: Condition,
    /// Only hosts of one side reach each other.
    side: u8,
    /// Ends of connections that are open here.
    open: u32,
    /// The connections with an end here that is not gone, in no particular order: whoever dies is
    /// asked for them, and nobody else.
    links: Vec<u32>,
}

/// A connection. Small: a large world has a million of them.
#[derive(Clone, Debug)]
struct Link {
    /// How often this place was used.
    generation: u32,
    latency_micros: u32,
    /// Carries nothing any more, and says so to nobody.
    silent: bool,
    ends: [End; 2],
}

#[derive(Clone, Debug)]
struct End {
    host: Number,
    state: EndState,
    /// Whether something was sent from here: the first message of a connection finds an empty
    /// outbox, and is never lost alone.
    spoken: bool,
    /// When what was sent last from here arrives: nothing overtakes it.
    arrival: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndState {
    /// The handshake has not ended here.
    Opening,
    Open,
    Gone,
}

/// The address of the node `number`.
pub(super) fn address_of(number: Number) -> SocketAddr {
    let [_, x, y, z] = (number.0 + 1).to_be_bytes();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, x, y, z)), PORT)
}

/// The place that `number` dials from.
pub(super) fn source_of(number: Number) -> SocketAddr {
    SocketAddr::new(address_of(number).ip(), EPHEMERAL_PORT)
}

/// Who has the address `to`.
pub(super) fn number_at(to: &Endpoint) -> Option<Number> {
    let Endpoint::Address(address) = to else { return None };
    let IpAddr::V4(ip) = address.ip() else { return None };
    let [10, x, y, z] = ip.octets() else { return None };
    let number = u32::from_be_bytes([0, x, y, z]).checked_sub(1).map(Number)?;
    (address.port() == PORT).then_some(number)
}

impl Network {
    /// A network without hosts.
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        Self { seed, faults, hosts: Vec::new(), links: Vec::new(), free: Vec::new() }
    }

    /// Adds the host of the next number, which listens or does not.
    pub(super) fn add_host(&mut self, listens: bool) {
        let condition = if listens { Condition::Listens } else { Condition::Refuses };
        self.hosts.push(Host { condition, side: 0, open: 0, links: Vec::new() });
    }

    /// A host that was dead is there again.
    pub(super) fn revive(&mut self, number: Number) {
        self.hosts[number.index()].condition = Condition::Listens;
    }

    /// `from` dials `to`: two round trips of TCP and TLS, nothing, or a refusal.
    pub(super) fn dial(&self, rng: &mut StdRng, now: Time, from: Number, to: &Endpoint) -> Dial {
        let silence = Dial { at: now + DIAL_TIMEOUT, met: None };
        let lost = happens(rng, self.faults.loss);
        let known = number_at(to).filter(|met| met.index() < self.hosts.len());
        let Some(met) = known.filter(|met| !lost && self.reach(from, *met)) else {
            return silence;
        };
        let one_way = Duration::from_micros(self.latency_micros(from, met).into());
        match self.hosts[met.index()].condition {
            Condition::Listens => Dial { at: now + one_way * 4, met: Some(met) },
            Condition::Refuses => Dial { at: now + one_way * 2, met: None },
            Condition::Silent => silence,
        }
    }

    /// The handshake of a dial ends at the dialler's end. `None` if `to` was lost meanwhile.
    pub(super) fn connect(&mut self, now: Time, from: Number, to: Number) -> Option<Connected> {
        if self.hosts[to.index()].condition != Condition::Listens || !self.reach(from, to) {
            return None;
        }
        let latency_micros = self.latency_micros(from, to);
        let accepted_at = now + Duration::from_micros(latency_micros.into());
        let end = |host, state, arrival| End { host, state, spoken: false, arrival };
        let ends = [end(from, EndState::Open, accepted_at), end(to, EndState::Opening, now)];
        let index = self.free.pop().unwrap_or_else(|| {
            let index = u32::try_from(self.links.len()).expect("fewer than 2^32 connections at once");
            self.links.push(Link { generation: 0, latency_micros, silent: true, ends: ends.clone() });
            index
        });
        let link = &mut self.links[index as usize];
        *link = Link { generation: link.generation + 1, latency_micros, silent: false, ends };
        let dialler = first_end(link.generation, index);
        let connected = Connected { dialler, acceptor: other_end(dialler), accepted_at };
        self.hosts[from.index()].open += 1;
        self.hosts[from.index()].links.push(index);
        self.hosts[to.index()].links.push(index);
        Some(connected)
    }

    /// The handshake ends at the acceptor's end `conn`: who is there, and who is at the other
    /// end. `None` if the connection is lost already.
    pub(super) fn accept(&mut self, conn: ConnId) -> Option<(Number, Number)> {
        let (link, side) = self.link_mut(conn)?;
        if link.silent || link.ends[side].state != EndState::Opening {
            return None;
        }
        link.ends[side].state = EndState::Open;
        let (acceptor, dialler) = (link.ends[side].host, link.ends[1 - side].host);
        self.hosts[acceptor.index()].open += 1;
        Some((acceptor, dialler))
    }

    /// Something is sent from the end `conn`.
    pub(super) fn send(&mut self, rng: &mut StdRng, now: Time, conn: ConnId) -> Fate {
        let faults = self.faults;
        let Some((link, side)) = self.link_mut(conn) else { return Fate::Lost };
        if link.silent || link.ends[side].state != EndState::Open {
            return Fate::Lost;
        }
        if std::mem::replace(&mut link.ends[side].spoken, true) && happens(rng, faults.loss) {
            return Fate::Lost;
        }
        if happens(rng, faults.breaks) {
            let here = link.arrive(rng, now, 1 - side, Duration::ZERO);
            let there = link.arrive(rng, now, side, Duration::ZERO);
            link.silent = true;
            return Fate::Broken([(here, conn), (there, other_end(conn))]);
        }
        let stall = if happens(rng, faults.stalls) { rng.random_range(STALL) } else { Duration::ZERO };
        Fate::Arrives(link.arrive(rng, now, side, stall), other_end(conn))
    }

    /// Something arrives at the end `conn`: who receives it, if anybody is there.
    pub(super) fn receive(&mut self, conn: ConnId) -> Option<Number> {
        let (link, side) = self.link_mut(conn)?;
        let end = &link.ends[side];
        (!link.silent && end.state == EndState::Open).then_some(end.host)
    }

    /// The end `conn` is closed by its own host: when the other end will hear of it.
    pub(super) fn close(&mut self, rng: &mut StdRng, now: Time, conn: ConnId) -> Option<(Time, ConnId)> {
        let (link, side) = self.link_mut(conn)?;
        let heard = !link.silent && link.ends[1 - side].state != EndState::Gone;
        let heard = heard.then(|| (link.arrive(rng, now, side, Duration::ZERO), other_end(conn)));
        self.end(conn);
        heard
    }

    /// The end `conn` hears that its connection is over: who learns it, if it is news.
    pub(super) fn hear_close(&mut self, conn: ConnId) -> Option<Number> {
        let (link, side) = self.link_mut(conn)?;
        let host = link.ends[side].host;
        let news = link.ends[side].state == EndState::Open;
        self.end(conn);
        news.then_some(host)
    }

    /// Hosts die: which ends hear of it, and when.
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
        let mut heard = Vec::new();
        for number in numbers {
            for index in std::mem::take(&mut self.hosts[number.index()].links) {
                let link = &mut self.links[index as usize];
                link.silent |= death == Death::Host;
                let first = first_end(link.generation, index);
                for conn in [first, other_end(first)] {
                    if self.links[index as usize].ends[side_of(conn)].is_open_at(*number) {
                        heard.extend(self.close(rng, now, conn));
                    }
                }
            }
        }
        heard
    }

    /// Parts the hosts: whatever connects two sides falls silent, and dials between them find
    /// nobody.
    pub(super) fn part(&mut self, side_of: impl Fn(Number) -> u8) {
        for (host, number) in self.hosts.iter_mut().zip(0..) {
            host.side = side_of(Number(number));
        }
        for link in &mut self.links {
            let [a, b] = [0, 1].map(|side| self.hosts[link.ends[side].host.index()].side);
            link.silent |= a != b;
        }
    }

    /// Whether there is more than one side.
    pub(super) fn is_parted(&self) -> bool {
        self.hosts.iter().any(|host| host.side != self.hosts[0].side)
    }

    /// Connections that are open at one end at least.
    pub(super) fn connections(&self) -> usize {
        self.links.len() - self.free.len()
    }

    /// Connections that are open at `number`'s end.
    pub(super) fn open_at(&self, number: Number) -> usize {
        self.hosts[number.index()].open as usize
    }

    fn reach(&self, a: Number, b: Number) -> bool {
        self.hosts[a.index()].side == self.hosts[b.index()].side
    }

    /// How far two hosts are apart, one way: drawn from their numbers, so that it stays.
    fn latency_micros(&self, a: Number, b: Number) -> u32 {
        let pair = u64::from(a.min(b).0) << 32 | u64::from(a.max(b).0);
        let Range { start, end } = LATENCY_MICROS;
        let drawn = mixed(self.seed ^ mixed(pair)) % u64::from(end - start);
        start + u32::try_from(drawn).expect("it is below a number of 32 bits")
    }

    /// The connection of the end `conn`, and which of its ends that is; `None` if both have ended.
    fn link_mut(&mut self, conn: ConnId) -> Option<(&mut Link, usize)> {
        let link = self.links.get_mut(index_of(conn) as usize)?;
        let over = link.ends.iter().all(|end| end.state == EndState::Gone);
        (u64::from(link.generation) == conn.0 >> 33 && !over).then_some((link, side_of(conn)))
    }

    /// The end `conn` is gone; when both are, their place is free.
    fn end(&mut self, conn: ConnId) {
        let Some((link, side)) = self.link_mut(conn) else { return };
        let host = link.ends[side].host;
        let before = std::mem::replace(&mut link.ends[side].state, EndState::Gone);
        let over = link.ends[1 - side].state == EndState::Gone;
        if before != EndState::Gone && over {
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
    /// When something sent now from the end `side` arrives at the other one, after `stall`:
    /// never before what was sent earlier.
    fn arrive(&mut self, rng: &mut StdRng, now: Time, side: usize, stall: Duration) -> Time {
        let jitter = rng.random_range(0..=self.latency_micros / JITTER_PART);
        let on_the_way = Duration::from_micros((self.latency_micros + jitter).into());
        let arrival = &mut self.ends[side].arrival;
        *arrival = (*arrival).max(now + on_the_way + stall);
        *arrival
    }
}

impl End {
    /// Whether the connection is there, or will be, for `number` at this end.
    fn is_open_at(&self, number: Number) -> bool {
        self.host == number && self.state != EndState::Gone
    }
}

/// The dialler's end of the connection that is the `generation`th in the place `index`.
fn first_end(generation: u32, index: u32) -> ConnId {
    ConnId(u64::from(generation) << 33 | u64::from(index) << 1)
}

fn index_of(conn: ConnId) -> u32 {
    u32::try_from(conn.0 >> 1 & u64::from(u32::MAX)).expect("32 bits are left")
}

/// Which of the two ends of its connection it is.
fn side_of(conn: ConnId) -> usize {
    (conn.0 & 1) as usize
}

fn other_end(conn: ConnId) -> ConnId {
    ConnId(conn.0 ^ 1)
}

pub(super) fn happens(rng: &mut StdRng, chance: Chance) -> bool {
    chance > Chance::NEVER && rng.random_bool(chance.0)
}

/// Spreads the bits of `x` (the finaliser of `SplitMix64`).
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

    /// Two hosts, and a connection that A opened and B has accepted.
    fn connected(faults: Faults) -> (Network, StdRng, Connected) {
        let mut network = Network::new(1, faults);
        network.add_host(true);
        network.add_host(true);
        let connected = network.connect(Time::ZERO, A, B).expect("nothing is in the way");
        assert_eq!(network.accept(connected.acceptor), Some((B, A)));
        (network, StdRng::seed_from_u64(1), connected)
    }

    fn at(endpoint: Number) -> Endpoint {
        Endpoint::Address(address_of(endpoint))
    }

    fn arrival(fate: &Fate) -> Time {
        match fate {
            Fate::Arrives(at, _) => *at,
            Fate::Lost | Fate::Broken(_) => panic!("it arrives"),
        }
    }

    #[test]
    fn an_address_leads_back_to_its_node_and_no_other_does() {
        for number in [0, 1, 255, 65_535, 1_000_000].map(Number) {
            assert_eq!(number_at(&at(number)), Some(number));
            assert_eq!(number_at(&Endpoint::Address(source_of(number))), None, "nobody listens where one dials from");
        }
        assert_eq!(number_at(&Endpoint::Name { host: "localhost".into(), port: PORT }), None);
    }

    #[test]
    fn nothing_overtakes_what_was_sent_before_on_the_same_connection() {
        let stalls = Chance::percent(20.0).expect("a percentage");
        let (mut network, mut rng, ends) = connected(Faults { stalls, ..Faults::NONE });
        let mut last = ends.accepted_at;
        for _ in 0..200 {
            let next = arrival(&network.send(&mut rng, Time::ZERO, ends.dialler));
            assert!(next >= last, "{next} is before {last}");
            last = next;
        }
        let (heard, conn) = network.close(&mut rng, Time::ZERO, ends.dialler).expect("the other end is there");
        assert!(heard >= last, "what was sent before the close arrives before it");
        assert_eq!(conn, ends.acceptor);
    }

    #[test]
    fn the_first_message_of_each_end_is_never_lost_alone() {
        let loss = Chance::percent(100.0).expect("a percentage");
        let (mut network, mut rng, ends) = connected(Faults { loss, ..Faults::NONE });
        for conn in [ends.dialler, ends.acceptor] {
            assert!(matches!(network.send(&mut rng, Time::ZERO, conn), Fate::Arrives(..)));
            assert!(matches!(network.send(&mut rng, Time::ZERO, conn), Fate::Lost));
        }
        assert_eq!(network.dial(&mut rng, Time::ZERO, A, &at(B)).met, None, "a lost dial meets nobody");
    }

    #[test]
    fn a_broken_connection_carries_nothing_and_both_ends_hear_of_it() {
        let breaks = Chance::percent(100.0).expect("a percentage");
        let (mut network, mut rng, ends) = connected(Faults { breaks, ..Faults::NONE });
        let Fate::Broken(heard) = network.send(&mut rng, Time::ZERO, ends.dialler) else { panic!("it breaks") };
        assert_eq!(heard.map(|(_, conn)| conn), [ends.dialler, ends.acceptor]);
        assert_eq!(network.receive(ends.acceptor), None);
        assert_eq!(network.hear_close(ends.dialler), Some(A));
        assert_eq!(network.hear_close(ends.acceptor), Some(B));
        assert_eq!((network.connections(), network.open_at(A), network.open_at(B)), (0, 0, 0));
    }

    #[test]
    fn a_dead_process_is_heard_of_and_refuses_and_a_dead_host_is_silent() {
        for (death, hears, within) in [(Death::Process, 1, DIAL_TIMEOUT / 2), (Death::Host, 0, DIAL_TIMEOUT)] {
            let (mut network, mut rng, ends) = connected(Faults::NONE);
            let heard = network.kill(&mut rng, Time::ZERO, death, &[B]);
            assert_eq!(heard.len(), hears, "{death:?}");
            assert_eq!(network.receive(ends.acceptor), None, "{death:?}");
            let dial = network.dial(&mut rng, Time::ZERO, A, &at(B));
            assert_eq!(dial.met, None, "{death:?}");
            assert!(dial.at.since(Time::ZERO) <= within, "{death:?}");
            assert!(network.connect(Time::ZERO, A, B).is_none(), "{death:?}");
            network.revive(B);
            assert_eq!(network.dial(&mut rng, Time::ZERO, A, &at(B)).met, Some(B), "{death:?}");
        }
    }

    #[test]
    fn whoever_dies_takes_its_connections_along_those_to_itself_and_to_others_that_die_included() {
        for death in [Death::Process, Death::Host] {
            let (mut network, mut rng, ends) = connected(Faults::NONE);
            let own = network.connect(Time::ZERO, A, A).expect("nothing is in the way");
            network.accept(own.acceptor);
            network.connect(Time::ZERO, A, B).expect("its other end has not heard of it yet");
            network.kill(&mut rng, Time::ZERO, death, &[A, B]);
            assert_eq!((network.connections(), network.open_at(A), network.open_at(B)), (0, 0, 0), "{death:?}");
            assert_eq!(network.hear_close(ends.acceptor), None, "{death:?}");
        }
    }

    #[test]
    fn what_connects_two_sides_falls_silent_for_good() {
        let (mut network, mut rng, ends) = connected(Faults::NONE);
        network.part(|number| u8::from(number == A));
        assert!(matches!(network.send(&mut rng, Time::ZERO, ends.dialler), Fate::Lost));
        assert_eq!(network.dial(&mut rng, Time::ZERO, A, &at(B)).met, None);
        network.part(|_| 0);
        assert!(matches!(network.send(&mut rng, Time::ZERO, ends.dialler), Fate::Lost));
        assert_eq!(network.dial(&mut rng, Time::ZERO, A, &at(B)).met, Some(B));
    }

    #[test]
    fn the_name_of_a_connection_is_never_used_again() {
        let (mut network, mut rng, old) = connected(Faults::NONE);
        network.close(&mut rng, Time::ZERO, old.dialler);
        network.hear_close(old.acceptor);
        let new = network.connect(Time::ZERO, A, B).expect("nothing is in the way");
        assert_eq!(network.connections(), 1, "its place is used again");
        assert_ne!((new.dialler, new.acceptor), (old.dialler, old.acceptor));
        assert_eq!(network.receive(old.dialler), None);
        assert!(matches!(network.send(&mut rng, Time::ZERO, old.dialler), Fate::Lost));
    }
}
