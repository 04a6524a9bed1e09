//! The world: nodes, a virtual clock, and a queue of future events.
//!
//! Each event calls one node; the actions of the node become further events.
//!
//! This file has the state of the world and the passing of time. `lifecycle` starts and stops nodes and has
//! their disks, `sleep` suspends them, `clocks` sets wall clocks, `clients` sends requests, `host` performs the
//! actions of nodes, and `invariants` checks the results.

mod clients;
mod clocks;
mod host;
mod invariants;
mod lifecycle;
mod sleep;

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sha2::{Digest, Sha256};

use self::sleep::Turns;
use crate::contact::Family;
use crate::id::{Key, NodeId, RpcId};
use crate::node::Node;
use crate::node::action::{Actions, DialError, DialId, Origin};
use crate::sim::checker;
use crate::sim::churn::Churn;
use crate::sim::disk::Disk;
use crate::sim::history::History;
use crate::sim::network::{self, Network};
use crate::sim::queue::{Event, Queue};
use crate::sim::report::{EventDigest, EventKind, Figures};
use crate::sim::{Number, Scenario, Violation};
use crate::time::Time;
use crate::wire::Source;
use crate::wire::frame::next_frame;

/// Interval at which the invariants of all nodes are checked.
const CHECK_INTERVAL: Duration = Duration::from_mins(1);

/// The time until the system has a batch.
const DISK_WRITE: Range<Duration> = Duration::from_micros(50)..Duration::from_millis(2);

/// The time until a batch is on disk.
const DISK_SYNC: Range<Duration> = Duration::from_millis(2)..Duration::from_millis(300);

/// The id of a client's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId(usize);

/// The reply to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// SUCCESS: the value of a GET; empty for a PUT.
    Success(Box<[u8]>),
    /// FAILURE.
    Failure,
}

/// Nodes with a virtual clock. See the [module](crate::sim).
pub struct World {
    scenario: Scenario,
    rng: StdRng,
    now: Time,
    queue: Queue,
    network: Network,
    hosts: Vec<SimHost>,
    /// The number of nodes that sleep.
    asleep: usize,
    requests: Vec<Request>,
    /// The requests that expect a reply, in the order of sending. Answered ones are removed at the front.
    unanswered: VecDeque<RequestId>,
    next_check: Time,
    churn: Option<Churn>,
    /// The values that clients PUT and read.
    history: History,
    /// Requests RELAY without a reply.
    relays: BTreeSet<RpcId>,
    /// When a node last started.
    last_start: Time,
    /// Whether a node that starts knows the boot of its host.
    tells_boots: bool,
    /// Whether a wall clock was set: then a record may live longer than its value, if only a wall clock tells its age.
    wall_was_set: bool,
    /// When a node last stopped, a wall clock was last set, or faults or a partition last changed.
    last_disruption: Option<Time>,
    actions: Actions,
    bytes: Vec<u8>,
    figures: Figures,
    digest: EventDigest,
}

/// A host, which runs at most one node.
struct SimHost {
    id: NodeId,
    node: Option<Box<Node>>,
    /// How often the node was stopped. Events of an earlier incarnation have no effect on the next one.
    incarnation: u32,
    /// When the node will be woken. Other wake-ups in the queue have no effect.
    wake: Option<Time>,
    /// How often the node was woken while time stood still.
    wakes: u32,
    /// How often the table had changed at the last check.
    table_changes: u64,
    /// Survives a stop of the node.
    disk: Disk,
    wall_ahead_millis: i64,
    /// How often the host was booted anew.
    boots: u32,
    turns: Turns,
    /// When its process was last continued.
    awake_since: Time,
}

/// A client's request.
struct Request {
    at: Number,
    incarnation: u32,
    key: Key,
    operation: Operation,
    since: Time,
    expects_reply: bool,
    answer: Option<Answer>,
}

/// The operation of a request.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Get,
    Put { crc: u32, replication: u8 },
}

/// Creation and inspection.
impl World {
    /// A world without nodes.
    pub fn new(scenario: Scenario) -> Self {
        Self {
            rng: StdRng::from_seed(derived(scenario.seed, "world", 0, 0)),
            now: Time::ZERO,
            queue: Queue::default(),
            network: Network::new(scenario.seed, scenario.faults),
            hosts: Vec::new(),
            asleep: 0,
            requests: Vec::new(),
            unanswered: VecDeque::new(),
            next_check: Time::ZERO + CHECK_INTERVAL,
            churn: None,
            history: History::default(),
            relays: BTreeSet::new(),
            last_start: Time::ZERO,
            tells_boots: false,
            wall_was_set: false,
            last_disruption: None,
            actions: Actions::new(),
            bytes: Vec::new(),
            figures: Figures::default(),
            digest: EventDigest::default(),
            scenario,
        }
    }

    /// The parameters of this world.
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// The virtual time.
    pub fn now(&self) -> Time {
        self.now
    }

    /// The node `number`, if it runs.
    pub fn node(&self, number: Number) -> Option<&Node> {
        self.hosts.get(number.index())?.node.as_deref()
    }

    /// The id of the node `number`, also before it starts and after it stops.
    pub fn id_of(&self, number: Number) -> NodeId {
        NodeId::new(Key::new(derived(self.scenario.seed, "id", number.0, 0)))
    }

    /// The node with the id, also if it is stopped. Searches all nodes: for tests.
    pub fn number_of(&self, id: &NodeId) -> Option<Number> {
        let at = self.hosts.iter().position(|host| host.id == *id)?;
        u32::try_from(at).ok().map(Number)
    }

    /// The numbers of all running nodes.
    pub fn alive(&self) -> impl Iterator<Item = Number> {
        let all = (0..).map(Number).zip(&self.hosts);
        all.filter(|(_, host)| host.node.is_some()).map(|(number, _)| number)
    }

    /// A random running node.
    ///
    /// # Panics
    ///
    /// If no node runs.
    pub fn any_alive(&mut self) -> Number {
        assert!(self.alive().next().is_some(), "no node runs");
        loop {
            let number = Number(self.rng.random_range(0..self.population()));
            if self.node(number).is_some() {
                return number;
            }
        }
    }

    /// A random node that has joined, accepts requests of clients, and is one of `nodes`; `None` if there is
    /// none.
    pub fn any_of(&mut self, nodes: impl Fn(Number) -> bool) -> Option<Number> {
        let wants = |number: &Number| self.node(*number).is_some_and(Node::wants_requests);
        let all: Vec<Number> =
            self.alive().filter(|number| nodes(*number) && self.has_joined(*number)).filter(wants).collect();
        if all.is_empty() { None } else { Some(all[self.any_below(all.len())]) }
    }

    /// A random number below `bound`.
    ///
    /// # Panics
    ///
    /// If `bound` is zero.
    pub fn any_below(&mut self, bound: usize) -> usize {
        self.rng.random_range(0..bound)
    }

    /// A random key.
    pub fn any_key(&mut self) -> Key {
        Key::new(self.rng.random())
    }

    /// The number of nodes that were ever started.
    fn population(&self) -> u32 {
        u32::try_from(self.hosts.len()).expect("numbers have 32 bits")
    }

    /// The replicas of `key`.
    pub fn replicas(&self, key: &Key) -> Vec<Number> {
        let stores =
            |number: &Number| self.node(*number).is_some_and(|node| node.storage().find(self.now, key).is_some());
        self.alive().filter(stores).collect()
    }

    /// The counters of this world.
    pub fn figures(&self) -> Figures {
        let mut figures = self.figures;
        figures.connections = self.network.connections() as u64;
        for host in &self.hosts {
            if let Some(node) = &host.node {
                figures.nodes += *node.counters();
            }
        }
        figures
    }

    /// The digest of all events: equal for equal runs.
    pub fn digest(&self) -> String {
        self.digest.hex()
    }
}

/// Passing of time.
impl World {
    /// Runs for `span` of virtual time.
    pub fn run_for(&mut self, span: Duration) -> Result<(), Violation> {
        let until = self.now + span;
        while self.step(Some(until))? {}
        self.now = until;
        Ok(())
    }

    /// Handles the next event, if there is one by `until`. Returns whether there was.
    fn step(&mut self, until: Option<Time>) -> Result<bool, Violation> {
        let Some((at, event)) = self.queue.next(until) else { return Ok(false) };
        assert!(at >= self.now, "time never goes backwards");
        if at > self.next_check {
            self.check_invariants()?;
            self.next_check = at + CHECK_INTERVAL;
        }
        self.now = at;
        self.handle(event)?;
        self.check_unanswered()?;
        Ok(true)
    }

    fn handle(&mut self, event: Event) -> Result<(), Violation> {
        let Some(event) = self.unless_asleep(event) else { return Ok(()) };
        match event {
            Event::Wake(number) => self.wake(number),
            Event::Dialled { from, incarnation, dial, acceptor } => self.end_dial(from, incarnation, dial, acceptor),
            Event::Accepted(conn) => {
                let Some((acceptor, dialler, family)) = self.network.accept(conn) else { return Ok(()) };
                self.digest.add(self.now, EventKind::Accepted, acceptor, &[]);
                let (peer, address) = (self.hosts[dialler.index()].id, network::source_of(dialler, family));
                self.call(acceptor, |node, now, out| {
                    node.on_secured(now, conn, peer, address, Origin::Accepted, out);
                })
            }
            Event::Arrives(conn, bytes) => {
                let Some(number) = self.network.receive(conn) else {
                    self.figures.messages_lost += 1;
                    return Ok(());
                };
                self.digest.add(self.now, EventKind::Received, number, &bytes);
                let frame = next_frame(Source::Peer, &bytes);
                let (frame, _) = frame.expect("one frame was sent").expect("the frame is complete");
                self.call(number, |node, now, out| node.on_frame(now, conn, frame, out))
            }
            Event::Saved { at, incarnation } => self.end_save(at, incarnation),
            Event::SessionEnds { at, incarnation } => self.end_session(at, incarnation),
            Event::Starts(returning) => self.start_replacement(returning),
            Event::Closed(conn) => {
                let Some(number) = self.network.receive_close(conn) else { return Ok(()) };
                self.digest.add(self.now, EventKind::Closed, number, &[]);
                self.call(number, |node, now, out| node.on_closed(now, conn, out))
            }
        }
    }

    fn wake(&mut self, number: Number) -> Result<(), Violation> {
        let host = &mut self.hosts[number.index()];
        if host.wake != Some(self.now) {
            return Ok(());
        }
        host.wake = None;
        host.turns = Turns::InTime;
        let next = host.node.as_ref().and_then(|node| node.next_deadline());
        if next.is_none_or(|next| next > self.now) {
            return self.after_event(number); // its deadline has become later
        }
        self.digest.add(self.now, EventKind::Woken, number, &[]);
        self.hosts[number.index()].wakes += 1;
        let wakes = self.hosts[number.index()].wakes;
        self.require(number, checker::no_node_spins(wakes))?;
        self.call(number, Node::on_timeout)
    }

    fn end_dial(
        &mut self,
        from: Number,
        incarnation: u32,
        dial: DialId,
        acceptor: Result<(Number, Family), DialError>,
    ) -> Result<(), Violation> {
        if self.hosts[from.index()].incarnation != incarnation {
            return Ok(());
        }
        let connected = acceptor.and_then(|(to, family)| {
            let connected = self.network.connect(self.now, from, to, family)?;
            Ok((network::address_of(to, family), self.hosts[to.index()].id, connected))
        });
        let (address, peer, connected) = match connected {
            Ok(connected) => connected,
            Err(error) => {
                self.digest.add(self.now, EventKind::DialFailed, from, &[]);
                return self.call(from, |node, now, out| node.on_dial_failed(now, dial, error, out));
            }
        };
        self.figures.connections_made += 1;
        self.digest.add(self.now, EventKind::Dialled, from, &[]);
        self.queue.schedule(connected.accepted_at, Event::Accepted(connected.acceptor));
        let (conn, origin) = (connected.dialler, Origin::Dialled(dial));
        self.call(from, |node, now, out| node.on_secured(now, conn, peer, address, origin, out))
    }
}

/// 32 bytes derived from the seed of the world and their purpose.
fn derived(seed: u64, purpose: &str, number: u32, incarnation: u32) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(seed.to_be_bytes());
    hasher.update(number.to_be_bytes());
    hasher.update(incarnation.to_be_bytes());
    hasher.update(purpose);
    hasher.finalize().into()
}
