//! Liveness: which contacts respond, and which buckets need a lookup. A bounded amount of work in a turn.
//!
//! An unresponsive neighbour is detected in about a minute, one whose connection breaks at once: this node
//! pings it, because a record that it stored has one replica fewer now. Other contacts are not pinged
//! unless a request to them fails; lookups detect them.
//!
//! A node that loses many contacts was perhaps cut off from the network. When contacts respond again, it
//! settles again: the network may store newer records.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use log::{debug, info};
use rand::RngExt;

use crate::contact::Contact;
use crate::id::{Key, NodeId};
use crate::limits::{REFRESH_PAUSE, SETTLE_PAUSE, UNRESPONSIVE_PAUSE};
use crate::node::Node;
use crate::node::action::{Actions, ConnId, DialError};
use crate::node::params::Serving;
use crate::node::purpose::Purpose;
use crate::node::query::Query;
use crate::node::replication::schedule::{Change, HandOver};
use crate::node::rpc::bridges::Loss;
use crate::node::status::Status;
use crate::node::timers::Timer;
use crate::time::{Now, Time};

/// Lookups that refresh buckets in flight, however many buckets are stale.
const UPKEEP_LOOKUPS_MAX: usize = 2;

/// Unresponsive contacts that are pinged at a time.
const UNRESPONSIVE_PER_TURN_MAX: usize = 8;

/// A close contact without a message for about this time is pinged. So the failure of a neighbour is
/// noticed after about a minute, at the price of one or two messages per minute and neighbour.
const NEIGHBOUR_SILENCE_MAX: Duration = Duration::from_mins(1);

/// A close contact whose connection broke is pinged at once, but not more often than this.
const SUSPECT_PAUSE: Duration = Duration::from_secs(30);

/// What this node knows of its contacts besides the routing table.
#[derive(Debug, Default)]
pub(crate) struct Liveness {
    /// The maximum number of live contacts since this node last settled.
    most_live: usize,
    /// The minimum since more than a quarter of `most_live` was lost; `None` if that did not happen.
    fewest_live: Option<usize>,
    /// When this node may settle again because contacts respond again.
    settle_again_at: Time,
    /// Contacts with a PING in flight.
    pinging: BTreeSet<NodeId>,
    /// When a broken connection to a neighbour may trigger a PING again.
    ping_again_at: BTreeMap<NodeId, Time>,
}

/// Contacts that are added, respond, and are lost.
impl Node {
    /// A contact entered the table, or became responsive again.
    pub(crate) fn contact_found(&mut self, now: Now, contact: Contact, out: &mut Actions) {
        debug!("contact found {contact}");
        self.address_book.note_met(&contact.id);
        self.count_dialled(now);
        self.not_alone(now, "a contact answers");
        if self.status == Status::Joining {
            self.look_up_self(now, None, out);
        }
        self.settle_after_reconnecting(now, out);
        self.liveness.most_live = self.liveness.most_live.max(self.table.live());
        self.offer_after_change(now, &contact.id, Change::Added);
        self.ask_if_unheard(&contact.id, now.mono);
        if self.params.serving == Serving::Yes && !self.timers.is_set(Timer::Watch) {
            self.hasten_after(Timer::Watch, now, NEIGHBOUR_SILENCE_MAX);
        }
        self.hasten_after(Timer::Refresh, now, REFRESH_PAUSE);
        if !self.timers.is_set(Timer::Heartbeat) {
            self.heartbeat(now);
        }
    }

    /// A request of `id` arrived on `conn`. A peer that is no contact may become one. An unresponsive contact is pinged:
    /// one that asks and does not answer would hold up each lookup.
    pub(crate) fn contact_heard(&mut self, now: Now, conn: ConnId, id: &NodeId, out: &mut Actions) {
        if self.table.is_unresponsive(id)
            && let Some(contact) = self.table.find(id).copied()
        {
            return self.ping(now, contact, out);
        }
        self.family_heard(now, id, out);
        if !self.table.heard(id) {
            self.dial_back(now, conn, out);
        }
    }

    /// A reply of `id` to a request of this node arrived on `conn`. An unresponsive contact is live again; a peer that is
    /// no contact may become one.
    pub(crate) fn contact_answered(&mut self, now: Now, conn: ConnId, id: &NodeId, out: &mut Actions) {
        self.family_heard(now, id, out);
        let was_unresponsive = self.table.is_unresponsive(id);
        if !self.table.heard(id) {
            self.dial_back(now, conn, out);
        } else if was_unresponsive && let Some(contact) = self.table.find(id).copied() {
            self.contact_found(now, contact, out);
        }
    }

    /// A request to a contact, or a dial of it, failed. As a bridge it is lost in the way `loss`.
    pub(crate) fn contact_failed(&mut self, now: Now, id: &NodeId, loss: Loss, out: &mut Actions) {
        let was_live = self.is_live(id);
        // A peer that is connected and does not answer stays unresponsive: if it were forgotten, it would be a new contact
        // at its next message. If no contact responds, the fault is probably on this side, and none is removed for it.
        let is_kept = self.table.is_unresponsive(id) && self.peers.route(id).is_some();
        if self.table.live() > 0
            && !is_kept
            && let Some(candidate) = self.table.failed(now.mono, id)
        {
            self.probe(candidate, out);
        }
        self.after_loss(now, id, was_live);
        self.family_lost(now, id, loss, out);
    }

    /// `contact` was not reached at its address. The peer that named it may have named a wrong address, so
    /// this does not count against a contact that was reached at another one.
    pub(crate) fn not_reached(&mut self, now: Now, contact: Contact, error: DialError, out: &mut Actions) {
        let known = [self.table.find(&contact.id), self.known_bridge(&contact.id)];
        if known.into_iter().flatten().any(|known| known.address != contact.address) {
            return;
        }
        match error {
            DialError::Refused => self.contact_failed(now, &contact.id, Loss::Gone, out),
            DialError::Unreachable | DialError::LocalFault => {
                self.contact_failed(now, &contact.id, Loss::Silent, out);
            }
            DialError::NotAuthentic => self.contact_lost(now, &contact.id, out),
        }
    }

    /// The peer `id` is leaving. If it is a contact, its address is kept for the next start of this node.
    pub(crate) fn contact_left(&mut self, now: Now, id: &NodeId, out: &mut Actions) {
        if let Some(contact) = self.table.find(id) {
            self.address_book.note_left(now.mono, *contact);
        }
        self.contact_lost(now, id, out);
        self.note_goodbye();
    }

    /// A contact has left, or another node is at its address.
    pub(crate) fn contact_lost(&mut self, now: Now, id: &NodeId, out: &mut Actions) {
        let was_live = self.is_live(id);
        if let Some(candidate) = self.table.remove(id) {
            self.probe(candidate, out);
        }
        self.after_loss(now, id, was_live);
        self.family_lost(now, id, Loss::Gone, out);
    }

    pub(crate) fn is_live(&self, id: &NodeId) -> bool {
        self.table.contains(id) && !self.table.is_unresponsive(id)
    }

    /// `id` gets no more requests; `was_live` says whether it was live until now.
    fn after_loss(&mut self, now: Now, id: &NodeId, was_live: bool) {
        self.offers.forget(id);
        self.copies.forget(id);
        self.count_dialled(now);
        if was_live {
            self.offer_after_change(now, id, Change::Lost);
            self.hand_over_again(HandOver::Unverified);
        }
        self.plan_pings(now);
        let live = self.table.live();
        if was_live && live == 0 {
            self.join_again(now);
        }
        let lost = self.liveness.most_live.saturating_sub(live);
        if lost > 1 && 4 * lost > self.liveness.most_live {
            self.liveness.fewest_live = Some(self.liveness.fewest_live.map_or(live, |fewest| fewest.min(live)));
        }
    }

    /// Settles again if this node was cut off and has a quarter more live contacts again; at most once
    /// in [`SETTLE_PAUSE`].
    fn settle_after_reconnecting(&mut self, now: Now, out: &mut Actions) {
        let has_grown = self.liveness.fewest_live.is_some_and(|fewest| 4 * self.table.live() > 5 * fewest);
        if has_grown && self.status.is_settled() && self.liveness.settle_again_at <= now.mono {
            self.liveness.settle_again_at = now.mono + SETTLE_PAUSE;
            info!("settling again reason=\"contacts that were lost answer\" contacts={}", self.table.live());
            self.settle_again(now, out);
        }
    }

    /// Whether this node has lost more than a quarter of its contacts since it settled.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.liveness.fewest_live.is_some()
    }

    /// The same; from now on it counts as settled.
    pub(crate) fn take_cut_off(&mut self) -> bool {
        self.liveness.most_live = self.table.live();
        self.liveness.fewest_live.take().is_some()
    }

    /// Sends a PING to a contact, unless one is in flight.
    pub(crate) fn ping(&mut self, now: Now, contact: Contact, out: &mut Actions) {
        if self.begin_ping(contact.id) {
            self.call(now, contact, Purpose::Ping, out);
        }
    }

    /// Whether a PING to `id` may be sent: none is in flight. The caller sends it.
    pub(crate) fn begin_ping(&mut self, id: NodeId) -> bool {
        self.may_call() && self.liveness.pinging.insert(id)
    }

    /// A contact has answered a PING, or will not.
    pub(crate) fn on_ping_outcome(&mut self, id: &NodeId) {
        self.liveness.pinging.remove(id);
    }

    /// Pings unresponsive contacts, at most [`UNRESPONSIVE_PER_TURN_MAX`], from a random one on; while none is
    /// live, those first that did not fail since or failed long ago.
    pub(crate) fn ping_unresponsive(&mut self, now: Now, out: &mut Actions) {
        let mut unresponsive: Vec<Contact> = self.table.unresponsive().copied().collect();
        if unresponsive.is_empty() {
            return;
        }
        let first = self.rng.random_range(0..unresponsive.len());
        unresponsive.rotate_left(first);
        unresponsive.sort_by_key(|contact| self.absences.failed_at(contact));
        for contact in unresponsive.into_iter().take(UNRESPONSIVE_PER_TURN_MAX) {
            self.ping(now, contact, out);
        }
    }

    /// A connection to `peer` broke. If it is a neighbour, it may have failed: this node pings it, at most
    /// once in [`SUSPECT_PAUSE`]. A peer that has too many connections closes each new one at once.
    pub(crate) fn suspect(&mut self, now: Now, peer: &NodeId, out: &mut Actions) {
        if !self.status.has_joined() || self.peers.route(peer).is_some() || !self.is_live(peer) {
            return;
        }
        self.liveness.ping_again_at.retain(|_, at| *at > now.mono);
        let is_neighbour = self.table.closer_than(self.me.id.key(), peer) < self.params.k;
        let Some(contact) = self.table.find(peer).copied().filter(|_| is_neighbour) else { return };
        if !self.liveness.ping_again_at.contains_key(peer) {
            self.liveness.ping_again_at.insert(*peer, now.mono + SUSPECT_PAUSE);
            self.ping(now, contact, out);
        }
    }

    /// Pings the neighbours from which no message came for a while.
    pub(crate) fn watch(&mut self, now: Now, out: &mut Actions) {
        let mut nearest = std::mem::take(&mut self.nearby);
        self.table.closest(self.me.id.key(), self.params.k, &mut nearest);
        for contact in &nearest {
            // Half of the limit: the timer comes again only after the whole limit.
            let last_heard = self.peers.last_heard(&contact.id);
            if last_heard.is_none_or(|at| now.mono - at >= NEIGHBOUR_SILENCE_MAX / 2) {
                self.ping(now, *contact, out);
            }
        }
        self.nearby = nearest;
        self.settle_after_reconnecting(now, out);
        if self.table.live() > 0 {
            self.hasten_after(Timer::Watch, now, NEIGHBOUR_SILENCE_MAX);
        }
    }

    /// Looks up a random key of the most stale bucket, and pings unresponsive contacts.
    pub(crate) fn refresh(&mut self, now: Now, out: &mut Actions) {
        if self.status.has_joined() {
            self.ping_unresponsive(now, out);
            if self.queries.maintenance() < UPKEEP_LOOKUPS_MAX
                && let Some(bucket) = self.table.stale_bucket(now.mono, self.params.refresh_interval)
            {
                let target = self.me.id.key().diverging_at(bucket, &Key::new(self.rng.random()));
                self.table.looked_up(now.mono, &target);
                let lookup = self.look_up(target, self.params.k);
                let query = self.queries.insert(Query::Maintenance(lookup));
                self.advance(now, query, out);
            }
        }
        self.plan_refresh(now);
    }

    fn plan_refresh(&mut self, now: Now) {
        let pause = self.jitter(REFRESH_PAUSE);
        let has_room = self.queries.maintenance() < UPKEEP_LOOKUPS_MAX;
        if let Some(stale) = self.table.next_refresh(self.params.refresh_interval).filter(|_| has_room) {
            self.timers.hasten(Timer::Refresh, stale.max(now.mono + pause));
        }
        self.plan_pings(now);
    }

    /// Schedules the next PINGs to unresponsive contacts, if there are any.
    fn plan_pings(&mut self, now: Now) {
        if self.table.unresponsive().next().is_some() {
            self.hasten_after(Timer::Refresh, now, UNRESPONSIVE_PAUSE);
        }
    }

    /// A lookup of the own id, or of a stale bucket, has ended.
    pub(crate) fn maintenance_done(&mut self, now: Now, target: Key, answered: &[Contact], out: &mut Actions) {
        debug!("lookup done target={target:.8} answered={} contacts={}", answered.len(), self.table.live());
        if target == *self.me.id.key() {
            self.table.looked_up(now.mono, &target);
            self.looked_up_self(now, answered, out);
        }
        self.plan_refresh(now);
    }
}
