//! The messages between nodes, from HELLO to ERROR. Source: `PROTOCOL.md` 2.
//!
//! One type serves both directions: a received message borrows from the inbox, a message to be sent borrows
//! from the sender. A value is always the last field, so [`PeerMessage::encode_head`] writes everything
//! before the value.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::contact::{Contact, Family};
use crate::id::{KEY_SIZE, Key, NodeId, RpcId};
use crate::limits::{CONTACT_SIZE, CONTACTS_MAX, ENTRY_SIZE, K_MAX, RPC_ID_SIZE, VALUE_SIZE_MAX};
use crate::record::{Age, Class, Life, Rank, Record, Ttl, Version, crc_of};
use crate::time::WallTime;
use crate::wire::codec::{Item, List, Reader, WireError};
use crate::wire::frame::{Frame, put_header};
pub use crate::wire::hello::{
    Bridges, FLAG_BRIDGE, FLAG_DIALLED, FLAG_IPV4, FLAG_IPV6, FLAG_KNOWS_TENTATIVE, FLAG_SERVING, FLAG_TELLS_TIME,
    FLAG_UNSETTLED, Hello,
};
use crate::wire::{self, Kind};

/// The version of this protocol, as HELLO carries it.
pub const PROTOCOL: u16 = 1;

/// A message between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerMessage<'a> {
    /// The first message of each side, sent once.
    Hello(Hello<'a>),
    /// The sender is leaving and takes no more requests.
    Goodbye,
    /// What the sender knows of the two address families. Nobody answers it, but one that names no bridge asks
    /// for such a message.
    Bridges(Bridges<'a>),
    /// A request; its reply carries the same id.
    Request(RpcId, Request<'a>),
    /// The reply to the request with this id.
    Reply(RpcId, Reply<'a>),
}

/// A request of one node to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Asks for a sign of life.
    Ping,
    /// Asks the receiver to store this record.
    Store(RecordBlock<'a>),
    /// Asks the receiver, a bridge, to store this record on nodes of the other address family.
    Relay {
        /// That family.
        family: Family,
        /// The record.
        record: RecordBlock<'a>,
    },
    /// Asks for contacts close to a key.
    FindNode {
        /// The key.
        target: Key,
    },
    /// Asks for the record of a key, or for contacts close to it.
    FindValue {
        /// The key.
        key: Key,
        /// Which parts of the reply are wanted.
        want: Want,
    },
    /// Asks which of these records the receiver wants.
    Offer(List<'a, Entry>),
    /// Asks which records the receiver stores in a range of keys.
    Sync {
        /// The first key of the range.
        from: Key,
        /// The last key of the range, which belongs to it.
        to: Key,
    },
    /// Asks for the wall clock of the receiver.
    Time,
}

/// Which parts of the reply a FIND VALUE wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// Contacts too, if the receiver stores the record.
    pub contacts: bool,
    /// The record without its value.
    pub head_only: bool,
    /// The caller fetches a record that it has missed. So the receiver answers although it may itself lack a
    /// newer one.
    pub catching_up: bool,
}

/// A reply of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// The answer to a PING.
    Pong,
    /// The outcome of a STORE.
    Stored {
        /// The key of the record.
        key: Key,
        /// Whether the receiver stores the record that was sent.
        outcome: StoreOutcome,
        /// The record that the receiver stores now.
        held: Rank,
    },
    /// Contacts close to the target of a FIND NODE, or to the key of a FIND VALUE whose record the receiver
    /// does not store.
    Nodes(List<'a, Contact>),
    /// The record that a FIND VALUE asked for.
    Value {
        /// Contacts close to the key, if they were wanted, or if the record is tentative.
        contacts: List<'a, Contact>,
        /// Whether PUTs may not have reached the sender: it has not settled, or is perhaps not among the k nodes closest
        /// to the key.
        is_tentative: bool,
        /// The record.
        record: RecordBlock<'a>,
    },
    /// The keys of an OFFER whose records the receiver wants.
    Wanted(List<'a, Key>),
    /// The records that a SYNC asked for, in the order of their keys.
    Synced {
        /// Whether entries may follow after the last one of this reply.
        more: bool,
        /// The entries.
        entries: List<'a, Entry>,
    },
    /// The wall clock of the receiver.
    Time(WallTime),
    /// The request was not served.
    Error(ErrorCode),
}

/// The outcome of a STORE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreOutcome {
    /// The receiver stores exactly the record that was sent.
    Held,
    /// The receiver stores a larger one.
    Larger,
}

/// Why a request was not served; the numbers follow HTTP. An unknown code is a refusal too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorCode(pub u16);

impl ErrorCode {
    /// The message is malformed.
    pub const MALFORMED: Self = Self(400);
    /// A certified record does not verify.
    pub const NOT_VERIFIED: Self = Self(403);
    /// Not found; never sent.
    pub const NOT_FOUND: Self = Self(404);
    /// The key is outside the receiver's scope, or the receiver does not serve.
    pub const OUT_OF_SCOPE: Self = Self(406);
    /// The life of the record is over, or a tombstone beats it.
    pub const GONE: Self = Self(410);
    /// The time in the version is too far ahead.
    pub const TOO_EARLY: Self = Self(425);
    /// Too many requests wait for the receiver's disk.
    pub const TOO_MANY: Self = Self(429);
    /// The receiver has failed; never sent.
    pub const SERVER_ERROR: Self = Self(500);
    /// The receiver is leaving.
    pub const LEAVING: Self = Self(503);
    /// The receiver's storage is full, or its disk fails.
    pub const FULL: Self = Self(507);
}

/// The record block R: a record, a record without its value (a *head*), or a tombstone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordBlock<'a> {
    /// Its life from the PUT to its end.
    pub ttl: Ttl,
    /// How many nodes shall store it; at least 1.
    pub replication: u8,
    /// What it proves about its origin.
    pub class: Class,
    /// Its key.
    pub key: Key,
    /// Its version.
    pub version: Version,
    /// How much of its life has passed.
    pub age: Age,
    /// CRC-32 of the value. A block with a value is accepted only if it fits.
    pub crc: u32,
    /// The value, or the reason why there is none.
    pub content: Content<'a>,
}

/// The content of a record block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// 1..=[`VALUE_SIZE_MAX`] bytes.
    Value(&'a [u8]),
    /// No bytes: the value was not wanted.
    Head,
    /// No bytes: the life of this version is over. Only plain versions have such blocks.
    Tombstone,
}

/// A record in an OFFER or a SYNC REPLY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Key,
    /// Its class and version, and whether it is a tombstone.
    pub rank: Rank,
    /// CRC-32 of its value.
    pub crc: u32,
}

impl Entry {
    /// The entry of `record`.
    pub fn of(record: &Record) -> Self {
        Self { key: record.key, rank: record.rank(), crc: record.crc }
    }
}

const SIGNED: u8 = 1;
const HASHED: u8 = 2;
const TOMBSTONE: u8 = 4;

/// Beside the count of contacts in a FIND VALUE REPLY: the record is tentative.
const TENTATIVE: u8 = 0x80;
const HEAD: u8 = 8;

impl<'a> PeerMessage<'a> {
    /// Reads a message from `frame`, which a peer has sent.
    ///
    /// # Errors
    ///
    /// [`WireError`] if it is no message between nodes.
    pub fn decode(frame: Frame<'a>) -> Result<Self, WireError> {
        let mut body = Reader::new(frame.body);
        let message = match frame.kind {
            wire::HELLO => PeerMessage::Hello(Hello::read(&mut body)?),
            wire::GOODBYE => PeerMessage::Goodbye,
            wire::BRIDGES => {
                PeerMessage::Bridges(Bridges { flags: body.u16("flags")?, known: List::receive(body.rest())? })
            }
            kind => {
                let rpc = RpcId::new(body.array("rpc id")?);
                read_request(kind, &mut body)?
                    .map(|request| PeerMessage::Request(rpc, request))
                    .or(read_reply(kind, &mut body)?.map(|reply| PeerMessage::Reply(rpc, reply)))
                    .ok_or(WireError::UnknownKind { number: kind.number })?
            }
        };
        body.finish()?;
        Ok(message)
    }

    /// The id of the request or reply in `frame`, for an ERROR that says that it is malformed. `None` if
    /// this type has no id, or if the body is too short for one.
    pub fn rpc_of(frame: Frame<'_>) -> Option<RpcId> {
        let carries_id = ![wire::HELLO, wire::GOODBYE, wire::BRIDGES].contains(&frame.kind);
        carries_id.then(|| frame.body.first_chunk::<RPC_ID_SIZE>().map(|id| RpcId::new(*id)))?
    }

    /// The type of the message.
    pub fn kind(&self) -> Kind {
        match self {
            PeerMessage::Hello(_) => wire::HELLO,
            PeerMessage::Goodbye => wire::GOODBYE,
            PeerMessage::Bridges(_) => wire::BRIDGES,
            PeerMessage::Request(_, request) => request.kind(),
            PeerMessage::Reply(_, reply) => reply.kind(),
        }
    }

    /// The value of the message; empty if it has none.
    pub fn value(&self) -> &'a [u8] {
        match self {
            PeerMessage::Request(_, Request::Store(record) | Request::Relay { record, .. })
            | PeerMessage::Reply(_, Reply::Value { record, .. }) => record.value(),
            _ => &[],
        }
    }

    /// Appends the message without its value; the caller appends the value.
    pub fn encode_head(&self, out: &mut Vec<u8>) {
        let start = out.len();
        match self {
            PeerMessage::Hello(hello) => hello.write(out),
            PeerMessage::Goodbye => {}
            PeerMessage::Bridges(bridges) => {
                out.extend_from_slice(&bridges.flags.to_be_bytes());
                bridges.known.write(out);
            }
            PeerMessage::Request(rpc, request) => {
                out.extend_from_slice(rpc.as_bytes());
                request.write(out);
            }
            PeerMessage::Reply(rpc, reply) => {
                out.extend_from_slice(rpc.as_bytes());
                reply.write(out);
            }
        }
        // The header has the size of the fields, so it is written after them and moved to the front.
        let fields = out.len() - start;
        put_header(out, self.kind(), fields + self.value().len());
        out[start..].rotate_left(fields);
    }

    /// Appends the whole message to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_head(out);
        out.extend_from_slice(self.value());
    }
}

fn read_request<'a>(kind: Kind, body: &mut Reader<'a>) -> Result<Option<Request<'a>>, WireError> {
    Ok(Some(match kind {
        wire::PING => Request::Ping,
        wire::STORE => Request::Store(RecordBlock::read_whole(body)?),
        wire::RELAY => Request::Relay { family: read_family(body)?, record: RecordBlock::read_whole(body)? },
        wire::FIND_NODE => Request::FindNode { target: Key::read(body)? },
        wire::FIND_VALUE => Request::FindValue { key: Key::read(body)?, want: Want::read(body)? },
        wire::OFFER => Request::Offer(List::receive(body.rest())?),
        wire::TIME => Request::Time,
        wire::SYNC => Request::Sync { from: Key::read(body)?, to: Key::read(body)? },
        _ => return Ok(None),
    }))
}

fn read_reply<'a>(kind: Kind, body: &mut Reader<'a>) -> Result<Option<Reply<'a>>, WireError> {
    Ok(Some(match kind {
        wire::PING_REPLY => Reply::Pong,
        wire::STORE_REPLY => {
            let key = Key::read(body)?;
            let outcome = if read_bit(body, "outcome")? { StoreOutcome::Larger } else { StoreOutcome::Held };
            Reply::Stored { key, outcome, held: read_rank(body)? }
        }
        wire::FIND_NODE_REPLY => Reply::Nodes(List::receive(body.rest())?),
        wire::FIND_VALUE_REPLY => {
            let count_and_bit = body.u8("count")?;
            let (count, is_tentative) = (count_and_bit & !TENTATIVE, count_and_bit & TENTATIVE != 0);
            if usize::from(count) > CONTACTS_MAX {
                return Err(WireError::field("count", count_and_bit, "at most 20 contacts, perhaps with bit 7"));
            }
            let contacts = List::receive(body.bytes("contacts", usize::from(count) * CONTACT_SIZE)?)?;
            Reply::Value { contacts, is_tentative, record: RecordBlock::read(body)? }
        }
        wire::WANT => Reply::Wanted(List::receive(body.rest())?),
        wire::SYNC_REPLY => Reply::Synced { more: read_bit(body, "more")?, entries: List::receive(body.rest())? },
        wire::TIME_REPLY => Reply::Time(WallTime::from_millis(body.u64("wall clock")?)),
        wire::ERROR => Reply::Error(ErrorCode(body.u16("code")?)),
        _ => return Ok(None),
    }))
}

impl Request<'_> {
    fn kind(&self) -> Kind {
        match self {
            Request::Ping => wire::PING,
            Request::Store(_) => wire::STORE,
            Request::Relay { .. } => wire::RELAY,
            Request::FindNode { .. } => wire::FIND_NODE,
            Request::FindValue { .. } => wire::FIND_VALUE,
            Request::Offer(_) => wire::OFFER,
            Request::Sync { .. } => wire::SYNC,
            Request::Time => wire::TIME,
        }
    }

    /// Appends the body behind the rpc id, without the value.
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Request::Ping | Request::Time => {}
            Request::Store(record) => record.write_head(out),
            Request::Relay { family, record } => {
                out.push(match family {
                    Family::V4 => 4,
                    Family::V6 => 6,
                });
                record.write_head(out);
            }
            Request::FindNode { target } => target.write(out),
            Request::FindValue { key, want } => {
                key.write(out);
                out.push(u8::from(want.contacts) | u8::from(want.head_only) << 1 | u8::from(want.catching_up) << 2);
            }
            Request::Offer(entries) => entries.write(out),
            Request::Sync { from, to } => {
                from.write(out);
                to.write(out);
            }
        }
    }
}

impl Reply<'_> {
    fn kind(&self) -> Kind {
        match self {
            Reply::Pong => wire::PING_REPLY,
            Reply::Stored { .. } => wire::STORE_REPLY,
            Reply::Nodes(_) => wire::FIND_NODE_REPLY,
            Reply::Value { .. } => wire::FIND_VALUE_REPLY,
            Reply::Wanted(_) => wire::WANT,
            Reply::Synced { .. } => wire::SYNC_REPLY,
            Reply::Time(_) => wire::TIME_REPLY,
            Reply::Error(_) => wire::ERROR,
        }
    }

    /// Appends the body behind the rpc id, without the value.
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Reply::Pong => {}
            Reply::Stored { key, outcome, held } => {
                key.write(out);
                out.push(u8::from(*outcome == StoreOutcome::Larger));
                write_rank(*held, out);
            }
            Reply::Nodes(contacts) => contacts.write(out),
            Reply::Value { contacts, is_tentative, record } => {
                assert!(contacts.len() <= CONTACTS_MAX, "our own replies name few contacts");
                let count = u8::try_from(contacts.len()).expect("CONTACTS_MAX is a byte");
                out.push(count | if *is_tentative { TENTATIVE } else { 0 });
                contacts.write(out);
                record.write_head(out);
            }
            Reply::Wanted(keys) => keys.write(out),
            Reply::Synced { more, entries } => {
                out.push(u8::from(*more));
                entries.write(out);
            }
            Reply::Time(wall) => out.extend_from_slice(&wall.as_millis().to_be_bytes()),
            Reply::Error(code) => out.extend_from_slice(&code.0.to_be_bytes()),
        }
    }
}

impl Want {
    fn read(body: &mut Reader<'_>) -> Result<Self, WireError> {
        match body.u8("want")? {
            bits @ 0..=7 => Ok(Self { contacts: bits & 1 != 0, head_only: bits & 2 != 0, catching_up: bits & 4 != 0 }),
            found => Err(WireError::field("want", found, "bits 0 to 2")),
        }
    }
}

impl<'a> RecordBlock<'a> {
    /// The block of the whole `record`, whose age is `age`.
    pub fn of(record: &'a Record, age: Age) -> Self {
        let &Record { key, class, version, ttl, replication, crc, ref value } = record;
        Self { ttl, replication, class, key, version, age, crc, content: Content::Value(value) }
    }

    /// The record, if the block has its value. A replication above [`K_MAX`] becomes [`K_MAX`].
    pub fn to_record(self) -> Option<Record> {
        let Self { ttl, key, class, version, crc, content, .. } = self;
        let replication = self.replication.min(u8::try_from(K_MAX).expect("K_MAX is a byte"));
        match content {
            Content::Value(value) => Some(Record { key, class, version, ttl, replication, crc, value: value.into() }),
            Content::Head | Content::Tombstone => None,
        }
    }

    /// What orders the record, without its value.
    pub fn rank(&self) -> Rank {
        let life = match self.content {
            Content::Value(_) | Content::Head => Life::Alive,
            Content::Tombstone => Life::Over,
        };
        Rank { class: self.class, life, version: self.version }
    }

    /// The value; empty if the block has none.
    pub fn value(&self) -> &'a [u8] {
        match self.content {
            Content::Value(value) => value,
            Content::Head | Content::Tombstone => &[],
        }
    }

    /// Reads a block that ends with `body`.
    fn read(body: &mut Reader<'a>) -> Result<Self, WireError> {
        let (ttl, replication, class, flags) = read_first_fields(body)?;
        let key = Key::read(body)?;
        let version = Version::from_bits(body.u64("version")?);
        let age = Age(body.u32("age")?);
        let crc = body.u32("crc")?;
        let content = match flags & !(SIGNED | HASHED) {
            0 => Content::Value(read_value(body, crc)?),
            HEAD => Content::Head,
            TOMBSTONE if class == Class::Plain => Content::Tombstone,
            _ => return Err(WireError::field("record flags", flags, "a value, a head or a plain tombstone")),
        };
        Ok(Self { ttl, replication, class, key, version, age, crc, content })
    }

    /// Appends the block with its value, and without key, age and crc: so the disk stores it.
    pub(crate) fn write_short(&self, out: &mut Vec<u8>) {
        self.write_first_fields(out);
        out.extend_from_slice(&self.version.bits().to_be_bytes());
        out.extend_from_slice(self.value());
    }

    /// Reads the block of `key` and `age` that [`RecordBlock::write_short`] wrote, to the end of `body`. The crc is
    /// computed.
    pub(crate) fn read_short(body: &mut Reader<'a>, key: Key, age: Age) -> Result<Self, WireError> {
        let (ttl, replication, class, flags) = read_first_fields(body)?;
        if flags & !(SIGNED | HASHED) != 0 {
            return Err(WireError::field("record flags", flags, "a record with its value"));
        }
        let version = Version::from_bits(body.u64("version")?);
        let value = sized_value(body)?;
        Ok(Self { ttl, replication, class, key, version, age, crc: crc_of(value), content: Content::Value(value) })
    }

    /// Reads a block that must have its value, as that of a STORE does.
    pub(crate) fn read_whole(body: &mut Reader<'a>) -> Result<Self, WireError> {
        let record = Self::read(body)?;
        let flags = match record.content {
            Content::Value(_) => return Ok(record),
            Content::Head => HEAD,
            Content::Tombstone => TOMBSTONE,
        };
        Err(WireError::field("record flags", flags, "a record with its value"))
    }

    /// Appends the block without its value.
    pub(crate) fn write_head(&self, out: &mut Vec<u8>) {
        self.write_first_fields(out);
        self.key.write(out);
        out.extend_from_slice(&self.version.bits().to_be_bytes());
        out.extend_from_slice(&self.age.0.to_be_bytes());
        out.extend_from_slice(&self.crc.to_be_bytes());
    }

    fn write_first_fields(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.ttl.as_secs().to_be_bytes());
        out.push(self.replication);
        let state = match self.content {
            Content::Value(value) => {
                assert!(!value.is_empty() && value.len() <= VALUE_SIZE_MAX, "a value of {} bytes", value.len());
                0
            }
            Content::Head => HEAD,
            Content::Tombstone => TOMBSTONE,
        };
        out.push(flags_of(self.class) | state);
    }
}

fn read_family(body: &mut Reader<'_>) -> Result<Family, WireError> {
    match body.u8("family")? {
        4 => Ok(Family::V4),
        6 => Ok(Family::V6),
        found => Err(WireError::field("family", found, "4 or 6")),
    }
}

/// Reads a byte that is 0 or 1.
fn read_bit(body: &mut Reader<'_>, field: &'static str) -> Result<bool, WireError> {
    match body.u8(field)? {
        0 => Ok(false),
        1 => Ok(true),
        found => Err(WireError::field(field, found, "0 or 1")),
    }
}

/// Reads the TTL, the replication, and the class in the flags of a record block; also returns these flags.
fn read_first_fields(body: &mut Reader<'_>) -> Result<(Ttl, u8, Class, u8), WireError> {
    let secs = body.u16("ttl")?;
    let ttl = Ttl::from_secs(secs).ok_or(WireError::field("ttl", secs, "1 to 65535"))?;
    let replication = body.u8("replication")?;
    if replication == 0 {
        return Err(WireError::field("replication", replication, "1 to 255"));
    }
    let flags = body.u8("record flags")?;
    let wrong_flags = || WireError::field("record flags", flags, "signed or hashed");
    let class = class_of(flags & (SIGNED | HASHED)).ok_or_else(wrong_flags)?;
    Ok((ttl, replication, class, flags))
}

fn sized_value<'a>(body: &mut Reader<'a>) -> Result<&'a [u8], WireError> {
    let value = body.rest();
    if value.is_empty() || value.len() > VALUE_SIZE_MAX {
        return Err(WireError::field("value size", value.len() as u64, "1 to 65495"));
    }
    Ok(value)
}

fn read_value<'a>(body: &mut Reader<'a>, sent: u32) -> Result<&'a [u8], WireError> {
    let value = sized_value(body)?;
    let computed = crc_of(value);
    if computed != sent {
        return Err(WireError::Crc { sent, computed });
    }
    Ok(value)
}

fn class_of(flags: u8) -> Option<Class> {
    match flags {
        0 => Some(Class::Plain),
        SIGNED => Some(Class::Signed),
        HASHED => Some(Class::Hashed),
        _ => None,
    }
}

fn flags_of(class: Class) -> u8 {
    match class {
        Class::Plain => 0,
        Class::Signed => SIGNED,
        Class::Hashed => HASHED,
    }
}

fn read_rank(body: &mut Reader<'_>) -> Result<Rank, WireError> {
    let flags = body.u8("flags")?;
    let expected = "signed or hashed, or a tombstone";
    let class = class_of(flags & !TOMBSTONE).ok_or(WireError::field("flags", flags, expected))?;
    let life = if flags & TOMBSTONE == 0 { Life::Alive } else { Life::Over };
    Ok(Rank { class, life, version: Version::from_bits(body.u64("version")?) })
}

fn write_rank(rank: Rank, out: &mut Vec<u8>) {
    let tombstone = match rank.life {
        Life::Alive => 0,
        Life::Over => TOMBSTONE,
    };
    out.push(flags_of(rank.class) | tombstone);
    out.extend_from_slice(&rank.version.bits().to_be_bytes());
}

impl Item for Key {
    const SIZE: usize = KEY_SIZE;

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        reader.array("key").map(Key::new)
    }

    fn validate(_item: &[u8]) -> Result<(), WireError> {
        Ok(())
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }
}

impl Item for Contact {
    const SIZE: usize = CONTACT_SIZE;

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let address = IpAddr::V6(Ipv6Addr::from(reader.array::<16>("address")?));
        let port = reader.u16("port")?;
        let id = NodeId::new(Key::new(reader.array("node id")?));
        Ok(Contact::new(id, SocketAddr::new(address, port)))
    }

    fn validate(_item: &[u8]) -> Result<(), WireError> {
        Ok(())
    }

    fn write(&self, out: &mut Vec<u8>) {
        let address = match self.address.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        out.extend_from_slice(&address.octets());
        out.extend_from_slice(&self.address.port().to_be_bytes());
        self.id.key().write(out);
    }
}

impl Item for Entry {
    const SIZE: usize = ENTRY_SIZE;

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self { key: Key::read(reader)?, rank: read_rank(reader)?, crc: reader.u32("crc")? })
    }

    fn write(&self, out: &mut Vec<u8>) {
        self.key.write(out);
        write_rank(self.rank, out);
        out.extend_from_slice(&self.crc.to_be_bytes());
    }
}
