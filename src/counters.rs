//! What is counted: plain numbers, nothing global. A node owns one [`NodeCounters`], a host one
//! [`HostCounters`]; nobody else writes to them. Both print as the log writes facts.

use std::fmt;

/// What one node has counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeCounters {
    /// PUTs taken from clients.
    pub puts: u64,
    /// PUTs that held on as many nodes as they asked for.
    pub puts_held: u64,
    /// PUTs that could not be taken: no room, or nobody to hold them.
    pub puts_refused: u64,
    /// GETs taken from clients.
    pub gets: u64,
    /// GETs answered with a value.
    pub gets_found: u64,
    /// GETs answered without asking a peer.
    pub gets_local: u64,
    /// Hops to the peers that answered the other ones, summed up.
    pub gets_hops: u64,
    /// Requests sent to peers.
    pub rpcs_sent: u64,
    /// Requests of peers answered.
    pub rpcs_served: u64,
    /// Requests that missed their deadline.
    pub rpcs_silent: u64,
    /// Replies dropped: unknown id, wrong type or another node than the one asked.
    pub replies_dropped: u64,
    /// Requests not sent because a bound was met.
    pub requests_dropped: u64,
    /// Peers turned away or closed for a fault of theirs.
    pub faults: u64,
    /// OFFERs sent.
    pub offers: u64,
    /// Records asked for because a peer offered them.
    pub wants: u64,
    /// SYNCs sent.
    pub syncs: u64,
    /// Copies sent to peers that lacked them, beyond those of PUTs.
    pub repairs: u64,
    /// Bytes of all OFFER, WANT, SYNC and SYNC REPLY sent, TLS aside.
    pub upkeep_bytes: u64,
}

/// Adds what another node has counted: the figures of a whole network.
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
        self.offers += other.offers;
        self.wants += other.wants;
        self.syncs += other.syncs;
        self.repairs += other.repairs;
        self.upkeep_bytes += other.upkeep_bytes;
    }
}

/// What one host has counted since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostCounters {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections refused because their pool was full.
    pub refused: u64,
    /// Messages dropped because the outbox of a peer was full.
    pub outbox_drops: u64,
    /// Answers for clients that had gone.
    pub replies_late: u64,
    /// Connections closed for a fault of the other side.
    pub faults: u64,
}

impl fmt::Display for NodeCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { puts, puts_held, puts_refused, gets, gets_found, gets_local, gets_hops, .. } = self;
        let Self { rpcs_sent, rpcs_served, rpcs_silent, replies_dropped, requests_dropped, faults, .. } = self;
        let Self { offers, wants, syncs, repairs, upkeep_bytes, .. } = self;
        write!(f, "puts={puts} puts_held={puts_held} puts_refused={puts_refused} ")?;
        write!(f, "gets={gets} gets_found={gets_found} gets_local={gets_local} gets_hops={gets_hops} ")?;
        write!(f, "rpcs_sent={rpcs_sent} rpcs_served={rpcs_served} rpcs_silent={rpcs_silent} ")?;
        write!(f, "replies_dropped={replies_dropped} requests_dropped={requests_dropped} peer_faults={faults} ")?;
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
