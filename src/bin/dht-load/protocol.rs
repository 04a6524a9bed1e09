//! The three protocols that the generator speaks: requests → bytes, bytes → answers.
//!
//! Redis speaks RESP 2 (GET, SET), memcached its text protocol (get, set); both answer each
//! request. Their keys are 32 hex digits, as long as a DHT key. A DHT PUT is answered only if it
//! asks for a confirmation (`PROTOCOL.md` 1, rule 1).

use std::fmt;
use std::io::Write;

use super::keys::Alphabet;
use dht::id::{KEY_SIZE, Key};
use dht::limits::VALUE_SIZE_MAX;
use dht::record::Class;
use dht::wire::Source;
use dht::wire::api::{ApiReply, ApiRequest, Confirm, Put};
use dht::wire::codec::WireError;
use dht::wire::frame::next_frame;

/// The protocol of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// The module API (`PROTOCOL.md` 1).
    Dht,
    /// Redis: RESP 2.
    Redis,
    /// memcached: the text protocol.
    Memcached,
}

/// The other fields of a DHT PUT; Redis and memcached do not have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PutFields {
    /// In seconds; 0 for the server's default.
    pub(crate) ttl: u16,
    /// Number of replicas; 0 for the server's default.
    pub(crate) replication: u8,
    /// Whether the server answers the PUT.
    pub(crate) confirm: Confirm,
}

/// Longest line of a text answer: more than any error message.
const LINE_SIZE_MAX: usize = 2048;

/// Largest value of a valid answer, the same for all protocols.
const VALUE_MAX: usize = VALUE_SIZE_MAX + 4;

/// An answer to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer<'a> {
    /// Its key, if the protocol includes it.
    pub(crate) key: Option<Key>,
    /// The value, empty for a PUT; `None` if the server has none or refuses.
    pub(crate) value: Option<&'a [u8]>,
}

/// Bytes that are not an answer. The connection cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Senseless {
    /// An invalid message of the DHT.
    Frame(WireError),
    /// An invalid line of a text protocol.
    Line,
    /// An answer without a request.
    Unasked,
}

impl Protocol {
    /// The bytes that a key may consist of.
    pub(crate) fn alphabet(self) -> Alphabet {
        match self {
            Self::Dht => Alphabet::Bytes,
            Self::Redis | Self::Memcached => Alphabet::Digits,
        }
    }

    /// Whether the server answers a PUT with these `fields`.
    pub(crate) fn answers_puts(self, fields: PutFields) -> bool {
        self != Self::Dht || fields.confirm == Confirm::Yes
    }

    /// Appends a GET of `key`.
    pub(crate) fn write_get(self, key: &Key, out: &mut Vec<u8>) {
        match self {
            Self::Dht => ApiRequest::Get { key: *key }.encode(out),
            Self::Redis => {
                out.extend_from_slice(b"*2\r\n$3\r\nGET\r\n$32\r\n");
                out.extend_from_slice(key.as_bytes());
                out.extend_from_slice(b"\r\n");
            }
            Self::Memcached => {
                out.extend_from_slice(b"get ");
                out.extend_from_slice(key.as_bytes());
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// Appends a PUT of `value` under `key`.
    pub(crate) fn write_put(self, key: &Key, fields: PutFields, value: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Dht => {
                let PutFields { ttl, replication, confirm } = fields;
                let put = Put { ttl, replication, confirm, class: Class::Plain, key: *key, value };
                return ApiRequest::Put(put).encode(out);
            }
            Self::Redis => {
                out.extend_from_slice(b"*3\r\n$3\r\nSET\r\n$32\r\n");
                out.extend_from_slice(key.as_bytes());
                write!(out, "\r\n${}\r\n", value.len()).expect("a Vec accepts all bytes");
            }
            Self::Memcached => {
                out.extend_from_slice(b"set ");
                out.extend_from_slice(key.as_bytes());
                write!(out, " 0 0 {}\r\n", value.len()).expect("a Vec accepts all bytes");
            }
        }
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }

    /// The first answer in `inbox` and its size, which the caller drains; `None` while the answer is
    /// incomplete.
    ///
    /// # Errors
    ///
    /// [`Senseless`] if the bytes are not the beginning of an answer.
    pub(crate) fn next_answer(self, inbox: &[u8]) -> Result<Option<(Answer<'_>, usize)>, Senseless> {
        match self {
            Self::Dht => next_reply(inbox),
            Self::Redis => next_of_redis(inbox),
            Self::Memcached => next_of_memcached(inbox),
        }
    }
}

fn next_reply(inbox: &[u8]) -> Result<Option<(Answer<'_>, usize)>, Senseless> {
    let Some((frame, size)) = next_frame(Source::Server, inbox).map_err(Senseless::Frame)? else {
        return Ok(None);
    };
    let answer = match ApiReply::decode(frame).map_err(Senseless::Frame)? {
        ApiReply::Success { key, value } => Answer { key: Some(key), value: Some(value) },
        ApiReply::Failure { key } => Answer { key: Some(key), value: None },
    };
    Ok(Some((answer, size)))
}

/// `$N` and a value, `$-1` for no value, `+OK`, or `-` and an error.
fn next_of_redis(inbox: &[u8]) -> Result<Option<(Answer<'_>, usize)>, Senseless> {
    let Some((line, size)) = next_line(inbox)? else {
        return Ok(None);
    };
    let answer = |value| Answer { key: None, value };
    Ok(match line.split_first() {
        Some((b'+', _)) => Some((answer(Some(&[])), size)),
        Some((b'-', _) | (b'$', b"-1")) => Some((answer(None), size)),
        Some((b'$', length)) => {
            value_behind(inbox, size, length, b"\r\n")?.map(|(value, size)| (answer(Some(value)), size))
        }
        _ => return Err(Senseless::Line),
    })
}

/// `VALUE key flags N`, a value and `END`; `END` alone for no value; `STORED`, or an error.
fn next_of_memcached(inbox: &[u8]) -> Result<Option<(Answer<'_>, usize)>, Senseless> {
    let Some((line, size)) = next_line(inbox)? else {
        return Ok(None);
    };
    let Some(head) = line.strip_prefix(b"VALUE ") else {
        let value = (line == b"STORED").then_some(&[][..]);
        return Ok(Some((Answer { key: None, value }, size)));
    };
    let mut words = head.split(|byte| *byte == b' ');
    let key = words.next().and_then(|word| <[u8; KEY_SIZE]>::try_from(word).ok()).map(Key::new);
    let length = words.nth(1).ok_or(Senseless::Line)?;
    let value = value_behind(inbox, size, length, b"\r\nEND\r\n")?;
    Ok(value.map(|(value, size)| (Answer { key, value: Some(value) }, size)))
}

/// The first line of `inbox`, and its size including the line end.
fn next_line(inbox: &[u8]) -> Result<Option<(&[u8], usize)>, Senseless> {
    let Some(end) = inbox.iter().take(LINE_SIZE_MAX).position(|byte| *byte == b'\n') else {
        return if inbox.len() < LINE_SIZE_MAX { Ok(None) } else { Err(Senseless::Line) };
    };
    let line = inbox[..end].strip_suffix(b"\r").ok_or(Senseless::Line)?;
    Ok(Some((line, end + 1)))
}

/// The value at `at` in `inbox`, which has `length` bytes (in digits) and is followed by `end`; and
/// the position after `end`.
fn value_behind<'a>(
    inbox: &'a [u8],
    at: usize,
    length: &[u8],
    end: &[u8],
) -> Result<Option<(&'a [u8], usize)>, Senseless> {
    let length = std::str::from_utf8(length).ok().and_then(|digits| digits.parse::<usize>().ok());
    let length = length.filter(|length| *length <= VALUE_MAX).ok_or(Senseless::Line)?;
    let size = at + length + end.len();
    let Some(whole) = inbox.get(at..size) else {
        return Ok(None);
    };
    let (value, found) = whole.split_at(length);
    if found == end { Ok(Some((value, size))) } else { Err(Senseless::Line) }
}

/// Its name in the command line and the report.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dht => "dht",
            Self::Redis => "redis",
            Self::Memcached => "memcached",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key::new(*b"0123456789abcdef0123456789abcdef");
    const FIELDS: PutFields = PutFields { ttl: 3600, replication: 1, confirm: Confirm::Yes };

    fn request(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut bytes = Vec::new();
        write(&mut bytes);
        bytes.escape_ascii().to_string()
    }

    #[test]
    fn requests_have_the_form_of_each_protocol() {
        let get = |protocol: Protocol| request(|out| protocol.write_get(&KEY, out));
        let put = |protocol: Protocol| request(|out| protocol.write_put(&KEY, FIELDS, b"v\0", out));
        let key = "0123456789abcdef0123456789abcdef";
        assert_eq!(get(Protocol::Redis), format!(r"*2\r\n$3\r\nGET\r\n$32\r\n{key}\r\n"));
        assert_eq!(put(Protocol::Redis), format!(r"*3\r\n$3\r\nSET\r\n$32\r\n{key}\r\n$2\r\nv\x00\r\n"));
        assert_eq!(get(Protocol::Memcached), format!(r"get {key}\r\n"));
        assert_eq!(put(Protocol::Memcached), format!(r"set {key} 0 0 2\r\nv\x00\r\n"));
        assert_eq!(get(Protocol::Dht), format!(r"\x00$\x02\x8b{key}"));
        assert_eq!(put(Protocol::Dht), format!(r"\x00*\x02\x8a\x0e\x10\x01\x01{key}v\x00"));
    }

    /// The answer in `bytes`, which must not be recognised before its last byte.
    fn answer(protocol: Protocol, bytes: &[u8]) -> Answer<'_> {
        for cut in 0..bytes.len() {
            assert_eq!(protocol.next_answer(&bytes[..cut]), Ok(None), "at {cut} bytes");
        }
        let (answer, size) = protocol.next_answer(bytes).expect("an answer").expect("a whole one");
        assert_eq!(size, bytes.len());
        let more = [bytes, b"more"].concat();
        assert_eq!(protocol.next_answer(&more), Ok(Some((answer, size))), "the rest belongs to the next answer");
        answer
    }

    #[test]
    fn answers_of_the_dht_are_read_when_complete() {
        let of = |reply: ApiReply<'_>| {
            let mut bytes = Vec::new();
            reply.encode(&mut bytes);
            bytes
        };
        let found = of(ApiReply::Success { key: KEY, value: b"v" });
        assert_eq!(answer(Protocol::Dht, &found), Answer { key: Some(KEY), value: Some(b"v") });
        let failed = of(ApiReply::Failure { key: KEY });
        assert_eq!(answer(Protocol::Dht, &failed), Answer { key: Some(KEY), value: None });
        assert!(matches!(Protocol::Dht.next_answer(b"+OK\r\n"), Err(Senseless::Frame(_))));
    }

    #[test]
    fn answers_of_redis_are_read_when_complete() {
        let value = |bytes: &'static [u8]| answer(Protocol::Redis, bytes).value;
        assert_eq!(value(b"$4\r\n\r\n\r\n\r\n"), Some(&b"\r\n\r\n"[..]));
        assert_eq!(value(b"$0\r\n\r\n"), Some(&b""[..]));
        assert_eq!(value(b"$-1\r\n"), None);
        assert_eq!(value(b"+OK\r\n"), Some(&b""[..]));
        assert_eq!(value(b"-ERR no\r\n"), None);
    }

    #[test]
    fn answers_of_memcached_are_read_when_complete() {
        let found = answer(Protocol::Memcached, b"VALUE 0123456789abcdef0123456789abcdef 0 3\r\nEND\r\nEND\r\n");
        assert_eq!(found, Answer { key: Some(KEY), value: Some(b"END") });
        assert_eq!(answer(Protocol::Memcached, b"END\r\n").value, None);
        assert_eq!(answer(Protocol::Memcached, b"STORED\r\n").value, Some(&b""[..]));
        assert_eq!(answer(Protocol::Memcached, b"SERVER_ERROR out of memory\r\n").value, None);
    }

    #[test]
    fn bytes_that_are_not_an_answer_are_senseless() {
        let long = [b'x'; LINE_SIZE_MAX];
        for bytes in [&b"*1\r\n"[..], b"$x\r\n", b"$66000\r\n", b"$2\r\nabcd", b"\n", b"+OK\n", b"\r\n", &long] {
            assert_eq!(Protocol::Redis.next_answer(bytes), Err(Senseless::Line), "{bytes:?}");
        }
        for bytes in [&b"VALUE k\r\n"[..], b"VALUE k 0 x\r\n", b"VALUE k 0 1\r\nxxxxxxxx", &long] {
            assert_eq!(Protocol::Memcached.next_answer(bytes), Err(Senseless::Line), "{bytes:?}");
        }
    }
}
