//! Splits a stream of bytes into messages.
//!
//! The first bytes of a stream are the beginning of a message, a whole message, or no message. What cannot
//! be a message is refused as soon as its header is there; the receiver waits for no further bytes of it.

use crate::limits::{FRAME_SIZE_MAX, HEADER_SIZE, LONG_HEADER_SIZE};
use crate::wire::codec::WireError;
use crate::wire::{FIND_VALUE_REPLY, Kind, RELAY, STORE, Source};

/// One whole message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its type, which its source may send.
    pub kind: Kind,
    /// What follows the header. Its size is one that the type can have.
    pub body: &'a [u8],
}

/// Splits the first message off `inbox`.
///
/// Returns the message and its length in bytes, header included; the caller removes that many bytes.
/// Returns `None` if the message has not arrived completely.
///
/// # Errors
///
/// [`WireError`] if no message of `source` begins with these bytes. The caller must close the connection,
/// because the beginning of the next message is unknown.
///
/// Layout: `PROTOCOL.md`, Header, and 2, Long form.
pub fn next_frame(source: Source, inbox: &[u8]) -> Result<Option<(Frame<'_>, usize)>, WireError> {
    let Some((kind, header, size)) = announced(source, inbox)? else {
        return Ok(None);
    };
    Ok(inbox.get(header..size).map(|body| (Frame { kind, body }, size)))
}

/// Reads the header: the type, the size of the header and the size of the message, all in bytes.
fn announced(source: Source, inbox: &[u8]) -> Result<Option<(Kind, usize, usize)>, WireError> {
    let Some(&[s0, s1, k0, k1]) = inbox.first_chunk::<HEADER_SIZE>() else {
        return Ok(None);
    };
    let short = usize::from(u16::from_be_bytes([s0, s1]));
    let long_form = short == 0 && source == Source::Peer;
    if short < HEADER_SIZE && !long_form {
        return Err(WireError::SizeBelowHeader { size: short });
    }
    let number = u16::from_be_bytes([k0, k1]);
    let kind = source.kind(number).ok_or(WireError::UnknownKind { number })?;
    let (header, size) = if long_form {
        let Some(&[.., l0, l1, l2, l3]) = inbox.first_chunk::<LONG_HEADER_SIZE>() else {
            return Ok(None);
        };
        let size = usize::try_from(u32::from_be_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        validate_long_form(kind, size)?;
        (LONG_HEADER_SIZE, size)
    } else {
        (HEADER_SIZE, short)
    };
    let body = size - header;
    if body < kind.body_min || body > kind.body_max {
        return Err(WireError::BodySize { name: kind.name, found: body, min: kind.body_min, max: kind.body_max });
    }
    Ok(Some((kind, header, size)))
}

/// Refuses the long form for types that carry no value, and for sizes that the short form can say.
fn validate_long_form(kind: Kind, size: usize) -> Result<(), WireError> {
    if ![STORE, RELAY, FIND_VALUE_REPLY].contains(&kind) {
        return Err(WireError::LongFormOf { name: kind.name });
    }
    let body = size.saturating_sub(LONG_HEADER_SIZE);
    if body + HEADER_SIZE <= FRAME_SIZE_MAX {
        return Err(WireError::LongFormUnneeded { size });
    }
    Ok(())
}

/// Appends the header of a message of `kind` whose body has `body` bytes, in the short form if it can say
/// the size.
///
/// # Panics
///
/// If `kind` cannot have a body of that size.
pub(crate) fn put_header(out: &mut Vec<u8>, kind: Kind, body: usize) {
    assert!(body >= kind.body_min, "{} of {body} bytes", kind.name);
    assert!(body <= kind.body_max, "{} of {body} bytes", kind.name);
    let [k0, k1] = kind.number.to_be_bytes();
    if let Ok(size) = u16::try_from(HEADER_SIZE + body) {
        let [s0, s1] = size.to_be_bytes();
        out.extend_from_slice(&[s0, s1, k0, k1]);
    } else {
        let size = u32::try_from(LONG_HEADER_SIZE + body).expect("a body is bounded by its kind");
        let [s0, s1, s2, s3] = size.to_be_bytes();
        out.extend_from_slice(&[0, 0, k0, k1, s0, s1, s2, s3]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{GET, PING};

    #[test]
    fn a_frame_is_split_only_when_its_last_byte_has_arrived() {
        let mut frame = vec![0, 36, 0x02, 0x8b];
        frame.extend([0xaa; 32]);
        for cut in 0..frame.len() {
            assert_eq!(next_frame(Source::Module, &frame[..cut]), Ok(None), "at {cut} bytes");
        }
        let whole = (Frame { kind: GET, body: &[0xaa; 32][..] }, 36);
        assert_eq!(next_frame(Source::Module, &frame), Ok(Some(whole)));
        frame.extend([0, 36, 0x02]);
        assert_eq!(next_frame(Source::Module, &frame), Ok(Some(whole)), "what follows is the next message's");
    }

    #[test]
    fn an_impossible_message_is_refused_at_its_header() {
        let refused = |source, header: &[u8]| next_frame(source, header).expect_err("impossible");
        assert_eq!(refused(Source::Module, &[0, 3, 2, 0x8b]), WireError::SizeBelowHeader { size: 3 });
        assert_eq!(refused(Source::Module, &[0, 0, 2, 0x8b]), WireError::SizeBelowHeader { size: 0 });
        assert_eq!(refused(Source::Module, &[0, 36, 2, 0x8c]), WireError::UnknownKind { number: 652 });
        assert_eq!(refused(Source::Server, &[0, 36, 2, 0x8b]), WireError::UnknownKind { number: 651 });
        assert_eq!(refused(Source::Peer, &[0, 36, 2, 0x8b]), WireError::UnknownKind { number: 651 });
        assert_eq!(
            refused(Source::Module, &[0xff, 0xff, 2, 0x8b]),
            WireError::BodySize { name: "DHT GET", found: 65_531, min: 32, max: 32 }
        );
        assert_eq!(
            refused(Source::Module, &[0, 40, 2, 0x8a]),
            WireError::BodySize { name: "DHT PUT", found: 36, min: 37, max: 65_531 }
        );
    }

    #[test]
    fn the_long_form_is_accepted_only_for_values_that_need_it() {
        let long = |kind: u16, size: u32| {
            let mut header = vec![0, 0];
            header.extend(kind.to_be_bytes());
            header.extend(size.to_be_bytes());
            next_frame(Source::Peer, &header).map(|frame| frame.is_some())
        };
        assert_eq!(long(661, 65_540), Ok(false), "the smallest STORE that needs it is awaited");
        assert_eq!(long(661, 65_539), Err(WireError::LongFormUnneeded { size: 65_539 }));
        assert_eq!(long(661, 7), Err(WireError::LongFormUnneeded { size: 7 }));
        assert_eq!(long(660, 70_000), Err(WireError::LongFormOf { name: "PING" }));
        assert!(matches!(long(661, 65_588), Err(WireError::BodySize { .. })), "a value of 65 496 bytes");
        assert_eq!(long(673, 66_588), Ok(false));
        assert!(matches!(long(673, 66_589), Err(WireError::BodySize { .. })));
        assert!(matches!(long(673, u32::MAX), Err(WireError::BodySize { .. })));
    }

    #[test]
    fn a_header_has_the_long_form_only_if_the_short_form_is_too_small() {
        let mut out = Vec::new();
        put_header(&mut out, PING, 32);
        assert_eq!(out, [0, 36, 0x02, 0x94]);
        out.clear();
        put_header(&mut out, STORE, 65_531);
        assert_eq!(out, [0xff, 0xff, 0x02, 0x95]);
        out.clear();
        put_header(&mut out, STORE, 65_532);
        assert_eq!(out, [0, 0, 0x02, 0x95, 0, 1, 0, 4]);
    }
}
