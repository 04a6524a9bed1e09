//! Answering peers: what they ask is given, or refused with a reason. Source: `PROTOCOL.md` 2.
//!
//! Each request is answered at once, in one message, whoever asks; nothing here keeps state
//! between two requests but the records themselves.

use crate::id::{Key, NodeId, RpcId};
use crate::limits::K_MAX;
use crate::node::Node;
use crate::node::action::{Actions, ConnId};
use crate::node::params::Serving;
use crate::node::records::persistence::{OnDisk, Waiter};
use crate::node::rpc::outbound::block_of;
use crate::record::envelope::verify;
use crate::record::{Age, Class, Rank, Source, Ttl, Version, end_of_life};
use crate::storage::{Judgement, Stored};
use crate::time::Now;
use crate::wire::codec::List;
use crate::wire::peer::{Content, ErrorCode, PeerMessage, RecordBlock, Reply, Request, StoreOutcome, Want};

impl Node {
    /// Answers `request` of `from` over `conn`.
    pub(crate) fn serve(
        &mut self,
        now: Now,
        conn: ConnId,
        from: &NodeId,
        rpc: RpcId,
        request: Request<'_>,
        out: &mut Actions,
    ) {
        self.counters.rpcs_served += 1;
        if self.status.is_leaving() {
            return out.send(conn, &error(rpc, ErrorCode::LEAVING), None);
        }
        match request {
            Request::Ping => out.send(conn, &PeerMessage::Reply(rpc, Reply::Pong), None),
            Request::FindNode { target } => self.give_nodes(conn, from, rpc, &target, out),
            Request::FindValue { key, want } => self.give_value(now, conn, from, rpc, &key, want, out),
            Request::Store(block) => {
                self.take_copy(now, conn, rpc, &block, out);
                if self.peers.contact_at(conn).is_some() {
                    self.on_replica(now, &block.key, block.rank(), from);
                }
            }
            Request::Offer(entries) => self.take_offer(now, conn, from, rpc, entries, out),
            Request::Sync { from, to } if from == to => self.tell_entry(now, conn, rpc, from, out),
            Request::Sync { from, to } => self.tell_page(now, conn, rpc, from..=to, out),
        }
    }

    fn give_nodes(&mut self, conn: ConnId, to: &NodeId, rpc: RpcId, target: &Key, out: &mut Actions) {
        self.nearest_for(to, target);
        out.send(conn, &PeerMessage::Reply(rpc, Reply::Nodes(List::lend(&self.nearby))), None);
    }

    /// Gathers the k contacts nearest to `target`, but for the one who asks.
    fn nearest_for(&mut self, asker: &NodeId, target: &Key) {
        let k = self.params.k;
        self.table.closest(target, k + 1, &mut self.nearby);
        self.nearby.retain(|contact| contact.id != *asker);
        self.nearby.truncate(k.min(K_MAX));
    }

    #[expect(clippy::too_many_arguments, reason = "one request and where its answer goes")]
    fn give_value(
        &mut self,
        now: Now,
        conn: ConnId,
        to: &NodeId,
        rpc: RpcId,
        key: &Key,
        want: Want,
        out: &mut Actions,
    ) {
        if want.contacts || self.storage.find(now.mono, key).is_none() {
            self.nearest_for(to, key);
        }
        let held = self.storage.find(now.mono, key);
        let over = self.storage.tombstone(now.mono, key).and_then(|tombstone| tombstone.plain);
        let (record, value) = match (held, over) {
            (Some(held), _) if want.head_only => {
                (RecordBlock { content: Content::Head, ..block_of(&held.record, held.expires, now.mono) }, None)
            }
            (Some(held), _) => (block_of(&held.record, held.expires, now.mono), Some(held.record.value.clone())),
            (None, Some(version)) => (tombstone_block(*key, version), None),
            (None, None) => {
                let nodes = Reply::Nodes(List::lend(&self.nearby));
                return out.send(conn, &PeerMessage::Reply(rpc, nodes), None);
            }
        };
        // No search ends with a tombstone: it is given contacts whether it wants them or not.
        let named = want.contacts || held.is_none();
        let contacts = List::lend(if named { &self.nearby[..] } else { &[] });
        out.send(conn, &PeerMessage::Reply(rpc, Reply::Value { contacts, record }), value);
    }

    fn take_copy(&mut self, now: Now, conn: ConnId, rpc: RpcId, block: &RecordBlock<'_>, out: &mut Actions) {
        let reply = match self.store_copy(now, block, self.source_at(conn)) {
            Ok(rank) => {
                let waits = self.wait_for_disk(now, block.key, Waiter::Copy(conn, rpc, rank));
                if waits == OnDisk::Later {
                    return;
                }
                Reply::Stored { key: block.key, outcome: StoreOutcome::Held, held: rank }
            }
            Err(NotStored::Larger(held)) => Reply::Stored { key: block.key, outcome: StoreOutcome::Larger, held },
            Err(NotStored::Refused(code)) => Reply::Error(code),
        };
        out.send(conn, &PeerMessage::Reply(rpc, reply), None);
    }

    /// Holds a copy that a peer handed to this node, and returns its rank, or says why not: the
    /// cheap reasons first, the signature last. What is held already, or over, costs none.
    pub(crate) fn store_copy(&mut self, now: Now, block: &RecordBlock<'_>, source: Source) -> Result<Rank, NotStored> {
        if self.params.serving == Serving::No {
            return Err(NotStored::Refused(ErrorCode::OUT_OF_SCOPE));
        }
        if block.version.is_too_early(now.wall) {
            return Err(NotStored::Refused(ErrorCode::TOO_EARLY));
        }
        let end = end_of_life(now, block.ttl, block.age, block.class, block.version);
        let expires = end.ok_or(NotStored::Refused(ErrorCode::GONE))?;
        if !self.may_hold(now, &block.key) {
            return Err(NotStored::Refused(ErrorCode::OUT_OF_SCOPE));
        }
        if self.saving.is_failing() {
            return Err(NotStored::Refused(ErrorCode::FULL));
        }
        if self.saving.is_full() {
            return Err(NotStored::Refused(ErrorCode::TOO_MANY));
        }
        let rank = block.rank();
        match self.storage.judge(now.mono, &block.key, rank, block.ttl, block.value()) {
            Judgement::Settled(stored) => return outcome(stored, rank),
            Judgement::Proven => {}
            Judgement::Unproven => verify(&block.key, block.class, block.version, block.ttl, block.value())
                .map_err(|_| NotStored::Refused(ErrorCode::NOT_VERIFIED))?,
        }
        let record = block.to_record().ok_or(NotStored::Refused(ErrorCode::MALFORMED))?;
        outcome(self.hold(now, record, expires, source), rank)
    }
}

/// Why a copy is not held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotStored {
    /// A larger record is.
    Larger(Rank),
    /// It is refused.
    Refused(ErrorCode),
}

/// What became of a copy of this rank, as its sender is told.
fn outcome(stored: Stored, rank: Rank) -> Result<Rank, NotStored> {
    match stored {
        Stored::Held => Ok(rank),
        Stored::Larger(held) => Err(NotStored::Larger(held)),
        Stored::Over => Err(NotStored::Refused(ErrorCode::GONE)),
        Stored::Full => Err(NotStored::Refused(ErrorCode::FULL)),
    }
}

/// How `version` of `key`, which was plain and is over, is told to whoever asks for it.
fn tombstone_block(key: Key, version: Version) -> RecordBlock<'static> {
    RecordBlock {
        ttl: Ttl::from_secs(1).expect("not zero"),
        replication: 1,
        class: Class::Plain,
        key,
        version,
        age: Age(1_000),
        crc: 0,
        content: Content::Tombstone,
    }
}

fn error(rpc: RpcId, code: ErrorCode) -> PeerMessage<'static> {
    PeerMessage::Reply(rpc, Reply::Error(code))
}
