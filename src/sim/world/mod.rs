//! The world: nodes, one clock that jumps, and one queue of what is to happen.
//!
//! Each event touches one node; whatever that node then wants done becomes further events.
//!
//! The files: `lifecycle` who lives, and what is on its disk; `clients` who asks; `host` what nodes
//! want done; `invariants` what must hold of all that. Here: what the world is, and how time passes.

mod clients;
mod host;
mod invariants;
mod lifecycle;

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sha2::{Digest, Sha256};

use crate::id::{Key, NodeId};
use crate::node::Node;
use crate::node::action::{Actions, DialError, DialId, Origin};
use crate::sim::checker;
use crate::sim::churn::Churn;
use crate::sim::disk::Disk;
use crate::sim::history::History;
use crate::sim::network::{self, Network};
use crate::sim::queue::{Outcome, Queue, What};
use crate::sim::report::{Figures, Kind, Log};
use crate::sim::{Number, Scenario, Violation};
use crate::time::{Now, Time, WallTime};
use crate::wire::Source;
use crate::wire::frame::next_frame;

/// Milliseconds since 1970 at which every world begins.
const EPOCH_MILLIS: u64 = 1_700_000_000_000;

/// The whole world is surveyed so often.
const SURVEY_INTERVAL: Duration = Duration::from_mins(1);

/// From a batch for a disk to its being there.
const DISK_WRITE: Range<Duration> = Duration::from_millis(2)..Duration::from_millis(300);

/// A request of a client; says which one its answer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask(usize);

/// What a client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// SUCCESS: the value of a GET, nothing for a PUT.
    Success(Box<[u8]>),
    /// FAILURE.
    Failure,
}

/// Nodes under virtual time. See the [module](crate::sim).
pub struct World {
    scenario: Scenario,
    rng: StdRng,
    now: Time,
    queue: Queue,
    network: Network,
    hosts: Vec<SimHost>,
    requests: Vec<Request>,
    /// Requests that are owed an answer, and some that got it, in the order of asking.
    owed: VecDeque<Ask>,
    next_survey: Time,
    /// How nodes come and go, if they do so by themselves.
    churn: Option<Churn>,
    /// What clients PUT and read.
    history: History,
    /// When somebody came, for the last time.
    born: Time,
    /// When somebody went, or something began or ceased to go wrong, for the last time.
    harmed: Option<Time>,
    actions: Actions,
    bytes: Vec<u8>,
    figures: Figures,
    log: Log,
}

/// Where a node lives, or lived.
struct SimHost {
    id: NodeId,
    node: Option<Box<Node>>,
    /// How many nodes lived here before: what one began does not concern the next.
    life: u32,
    /// When it will be woken. Of the wake-ups in the queue only this one counts.
    wake: Option<Time>,
    /// How often it was woken since time went on.
    turns: u32,
    /// How often its table had changed when it was last looked at.
    changes: u64,
    /// What survives a death.
    disk: Disk,
    wall_ahead_millis: i64,
}

/// What a client asked.
struct Request {
    at: Number,
    life: u32,
    key: Key,
    wish: Wish,
    since: Time,
    owed: bool,
    answer: Option<Answer>,
}

/// What a client wants of a key.
#[derive(Clone, Copy, Debug)]
enum Wish {
    Get,
    /// A value of that check, held by so many nodes.
    Put {
        crc: u32,
        replication: u8,
    },
}

/// Making worlds, and looking at them.
impl World {
    /// A world without nodes.
    pub fn new(scenario: Scenario) -> Self {
        Self {
            rng: StdRng::from_seed(derived(scenario.seed, "world", 0, 0)),
            now: Time::ZERO,
            queue: Queue::default(),
            network: Network::new(scenario.seed, scenario.faults),
            hosts: Vec::new(),
            requests: Vec::new(),
            owed: VecDeque::new(),
            next_survey: Time::ZERO + SURVEY_INTERVAL,
            churn: None,
            history: History::default(),
            born: Time::ZERO,
            harmed: None,
            actions: Actions::new(),
            bytes: Vec::new(),
            figures: Figures::default(),
            log: Log::default(),
            scenario,
        }
    }

    /// What it is made of.
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// The virtual time.
    pub fn now(&self) -> Time {
        self.now
    }

    /// The node `number`, if it lives.
    pub fn node(&self, number: Number) -> Option<&Node> {
        self.hosts.get(number.index())?.node.as_deref()
    }

    /// The id of the node `number`, alive, dead, or yet to be born.
    pub fn id_of(&self, number: Number) -> NodeId {
        NodeId::new(Key::new(derived(self.scenario.seed, "id", number.0, 0)))
    }

    /// Who has the id, alive or dead. Looks at all: for tests.
    pub fn number_of(&self, id: &NodeId) -> Option<Number> {
        let at = self.hosts.iter().position(|host| host.id == *id)?;
        u32::try_from(at).ok().map(Number)
    }

    /// The numbers of all nodes that live.
    pub fn alive(&self) -> impl Iterator<Item = Number> {
        let all = (0..).map(Number).zip(&self.hosts);
        all.filter(|(_, host)| host.node.is_some()).map(|(number, _)| number)
    }

    /// A node that lives, drawn from the world's own chance.
    ///
    /// # Panics
    ///
    /// If nobody lives.
    pub fn any_alive(&mut self) -> Number {
        assert!(self.alive().next().is_some(), "nobody lives in this world");
        loop {
            let number = Number(self.rng.random_range(0..self.population()));
            if self.node(number).is_some() {
                return number;
            }
        }
    }

    /// A node that takes part and that clients may ask, drawn from the world's own chance among
    /// those that `fit`; `None` if there is none.
    pub fn any_of(&mut self, fit: impl Fn(Number) -> bool) -> Option<Number> {
        let wants = |number: &Number| self.node(*number).is_some_and(Node::wants_requests);
        let all: Vec<Number> =
            self.alive().filter(|number| fit(*number) && self.has_joined(*number)).filter(wants).collect();
        if all.is_empty() { None } else { Some(all[self.any_below(all.len())]) }
    }

    /// A number below `bound`, drawn from the world's own chance.
    ///
    /// # Panics
    ///
    /// If `bound` is zero.
    pub fn any_below(&mut self, bound: usize) -> usize {
        self.rng.random_range(0..bound)
    }

    /// A key drawn from the world's own chance.
    pub fn any_key(&mut self) -> Key {
        Key::new(self.rng.random())
    }

    /// How many nodes there ever were.
    fn population(&self) -> u32 {
        u32::try_from(self.hosts.len()).expect("numbers have 32 bits")
    }

    /// The nodes that hold `key`.
    pub fn replicas(&self, key: &Key) -> Vec<Number> {
        let holds =
            |number: &Number| self.node(*number).is_some_and(|node| node.storage().find(self.now, key).is_some());
        self.alive().filter(holds).collect()
    }

    /// What was counted.
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

    /// The digest of all that has happened: equal for equal runs.
    pub fn digest(&self) -> String {
        self.log.digest()
    }
}

/// Time.
impl World {
    /// Lets `span` pass.
    pub fn run_for(&mut self, span: Duration) -> Result<(), Violation> {
        let until = self.now + span;
        while self.step(Some(until))? {}
        self.now = until;
        Ok(())
    }

    /// Lets the next event happen, if there is one, and one by `until`.
    fn step(&mut self, until: Option<Time>) -> Result<bool, Violation> {
        let Some((at, what)) = self.queue.next(until) else { return Ok(false) };
        assert!(at >= self.now, "time goes on");
        if at > self.next_survey {
            self.survey()?;
            self.next_survey = at + SURVEY_INTERVAL;
        }
        self.now = at;
        self.happen(what)?;
        self.look_for_the_unanswered()?;
        Ok(true)
    }

    fn happen(&mut self, what: What) -> Result<(), Violation> {
        match what {
            What::Wake(number) => self.wake(number),
            What::Dialled { from, life, dial, outcome } => self.end_dial(from, life, dial, outcome),
            What::Accepted(conn) => {
                let Some((acceptor, dialler)) = self.network.accept(conn) else { return Ok(()) };
                self.log.add(self.now, Kind::Accepted, acceptor, &[]);
                let (peer, address) = (self.hosts[dialler.index()].id, network::source_of(dialler));
                self.touch(acceptor, |node, now, out| {
                    node.on_secured(now, conn, peer, address, Origin::Accepted, out);
                })
            }
            What::Arrives(conn, bytes) => {
                let Some(number) = self.network.receive(conn) else {
                    self.figures.messages_lost += 1;
                    return Ok(());
                };
                self.log.add(self.now, Kind::Received, number, &bytes);
                let frame = next_frame(Source::Peer, &bytes);
                let (frame, _) = frame.expect("it was one when it was sent").expect("all of it was sent");
                self.touch(number, |node, now, out| node.on_frame(now, conn, frame, out))
            }
            What::Saved { at, life } => self.end_save(at, life),
            What::Ends { at, life } => self.end_session(at, life),
            What::Comes(back) => self.come(back),
            What::Closed(conn) => {
                let Some(number) = self.network.hear_close(conn) else { return Ok(()) };
                self.log.add(self.now, Kind::Closed, number, &[]);
                self.touch(number, |node, now, out| node.on_closed(now, conn, out))
            }
        }
    }

    fn wake(&mut self, number: Number) -> Result<(), Violation> {
        let host = &mut self.hosts[number.index()];
        if host.wake != Some(self.now) {
            return Ok(());
        }
        host.wake = None;
        let next = host.node.as_ref().and_then(|node| node.next_deadline());
        if next.is_none_or(|next| next > self.now) {
            return self.settle(number); // it has come to want it later
        }
        self.log.add(self.now, Kind::Woken, number, &[]);
        self.hosts[number.index()].turns += 1;
        let turns = self.hosts[number.index()].turns;
        self.judge(number, checker::no_node_is_restless(turns))?;
        self.touch(number, Node::on_timeout)
    }

    fn end_dial(&mut self, from: Number, life: u32, dial: DialId, outcome: Outcome) -> Result<(), Violation> {
        if self.hosts[from.index()].life != life {
            return Ok(());
        }
        let met = match outcome {
            Outcome::Met(to) => self.network.connect(self.now, from, to).map(|connected| (to, connected)),
            Outcome::Failed(_) => None,
        };
        let Some((to, connected)) = met else {
            let error = match outcome {
                Outcome::Met(_) => DialError::Unreachable,
                Outcome::Failed(error) => error,
            };
            self.log.add(self.now, Kind::DialFailed, from, &[]);
            return self.touch(from, |node, now, out| node.on_dial_failed(now, dial, error, out));
        };
        self.figures.connections_made += 1;
        self.log.add(self.now, Kind::Dialled, from, &[]);
        self.queue.foresee(connected.accepted_at, What::Accepted(connected.acceptor));
        let (peer, address) = (self.hosts[to.index()].id, network::address_of(to));
        let (conn, origin) = (connected.dialler, Origin::Dialled(dial));
        self.touch(from, |node, now, out| node.on_secured(now, conn, peer, address, origin, out))
    }

    fn now_at(&self, number: Number) -> Now {
        let millis = u64::try_from(self.now.since(Time::ZERO).as_millis()).expect("five hundred million years");
        let wall = (EPOCH_MILLIS + millis).saturating_add_signed(self.hosts[number.index()].wall_ahead_millis);
        Now { mono: self.now, wall: WallTime::from_millis(wall) }
    }
}

/// 32 bytes that follow from the world's seed and from what they are for.
fn derived(seed: u64, purpose: &str, number: u32, life: u32) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(seed.to_be_bytes());
    hasher.update(number.to_be_bytes());
    hasher.update(life.to_be_bytes());
    hasher.update(purpose);
    hasher.finalize().into()
}
