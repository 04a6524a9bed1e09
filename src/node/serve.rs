//! Answering peers: what they ask is given, or refused with a reason. Source: `PROTOCOL.md` 2.
//!
//! Each request is answered at once, in one message, whoever asks; nothing here keeps state
//! between two requests but the records themselves.

use crate::id::{Key, NodeId, RpcId};
use crate::limits::K_MAX;
use crate::node::Node;
use crate::node::action::{Actions, ConnId};
use crate::node::ask::block_of;
use crate::node::params::Serving;
use crate::record::{Class, Record, end_of_life};
use crate::storage::Stored;
use crate::time::Now;
use crate::wire::codec::List;
use crate::wire::peer::{Content, ErrorCode, PeerMessage, RecordBlock, Reply, Request, StoreOutcome, Want};

impl Node {
    /// Answers `request` of `from` over `conn`.
    pub(super) fn serve(
        &mut self,
        now: Now,
        conn: ConnId,
        from: &NodeId,
        rpc: RpcId,
        request: Request<'_>,
        out: &mut Actions,
    ) {
        self.counters.rpcs_served += 1;
        if self.is_leaving() {
            return out.send(conn, &error(rpc, ErrorCode::LEAVING), None);
        }
        match request {
            Request::Ping => out.send(conn, &PeerMessage::Reply(rpc, Reply::Pong), None),
            Request::FindNode { target } => self.give_nodes(conn, from, rpc, &target, out),
            Request::FindValue { key, want } => self.give_value(now, conn, from, rpc, &key, want, out),
            Request::Store(block) => self.take_copy(now, conn, rpc, &block, out),
            // Versions are not exchanged yet: "no such service" rather than a wrong list.
            Request::Offer(_) | Request::Sync { .. } => {
                out.send(conn, &error(rpc, ErrorCode::SERVER_ERROR), None);
            }
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
        let Some(held) = self.storage.find(now.mono, key) else {
            return out.send(conn, &PeerMessage::Reply(rpc, Reply::Nodes(List::lend(&self.nearby))), None);
        };
        let mut block = block_of(&held.record, held.expires, now.mono);
        let value = if want.head_only {
            block.content = Content::Head;
            None
        } else {
            Some(held.record.value.clone())
        };
        let contacts = List::lend(if want.contacts { &self.nearby[..] } else { &[] });
        out.send(conn, &PeerMessage::Reply(rpc, Reply::Value { contacts, record: block }), value);
    }

    fn take_copy(&mut self, now: Now, conn: ConnId, rpc: RpcId, block: &RecordBlock<'_>, out: &mut Actions) {
        let reply = match self.store_copy(now, block) {
            Ok(reply) => reply,
            Err(code) => Reply::Error(code),
        };
        out.send(conn, &PeerMessage::Reply(rpc, reply), None);
    }

    /// Holds a copy that a peer handed to this node, or says why not; the cheap reasons first.
    fn store_copy(&mut self, now: Now, block: &RecordBlock<'_>) -> Result<Reply<'static>, ErrorCode> {
        if self.params.serving == Serving::No {
            return Err(ErrorCode::OUT_OF_SCOPE);
        }
        if block.class != Class::Plain {
            return Err(ErrorCode::NOT_VERIFIED);
        }
        if block.version.is_too_early(now.wall) {
            return Err(ErrorCode::TOO_EARLY);
        }
        let expires = end_of_life(now, block.ttl, block.age, block.class, block.version).ok_or(ErrorCode::GONE)?;
        // Twice k, so that nodes whose tables differ a little agree on who may hold it.
        if self.is_settled() && !self.table.fewer_closer(&block.key, 2 * self.params.k) {
            return Err(ErrorCode::OUT_OF_SCOPE);
        }
        let record = Record {
            key: block.key,
            class: block.class,
            version: block.version,
            ttl: block.ttl,
            replication: block.replication.min(u8::try_from(K_MAX).expect("K_MAX is a byte")),
            check: block.check,
            value: block.value().into(),
        };
        let (key, rank) = (record.key, record.rank());
        match self.storage.store(now.mono, record, expires) {
            Stored::Held => Ok(Reply::Stored { key, outcome: StoreOutcome::Held, held: rank }),
            Stored::Larger(held) => Ok(Reply::Stored { key, outcome: StoreOutcome::Larger, held }),
            Stored::Over => Err(ErrorCode::GONE),
            Stored::Full => Err(ErrorCode::FULL),
        }
    }
}

fn error(rpc: RpcId, code: ErrorCode) -> PeerMessage<'static> {
    PeerMessage::Reply(rpc, Reply::Error(code))
}
