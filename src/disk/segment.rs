//! The layout of a segment, which is one file of the log.
//!
//! Guarantee: a reader returns exactly what was written, or an error. No input makes it panic.
//!
//! ```text
//! a header:  0   "dhtstore"
//!            8   format u32: 4; a segment of format 3 has no entries of kinds 5 and 6, and is read too
//!            12  sequence number of the segment u32
//!            16  id of the store, 16 bytes
//!            32  the end of the segment before this one u32: what follows there does not count
//!            36  1 u32 if it begins with batches that are written again (`replay`), else 0
//!            40  CRC-32 of these bytes
//! then entries, each:
//!            0   kind u8
//!            1   length of the content u24
//!            4   CRC-32, of the header's CRC-32, the offset of the entry, kind, length and content
//!            8   content
//!
//! kind 1, state of a key:     the key, then its state as in `entry`
//! kind 2, removal of a key:   the key
//! kind 3, contacts:           as in `entry`; they replace those before
//! kind 4, mark:               the batch ends here: segment u32 and offset u32 where it began, then segment u32
//!                             and offset u32 up to which everything was known to be on disk
//! kind 5, pack:               its id, then its tombstones as in `entry`
//! kind 6, removal of a pack:  its id
//! ```
//!
//! The CRC of an entry depends on the store, the segment and the offset. So an entry that was moved or copied to
//! another place is not accepted.

use std::io;

use crate::disk::files::ReadFile;

/// The version of the layout of all files. A store with another version is refused, unless it is one of the
/// [`FORMATS_READ`].
pub(super) const FORMAT: u32 = 4;

/// The versions of files that are read. What is written has [`FORMAT`], and so has `state` before the first entry is
/// written: a program that does not know that format refuses the store from then on.
pub(super) const FORMATS_READ: std::ops::RangeInclusive<u32> = 3..=FORMAT;

/// Size of the header of a segment: the offset of its first entry.
pub(super) const HEADER_SIZE: u32 = 44;

/// Size of the kind, the length and the CRC of an entry.
const FRAME_SIZE: usize = FRAME as usize;
const FRAME: u32 = 8;

/// The largest length of the content of an entry.
const LENGTH_MAX: u32 = (1 << 24) - 1;

/// The largest length that the content of an entry has: the largest value, and its key.
const LENGTH_EXPECTED: u32 = 1 << 17;

/// Bytes that are read from a segment at a time.
pub(super) const READ_SIZE: u32 = 1 << 18;

/// Size of a mark with its frame.
pub(super) const MARK_SIZE: u32 = 24;

/// The start of every file of the store.
pub(super) const MAGIC: &[u8; 8] = b"dhtstore";

/// Random bytes that distinguish this store from every other one.
pub type StoreId = [u8; 16];

/// The kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    State,
    Removal,
    Contacts,
    Mark,
    Pack,
    PackRemoval,
}

impl Kind {
    const ALL: [(u8, Kind); 6] = [
        (1, Kind::State),
        (2, Kind::Removal),
        (3, Kind::Contacts),
        (4, Kind::Mark),
        (5, Kind::Pack),
        (6, Kind::PackRemoval),
    ];

    fn of(number: u8) -> Option<Self> {
        Self::ALL.iter().find(|(other, _)| *other == number).map(|(_, kind)| *kind)
    }

    fn number(self) -> u8 {
        Self::ALL.iter().find(|(_, kind)| *kind == self).expect("each kind has a number").0
    }
}

/// A point in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) segment: u32,
    pub(super) offset: u32,
}

/// The content of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Where the batch that ends here began.
    pub(super) begin: Position,
    /// Everything before was known to be on disk.
    pub(super) synced: Position,
}

impl Mark {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        for number in [self.begin.segment, self.begin.offset, self.synced.segment, self.synced.offset] {
            out.extend_from_slice(&number.to_be_bytes());
        }
    }

    /// The next complete mark in `bytes`, which begin at `offset` of the segment with `salt`. Continues at `at`.
    pub(super) fn find(bytes: &[u8], salt: u32, offset: u32, at: &mut usize) -> Option<Self> {
        const SIZE: usize = MARK_SIZE as usize;
        while let Some(framed) = bytes.get(*at..*at + SIZE) {
            let here = offset + u32::try_from(*at).ok()?;
            *at += 1;
            let is_mark = framed[0] == Kind::Mark.number() && length_of(framed) as usize == SIZE - FRAME_SIZE;
            if is_mark && number_at(framed, 4) == crc_of(salt, here, framed) {
                return Self::read(&framed[FRAME_SIZE..]);
            }
        }
        None
    }

    /// `None` if `content` is no mark.
    pub(super) fn read(content: &[u8]) -> Option<Self> {
        let content: &[u8; 16] = content.try_into().ok()?;
        let position = |at| Position { segment: number_at(content, at), offset: number_at(content, at + 4) };
        Some(Self { begin: position(0), synced: position(8) })
    }
}

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// One of the [`FORMATS_READ`].
    pub(super) format: u32,
    pub(super) sequence: u32,
    pub(super) store: StoreId,
    /// The end of the segment before this one.
    pub(super) previous_end: u32,
    /// Whether it begins with batches of the segment before, beyond `previous_end`, that are written again.
    pub(super) is_rewrite: bool,
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHeader {
    /// It is no header, or it is damaged.
    Damaged,
    /// It has another format.
    Format(u32),
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_SIZE as usize] {
        let mut bytes = [0; HEADER_SIZE as usize];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&self.format.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[16..32].copy_from_slice(&self.store);
        bytes[32..36].copy_from_slice(&self.previous_end.to_be_bytes());
        bytes[36..40].copy_from_slice(&u32::from(self.is_rewrite).to_be_bytes());
        let crc = crc32fast::hash(&bytes[..40]);
        bytes[40..].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; HEADER_SIZE as usize]) -> Result<Self, BadHeader> {
        if &bytes[..8] != MAGIC || crc32fast::hash(&bytes[..40]) != number_at(bytes, 40) {
            return Err(BadHeader::Damaged);
        }
        let format = number_at(bytes, 8);
        if !FORMATS_READ.contains(&format) {
            return Err(BadHeader::Format(format));
        }
        Ok(Self {
            format,
            sequence: number_at(bytes, 12),
            store: bytes[16..32].try_into().expect("16 bytes"),
            previous_end: number_at(bytes, 32),
            is_rewrite: number_at(bytes, 36) == 1,
        })
    }

    /// What the CRC of each entry of this segment begins with.
    pub(super) fn salt(&self) -> u32 {
        number_at(&self.encode(), 40)
    }
}

/// The number at `at`.
///
/// # Panics
///
/// If `bytes` ends before.
pub(super) fn number_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

/// The length of the content of the entry `framed`.
fn length_of(framed: &[u8]) -> u32 {
    number_at(framed, 0) & LENGTH_MAX
}

fn crc_of(salt: u32, offset: u32, framed: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(&offset.to_be_bytes());
    hasher.update(&framed[..4]);
    hasher.update(&framed[FRAME_SIZE..]);
    hasher.finalize()
}

/// Appends an entry to `out`, whose content `write` appends. [`seal`] completes it.
pub(super) fn begin_entry(kind: Kind, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind.number());
    out.extend_from_slice(&[0; FRAME_SIZE - 1]);
    write(out);
}

/// Completes the entry `framed`, which will be at `offset` of the segment with `salt`.
pub(super) fn seal(framed: &mut [u8], salt: u32, offset: u32) {
    let length = u32::try_from(framed.len() - FRAME_SIZE).ok().filter(|length| *length <= LENGTH_MAX);
    let [_, length @ ..] = length.expect("a value, or a few contacts").to_be_bytes();
    framed[1..4].copy_from_slice(&length);
    let crc = crc_of(salt, offset, framed);
    framed[4..FRAME_SIZE].copy_from_slice(&crc.to_be_bytes());
}

/// An entry that was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    pub(super) kind: Kind,
    pub(super) content: &'a [u8],
    pub(super) offset: u32,
    /// The size of the entry with its frame.
    pub(super) size: u32,
}

/// Why an entry cannot be read.
#[derive(Debug)]
pub(super) enum BadEntry {
    /// What is at this offset is not what was written there.
    Damaged(u32),
    /// The system refused to read.
    Io(io::Error),
}

/// Reads the entries of a segment in their order.
#[derive(Debug)]
pub(super) struct Entries {
    file: Box<dyn ReadFile>,
    salt: u32,
    /// The offset of the next entry.
    offset: u32,
    /// Where the last entry ends.
    end: u32,
    /// The bytes of the file from `loaded` on.
    buffer: Vec<u8>,
    loaded: u32,
}

impl Entries {
    /// The entries from `offset` to `end`.
    pub(super) fn new(file: Box<dyn ReadFile>, salt: u32, offset: u32, end: u32) -> Self {
        Self { file, salt, offset, end, buffer: Vec::new(), loaded: offset }
    }

    /// The offset of the next entry.
    pub(super) fn offset(&self) -> u32 {
        self.offset
    }

    /// Continues with the entry at `offset`.
    pub(super) fn skip_to(&mut self, offset: u32) {
        self.offset = offset;
    }

    /// The next entry; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Entry<'_>>, BadEntry> {
        let offset = self.offset;
        let left = self.end.checked_sub(offset).ok_or(BadEntry::Damaged(offset))?;
        if left == 0 {
            return Ok(None);
        }
        if left < FRAME {
            return Err(BadEntry::Damaged(offset));
        }
        self.load(FRAME).map_err(BadEntry::Io)?;
        let length = length_of(&self.buffer[(offset - self.loaded) as usize..]);
        if length > left - FRAME {
            return Err(BadEntry::Damaged(offset));
        }
        let size = FRAME + length;
        self.load(size).map_err(BadEntry::Io)?;
        let begin = (offset - self.loaded) as usize;
        let framed = &self.buffer[begin..begin + size as usize];
        if number_at(framed, 4) != crc_of(self.salt, offset, framed) {
            return Err(BadEntry::Damaged(offset));
        }
        let kind = Kind::of(framed[0]).ok_or(BadEntry::Damaged(offset))?;
        self.offset += size;
        Ok(Some(Entry { kind, content: &framed[FRAME_SIZE..], offset, size }))
    }

    /// Continues with the next intact entry after a damaged one, or at the end.
    pub(super) fn skip_damage(&mut self) -> io::Result<()> {
        let damaged = self.offset;
        let last = self.end.saturating_sub(FRAME);
        for offset in damaged + 1..=last {
            self.offset = offset;
            self.load(FRAME)?;
            let framed = &self.buffer[(offset - self.loaded) as usize..];
            // Otherwise each byte would cost the checksum of a megabyte.
            if Kind::of(framed[0]).is_some() && length_of(framed) <= LENGTH_EXPECTED {
                match self.next() {
                    Ok(_) => {
                        self.offset = offset;
                        return Ok(());
                    }
                    Err(BadEntry::Io(source)) => return Err(source),
                    Err(BadEntry::Damaged(_)) => {}
                }
            }
        }
        self.offset = self.end;
        Ok(())
    }

    /// Makes sure that `need` bytes from the current offset on are in the buffer.
    fn load(&mut self, need: u32) -> io::Result<()> {
        let loaded_end = self.loaded as usize + self.buffer.len();
        if self.offset as usize + need as usize <= loaded_end {
            return Ok(());
        }
        let size = need.max(READ_SIZE).min(self.end - self.offset);
        self.buffer.resize(size as usize, 0);
        self.loaded = self.offset;
        let read = self.file.read(u64::from(self.offset), &mut self.buffer);
        if read.is_err() {
            self.buffer.clear();
        }
        read
    }
}

/// The name of the segment with this number.
pub(super) fn name_of(sequence: u32) -> String {
    format!("{sequence:08}.log")
}

/// The number in the name of a segment; `None` if the name is not that of a segment.
pub(super) fn sequence_of(name: &str) -> Option<u32> {
    name.strip_suffix(".log")?.parse().ok().filter(|sequence| name_of(*sequence) == name)
}
