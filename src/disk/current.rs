//! Reads the current entries of a log.

use std::collections::BTreeMap;
use std::mem;
use std::ops::Range;

use crate::disk::entry;
use crate::disk::fault::StoreFault;
use crate::disk::index::Index;
use crate::disk::log::Log;
use crate::disk::segment::{Position, name_of};
use crate::node::persisted::PersistedKey;

/// Bytes of entries in a piece, after which the next one begins.
const PIECE_SIZE: usize = 1 << 16;

/// Keys whose states are passed on together, so that the receiver can prefetch what it reads for each.
const KEYS_AT_A_TIME: usize = 32;

/// Some current entries of a segment, in the order of the log.
#[derive(Debug, Default)]
pub(super) struct Piece {
    segment: u32,
    /// The contents of the entries, one after the other.
    bytes: Vec<u8>,
    /// Where each entry begins in the segment, and its content in `bytes`.
    entries: Vec<(u32, Range<usize>)>,
}

/// Reads all current entries of keys in `log`, and verifies them. Passes them on in pieces.
pub(super) fn read(
    log: &Log,
    index: &Index,
    pass: &mut dyn FnMut(Piece) -> Result<(), StoreFault>,
) -> Result<(), StoreFault> {
    let mut offsets = BTreeMap::<u32, Vec<u32>>::new();
    for Position { segment, offset } in index.positions() {
        offsets.entry(segment).or_default().push(offset);
    }
    for (segment, mut offsets) in offsets {
        offsets.sort_unstable();
        let mut entries = log.entries(segment)?;
        let mut piece = Piece { segment, ..Piece::default() };
        for offset in offsets {
            entries.skip_to(offset);
            let read = entries.next().map_err(|bad| StoreFault::of_entry(name_of(segment), bad))?;
            let Some(read) = read else { return Err(StoreFault::Damaged { file: name_of(segment), offset }) };
            let begin = piece.bytes.len();
            piece.bytes.extend_from_slice(read.content);
            piece.entries.push((offset, begin..piece.bytes.len()));
            if piece.bytes.len() >= PIECE_SIZE {
                pass(mem::replace(&mut piece, Piece { segment, ..Piece::default() }))?;
            }
        }
        pass(piece)?;
    }
    Ok(())
}

impl Piece {
    /// Calls `take` with the states of all keys, some at a time.
    pub(super) fn for_each(&self, mut take: impl FnMut(Vec<PersistedKey>)) -> Result<(), StoreFault> {
        for some in self.entries.chunks(KEYS_AT_A_TIME) {
            take(some.iter().map(|(offset, range)| self.read(*offset, range.clone())).collect::<Result<_, _>>()?);
        }
        Ok(())
    }

    fn read(&self, offset: u32, range: Range<usize>) -> Result<PersistedKey, StoreFault> {
        let content = &self.bytes[range];
        entry::read_key(content).map_err(|error| StoreFault::Entry {
            file: name_of(self.segment),
            offset,
            key: entry::key_of(content).ok(),
            error,
        })
    }
}
