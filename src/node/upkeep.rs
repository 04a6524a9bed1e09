//! Joining, refreshing, handing over, leaving: what a node does of its own accord, a bounded
//! little in every turn.
//!
//! Joining is a state, not a message: a node whose contacts are all gone is joining, and goes on
//! dialling its bootstraps and whom it remembers, with back-off, for ever. It settles when a
//! peer has answered. A node without bootstraps founds a network and is settled at once; it asks
//! nobody to wait for others that it may never meet.
//!
//! Records are handed to a newly met node that is nearer to them than this one (Kademlia,
//! section 2.5). Handing over never prolongs a life: the copy carries its age.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use log::{debug, info};
use rand::RngExt;

use crate::contact::Contact;
use crate::id::{Key, NodeId};
use crate::limits::{
    ASLEEP_PAUSE, ASLEEP_PER_TURN_MAX, EXPIRED_PER_TURN_MAX, HANDOVERS_MAX, HANDOVERS_UNDER_WAY_MAX, JOIN_BACKOFF_MAX,
    JOIN_BACKOFF_MIN, REFRESH_PAUSE, UPKEEP_LOOKUPS_MAX, UPKEEP_RECORDS_PER_TURN_MAX,
};
use crate::lookup::Lookup;
use crate::node::Node;
use crate::node::action::{Actions, ConnId, DialError};
use crate::node::ask::Purpose;
use crate::node::client::RETRY_PAUSE;
use crate::node::jobs::Job;
use crate::node::peers::Ending;
use crate::node::timers::Timer;
use crate::storage::Cursor;
use crate::time::{Now, Time};
use crate::wire::peer::PeerMessage;

/// How a node stands to its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It knows nobody who answers.
    Joining,
    /// It takes part.
    Settled,
    /// It answers what it owes, and then goes.
    Leaving,
    /// It has gone.
    Left,
}

/// The state of upkeep.
#[derive(Debug)]
pub(super) struct Upkeep {
    pub(super) standing: Standing,
    /// Attempts to join since the last one that succeeded, or since somebody else was met.
    attempts: u32,
    bootstraps: Vec<BootstrapState>,
    /// Contacts that are being asked whether they are there.
    checking: BTreeSet<NodeId>,
    handovers: VecDeque<HandOver>,
    /// Records on their way to nodes that were newly met.
    handing: usize,
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

/// A walk over all records, on behalf of a node that was newly met.
#[derive(Debug)]
struct HandOver {
    to: Contact,
    after: Option<Cursor>,
}

impl Upkeep {
    pub(super) fn new(bootstraps: usize) -> Self {
        let standing = if bootstraps == 0 { Standing::Settled } else { Standing::Joining };
        Self {
            standing,
            attempts: 0,
            bootstraps: vec![
                BootstrapState { is_me: false, met: None, next: Time::ZERO, pause: JOIN_BACKOFF_MAX };
                bootstraps
            ],
            checking: BTreeSet::new(),
            handovers: VecDeque::new(),
            handing: 0,
        }
    }
}

/// Joining.
impl Node {
    /// Whether it takes part: what it holds in scope, it is responsible for.
    pub(super) fn is_settled(&self) -> bool {
        self.upkeep.standing == Standing::Settled
    }

    /// Whether requests of clients must wait until somebody was met.
    pub(super) fn waits_to_join(&self) -> bool {
        self.upkeep.standing == Standing::Joining && !self.is_founder()
    }

    /// Whether there has never been anybody to spread a record to.
    pub(super) fn is_founder_alone(&self) -> bool {
        self.is_founder() && self.table.is_empty()
    }

    /// Whether there is nobody to join through but itself.
    fn is_founder(&self) -> bool {
        self.upkeep.bootstraps.iter().all(|bootstrap| bootstrap.is_me)
    }

    /// Joins through the bootstraps that are due, and whom the table remembers if it has nobody
    /// else. A node that is settled does so too: those who answered it may be an island.
    pub(super) fn join(&mut self, now: Now, out: &mut Actions) {
        let joining = self.upkeep.standing == Standing::Joining;
        for number in 0..self.upkeep.bootstraps.len() {
            let state = self.upkeep.bootstraps[number];
            if state.is_me || (!joining && state.next > now.mono) {
                continue;
            }
            match state.met.filter(|met| self.peers.route(&met.id).is_some()) {
                Some(met) => self.join_through(now, met, out),
                None => self.dial_bootstrap(number, out),
            }
        }
        if joining {
            self.wake_sleepers(now, out);
            if self.table.live() > 0 && !self.jobs.is_joining() {
                self.look_up_self(now, out);
            }
        }
        if joining || !self.upkeep.bootstraps.is_empty() {
            let pause = self.pause_of_joining(now);
            let pause = self.jitter(pause);
            self.timers.set(Timer::Join, now.mono + pause);
        }
    }

    /// How long this node waits before it looks for somebody to join through again: ever longer,
    /// but not long at once while no bootstrap has done its part.
    fn pause_of_joining(&mut self, now: Now) -> Duration {
        let waits = self.upkeep.bootstraps.iter().all(|state| state.next <= now.mono);
        if !waits && self.upkeep.standing != Standing::Joining {
            return JOIN_BACKOFF_MAX;
        }
        let doubled = JOIN_BACKOFF_MIN * 2_u32.saturating_pow(self.upkeep.attempts.min(16));
        self.upkeep.attempts += 1;
        doubled.min(JOIN_BACKOFF_MAX)
    }

    /// This node met itself at a bootstrap; if that was the only one, it founds the network.
    pub(super) fn bootstrap_is_me(&mut self, now: Now, number: usize, out: &mut Actions) {
        info!("bootstrap is this node at={}", self.params.bootstraps[number].at);
        self.upkeep.bootstraps[number].is_me = true;
        if self.is_founder() && self.upkeep.standing == Standing::Joining {
            self.settle(now, out);
        }
    }

    /// Somebody was met at a bootstrap.
    pub(super) fn bootstrap_met(&mut self, number: usize, met: Contact) {
        self.upkeep.bootstraps[number].met = Some(met);
    }

    /// `contact` was dialled and said HELLO; if it is a bootstrap that is due, it is asked for
    /// others.
    pub(super) fn contact_reached(&mut self, now: Now, contact: Contact, out: &mut Actions) {
        let joining = self.upkeep.standing == Standing::Joining;
        let due = |state: &BootstrapState| {
            (joining || state.next <= now.mono) && state.met.is_some_and(|met| met.id == contact.id)
        };
        if self.upkeep.bootstraps.iter().any(due) {
            self.join_through(now, contact, out);
        }
    }

    /// A peer answered: whoever was joining has joined.
    pub(super) fn someone_answered(&mut self, now: Now, out: &mut Actions) {
        if self.upkeep.standing == Standing::Joining && self.table.live() > 0 {
            info!("joined contacts={}", self.table.live());
            self.settle(now, out);
        }
    }

    /// Takes part from now on: what waited for it goes on.
    fn settle(&mut self, now: Now, out: &mut Actions) {
        self.upkeep.standing = Standing::Settled;
        self.upkeep.attempts = 0;
        self.timers.hasten(Timer::HandOver, now.mono);
        let pause = self.jitter(REFRESH_PAUSE);
        self.timers.hasten(Timer::Refresh, now.mono + pause);
        for job in self.jobs.parked() {
            match self.jobs.find(job) {
                Some(Job::Get(_)) => self.search_value(now, job, out),
                Some(Job::Put(_)) => self.search_holders(now, job, out),
                Some(Job::Join(_) | Job::Refresh(_)) | None => {}
            }
        }
    }

    /// All contacts are gone: this node is joining again, and goes on serving what it holds.
    fn lost_everybody(&mut self, now: Now) {
        if self.upkeep.standing == Standing::Settled {
            info!("joining again reason=\"no contact answers\"");
            self.upkeep.standing = Standing::Joining;
            self.timers.hasten(Timer::Join, now.mono + JOIN_BACKOFF_MIN);
        }
    }

    fn look_up_self(&mut self, now: Now, out: &mut Actions) {
        let lookup = self.search(*self.me.id.key());
        let job = self.jobs.insert(Job::Join(lookup));
        self.drive(now, job, out);
    }

    /// Looks up the own id, beginning with `contact` alone: it is asked even if those whom this
    /// node knows are all nearer.
    fn join_through(&mut self, now: Now, contact: Contact, out: &mut Actions) {
        if self.jobs.is_joining() {
            return;
        }
        let lookup = Lookup::new(self.me.id, *self.me.id.key(), self.params.k, self.params.alpha, &[contact]);
        let job = self.jobs.insert(Job::Join(lookup));
        self.drive(now, job, out);
    }
}

/// Contacts that come and go.
impl Node {
    /// A contact entered the table, or woke up in it.
    pub(super) fn contact_found(&mut self, now: Now, contact: Contact, out: &mut Actions) {
        debug!("contact found {contact}");
        if self.upkeep.standing == Standing::Joining && !self.jobs.is_joining() {
            self.look_up_self(now, out);
        }
        if !self.storage.is_empty() && self.upkeep.handovers.len() < HANDOVERS_MAX {
            self.upkeep.handovers.push_back(HandOver { to: contact, after: None });
            self.timers.hasten(Timer::HandOver, now.mono);
        }
        let pause = self.jitter(REFRESH_PAUSE);
        self.timers.hasten(Timer::Refresh, now.mono + pause);
    }

    /// A request or a reply of `id` came in over `conn`. If it is a contact, and slept, it woke
    /// up; if it is none, it may become one.
    pub(super) fn contact_heard(&mut self, now: Now, conn: ConnId, id: &NodeId, out: &mut Actions) {
        let slept = self.table.is_asleep(id);
        if !self.table.heard(id) {
            self.dial_back(now, conn, out);
        } else if slept && let Some(contact) = self.table.find(id).copied() {
            self.contact_found(now, contact, out);
        }
    }

    /// A request to a contact, or a dial of it, failed.
    pub(super) fn contact_failed(&mut self, now: Now, id: &NodeId, out: &mut Actions) {
        let was_live = self.table.live();
        // When nobody answers, the fault is likely on our side: nobody is forgotten for it.
        if was_live > 0
            && let Some(candidate) = self.table.failed(id)
        {
            self.probe(candidate, out);
        }
        self.after_a_loss(now, id, was_live);
    }

    /// `contact` was not met where it was dialled. Whoever named it may have named a wrong address,
    /// so this counts against nobody who was met elsewhere.
    pub(super) fn not_met(&mut self, now: Now, contact: Contact, error: DialError, out: &mut Actions) {
        if self.table.find(&contact.id).is_some_and(|met| met.address != contact.address) {
            return;
        }
        match error {
            DialError::Unreachable => self.contact_failed(now, &contact.id, out),
            DialError::NotAuthentic => self.contact_lost(now, &contact.id, out),
        }
    }

    /// A contact took its leave, or is not who it was.
    pub(super) fn contact_lost(&mut self, now: Now, id: &NodeId, out: &mut Actions) {
        let was_live = self.table.live();
        if let Some(candidate) = self.table.remove(id) {
            self.probe(candidate, out);
        }
        self.after_a_loss(now, id, was_live);
    }

    fn after_a_loss(&mut self, now: Now, id: &NodeId, was_live: usize) {
        self.upkeep.handovers.retain(|walk| walk.to.id != *id);
        if self.table.asleep().next().is_some() {
            let pause = self.jitter(ASLEEP_PAUSE);
            self.timers.hasten(Timer::Refresh, now.mono + pause);
        }
        if was_live > 0 && self.table.live() == 0 {
            self.lost_everybody(now);
        }
    }

    /// Asks a contact whether it is there.
    pub(super) fn check(&mut self, now: Now, contact: Contact, out: &mut Actions) {
        if self.upkeep.checking.insert(contact.id) && !self.ask(now, contact, Purpose::Check, out) {
            self.upkeep.checking.remove(&contact.id);
        }
    }

    /// That question is over.
    pub(super) fn checked(&mut self, id: &NodeId) {
        self.upkeep.checking.remove(id);
    }

    fn wake_sleepers(&mut self, now: Now, out: &mut Actions) {
        let sleepers: Vec<Contact> = self.table.asleep().copied().collect();
        if sleepers.is_empty() {
            return;
        }
        let first = self.rng.random_range(0..sleepers.len());
        for contact in sleepers.iter().cycle().skip(first).take(sleepers.len().min(ASLEEP_PER_TURN_MAX)) {
            self.check(now, *contact, out);
        }
    }

    /// Looks up a random point of the bucket that needs it most, and asks those who sleep.
    pub(super) fn refresh(&mut self, now: Now, out: &mut Actions) {
        if self.upkeep.standing == Standing::Settled {
            self.wake_sleepers(now, out);
            if self.jobs.upkeep() < UPKEEP_LOOKUPS_MAX
                && let Some(bucket) = self.table.stale_bucket(now.mono, self.params.refresh_interval)
            {
                let target = self.me.id.key().diverging_at(bucket, &Key::new(self.rng.random()));
                self.table.looked_up(now.mono, &target);
                let lookup = self.search(target);
                let job = self.jobs.insert(Job::Refresh(lookup));
                self.drive(now, job, out);
            }
        }
        self.plan_refresh(now);
    }

    fn plan_refresh(&mut self, now: Now) {
        let pause = self.jitter(REFRESH_PAUSE);
        let free = self.jobs.upkeep() < UPKEEP_LOOKUPS_MAX;
        if let Some(stale) = self.table.next_refresh(self.params.refresh_interval).filter(|_| free) {
            self.timers.hasten(Timer::Refresh, stale.max(now.mono + pause));
        }
        if self.table.asleep().next().is_some() {
            let pause = self.jitter(ASLEEP_PAUSE);
            self.timers.hasten(Timer::Refresh, now.mono + pause);
        }
    }

    /// A search for upkeep has ended.
    pub(super) fn upkeep_search_done(&mut self, now: Now, target: Key, answered: &[Contact]) {
        debug!("search done target={target:.8} answered={} contacts={}", answered.len(), self.table.live());
        if target == *self.me.id.key() {
            self.table.looked_up(now.mono, &target);
            self.joined_through(now, answered);
        }
        self.plan_refresh(now);
    }

    /// A search for the own id was answered by `answered`: the bootstraps among them have done
    /// their part, for a while. Not if they are few: then much was lost, or the network is
    /// small, and asking it once more costs little.
    fn joined_through(&mut self, now: Now, answered: &[Contact]) {
        if answered.len() < self.params.k {
            return;
        }
        for state in &mut self.upkeep.bootstraps {
            if answered.iter().any(|contact| state.met.is_some_and(|met| met.id == contact.id)) {
                state.next = now.mono + state.pause;
                state.pause = (2 * state.pause).min(self.params.refresh_interval);
                self.upkeep.attempts = 0;
            }
        }
    }

    /// `span`, 20 % more or less, so that nodes that started together do not stay in step.
    fn jitter(&mut self, span: Duration) -> Duration {
        span.mul_f64(self.rng.random_range(0.8..1.2))
    }
}

/// Records that move on.
impl Node {
    /// Spreads records that were kept, and hands records over, as many as fit a turn.
    pub(super) fn hand_over(&mut self, now: Now, out: &mut Actions) {
        let mut budget = UPKEEP_RECORDS_PER_TURN_MAX;
        while self.is_settled() && budget > 0 && self.jobs.have_room() {
            let Some(key) = self.unspread.pop_first() else { break };
            self.spread_kept(now, &key, out);
            budget -= 1;
        }
        while budget > 0 && self.upkeep.handing < HANDOVERS_UNDER_WAY_MAX {
            let Some(mut walk) = self.upkeep.handovers.pop_front() else { break };
            budget -= 1;
            if let Some(key) = self.next_to_hand(now, &mut walk) {
                self.upkeep.handing += 1;
                if !self.ask(now, walk.to, Purpose::HandOver(key), out) {
                    self.upkeep.handing -= 1;
                }
            } else if walk.after.is_none() {
                continue; // the walk is over
            }
            self.upkeep.handovers.push_front(walk);
        }
        let walks = !self.upkeep.handovers.is_empty() && self.upkeep.handing < HANDOVERS_UNDER_WAY_MAX;
        let spreads = !self.unspread.is_empty() && self.is_settled();
        if walks || spreads && self.jobs.have_room() {
            self.timers.hasten(Timer::HandOver, now.mono);
        } else if spreads {
            self.timers.hasten(Timer::HandOver, now.mono + RETRY_PAUSE);
        }
    }

    /// Notes that the record of `key`, which is held, is to be spread. Keys whose records are gone
    /// are forgotten before they outnumber what is held.
    pub(super) fn spread_later(&mut self, now: Now, key: Key) {
        if self.unspread.len() > 2 * self.storage.len() {
            self.unspread.retain(|key| self.storage.find(now.mono, key).is_some());
        }
        self.unspread.insert(key);
    }

    /// The next record that belongs to the node of `walk`: it is nearer than this one, and among
    /// the nearest that shall hold it. `None` with no cursor left means that the walk is over;
    /// with one, that this turn has looked at enough.
    fn next_to_hand(&self, now: Now, walk: &mut HandOver) -> Option<Key> {
        let mut looked_at = 0;
        let after = walk.after.take();
        for (cursor, held) in self.storage.walk(after.as_ref()) {
            looked_at += 1;
            let record = &held.record;
            let nearer = record.key.distance(walk.to.id.key()) < record.key.distance(self.me.id.key());
            let belongs = nearer
                && held.expires > now.mono
                && self.table.closer_than(&record.key, &walk.to.id) < usize::from(record.replication);
            if belongs || looked_at == EXPIRED_PER_TURN_MAX {
                walk.after = Some(cursor);
                return belongs.then_some(record.key);
            }
        }
        None
    }

    /// A record handed over was taken, or was not.
    pub(super) fn handed(&mut self, now: Now) {
        self.upkeep.handing = self.upkeep.handing.saturating_sub(1);
        if !self.upkeep.handovers.is_empty() {
            self.timers.hasten(Timer::HandOver, now.mono);
        }
    }
}

/// Leaving.
impl Node {
    /// Whether it is leaving, or has left.
    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.upkeep.standing, Standing::Leaving | Standing::Left)
    }

    /// See [`Node::leave`].
    pub(super) fn begin_to_leave(&mut self, now: Now, out: &mut Actions) {
        if self.is_leaving() {
            return;
        }
        info!("leaving owed={}", self.jobs.clients());
        self.upkeep.standing = Standing::Leaving;
        self.timers.set(Timer::Leave, now.mono + self.params.leave_timeout);
        for timer in [Timer::Join, Timer::Refresh, Timer::HandOver] {
            self.timers.cancel(timer);
        }
        self.leave_if_done(now, out);
    }

    /// Goes, once nothing is owed to clients.
    pub(super) fn leave_if_done(&mut self, now: Now, out: &mut Actions) {
        if self.upkeep.standing == Standing::Leaving && self.jobs.clients() == 0 {
            self.go(now, out);
        }
    }

    /// Ends what is owed as it stands, says GOODBYE to all, and goes.
    pub(super) fn go(&mut self, now: Now, out: &mut Actions) {
        self.upkeep.standing = Standing::Left;
        for job in self.jobs.ids() {
            match self.jobs.find(job) {
                Some(Job::Get(_)) => self.give_up_get(now, job, out),
                Some(Job::Put(_)) => self.put_timed_out(job, out),
                Some(Job::Join(_) | Job::Refresh(_)) | None => {}
            }
            self.end_job(job);
        }
        for conn in self.peers.reached() {
            out.send(conn, &PeerMessage::Goodbye, None);
        }
        let all: Vec<_> = self.peers.ids().collect();
        for conn in all {
            self.hang_up(now, conn, Ending::Closed, out);
        }
        self.timers.cancel(Timer::Leave);
    }
}
