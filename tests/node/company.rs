//! A company: real nodes, back to back, over connections that deliver at once and in order.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use dht::id::NodeId;
use dht::node::action::{Action, Actions, ClientId, ConnId, DialError, DialId, Origin};
use dht::node::params::{Endpoint, Params};
use dht::node::{Me, Node};
use dht::time::{Now, Time, WallTime};
use dht::wire::Source;
use dht::wire::api::{ApiReply, ApiRequest};
use dht::wire::frame::next_frame;

use crate::stage::{PORT, address, id, whole};

/// Real nodes under one clock. The node `n` has the id and the address of the peer `n`.
pub(crate) struct Company {
    pub(crate) nodes: BTreeMap<u8, Node>,
    now: Time,
    happening: VecDeque<Event>,
    /// Connections that are open at this end: whose they are, and the other end.
    ends: BTreeMap<ConnId, (u8, ConnId, Origin)>,
    answers: Vec<(ClientId, ApiReply<'static>)>,
    minted: u64,
}

enum Event {
    Dialled { by: u8, dial: DialId, to: Endpoint, expect: Option<NodeId> },
    Arrives { at: ConnId, bytes: &'static [u8] },
    Closed { at: ConnId },
}

impl Company {
    pub(crate) fn new(members: impl IntoIterator<Item = (u8, Params)>) -> Self {
        let mut company = Self {
            nodes: BTreeMap::new(),
            now: Time::ZERO,
            happening: VecDeque::new(),
            ends: BTreeMap::new(),
            answers: Vec::new(),
            minted: 0,
        };
        for (number, params) in members {
            let me = Me { id: id(number), port: PORT };
            company.nodes.insert(number, Node::new(me, params, [number; 32], company.now()));
        }
        company
    }

    fn now(&self) -> Now {
        let millis = u64::try_from(self.now.since(Time::ZERO).as_millis()).expect("a short play");
        Now { mono: self.now, wall: WallTime::from_millis(1_700_000_000_000 + millis) }
    }

    /// Lets time pass, waking everybody in time.
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

    /// One verb of a node, and all that follows from it at this moment.
    pub(crate) fn act(&mut self, number: u8, verb: impl FnOnce(&mut Node, Now, &mut Actions)) {
        self.perform(number, verb);
        while let Some(event) = self.happening.pop_front() {
            self.happen(event);
        }
    }

    pub(crate) fn request(&mut self, number: u8, request: ApiRequest<'_>) -> Option<ApiReply<'static>> {
        self.minted += 1;
        let client = ClientId { connection: 0, request: self.minted };
        self.act(number, |node, now, out| node.on_request(now, client, request, out));
        self.answer(client)
    }

    pub(crate) fn answer(&mut self, client: ClientId) -> Option<ApiReply<'static>> {
        let at = self.answers.iter().position(|(to, _)| *to == client)?;
        Some(self.answers.swap_remove(at).1)
    }

    /// A member dies: whoever is connected to it sees the connection end.
    pub(crate) fn kill(&mut self, number: u8) {
        self.nodes.remove(&number);
        let ends: Vec<_> = self.ends.iter().filter(|(_, end)| end.0 == number).map(|(at, end)| (*at, end.1)).collect();
        for (at, other) in ends {
            self.ends.remove(&at);
            self.happening.push_back(Event::Closed { at: other });
        }
        while let Some(event) = self.happening.pop_front() {
            self.happen(event);
        }
    }

    /// The connections of a member: to whom, and whether it dialled.
    pub(crate) fn connections(&self, number: u8) -> Vec<(u8, bool)> {
        let of_it = self.ends.values().filter(|end| end.0 == number);
        of_it.map(|(_, other, origin)| (self.ends[other].0, matches!(origin, Origin::Dialled(_)))).collect()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Dialled { by, dial, to, expect } => self.dialled(by, dial, &to, expect),
            Event::Arrives { at, bytes } => {
                let Some(&(number, ..)) = self.ends.get(&at) else { return };
                let (frame, _) = next_frame(Source::Peer, bytes).expect("possible").expect("whole");
                self.perform(number, |node, now, out| node.on_frame(now, at, frame, out));
            }
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
            (None, _) => Err(DialError::Unreachable),
            (Some(found), Some(expect)) if id(found) != expect => Err(DialError::NotAuthentic),
            (Some(found), _) => Ok(found),
        };
        match error {
            Err(error) => self.perform(by, |node, now, out| node.on_dial_failed(now, dial, error, out)),
            Ok(found) => {
                let (here, there) = (ConnId(2 * self.minted), ConnId(2 * self.minted + 1));
                self.minted += 1;
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
                    self.happening.push_back(Event::Dialled { by: number, dial, to, expect });
                }
                Action::Send { conn, message } => {
                    if let Some((_, other, _)) = self.ends.get(conn) {
                        let bytes = whole(&out, message);
                        self.happening.push_back(Event::Arrives { at: *other, bytes });
                    }
                }
                Action::Reply { client, message } => {
                    let (frame, _) =
                        next_frame(Source::Server, whole(&out, message)).expect("possible").expect("whole");
                    self.answers.push((*client, ApiReply::decode(frame).expect("an answer")));
                }
                Action::Close { conn, .. } => {
                    if let Some((_, other, _)) = self.ends.remove(conn) {
                        self.happening.push_back(Event::Closed { at: other });
                    }
                }
            }
        }
    }
}
