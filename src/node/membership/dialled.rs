//! Whether peers can dial this node.
//!
//! Other nodes put this one into their tables only after they have dialled it (`PROTOCOL.md` 2, HELLO). Behind a
//! firewall, or with a wrong `advertise_port`, it has contacts and is a contact of nobody. Then the PUTs of others do not
//! find it, so what it stores may be old. Such a node looks up what its clients ask for, does not count as a replica, and
//! says in its log that it cannot be dialled.
//!
//! Evidence: a peer has dialled this node, or says in its HELLO that this node is its contact ([`FLAG_DIALLED`]). It is
//! enough if half of the closest contacts give it ([`ASKED`] at most): a contact that is farther away may have no room for
//! this node in its table.
//!
//! Non-goals: a node that is dialled by half of its neighbours, but not by the others, misses PUTs until the next round of
//! offers. A node without contacts needs no evidence.
//!
//! [`FLAG_DIALLED`]: crate::wire::peer::FLAG_DIALLED

use std::collections::BTreeSet;
use std::time::Duration;

use log::{info, warn};

use crate::id::NodeId;
use crate::node::Node;
use crate::node::timers::Timer;
use crate::time::Now;

/// The closest contacts that count. Few nodes are as close to any of them as this one, so they have room for it.
const ASKED: usize = 8;

/// Peers that are remembered; beyond that only contacts are. 40 bytes each.
const PEERS_MAX: usize = 4_096;

/// A node that is not dialled for this time says so. Its contacts dial it as soon as it has dialled them.
const NOTICED_AFTER: Duration = Duration::from_secs(10);

/// Pause between two log lines about it.
const REPORT_PAUSE: Duration = Duration::from_mins(10);

/// The peers that have dialled this node.
#[derive(Debug)]
pub(crate) struct DialledBy {
    peers: BTreeSet<NodeId>,
    /// Whether enough of the contacts are among them.
    is_enough: bool,
    /// Whether the log says that they are not.
    is_reported: bool,
}

impl Default for DialledBy {
    fn default() -> Self {
        Self { peers: BTreeSet::new(), is_enough: true, is_reported: false }
    }
}

impl Node {
    /// Whether peers dial this node, so that PUTs find it.
    pub(crate) fn is_dialled(&self) -> bool {
        self.dialled_by.is_enough
    }

    /// `peer` has sent its HELLO, which shows whether this node is its contact, or may become one.
    pub(crate) fn note_dialled(&mut self, now: Now, peer: NodeId, has_dialled: bool) {
        let peers = &mut self.dialled_by.peers;
        if peers.len() >= PEERS_MAX {
            peers.retain(|id| self.table.contains(id));
        }
        if has_dialled {
            peers.insert(peer);
        } else {
            peers.remove(&peer);
        }
        self.count_dialled(now);
    }

    /// The contacts have changed, or what one of them has shown.
    pub(crate) fn count_dialled(&mut self, now: Now) {
        self.table.closest(self.me.id.key(), ASKED.min(self.params.k.div_ceil(2)), &mut self.nearby);
        let missing = self.nearby.iter().filter(|contact| !self.dialled_by.peers.contains(&contact.id)).count();
        self.dialled_by.is_enough = 2 * missing <= self.nearby.len();
        if self.dialled_by.is_enough {
            self.timers.cancel(Timer::Undialled);
            if std::mem::take(&mut self.dialled_by.is_reported) {
                info!("peers have dialled this node");
            }
        } else if !self.timers.is_set(Timer::Undialled) {
            self.timers.set(Timer::Undialled, now.mono + NOTICED_AFTER);
        }
    }

    /// Too few contacts have dialled this node for long.
    pub(crate) fn report_undialled(&mut self, now: Now) {
        self.dialled_by.is_reported = true;
        warn!(
            "peers cannot dial this node port={} contacts={} stores_for_others=no \
             check=\"p2p_address, advertise_port, firewall; or set serving = no\"",
            self.me.port,
            self.table.live()
        );
        self.timers.set(Timer::Undialled, now.mono + REPORT_PAUSE);
    }
}
