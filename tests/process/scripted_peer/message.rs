//! The messages of `PROTOCOL.md` 2, implemented a second time and by hand, so that a fault of `src/wire`
//! is not repeated here. It can also write invalid messages.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::scripted_peer::tls::{Hash, hash};

pub(crate) const PING: u16 = 660;
pub(crate) const STORE: u16 = 661;
pub(crate) const FIND_NODE: u16 = 662;
pub(crate) const FIND_VALUE: u16 = 663;
pub(crate) const HELLO: u16 = 664;
pub(crate) const GOODBYE: u16 = 665;
pub(crate) const OFFER: u16 = 666;
pub(crate) const SYNC: u16 = 667;
pub(crate) const PING_REPLY: u16 = 670;
pub(crate) const STORE_REPLY: u16 = 671;
pub(crate) const FIND_NODE_REPLY: u16 = 672;
pub(crate) const FIND_VALUE_REPLY: u16 = 673;
pub(crate) const WANT: u16 = 676;
pub(crate) const SYNC_REPLY: u16 = 677;
pub(crate) const ERROR: u16 = 680;

/// A received message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: u16,
    pub(crate) form: Form,
    pub(crate) body: Vec<u8>,
}

/// The form of its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Short,
    Long,
}

impl Message {
    /// Takes the first whole message off `inbox`.
    pub(crate) fn take(inbox: &mut Vec<u8>) -> Option<Self> {
        let short = usize::from(u16::from_be_bytes(*inbox.first_chunk()?));
        let kind = u16::from_be_bytes(*inbox.get(2..)?.first_chunk()?);
        let (form, header, size) = if short == 0 {
            let long = u32::from_be_bytes(*inbox.get(4..)?.first_chunk()?);
            (Form::Long, 8, long.try_into().expect("at least 32 bits"))
        } else {
            (Form::Short, 4, short)
        };
        let body = inbox.get(header..size)?.to_vec();
        inbox.drain(..size);
        Some(Self { kind, form, body })
    }

    /// The RPC id, with which all messages but HELLO and GOODBYE begin.
    pub(crate) fn rpc(&self) -> Hash {
        *self.body.first_chunk().expect("a message with an rpc id")
    }

    /// What follows the rpc id.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.body[32..]
    }
}

/// A message with a header of 4 bytes.
pub(crate) fn short(kind: u16, body: &[u8]) -> Vec<u8> {
    let size = u16::try_from(4 + body.len()).expect("a short message");
    [&size.to_be_bytes()[..], &kind.to_be_bytes(), body].concat()
}

/// A message with a header of 8 bytes.
pub(crate) fn long(kind: u16, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(8 + body.len()).expect("a message");
    [&[0, 0], &kind.to_be_bytes()[..], &size.to_be_bytes(), body].concat()
}

/// A request or a reply: in the short form unless it is too large.
pub(crate) fn rpc(kind: u16, id: &Hash, rest: &[u8]) -> Vec<u8> {
    let body = [&id[..], rest].concat();
    if body.len() + 4 > 65_535 { long(kind, &body) } else { short(kind, &body) }
}

/// The fields of a HELLO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) protocol: u16,
    pub(crate) flags: u16,
    pub(crate) network: Hash,
    pub(crate) port: u16,
    /// Milliseconds since 1970.
    pub(crate) wall: u64,
    pub(crate) agent: Vec<u8>,
}

impl Hello {
    /// Of a client of the network `name`, which cannot be dialled.
    pub(crate) fn of_client(name: &str) -> Self {
        let network = hash(name.as_bytes());
        Self { protocol: 1, flags: 0, network, port: 0, wall: 0, agent: b"scripted".to_vec() }
    }

    /// Of a node of the network `name` that can be dialled at `port`.
    pub(crate) fn of_node(name: &str, port: u16) -> Self {
        Self { flags: 1, port, ..Self::of_client(name) }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let numbers = [self.protocol.to_be_bytes(), self.flags.to_be_bytes()].concat();
        let rest = [&self.network[..], &self.port.to_be_bytes(), &self.wall.to_be_bytes(), &self.agent].concat();
        short(HELLO, &[numbers, rest].concat())
    }

    pub(crate) fn read(message: &Message) -> Self {
        assert_eq!(message.kind, HELLO);
        let mut fields = Fields(&message.body);
        Self {
            protocol: u16::from_be_bytes(fields.next()),
            flags: u16::from_be_bytes(fields.next()),
            network: fields.next(),
            port: u16::from_be_bytes(fields.next()),
            wall: u64::from_be_bytes(fields.next()),
            agent: fields.0.to_vec(),
        }
    }
}

/// A record block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) ttl: u16,
    pub(crate) replication: u8,
    pub(crate) flags: u8,
    pub(crate) key: Hash,
    pub(crate) version: u64,
    pub(crate) age: u32,
    pub(crate) check: u32,
    pub(crate) value: Vec<u8>,
}

impl Record {
    /// A plain record that was PUT at `wall` (ms since 1970), with a TTL of an hour and an age of one
    /// second.
    pub(crate) fn new(key: Hash, value: Vec<u8>, wall: u64) -> Self {
        let check = crc32fast::hash(&value);
        Self { ttl: 3600, replication: 3, flags: 0, key, version: wall << 16, age: 1000, check, value }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = [&self.ttl.to_be_bytes()[..], &[self.replication, self.flags], &self.key].concat();
        bytes.extend(self.version.to_be_bytes());
        bytes.extend(self.age.to_be_bytes());
        bytes.extend(self.check.to_be_bytes());
        bytes.extend(&self.value);
        bytes
    }

    pub(crate) fn read(block: &[u8]) -> Self {
        let mut fields = Fields(block);
        let ttl = u16::from_be_bytes(fields.next());
        let [replication, flags] = fields.next();
        Self {
            ttl,
            replication,
            flags,
            key: fields.next(),
            version: u64::from_be_bytes(fields.next()),
            age: u32::from_be_bytes(fields.next()),
            check: u32::from_be_bytes(fields.next()),
            value: fields.0.to_vec(),
        }
    }
}

/// The address and id of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contact {
    pub(crate) address: SocketAddr,
    pub(crate) id: Hash,
}

impl Contact {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let ip = match self.address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        [&ip.octets()[..], &self.address.port().to_be_bytes(), &self.id].concat()
    }

    /// All contacts that `bytes` hold.
    pub(crate) fn read_all(bytes: &[u8]) -> Vec<Self> {
        let (contacts, left) = bytes.as_chunks::<50>();
        assert!(left.is_empty(), "{} bytes are no whole contact", left.len());
        let read = |contact: &[u8; 50]| {
            let mut fields = Fields(contact);
            let ip = Ipv6Addr::from(fields.next::<16>()).to_canonical();
            let port = u16::from_be_bytes(fields.next());
            Self { address: SocketAddr::new(ip, port), id: fields.next() }
        };
        contacts.iter().map(read).collect()
    }
}

/// Decodes hexadecimal digits.
pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("hex is ASCII"));
    pairs.map(|pair| u8::from_str_radix(pair, 16).expect("two hex digits")).collect()
}

/// Encodes `bytes` as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from_digit(digit.into(), 16).expect("four bits")).collect()
}

/// Fields of a message that a node wrote: too few bytes fail the test.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn next<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("a whole message");
        self.0 = rest;
        *field
    }
}
