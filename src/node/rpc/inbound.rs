//! Requests of peers: each is answered, or refused with an error code. Source: `PROTOCOL.md` 2.
//!
//! Each request gets one reply at once, except a STORE that waits for the disk. The answer depends on the
//! request and the state of this node, not on the peer: nothing is remembered of it between two requests.

use crate::id::Key;
use crate::limits::K_MAX;
use crate::node::Node;
use crate::node::action::{Actions, Caller};
use crate::node::records::changes::Waiter;
use crate::node::records::persistence::OnDisk;
use crate::node::rpc::outbound::block_of;
use crate::record::envelope::verify;
use crate::record::{Age, Class, Rank, Source, Ttl, Version, end_of_life};
use crate::storage::{Judgement, Stored};
use crate::time::Now;
use crate::wire::codec::List;
use crate::wire::peer::{Content, ErrorCode, PeerMessage, RecordBlock, Reply, Request, StoreOutcome, Want};

impl Node {
    /// Answers `request` of `caller`.
    pub(crate) fn serve(&mut self, now: Now, caller: &Caller, request: Request<'_>, out: &mut Actions) {
        self.counters.rpcs_served += 1;
        if self.status.is_leaving() {
            return out.reply_to(caller, Reply::Error(ErrorCode::LEAVING));
        }
        match request {
            Request::Ping => out.reply_to(caller, Reply::Pong),
            Request::Time => {
                out.reply_to(caller, Reply::Time(now.wall));
                self.was_asked_for_time(now, &caller.id);
            }
            Request::Relay { family, record } => self.serve_relay(now, caller, family, &record, out),
            Request::FindNode { target } => {
                self.nearest_for(caller, &target);
                out.reply_to(caller, Reply::Nodes(List::lend(&self.nearby)));
            }
            // A value that this node stores may be old. The caller asks again.
            Request::FindValue { want, .. } if self.sleep.is_behind() && !want.catching_up => {
                out.reply_to(caller, Reply::Error(ErrorCode::TOO_MANY));
            }
            Request::FindValue { key, want } => self.send_value(now, caller, &key, want, out),
            Request::Store(block) => {
                if self.wanted.arrived(&block.key, &caller.id) {
                    self.settle_later(now); // this node had missed it
                }
                self.serve_store(now, caller, &block, out);
                if self.peers.contact_at(caller.conn).is_some() {
                    self.on_replica(now, &block.key, block.rank(), &caller.id);
                }
            }
            Request::Offer(entries) => self.serve_offer(now, caller, entries, out),
            Request::Sync { from, to } if from == to => self.send_entry(now, caller, from, out),
            Request::Sync { from, to } => self.send_page(now, caller, from..=to, out),
        }
    }

    /// Gathers the k contacts nearest to `target` that the asker can dial, without the asker itself.
    fn nearest_for(&mut self, asker: &Caller, target: &Key) {
        let k = self.params.k;
        self.gather_nearest(target, k + 1, self.single_family_of(asker.conn));
        self.nearby.retain(|contact| contact.id != asker.id);
        self.nearby.truncate(k.min(K_MAX));
    }

    fn send_value(&mut self, now: Now, caller: &Caller, key: &Key, want: Want, out: &mut Actions) {
        // PUTs may have replaced the record at closer nodes: the asker has to hear of these.
        let is_tentative = self.is_tentative(key);
        let wants_contacts = want.contacts || is_tentative;
        if wants_contacts || self.storage.find(now.mono, key).is_none() {
            self.nearest_for(caller, key);
        }
        let (held, tombstone) = self.storage.known(now, key);
        let held = held.filter(|held| !self.set_aside.is_outdated(&held.record));
        let (record, value) = match (held, tombstone.and_then(|tombstone| tombstone.plain)) {
            (Some(held), _) if want.head_only => {
                (RecordBlock { content: Content::Head, ..block_of(&held.record, held.expires, now.mono) }, None)
            }
            (Some(held), _) => (block_of(&held.record, held.expires, now.mono), Some(held.record.value.clone())),
            (None, Some(version)) => (tombstone_block(*key, version), None),
            (None, None) => return out.reply_to(caller, Reply::Nodes(List::lend(&self.nearby))),
        };
        // No lookup ends with a tombstone, so the reply carries contacts in any case.
        let with_contacts = wants_contacts || held.is_none();
        let contacts = List::lend(if with_contacts { &self.nearby[..] } else { &[] });
        let is_tentative = is_tentative && self.peers.knows_tentative(caller.conn);
        out.send(caller.conn, &PeerMessage::Reply(caller.rpc, Reply::Value { contacts, is_tentative, record }), value);
    }

    fn serve_store(&mut self, now: Now, caller: &Caller, block: &RecordBlock<'_>, out: &mut Actions) {
        let (key, held) = (block.key, block.rank());
        let reply = match self.store_copy(now, block, self.source_at(caller.conn)) {
            Ok(()) if self.saves_first(true) => match self.save_first(now, key, Waiter::Copy(*caller, held)) {
                OnDisk::Now => Reply::Stored { key, outcome: StoreOutcome::Held, held },
                OnDisk::Soon => return,
                OnDisk::Late => Reply::Error(ErrorCode::FULL),
            },
            Ok(()) => Reply::Stored { key, outcome: StoreOutcome::Held, held },
            Err(NotStored::Larger(held)) => Reply::Stored { key, outcome: StoreOutcome::Larger, held },
            Err(NotStored::Refused(code)) => Reply::Error(code),
        };
        out.reply_to(caller, reply);
    }

    /// Stores a copy that a peer has sent. Cheap checks come first, the signature last: no signature is
    /// verified for a record that this node already stores or that has ended.
    pub(crate) fn store_copy(&mut self, now: Now, block: &RecordBlock<'_>, source: Source) -> Result<(), NotStored> {
        if self.is_too_early(now, block.version) {
            self.note_early(now, block);
            return Err(ErrorCode::TOO_EARLY.into());
        }
        let end = end_of_life(now, block.ttl, block.age, block.class, block.version);
        let expires = end.ok_or(ErrorCode::GONE)?;
        if let Err(code) = self.accepts(now, &block.key) {
            self.note_missed(now, &block.key, block.rank());
            return Err(code.into());
        }
        match self.storage.judge(now, &block.key, block.rank(), block.ttl, block.value()) {
            Judgement::Settled(stored) => return result_of(stored),
            Judgement::Proven => {}
            Judgement::Unproven => verify(&block.key, block.class, block.version, block.ttl, block.value())
                .map_err(|_| ErrorCode::NOT_VERIFIED)?,
        }
        let record = block.to_record().ok_or(ErrorCode::MALFORMED)?;
        result_of(self.hold(now, record, expires, source))
    }
}

/// Versions too far ahead.
impl Node {
    /// This node refuses `block` as too far ahead. If either its own clock or the peers say otherwise, the record is
    /// real.
    #[cold]
    fn note_early(&mut self, now: Now, block: &RecordBlock<'_>) {
        if !block.version.is_too_early(now.wall) {
            return self.note_missed(now, &block.key, block.rank());
        }
        let is_held = self.storage.find(now.mono, &block.key).is_some();
        let is_real = || {
            block.class == Class::Plain
                || verify(&block.key, block.class, block.version, block.ttl, block.value()).is_ok()
        };
        if is_held && self.is_possible_for_peers(now, block.version) && is_real() {
            self.note_newer(now, &block.key, block.rank());
        }
    }
}

/// Why a copy is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotStored {
    /// A larger record is stored, of this rank.
    Larger(Rank),
    /// This node refuses it.
    Refused(ErrorCode),
}

impl From<ErrorCode> for NotStored {
    fn from(code: ErrorCode) -> Self {
        NotStored::Refused(code)
    }
}

fn result_of(stored: Stored) -> Result<(), NotStored> {
    match stored {
        Stored::Held => Ok(()),
        Stored::Larger(held) => Err(NotStored::Larger(held)),
        Stored::Over => Err(ErrorCode::GONE.into()),
        Stored::Full => Err(ErrorCode::FULL.into()),
    }
}

/// Tombstone record block for an ended plain `version`.
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
