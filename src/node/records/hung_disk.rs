//! A disk that hangs: a write that takes long would block all that wait for it.
//!
//! Peers that have sent a copy, and PUTs of this node, wait until their record is saved. If none of them gets an answer
//! for `rpc_timeout`, the disk *hangs*. If nobody waits, it hangs when a batch takes longer than `rpc_timeout`.
//!
//! While the disk hangs, nobody waits: this node answers a peer by ERROR 507, and its PUTs go on with other nodes. Unlike
//! the records that a failing disk refuses, these stay in memory and are served from there, so this node misses none. They
//! are written when the disk works again. When as many are unsaved as there is room for, this node refuses new records,
//! like one whose disk fails.
//!
//! Without this, a peer would wait for more and more answers, until it could send no newer record to this node.

use log::{info, warn};

use crate::node::Node;
use crate::node::action::Actions;
use crate::node::params::Durability;
use crate::node::persisted::Saved;
use crate::node::records::changes::Waiter;
use crate::node::records::persistence::Disk;
use crate::node::timers::Timer;
use crate::time::Now;
use crate::wire::peer::{ErrorCode, Reply};

impl Node {
    /// Somebody waits for the disk, or a batch has left.
    pub(super) fn watch_disk(&mut self, now: Now) {
        if !self.timers.is_set(Timer::Disk) {
            self.timers.set(Timer::Disk, now.mono + self.params.rpc_timeout);
        }
    }

    /// `answered` of those that waited for the disk get an answer.
    pub(super) fn disk_answered(&mut self, now: Now, answered: usize) {
        if answered > 0 || self.saving.waiters == 0 {
            self.timers.cancel(Timer::Disk);
        }
        if self.saving.waiters > 0 {
            self.watch_disk(now);
        }
    }

    /// A batch has ended. While all is written again after a loss, what waits for that still hangs.
    pub(super) fn note_disk(&mut self, saved: Saved) {
        let before = self.saving.disk;
        let still_hangs = before == Disk::Hangs && self.saving.is_writing_again;
        self.saving.disk = match saved {
            Saved::Failed if self.params.durability != Durability::None => Disk::Fails,
            _ if still_hangs => Disk::Hangs,
            _ => Disk::Works,
        };
        if before == Disk::Hangs && self.saving.disk == Disk::Works {
            info!("the disk does not hang any more");
        }
    }

    /// Nobody who waits for the disk has got an answer for long.
    pub(crate) fn disk_hangs(&mut self, now: Now, out: &mut Actions) {
        let saving = &mut self.saving;
        let held_back = saving.held_back.drain(..).map(|(key, waiter, _)| (key, waiter));
        let in_flight = saving.in_flight.as_mut().map(|batch| std::mem::take(&mut batch.waiting));
        let waiting = in_flight.into_iter().flatten().chain(held_back).chain(saving.changes.take_waiters());
        let waiting: Vec<_> = waiting.map(|(_, waiter)| waiter).collect();
        saving.waiters = 0;
        saving.disk = Disk::Hangs;
        let (waited, after) = (waiting.len(), self.params.rpc_timeout);
        warn!(
            "the disk hangs for={after:?} waited={waited} effect=\"new records are kept, but not confirmed, until it works\""
        );
        for waiter in waiting {
            match waiter {
                Waiter::Own(attempt) => self.own_copy_written(now, attempt, None, Saved::Failed, out),
                Waiter::Copy(caller, _) => out.reply_to(&caller, Reply::Error(ErrorCode::FULL)),
            }
        }
    }
}
