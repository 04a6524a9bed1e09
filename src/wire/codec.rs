//! Reading fields, and what can be wrong with them.

use std::fmt;
use std::marker::PhantomData;

/// Why bytes from the network were refused.
///
/// Bytes that have merely not arrived yet are never an error: see
/// [`next_frame`](crate::wire::frame::next_frame).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// The size field counts fewer bytes than the header it stands in.
    SizeBelowHeader {
        /// What the size field says.
        size: usize,
    },
    /// This source sends no message of the type `number`.
    UnknownKind {
        /// What the type field says.
        number: u16,
    },
    /// No message of this type has a body of that size.
    BodySize {
        /// The message.
        name: &'static str,
        /// Bytes of the body announced.
        found: usize,
        /// Fewest it can have.
        min: usize,
        /// Most it can have.
        max: usize,
    },
    /// The long form, for a message that has none.
    LongFormOf {
        /// The message.
        name: &'static str,
    },
    /// The long form, for a message that the short one can carry.
    LongFormUnneeded {
        /// The size announced, header included.
        size: usize,
    },
    /// The body ended inside `field`.
    Truncated {
        /// Which field.
        field: &'static str,
        /// Bytes it needs.
        need: usize,
        /// Bytes that were left.
        left: usize,
    },
    /// Bytes follow the last field of the message.
    Trailing {
        /// How many.
        left: usize,
    },
    /// A field holds what it cannot hold.
    Field {
        /// Which field.
        field: &'static str,
        /// What was found.
        found: u64,
        /// What would have been right.
        expected: &'static str,
    },
    /// The check does not fit the value.
    Check {
        /// As sent.
        sent: u32,
        /// As computed.
        computed: u32,
    },
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::SizeBelowHeader { size } => write!(f, "size {size} is below the 4-byte header"),
            Self::UnknownKind { number } => write!(f, "type {number} is unknown here"),
            Self::BodySize { name, found, min, max } if min == max => {
                write!(f, "{name} has a body of {found} bytes, expected {min}")
            }
            Self::BodySize { name, found, min, max } => {
                write!(f, "{name} has a body of {found} bytes, expected {min} to {max}")
            }
            Self::LongFormOf { name } => write!(f, "{name} in the long form, which it does not have"),
            Self::LongFormUnneeded { size } => write!(f, "long form of {size} bytes, which fit the short one"),
            Self::Truncated { field, need, left } => {
                write!(f, "{field} needs {need} bytes, {left} left in the body")
            }
            Self::Trailing { left } => write!(f, "{left} bytes follow the last field"),
            Self::Field { field, found, expected } => write!(f, "{field} is {found}, expected {expected}"),
            Self::Check { sent, computed } => {
                write!(f, "check {sent:08x} does not fit the value, whose CRC-32 is {computed:08x}")
            }
        }
    }
}

impl std::error::Error for WireError {}

/// Takes fields off the front of a body; it cannot run past its end.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `body` from its first byte.
    pub fn new(body: &'a [u8]) -> Self {
        Self { left: body }
    }

    /// Takes the next `N` bytes; `field` is what the error will call them.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], WireError> {
        let left = self.left.len();
        let (head, tail) = self.left.split_first_chunk::<N>().ok_or(WireError::Truncated { field, need: N, left })?;
        self.left = tail;
        Ok(*head)
    }

    /// Takes a byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, WireError> {
        self.array(field).map(u8::from_be_bytes)
    }

    /// Takes two bytes.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, WireError> {
        self.array(field).map(u16::from_be_bytes)
    }

    /// Takes four bytes.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, WireError> {
        self.array(field).map(u32::from_be_bytes)
    }

    /// Takes eight bytes.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, WireError> {
        self.array(field).map(u64::from_be_bytes)
    }

    /// Takes `need` bytes.
    pub fn bytes(&mut self, field: &'static str, need: usize) -> Result<&'a [u8], WireError> {
        let left = self.left.len();
        let (head, tail) = self.left.split_at_checked(need).ok_or(WireError::Truncated { field, need, left })?;
        self.left = tail;
        Ok(head)
    }

    /// Takes all that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.left)
    }

    /// Ends the message: anything left over is a fault of the sender.
    pub fn finish(self) -> Result<(), WireError> {
        match self.left.len() {
            0 => Ok(()),
            left => Err(WireError::Trailing { left }),
        }
    }
}

/// Something of a fixed size that messages carry many of.
pub trait Item: Copy {
    /// Its bytes on the wire.
    const SIZE: usize;

    /// Reads one.
    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError>;

    /// Whether `item`, which has that size, is one. An item that any bytes make says so, and is not
    /// read for it.
    fn check(item: &[u8]) -> Result<(), WireError> {
        Self::read(&mut Reader::new(item)).map(drop)
    }

    /// Writes one.
    fn write(&self, out: &mut Vec<u8>);
}

/// Items as a message carries them: still in the inbox when it was received, or lent by whoever
/// sends it. Either way nothing is copied to hold them.
#[derive(Clone, Copy, Debug)]
pub struct List<'a, T> {
    items: Items<'a, T>,
}

#[derive(Clone, Copy, Debug)]
enum Items<'a, T> {
    Received { bytes: &'a [u8], _item: PhantomData<T> },
    Lent(&'a [T]),
}

impl<'a, T: Item> List<'a, T> {
    /// Lends `items` to a message that is to be sent.
    pub fn lend(items: &'a [T]) -> Self {
        Self { items: Items::Lent(items) }
    }

    /// Reads all of `bytes` as items, each of which is checked here.
    pub(crate) fn receive(bytes: &'a [u8]) -> Result<Self, WireError> {
        let whole = bytes.len() / T::SIZE * T::SIZE;
        if whole != bytes.len() {
            return Err(WireError::Trailing { left: bytes.len() - whole });
        }
        for item in bytes.chunks_exact(T::SIZE) {
            T::check(item)?;
        }
        Ok(Self { items: Items::Received { bytes, _item: PhantomData } })
    }

    /// The items, in their order.
    pub fn iter(&self) -> impl Iterator<Item = T> + use<'a, T> {
        let (bytes, lent): (&'a [u8], &'a [T]) = match self.items {
            Items::Received { bytes, .. } => (bytes, &[]),
            Items::Lent(items) => (&[], items),
        };
        let received = bytes
            .chunks_exact(T::SIZE)
            .map(|item| T::read(&mut Reader::new(item)).expect("each was checked when it was received"));
        received.chain(lent.iter().copied())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self.items {
            Items::Received { bytes, .. } => bytes.len() / T::SIZE,
            Items::Lent(items) => items.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their bytes on the wire.
    pub(crate) fn size(&self) -> usize {
        self.len() * T::SIZE
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self.items {
            Items::Received { bytes, .. } => out.extend_from_slice(bytes),
            Items::Lent(items) => items.iter().for_each(|item| item.write(out)),
        }
    }
}

/// Two lists are equal if their items are, wherever these lie.
impl<T: Item + PartialEq> PartialEq for List<'_, T> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<T: Item + Eq> Eq for List<'_, T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_names_the_field_that_does_not_fit() {
        let mut reader = Reader::new(&[1, 2, 3]);
        assert_eq!(reader.u16("size"), Ok(0x0102));
        let error = reader.u16("type").expect_err("one byte is left");
        assert_eq!(error, WireError::Truncated { field: "type", need: 2, left: 1 });
        assert_eq!(error.to_string(), "type needs 2 bytes, 1 left in the body");
        assert_eq!(reader.finish(), Err(WireError::Trailing { left: 1 }));
    }
}
