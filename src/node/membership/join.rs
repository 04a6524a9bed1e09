//! Joining, and settling.
//!
//! Joining is a state, not a message: a node whose contacts are all gone is joining, and goes on
//! dialling its bootstraps and whom it remembers of earlier days, with back-off, for ever. When a
//! peer has answered it has *joined*, and requests of its clients go on; but what it holds may be
//! older than what its neighbours hold, so it *settles* first ([`crate::node::replication::sync`]). A node without
//! anybody to join through founds a network and is settled at once; it asks nobody to wait for
//! others that it may never meet.

use std::time::Duration;

use log::info;
use rand::seq::SliceRandom;

use crate::contact::Contact;
use crate::limits::{
    JOIN_BACKOFF_MAX, JOIN_BACKOFF_MIN, REFRESH_PAUSE, REMEMBERED_DIALS, SETTLE_TIMEOUT, START_PATIENCE,
};
use crate::lookup::Lookup;
use crate::node::Node;
use crate::node::action::Actions;
use crate::node::params::Serving;
use crate::node::query::Query;
use crate::node::replication::schedule::Unsettled;
use crate::node::status::{Access, Status};
use crate::node::timers::Timer;
use crate::time::{Now, Time};

/// Through whom a node joins.
#[derive(Debug)]
pub(crate) struct Join {
    /// Attempts since the last one that succeeded, or since somebody else was met.
    attempts: u32,
    bootstraps: Vec<BootstrapState>,
    /// Contacts of an earlier run; a node without any, and without bootstraps, founds a network.
    pub(crate) remembered: Vec<Contact>,
    /// Until when, nobody having answered yet, clients wait for somebody rather than read what is
    /// held of an earlier run.
    starts_until: Time,
    /// When somebody answered.
    joined: Option<Time>,
}

/// What is known of a bootstrap.
#[derive(Clone, Copy, Debug)]
struct BootstrapState {
    /// Whether this node itself sits there: a configuration may be shared by all.
    is_me: bool,
    /// Who was met there.
    met: Option<Contact>,
    /// When this node joins through it once more, while it is settled: later only if a search
    /// for the own id was answered there.
    next: Time,
    /// How much later: little at first, for a network that has just come together, or together
    /// again, does not know itself yet.
    pause: Duration,
}

impl Join {
    pub(crate) fn new(now: Now, bootstraps: usize) -> Self {
        let unmet = BootstrapState { is_me: false, met: None, next: Time::ZERO, pause: JOIN_BACKOFF_MAX };
        Self {
            attempts: 0,
            bootstraps: vec![unmet; bootstraps],
            remembered: Vec::new(),
            starts_until: now.mono + START_PATIENCE,
            joined: None,
        }
    }
}

/// Joining and settling.
impl Node {
    /// What this node may do for a client now.
    pub(crate) fn access(&self, now: Now) -> Access {
        match self.status {
            Status::Settled => Access::Settled,
            Status::Settling => Access::Settling,
            Status::Leaving | Status::Left => Access::Leaving,
            Status::Joining if self.is_founder() => Access::Alone,
            Status::Joining if self.join.joined.is_none() && now.mono < self.join.starts_until => {
                Access::Starting { until: self.join.starts_until }
            }
            Status::Joining => Access::Isolated,
        }
    }

    /// Whether there has never been another node to send a record to.
    pub(crate) fn is_founder_alone(&self) -> bool {
        self.is_founder() && self.table.is_empty()
    }

    /// Whether there is no node to join through but this one.
    fn is_founder(&self) -> bool {
        self.join.remembered.is_empty() && self.join.bootstraps.iter().all(|bootstrap| bootstrap.is_me)
    }

    /// There is somebody to join through, before anything else has happened.
    pub(crate) fn begin_to_join(&mut self, now: Now) {
        self.status = Status::Joining;
        self.timers.hasten(Timer::Join, now.mono);
    }

    /// Joins through the bootstraps that are due, and whom the table remembers if it has nobody
    /// else. A node that is settled does so too: those who answered it may be an island.
    pub(crate) fn join(&mut self, now: Now, out: &mut Actions) {
        let joining = self.status == Status::Joining;
        for number in 0..self.join.bootstraps.len() {
            let state = self.join.bootstraps[number];
            if state.is_me || (!joining && state.next > now.mono) {
                continue;
            }
            match state.met.filter(|met| self.peers.route(&met.id).is_some()) {
                Some(met) => self.join_through(now, met, out),
                None => self.dial_bootstrap(number, out),
            }
        }
        if joining {
            self.dial_remembered(out);
            self.ping_unresponsive(now, out);
            if self.table.live() > 0 && !self.queries.is_looking_up_self() {
                self.look_up_self(now, out);
            }
        }
        if joining || !self.join.bootstraps.is_empty() {
            let pause = self.pause_of_joining(now);
            let pause = self.jitter(pause);
            self.timers.set(Timer::Join, now.mono + pause);
        }
    }

    /// Dials some of those whom this node knew in an earlier run; others the next time.
    fn dial_remembered(&mut self, out: &mut Actions) {
        let mut remembered = std::mem::take(&mut self.join.remembered);
        let (some, _) = remembered.partial_shuffle(&mut self.rng, REMEMBERED_DIALS);
        for contact in some {
            self.probe(*contact, out);
        }
        self.join.remembered = remembered;
    }

    /// How long this node waits before it looks for somebody to join through again: ever longer,
    /// but not long at once while no bootstrap has done its part.
    fn pause_of_joining(&mut self, now: Now) -> Duration {
        let waits = self.join.bootstraps.iter().all(|state| state.next <= now.mono);
        if !waits && self.status != Status::Joining {
            return JOIN_BACKOFF_MAX;
        }
        let doubled = JOIN_BACKOFF_MIN * 2_u32.saturating_pow(self.join.attempts.min(16));
        self.join.attempts += 1;
        doubled.min(JOIN_BACKOFF_MAX)
    }

    /// This node met itself at a bootstrap; if that was the only one, it founds the network.
    pub(crate) fn bootstrap_is_me(&mut self, now: Now, number: usize, out: &mut Actions) {
        info!("bootstrap is this node at={}", self.params.bootstraps[number].at);
        self.join.bootstraps[number].is_me = true;
        if self.is_founder() && self.status == Status::Joining {
            self.join.joined = Some(now.mono);
            self.settle(now);
            self.resume(now, out);
        }
    }

    /// Somebody was met at a bootstrap.
    pub(crate) fn bootstrap_met(&mut self, number: usize, met: Contact) {
        self.join.bootstraps[number].met = Some(met);
    }

    /// `contact` was dialled and said HELLO; if it is a bootstrap that is due, it is asked for
    /// others.
    pub(crate) fn contact_reached(&mut self, now: Now, contact: Contact, out: &mut Actions) {
        let joining = self.status == Status::Joining;
        let due = |state: &BootstrapState| {
            (joining || state.next <= now.mono) && state.met.is_some_and(|met| met.id == contact.id)
        };
        if self.join.bootstraps.iter().any(due) {
            self.join_through(now, contact, out);
        }
    }

    /// A peer answered: whoever was joining has joined, and settles.
    pub(crate) fn someone_answered(&mut self, now: Now, out: &mut Actions) {
        if self.status != Status::Joining || self.table.live() == 0 {
            return;
        }
        info!("joined contacts={}", self.table.live());
        self.begin_to_settle(now, out);
        self.resume(now, out);
    }

    /// Some come back of whom this node had lost more than a quarter: meanwhile they may have
    /// heard of what it has missed.
    pub(crate) fn settle_again(&mut self, now: Now, out: &mut Actions) {
        info!("settling again reason=\"contacts that were lost answer\" contacts={}", self.table.live());
        self.table.all_stale();
        self.begin_to_settle(now, out);
    }

    fn begin_to_settle(&mut self, now: Now, out: &mut Actions) {
        self.status = Status::Settling;
        self.join.joined = Some(now.mono);
        if self.params.serving == Serving::No {
            return self.settle(now); // it holds nothing that could be old
        }
        self.timers.set(Timer::Settle, now.mono + SETTLE_TIMEOUT);
        // Who the neighbours are, the search for the own id will say.
        if !self.queries.is_looking_up_self() {
            self.look_up_self(now, out);
        }
    }

    /// What waited for somebody to be there goes on.
    fn resume(&mut self, now: Now, out: &mut Actions) {
        self.join.attempts = 0;
        self.timers.hasten(Timer::Replicate, now.mono);
        self.wake_for_retries();
        let pause = self.jitter(REFRESH_PAUSE);
        self.timers.hasten(Timer::Refresh, now.mono + pause);
        for query in self.queries.parked() {
            match self.queries.find(query) {
                Some(Query::Get(_)) => self.look_up_value(now, query, out),
                Some(Query::Put(_)) => self.look_up_replicas(now, query, out),
                Some(Query::SelfLookup(_) | Query::Refresh(_)) | None => {}
            }
        }
    }

    /// Takes part from now on. What nobody was heard to hold is offered; all is, if this node was
    /// cut off.
    pub(crate) fn settle(&mut self, now: Now) {
        self.status = Status::Settled;
        self.timers.cancel(Timer::Settle);
        self.syncing.end();
        let joined = self.join.joined.unwrap_or(now.mono);
        let took = now.mono.since(joined).as_millis();
        info!("settled records={} took_ms={took}", self.storage.len());
        let what = if self.take_cut_off() { Unsettled::All } else { Unsettled::Unheard };
        self.offer_after_settling(now, what);
    }

    /// All contacts are gone: this node is joining again, and goes on serving what it holds.
    pub(crate) fn lost_everybody(&mut self, now: Now) {
        if self.status.has_joined() {
            info!("joining again reason=\"no contact answers\"");
            self.status = Status::Joining;
            self.syncing.end();
            self.timers.cancel(Timer::Settle);
            self.timers.hasten(Timer::Join, now.mono + JOIN_BACKOFF_MIN);
        }
    }

    pub(crate) fn look_up_self(&mut self, now: Now, out: &mut Actions) {
        let lookup = self.look_up(*self.me.id.key(), self.params.k);
        let query = self.queries.insert(Query::SelfLookup(lookup));
        self.advance(now, query, out);
    }

    /// Looks up the own id, beginning with `contact` alone: it is asked even if those whom this
    /// node knows are all nearer.
    fn join_through(&mut self, now: Now, contact: Contact, out: &mut Actions) {
        if self.queries.is_looking_up_self() {
            return;
        }
        let lookup = Lookup::new(self.me.id, *self.me.id.key(), self.params.k, self.params.alpha, &[contact]);
        let query = self.queries.insert(Query::SelfLookup(lookup));
        self.advance(now, query, out);
    }

    /// A search for the own id was answered by `answered`: the bootstraps among them have done
    /// their part, for a while. Not if they are few: then much was lost, or the network is
    /// small, and asking it once more costs little.
    pub(crate) fn joined_through(&mut self, now: Now, answered: &[Contact]) {
        if answered.len() < self.params.k {
            return;
        }
        for state in &mut self.join.bootstraps {
            if answered.iter().any(|contact| state.met.is_some_and(|met| met.id == contact.id)) {
                state.next = now.mono + state.pause;
                state.pause = (2 * state.pause).min(self.params.refresh_interval);
                self.join.attempts = 0;
            }
        }
    }
}
