//! The parameters of a node that a user may configure, with their defaults.
//!
//! [`Params::default`] is the only place that states the defaults; a test compares `config.ini` with
//! it. [`Params::validate`] compares the values with each other. The ranges of single values are checked
//! by the code that reads the configuration.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::contact::Family;
use crate::id::NodeId;
use crate::limits::K_MAX;
use crate::record::Ttl;

/// The parameters of one node. All nodes of a network should agree on `network` and `k`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    /// SHA-256 of the network's name. Nodes of different networks refuse each other.
    pub network: [u8; 32],
    /// The size of a bucket, and the number of nearest nodes that a lookup finds (Kademlia, section 2.2).
    pub k: usize,
    /// The number of requests that one lookup has in flight (Kademlia, section 2.3).
    pub alpha: usize,
    /// The number of replicas of a record whose PUT names none.
    pub replication_default: u8,
    /// The smallest number of replicas of a record; a PUT that names fewer gets this number.
    pub replication_min: u8,
    /// The life of a record whose PUT names none.
    pub ttl_default: Ttl,
    /// The shortest life.
    pub ttl_min: Ttl,
    /// The longest life.
    pub ttl_max: Ttl,
    /// The longest time from the request of a client to its answer.
    pub request_timeout: Duration,
    /// The longest time from a request to a peer to its reply.
    pub rpc_timeout: Duration,
    /// A bucket without a lookup for this long is refreshed (Kademlia, section 2.3: one hour).
    pub refresh_interval: Duration,
    /// The number of replicas that must agree before a GET ends early; never more than the replication
    /// of the record (`PROTOCOL.md` 3).
    pub read_quorum: u8,
    /// Whether a GET may end early.
    pub reads: Reads,
    /// The longest time between two offers of a record to its replicas.
    pub replicate_interval: Duration,
    /// When a node acknowledges a record.
    pub durability: Durability,
    /// Which peers have a storage quota by the group of their address.
    pub address_groups: AddressGroups,
    /// The longest time from [`Node::leave`](crate::node::Node::leave) to the end of the node.
    pub leave_timeout: Duration,
    /// The largest size of all stored records in memory, in bytes.
    pub storage_bytes_max: usize,
    /// The largest number of connections to peers, incoming and outgoing.
    pub peer_connections_max: usize,
    /// Whether peers may dial this node.
    pub serving: Serving,
    /// Which addresses this node can dial.
    pub families: Families,
    /// The nodes to join through. A node without any founds a network.
    pub bootstraps: Vec<Bootstrap>,
}

impl Default for Params {
    fn default() -> Self {
        let secs = |secs| Ttl::from_secs(secs).expect("a literal that is not zero");
        Self {
            network: [0; 32],
            k: 20,
            alpha: 3,
            replication_default: 8,
            replication_min: 3,
            ttl_default: secs(3600),
            ttl_min: secs(1),
            ttl_max: secs(u16::MAX),
            request_timeout: Duration::from_secs(10),
            rpc_timeout: Duration::from_secs(2),
            refresh_interval: Duration::from_hours(1),
            read_quorum: 2,
            reads: Reads::Quorum,
            replicate_interval: Duration::from_hours(1),
            durability: Durability::INTERVAL,
            address_groups: AddressGroups::Public,
            leave_timeout: Duration::from_secs(10),
            storage_bytes_max: 256 << 20,
            peer_connections_max: 4096,
            serving: Serving::Yes,
            families: Families::Both,
            bootstraps: Vec::new(),
        }
    }
}

impl Params {
    /// Compares the values with each other; the error is the first rule that is broken.
    pub fn validate(&self) -> Result<(), ParamsError> {
        let (k, alpha, rpc, request) = (self.k, self.alpha, self.rpc_timeout, self.request_timeout);
        if k == 0 || k > K_MAX {
            return Err(ParamsError::K { k });
        }
        if alpha == 0 || alpha > k {
            return Err(ParamsError::Alpha { alpha, k });
        }
        let (min, default) = (self.replication_min, self.replication_default);
        if min == 0 || min > default || usize::from(default) > k {
            return Err(ParamsError::Replication { min, default, k });
        }
        let (min, default, max) = (self.ttl_min, self.ttl_default, self.ttl_max);
        if min > default || default > max {
            return Err(ParamsError::Ttl { min, default, max });
        }
        if rpc >= request {
            return Err(ParamsError::Timeouts { rpc, request });
        }
        Ok(())
    }
}

/// The values that contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamsError {
    /// `k` is not in 1..=[`K_MAX`].
    K {
        /// `k`.
        k: usize,
    },
    /// `alpha` is not in 1..=`k`.
    Alpha {
        /// `alpha`.
        alpha: usize,
        /// `k`.
        k: usize,
    },
    /// Not 1 <= `replication_min` <= `replication_default` <= `k`.
    Replication {
        /// `replication_min`.
        min: u8,
        /// `replication_default`.
        default: u8,
        /// `k`.
        k: usize,
    },
    /// Not `ttl_min` <= `ttl_default` <= `ttl_max`.
    Ttl {
        /// `ttl_min`.
        min: Ttl,
        /// `ttl_default`.
        default: Ttl,
        /// `ttl_max`.
        max: Ttl,
    },
    /// `rpc_timeout` is not below `request_timeout`.
    Timeouts {
        /// `rpc_timeout`.
        rpc: Duration,
        /// `request_timeout`.
        request: Duration,
    },
}

impl std::fmt::Display for ParamsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::K { k } => write!(f, "k = {k}, expected 1 to {K_MAX}"),
            Self::Alpha { alpha, k } => write!(f, "alpha = {alpha}, expected 1 to k = {k}"),
            Self::Replication { min, default, k } => write!(
                f,
                "replication_min = {min} and replication_default = {default}, expected 1 <= min <= default <= k = {k}"
            ),
            Self::Ttl { min, default, max } => {
                let [min, default, max] = [min, default, max].map(|ttl| ttl.as_secs());
                write!(f, "ttl_min = {min}, ttl_default = {default}, ttl_max = {max}, expected min <= default <= max")
            }
            Self::Timeouts { rpc, request } => {
                let (rpc, request) = (rpc.as_secs_f64(), request.as_secs_f64());
                write!(f, "rpc_timeout = {rpc} s, expected less than request_timeout = {request} s")
            }
        }
    }
}

impl std::error::Error for ParamsError {}

/// Whether peers may dial a node (flag bit 0 of HELLO).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    /// The node listens, enters routing tables and stores records for others.
    Yes,
    /// The node only sends requests: it does not listen and stores no records for others.
    No,
}

/// How far a GET goes (`PROTOCOL.md` 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// It ends when `read_quorum` replicas agree.
    Quorum,
    /// It asks all of the k closest nodes (`secure = yes`).
    Secure,
}

/// When a node acknowledges a record that it stores, to a peer or to a client that asked for a confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When the record is on disk: an acknowledged record survives every crash.
    Always,
    /// When the system has the record: an acknowledged record survives a crash of the process. The record is on disk
    /// within this time, and survives a power failure from then on.
    Interval(Duration),
    /// Immediately. Records are never written to disk.
    None,
}

impl Durability {
    /// The meaning of `durability = interval`: a power failure loses the records of one second at most.
    pub const INTERVAL: Self = Self::Interval(Duration::from_secs(1));
}

/// Which peers have a storage quota, each by its id and by the group of its address (/24 of IPv4, /48 of
/// IPv6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressGroups {
    /// Peers with a public address. Loopback and private addresses have no quota.
    Public,
    /// All peers: for tests on one machine.
    Strict,
}

/// Which address families a node can dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Both.
    Both,
}

impl Families {
    /// One family.
    pub fn of(family: Family) -> Self {
        match family {
            Family::V4 => Families::V4,
            Family::V6 => Families::V6,
        }
    }

    /// Whether the node can dial `address`.
    pub fn reach(self, address: SocketAddr) -> bool {
        self.include(Family::of(address))
    }

    /// Whether `family` is one of them.
    pub fn include(self, family: Family) -> bool {
        match self {
            Families::V4 => family == Family::V4,
            Families::V6 => family == Family::V6,
            Families::Both => true,
        }
    }

    /// The family, if it is only one.
    pub fn single(self) -> Option<Family> {
        match self {
            Families::V4 => Some(Family::V4),
            Families::V6 => Some(Family::V6),
            Families::Both => None,
        }
    }
}

/// A node to join through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// Where it listens.
    pub at: Endpoint,
    /// The id that the node there must prove, if the user has configured it: `host:port#<id>`.
    pub pin: Option<NodeId>,
}

/// Where to dial: an address, or a name that the host resolves again at each attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// An address.
    Address(SocketAddr),
    /// A host name and a port.
    Name {
        /// The host name, as it is configured.
        host: Arc<str>,
        /// The port.
        port: u16,
    },
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Params::default().validate(), Ok(()));
    }

    #[test]
    fn values_that_contradict_each_other_are_named_in_the_error() {
        let with = |change: fn(&mut Params)| {
            let mut params = Params::default();
            change(&mut params);
            params.validate().expect_err("must be refused").to_string()
        };
        assert_eq!(with(|p| p.k = 21), "k = 21, expected 1 to 20");
        assert_eq!(with(|p| p.alpha = 0), "alpha = 0, expected 1 to k = 20");
        assert_eq!(
            with(|p| p.k = 7),
            "replication_min = 3 and replication_default = 8, expected 1 <= min <= default <= k = 7"
        );
        assert_eq!(
            with(|p| p.ttl_max = Ttl::from_secs(60).expect("not zero")),
            "ttl_min = 1, ttl_default = 3600, ttl_max = 60, expected min <= default <= max"
        );
        assert_eq!(
            with(|p| p.rpc_timeout = Duration::from_secs(10)),
            "rpc_timeout = 10 s, expected less than request_timeout = 10 s"
        );
    }
}
