//! Read repair: when a lookup of a value ends, this node sends a copy of the winner to replicas that returned an older
//! record or none (`PROTOCOL.md` 3).
//!
//! A PUT that has met a larger record does the same: it looks up that record for the nodes that have taken its own.
//!
//! Guarantees: only verified records are sent, with the remaining life, and at most k copies per lookup.
//!
//! Non-goals: no client waits for the copies, and they are not retried. If too many repairs are in
//! flight, this one is skipped; the next GET or the next round of offers repairs the replicas.

use crate::contact::Contact;
use crate::id::{Key, NodeId};
use crate::node::Node;
use crate::node::action::Actions;
use crate::node::params::Serving;
use crate::node::query::read_quorum::Found;
use crate::node::query::{Query, Read};
use crate::record::Source;
use crate::time::Now;

impl Node {
    /// Sends `found`, the winner of `read`, to all replicas with an older record, and to the
    /// nodes nearest to the key that store none. This node stores it too, if it is one of them.
    ///
    /// Nothing is sent while a PUT of the key runs on this node: that PUT sends its own copies.
    pub(crate) fn repair_behind(&mut self, now: Now, read: &Read, found: &Found, out: &mut Actions) {
        let (key, replication) = (found.record.key, found.record.replication);
        if self.status.is_leaving() || self.queries.writing(&key).is_some() {
            return;
        }
        let in_scope = self.status.is_settled()
            && self.params.serving == Serving::Yes
            && self.surely_in_scope(&key, replication.into());
        if in_scope || self.storage.find(now.mono, &key).is_some() {
            self.hold(now, found.record.clone(), found.expires, Source::Peer);
        }
        let others = usize::from(replication) - usize::from(in_scope);
        let nearest: Vec<NodeId> = read.lookup.nearest().take(others).map(|contact| contact.id).collect();
        let mut behind: Vec<Contact> = read.quorum.behind(found, &nearest).collect();
        let known: Vec<NodeId> = behind.iter().map(|contact| contact.id).collect();
        behind.extend(read.repairs.iter().flatten().filter(|contact| !known.contains(&contact.id)));
        behind.sort_unstable_by_key(|contact| contact.id.key().distance(&key));
        behind.truncate(self.params.k);
        self.repair(now, found.record.clone(), found.expires, &behind, out);
    }

    /// A PUT of `key` has met a larger record, and the peers `behind` have taken its own. Looks up the larger one, and
    /// sends it to them. Does nothing if too many such lookups are running.
    pub(crate) fn replace_copies(&mut self, now: Now, key: Key, behind: Vec<Contact>, out: &mut Actions) {
        let is_stored_here = self.storage.find(now.mono, &key).is_some();
        if behind.is_empty() && !is_stored_here || self.status.is_leaving() || !self.queries.may_repair() {
            return;
        }
        let lookup = self.look_up(key, self.params.k);
        let mut read = Read::new(now.mono, lookup, self.empty_quorum(), self.versions.newest(&key));
        read.repairs = Some(behind);
        let query = self.queries.insert(Query::Read(Box::new(read)));
        self.advance(now, query, out);
    }
}
