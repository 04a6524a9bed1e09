//! What a node wants done, and what comes of it.

use std::sync::Arc;

use rand::RngExt;

use super::{Answer, DISK_WRITE, Request, Wish, World};
use crate::id::NodeId;
use crate::limits::DIALS_MAX;
use crate::node::Node;
use crate::node::action::{Action, Actions, ClientId, ConnId, DialError, DialId};
use crate::node::params::{Durability, Endpoint};
use crate::node::persisted::Batch;
use crate::sim::checker::{self, Breach, Verdict};
use crate::sim::network::{Death, Fate};
use crate::sim::queue::{Outcome, What};
use crate::sim::report::Kind;
use crate::sim::{Number, Violation};
use crate::time::Now;
use crate::wire::api::ApiReply;
use crate::wire::frame::{Frame, next_frame};
use crate::wire::peer::{self, Content, PeerMessage, Reply, StoreOutcome};
use crate::wire::{self, Source};

/// What a node wants done.
impl World {
    /// Something happens to a node, if it lives.
    pub(super) fn touch(
        &mut self,
        number: Number,
        verb: impl FnOnce(&mut Node, Now, &mut Actions),
    ) -> Result<(), Violation> {
        let now = self.now_at(number);
        let Some(node) = self.hosts[number.index()].node.as_deref_mut() else { return Ok(()) };
        let mut actions = std::mem::take(&mut self.actions);
        verb(node, now, &mut actions);
        let left = node.has_left();
        self.figures.events += 1;
        let done = self.perform(number, &actions);
        actions.clear();
        self.actions = actions;
        self.judge(number, done)?;
        if left {
            self.flush_disk(number);
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
                    self.send(number, *conn, [head, value].concat().into_boxed_slice())?;
                }
                Action::Reply { client, message } => {
                    let (head, value) = actions.bytes(message);
                    self.reply(number, *client, &[head, value].concat())?;
                }
                Action::Save { batch } => self.save(number, batch)?,
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
            Some(met) if expect.is_some_and(|id| id != self.hosts[met.index()].id) => {
                Outcome::Failed(DialError::NotAuthentic)
            }
            Some(met) => Outcome::Met(met),
        };
        let life = self.hosts[from.index()].life;
        self.queue.foresee(found.at, What::Dialled { from, life, dial, outcome });
    }

    fn save(&mut self, number: Number, batch: &Arc<Batch>) -> Verdict {
        let host = &mut self.hosts[number.index()];
        checker::one_batch_in_flight_at_a_time(host.disk.begin(batch))?;
        let at = self.now + self.rng.random_range(DISK_WRITE);
        self.queue.foresee(at, What::Saved { at: number, life: host.life });
        Ok(())
    }

    fn send(&mut self, from: Number, conn: ConnId, bytes: Box<[u8]>) -> Verdict {
        checker::every_message_fits_its_frame(Source::Peer, &bytes)?;
        self.read_along(from, &bytes)?;
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

    /// What the world learns from a message that `from` sends: the versions of values, and what
    /// is said of them.
    fn read_along(&mut self, from: Number, bytes: &[u8]) -> Verdict {
        let told = |frame: &Frame<'_>| [wire::STORE, wire::FIND_VALUE_REPLY, wire::STORE_REPLY].contains(&frame.kind);
        let frame = next_frame(Source::Peer, bytes).ok().flatten().map(|(frame, _)| frame).filter(told);
        let message = frame.and_then(|frame| PeerMessage::decode(frame).ok());
        match message {
            Some(
                PeerMessage::Request(_, peer::Request::Store(record))
                | PeerMessage::Reply(_, Reply::Value { record, .. }),
            ) if record.content != Content::Tombstone => {
                let seen = record.rank().precedence();
                self.history.observe(record.key, record.crc, seen);
            }
            Some(PeerMessage::Reply(_, Reply::Stored { key, outcome: StoreOutcome::Held, held }))
                if self.scenario.params.durability == Durability::Always =>
            {
                let disk = &self.hosts[from.index()].disk;
                checker::what_is_confirmed_is_on_disk(usize::from(disk.covers(&key, held.precedence())), 1)?;
            }
            _ => {}
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
        let request = request.filter(waits).ok_or(Breach::StrangeAnswer)?;
        request.answer = Some(answer.clone());
        let (wish, life, since) = (request.wish, request.life, request.since);
        if let Some(held) =
            self.hosts[number.index()].node.as_ref().and_then(|node| node.storage().find(self.now, &key))
        {
            self.history.observe(key, held.record.crc, held.record.rank().precedence());
        }
        match (answer, wish) {
            (Answer::Success(value), Wish::Get) => self.judge_read(number, life, key, &value),
            (Answer::Success(_), Wish::Put { crc, replication }) => {
                self.history.written(number, life, key, crc);
                self.judge_confirmed(key, crc, replication, since)
            }
            (Answer::Failure, _) => Ok(()),
        }
    }

    /// After whatever happened to a node: when it wants to be woken, and what must hold of it.
    pub(super) fn settle(&mut self, number: Number) -> Result<(), Violation> {
        let now = self.now;
        let host = &mut self.hosts[number.index()];
        let Some(node) = host.node.as_deref() else { return Ok(()) };
        let mut verdict = checker::after_event(node, now);
        if host.changes != node.table().changes() {
            host.changes = node.table().changes();
            verdict = verdict.and_then(|()| checker::after_change(node));
        }
        let bound = node.params().peer_connections_max + DIALS_MAX;
        let connections = node.connections();
        let next = node.next_deadline().map(|next| next.max(now));
        if next.is_some_and(|next| next > now) {
            host.turns = 0;
        }
        if let Some(next) = next.filter(|next| host.wake.is_none_or(|wake| *next < wake)) {
            host.wake = Some(next);
            self.queue.foresee(next, What::Wake(number));
        }
        self.judge(number, verdict)?;
        self.judge(number, checker::no_connection_is_forgotten(connections, self.network.open_at(number)))?;
        self.judge(number, checker::connections_are_bounded(connections, bound))
    }
}
