//! Passing a record on to the nodes of the other address family (`PROTOCOL.md` 2, Address families).
//!
//! A PUT stores its record in the families that this node reaches. If nodes of the other family exist, it is
//! done only when these have the record too: this node, if it is a bridge, runs a second PUT in that family,
//! or it asks a bridge to do so (RELAY). The second PUT follows the rules of every PUT
//! ([`crate::node::query::write_quorum`]), with a lookup among the nodes of that family, except that it makes
//! one attempt and never raises the version.
//!
//! A record that came by RELAY is sent on by STORE alone, so it never returns.
//!
//! A bridge that does not answer in `rpc_timeout`, or answers by an error, is followed by the next one; a
//! late answer still counts. It is pinged, if nothing else has come from it: a bridge that waits for other nodes answers
//! that. While there is evidence of another family ([`crate::node::rpc::bridges`]) and no bridge has stored the record
//! there, a PUT is not confirmed.

use crate::contact::Family;
use crate::id::{NodeId, RpcId};
use crate::limits::PUT_RETRY_PAUSE;
use crate::node::Node;
use crate::node::action::{Actions, Caller, ConnId};
use crate::node::params::Serving;
use crate::node::purpose::{Attempt, Outcome, Purpose, QueryId};
use crate::node::query::Query;
use crate::node::query::bridge_asks::BridgeEnded;
use crate::node::query::write_quorum::{Put, PutOrigin, RelayFor, may_supersede};
use crate::node::rpc::families::WayAcross;
use crate::node::rpc::outbound::{Report, block_of};
use crate::node::timers::Timer;
use crate::pending::Passed;
use crate::record::envelope::verify;
use crate::record::{Class, Rank, Record, end_of_life};
use crate::time::{Now, Time};
use crate::wire::peer::{ErrorCode, PeerMessage, RecordBlock, Reply, Request, StoreOutcome};

/// RELAYs of peers that this node serves at a time: as many as one connection of a client may have PUTs in
/// flight. Further ones are answered by ERROR 429.
const RELAYS_MAX: usize = 256;

/// Bytes of their values.
const RELAY_BYTES_MAX: usize = 16 << 20;

/// How the second PUT of a record has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relayed {
    /// The nodes of the other family store the record.
    Held,
    /// They store a larger one, of this rank.
    Larger(Rank),
    /// Too few nodes of the other family were reached.
    Failed,
}

/// The PUT that passes its record on.
impl Node {
    /// Prepares the lookup of the next attempt of a PUT: in which overlay it is, and whether the nodes of the
    /// other family must get the record as well.
    pub(super) fn plan_relay(&mut self, now: Now, query: QueryId) {
        let Some(put) = self.queries.put(query).filter(|put| !put.is_relay()) else { return };
        let key = put.key();
        let way = self.way_across(now, &key, &[]);
        if let Some(put) = self.queries.put(query) {
            // A bridge stores the record in each family separately, because no node of one family is a
            // replica for the other.
            put.overlay = (way == WayAcross::Own).then_some(Family::V4);
            put.relay.plan(way != WayAcross::None);
        }
    }

    /// Takes the next step to get the record of a PUT to the other family.
    pub(super) fn relay_put(&mut self, now: Now, attempt: Attempt, out: &mut Actions) {
        let Some(put) = self.queries.spreading(attempt) else { return };
        let (key, tried) = (put.key(), put.relay.tried().to_vec());
        match self.way_across(now, &key, &tried) {
            WayAcross::Own => self.relay_here(now, attempt, out),
            WayAcross::Through(bridge, family) => {
                if let Some(put) = self.queries.spreading(attempt) {
                    put.relay.ask(Some(bridge.id));
                }
                self.call(now, bridge, Purpose::Relay(attempt, family), out);
            }
            WayAcross::Sought => {
                self.queries.spreading(attempt).into_iter().for_each(|put| put.relay.ask(None));
                self.seek_bridges(now, out);
            }
            WayAcross::None => self.queries.spreading(attempt).into_iter().for_each(|put| put.relay.done()),
        }
    }

    /// Stores the record of a PUT of this node, which is a bridge, in the other family too.
    fn relay_here(&mut self, now: Now, attempt: Attempt, out: &mut Actions) {
        let me = self.me.id;
        let Some(put) = self.queries.spreading(attempt) else { return };
        put.relay.ask(Some(me));
        let (record, expires) = (put.record.clone(), put.expires);
        self.begin_relay(now, record, expires, RelayFor::Put(attempt), Family::V6, out);
    }

    /// Writes the RELAY of an attempt. `false` if that attempt has ended.
    pub(crate) fn write_relay(
        &mut self,
        now: Now,
        conn: ConnId,
        rpc: RpcId,
        attempt: Attempt,
        family: Family,
        out: &mut Actions,
    ) -> bool {
        let Some(put) = self.queries.attempt(attempt) else { return false };
        let record = block_of(&put.record, put.expires, now.mono);
        let request = Request::Relay { family, record };
        out.send(conn, &PeerMessage::Request(rpc, request), Some(put.record.value.clone()));
        true
    }

    /// A bridge has answered a RELAY, or has not.
    pub(crate) fn on_relay_outcome(&mut self, now: Now, attempt: Attempt, report: Report<'_>, out: &mut Actions) {
        let (to, begun) = (report.call.to, report.call.begun);
        let bridge = to.id;
        let is_late = matches!(report.outcome, Outcome::Passed(Passed::GiveUp));
        let relayed = match report.outcome {
            Outcome::Reply { reply: Reply::Stored { outcome: StoreOutcome::Held, .. }, .. } => Relayed::Held,
            Outcome::Reply { reply: Reply::Stored { held, .. }, .. } => Relayed::Larger(held),
            Outcome::Passed(Passed::Hedge) => return,
            Outcome::Reply { .. } | Outcome::Refused(_) | Outcome::Failed | Outcome::Passed(_) => Relayed::Failed,
        };
        if let Outcome::Reply { reply: Reply::Error(ErrorCode::OUT_OF_SCOPE), .. } = report.outcome {
            self.not_a_bridge(now, &bridge, out);
        } else if relayed == Relayed::Failed {
            self.bridge_failed(now, &bridge, begun, out);
        } else {
            self.bridge_served(&bridge);
        }
        if is_late && !self.peers.heard_since(&bridge, report.call.since) {
            self.ping(now, to, out);
        }
        let ended = if is_late { BridgeEnded::Late } else { BridgeEnded::Failed };
        self.relay_answered(now, attempt, bridge, (relayed, ended), out);
    }

    /// `bridge`, which may be this node, has done its part of an attempt, or has failed to.
    fn relay_answered(
        &mut self,
        now: Now,
        attempt: Attempt,
        bridge: NodeId,
        (relayed, ended): (Relayed, BridgeEnded),
        out: &mut Actions,
    ) {
        let Some(put) = self.queries.spreading(attempt) else { return };
        match relayed {
            Relayed::Held => put.relay.done(),
            Relayed::Larger(by) if put.record.class == Class::Plain && may_supersede(now, by, &put.record) => {
                return self.met_larger(now, attempt.query, by, out);
            }
            // One node that claims a larger signed record proves nothing.
            Relayed::Larger(_) | Relayed::Failed => put.relay.ended(&bridge, ended),
        }
        self.advance_put(now, attempt.query, out);
    }

    /// A bridge was found: the PUTs that miss one ask it, or begin their next attempt at once.
    pub(crate) fn resume_relays(&mut self, now: Now, out: &mut Actions) {
        for query in self.queries.missing_bridge() {
            let Some(put) = self.queries.put(query) else { continue };
            if put.is_spreading() {
                put.relay.found();
                self.advance_put(now, query, out);
            } else if self.timers.is_set(Timer::Retry(query)) {
                self.timers.hasten(Timer::Retry(query), now.mono);
            }
        }
    }

    /// `bridge` is lost: the PUTs that wait for a late answer of it go on.
    pub(crate) fn relays_failed(&mut self, now: Now, bridge: &NodeId, out: &mut Actions) {
        for attempt in self.queries.waiting_for_bridge(bridge) {
            self.relay_answered(now, attempt, *bridge, (Relayed::Failed, BridgeEnded::Failed), out);
        }
    }
}

/// The second PUT.
impl Node {
    /// Serves a RELAY: checks the record, and starts a PUT in `family`. It is answered when that has ended.
    pub(crate) fn serve_relay(
        &mut self,
        now: Now,
        caller: &Caller,
        family: Family,
        block: &RecordBlock<'_>,
        out: &mut Actions,
    ) {
        match self.relayable(now, block) {
            Ok((record, expires)) => {
                if self.storage.find(now.mono, &record.key).is_some() {
                    // It may not be among the nearest nodes, and would keep an older record otherwise.
                    self.hold(now, record.clone(), expires, self.source_at(caller.conn));
                }
                self.begin_relay(now, record, expires, RelayFor::Peer(*caller), family, out);
            }
            Err(code) => out.reply_to(caller, Reply::Error(code)),
        }
    }

    /// The record of a RELAY and the end of its life, or why this node does not pass it on.
    fn relayable(&self, now: Now, block: &RecordBlock<'_>) -> Result<(Record, Time), ErrorCode> {
        if self.params.serving == Serving::No || !self.status.has_joined() || !self.spans_families() {
            return Err(ErrorCode::OUT_OF_SCOPE);
        }
        if !self.queries.relays().is_below(RELAYS_MAX, RELAY_BYTES_MAX) {
            return Err(ErrorCode::TOO_MANY);
        }
        if self.is_too_early(now, block.version) {
            return Err(ErrorCode::TOO_EARLY);
        }
        let end = end_of_life(now, block.ttl, block.age, block.class, block.version);
        let expires = end.ok_or(ErrorCode::GONE)?;
        verify(&block.key, block.class, block.version, block.ttl, block.value())
            .map_err(|_| ErrorCode::NOT_VERIFIED)?;
        Ok((block.to_record().ok_or(ErrorCode::MALFORMED)?, expires))
    }

    fn begin_relay(
        &mut self,
        now: Now,
        record: Record,
        expires: Time,
        to_answer: RelayFor,
        family: Family,
        out: &mut Actions,
    ) {
        let mut put = Put::new(None, record, expires, PutOrigin::Relay(to_answer), PUT_RETRY_PAUSE);
        put.overlay = Some(family);
        put.is_latest = false; // the version belongs to another node
        let query = self.queries.insert(Query::Put(Box::new(put)));
        self.look_up_replicas(now, query, out);
    }

    /// If `query` is a second PUT, it has ended in this way, and is answered. Returns whether it is one.
    pub(super) fn relay_done(&mut self, now: Now, query: QueryId, relayed: Relayed, out: &mut Actions) -> bool {
        let Some(put) = self.queries.put(query) else { return false };
        let (PutOrigin::Relay(to_answer), key, held) = (put.origin, put.key(), put.record.rank()) else {
            return false;
        };
        self.end_query(query);
        match to_answer {
            RelayFor::Put(attempt) => {
                let me = self.me.id;
                self.relay_answered(now, attempt, me, (relayed, BridgeEnded::Failed), out);
            }
            RelayFor::Peer(caller) => out.reply_to(
                &caller,
                match relayed {
                    Relayed::Held => Reply::Stored { key, outcome: StoreOutcome::Held, held },
                    Relayed::Larger(held) => Reply::Stored { key, outcome: StoreOutcome::Larger, held },
                    Relayed::Failed => Reply::Error(ErrorCode::SERVER_ERROR),
                },
            ),
        }
        true
    }
}
