//! Reads that heal: who was behind when a GET ended is handed the winner (`PROTOCOL.md` 3).
//!
//! Once per GET, at most k copies, with the life that is left, and never of what was not verified.
//! The GET is answered by then: its repair has an end of its own, when each of those who were
//! handed a copy has answered or failed. Nobody waits for it, and where too many are under way, the
//! next one is left to the next GET.

use std::collections::BTreeMap;

use crate::contact::Contact;
use crate::id::NodeId;
use crate::limits::REPAIRS_MAX;
use crate::lookup::Lookup;
use crate::node::Node;
use crate::node::action::Actions;
use crate::node::params::Serving;
use crate::node::query::QueryId;
use crate::node::query::read_quorum::Found;
use crate::node::rpc::outbound::Purpose;
use crate::record::{Record, Source};
use crate::time::{Now, Time};

/// Names a repair; never used for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::node) struct RepairId(u64);

/// All repairs under way.
#[derive(Debug, Default)]
pub(in crate::node) struct Repairs {
    in_flight: BTreeMap<RepairId, Repair>,
    next: u64,
}

#[derive(Debug)]
struct Repair {
    record: Record,
    expires: Time,
    /// Copies whose reply is awaited.
    in_flight: usize,
}

impl Repairs {
    /// What is handed out, and when its life ends.
    pub(in crate::node) fn copy(&self, id: RepairId) -> Option<(&Record, Time)> {
        self.in_flight.get(&id).map(|repair| (&repair.record, repair.expires))
    }

    /// One of those who were handed a copy has answered, or will not.
    pub(in crate::node) fn copy_over(&mut self, id: RepairId) {
        if let Some(repair) = self.in_flight.get_mut(&id) {
            repair.in_flight -= 1;
            if repair.in_flight == 0 {
                self.in_flight.remove(&id);
            }
        }
    }
}

impl Node {
    /// Hands `found`, with which the GET `query` ends, to all who were behind: those who hold a
    /// smaller one, and those who shall hold it and said that they hold nothing. This node too.
    pub(in crate::node) fn repair_behind(&mut self, now: Now, query: QueryId, found: &Found, out: &mut Actions) {
        let (key, replication) = (found.record.key, usize::from(found.record.replication));
        if self.is_leaving() || self.queries.writing(&key).is_some() {
            return;
        }
        let in_scope =
            self.is_settled() && self.params.serving == Serving::Yes && self.in_scope(&key, found.record.replication);
        if in_scope || self.storage.find(now.mono, &key).is_some() {
            self.hold(now, found.record.clone(), found.expires, Source::Peer);
        }
        let k = self.params.k;
        let Some(get) = self.queries.get(query) else { return };
        let others = replication - usize::from(in_scope);
        let nearest: Vec<NodeId> =
            get.lookup.iter().flat_map(Lookup::nearest).take(others).map(|contact| contact.id).collect();
        let mut behind: Vec<Contact> = get.read.behind(found, &nearest).collect();
        behind.sort_unstable_by_key(|contact| contact.id.key().distance(&key));
        behind.truncate(k);
        self.repair(now, found, &behind, out);
    }

    fn repair(&mut self, now: Now, found: &Found, behind: &[Contact], out: &mut Actions) {
        if behind.is_empty() || found.expires <= now.mono || self.repairs.in_flight.len() >= REPAIRS_MAX {
            return;
        }
        let id = RepairId(self.repairs.next);
        self.repairs.next += 1;
        // One more than are handed a copy, until all are: none of them ends it early.
        let repair = Repair { record: found.record.clone(), expires: found.expires, in_flight: 1 + behind.len() };
        self.repairs.in_flight.insert(id, repair);
        for contact in behind {
            if !self.ask(now, *contact, Purpose::Repair(id), out) {
                self.repairs.copy_over(id);
            }
        }
        self.repairs.copy_over(id);
    }
}
