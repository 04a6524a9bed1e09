//! Leaving: the node answers the requests of its clients, hands its records over to the nodes that stay, and
//! writes its changes to disk; then it says GOODBYE.
//!
//! What other nodes were known to store counts for nothing: they may be leaving too. So the node offers each
//! record to as many of the nearest live contacts as the record needs replicas. A contact counts as a replica
//! when it has acknowledged the copy, or does not want it because it stores the record already. A node that is
//! leaving refuses requests by ERROR 503 and is no contact any more. If any contact has wanted a record, has
//! refused one, or is lost, the node offers all records again, until all contacts have all of them.
//!
//! It leaves as soon as nothing of this is left, and within `leave_timeout` in any case; without a live contact
//! it hands nothing over. It does not guarantee that all records are handed over in time: it counts those that
//! are neither handed over nor on disk ([`Node::lost_records`]).
//!
//! At `leave_timeout` a GET whose lookup has not ended is answered with the record of this node, or with
//! FAILURE: the lookup ends with the node, and the client is owed one answer (`PROTOCOL.md` 1, rule 2).

use std::time::Duration;

use log::info;

use crate::node::Node;
use crate::node::action::Actions;
use crate::node::params::Durability;
use crate::node::replication::schedule::HandOver;
use crate::node::rpc::peers::Ending;
use crate::node::status::Status;
use crate::node::timers::Timer;
use crate::time::Now;
use crate::wire::peer::PeerMessage;

/// The pause before all records are offered again because a contact refused some, or did not answer.
const HAND_OVER_PAUSE: Duration = Duration::from_millis(200);

/// Leaving.
impl Node {
    /// Begins to leave: the node answers its clients, says GOODBYE, and ends within `leave_timeout`.
    pub fn leave(&mut self, now: Now, out: &mut Actions) {
        if self.status.is_leaving() {
            return;
        }
        info!("leaving owed={}", self.queries.clients());
        self.status = Status::Leaving;
        self.timers.set(Timer::Leave, now.mono + self.params.leave_timeout);
        for timer in [Timer::Join, Timer::Refresh, Timer::Watch, Timer::Settle, Timer::Sync, Timer::Heartbeat] {
            self.timers.cancel(timer);
        }
        self.syncing.end();
        self.storage.forget_replicas();
        self.offer_before_leaving(now, Duration::ZERO);
        self.save_before_leaving(now, out);
        self.leave_if_done(now, out);
    }

    /// Leaves if no client waits, nothing is left to hand over, and all changes are on disk.
    pub(crate) fn leave_if_done(&mut self, now: Now, out: &mut Actions) {
        if self.is_replicating() {
            return;
        }
        let hand_over = self.take_hand_over();
        if hand_over != HandOver::Complete && self.table.live() > 0 {
            let pause = if hand_over == HandOver::Refused { HAND_OVER_PAUSE } else { Duration::ZERO };
            return self.offer_before_leaving(now, pause);
        }
        if self.queries.clients() == 0 && self.saving.is_done() {
            self.go(now, out);
        }
    }

    /// The number of records that this node stored when it left, and that are neither acknowledged by another
    /// node nor on disk, although they should be. 0 until it has left.
    pub fn lost_records(&self) -> usize {
        self.lost_records
    }

    /// Counts the records that no other node has acknowledged, and those among them that are not on disk. With
    /// `durability = none` no record is on disk, as the operator wants it.
    fn count_left_records(&mut self) {
        let persists = self.params.durability != Durability::None;
        let (mut records, mut here_only, mut unsaved) = (0, 0, 0);
        for held in self.storage.walk(None) {
            let is_here_only = held.heard_from() == 0;
            records += 1;
            here_only += usize::from(is_here_only);
            unsaved += usize::from(is_here_only && (!persists || self.saving.is_unsaved(&held.record.key)));
        }
        info!("left handed_over={} on_disk_only={} unsaved={unsaved}", records - here_only, here_only - unsaved);
        if persists {
            self.lost_records = unsaved;
        }
    }

    /// Answers all clients with what it knows now, says GOODBYE to all peers, and has left.
    pub(crate) fn go(&mut self, now: Now, out: &mut Actions) {
        self.status = Status::Left;
        self.count_left_records();
        for query in self.queries.ids() {
            self.answer_in_time(now, query, out);
        }
        for query in self.queries.ids() {
            self.end_query(query);
        }
        for conn in self.peers.reached() {
            out.send(conn, &PeerMessage::Goodbye, None);
        }
        let all: Vec<_> = self.peers.ids().collect();
        for conn in all {
            self.hang_up(now, conn, Ending::Closed, out);
        }
        for timer in [Timer::Leave, Timer::Replicate] {
            self.timers.cancel(timer);
        }
    }
}
