//! Performs the actions of nodes.

use std::sync::Arc;

use rand::RngExt;

use super::sleep::Turns;
use super::{Answer, DISK_SYNC, DISK_WRITE, Operation, Request, World};
use crate::id::NodeId;
use crate::limits::DIALS_MAX;
use crate::node::Node;
use crate::node::action::{Action, Actions, ClientId, ConnId, DialError, DialId, Sent};
use crate::node::params::{Durability, Endpoint};
use crate::node::persisted::Batch;
use crate::sim::checker::{self, BrokenInvariant, CheckResult};
use crate::sim::network::{Death, Delivery};
use crate::sim::queue::Event;
use crate::sim::report::EventKind;
use crate::sim::{Number, Violation};
use crate::time::Now;
use crate::wire::api::ApiReply;
use crate::wire::frame::{Frame, next_frame};
use crate::wire::peer::{self, Content, ErrorCode, PeerMessage, Reply, StoreOutcome};
use crate::wire::{self, Source};

/// Actions of nodes.
impl World {
    /// Calls a method of a node, if it runs, and performs its actions.
    pub(super) fn call(
        &mut self,
        number: Number,
        method: impl FnOnce(&mut Node, Now, &mut Actions),
    ) -> Result<(), Violation> {
        assert!(!self.is_asleep(number), "a node that sleeps is not called");
        let now = self.now_at(number);
        let Some(node) = self.hosts[number.index()].node.as_deref_mut() else { return Ok(()) };
        let mut actions = std::mem::take(&mut self.actions);
        method(node, now, &mut actions);
        let has_left = node.has_left();
        self.figures.events += 1;
        let performed = self.perform(number, &actions);
        actions.clear();
        self.actions = actions;
        self.require(number, performed)?;
        if has_left {
            self.flush_disk(number);
            self.kill(Death::Process, [number]);
        }
        self.after_event(number)
    }

    fn perform(&mut self, number: Number, actions: &Actions) -> CheckResult {
        for action in actions.iter() {
            match action {
                Action::Dial { dial, to, expect } => self.dial(number, *dial, to, *expect),
                Action::Send { conn, sent, message } => {
                    let (head, value) = actions.bytes(message);
                    let mut bytes = [head, value].concat();
                    if let Sent::Reply(rpc) = sent
                        && self.network.refuses(&mut self.rng, number)
                    {
                        bytes.clear();
                        PeerMessage::Reply(*rpc, Reply::Error(ErrorCode::TOO_MANY)).encode(&mut bytes);
                    }
                    self.send(number, *conn, bytes.into_boxed_slice())?;
                }
                Action::Reply { client, message } => {
                    let (head, value) = actions.bytes(message);
                    self.reply(number, *client, &[head, value].concat())?;
                }
                Action::Save { batch } => self.save(number, batch)?,
                Action::Close { conn, .. } => {
                    if let Some((at, other_end)) = self.network.close(&mut self.rng, self.now, *conn) {
                        self.queue.schedule(at, Event::Closed(other_end));
                    }
                }
            }
        }
        Ok(())
    }

    fn dial(&mut self, from: Number, dial: DialId, to: &Endpoint, expect: Option<NodeId>) {
        self.figures.dials += 1;
        let result = self.network.dial(&mut self.rng, self.now, from, to);
        let acceptor = match result.acceptor {
            Ok((number, _)) if expect.is_some_and(|id| id != self.hosts[number.index()].id) => {
                Err(DialError::NotAuthentic)
            }
            result => result,
        };
        let incarnation = self.hosts[from.index()].incarnation;
        self.queue.schedule(result.at, Event::Dialled { from, incarnation, dial, acceptor });
    }

    fn save(&mut self, number: Number, batch: &Arc<Batch>) -> CheckResult {
        let host = &mut self.hosts[number.index()];
        checker::one_batch_in_flight_at_a_time(host.disk.begin(batch))?;
        let at = self.now + self.rng.random_range(if batch.sync { DISK_SYNC } else { DISK_WRITE });
        self.queue.schedule(at, Event::Saved { at: number, incarnation: host.incarnation });
        Ok(())
    }

    fn send(&mut self, from: Number, conn: ConnId, bytes: Box<[u8]>) -> CheckResult {
        checker::every_message_is_one_frame(Source::Peer, &bytes)?;
        self.observe_message(from, &bytes)?;
        self.figures.messages += 1;
        self.figures.bytes += bytes.len() as u64;
        match self.network.send(&mut self.rng, self.now, conn) {
            Delivery::Arrives(at, other_end) => self.queue.schedule(at, Event::Arrives(other_end, bytes)),
            Delivery::Lost => self.figures.messages_lost += 1,
            Delivery::Broken(ends) => {
                self.figures.messages_lost += 1;
                for (at, end) in ends {
                    self.queue.schedule(at, Event::Closed(end));
                }
            }
        }
        Ok(())
    }

    /// Observes the versions of values in a message that `from` sends, and checks confirmations of STOREs.
    fn observe_message(&mut self, from: Number, bytes: &[u8]) -> CheckResult {
        let has_version = |frame: &Frame<'_>| {
            [wire::STORE, wire::RELAY, wire::FIND_VALUE_REPLY, wire::STORE_REPLY].contains(&frame.kind)
        };
        let frame = next_frame(Source::Peer, bytes).ok().flatten().map(|(frame, _)| frame).filter(has_version);
        let message = frame.and_then(|frame| PeerMessage::decode(frame).ok());
        match message {
            Some(
                PeerMessage::Request(_, peer::Request::Store(record))
                | PeerMessage::Reply(_, Reply::Value { record, .. }),
            ) if record.content != Content::Tombstone => {
                let precedence = record.rank().precedence();
                self.history.observe(record.key, record.crc, precedence);
            }
            Some(PeerMessage::Request(rpc, peer::Request::Relay { .. })) => _ = self.relays.insert(rpc),
            // Its sender is no replica.
            Some(PeerMessage::Reply(rpc, Reply::Stored { .. })) if self.relays.remove(&rpc) => {}
            Some(PeerMessage::Reply(_, Reply::Stored { key, outcome: StoreOutcome::Held, held }))
                if self.scenario.params.durability != Durability::None =>
            {
                let disk = &self.hosts[from.index()].disk;
                checker::a_confirmed_record_is_on_disk(usize::from(disk.covers(&key, held.precedence())), 1)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn reply(&mut self, number: Number, client: ClientId, bytes: &[u8]) -> CheckResult {
        checker::every_message_is_one_frame(Source::Server, bytes)?;
        self.digest.add(self.now, EventKind::Answered, number, bytes);
        let frame = next_frame(Source::Server, bytes).ok().flatten();
        let reply =
            frame.and_then(|(frame, _)| ApiReply::decode(frame).ok()).ok_or(BrokenInvariant::UnexpectedReply)?;
        let (key, answer) = match reply {
            ApiReply::Success { key, value } => (key, Answer::Success(value.into())),
            ApiReply::Failure { key } => (key, Answer::Failure),
        };
        let request = usize::try_from(client.request).ok().and_then(|index| self.requests.get_mut(index));
        let waits = |request: &&mut Request| {
            request.expects_reply && request.answer.is_none() && request.at == number && request.key == key
        };
        let request = request.filter(waits).ok_or(BrokenInvariant::UnexpectedReply)?;
        request.answer = Some(answer.clone());
        let (operation, incarnation, since) = (request.operation, request.incarnation, request.since);
        if let Some(held) =
            self.hosts[number.index()].node.as_ref().and_then(|node| node.storage().find(self.now, &key))
        {
            self.history.observe(key, held.record.crc, held.record.rank().precedence());
        }
        match (answer, operation) {
            (Answer::Success(value), Operation::Get) => self.check_read(number, incarnation, key, &value),
            (Answer::Success(_), Operation::Put { crc, replication }) => {
                self.history.read(number, incarnation, key, crc);
                self.check_confirmed(key, crc, replication, since)
            }
            (Answer::Failure, _) => Ok(()),
        }
    }

    /// Schedules the next wake-up of a node, and checks its invariants.
    pub(super) fn after_event(&mut self, number: Number) -> Result<(), Violation> {
        let now = self.now;
        let host = &mut self.hosts[number.index()];
        let Some(node) = host.node.as_deref() else { return Ok(()) };
        // Requests to peers are overdue until the timers have had their turn.
        let is_late = matches!(host.turns, Turns::Late);
        let mut result = if is_late { Ok(()) } else { checker::after_event(node, now) };
        if host.table_changes != node.table().changes() {
            host.table_changes = node.table().changes();
            result = result.and_then(|()| checker::after_table_change(node));
        }
        let bound = node.params().peer_connections_max + DIALS_MAX;
        let connections = node.connections();
        let next = node.next_deadline().map(|next| next.max(now));
        if next.is_some_and(|next| next > now) {
            host.wakes = 0;
        }
        if let Some(next) = next.filter(|next| host.wake.is_none_or(|wake| *next < wake)) {
            host.wake = Some(next);
            self.queue.schedule(next, Event::Wake(number));
        }
        self.require(number, result)?;
        self.require(number, checker::a_node_knows_its_open_connections(connections, self.network.open_at(number)))?;
        self.require(number, checker::connections_are_bounded(connections, bound))
    }
}
