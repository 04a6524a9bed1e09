//! Contacts: which node is reachable at which address (the triples of Kademlia, section 2.1).

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::id::NodeId;

/// A node and the address at which it accepts peers.
///
/// The address is canonical: an IPv4 address is never written as an IPv6 one, so equal addresses compare
/// equal. A contact that another node named is unproven until this node has dialled the address and met the
/// id there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contact {
    /// The node that is expected at the address.
    pub id: NodeId,
    /// The address at which the node accepts peers.
    pub address: SocketAddr,
}

impl Contact {
    /// The contact `id` at `address`; the address is made canonical.
    pub fn new(id: NodeId, address: SocketAddr) -> Self {
        Self { id, address: canonical(address) }
    }
}

impl fmt::Display for Contact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.8}@{}", self.id, self.address)
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of `address`. An IPv4-mapped IPv6 address belongs to IPv4.
    pub fn of(address: SocketAddr) -> Self {
        if address.ip().to_canonical().is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The other family.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

/// Addresses that probably belong to one party: a /24 of IPv4, or a /48 of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// The first 24 bits of an IPv4 address.
    V4([u8; 3]),
    /// The first 48 bits of an IPv6 address.
    V6([u8; 6]),
}

impl Group {
    /// The group of `ip`. An IPv4-mapped IPv6 address has the group of its IPv4 address.
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(v4) => Self::V4(*v4.octets().first_chunk().expect("3 of 4 bytes")),
            IpAddr::V6(v6) => Self::V6(*v6.octets().first_chunk().expect("6 of 16 bytes")),
        }
    }
}

/// Whether `ip` is a loopback, private or link-local address. All hosts of a private network would share
/// one address group, and no host of the public internet can use such an address, so these addresses have
/// no quotas.
pub fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// Makes `address` canonical: an IPv4-mapped IPv6 address becomes the IPv4 address, and the flow and the
/// scope of an IPv6 address are removed, because they have a meaning on their own host only.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether this node may dial `address`, which the peer at `named_by` has named.
///
/// It may not dial port 0, an address that belongs to no single host (unspecified, multicast, broadcast),
/// or a loopback address that a peer on another host has named: that would be an address of this host.
pub fn is_dialable(address: SocketAddr, named_by: SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    let no_host = ip.is_unspecified() || ip.is_multicast() || matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    let foreign_loopback = ip.is_loopback() && !named_by.ip().to_canonical().is_loopback();
    address.port() != 0 && !no_host && !foreign_loopback
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("a literal of this test")
    }

    #[test]
    fn a_canonical_address_is_ipv4_if_it_was_mapped() {
        assert_eq!(canonical(address("[::ffff:10.1.2.3]:7")), address("10.1.2.3:7"));
        assert_eq!(canonical(address("[2001:db8::1]:7")), address("[2001:db8::1]:7"));
    }

    #[test]
    fn addresses_of_one_network_share_a_group_in_either_form() {
        let group = |text: &str| Group::of(address(text).ip());
        assert_eq!(group("192.0.2.1:1"), group("192.0.2.255:2"));
        assert_eq!(group("192.0.2.1:1"), group("[::ffff:192.0.2.9]:1"));
        assert_ne!(group("192.0.2.1:1"), group("192.0.3.1:1"));
        assert_eq!(group("[2001:db8:7::1]:1"), group("[2001:db8:7:ffff::2]:1"));
        assert_ne!(group("[2001:db8:7::1]:1"), group("[2001:db8:8::1]:1"));
    }

    #[test]
    fn private_addresses_are_recognised_in_either_form() {
        for private in ["127.0.0.9:1", "10.1.2.3:1", "172.31.0.1:1", "192.168.9.9:1", "169.254.0.1:1", "[::1]:1"] {
            assert!(is_private(address(private).ip()), "{private}");
        }
        for private in ["[fd00::1]:1", "[fe80::1]:1", "[::ffff:10.0.0.1]:1"] {
            assert!(is_private(address(private).ip()), "{private}");
        }
        for public in ["172.32.0.1:1", "192.0.2.1:1", "[2001:db8::1]:1", "[::ffff:192.0.2.1]:1"] {
            assert!(!is_private(address(public).ip()), "{public}");
        }
    }

    #[test]
    fn addresses_that_name_no_foreign_host_are_not_dialled() {
        let near = address("127.0.0.1:1");
        let far = address("192.0.2.1:1");
        for bad in ["0.0.0.0:5", "[::]:5", "224.0.0.1:5", "[ff02::1]:5", "255.255.255.255:5", "192.0.2.7:0"] {
            assert!(!is_dialable(address(bad), near), "{bad}");
        }
        assert!(is_dialable(address("127.0.0.1:5"), near));
        assert!(!is_dialable(address("127.0.0.1:5"), far));
        assert!(!is_dialable(address("[::ffff:127.0.0.1]:5"), far));
        assert!(is_dialable(address("192.0.2.7:5"), far));
    }
}
