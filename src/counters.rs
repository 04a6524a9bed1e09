//! Counters of a node and of a host: plain numbers, no globals. Each [`NodeCounters`] belongs to one node
//! and each [`HostCounters`] to one host; only the owner changes them. Both print the `key=value` form of
//! the log.

use std::fmt;

/// What one node has counted since it was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeCounters {
    /// PUTs received from clients.
    pub puts: u64,
    /// PUTs that reached as many replicas as they asked for.
    pub puts_held: u64,
    /// PUTs that were refused, for example because the storage is full or a larger record is known.
    pub puts_refused: u64,
    /// GETs received from clients.
    pub gets: u64,
    /// GETs answered with a value.
    pub gets_found: u64,
    /// GETs answered without a request to a peer.
    pub gets_local: u64,
    /// Sum of the hops to the peers whose values answered the other GETs.
    pub gets_hops: u64,
    /// Requests sent to peers.
    pub rpcs_sent: u64,
    /// Requests received from peers.
    pub rpcs_served: u64,
    /// Requests without a reply when their timeout passed.
    pub rpcs_silent: u64,
    /// Replies dropped: unknown rpc id, wrong type, or from another node than the one that was asked.
    pub replies_dropped: u64,
    /// Requests and dials not made because a bound was reached.
    pub requests_dropped: u64,
    /// Peers that were refused, or whose connection was closed, because they broke the protocol.
    pub faults: u64,
    /// Tombstones that gave way before they lapsed, because the storage had no room.
    pub tombstones_dropped: u64,
    /// OFFERs sent.
    pub offers: u64,
    /// Keys that this node asked for in WANT.
    pub wants: u64,
    /// SYNCs sent.
    pub syncs: u64,
    /// Records sent after an OFFER, to peers that asked for them in WANT.
    pub repairs: u64,
    /// Bytes of all OFFER, WANT, SYNC and SYNC REPLY messages sent, before TLS.
    pub upkeep_bytes: u64,
    /// Records of an earlier run that were dropped because they did not prove what their class claims.
    pub records_refuted: u64,
}

/// Adds the counters of another node, for the sum over a network.
impl std::ops::AddAssign for NodeCounters {
    fn add_assign(&mut self, other: Self) {
        self.puts += other.puts;
        self.puts_held += other.puts_held;
        self.puts_refused += other.puts_refused;
        self.gets += other.gets;
        self.gets_found += other.gets_found;
        self.gets_local += other.gets_local;
        self.gets_hops += other.gets_hops;
        self.rpcs_sent += other.rpcs_sent;
        self.rpcs_served += other.rpcs_served;
        self.rpcs_silent += other.rpcs_silent;
        self.replies_dropped += other.replies_dropped;
        self.requests_dropped += other.requests_dropped;
        self.faults += other.faults;
        self.tombstones_dropped += other.tombstones_dropped;
        self.offers += other.offers;
        self.wants += other.wants;
        self.syncs += other.syncs;
        self.repairs += other.repairs;
        self.upkeep_bytes += other.upkeep_bytes;
        self.records_refuted += other.records_refuted;
    }
}

/// What one host has counted since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostCounters {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections refused because their pool was full, or because the system could not register them.
    pub refused: u64,
    /// Messages for which the outbox of a peer had no room: replies, instead of which the peer gets ERROR 429, and
    /// requests, which are sent again later.
    pub outbox_drops: u64,
    /// Answers whose client had disconnected.
    pub replies_late: u64,
    /// Connections closed because the other side broke the protocol or missed a deadline.
    pub faults: u64,
}

impl fmt::Display for NodeCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { puts, puts_held, puts_refused, gets, gets_found, gets_local, gets_hops, .. } = self;
        let Self { rpcs_sent, rpcs_served, rpcs_silent, replies_dropped, requests_dropped, faults, .. } = self;
        let Self { tombstones_dropped, records_refuted, offers, wants, syncs, repairs, upkeep_bytes, .. } = self;
        write!(f, "puts={puts} puts_held={puts_held} puts_refused={puts_refused} ")?;
        write!(f, "gets={gets} gets_found={gets_found} gets_local={gets_local} gets_hops={gets_hops} ")?;
        write!(f, "rpcs_sent={rpcs_sent} rpcs_served={rpcs_served} rpcs_silent={rpcs_silent} ")?;
        write!(f, "replies_dropped={replies_dropped} requests_dropped={requests_dropped} peer_faults={faults} ")?;
        write!(f, "tombstones_dropped={tombstones_dropped} records_refuted={records_refuted} ")?;
        write!(f, "offers={offers} wants={wants} syncs={syncs} repairs={repairs} upkeep_bytes={upkeep_bytes}")
    }
}

impl fmt::Display for HostCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { accepted, refused, outbox_drops, replies_late, faults } = self;
        write!(f, "accepted={accepted} refused={refused} outbox_drops={outbox_drops} ")?;
        write!(f, "replies_late={replies_late} host_faults={faults}")
    }
}
