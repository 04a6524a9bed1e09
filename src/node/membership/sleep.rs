//! Sleep: the process was stopped, or its host was suspended, for seconds or hours.
//!
//! Other nodes wrote records meanwhile, and this node did not receive its copies. No message tells it so, and
//! its connections may still be open. So it sets a timer every [`HEARTBEAT`]. If a call of the host comes more than
//! [`STALL_MAX`] after that moment, the node has slept, and synchronizes with its neighbours before it answers
//! GETs from its storage alone ([`crate::node::replication::sync`]). Until then it answers lookups of values by
//! ERROR 429: two nodes that slept together would agree on old records. It answers SYNC, so that nodes that all
//! slept catch up with each other.
//!
//! Guarantee: a sleep of [`HEARTBEAT`] + [`STALL_MAX`] is noticed before the first answer; stalls below
//! [`STALL_MAX`] have no effect.

use std::time::Duration;

use log::info;

use crate::node::Node;
use crate::node::action::Actions;
use crate::node::params::Serving;
use crate::node::timers::Timer;
use crate::time::{Now, Time};

/// How often the node looks at the clock.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// A turn that is later by more than this follows a sleep. A busy host or a slow disk causes shorter delays.
const STALL_MAX: Duration = Duration::from_secs(5);

/// What the node knows of its sleep.
#[derive(Debug)]
pub(crate) struct Sleep {
    /// A call of the host after this moment follows a sleep.
    awake_until: Time,
    /// Whether it has slept and has not synchronized since.
    is_behind: bool,
}

impl Sleep {
    pub(crate) fn new() -> Self {
        Self { awake_until: Time::from_nanos(u64::MAX), is_behind: false }
    }

    /// Whether the node may lack what others wrote while it slept.
    pub(crate) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// The node has synchronized.
    pub(crate) fn caught_up(&mut self) {
        self.is_behind = false;
    }
}

impl Node {
    /// Called when the clock has moved on.
    pub(super) fn notice_sleep(&mut self, now: Now, out: &mut Actions) {
        if now.mono > self.sleep.awake_until {
            self.wake_up(now, out);
        }
    }

    /// Sets the next heartbeat, if others may write while this node sleeps.
    pub(crate) fn heartbeat(&mut self, now: Now) {
        if self.status.has_joined() && self.params.serving == Serving::Yes && self.table.live() > 0 {
            self.timers.set(Timer::Heartbeat, now.mono + HEARTBEAT);
            self.sleep.awake_until = now.mono + HEARTBEAT + STALL_MAX;
        } else {
            self.sleep.awake_until = Time::from_nanos(u64::MAX);
        }
    }

    fn wake_up(&mut self, now: Now, out: &mut Actions) {
        let late = now.mono.since(self.sleep.awake_until) + STALL_MAX;
        self.heartbeat(now);
        if self.status.has_joined() {
            self.settle_after_sleep(now, late, out);
        }
    }

    /// This node, which has joined, did not run for `span`.
    pub(crate) fn settle_after_sleep(&mut self, now: Now, span: Duration, out: &mut Actions) {
        info!("settling again reason=\"this process did not run\" seconds={}", span.as_secs());
        self.sleep.is_behind = true;
        self.settle_again(now, out);
    }
}
