//! Address families: which peers can dial only one, and which nodes pass records on between the two.
//!
//! The IPv4-only nodes of a network and its IPv6-only nodes do not reach each other. A *bridge* is a serving
//! node that has dialled live contacts of both kinds. It passes records on
//! ([`crate::node::query::relay`]). HELLO announces the families of a node and whether it is a bridge;
//! BRIDGES announces later changes, and names bridges to nodes that have no connection to one.
//!
//! An address counts for a family only after a dial in that family succeeded: a contact counts for this node
//! after its own dial, and a node stops announcing a family in which only dials have failed.
//!
//! In a network where all nodes share a family there is no bridge, and nothing here sends a message.
//!
//! While a bridge is known that may run, another family exists ([`crate::node::rpc::bridges`]).
//!
//! Not guaranteed: that a node that claims to be a bridge is one. If no other bridge is known, PUTs are not confirmed
//! while such a node fails to serve.

use std::time::Duration;

use log::{debug, info, warn};

use crate::contact::{Contact, Family, is_dialable};
use crate::id::{Key, NodeId};
use crate::limits::{BRIDGES_MAX, K_MAX};
use crate::node::Node;
use crate::node::action::{Actions, ConnId};
use crate::node::params::{Families, Serving};
use crate::node::rpc::bridges::{Bridges, Loss};
use crate::node::rpc::peers::Conn;
use crate::node::timers::Timer;
use crate::time::{Now, Time};
use crate::wire::codec::List;
use crate::wire::peer::{
    Bridges as BridgesMessage, FLAG_BRIDGE, FLAG_IPV4, FLAG_IPV6, FLAG_KNOWS_TENTATIVE, FLAG_SERVING, FLAG_TELLS_TIME,
    PeerMessage,
};

/// Contacts of one family only that a dual-stack node remembers beside its table, for each family. A bucket
/// that is full of contacts of one family has no room for the other, so that lookups in the other need these.
const SINGLE_MAX: usize = K_MAX;

/// A dual-stack node that remembers fewer nodes of one family than this dials back those that connect to it,
/// even if its table has no room.
const SINGLE_WANTED: usize = 4;

/// After this number of failed dials in a family, and none that succeeded, the node does without the family.
const FAILED_DIALS_MAX: u32 = 4;

/// The pause between a change and the BRIDGES that announces it: one message announces several changes.
const TELL_PAUSE: Duration = Duration::from_secs(1);

/// The shortest time between two announcements to all peers.
const TELL_AGAIN_PAUSE: Duration = Duration::from_secs(10);

/// The shortest time between two BRIDGES that answer one peer.
const ANSWER_PAUSE: Duration = Duration::from_secs(1);

/// Peers that a node asks for bridges at a time.
const ASKED_MAX: usize = K_MAX;

/// What this node knows of the two families.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    /// The dials in IPv4 and in IPv6.
    dials: [Dials; 2],
    /// Serving nodes that this node has dialled and that can dial one family only; the newest last. Kept by
    /// dual-stack nodes.
    single: [Vec<Single>; 2],
    /// The bridges that this node knows.
    pub(super) bridges: Bridges,
    /// What all peers were told last, and when. At first they know what HELLO says.
    told: Option<(Time, u16, Vec<NodeId>)>,
}

/// How a dial has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialled {
    /// The node at the address has proven its id.
    Reached,
    /// No node is reached at the address.
    Failed,
}

/// The dials in a family so far.
#[derive(Clone, Copy, Debug)]
enum Dials {
    /// This number has failed, and none has succeeded.
    Failed(u32),
    /// One has succeeded.
    Succeeded,
}

impl Default for Dials {
    fn default() -> Self {
        Self::Failed(0)
    }
}

/// A node of one family only.
#[derive(Clone, Copy, Debug)]
struct Single {
    contact: Contact,
    is_live: bool,
}

/// How the nodes of the other family get a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WayAcross {
    /// This node is a bridge: it stores the record in both families.
    Own,
    /// A bridge stores it in that family.
    Through(Contact, Family),
    /// There is another family, and no bridge can be asked now. This node looks for one.
    Sought,
    /// No other family is known.
    None,
}

fn index(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

/// The families that the flags of a HELLO announce; `None` if they announce none, as those of older versions.
pub(super) fn families_in(flags: u16) -> Option<Families> {
    match (flags & FLAG_IPV4 != 0, flags & FLAG_IPV6 != 0) {
        (true, true) => Some(Families::Both),
        (true, false) => Some(Families::V4),
        (false, true) => Some(Families::V6),
        (false, false) => None,
    }
}

impl Reach {
    /// Whether a live node of this family alone is known.
    fn has_single(&self, family: Family) -> bool {
        self.single[index(family)].iter().any(|single| single.is_live)
    }

    /// Live nodes of this family alone.
    fn single(&self, family: Family) -> impl Iterator<Item = &Contact> {
        self.single[index(family)].iter().filter(|single| single.is_live).map(|single| &single.contact)
    }

    /// Remembers a node of this family alone.
    fn note_single(&mut self, contact: Contact) {
        self.forget_single(&contact.id);
        let singles = &mut self.single[index(Family::of(contact.address))];
        if singles.len() == SINGLE_MAX {
            let at = singles.iter().position(|single| !single.is_live).unwrap_or(0);
            singles.remove(at);
        }
        singles.push(Single { contact, is_live: true });
    }

    fn forget_single(&mut self, id: &NodeId) {
        for singles in &mut self.single {
            singles.retain(|single| single.contact.id != *id);
        }
    }

    /// Notes whether `id` is live, if it is remembered. Returns whether that is new.
    fn set_live(&mut self, id: &NodeId, is_live: bool) -> bool {
        let changed = |single: &&mut Single| single.contact.id == *id && single.is_live != is_live;
        let single = self.single.iter_mut().flatten().find(changed);
        single.map(|single| single.is_live = is_live).is_some()
    }
}

/// What this node can dial.
impl Node {
    /// The families that this node can dial: those of its configuration, without one in which all dials have
    /// failed while the other one works.
    pub(crate) fn families(&self) -> Families {
        match (self.params.families, self.reach.dials) {
            (Families::Both, [Dials::Succeeded, Dials::Failed(FAILED_DIALS_MAX..)]) => Families::V4,
            (Families::Both, [Dials::Failed(FAILED_DIALS_MAX..), Dials::Succeeded]) => Families::V6,
            (configured, _) => configured,
        }
    }

    /// A dial of `contact` has ended.
    pub(super) fn note_dial(&mut self, now: Now, contact: Contact, dialled: Dialled) {
        if self.params.families != Families::Both {
            return;
        }
        let before = self.families();
        let dials = &mut self.reach.dials[index(Family::of(contact.address))];
        *dials = match *dials {
            Dials::Failed(failed) if dialled == Dialled::Failed => Dials::Failed(failed.saturating_add(1)),
            Dials::Failed(_) | Dials::Succeeded => Dials::Succeeded,
        };
        if self.families() != before {
            info!("address families families={:?}", self.families());
            self.tell_soon(now);
        }
    }

    /// Whether this node has dialled live nodes of each family that cannot dial the other one: it stores
    /// records in each family.
    pub(crate) fn spans_families(&self) -> bool {
        self.reach.has_single(Family::V4) && self.reach.has_single(Family::V6)
    }

    /// The families that this node treats as separate networks; `None` stands for all addresses that it can dial.
    pub(crate) fn overlays(&self) -> &'static [Option<Family>] {
        if self.spans_families() { &[Some(Family::V4), Some(Family::V6)] } else { &[None] }
    }

    /// The flags of the HELLO and the BRIDGES of this node.
    pub(super) fn flags(&self) -> u16 {
        self.flags_of(self.families())
    }

    fn flags_of(&self, families: Families) -> u16 {
        let serving = self.params.serving == Serving::Yes;
        let flag = |flag, is_set: bool| if is_set { flag } else { 0 };
        flag(FLAG_SERVING, serving)
            | flag(FLAG_IPV4, families.include(Family::V4))
            | flag(FLAG_IPV6, families.include(Family::V6))
            | flag(FLAG_BRIDGE, serving && self.spans_families())
            | FLAG_TELLS_TIME
            | FLAG_KNOWS_TENTATIVE
    }

    /// Replaces the content of `nearby` by the `n` live contacts closest to `target` in `overlay`.
    pub(crate) fn gather_nearest(&mut self, target: &Key, n: usize, overlay: Option<Family>) {
        let Some(family) = overlay else { return self.table.closest(target, n, &mut self.nearby) };
        let wants = |contact: &Contact| Family::of(contact.address) == family;
        self.table.closest_of(target, n, wants, &mut self.nearby);
        if !self.spans_families() {
            return;
        }
        let (table, nearby) = (&self.table, &mut self.nearby);
        let outside = self.reach.single(family).filter(|contact| !table.contains(&contact.id));
        let before = nearby.len();
        nearby.extend(outside);
        if nearby.len() > before {
            nearby.sort_by_key(|contact| contact.id.key().distance(target));
            nearby.truncate(n);
        }
    }

    /// Whether fewer than `n` live contacts are closer to `key` than this node is, in one of its overlays.
    pub(crate) fn fewer_closer(&self, key: &Key, n: usize) -> bool {
        let own = self.me.id.key().distance(key);
        let fewer_in = |family: Family| {
            let is_closer =
                |contact: &&Contact| Family::of(contact.address) == family && contact.id.key().distance(key) < own;
            self.table.iter().filter(is_closer).take(n).count() < n
        };
        self.table.fewer_closer(key, n) || self.overlays().iter().flatten().any(|family| fewer_in(*family))
    }

    /// The family that the peer on `conn` can dial, if it can dial only one.
    pub(crate) fn single_family_of(&self, conn: ConnId) -> Option<Family> {
        families_in(self.peers.find(conn)?.flags)?.single()
    }
}

/// Bridges.
impl Node {
    /// How the nodes of the other family get a record of `key`; the bridges `tried` have failed.
    pub(crate) fn way_across(&self, now: Now, key: &Key, tried: &[NodeId]) -> WayAcross {
        if self.spans_families() {
            return WayAcross::Own;
        }
        let missing = match self.families().single() {
            Some(family) => Some(family.other()),
            // A dual-stack node that knows only one of the families needs a bridge too.
            None => [Family::V4, Family::V6].into_iter().find(|family| !self.reach.has_single(*family)),
        };
        match (self.reach.bridges.choose(now.mono, key, tried), missing) {
            (Some(bridge), Some(family)) => WayAcross::Through(bridge, family),
            _ if self.reach.bridges.are_expected(now.mono) => WayAcross::Sought,
            _ => WayAcross::None,
        }
    }

    /// The peer on `conn` has sent its flags. It may be a node of one family, or a bridge. If it is no bridge, although
    /// it was one, it is lost in the way `loss`.
    pub(super) fn on_flags(&mut self, now: Now, id: ConnId, flags: u16, loss: Loss, out: &mut Actions) {
        let Some(conn) = self.peers.conns.get_mut(&id) else { return };
        conn.flags = flags;
        let conn = *conn;
        let single = families_in(flags).and_then(Families::single);
        let contact = conn.contact().filter(|_| flags & FLAG_SERVING != 0);
        if self.families() == Families::Both {
            self.note_families(now, conn.is_dialled(), contact, single, out);
        }
        let is_bridge = flags & FLAG_BRIDGE != 0 && single.is_none();
        match contact.filter(|contact| self.families().reach(contact.address)) {
            Some(contact) if is_bridge => {
                let was_met = self.known_bridge(&contact.id) == Some(&contact);
                let is_verified = was_met || conn.is_dialled() || self.peers.is_verified(&contact);
                self.consider_bridge(now, contact, is_verified, out);
            }
            Some(contact) if loss == Loss::Gone => self.not_a_bridge(now, &contact.id, out),
            Some(contact) => self.drop_bridge(now, &contact.id, loss, out),
            None => {}
        }
    }

    /// `contact` is said to be a bridge. This node relies on it after a dial of its own.
    fn consider_bridge(&mut self, now: Now, contact: Contact, is_verified: bool, out: &mut Actions) {
        if !self.reach.bridges.may_add(now.mono, &contact.id) {
            return;
        }
        if is_verified {
            debug!("bridge found {contact}");
            self.reach.bridges.add(now.mono, contact);
            self.tell_soon(now);
            self.resume_relays(now, out);
        } else {
            self.reach.bridges.name(now.mono, contact);
            self.probe(contact, out);
        }
    }

    /// A serving peer has said whether it can dial a `single` family only.
    fn note_families(
        &mut self,
        now: Now,
        is_dialled: bool,
        contact: Option<Contact>,
        single: Option<Family>,
        out: &mut Actions,
    ) {
        let Some(contact) = contact else { return };
        match single {
            Some(_) if is_dialled => {
                self.reach.note_single(contact);
                self.tell_soon(now);
            }
            // The table may have no room for it. It is the way to its family.
            Some(family)
                if self.reach.single(family).count() < SINGLE_WANTED && self.reach.has_single(family.other()) =>
            {
                self.probe(contact, out);
            }
            Some(_) => {}
            None => {
                self.reach.forget_single(&contact.id);
                self.tell_soon(now);
            }
        }
    }

    /// Names the bridges that this node knows and the peer on `id` can dial, if there are any.
    pub(super) fn name_bridges(&mut self, now: Now, id: ConnId, out: &mut Actions) {
        if !self.bridges_for(id).is_empty() {
            self.send_bridges(now, id, out);
        }
    }

    /// The bridges that this node knows and the peer on `id` can dial.
    fn bridges_for(&self, id: ConnId) -> Vec<Contact> {
        let Some(conn) = self.peers.find(id) else { return Vec::new() };
        let Some(families) = families_in(conn.flags) else { return Vec::new() }; // an older version
        let known = self.reach.bridges.present().copied();
        known.filter(|contact| families.reach(contact.address) && contact.id != conn.peer).take(BRIDGES_MAX).collect()
    }

    /// A peer has announced its flags again, and has named bridges.
    pub(crate) fn on_bridges(&mut self, now: Now, id: ConnId, bridges: &BridgesMessage<'_>, out: &mut Actions) {
        self.on_flags(now, id, bridges.flags, Loss::Gone, out);
        let Some(conn) = self.peers.find(id).copied() else { return };
        for contact in bridges.known.iter() {
            let can_dial = is_dialable(contact.address, conn.address) && self.families().reach(contact.address);
            if can_dial && !self.spans_families() && contact.id != self.me.id && !self.peers.is_verified(&contact) {
                self.consider_bridge(now, contact, false, out);
            }
        }
        let may_answer = conn.told_at.is_none_or(|at| now.mono >= at + ANSWER_PAUSE);
        if bridges.known.is_empty() && may_answer {
            self.name_bridges(now, id, out);
        }
    }

    fn send_bridges(&mut self, now: Now, id: ConnId, out: &mut Actions) {
        let known = self.bridges_for(id);
        let knows_message = |conn: &&mut Conn| families_in(conn.flags).is_some();
        let Some(conn) = self.peers.conns.get_mut(&id).filter(knows_message) else { return };
        conn.told_at = Some(now.mono);
        let bridges = BridgesMessage { flags: self.flags(), known: List::lend(&known) };
        out.send(id, &PeerMessage::Bridges(bridges), None);
    }

    /// What peers have been told last: the flags of this node, and the bridges that it knows.
    fn told(&self) -> (u16, &[NodeId]) {
        match &self.reach.told {
            Some((_, flags, known)) => (*flags, known),
            None => (self.flags_of(self.params.families) & !FLAG_BRIDGE, &[]),
        }
    }

    /// Tells all peers what has changed, if anything has, after a pause.
    fn tell_soon(&mut self, now: Now) {
        let (flags, known) = self.told();
        if flags == self.flags() && self.reach.bridges.present().map(|bridge| &bridge.id).eq(known) {
            return;
        }
        let again = self.reach.told.as_ref().map_or(now.mono, |(at, ..)| *at + TELL_AGAIN_PAUSE);
        self.timers.hasten(Timer::Families, again.max(now.mono + TELL_PAUSE));
    }

    /// If this node has become a bridge or is none any more, or knows other bridges, it tells all peers.
    pub(crate) fn tell_families(&mut self, now: Now, out: &mut Actions) {
        let (flags, known) = (self.flags(), self.reach.bridges.present().map(|bridge| bridge.id).collect::<Vec<_>>());
        let (told_flags, told_known) = self.told();
        if (flags, &known[..]) == (told_flags, told_known) {
            return; // what had changed is as before
        }
        if (flags ^ told_flags) & FLAG_BRIDGE != 0 {
            info!("bridge between address families is_bridge={}", flags & FLAG_BRIDGE != 0);
        }
        self.reach.told = Some((now.mono, flags, known));
        for id in self.peers.reached() {
            self.send_bridges(now, id, out);
        }
    }

    /// The address at which this node has met the bridge `id`.
    pub(crate) fn known_bridge(&self, id: &NodeId) -> Option<&Contact> {
        self.reach.bridges.find(id)
    }

    /// A message of `id` has arrived.
    pub(crate) fn family_heard(&mut self, now: Now, id: &NodeId, out: &mut Actions) {
        let is_bridge = self.reach.bridges.heard(id);
        if self.reach.set_live(id, true) || is_bridge {
            self.tell_soon(now);
        }
        if is_bridge {
            self.resume_relays(now, out);
        }
    }

    /// `id` is lost as a contact.
    pub(crate) fn family_lost(&mut self, now: Now, id: &NodeId, loss: Loss, out: &mut Actions) {
        if self.reach.set_live(id, false) {
            self.tell_soon(now);
        }
        self.drop_bridge(now, id, loss, out);
    }

    /// `id` says that it is no bridge.
    pub(crate) fn not_a_bridge(&mut self, now: Now, id: &NodeId, out: &mut Actions) {
        // One that has restarted may be a bridge again soon.
        if self.reach.bridges.is_present(id) {
            self.drop_bridge(now, id, Loss::Gone, out);
        }
    }

    /// `id` is lost as a bridge, if it was one. If no other is left, this node looks for one.
    fn drop_bridge(&mut self, now: Now, id: &NodeId, loss: Loss, out: &mut Actions) {
        if !self.reach.bridges.lose(now.mono, id, loss) {
            return;
        }
        debug!("bridge lost id={id:.8} loss={loss:?} left={}", self.reach.bridges.present().count());
        self.tell_soon(now);
        self.seek_bridges(now, out);
        self.relays_failed(now, id, out);
    }

    /// If no bridge can be asked, this node dials those that were lost, and asks its peers for others.
    pub(crate) fn seek_bridges(&mut self, now: Now, out: &mut Actions) {
        if self.reach.bridges.present().next().is_some() {
            return;
        }
        let Some(absent) = self.reach.bridges.seek(now.mono) else { return };
        for contact in absent {
            self.probe(contact, out);
        }
        for conn in self.peers.reached().into_iter().take(ASKED_MAX) {
            self.send_bridges(now, conn, out);
        }
    }

    /// A bridge has served a request.
    pub(crate) fn bridge_served(&mut self, id: &NodeId) {
        self.reach.bridges.served(id);
    }

    /// A bridge has not served a request that was made at `begun`.
    pub(crate) fn bridge_failed(&mut self, now: Now, id: &NodeId, begun: Time, out: &mut Actions) {
        if let Some(pause) = self.reach.bridges.failed(now.mono, id, begun) {
            warn!("bridge has never served id={id:.8} pause_s={}", pause.as_secs());
            self.drop_bridge(now, id, Loss::Gone, out);
        }
    }
}
