//! Read repair: when a lookup of a value ends, this node sends a copy of the winner to replicas that returned an older
//! record or none (`PROTOCOL.md` 3).
//!
//! Guarantees: only verified records are sent, with the remaining life, and at most k copies per lookup.
//!
//! Non-goals: no client waits for the copies, and they are not retried. If too many repairs are in
//! flight, this one is skipped; the next GET repairs the replicas.

use crate::contact::Contact;
use crate::id::NodeId;
use crate::node::Node;
use crate::node::action::Actions;
use crate::node::params::Serving;
use crate::node::query::Read;
use crate::node::query::read_quorum::Found;
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
        let in_scope =
            self.status.is_settled() && self.params.serving == Serving::Yes && self.in_scope(&key, replication);
        if in_scope || self.storage.find(now.mono, &key).is_some() {
            self.hold(now, found.record.clone(), found.expires, Source::Peer);
        }
        let others = usize::from(replication) - usize::from(in_scope);
        let nearest: Vec<NodeId> = read.lookup.nearest().take(others).map(|contact| contact.id).collect();
        let mut behind: Vec<Contact> = read.quorum.behind(found, &nearest).collect();
        behind.sort_unstable_by_key(|contact| contact.id.key().distance(&key));
        behind.truncate(self.params.k);
        self.repair(now, found.record.clone(), found.expires, &behind, out);
    }
}
