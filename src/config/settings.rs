//! All settings and their defaults.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::node::params::{Families, Params};

/// The values of a file, with defaults for all keys that it does not set.
///
/// The node gets `params`. The hosts also read `serving`, `network`, `peer_connections_max`,
/// `rpc_timeout`, `leave_timeout` and `durability` of it, and all other fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The parameters of the node, which satisfy [`Params::validate`].
    pub params: Params,
    /// Listening address for clients. Not loopback only if [`Self::api_allow_remote`].
    pub api_address: SocketAddr,
    /// Whether the operator allows clients on other hosts.
    pub api_allow_remote: bool,
    /// Largest number of connections from clients.
    pub api_connections_max: usize,
    /// Time after which an idle connection of a client is closed.
    pub api_idle_timeout: Duration,
    /// Listening addresses for peers, if the node serves; never empty. Port 0 only as the single address.
    pub p2p_addresses: Vec<SocketAddr>,
    /// The port that the node announces to peers; `None` for the listening port, which all of
    /// [`Self::p2p_addresses`] then share.
    pub advertise_port: Option<NonZeroU16>,
    /// Leading zero bits that SHA-256 of a node id must have (`PROTOCOL.md` 5).
    pub pow_bits: u8,
    /// The directory of the node's key and store, absolute or relative to the working directory.
    pub data_dir: PathBuf,
    /// The key file that all VoidPhone modules share, if the file names one; it need not exist.
    pub hostkey: Option<PathBuf>,
}

impl Default for Settings {
    /// The settings of an empty file in the working directory.
    fn default() -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            params: Params { network: network_of("voidphone"), families: Families::V4, ..Params::default() },
            api_address: loopback(7401),
            api_allow_remote: false,
            api_connections_max: 1024,
            api_idle_timeout: Duration::from_hours(1),
            p2p_addresses: vec![loopback(7402)],
            advertise_port: None,
            pow_bits: 12,
            data_dir: PathBuf::from("dht-data-7402"),
            hostkey: None,
        }
    }
}

/// The form of a network's name in HELLO (`PROTOCOL.md` 2).
pub(super) fn network_of(name: &str) -> [u8; 32] {
    Sha256::digest(name).into()
}
