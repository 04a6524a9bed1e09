//! What a user may set of a node: each value with its default, its unit and its source.
//!
//! [`Params::default`] is the one place that states the defaults; `config.ini` documents them
//! and a test holds the two together. [`Params::validate`] says which values do not fit together;
//! ranges of single values are the business of whoever reads them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::id::NodeId;
use crate::limits::K_MAX;
use crate::record::Ttl;

/// The parameters of one node. All nodes of a network should agree on `network` and `k`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    /// SHA-256 of the network's name: nodes of different networks turn each other away.
    pub network: [u8; 32],
    /// Contacts of a bucket, and nodes that a lookup wants to hear (Kademlia, section 2.2).
    pub k: usize,
    /// Requests that one lookup has under way (Kademlia, section 2.3).
    pub alpha: usize,
    /// Nodes that hold a record whose PUT did not say how many.
    pub replication_default: u8,
    /// Fewest nodes that hold a record, whatever its PUT said.
    pub replication_min: u8,
    /// Life of a record whose PUT did not say how long.
    pub ttl_default: Ttl,
    /// Shortest life.
    pub ttl_min: Ttl,
    /// Longest life.
    pub ttl_max: Ttl,
    /// From a client's request to its answer.
    pub request_timeout: Duration,
    /// From a request to a peer to its reply.
    pub rpc_timeout: Duration,
    /// A bucket that saw no lookup for so long is refreshed (Kademlia, section 2.3: one hour).
    pub refresh_interval: Duration,
    /// Holders that must agree before a GET ends early, though never more than hold the record
    /// (`PROTOCOL.md` 3).
    pub read_quorum: u8,
    /// Whether a GET may end early at all.
    pub reads: Reads,
    /// A record is offered to those who shall hold it at least so often.
    pub replicate_interval: Duration,
    /// When a record counts as held.
    pub durability: Durability,
    /// Which addresses are told apart by their groups.
    pub address_groups: AddressGroups,
    /// From the wish to stop to the end of the process.
    pub leave_timeout: Duration,
    /// Bytes that the records held here may take, in memory.
    pub storage_bytes_max: usize,
    /// Connections to peers, whoever opened them.
    pub peer_connections_max: usize,
    /// Whether others may dial this node; if not, it is a client and holds nothing.
    pub serving: Serving,
    /// Which addresses of others can be dialled from here.
    pub families: Families,
    /// Where to join. Without any, the node founds a network.
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
    /// Checks the values against each other; the first that does not fit is named.
    pub fn validate(&self) -> Result<(), ParamsError> {
        let replication_max = u8::try_from(self.k.min(K_MAX)).expect("K_MAX is a byte");
        if self.k == 0 || self.k > K_MAX {
            return Err(ParamsError::K { k: self.k });
        }
        if self.alpha == 0 || self.alpha > self.k {
            return Err(ParamsError::Alpha { alpha: self.alpha, k: self.k });
        }
        let (min, default) = (self.replication_min, self.replication_default);
        if min == 0 || min > default || default > replication_max {
            return Err(ParamsError::Replication { min, default, k: self.k });
        }
        let (min, default, max) = (self.ttl_min, self.ttl_default, self.ttl_max);
        if min > default || default > max {
            return Err(ParamsError::Ttl { min, default, max });
        }
        if self.rpc_timeout >= self.request_timeout {
            return Err(ParamsError::Timeouts { rpc: self.rpc_timeout, request: self.request_timeout });
        }
        Ok(())
    }
}

/// Which values do not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamsError {
    /// `k` is not in 1..=[`K_MAX`].
    K {
        /// What was found.
        k: usize,
    },
    /// `alpha` is not in 1..=`k`.
    Alpha {
        /// What was found.
        alpha: usize,
        /// The largest that would do.
        k: usize,
    },
    /// Not 1 <= min <= default <= k.
    Replication {
        /// Found as the least.
        min: u8,
        /// Found as the default.
        default: u8,
        /// The largest that would do.
        k: usize,
    },
    /// Not min <= default <= max.
    Ttl {
        /// Found as the least.
        min: Ttl,
        /// Found as the default.
        default: Ttl,
        /// Found as the most.
        max: Ttl,
    },
    /// One request to a peer may take as long as the whole answer to a client.
    Timeouts {
        /// Found for a request to a peer.
        rpc: Duration,
        /// Found for an answer to a client.
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
            Self::Ttl { min, default, max } => write!(
                f,
                "ttl_min = {}, ttl_default = {}, ttl_max = {}, expected min <= default <= max",
                min.as_secs(),
                default.as_secs(),
                max.as_secs()
            ),
            Self::Timeouts { rpc, request } => {
                write!(
                    f,
                    "rpc_timeout = {} s, expected less than request_timeout = {} s",
                    rpc.as_secs_f64(),
                    request.as_secs_f64()
                )
            }
        }
    }
}

impl std::error::Error for ParamsError {}

/// Whether others may dial a node (flag bit 0 of HELLO).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    /// It listens, enters tables and holds records.
    Yes,
    /// It is a client: it asks and is answered, and holds nothing.
    No,
}

/// How far a GET goes (`PROTOCOL.md` 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// It ends when `read_quorum` holders agree.
    Quorum,
    /// It always hears all of the k closest (`secure = yes`).
    Secure,
}

/// When a record that was taken counts as held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Once it is on disk: whoever was told that it is held finds it after any crash.
    Always,
    /// At once; it is on disk so much later at most.
    Interval(Duration),
    /// At once; it lives in memory alone.
    None,
}

impl Durability {
    /// What `durability = interval` means: at most a second is lost.
    pub const INTERVAL: Self = Self::Interval(Duration::from_secs(1));
}

/// Whose share of a storage is bounded by the group of their address: /24 of IPv4, /48 of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressGroups {
    /// All but loopback and private addresses.
    Public,
    /// All: for tests on one machine.
    Strict,
}

/// Which address families can be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
    /// Both.
    Both,
}

impl Families {
    /// Whether `address` is of a family that can be dialled.
    pub fn reach(self, address: SocketAddr) -> bool {
        match self {
            Families::V4 => address.ip().to_canonical().is_ipv4(),
            Families::V6 => address.ip().to_canonical().is_ipv6(),
            Families::Both => true,
        }
    }
}

/// A node to join through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// Where it listens.
    pub at: Endpoint,
    /// Who must be met there, if that is known: `host:port#<id>`.
    pub pin: Option<NodeId>,
}

/// A place to dial: an address, or a name that the host resolves anew at each attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// An address.
    Address(SocketAddr),
    /// A host name and a port.
    Name {
        /// The host's name, as it was written.
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
    fn the_defaults_fit_together() {
        assert_eq!(Params::default().validate(), Ok(()));
    }

    #[test]
    fn values_that_do_not_fit_are_named() {
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
