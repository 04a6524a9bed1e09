//! Reads the fields of messages, and names what is wrong with them.

use std::fmt;
use std::marker::PhantomData;

/// Why bytes from the network were refused.
///
/// A message that has not arrived completely is no error: see
/// [`next_frame`](crate::wire::frame::next_frame).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// The size field is smaller than the header.
    SizeBelowHeader {
        /// The value of the size field, in bytes.
        size: usize,
    },
    /// This source may not send a message of this type.
    UnknownKind {
        /// The value of the type field.
        number: u16,
    },
    /// This type cannot have a body of this size.
    BodySize {
        /// The name of the type.
        name: &'static str,
        /// The announced size of the body, in bytes.
        found: usize,
        /// The smallest possible size, in bytes.
        min: usize,
        /// The largest possible size, in bytes.
        max: usize,
    },
    /// The long form, for a type that has none.
    LongFormOf {
        /// The name of the type.
        name: &'static str,
    },
    /// The long form, for a message that fits the short form.
    LongFormUnneeded {
        /// The announced size in bytes, header included.
        size: usize,
    },
    /// The body ends inside a field.
    Truncated {
        /// The name of the field.
        field: &'static str,
        /// The size of the field, in bytes.
        need: usize,
        /// The bytes that were left.
        left: usize,
    },
    /// Bytes follow the last field of the message.
    Trailing {
        /// Their number.
        left: usize,
    },
    /// A field has a value that it cannot have.
    Field {
        /// The name of the field.
        field: &'static str,
        /// The value of the field, or its size for a field of variable size.
        found: u64,
        /// The values that are possible.
        expected: &'static str,
    },
    /// The crc does not fit the value.
    Crc {
        /// The crc in the message.
        sent: u32,
        /// The CRC-32 of the value.
        computed: u32,
    },
}

impl WireError {
    /// A [`WireError::Field`].
    pub(crate) fn field(field: &'static str, found: impl Into<u64>, expected: &'static str) -> Self {
        Self::Field { field, found: found.into(), expected }
    }
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
            Self::Crc { sent, computed } => {
                write!(f, "crc {sent:08x} does not fit the value, whose CRC-32 is {computed:08x}")
            }
        }
    }
}

impl std::error::Error for WireError {}

/// Reads the fields of a body, one after the other. It never reads beyond the end.
///
/// Each method names the field in its error, which is always [`WireError::Truncated`].
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `body` from its first byte.
    pub fn new(body: &'a [u8]) -> Self {
        Self { left: body }
    }

    /// Reads the next `N` bytes.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], WireError> {
        let left = self.left.len();
        let (head, tail) = self.left.split_first_chunk::<N>().ok_or(WireError::Truncated { field, need: N, left })?;
        self.left = tail;
        Ok(*head)
    }

    /// Reads one byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, WireError> {
        self.array(field).map(u8::from_be_bytes)
    }

    /// Reads two bytes.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, WireError> {
        self.array(field).map(u16::from_be_bytes)
    }

    /// Reads four bytes.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, WireError> {
        self.array(field).map(u32::from_be_bytes)
    }

    /// Reads eight bytes.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, WireError> {
        self.array(field).map(u64::from_be_bytes)
    }

    /// Reads `need` bytes.
    pub fn bytes(&mut self, field: &'static str, need: usize) -> Result<&'a [u8], WireError> {
        let left = self.left.len();
        let (head, tail) = self.left.split_at_checked(need).ok_or(WireError::Truncated { field, need, left })?;
        self.left = tail;
        Ok(head)
    }

    /// Reads all bytes that are left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.left)
    }

    /// Ends the body.
    ///
    /// # Errors
    ///
    /// [`WireError::Trailing`] if bytes are left.
    pub fn finish(self) -> Result<(), WireError> {
        match self.left.len() {
            0 => Ok(()),
            left => Err(WireError::Trailing { left }),
        }
    }
}

/// An item of fixed size, of which a message carries many.
pub trait Item: Copy {
    /// Its size, in bytes.
    const SIZE: usize;

    /// Reads one item.
    ///
    /// # Errors
    ///
    /// [`WireError`] if the bytes are no item.
    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError>;

    /// Whether `item`, which has [`Item::SIZE`] bytes, can be read. Types of which any bytes are an item
    /// override this, and save the reading.
    ///
    /// # Errors
    ///
    /// [`WireError`] if the bytes are no item.
    fn validate(item: &[u8]) -> Result<(), WireError> {
        Self::read(&mut Reader::new(item)).map(drop)
    }

    /// Appends the item to `out`.
    fn write(&self, out: &mut Vec<u8>);
}

/// The items of a message. They are the bytes of a received message, or a slice that the sender lends;
/// nothing is copied.
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
    /// Makes the list of a message that is to be sent.
    pub fn lend(items: &'a [T]) -> Self {
        Self { items: Items::Lent(items) }
    }

    /// Makes the list of a received message, and validates each item.
    pub(crate) fn receive(bytes: &'a [u8]) -> Result<Self, WireError> {
        let whole = bytes.len() / T::SIZE * T::SIZE;
        if whole != bytes.len() {
            return Err(WireError::Trailing { left: bytes.len() - whole });
        }
        for item in bytes.chunks_exact(T::SIZE) {
            T::validate(item)?;
        }
        Ok(Self { items: Items::Received { bytes, _item: PhantomData } })
    }

    /// The items in the order of the message.
    pub fn iter(&self) -> impl Iterator<Item = T> + use<'a, T> {
        let (bytes, lent): (&'a [u8], &'a [T]) = match self.items {
            Items::Received { bytes, .. } => (bytes, &[]),
            Items::Lent(items) => (&[], items),
        };
        let received = bytes
            .chunks_exact(T::SIZE)
            .map(|item| T::read(&mut Reader::new(item)).expect("each was validated when it was received"));
        received.chain(lent.iter().copied())
    }

    /// The number of items.
    pub fn len(&self) -> usize {
        match self.items {
            Items::Received { bytes, .. } => bytes.len() / T::SIZE,
            Items::Lent(items) => items.len(),
        }
    }

    /// Whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self.items {
            Items::Received { bytes, .. } => out.extend_from_slice(bytes),
            Items::Lent(items) => items.iter().for_each(|item| item.write(out)),
        }
    }
}

/// Two lists are equal if their items are; one may be received and the other lent.
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
    fn an_error_of_the_reader_names_the_field_that_is_truncated() {
        let mut reader = Reader::new(&[1, 2, 3]);
        assert_eq!(reader.u16("size"), Ok(0x0102));
        let error = reader.u16("type").expect_err("one byte is left");
        assert_eq!(error, WireError::Truncated { field: "type", need: 2, left: 1 });
        assert_eq!(error.to_string(), "type needs 2 bytes, 1 left in the body");
        assert_eq!(reader.finish(), Err(WireError::Trailing { left: 1 }));
    }
}
