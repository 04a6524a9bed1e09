//! The layouts of all messages. Source: `PROTOCOL.md` 1 and 2, shown as [`protocol`].
//!
//! ```text
//! every message      0 size u16 (header included)   2 type u16                      4 body
//! long form          0 zero u16   2 type u16   4 size u32 (header included)         8 body
//!
//! 650 DHT PUT        4 ttl u16    6 replication u8   7 flags u8   8 key 32          40 value
//! 651 DHT GET        4 key 32
//! 652 DHT SUCCESS    4 key 32                                                       36 value
//! 653 DHT FAILURE    4 key 32
//!
//! 664 HELLO          protocol u16   flags u16   network 32   port u16   wall u64    agent ≤ 64
//! 665 GOODBYE        nothing
//!     all others     rpc id 32, then
//! 660 PING           nothing                     670 PING REPLY        nothing
//! 661 STORE          R                           671 STORE REPLY       key 32   outcome u8   flags u8   version u64
//! 662 FIND NODE      target 32                   672 FIND NODE REPLY   contacts
//! 663 FIND VALUE     key 32   want u8            673 FIND VALUE REPLY  count u8   contacts   R
//! 666 OFFER          entries                     676 WANT              keys
//! 667 SYNC           from 32   to 32             677 SYNC REPLY        more u8   entries
//! 669 TIME           nothing                     679 TIME REPLY        wall u64
//!                                                680 ERROR             code u16
//!
//! R, a record        ttl u16   replication u8   flags u8   key 32   version u64   age u32   crc u32   value
//! contact            address 16 (IPv4 mapped)   port u16   node id 32
//! entry              key 32   flags u8   version u64   crc u32
//! ```
//!
//! [`frame::next_frame`] splits received bytes into messages; [`api`] and [`peer`] read their fields. A
//! decoded message borrows all that it holds from the inbox. A value is always the last field of its
//! message, so a sender writes the head first and copies the value once, behind it.
//!
//! This module decides whether bytes are a message. It does not decide what the message means.

pub mod api;
pub mod codec;
pub mod frame;
pub mod hello;
pub mod peer;
#[doc = include_str!("PROTOCOL.md")]
pub mod protocol {}

use crate::id::KEY_SIZE;
use crate::limits::{
    AGENT_SIZE_MAX, BRIDGES_MAX, CONTACT_SIZE, CONTACTS_MAX, ENTRIES_MAX, ENTRY_SIZE, FRAME_SIZE_MAX, HEADER_SIZE,
    PUT_FIELDS_SIZE, RECORD_FIELDS_SIZE, RPC_ID_SIZE, VALUE_SIZE_MAX,
};

/// The sender of the bytes. It decides which messages are possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A client, on the module API.
    Module,
    /// The server, in its answers to a client.
    Server,
    /// Another node.
    Peer,
}

/// A type of message: its number, its name in errors and logs, and the sizes that it can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The type field of the header.
    pub number: u16,
    /// Its name, as `PROTOCOL.md` 1 and 2 write it.
    pub name: &'static str,
    /// Smallest body, in bytes.
    pub body_min: usize,
    /// Largest body, in bytes.
    pub body_max: usize,
}

const fn kind(number: u16, name: &'static str, body_min: usize, body_max: usize) -> Kind {
    Kind { number, name, body_min, body_max }
}

/// Body of a HELLO without the agent, in bytes.
const HELLO_SIZE: usize = 2 + 2 + 32 + 2 + 8;

/// DHT PUT.
pub const PUT: Kind = kind(650, "DHT PUT", PUT_FIELDS_SIZE + KEY_SIZE + 1, PUT_FIELDS_SIZE + KEY_SIZE + VALUE_SIZE_MAX);
/// DHT GET.
pub const GET: Kind = kind(651, "DHT GET", KEY_SIZE, KEY_SIZE);
/// DHT SUCCESS.
pub const SUCCESS: Kind = kind(652, "DHT SUCCESS", KEY_SIZE, KEY_SIZE + VALUE_SIZE_MAX);
/// DHT FAILURE.
pub const FAILURE: Kind = kind(653, "DHT FAILURE", KEY_SIZE, KEY_SIZE);
/// PING.
pub const PING: Kind = kind(660, "PING", RPC_ID_SIZE, RPC_ID_SIZE);
/// STORE; its value has at least one byte.
pub const STORE: Kind =
    kind(661, "STORE", RPC_ID_SIZE + RECORD_FIELDS_SIZE + 1, RPC_ID_SIZE + RECORD_FIELDS_SIZE + VALUE_SIZE_MAX);
/// FIND NODE.
pub const FIND_NODE: Kind = kind(662, "FIND NODE", RPC_ID_SIZE + KEY_SIZE, RPC_ID_SIZE + KEY_SIZE);
/// FIND VALUE.
pub const FIND_VALUE: Kind = kind(663, "FIND VALUE", RPC_ID_SIZE + KEY_SIZE + 1, RPC_ID_SIZE + KEY_SIZE + 1);
/// HELLO.
pub const HELLO: Kind = kind(664, "HELLO", HELLO_SIZE, HELLO_SIZE + AGENT_SIZE_MAX);
/// GOODBYE.
pub const GOODBYE: Kind = kind(665, "GOODBYE", 0, 0);
/// OFFER.
pub const OFFER: Kind = kind(666, "OFFER", RPC_ID_SIZE + ENTRY_SIZE, RPC_ID_SIZE + ENTRIES_MAX * ENTRY_SIZE);
/// SYNC.
pub const SYNC: Kind = kind(667, "SYNC", RPC_ID_SIZE + 2 * KEY_SIZE, RPC_ID_SIZE + 2 * KEY_SIZE);
/// RELAY; the record of a STORE, and the address family to store it in.
pub const RELAY: Kind = kind(668, "RELAY", STORE.body_min + 1, STORE.body_max + 1);
/// TIME.
pub const TIME: Kind = kind(669, "TIME", RPC_ID_SIZE, RPC_ID_SIZE);
/// PING REPLY.
pub const PING_REPLY: Kind = kind(670, "PING REPLY", RPC_ID_SIZE, RPC_ID_SIZE);
/// STORE REPLY.
pub const STORE_REPLY: Kind =
    kind(671, "STORE REPLY", RPC_ID_SIZE + KEY_SIZE + 1 + 1 + 8, RPC_ID_SIZE + KEY_SIZE + 1 + 1 + 8);
/// FIND NODE REPLY.
pub const FIND_NODE_REPLY: Kind = kind(672, "FIND NODE REPLY", RPC_ID_SIZE, RPC_ID_SIZE + CONTACTS_MAX * CONTACT_SIZE);
/// FIND VALUE REPLY; with or without contacts, with the whole record or without its value.
pub const FIND_VALUE_REPLY: Kind = kind(
    673,
    "FIND VALUE REPLY",
    RPC_ID_SIZE + 1 + RECORD_FIELDS_SIZE,
    RPC_ID_SIZE + 1 + CONTACTS_MAX * CONTACT_SIZE + RECORD_FIELDS_SIZE + VALUE_SIZE_MAX,
);
/// BRIDGES.
pub const BRIDGES: Kind = kind(674, "BRIDGES", 2, 2 + BRIDGES_MAX * CONTACT_SIZE);
/// WANT.
pub const WANT: Kind = kind(676, "WANT", RPC_ID_SIZE, RPC_ID_SIZE + ENTRIES_MAX * KEY_SIZE);
/// SYNC REPLY.
pub const SYNC_REPLY: Kind = kind(677, "SYNC REPLY", RPC_ID_SIZE + 1, RPC_ID_SIZE + 1 + ENTRIES_MAX * ENTRY_SIZE);
/// TIME REPLY.
pub const TIME_REPLY: Kind = kind(679, "TIME REPLY", RPC_ID_SIZE + 8, RPC_ID_SIZE + 8);
/// ERROR.
pub const ERROR: Kind = kind(680, "ERROR", RPC_ID_SIZE + 2, RPC_ID_SIZE + 2);

impl Source {
    /// The type with this number, if this source may send it.
    pub fn kind(self, number: u16) -> Option<Kind> {
        let kinds: &[Kind] = match self {
            Source::Module => &[PUT, GET],
            Source::Server => &[SUCCESS, FAILURE],
            Source::Peer => &[
                PING,
                STORE,
                FIND_NODE,
                FIND_VALUE,
                HELLO,
                GOODBYE,
                OFFER,
                SYNC,
                RELAY,
                TIME,
                PING_REPLY,
                STORE_REPLY,
                FIND_NODE_REPLY,
                FIND_VALUE_REPLY,
                BRIDGES,
                WANT,
                SYNC_REPLY,
                TIME_REPLY,
                ERROR,
            ],
        };
        kinds.iter().find(|kind| kind.number == number).copied()
    }
}

const _: () = {
    assert!(PUT.body_max == FRAME_SIZE_MAX - HEADER_SIZE);
    assert!(FIND_VALUE_REPLY.body_max + crate::limits::LONG_HEADER_SIZE == crate::limits::PEER_MESSAGE_SIZE_MAX);
};
