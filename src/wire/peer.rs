//! Messages between nodes: HELLO to ERROR. Source: `PROTOCOL.md` 2.
//!
//! One type serves both ways: what is received borrows from the inbox, what is sent borrows from
//! the sender. A value is always the end of its message, so [`PeerMessage::encode_head`] writes
//! all but the value.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::contact::Contact;
use crate::id::{KEY_SIZE, Key, NodeId, RpcId};
use crate::limits::{
    AGENT_SIZE_MAX, CONTACT_SIZE, CONTACTS_MAX, ENTRY_SIZE, K_MAX, RECORD_FIELDS_SIZE, RPC_ID_SIZE, VALUE_SIZE_MAX,
};
use crate::record::{Age, Class, Life, Rank, Record, Ttl, Version, crc_of};
use crate::time::WallTime;
use crate::wire::codec::{Item, List, Reader, WireError};
use crate::wire::frame::{Frame, put_header};
use crate::wire::{self, Kind};

/// The version of the protocol that a HELLO names.
pub const PROTOCOL: u16 = 1;

/// A message between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerMessage<'a> {
    /// Each side's first message, once.
    Hello(Hello<'a>),
    /// The sender is leaving and wants no more requests.
    Goodbye,
    /// A request, to be answered under the same id.
    Request(RpcId, Request<'a>),
    /// The reply to a request.
    Reply(RpcId, Reply<'a>),
}

/// What a node says of itself when it is met. Its id is not among it: TLS proves that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// Version of the protocol.
    pub protocol: u16,
    /// Bit 0: serving; other bits are ignored.
    pub flags: u16,
    /// SHA-256 of the network's name.
    pub network: [u8; 32],
    /// Where it accepts peers, at the address it is seen from.
    pub port: u16,
    /// Its wall clock.
    pub wall: WallTime,
    /// Which program this is, for the log.
    pub agent: &'a str,
}

/// Flag of a HELLO: others may dial the sender.
pub const FLAG_SERVING: u16 = 1;

/// What one node asks of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Are you there?
    Ping,
    /// Hold this record.
    Store(RecordBlock<'a>),
    /// Whom do you know near this key?
    FindNode {
        /// The key.
        target: Key,
    },
    /// The record of this key, or whom you know near it.
    FindValue {
        /// The key.
        key: Key,
        /// What is wanted.
        want: Want,
    },
    /// Which of these records are worth sending?
    Offer(List<'a, Entry>),
    /// Which records do you hold in this range?
    Sync {
        /// First key.
        from: Key,
        /// Last key.
        to: Key,
    },
}

/// What a FIND VALUE asks for besides the record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// Contacts too, even if the record is held.
    pub contacts: bool,
    /// The record without its value.
    pub head_only: bool,
}

/// What a node replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// I am here.
    Pong,
    /// What is held after a STORE.
    Stored {
        /// The key of the record.
        key: Key,
        /// Whether it is the record that was sent.
        outcome: StoreOutcome,
        /// The record that is held.
        held: Rank,
    },
    /// Nodes near the target of a FIND NODE, or near the key of a FIND VALUE that found none.
    Nodes(List<'a, Contact>),
    /// The record of a FIND VALUE.
    Value {
        /// Nodes near the key, if they were wanted.
        contacts: List<'a, Contact>,
        /// The record.
        record: RecordBlock<'a>,
    },
    /// The keys of an OFFER that are worth sending.
    Wanted(List<'a, Key>),
    /// Entries of a SYNC, in key order.
    Synced {
        /// Whether more of the range would follow the last entry.
        more: bool,
        /// The entries.
        entries: List<'a, Entry>,
    },
    /// The request was not served.
    Error(ErrorCode),
}

/// What became of a STORE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreOutcome {
    /// Exactly this record is held.
    Held,
    /// A larger one is.
    Larger,
}

/// Why a request was not served, as in HTTP. An unknown code is kept: it only says "no".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorCode(pub u16);

impl ErrorCode {
    /// The message is malformed.
    pub const MALFORMED: Self = Self(400);
    /// A record that certifies itself does not verify.
    pub const NOT_VERIFIED: Self = Self(403);
    /// There is no such thing.
    pub const NOT_FOUND: Self = Self(404);
    /// The key is outside the receiver's scope.
    pub const OUT_OF_SCOPE: Self = Self(406);
    /// The record's life is over.
    pub const GONE: Self = Self(410);
    /// The record's version lies too far ahead.
    pub const TOO_EARLY: Self = Self(425);
    /// Too many requests.
    pub const TOO_MANY: Self = Self(429);
    /// The fault is the receiver's.
    pub const SERVER_ERROR: Self = Self(500);
    /// The receiver is leaving.
    pub const LEAVING: Self = Self(503);
    /// The receiver's storage is full.
    pub const FULL: Self = Self(507);
}

/// The record block R: a record, its head, or its tombstone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordBlock<'a> {
    /// How long it lives in all.
    pub ttl: Ttl,
    /// How many nodes shall hold it; at least 1.
    pub replication: u8,
    /// What it proves about itself.
    pub class: Class,
    /// Where it belongs.
    pub key: Key,
    /// Which of several values it is.
    pub version: Version,
    /// How much of its life has passed.
    pub age: Age,
    /// CRC-32 of the value; verified on receipt when the value is there.
    pub crc: u32,
    /// The value, or why there is none.
    pub content: Content<'a>,
}

/// What follows the fields of a record block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// 1..=[`VALUE_SIZE_MAX`] bytes.
    Value(&'a [u8]),
    /// Nothing: the value was not wanted.
    Head,
    /// Nothing: the life of this version is over. Only plain records leave one to others.
    Tombstone,
}

/// A record as OFFER and SYNC REPLY name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Key,
    /// Its class, version, and whether it is a tombstone.
    pub rank: Rank,
    /// CRC-32 of its value.
    pub crc: u32,
}

impl Entry {
    /// How `record` is named.
    pub fn of(record: &Record) -> Self {
        Self { key: record.key, rank: record.rank(), crc: record.crc }
    }
}

const SIGNED: u8 = 1;
const HASHED: u8 = 2;
const TOMBSTONE: u8 = 4;
const HEAD: u8 = 8;

impl<'a> PeerMessage<'a> {
    /// Reads a message from `frame`, which came from a peer.
    pub fn decode(frame: Frame<'a>) -> Result<Self, WireError> {
        let mut body = Reader::new(frame.body);
        let message = match frame.kind {
            wire::HELLO => PeerMessage::Hello(Hello::read(&mut body)?),
            wire::GOODBYE => PeerMessage::Goodbye,
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

    /// The id of the request or reply in `frame`, if it begins with one: what an ERROR about a
    /// malformed message can name.
    pub fn rpc_of(frame: Frame<'_>) -> Option<RpcId> {
        let carries_id = frame.kind != wire::HELLO && frame.kind != wire::GOODBYE;
        carries_id.then(|| frame.body.first_chunk::<RPC_ID_SIZE>().map(|id| RpcId::new(*id)))?
    }

    /// The type of the message.
    pub fn kind(&self) -> Kind {
        match self {
            PeerMessage::Hello(_) => wire::HELLO,
            PeerMessage::Goodbye => wire::GOODBYE,
            PeerMessage::Request(_, request) => request.kind(),
            PeerMessage::Reply(_, reply) => reply.kind(),
        }
    }

    /// The value that ends the message; empty if it has none.
    pub fn value(&self) -> &'a [u8] {
        match self {
            PeerMessage::Request(_, Request::Store(record)) | PeerMessage::Reply(_, Reply::Value { record, .. }) => {
                record.value()
            }
            _ => &[],
        }
    }

    /// Appends the message to `out`, without its value, which is to follow.
    pub fn encode_head(&self, out: &mut Vec<u8>) {
        let kind = self.kind();
        match self {
            PeerMessage::Hello(hello) => {
                put_header(out, kind, kind.body_min + hello.agent.len());
                hello.write(out);
            }
            PeerMessage::Goodbye => put_header(out, kind, 0),
            PeerMessage::Request(rpc, request) => {
                put_header(out, kind, RPC_ID_SIZE + request.size());
                out.extend_from_slice(rpc.as_bytes());
                request.write(out);
            }
            PeerMessage::Reply(rpc, reply) => {
                put_header(out, kind, RPC_ID_SIZE + reply.size());
                out.extend_from_slice(rpc.as_bytes());
                reply.write(out);
            }
        }
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
        wire::FIND_NODE => Request::FindNode { target: Key::read(body)? },
        wire::FIND_VALUE => Request::FindValue { key: Key::read(body)?, want: Want::read(body)? },
        wire::OFFER => Request::Offer(List::receive(body.rest())?),
        wire::SYNC => Request::Sync { from: Key::read(body)?, to: Key::read(body)? },
        _ => return Ok(None),
    }))
}

fn read_reply<'a>(kind: Kind, body: &mut Reader<'a>) -> Result<Option<Reply<'a>>, WireError> {
    Ok(Some(match kind {
        wire::PING_REPLY => Reply::Pong,
        wire::STORE_REPLY => {
            let key = Key::read(body)?;
            let outcome = match body.u8("outcome")? {
                0 => StoreOutcome::Held,
                1 => StoreOutcome::Larger,
                found => {
                    return Err(WireError::Field { field: "outcome", found: found.into(), expected: "0 or 1" });
                }
            };
            Reply::Stored { key, outcome, held: read_rank(body)? }
        }
        wire::FIND_NODE_REPLY => Reply::Nodes(List::receive(body.rest())?),
        wire::FIND_VALUE_REPLY => {
            let count = usize::from(body.u8("count")?);
            if count > CONTACTS_MAX {
                return Err(WireError::Field { field: "count", found: count as u64, expected: "at most 20 contacts" });
            }
            let contacts = List::receive(body.bytes("contacts", count * CONTACT_SIZE)?)?;
            Reply::Value { contacts, record: RecordBlock::read(body)? }
        }
        wire::WANT => Reply::Wanted(List::receive(body.rest())?),
        wire::SYNC_REPLY => {
            let more = match body.u8("more")? {
                0 => false,
                1 => true,
                found => return Err(WireError::Field { field: "more", found: found.into(), expected: "0 or 1" }),
            };
            Reply::Synced { more, entries: List::receive(body.rest())? }
        }
        wire::ERROR => Reply::Error(ErrorCode(body.u16("code")?)),
        _ => return Ok(None),
    }))
}

impl Request<'_> {
    fn kind(&self) -> Kind {
        match self {
            Request::Ping => wire::PING,
            Request::Store(_) => wire::STORE,
            Request::FindNode { .. } => wire::FIND_NODE,
            Request::FindValue { .. } => wire::FIND_VALUE,
            Request::Offer(_) => wire::OFFER,
            Request::Sync { .. } => wire::SYNC,
        }
    }

    /// Bytes behind the rpc id.
    fn size(&self) -> usize {
        match self {
            Request::Ping => 0,
            Request::Store(record) => record.size(),
            Request::FindNode { .. } => KEY_SIZE,
            Request::FindValue { .. } => KEY_SIZE + 1,
            Request::Offer(entries) => entries.size(),
            Request::Sync { .. } => 2 * KEY_SIZE,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Request::Ping => {}
            Request::Store(record) => record.write_head(out),
            Request::FindNode { target } => target.write(out),
            Request::FindValue { key, want } => {
                key.write(out);
                out.push(u8::from(want.contacts) | u8::from(want.head_only) << 1);
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
            Reply::Error(_) => wire::ERROR,
        }
    }

    /// Bytes behind the rpc id.
    fn size(&self) -> usize {
        match self {
            Reply::Pong => 0,
            Reply::Stored { .. } => KEY_SIZE + 1 + 1 + 8,
            Reply::Nodes(contacts) => contacts.size(),
            Reply::Value { contacts, record } => 1 + contacts.size() + record.size(),
            Reply::Wanted(keys) => keys.size(),
            Reply::Synced { entries, .. } => 1 + entries.size(),
            Reply::Error(_) => 2,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Reply::Pong => {}
            Reply::Stored { key, outcome, held } => {
                key.write(out);
                out.push(match outcome {
                    StoreOutcome::Held => 0,
                    StoreOutcome::Larger => 1,
                });
                write_rank(*held, out);
            }
            Reply::Nodes(contacts) => contacts.write(out),
            Reply::Value { contacts, record } => {
                assert!(contacts.len() <= CONTACTS_MAX, "our own replies name few contacts");
                out.push(u8::try_from(contacts.len()).expect("CONTACTS_MAX is a byte"));
                contacts.write(out);
                record.write_head(out);
            }
            Reply::Wanted(keys) => keys.write(out),
            Reply::Synced { more, entries } => {
                out.push(u8::from(*more));
                entries.write(out);
            }
            Reply::Error(code) => out.extend_from_slice(&code.0.to_be_bytes()),
        }
    }
}

impl<'a> Hello<'a> {
    fn read(body: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(Self {
            protocol: body.u16("protocol")?,
            flags: body.u16("flags")?,
            network: body.array("network")?,
            port: body.u16("listening port")?,
            wall: WallTime::from_millis(body.u64("wall clock")?),
            agent: {
                let bytes = body.rest();
                std::str::from_utf8(bytes).map_err(|error| WireError::Field {
                    field: "agent",
                    found: bytes[error.valid_up_to()].into(),
                    expected: "UTF-8",
                })?
            },
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        assert!(self.agent.len() <= AGENT_SIZE_MAX, "our own agent is short");
        out.extend_from_slice(&self.protocol.to_be_bytes());
        out.extend_from_slice(&self.flags.to_be_bytes());
        out.extend_from_slice(&self.network);
        out.extend_from_slice(&self.port.to_be_bytes());
        out.extend_from_slice(&self.wall.as_millis().to_be_bytes());
        out.extend_from_slice(self.agent.as_bytes());
    }
}

impl Want {
    fn read(body: &mut Reader<'_>) -> Result<Self, WireError> {
        match body.u8("want")? {
            bits @ 0..=3 => Ok(Self { contacts: bits & 1 != 0, head_only: bits & 2 != 0 }),
            found => Err(WireError::Field { field: "want", found: found.into(), expected: "bits 0 and 1" }),
        }
    }
}

impl<'a> RecordBlock<'a> {
    /// All of `record`, whose age is `age`.
    pub fn of(record: &'a Record, age: Age) -> Self {
        let &Record { key, class, version, ttl, replication, crc, ref value } = record;
        Self { ttl, replication, class, key, version, age, crc, content: Content::Value(value) }
    }

    /// The record, if its value is there; its replication as far as it may be asked for.
    pub fn to_record(self) -> Option<Record> {
        let Self { ttl, key, class, version, crc, content, .. } = self;
        let replication = self.replication.min(u8::try_from(K_MAX).expect("K_MAX is a byte"));
        match content {
            Content::Value(value) => Some(Record { key, class, version, ttl, replication, crc, value: value.into() }),
            Content::Head | Content::Tombstone => None,
        }
    }

    /// Its place in the order of records, but for the value.
    pub fn rank(&self) -> Rank {
        let life = match self.content {
            Content::Value(_) | Content::Head => Life::Alive,
            Content::Tombstone => Life::Over,
        };
        Rank { class: self.class, life, version: self.version }
    }

    /// The value, if it is there.
    pub fn value(&self) -> &'a [u8] {
        match self.content {
            Content::Value(value) => value,
            Content::Head | Content::Tombstone => &[],
        }
    }

    fn size(&self) -> usize {
        RECORD_FIELDS_SIZE + self.value().len()
    }

    /// Reads a block to the end of `body`.
    fn read(body: &mut Reader<'a>) -> Result<Self, WireError> {
        let secs = body.u16("ttl")?;
        let ttl = Ttl::from_secs(secs).ok_or(WireError::Field { field: "ttl", found: 0, expected: "1 to 65535" })?;
        let replication = body.u8("replication")?;
        if replication == 0 {
            return Err(WireError::Field { field: "replication", found: 0, expected: "1 to 255" });
        }
        let flags = body.u8("record flags")?;
        let class = class_of(flags & (SIGNED | HASHED)).ok_or(WireError::Field {
            field: "record flags",
            found: flags.into(),
            expected: "signed or hashed",
        })?;
        let key = Key::read(body)?;
        let version = Version::from_bits(body.u64("version")?);
        let age = Age(body.u32("age")?);
        let crc = body.u32("check")?;
        let content = match flags & !(SIGNED | HASHED) {
            0 => Content::Value(read_value(body, crc)?),
            HEAD => Content::Head,
            TOMBSTONE if class == Class::Plain => Content::Tombstone,
            _ => {
                let expected = "a value, a head or a plain tombstone";
                return Err(WireError::Field { field: "record flags", found: flags.into(), expected });
            }
        };
        Ok(Self { ttl, replication, class, key, version, age, crc, content })
    }

    /// Reads a block that must hold its value, as a STORE does.
    pub(crate) fn read_whole(body: &mut Reader<'a>) -> Result<Self, WireError> {
        let record = Self::read(body)?;
        let flags = match record.content {
            Content::Value(_) => return Ok(record),
            Content::Head => HEAD,
            Content::Tombstone => TOMBSTONE,
        };
        Err(WireError::Field { field: "record flags", found: flags.into(), expected: "a record with its value" })
    }

    /// Writes all but the value.
    pub(crate) fn write_head(&self, out: &mut Vec<u8>) {
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
        self.key.write(out);
        out.extend_from_slice(&self.version.bits().to_be_bytes());
        out.extend_from_slice(&self.age.0.to_be_bytes());
        out.extend_from_slice(&self.crc.to_be_bytes());
    }
}

fn read_value<'a>(body: &mut Reader<'a>, sent: u32) -> Result<&'a [u8], WireError> {
    let value = body.rest();
    if value.is_empty() || value.len() > VALUE_SIZE_MAX {
        let found = value.len() as u64;
        return Err(WireError::Field { field: "value size", found, expected: "1 to 65495" });
    }
    let computed = crc_of(value);
    if computed != sent {
        return Err(WireError::Check { sent, computed });
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
    let class = class_of(flags & !TOMBSTONE).ok_or(WireError::Field {
        field: "flags",
        found: flags.into(),
        expected: "signed or hashed, or a tombstone",
    })?;
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

    fn check(_item: &[u8]) -> Result<(), WireError> {
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

    fn check(_item: &[u8]) -> Result<(), WireError> {
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
        Ok(Self { key: Key::read(reader)?, rank: read_rank(reader)?, crc: reader.u32("check")? })
    }

    fn write(&self, out: &mut Vec<u8>) {
        self.key.write(out);
        write_rank(self.rank, out);
        out.extend_from_slice(&self.crc.to_be_bytes());
    }
}
