//! The messages of the module API: DHT PUT, GET, SUCCESS and FAILURE. Source: `PROTOCOL.md` 1.

use crate::id::{KEY_SIZE, Key};
use crate::limits::{ANSWER_SIZE_MAX, HEADER_SIZE, PUT_FIELDS_SIZE};
use crate::record::Class;
use crate::wire::codec::{Reader, WireError};
use crate::wire::frame::{Frame, put_header};
use crate::wire::{FAILURE, GET, Kind, PUT, SUCCESS};

/// A request of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiRequest<'a> {
    /// Stores a value.
    Put(Put<'a>),
    /// Asks for the value of a key.
    Get {
        /// The key.
        key: Key,
    },
}

/// A DHT PUT as the client sent it: no field is clamped or verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put<'a> {
    /// The TTL in seconds; 0 means the default.
    pub ttl: u16,
    /// How many nodes shall store the value; 0 means the default.
    pub replication: u8,
    /// Whether the server answers the PUT.
    pub confirm: Confirm,
    /// What the value claims to prove about its origin.
    pub class: Class,
    /// The key of the value.
    pub key: Key,
    /// 1..=[`crate::limits::VALUE_SIZE_MAX`] bytes.
    pub value: &'a [u8],
}

/// Whether the server answers a PUT (flag bit 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirm {
    /// No answer in any case.
    No,
    /// SUCCESS when enough nodes store the value, otherwise FAILURE.
    Yes,
}

/// An answer of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiReply<'a> {
    /// The value of a GET; for a confirmed PUT no bytes.
    Success {
        /// The key of the request.
        key: Key,
        /// 0..=[`crate::limits::VALUE_SIZE_MAX`] bytes.
        value: &'a [u8],
    },
    /// The server has no value for the GET, or has not confirmed the PUT.
    Failure {
        /// The key of the request.
        key: Key,
    },
}

/// Size of an answer without its value, in bytes.
const ANSWER_HEAD_SIZE: usize = HEADER_SIZE + KEY_SIZE;

/// Flags of a PUT. SIGNED and HASHED exclude each other.
const CONFIRM: u8 = 1;
const SIGNED: u8 = 2;
const HASHED: u8 = 4;

impl<'a> ApiRequest<'a> {
    /// Reads a request from `frame`, which a client has sent.
    ///
    /// # Errors
    ///
    /// [`WireError`] if it is no request.
    pub fn decode(frame: Frame<'a>) -> Result<Self, WireError> {
        let mut body = Reader::new(frame.body);
        if frame.kind.number == GET.number {
            let key = Key::new(body.array("key")?);
            body.finish()?;
            return Ok(ApiRequest::Get { key });
        }
        if frame.kind.number != PUT.number {
            return Err(WireError::UnknownKind { number: frame.kind.number });
        }
        let ttl = body.u16("ttl")?;
        let replication = body.u8("replication")?;
        let flags = body.u8("flags")?;
        let confirm = if flags & CONFIRM == 0 { Confirm::No } else { Confirm::Yes };
        let class = match flags & !CONFIRM {
            0 => Class::Plain,
            SIGNED => Class::Signed,
            HASHED => Class::Hashed,
            _ => {
                let expected = "1 (confirm), 2 (signed) or 4 (hashed), or 1 with one of the others";
                return Err(WireError::field("flags", flags, expected));
            }
        };
        let key = Key::new(body.array("key")?);
        Ok(ApiRequest::Put(Put { ttl, replication, confirm, class, key, value: body.rest() }))
    }

    /// The key of the request.
    pub fn key(&self) -> &Key {
        match self {
            ApiRequest::Get { key } => key,
            ApiRequest::Put(put) => &put.key,
        }
    }

    /// Whether the server answers this request (`PROTOCOL.md` 1, rules 1 and 2).
    pub fn is_answered(&self) -> bool {
        match self {
            ApiRequest::Get { .. } => true,
            ApiRequest::Put(put) => put.confirm == Confirm::Yes,
        }
    }

    /// The size of the largest answer to this request, in bytes.
    pub fn answer_size_max(&self) -> usize {
        match self {
            ApiRequest::Get { .. } => ANSWER_SIZE_MAX,
            ApiRequest::Put(_) => ANSWER_HEAD_SIZE,
        }
    }

    /// Appends the request to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            ApiRequest::Put(put) => {
                put_header(out, PUT, PUT_FIELDS_SIZE + KEY_SIZE + put.value.len());
                out.extend_from_slice(&put.ttl.to_be_bytes());
                out.push(put.replication);
                let confirm = match put.confirm {
                    Confirm::No => 0,
                    Confirm::Yes => CONFIRM,
                };
                let class = match put.class {
                    Class::Plain => 0,
                    Class::Signed => SIGNED,
                    Class::Hashed => HASHED,
                };
                out.push(confirm | class);
                out.extend_from_slice(put.key.as_bytes());
                out.extend_from_slice(put.value);
            }
            ApiRequest::Get { key } => {
                put_header(out, GET, KEY_SIZE);
                out.extend_from_slice(key.as_bytes());
            }
        }
    }
}

impl<'a> ApiReply<'a> {
    /// Reads an answer from `frame`, which the server has sent.
    ///
    /// # Errors
    ///
    /// [`WireError`] if it is no answer.
    pub fn decode(frame: Frame<'a>) -> Result<Self, WireError> {
        let mut body = Reader::new(frame.body);
        let reply = match frame.kind {
            SUCCESS => ApiReply::Success { key: Key::new(body.array("key")?), value: body.rest() },
            FAILURE => ApiReply::Failure { key: Key::new(body.array("key")?) },
            Kind { number, .. } => return Err(WireError::UnknownKind { number }),
        };
        body.finish()?;
        Ok(reply)
    }

    /// Appends the answer without its value; the caller appends the value.
    pub fn encode_head(&self, out: &mut Vec<u8>) {
        let (kind, key, value) = match self {
            ApiReply::Success { key, value } => (SUCCESS, key, value.len()),
            ApiReply::Failure { key } => (FAILURE, key, 0),
        };
        // Written at once, with one check of the bounds of `out`, because every GET has an answer.
        let [s0, s1] = u16::try_from(ANSWER_HEAD_SIZE + value).expect("a value fits its frame").to_be_bytes();
        let [k0, k1] = kind.number.to_be_bytes();
        let mut head = [0; ANSWER_HEAD_SIZE];
        head[..HEADER_SIZE].copy_from_slice(&[s0, s1, k0, k1]);
        head[HEADER_SIZE..].copy_from_slice(key.as_bytes());
        out.extend_from_slice(&head);
    }

    /// Appends the whole answer to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_head(out);
        if let ApiReply::Success { value, .. } = self {
            out.extend_from_slice(value);
        }
    }
}
