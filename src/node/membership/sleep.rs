//! Sleep: the process was stopped, or its host was suspended, for seconds or hours.
//!
//! Other nodes wrote records meanwhile, and this node did not receive its copies. No message tells it so, and
//! its connections may still be open. So it sets a timer every [`HEARTBEAT`]. If a call of the host comes more than
//! [`STALL_MAX`] after that moment, the node has slept, and synchronizes with its neighbours before it answers
//! GETs from its storage alone ([`crate::node::replication::sync`]). Until then it answers lookups of values by
//! ERROR 429: two nodes that slept together would agree on old records. It answers SYNC, so that nodes that all
//! slept catch up with each other.
//!
//! A PUT that is running when the node wakes may have looked up its replicas before. So the node synchronizes once
//! more, [`SYNC_AGAIN_AFTER`] it has woken.
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

/// How often the node looks at the clock. A sleep that begins just after that is noticed only if it is longer by this.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// A turn that is later by more than this follows a sleep. A busy host or a slow disk causes shorter delays.
const STALL_MAX: Duration = Duration::from_secs(5);

/// The time from waking to the second synchronization. A PUT that was running when the node woke has not found it, and
/// may be confirmed after the first one.
const SYNC_AGAIN_AFTER: Duration = Duration::from_secs(7);

/// What the node knows of its sleep.
#[derive(Debug)]
pub(crate) struct Sleep {
    /// A call of the host after this moment follows a sleep.
    awake_until: Time,
    /// Whether it has slept and has not synchronized since.
    is_behind: bool,
    /// When it fell behind last.
    behind_since: Time,
    /// When it synchronizes once more.
    again_at: Option<Time>,
}

impl Sleep {
    pub(crate) fn new() -> Self {
        Self { awake_until: Time::from_nanos(u64::MAX), is_behind: false, behind_since: Time::ZERO, again_at: None }
    }

    /// Whether the node may lack what others wrote while it slept.
    pub(crate) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Whether the node may lack what others wrote after its client asked for a PUT, which it did at `taken`.
    pub(crate) fn is_behind_since(&self, taken: Option<Time>) -> bool {
        self.is_behind && taken.is_none_or(|taken| taken < self.behind_since)
    }

    /// The node may lack what others wrote, until it has synchronized.
    pub(crate) fn falls_behind(&mut self, now: Now) {
        self.is_behind = true;
        self.behind_since = now.mono;
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

    /// The timer of the heartbeat has expired.
    pub(crate) fn on_heartbeat(&mut self, now: Now, out: &mut Actions) {
        self.heartbeat(now);
        if self.sleep.again_at.is_some_and(|at| at <= now.mono) && self.status.is_settled() {
            self.sleep.again_at = None;
            self.settle_again(now, out);
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
        self.sleep.falls_behind(now);
        self.join.falls_behind();
        self.sleep.again_at = Some(now.mono + SYNC_AGAIN_AFTER);
        self.settle_again(now, out);
    }
}
