//! Leaving: the node answers the requests of its clients, hands records that few other nodes store to the
//! nearest live nodes, and writes its changes to disk; then it says GOODBYE.
//!
//! It leaves as soon as nothing of this is left, and within `leave_timeout` in any case. Without a live contact
//! it hands nothing over. It does not guarantee that all records are handed over in time.
//!
//! At `leave_timeout` a GET whose lookup has not ended is answered with the record of this node, or with
//! FAILURE: the lookup ends with the node, and the client is owed one answer (`PROTOCOL.md` 1, rule 2).

use log::info;

use crate::node::Node;
use crate::node::action::Actions;
use crate::node::rpc::peers::Ending;
use crate::node::status::Status;
use crate::node::timers::Timer;
use crate::time::Now;
use crate::wire::peer::PeerMessage;

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
        for timer in [Timer::Join, Timer::Refresh, Timer::Watch, Timer::Settle, Timer::Sync] {
            self.timers.cancel(timer);
        }
        self.syncing.end();
        self.offer_before_leaving(now);
        self.save(now, out);
        self.leave_if_done(now, out);
    }

    /// Leaves if no client waits, nothing is left to hand over, and all changes are on disk.
    pub(crate) fn leave_if_done(&mut self, now: Now, out: &mut Actions) {
        if self.queries.clients() == 0 && !self.is_replicating() && self.saving.is_done() {
            self.go(now, out);
        }
    }

    /// Answers all clients with what it knows now, says GOODBYE to all peers, and has left.
    pub(crate) fn go(&mut self, now: Now, out: &mut Actions) {
        self.status = Status::Left;
        for query in self.queries.ids() {
            self.answer_in_time(now, query, out);
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
