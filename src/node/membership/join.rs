//! Joining and settling.
//!
//! Joining is a state, not a message. A node without a responsive contact is *joining*: it dials its
//! bootstraps and its remembered contacts of an earlier run, with back-off, until a peer answers. From then
//! on it has joined, and client requests proceed. But its records may be older than those of its
//! neighbours, so it *settles* first ([`crate::node::replication::sync`]).
//!
//! A node that has no other node to join through is a *founder*: it is settled at once, and its clients
//! wait for no other node.
//!
//! A node that finds all others stopped is *alone* ([`crate::node::membership::alone`]).
//!
//! Joining does not guarantee one network: two groups of nodes that know no common bootstrap stay apart.

use std::collections::VecDeque;
use std::time::Duration;

use log::{info, warn};
use rand::seq::SliceRandom;

use crate::contact::Contact;
use crate::limits::{JOIN_PATIENCE, REFRESH_PAUSE, REMEMBERED_DIALS, SETTLE_MAX, SETTLE_TIMEOUT, START_PATIENCE};
use crate::lookup::Lookup;
use crate::node::Node;
use crate::node::action::Actions;
use crate::node::membership::alone::ALONE_PAUSE;
use crate::node::params::Serving;
use crate::node::query::Query;
use crate::node::replication::schedule::Selection;
use crate::node::status::{Access, Status};
use crate::node::timers::Timer;
use crate::time::{Now, Time};

/// The pause before the second attempt to join; further pauses double.
const JOIN_BACKOFF_MIN: Duration = Duration::from_secs(1);

/// The longest pause between two attempts to join.
const JOIN_BACKOFF_MAX: Duration = Duration::from_mins(1);

/// The nodes that this node joins through, and how far it has come.
#[derive(Debug)]
pub(crate) struct Join {
    /// Attempts since the last one that succeeded.
    attempts: u32,
    bootstraps: Vec<BootstrapState>,
    /// The remembered contacts that were not dialled in the last attempt.
    undialled: VecDeque<Contact>,
    /// When this node began to join: at the start, or when it lost its last contact.
    since: Time,
    /// Whether a peer has answered since this node has been joining.
    is_answered: bool,
    /// When this node joined and settling began.
    pub(crate) joined: Option<Time>,
    /// Whether this node has settled since then.
    has_settled: bool,
    /// Whether it has settled since its start or its last sleep, although it may have lost its contacts meanwhile.
    was_settled: bool,
}

/// The state of a bootstrap.
#[derive(Clone, Copy, Debug)]
struct BootstrapState {
    /// Whether its address is that of this node: all nodes may share one configuration.
    is_me: bool,
    /// The node that was last reached there.
    contact: Option<Contact>,
    /// When this node, if settled, joins through it again. It moves on only when the bootstrap has
    /// answered a lookup of the own id.
    next: Time,
    /// By how much `next` moves on. Short at first: where a network has just formed, or a partition has
    /// healed, the nodes do not know all of each other yet.
    pause: Duration,
}

impl Join {
    pub(crate) fn new(now: Now, bootstraps: usize) -> Self {
        let unreached = BootstrapState { is_me: false, contact: None, next: Time::ZERO, pause: JOIN_BACKOFF_MAX };
        Self {
            attempts: 0,
            bootstraps: vec![unreached; bootstraps],
            undialled: VecDeque::new(),
            since: now.mono,
            is_answered: false,
            joined: None,
            has_settled: false,
            was_settled: bootstraps == 0,
        }
    }

    /// Whether the node has joined, perhaps after a sleep, and has not settled since: it may lack what others wrote while
    /// it did not run.
    pub(crate) fn is_behind(&self) -> bool {
        self.joined.is_some() && !self.has_settled
    }

    /// Whether it has settled and has run ever since. The last survivor of a network has, and knows what others lack that
    /// come back.
    pub(crate) fn was_settled(&self) -> bool {
        self.was_settled
    }

    /// This node has missed what others wrote.
    pub(crate) fn falls_behind(&mut self) {
        self.was_settled = false;
    }

    /// Whether it has just joined, so that another node may still tell it what it lacks.
    pub(crate) fn may_hear_more(&self, now: Now) -> bool {
        self.is_behind() && self.joined.is_some_and(|since| now.mono < since + SETTLE_TIMEOUT)
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
            Status::Joining => self.access_while_joining(now),
        }
    }

    /// Not inlined: [`Node::access`] is part of every GET, and this of few.
    #[cold]
    fn access_while_joining(&self, now: Now) -> Access {
        if self.is_only_node() {
            Access::Alone
        } else if self.join.joined.is_none() && now.mono < self.join.since + START_PATIENCE {
            Access::Starting { until: self.join.since + START_PATIENCE }
        } else {
            Access::Isolated
        }
    }

    /// Whether this node is a founder and has never known another node.
    pub(crate) fn is_founder_alone(&self) -> bool {
        self.knows_no_node() && !self.address_book.has_met()
    }

    /// Whether this node is the whole network, as far as it knows: what it does not store exists nowhere, and a
    /// record needs no other replica.
    pub(crate) fn is_only_node(&self) -> bool {
        self.absences.is_alone() || self.knows_no_node()
    }

    /// Whether this node knows no other node now.
    fn knows_no_node(&self) -> bool {
        self.is_founder() && self.table.is_empty()
    }

    /// Whether there is no other node to join through.
    pub(crate) fn is_founder(&self) -> bool {
        self.address_book.remembered().is_empty() && self.join.bootstraps.iter().all(|bootstrap| bootstrap.is_me)
    }

    /// A restored contact is there to join through. Called before any other event.
    pub(crate) fn begin_to_join(&mut self, now: Now) {
        self.status = Status::Joining;
        self.join.was_settled = false;
        self.timers.hasten(Timer::Join, now.mono);
    }

    /// Joins through the bootstraps that are due and, while joining, through the contacts that this node
    /// knows. A settled node goes on with bootstraps: after a partition its contacts may be only a part of
    /// the network.
    pub(crate) fn join(&mut self, now: Now, out: &mut Actions) {
        let joining = self.status == Status::Joining;
        for number in 0..self.join.bootstraps.len() {
            let state = self.join.bootstraps[number];
            if state.is_me || (!joining && state.next > now.mono) {
                continue;
            }
            match state.contact.filter(|contact| self.peers.route(&contact.id).is_some()) {
                Some(contact) => self.look_up_self(now, Some(contact), out),
                None => self.dial_bootstrap(number, out),
            }
        }
        if joining {
            self.dial_remembered(out);
            self.ping_unresponsive(now, out);
            if self.table.live() > 0 {
                self.look_up_self(now, None, out);
            }
        }
        if joining || !self.join.bootstraps.is_empty() {
            let is_checking = joining && !self.absences.is_alone() && self.has_untried_contact(now);
            let pause = if is_checking { JOIN_BACKOFF_MIN } else { self.next_join_pause(now) };
            let pause = self.jitter(pause);
            self.timers.set(Timer::Join, now.mono + pause);
        }
        self.consider_joined(now, out);
    }

    /// Dials remembered contacts, some at a time, in random order, those first that did not fail or failed long ago.
    fn dial_remembered(&mut self, out: &mut Actions) {
        let mut remembered = self.address_book.remembered().to_vec();
        remembered.shuffle(&mut self.rng);
        remembered.sort_by_key(|contact| self.absences.failed_at(contact));
        self.join.undialled = remembered.into();
        self.dial_more_remembered(out);
    }

    fn dial_more_remembered(&mut self, out: &mut Actions) {
        for _ in 0..REMEMBERED_DIALS {
            let Some(contact) = self.join.undialled.pop_front() else { return };
            self.probe(contact, out);
        }
    }

    /// The pause before the next attempt. It doubles with each attempt; a node that is not joining pauses
    /// for the maximum as soon as a bootstrap has answered a lookup of the own id.
    fn next_join_pause(&mut self, now: Now) -> Duration {
        let all_due = self.join.bootstraps.iter().all(|state| state.next <= now.mono);
        if !all_due && self.status != Status::Joining {
            return JOIN_BACKOFF_MAX;
        }
        let doubled = JOIN_BACKOFF_MIN * 2_u32.saturating_pow(self.join.attempts.min(16));
        self.join.attempts += 1;
        doubled.min(JOIN_BACKOFF_MAX)
    }

    /// This node reached itself at a bootstrap; if there is no other, it is a founder.
    pub(crate) fn bootstrap_is_me(&mut self, now: Now, number: usize, out: &mut Actions) {
        info!("bootstrap is this node at={}", self.params.bootstraps[number].at);
        self.join.bootstraps[number].is_me = true;
        if self.is_founder() && self.status == Status::Joining {
            self.join.joined = Some(now.mono);
            self.settle(now);
            self.resume(now, out);
        }
    }

    /// This node reached `contact` at a bootstrap.
    pub(crate) fn bootstrap_reached(&mut self, number: usize, contact: Contact) {
        self.join.bootstraps[number].contact = Some(contact);
    }

    /// `contact`, which this node dialled, sent its HELLO; if it is a bootstrap that is due, this node
    /// joins through it.
    pub(crate) fn contact_reached(&mut self, now: Now, contact: Contact, out: &mut Actions) {
        let joining = self.status == Status::Joining;
        let due = |state: &BootstrapState| {
            (joining || state.next <= now.mono) && state.contact.is_some_and(|known| known.id == contact.id)
        };
        if self.join.bootstraps.iter().any(due) {
            self.look_up_self(now, Some(contact), out);
        }
    }

    /// A peer has answered a request.
    pub(crate) fn peer_answered(&mut self, now: Now, out: &mut Actions) {
        if self.status == Status::Joining {
            self.join.is_answered = true;
            self.consider_joined(now, out);
        }
    }

    /// If this node is joining and a peer has answered, it may have joined now, and settles.
    ///
    /// If several nodes restart together, some meet before the others run or have answered. Each of them may lack what was
    /// written meanwhile, and they would take themselves for the whole network. So a node waits, but not long, for a peer
    /// that has settled, or until it has reached all that it remembers. The last survivor of a network need not wait.
    pub(crate) fn consider_joined(&mut self, now: Now, out: &mut Actions) {
        if self.status != Status::Joining || !self.join.is_answered || self.table.live() == 0 {
            return;
        }
        let until = self.join.since + JOIN_PATIENCE;
        let is_new = |contact: &Contact| self.peers.is_unsettled(now, &contact.id);
        if now.mono < until && !self.join.was_settled && self.table.iter().all(is_new) {
            if !self.peers.are_expected() {
                self.dial_more_remembered(out);
            }
            let is_met = |contact: &Contact| self.table.contains(&contact.id);
            if self.peers.are_expected() || !self.address_book.remembered().iter().all(is_met) {
                return self.timers.hasten(Timer::Join, until);
            }
        }
        info!("joined contacts={}", self.table.live());
        self.begin_to_settle(now, out);
        self.resume(now, out);
    }

    /// The contacts of this node may store records that it has missed.
    pub(crate) fn settle_again(&mut self, now: Now, out: &mut Actions) {
        self.table.all_stale();
        self.syncing.end();
        self.begin_to_settle(now, out);
    }

    fn begin_to_settle(&mut self, now: Now, out: &mut Actions) {
        self.status = Status::Settling;
        self.join.joined = Some(now.mono);
        self.join.has_settled = false;
        if self.params.serving == Serving::No {
            return self.settle(now); // it stores no records that could be old
        }
        self.timers.set(Timer::Settle, now.mono + SETTLE_TIMEOUT);
        // The lookup finds the neighbours, which this node then asks for records.
        self.syncing.looks_again = self.queries.is_looking_up(self.me.id.key());
        self.look_up_self(now, None, out);
    }

    /// The node has joined: what waited for that continues.
    fn resume(&mut self, now: Now, out: &mut Actions) {
        self.join.attempts = 0;
        self.timers.hasten(Timer::Replicate, now.mono);
        self.wake_for_retries();
        self.hasten_after(Timer::Refresh, now, REFRESH_PAUSE);
        self.resume_queries(now, out);
    }

    /// Requests of clients that waited for another node continue.
    pub(crate) fn resume_queries(&mut self, now: Now, out: &mut Actions) {
        for query in self.queries.parked() {
            match self.queries.find(query) {
                Some(Query::Get(_)) => self.look_up_value(now, query, out),
                Some(Query::Read(_)) => self.look_up_again(now, query, out),
                Some(Query::Put(put)) if put.takes_turns() => {
                    let key = put.key();
                    self.start_turn(now, &key, out);
                }
                Some(Query::Put(_)) => self.look_up_replicas(now, query, out),
                Some(Query::Maintenance(_)) | None => {}
            }
        }
    }

    /// The node is settled from now on. It offers the records that no peer is known to store, or all if
    /// it was cut off from the network.
    pub(crate) fn settle(&mut self, now: Now) {
        self.status = Status::Settled;
        (self.join.has_settled, self.join.was_settled) = (true, true);
        self.sleep.caught_up();
        self.heartbeat(now);
        self.timers.cancel(Timer::Settle);
        self.syncing.end();
        self.resolve_ages(now);
        let joined = self.join.joined.unwrap_or(now.mono);
        let took = now.mono.since(joined).as_millis();
        info!("settled records={} took_ms={took}", self.storage.len());
        let selection = if self.take_cut_off() { Selection::All } else { Selection::Unreplicated };
        self.offer_after_settling(now, selection);
    }

    /// This node has got a record that it had missed. While it gets some, over a slow network, it waits for more:
    /// otherwise it would return records alone that others have replaced.
    pub(crate) fn settle_later(&mut self, now: Now) {
        if let (Status::Settling, Some(since)) = (self.status, self.join.joined) {
            self.timers.set(Timer::Settle, (now.mono + SETTLE_TIMEOUT).min(since + SETTLE_MAX));
        }
    }

    /// For some time this node has got no record that it had missed: it settles without the others. It does not return
    /// older ones alone that it knows to be replaced.
    pub(crate) fn settle_without_the_rest(&mut self, now: Now) {
        let missing = self.syncing.missing();
        warn!("settling ends early reason=\"neighbours have not sent all that they store\" missing={}", missing.len());
        for entry in missing {
            self.remember_seen(entry.key, entry.rank.precedence());
        }
        self.settle(now);
    }

    /// No contact is live: this node is joining again, and goes on serving its records.
    pub(crate) fn join_again(&mut self, now: Now) {
        if self.status.has_joined() {
            info!("joining again reason=\"no contact answers\"");
            self.status = Status::Joining;
            self.syncing.end();
            self.timers.cancel(Timer::Settle);
            self.forget_absences(now);
            self.join.attempts = 0;
            self.join.since = now.mono;
            self.join.is_answered = false;
            self.timers.hasten(Timer::Join, now.mono + ALONE_PAUSE);
        }
    }

    /// Looks up the own id, unless that is in flight: from the contacts of the table, or from
    /// `bootstrap` alone. A bootstrap is asked even if all known contacts are nearer: it may know others.
    pub(crate) fn look_up_self(&mut self, now: Now, bootstrap: Option<Contact>, out: &mut Actions) {
        let (me, k) = (self.me.id, self.params.k);
        if self.queries.is_looking_up(me.key()) {
            return;
        }
        let lookup = match bootstrap {
            Some(contact) => Lookup::new(me, *me.key(), k, self.params.alpha, &[contact]),
            None => self.look_up(*me.key(), k),
        };
        let query = self.queries.insert(Query::Maintenance(lookup));
        self.advance(now, query, out);
    }

    /// A lookup of the own id has ended, in which `answered` did. The neighbours are known, and are asked for their records;
    /// unless the lookup began before this node joined, and has missed near contacts that it has met since.
    pub(crate) fn looked_up_self(&mut self, now: Now, answered: &[Contact], out: &mut Actions) {
        self.joined_through(now, answered);
        self.table.closest(self.me.id.key(), self.params.k, &mut self.nearby);
        let has_missed = self.nearby.iter().any(|contact| !answered.iter().any(|other| other.id == contact.id));
        if std::mem::take(&mut self.syncing.looks_again) && has_missed {
            return self.look_up_self(now, None, out);
        }
        self.begin_to_sync(now);
    }

    /// The bootstraps that are not this node.
    pub(crate) fn other_bootstraps(&self) -> impl Iterator<Item = usize> {
        let states = self.join.bootstraps.iter().enumerate();
        states.filter(|(_, state)| !state.is_me).map(|(number, _)| number)
    }

    /// The bootstraps at which `contact` was last reached.
    pub(crate) fn bootstraps_at(&self, contact: &Contact) -> Vec<usize> {
        let states = self.join.bootstraps.iter().enumerate();
        states.filter(|(_, state)| state.contact == Some(*contact)).map(|(number, _)| number).collect()
    }

    /// A lookup of the own id was answered by `answered`: the bootstraps among them are not due for a
    /// while. If fewer than k nodes answered they stay due: either many replies were lost, or the network
    /// is small and another attempt costs little.
    fn joined_through(&mut self, now: Now, answered: &[Contact]) {
        if answered.len() < self.params.k {
            return;
        }
        for state in &mut self.join.bootstraps {
            if answered.iter().any(|contact| state.contact.is_some_and(|known| known.id == contact.id)) {
                state.next = now.mono + state.pause;
                state.pause = (2 * state.pause).min(self.params.refresh_interval);
                self.join.attempts = 0;
            }
        }
    }
}
