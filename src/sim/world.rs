//! The world: nodes, one clock that jumps, and one queue of what is to happen.
//!
//! Each event touches one node; whatever that node then wants done becomes further events.

use std::collections::VecDeque;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sha2::{Digest, Sha256};

use crate::id::{Key, NodeId};
use crate::limits::DIALS_MAX;
use crate::node::action::{Action, Actions, ClientId, ConnId, DialError, DialId, Origin};
use crate::node::params::{Bootstrap, Endpoint, Params, Serving};
use crate::node::{Me, Node, Standing};
use crate::sim::checker::{self, Breach, Verdict};
use crate::sim::network::{self, Death, Fate, Network};
use crate::sim::queue::{Outcome, Queue, What};
use crate::sim::report::{Figures, Kind, Log};
use crate::sim::{Faults, Number, Scenario, Violation};
use crate::time::{Now, Time, WallTime};
use crate::wire::Source;
use crate::wire::api::{ApiReply, ApiRequest, Confirm, Put};
use crate::wire::frame::next_frame;

/// Milliseconds since 1970 at which every world begins.
const EPOCH_MILLIS: u64 = 1_700_000_000_000;

/// The whole world is surveyed so often.
const SURVEY_INTERVAL: Duration = Duration::from_mins(1);

/// In each second a growing world becomes larger by half, and by so many nodes at least.
const BIRTHS_MIN: usize = 8;

/// Nodes that a new one is told of, at most.
const BOOTSTRAPS_MAX: usize = 3;

/// A node that has not joined for so long, in a world where it could, never will: some rounds of
/// the longest pause between two attempts.
const JOIN_TIME_MAX: Duration = Duration::from_mins(10);

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
    places: Vec<Place>,
    requests: Vec<Request>,
    /// Requests that are owed an answer, and some that got it, in the order of asking.
    owed: VecDeque<Ask>,
    next_survey: Time,
    actions: Actions,
    bytes: Vec<u8>,
    figures: Figures,
    log: Log,
}

/// Where a node lives, or lived.
struct Place {
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
    wall_ahead_millis: i64,
}

/// What a client asked.
struct Request {
    at: Number,
    life: u32,
    key: Key,
    since: Time,
    owed: bool,
    answer: Option<Answer>,
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
            places: Vec::new(),
            requests: Vec::new(),
            owed: VecDeque::new(),
            next_survey: Time::ZERO + SURVEY_INTERVAL,
            actions: Actions::new(),
            bytes: Vec::new(),
            figures: Figures::default(),
            log: Log::default(),
            scenario,
        }
    }

    /// The virtual time.
    pub fn now(&self) -> Time {
        self.now
    }

    /// The node `number`, if it lives.
    pub fn node(&self, number: Number) -> Option<&Node> {
        self.places.get(number.index())?.node.as_deref()
    }

    /// The id of the node `number`, alive, dead, or yet to be born.
    pub fn id_of(&self, number: Number) -> NodeId {
        NodeId::new(Key::new(derived(self.scenario.seed, "id", number.0, 0)))
    }

    /// Who has the id, alive or dead. Looks at all: for tests.
    pub fn number_of(&self, id: &NodeId) -> Option<Number> {
        let at = self.places.iter().position(|place| place.id == *id)?;
        u32::try_from(at).ok().map(Number)
    }

    /// The numbers of all nodes that live.
    pub fn alive(&self) -> impl Iterator<Item = Number> {
        let all = (0..).map(Number).zip(&self.places);
        all.filter(|(_, place)| place.node.is_some()).map(|(number, _)| number)
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
        u32::try_from(self.places.len()).expect("numbers have 32 bits")
    }

    /// The nodes that hold `key`.
    pub fn holders(&self, key: &Key) -> Vec<Number> {
        let holds =
            |number: &Number| self.node(*number).is_some_and(|node| node.storage().find(self.now, key).is_some());
        self.alive().filter(holds).collect()
    }

    /// What was counted.
    pub fn figures(&self) -> Figures {
        let mut figures = self.figures;
        figures.connections = self.network.connections() as u64;
        for place in &self.places {
            if let Some(node) = &place.node {
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

/// Births and deaths.
impl World {
    /// A node is born that joins through the nodes `through`; without any it founds a network.
    pub fn spawn(&mut self, through: &[Number]) -> Result<Number, Violation> {
        self.spawn_as(Serving::Yes, through)
    }

    /// As [`World::spawn`]; the node serves, or is a client.
    pub fn spawn_as(&mut self, serving: Serving, through: &[Number]) -> Result<Number, Violation> {
        let number = Number(self.population());
        let skew = i64::try_from(self.scenario.skew_max.as_millis()).expect("clocks are less than an age apart");
        self.network.add_host(serving == Serving::Yes);
        self.places.push(Place {
            id: self.id_of(number),
            node: None,
            life: 0,
            wake: None,
            turns: 0,
            changes: 0,
            wall_ahead_millis: self.rng.random_range(-skew..=skew),
        });
        self.give_birth(number, serving, through)?;
        Ok(number)
    }

    /// A node that serves lives again where one died: the same id, at the same address, with
    /// nothing left of what it knew.
    ///
    /// # Panics
    ///
    /// If it lives.
    pub fn restart(&mut self, number: Number, through: &[Number]) -> Result<(), Violation> {
        assert!(self.node(number).is_none(), "{number} lives");
        self.network.revive(number);
        self.give_birth(number, Serving::Yes, through)
    }

    fn give_birth(&mut self, number: Number, serving: Serving, through: &[Number]) -> Result<(), Violation> {
        let bootstrap = |at: &Number| Bootstrap { at: Endpoint::Address(network::address_of(*at)), pin: None };
        let bootstraps = through.iter().map(bootstrap).collect();
        let params = Params { serving, bootstraps, ..self.scenario.params.clone() };
        let now = self.now_at(number);
        let place = &mut self.places[number.index()];
        let port = if serving == Serving::Yes { network::PORT } else { 0 };
        let seed = derived(self.scenario.seed, "node", number.0, place.life);
        place.node = Some(Box::new(Node::new(Me { id: place.id, port }, params, seed, now)));
        self.log.add(self.now, Kind::Born, number, &[]);
        self.settle(number)
    }

    /// Nodes are born until there are as many as the scenario wants, ever more of them in each
    /// second, each told of up to three others; goes on until all have joined.
    pub fn join_all(&mut self) -> Result<(), Violation> {
        let wanted = self.scenario.nodes as usize;
        while self.places.len() < wanted {
            let births = (self.places.len() / 2).max(BIRTHS_MIN).min(wanted - self.places.len());
            for _ in 0..births {
                let through: Vec<Number> = match self.places.len() {
                    0 => Vec::new(),
                    _ => (0..self.rng.random_range(1..=BOOTSTRAPS_MAX)).map(|_| self.any_alive()).collect(),
                };
                self.spawn(&through)?;
                self.run_for(Duration::from_secs(1) / u32::try_from(births).expect("few are born in a second"))?;
            }
        }
        self.await_joined()
    }

    /// Goes on until all have joined.
    pub fn await_joined(&mut self) -> Result<(), Violation> {
        let latest = self.now + JOIN_TIME_MAX;
        loop {
            let lonely = self.alive().find(|number| !self.has_joined(*number));
            let Some(lonely) = lonely else { return Ok(()) };
            if self.now >= latest {
                return Err(self.violation(lonely, Breach::NeverJoined));
            }
            self.run_for(Duration::from_secs(1))?;
        }
    }

    /// Whether the node lives and has joined.
    pub fn has_joined(&self, number: Number) -> bool {
        self.node(number).is_some_and(|node| node.standing() == Standing::Settled)
    }

    /// Nodes die.
    pub fn kill(&mut self, death: Death, numbers: impl IntoIterator<Item = Number>) {
        let mut deaths = vec![None; self.places.len()];
        for number in numbers {
            deaths[number.index()] = Some(death);
            self.bury(number);
        }
        let heard = self.network.kill(&mut self.rng, self.now, |number| deaths[number.index()]);
        for (at, conn) in heard {
            self.queue.foresee(at, What::Closed(conn));
        }
    }

    fn bury(&mut self, number: Number) {
        let place = &mut self.places[number.index()];
        place.node = None;
        place.wake = None;
        place.life += 1;
        self.log.add(self.now, Kind::Killed, number, &[]);
    }

    /// A node leaves in peace; its process ends when it is done.
    pub fn leave(&mut self, number: Number) -> Result<(), Violation> {
        self.touch(number, Node::leave)
    }

    /// Parts the world: nodes of different sides do not reach each other, and the connections
    /// between them fall silent.
    pub fn part(&mut self, side_of: impl Fn(Number) -> u8) {
        self.network.part(side_of);
    }

    /// Nothing goes wrong any more, and all reach each other.
    pub fn heal(&mut self) {
        self.network.part(|_| 0);
        self.network.faults = Faults::NONE;
    }
}

/// Clients.
impl World {
    /// A client asks the node `at`, and waits.
    ///
    /// # Panics
    ///
    /// If the node does not live, or wants no requests.
    pub fn ask(&mut self, at: Number, request: &ApiRequest<'_>) -> Result<Ask, Violation> {
        let node = self.node(at).expect("clients ask nodes that live");
        assert!(node.wants_requests(), "the host would not read this request");
        let (key, owed) = match request {
            ApiRequest::Put(put) => (put.key, put.confirm == Confirm::Yes),
            ApiRequest::Get { key } => (*key, true),
        };
        let ask = Ask(self.requests.len());
        let life = self.places[at.index()].life;
        self.requests.push(Request { at, life, key, since: self.now, owed, answer: None });
        if owed {
            self.owed.push_back(ask);
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        request.encode(&mut bytes);
        self.log.add(self.now, Kind::Asked, at, &bytes);
        let frame = next_frame(Source::Module, &bytes);
        let (frame, size) = frame.expect("a request that was encoded").expect("all of it");
        assert_eq!(size, bytes.len(), "one request was encoded");
        let request = ApiRequest::decode(frame).expect("a request that was encoded");
        let client = ClientId { connection: at.0.into(), request: ask.0 as u64 };
        let asked = self.touch(at, |node, now, out| node.on_request(now, client, request, out));
        self.bytes = bytes;
        asked.map(|()| ask)
    }

    /// What the client of `ask` was told, if it was.
    pub fn answer(&self, ask: Ask) -> Option<&Answer> {
        self.requests[ask.0].answer.as_ref()
    }

    /// Goes on until `ask` is answered; FAILURE if its node dies before.
    pub fn await_answer(&mut self, ask: Ask) -> Result<Answer, Violation> {
        loop {
            let request = &self.requests[ask.0];
            if let Some(answer) = &request.answer {
                return Ok(answer.clone());
            }
            assert!(request.owed, "nobody waits for this answer");
            if self.places[request.at.index()].life != request.life || !self.step(None)? {
                return Ok(Answer::Failure);
            }
        }
    }

    /// A client asks for a confirmed PUT, with the node's own TTL, and waits for the answer.
    pub fn put(&mut self, at: Number, key: Key, value: &[u8], replication: u8) -> Result<Answer, Violation> {
        let put = Put { ttl: 0, replication, confirm: Confirm::Yes, key, value };
        let ask = self.ask(at, &ApiRequest::Put(put))?;
        self.await_answer(ask)
    }

    /// A client asks for a GET, and waits for the answer.
    pub fn get(&mut self, at: Number, key: Key) -> Result<Answer, Violation> {
        let ask = self.ask(at, &ApiRequest::Get { key })?;
        self.await_answer(ask)
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
                let (peer, address) = (self.places[dialler.index()].id, network::source_of(dialler));
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
            What::Closed(conn) => {
                let Some(number) = self.network.hear_close(conn) else { return Ok(()) };
                self.log.add(self.now, Kind::Closed, number, &[]);
                self.touch(number, |node, now, out| node.on_closed(now, conn, out))
            }
        }
    }

    fn wake(&mut self, number: Number) -> Result<(), Violation> {
        let place = &mut self.places[number.index()];
        if place.wake != Some(self.now) {
            return Ok(());
        }
        place.wake = None;
        let next = place.node.as_ref().and_then(|node| node.next_deadline());
        if next.is_none_or(|next| next > self.now) {
            return self.settle(number); // it has come to want it later
        }
        self.log.add(self.now, Kind::Woken, number, &[]);
        self.places[number.index()].turns += 1;
        let turns = self.places[number.index()].turns;
        self.judge(number, checker::no_node_is_restless(turns))?;
        self.touch(number, Node::on_timeout)
    }

    fn end_dial(&mut self, from: Number, life: u32, dial: DialId, outcome: Outcome) -> Result<(), Violation> {
        if self.places[from.index()].life != life {
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
        let (peer, address) = (self.places[to.index()].id, network::address_of(to));
        let (conn, origin) = (connected.dialler, Origin::Dialled(dial));
        self.touch(from, |node, now, out| node.on_secured(now, conn, peer, address, origin, out))
    }

    fn now_at(&self, number: Number) -> Now {
        let millis = u64::try_from(self.now.since(Time::ZERO).as_millis()).expect("five hundred million years");
        let wall = (EPOCH_MILLIS + millis).saturating_add_signed(self.places[number.index()].wall_ahead_millis);
        Now { mono: self.now, wall: WallTime::from_millis(wall) }
    }
}

/// What a node wants done.
impl World {
    /// Something happens to a node, if it lives.
    fn touch(&mut self, number: Number, verb: impl FnOnce(&mut Node, Now, &mut Actions)) -> Result<(), Violation> {
        let now = self.now_at(number);
        let Some(node) = self.places[number.index()].node.as_deref_mut() else { return Ok(()) };
        let mut actions = std::mem::take(&mut self.actions);
        verb(node, now, &mut actions);
        let left = node.has_left();
        self.figures.events += 1;
        let done = self.perform(number, &actions);
        actions.clear();
        self.actions = actions;
        self.judge(number, done)?;
        if left {
            self.kill(Death::Process, [number]);
        }
        self.settle(number)
    }

    fn perform(&mut self, number: Number, actions: &Actions) -> Verdict {
        for action in actions.iter() {
            match action {
                Action::Dial { dial, to, expect } => self.dial(number, *dial, to, *expect),
                Action::Send { conn, message } => {
                    let (head, value) = actions.bytes(message);
                    self.send(*conn, [head, value].concat().into_boxed_slice())?;
                }
                Action::Reply { client, message } => {
                    let (head, value) = actions.bytes(message);
                    self.reply(number, *client, &[head, value].concat())?;
                }
                Action::Close { conn, .. } => {
                    if let Some((at, other_end)) = self.network.close(&mut self.rng, self.now, *conn) {
                        self.queue.foresee(at, What::Closed(other_end));
                    }
                }
            }
        }
        Ok(())
    }

    fn dial(&mut self, from: Number, dial: DialId, to: &Endpoint, expect: Option<NodeId>) {
        self.figures.dials += 1;
        let found = self.network.dial(&mut self.rng, self.now, from, to);
        let outcome = match found.met {
            None => Outcome::Failed(DialError::Unreachable),
            Some(met) if expect.is_some_and(|id| id != self.places[met.index()].id) => {
                Outcome::Failed(DialError::NotAuthentic)
            }
            Some(met) => Outcome::Met(met),
        };
        let life = self.places[from.index()].life;
        self.queue.foresee(found.at, What::Dialled { from, life, dial, outcome });
    }

    fn send(&mut self, conn: ConnId, bytes: Box<[u8]>) -> Verdict {
        checker::every_message_fits_its_frame(Source::Peer, &bytes)?;
        self.figures.messages += 1;
        self.figures.bytes += bytes.len() as u64;
        match self.network.send(&mut self.rng, self.now, conn) {
            Fate::Arrives(at, other_end) => self.queue.foresee(at, What::Arrives(other_end, bytes)),
            Fate::Lost => self.figures.messages_lost += 1,
            Fate::Broken(ends) => {
                self.figures.messages_lost += 1;
                for (at, end) in ends {
                    self.queue.foresee(at, What::Closed(end));
                }
            }
        }
        Ok(())
    }

    fn reply(&mut self, number: Number, client: ClientId, bytes: &[u8]) -> Verdict {
        checker::every_message_fits_its_frame(Source::Server, bytes)?;
        self.log.add(self.now, Kind::Answered, number, bytes);
        let frame = next_frame(Source::Server, bytes).ok().flatten();
        let reply = frame.and_then(|(frame, _)| ApiReply::decode(frame).ok()).ok_or(Breach::StrangeAnswer)?;
        let (key, answer) = match reply {
            ApiReply::Success { key, value } => (key, Answer::Success(value.into())),
            ApiReply::Failure { key } => (key, Answer::Failure),
        };
        let request = usize::try_from(client.request).ok().and_then(|ask| self.requests.get_mut(ask));
        let waits = |request: &&mut Request| {
            request.owed && request.answer.is_none() && request.at == number && request.key == key
        };
        request.filter(waits).ok_or(Breach::StrangeAnswer)?.answer = Some(answer);
        Ok(())
    }

    /// After whatever happened to a node: when it wants to be woken, and what must hold of it.
    fn settle(&mut self, number: Number) -> Result<(), Violation> {
        let now = self.now;
        let place = &mut self.places[number.index()];
        let Some(node) = place.node.as_deref() else { return Ok(()) };
        let mut verdict = checker::after_event(node, now);
        if place.changes != node.table().changes() {
            place.changes = node.table().changes();
            verdict = verdict.and_then(|()| checker::after_change(node));
        }
        let bound = node.params().peer_connections_max + DIALS_MAX;
        let connections = node.connections();
        let next = node.next_deadline().map(|next| next.max(now));
        if next.is_some_and(|next| next > now) {
            place.turns = 0;
        }
        if let Some(next) = next.filter(|next| place.wake.is_none_or(|wake| *next < wake)) {
            place.wake = Some(next);
            self.queue.foresee(next, What::Wake(number));
        }
        self.judge(number, verdict)?;
        self.judge(number, checker::no_connection_is_forgotten(connections, self.network.open_at(number)))?;
        self.judge(number, checker::connections_are_bounded(connections, bound))
    }
}

/// What must hold.
impl World {
    /// Looks at all that lives, in depth.
    pub fn survey(&self) -> Result<(), Violation> {
        let listener = |address| {
            let number = network::number_at(&Endpoint::Address(address))?;
            self.places.get(number.index()).map(|place| place.id)
        };
        for (number, place) in (0..).map(Number).zip(&self.places) {
            if let Some(node) = &place.node {
                self.judge(number, checker::in_depth(node, self.now, listener))?;
            }
        }
        Ok(())
    }

    fn look_for_the_unanswered(&mut self) -> Result<(), Violation> {
        while let Some(&ask) = self.owed.front() {
            let request = &self.requests[ask.0];
            let (at, since) = (request.at, request.since);
            if request.answer.is_none() && self.places[at.index()].life == request.life {
                let within = self.scenario.params.request_timeout;
                return self.judge(at, checker::every_request_is_answered(self.now, since, within));
            }
            self.owed.pop_front();
        }
        Ok(())
    }

    fn judge(&self, node: Number, verdict: Verdict) -> Result<(), Violation> {
        verdict.map_err(|breach| self.violation(node, breach))
    }

    fn violation(&self, node: Number, breach: Breach) -> Violation {
        Violation { seed: self.scenario.seed, at: self.now, node, breach }
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
