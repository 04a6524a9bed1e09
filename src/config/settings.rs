//! All that may be configured, and what holds where a file is silent.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::node::params::{Families, Params};

/// All that a file says, with the defaults where it is silent.
///
/// `params` goes to the node as it is; of it the hosts read `serving`, `network`,
/// `peer_connections_max`, `rpc_timeout`, `leave_timeout` and `durability` too. Everything else is for the
/// hosts alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What the node is told; [`Params::validate`] holds.
    pub params: Params,
    /// Where modules are served. Beyond loopback only if [`Self::api_allow_remote`].
    pub api_address: SocketAddr,
    /// Whether the operator wants modules on other machines to be served.
    pub api_allow_remote: bool,
    /// Connections from modules that are open at once.
    pub api_connections_max: usize,
    /// A module's connection that is silent for so long is closed.
    pub api_idle_timeout: Duration,
    /// Where peers are accepted, if the node serves; never empty. A port 0 stands alone.
    pub p2p_addresses: Vec<SocketAddr>,
    /// The port that peers are told to dial; `None`: the one that is listened on, which all
    /// of [`Self::p2p_addresses`] then share.
    pub advertise_port: Option<NonZeroU16>,
    /// Leading zero bits that SHA-256 of a node id must have (`PROTOCOL.md` 5).
    pub pow_bits: u8,
    /// Where the node keeps its key and what it holds, relative to the working directory or absolute.
    pub data_dir: PathBuf,
    /// The key file that all modules share, if one is named; it need not exist.
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

/// What HELLO carries of a network's name (`PROTOCOL.md` 2).
pub(super) fn network_of(name: &str) -> [u8; 32] {
    Sha256::digest(name).into()
}
