//! Who can be asked, and where: the triple of Kademlia, section 2.1.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::id::NodeId;

/// A node and the address at which it accepts peers.
///
/// The address is canonical: an IPv4 address is never written as an IPv6 one, so that equal
/// places compare equal. A contact that somebody named is hearsay until this node has dialled
/// the address and met the id there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contact {
    /// Who is expected there.
    pub id: NodeId,
    /// Where the node listens for peers.
    pub address: SocketAddr,
}

impl Contact {
    /// The contact `id` at `address`, which is made canonical.
    pub fn new(id: NodeId, address: SocketAddr) -> Self {
        Self { id, address: canonical(address) }
    }
}

impl fmt::Display for Contact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.8}@{}", self.id, self.address)
    }
}

/// Addresses that are likely to be one party's: /24 of IPv4, /48 of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// The first 24 bits of an IPv4 address.
    V4([u8; 3]),
    /// The first 48 bits of an IPv6 address.
    V6([u8; 6]),
}

impl Group {
    /// The group of `ip`; an IPv4-mapped address belongs to that of its IPv4 address.
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(v4) => Self::V4(*v4.octets().first_chunk().expect("3 of 4 bytes")),
            IpAddr::V6(v6) => Self::V6(*v6.octets().first_chunk().expect("6 of 16 bytes")),
        }
    }
}

/// Whether `ip` is of this machine or of a private network: everybody there shares one group, and
/// no stranger gets in.
pub fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// `address` with an IPv4-mapped IPv6 address turned back into the IPv4 address that it means,
/// and without the flow and scope that only the own host understands.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether `address`, named by a peer that sits at `teller`, can be dialled in earnest.
///
/// Refused are port 0, what is no host (unspecified, multicast, broadcast) and loopback
/// addresses named from outside this host: they would mean the listener's own machine.
pub fn is_dialable(address: SocketAddr, teller: SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    let no_host = ip.is_unspecified() || ip.is_multicast() || matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    let strange_loopback = ip.is_loopback() && !teller.ip().to_canonical().is_loopback();
    address.port() != 0 && !no_host && !strange_loopback
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("a literal of this test")
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address_it_means() {
        assert_eq!(canonical(address("[::ffff:10.1.2.3]:7")), address("10.1.2.3:7"));
        assert_eq!(canonical(address("[2001:db8::1]:7")), address("[2001:db8::1]:7"));
    }

    #[test]
    fn neighbours_share_a_group_however_their_address_is_written() {
        let group = |text: &str| Group::of(address(text).ip());
        assert_eq!(group("192.0.2.1:1"), group("192.0.2.255:2"));
        assert_eq!(group("192.0.2.1:1"), group("[::ffff:192.0.2.9]:1"));
        assert_ne!(group("192.0.2.1:1"), group("192.0.3.1:1"));
        assert_eq!(group("[2001:db8:7::1]:1"), group("[2001:db8:7:ffff::2]:1"));
        assert_ne!(group("[2001:db8:7::1]:1"), group("[2001:db8:8::1]:1"));
    }

    #[test]
    fn a_private_address_is_told_from_a_public_one() {
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
    fn what_is_no_host_is_not_dialled() {
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
