//! What a node does of its own accord, a bounded little in every turn: how it stands to its
//! network, contacts that come and go, and tables that are kept fresh.
//!
//! `joining`, `leaving`, `replicating`, `offering` and `syncing` are the other files of upkeep; what
//! they remember is kept here, together.
//!
//! A contact that falls silent is missed in about a minute, one whose connection breaks at once:
//! who is near is asked whether it is there, for the records that it holds are then held by one
//! node fewer. What is far is left to searches.

use std::collections::{BTreeMap, BTreeSet};

use log::debug;
use rand::RngExt;

use crate::contact::Contact;
use crate::id::{Key, NodeId};
use crate::limits::{
    NEIGHBOUR_SILENCE_MAX, REFRESH_PAUSE, SETTLE_PAUSE, SUSPECT_PAUSE, UNRESPONSIVE_PAUSE, UNRESPONSIVE_PER_TURN_MAX,
    UPKEEP_LOOKUPS_MAX,
};
use crate::node::Node;
use crate::node::action::{Actions, ConnId, DialError};
use crate::node::params::Serving;
use crate::node::purpose::Purpose;
use crate::node::query::Query;
use crate::node::status::Status;
use crate::node::timers::Timer;
use crate::time::{Now, Time};

/// What this node knows of its contacts beyond the table.
#[derive(Debug)]
pub(crate) struct Liveness {
    /// The most live contacts there were since this node settled last.
    most_live: usize,
    /// The fewest there were since more than a quarter of those were lost. When there are many more
    /// again, the node was cut off from a network that may have newer records.
    fewest_live: Option<usize>,
    /// When this node may settle again for that.
    settles_again: Time,
    /// Contacts that have been sent a PING.
    pinging: BTreeSet<NodeId>,
    /// When a near contact whose connection breaks is pinged at once again.
    suspected: BTreeMap<NodeId, Time>,
}

impl Liveness {
    pub(crate) fn new() -> Self {
        Self {
            most_live: 0,
            fewest_live: None,
            settles_again: Time::ZERO,
            pinging: BTreeSet::new(),
            suspected: BTreeMap::new(),
        }
    }
}

/// Contacts that come and go.
impl Node {
    /// A contact entered the table, or woke up in it.
    pub(crate) fn contact_found(&mut self, now: Now, contact: Contact, out: &mut Actions) {
        debug!("contact found {contact}");
        if self.status == Status::Joining && !self.queries.is_looking_up_self() {
            self.look_up_self(now, out);
        }
        self.settle_if_cut_off(now, out);
        self.liveness.most_live = self.liveness.most_live.max(self.table.live());
        self.offer_to_newcomer(now, &contact.id);
        if self.params.serving == Serving::Yes && !self.timers.is_set(Timer::Watch) {
            self.plan_watch(now);
        }
        let pause = self.jitter(REFRESH_PAUSE);
        self.timers.hasten(Timer::Refresh, now.mono + pause);
    }

    /// A request or a reply of `id` came in over `conn`. If it is a contact, and slept, it woke
    /// up; if it is none, it may become one.
    pub(crate) fn contact_heard(&mut self, now: Now, conn: ConnId, id: &NodeId, out: &mut Actions) {
        let was_unresponsive = self.table.is_unresponsive(id);
        if !self.table.heard(id) {
            self.dial_back(now, conn, out);
        } else if was_unresponsive && let Some(contact) = self.table.find(id).copied() {
            self.contact_found(now, contact, out);
        }
    }

    /// A request to a contact, or a dial of it, failed.
    pub(crate) fn contact_failed(&mut self, now: Now, id: &NodeId, out: &mut Actions) {
        let (was_live, lived) = (self.table.live(), self.is_live(id));
        // When nobody answers, the fault is likely on our side: nobody is forgotten for it.
        if was_live > 0
            && let Some(candidate) = self.table.failed(id)
        {
            self.probe(candidate, out);
        }
        self.after_a_loss(now, id, lived);
    }

    /// `contact` was not met where it was dialled. Whoever named it may have named a wrong address,
    /// so this counts against nobody who was met elsewhere.
    pub(crate) fn not_met(&mut self, now: Now, contact: Contact, error: DialError, out: &mut Actions) {
        if self.table.find(&contact.id).is_some_and(|met| met.address != contact.address) {
            return;
        }
        match error {
            DialError::Unreachable => self.contact_failed(now, &contact.id, out),
            DialError::NotAuthentic => self.contact_lost(now, &contact.id, out),
        }
    }

    /// A contact took its leave, or is not who it was.
    pub(crate) fn contact_lost(&mut self, now: Now, id: &NodeId, out: &mut Actions) {
        let lived = self.is_live(id);
        if let Some(candidate) = self.table.remove(id) {
            self.probe(candidate, out);
        }
        self.after_a_loss(now, id, lived);
    }

    fn is_live(&self, id: &NodeId) -> bool {
        self.table.contains(id) && !self.table.is_unresponsive(id)
    }

    /// `id` is not asked any more; `lived` says whether it was until now.
    fn after_a_loss(&mut self, now: Now, id: &NodeId, lived: bool) {
        self.offers.forget(id);
        self.copies.forget(id);
        if lived {
            self.offer_in_place_of(now, id);
        }
        if self.table.unresponsive().next().is_some() {
            let pause = self.jitter(UNRESPONSIVE_PAUSE);
            self.timers.hasten(Timer::Refresh, now.mono + pause);
        }
        if lived && self.table.live() == 0 {
            self.lost_everybody(now);
        }
        let live = self.table.live();
        let lost = self.liveness.most_live.saturating_sub(live);
        if lost > 1 && 4 * lost > self.liveness.most_live {
            self.liveness.fewest_live = Some(self.liveness.fewest_live.map_or(live, |fewest| fewest.min(live)));
        }
    }

    /// Settles again if this node was cut off, and many are there again; not time and again.
    fn settle_if_cut_off(&mut self, now: Now, out: &mut Actions) {
        let grown = self.liveness.fewest_live.is_some_and(|fewest| 4 * self.table.live() > 5 * fewest);
        if grown && self.status.is_settled() && self.liveness.settles_again <= now.mono {
            self.liveness.settles_again = now.mono + SETTLE_PAUSE;
            self.settle_again(now, out);
        }
    }

    /// Whether this node was cut off from more than a quarter of its contacts since this was last
    /// asked.
    pub(crate) fn take_cut_off(&mut self) -> bool {
        self.liveness.most_live = self.table.live();
        self.liveness.fewest_live.take().is_some()
    }

    /// Asks a contact whether it is there.
    pub(crate) fn ping(&mut self, now: Now, contact: Contact, out: &mut Actions) {
        if self.liveness.pinging.insert(contact.id) && !self.call(now, contact, Purpose::Ping, out) {
            self.liveness.pinging.remove(&contact.id);
        }
    }

    /// A contact has answered a PING, or will not.
    pub(crate) fn on_ping_outcome(&mut self, id: &NodeId) {
        self.liveness.pinging.remove(id);
    }

    pub(crate) fn ping_unresponsive(&mut self, now: Now, out: &mut Actions) {
        let unresponsive: Vec<Contact> = self.table.unresponsive().copied().collect();
        if unresponsive.is_empty() {
            return;
        }
        let first = self.rng.random_range(0..unresponsive.len());
        for contact in unresponsive.iter().cycle().skip(first).take(unresponsive.len().min(UNRESPONSIVE_PER_TURN_MAX)) {
            self.ping(now, *contact, out);
        }
    }

    /// A connection to `peer` broke. If it is a near contact, it may have died: that is asked now.
    /// Not time and again: a peer that has too many connections would close this one at once.
    pub(crate) fn suspect(&mut self, now: Now, peer: &NodeId, out: &mut Actions) {
        if !self.status.has_joined() || self.peers.route(peer).is_some() || !self.is_live(peer) {
            return;
        }
        let near = self.table.closer_than(self.me.id.key(), peer) < self.params.k;
        self.liveness.suspected.retain(|_, again| *again > now.mono);
        let Some(contact) = self.table.find(peer).copied().filter(|_| near) else { return };
        if !self.liveness.suspected.contains_key(peer) {
            self.liveness.suspected.insert(*peer, now.mono + SUSPECT_PAUSE);
            self.ping(now, contact, out);
        }
    }

    /// Asks the nearest contacts that were not heard for a while whether they are there.
    pub(crate) fn watch(&mut self, now: Now, out: &mut Actions) {
        let mut nearest = std::mem::take(&mut self.nearby);
        self.table.closest(self.me.id.key(), self.params.k, &mut nearest);
        for contact in &nearest {
            // Half: who was heard a moment ago would otherwise be missed for almost twice as long.
            let silent = self.peers.last_heard(&contact.id).is_none_or(|at| now.mono - at >= NEIGHBOUR_SILENCE_MAX / 2);
            if silent {
                self.ping(now, *contact, out);
            }
        }
        self.nearby = nearest;
        self.settle_if_cut_off(now, out);
        if self.table.live() > 0 {
            self.plan_watch(now);
        }
    }

    fn plan_watch(&mut self, now: Now) {
        let pause = self.jitter(NEIGHBOUR_SILENCE_MAX);
        self.timers.hasten(Timer::Watch, now.mono + pause);
    }

    /// Looks up a random point of the bucket that needs it most, and asks those who sleep.
    pub(crate) fn refresh(&mut self, now: Now, out: &mut Actions) {
        if self.status.has_joined() {
            self.ping_unresponsive(now, out);
            if self.queries.maintenance() < UPKEEP_LOOKUPS_MAX
                && let Some(bucket) = self.table.stale_bucket(now.mono, self.params.refresh_interval)
            {
                let target = self.me.id.key().diverging_at(bucket, &Key::new(self.rng.random()));
                self.table.looked_up(now.mono, &target);
                let lookup = self.look_up(target, self.params.k);
                let query = self.queries.insert(Query::Refresh(lookup));
                self.advance(now, query, out);
            }
        }
        self.plan_refresh(now);
    }

    fn plan_refresh(&mut self, now: Now) {
        let pause = self.jitter(REFRESH_PAUSE);
        let free = self.queries.maintenance() < UPKEEP_LOOKUPS_MAX;
        if let Some(stale) = self.table.next_refresh(self.params.refresh_interval).filter(|_| free) {
            self.timers.hasten(Timer::Refresh, stale.max(now.mono + pause));
        }
        if self.table.unresponsive().next().is_some() {
            let pause = self.jitter(UNRESPONSIVE_PAUSE);
            self.timers.hasten(Timer::Refresh, now.mono + pause);
        }
    }

    /// A search for upkeep has ended.
    pub(crate) fn maintenance_done(&mut self, now: Now, target: Key, answered: &[Contact]) {
        debug!("search done target={target:.8} answered={} contacts={}", answered.len(), self.table.live());
        if target == *self.me.id.key() {
            self.table.looked_up(now.mono, &target);
            self.joined_through(now, answered);
            self.begin_to_sync(now);
        }
        self.plan_refresh(now);
    }
}
