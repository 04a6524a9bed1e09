//! The file `state` of the store: which segments there are, and how much of the newest one is on disk.
//!
//! Without it, a log whose last part was removed would look like a shorter log.
//!
//! ```text
//! three slots, 512 bytes apart, each:
//!            0   "dhtstore"
//!            8   format u32
//!            12  id of the store, 16 bytes
//!            28  count of the writes to this file u64
//!            36  number of the oldest segment u32
//!            40  number of the newest segment u32
//!            44  offset up to which the newest segment is on disk u32
//!            48  CRC-32 of these bytes
//! ```
//!
//! The valid slot with the highest count is the current one. A change of the segments is written to the first and
//! the second slot in turn and synced, so that an interrupted write leaves the one before. A slot is within one
//! sector. The progress within the newest segment is written to the third slot after each sync of the segment, and
//! this file is not synced for that: after a power failure the third slot may be older, but it never claims too
//! much.

use std::io;

use crate::disk::files::{FileId, OpenFile};
use crate::disk::segment::{BadHeader, FORMAT, FORMATS_READ, MAGIC, Position, StoreId, number_at};

/// The name of the file.
pub(super) const STATE_FILE: &str = "state";

const SLOT_DISTANCE: usize = 512;
const SLOT_SIZE: usize = 52;
const SLOTS: usize = 3;
const FILE_SIZE: usize = SLOTS * SLOT_DISTANCE;

/// The slot for the progress within the newest segment.
const PROGRESS_SLOT: usize = 2;

/// The content of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) store: StoreId,
    /// The number of the oldest segment.
    pub(super) oldest: u32,
    /// The newest segment, and the offset up to which it is on disk.
    pub(super) synced: Position,
}

/// The open file.
#[derive(Debug)]
pub(super) struct StateFile {
    file: Box<dyn OpenFile>,
    id: FileId,
    count: u64,
    /// The slot for the next change of the segments.
    next_slot: usize,
    /// Whether something was written that was not synced.
    is_dirty: bool,
    /// Whether the segments are on disk as they were read or written last. An earlier process may have written them
    /// without waiting for the disk, or may have failed to.
    is_durable: bool,
}

/// Why the file cannot be used.
#[derive(Debug)]
pub(super) enum BadState {
    Header(BadHeader),
    Cut { length: u64, expected: u64 },
    Io(io::Error),
}

impl StateFile {
    /// Writes the first state to the empty `file`, and syncs it.
    pub(super) fn create(file: Box<dyn OpenFile>, state: &State) -> io::Result<()> {
        file.write(0, &vec![0; FILE_SIZE])?;
        let id = file.id()?;
        let mut file = Self { file, id, count: 0, next_slot: 0, is_dirty: false, is_durable: true };
        file.write_segments(state)
    }

    /// Reads the current state.
    pub(super) fn open(file: Box<dyn OpenFile>) -> Result<(Self, State), BadState> {
        let mut bytes = [0; FILE_SIZE];
        let length = file.len().map_err(BadState::Io)?;
        if length < FILE_SIZE as u64 {
            return Err(BadState::Cut { length, expected: FILE_SIZE as u64 });
        }
        file.read(0, &mut bytes).map_err(BadState::Io)?;
        let id = file.id().map_err(BadState::Io)?;
        let mut other_format = None;
        let mut newest: Option<(u64, usize, State)> = None;
        for number in 0..SLOTS {
            match decode(&bytes[number * SLOT_DISTANCE..][..SLOT_SIZE]) {
                Ok((count, state)) if newest.is_none_or(|(other, ..)| count > other) => {
                    newest = Some((count, number, state));
                }
                Ok(_) | Err(BadHeader::Damaged) => {}
                Err(BadHeader::Format(format)) => other_format = Some(format),
            }
        }
        if let Some(format) = other_format {
            return Err(BadState::Header(BadHeader::Format(format)));
        }
        let (count, slot, state) = newest.ok_or(BadState::Header(BadHeader::Damaged))?;
        // The slot of the last synced state must stay until the next one is on disk.
        let last_synced = if slot == PROGRESS_SLOT { newer_of_first_two(&bytes) } else { slot };
        Ok((Self { file, id, count, next_slot: 1 - last_synced, is_dirty: true, is_durable: false }, state))
    }

    /// Writes a change of the segments; it is on disk afterwards.
    pub(super) fn write_segments(&mut self, state: &State) -> io::Result<()> {
        self.write(self.next_slot, state)?;
        self.next_slot = 1 - self.next_slot;
        self.sync()?;
        self.is_durable = true;
        Ok(())
    }

    /// Writes the segments as they were read once more, unless they are certainly on disk.
    pub(super) fn repeat(&mut self, state: &State) -> io::Result<()> {
        if self.is_durable { Ok(()) } else { self.write_segments(state) }
    }

    /// Writes how much of the newest segment is on disk; [`StateFile::sync`] makes that durable.
    pub(super) fn write_progress(&mut self, state: &State) -> io::Result<()> {
        self.write(PROGRESS_SLOT, state)
    }

    /// The file, and its length.
    pub(super) fn id(&self) -> (FileId, u64) {
        (self.id, FILE_SIZE as u64)
    }

    /// Waits until all that was written is on disk.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.is_dirty {
            self.file.sync()?;
            self.is_dirty = false;
        }
        Ok(())
    }

    fn write(&mut self, slot: usize, state: &State) -> io::Result<()> {
        self.count += 1;
        self.is_dirty = true;
        self.file.write((slot * SLOT_DISTANCE) as u64, &encode(self.count, state))
    }
}

/// Which of the first two slots has the higher count; an invalid one counts as older.
fn newer_of_first_two(bytes: &[u8]) -> usize {
    let count = |slot: usize| decode(&bytes[slot * SLOT_DISTANCE..][..SLOT_SIZE]).ok().map(|(count, _)| count);
    usize::from(count(1) > count(0))
}

fn encode(count: u64, state: &State) -> [u8; SLOT_SIZE] {
    let mut bytes = [0; SLOT_SIZE];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT.to_be_bytes());
    bytes[12..28].copy_from_slice(&state.store);
    bytes[28..36].copy_from_slice(&count.to_be_bytes());
    bytes[36..40].copy_from_slice(&state.oldest.to_be_bytes());
    bytes[40..44].copy_from_slice(&state.synced.segment.to_be_bytes());
    bytes[44..48].copy_from_slice(&state.synced.offset.to_be_bytes());
    let crc = crc32fast::hash(&bytes[..48]);
    bytes[48..].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Result<(u64, State), BadHeader> {
    if &bytes[..8] != MAGIC || crc32fast::hash(&bytes[..48]) != number_at(bytes, 48) {
        return Err(BadHeader::Damaged);
    }
    let format = number_at(bytes, 8);
    if !FORMATS_READ.contains(&format) {
        return Err(BadHeader::Format(format));
    }
    let count = u64::from_be_bytes(bytes[28..36].try_into().expect("8 bytes"));
    let synced = Position { segment: number_at(bytes, 40), offset: number_at(bytes, 44) };
    let store = bytes[12..28].try_into().expect("16 bytes");
    Ok((count, State { store, oldest: number_at(bytes, 36), synced }))
}
