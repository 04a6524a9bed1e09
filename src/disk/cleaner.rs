//! Gives the space of outdated entries back, one segment at a time and in small pieces.
//!
//! Always the oldest segment is cleaned. Its current entries are appended to the newest segment and synced; then
//! its file is removed. Nothing is older than the oldest segment, so no removal in it hides an older entry, and all
//! entries that are not current are dropped.
//!
//! Cleaning is due while the segments take more than twice the bytes of the current entries and half a segment.
//! A piece is small compared with a segment while little is written. When much is written it grows with that, so
//! that cleaning keeps up: the whole store takes at most 2.2 times the current entries and two segments.
//!
//! While no batch comes, the store *settles*. That begins when a tenth as much as the current entries, and half a
//! segment, is outdated. Each segment is cleaned once, also if most of it is current, until a hundredth is outdated.
//! So settling copies ten bytes at most for each byte that has become outdated, and leaves little more than the current
//! entries. When it has ended, it does not begin again before a batch has changed something.
//!
//! To clean the segment with the most outdated entries first would copy less, if that is not the oldest one. But then
//! removals and the numbers of missing segments would have to be kept as long as there is an older segment.

use crate::disk::contents::{Change, Contents};
use crate::disk::entry::pack_of;
use crate::disk::fault::StoreFault;
use crate::disk::index::{Fingerprint, Place};
use crate::disk::log::{Log, Space};
use crate::disk::segment::{Entries, Kind, Position, name_of};
use crate::id::KEY_SIZE;

/// A piece is at least this fraction of a segment.
const PIECES_PER_SEGMENT: u32 = 16;

/// Bytes that a piece reads for each byte that was written since the piece before, while that suffices.
const PACE: u64 = 2;

/// The same when the segments take more than 2.1 times the bytes of the current entries.
const HIGH_PACE: u64 = 10;

/// The store begins to settle when the outdated entries take more bytes than a tenth of the current ones.
const BEGIN_PART: u64 = 10;

/// It stops settling when they take at most a hundredth.
const END_PART: u64 = 100;

/// The segment that is being cleaned.
#[derive(Debug, Default)]
pub(super) struct Cleaner {
    /// The oldest segment, from where the last piece ended.
    entries: Option<Entries>,
    /// Bytes that batches have written since the last piece.
    written: u64,
    /// The last segment to be cleaned, while the store settles.
    settles_to: Option<u32>,
    /// Whether no batch has changed anything since the store has begun to settle.
    is_unchanged: bool,
}

/// When to clean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// When that is due.
    Due,
    /// Also when the store can settle: no batch waits.
    Idle,
}

/// Whether there was something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleaned {
    /// A piece is done, and there may be more.
    Piece,
    /// Nothing is due.
    Nothing,
}

impl Cleaner {
    /// Notes how much a batch has written.
    pub(super) fn note_written(&mut self, bytes: u64) {
        self.written += bytes;
        self.is_unchanged &= bytes == 0;
    }

    /// Cleans one piece, if `effort` asks for that.
    pub(super) fn clean(
        &mut self,
        effort: Effort,
        log: &mut Log,
        contents: &mut Contents,
    ) -> Result<Cleaned, StoreFault> {
        let excess = log.bytes().saturating_sub(2 * contents.live_bytes() + u64::from(log.segment_size / 2));
        let is_due = excess > 0 || effort == Effort::Idle && self.settles(log, contents);
        if log.segments.len() < 2 || !is_due {
            self.written = 0;
            return Ok(Cleaned::Nothing);
        }
        if contents.is_live(log.oldest) {
            let pace = if excess > contents.live_bytes() / 10 { HIGH_PACE } else { PACE };
            let budget = u64::from(log.segment_size / PIECES_PER_SEGMENT).max(pace * std::mem::take(&mut self.written));
            let mut entries = match self.entries.take() {
                Some(entries) => entries,
                None => log.entries(log.oldest)?,
            };
            log.expect_in_place()?;
            log.begin(Space::Reserve)?;
            let is_done = copy(&mut entries, budget, log, contents)?;
            if !is_done {
                self.entries = Some(entries);
                return Ok(Cleaned::Piece);
            }
        }
        self.entries = None;
        log.drop_oldest()?;
        if log.segments.len() > 1 {
            // If this fails, the next batch tries again, and fails if there still is no space.
            let _ = log.reserve();
        } else {
            self.settles_to = None;
        }
        Ok(Cleaned::Piece)
    }

    /// Whether the store settles.
    fn settles(&mut self, log: &Log, contents: &Contents) -> bool {
        let live = contents.live_bytes();
        let outdated = log.bytes().saturating_sub(live);
        self.settles_to = self.settles_to.filter(|last| log.oldest <= *last && outdated > live / END_PART);
        let is_enough = outdated > live / BEGIN_PART + u64::from(log.segment_size / 2);
        if is_enough && self.settles_to.is_none() && !self.is_unchanged {
            self.settles_to = Some(log.newest());
            self.is_unchanged = true;
        }
        self.settles_to.is_some()
    }
}

#[cfg(test)]
impl Cleaner {
    /// Whether the last piece ended within a segment.
    pub(super) fn is_within_segment(&self) -> bool {
        self.entries.is_some()
    }
}

/// Copies the current entries among the next `budget` bytes of `entries`; returns whether the end is reached.
fn copy(entries: &mut Entries, budget: u64, log: &mut Log, contents: &mut Contents) -> Result<bool, StoreFault> {
    let (oldest, begin) = (log.oldest, entries.offset());
    let damaged = |offset| StoreFault::Damaged { file: name_of(oldest), offset };
    let mut changes = Vec::new();
    let is_done = loop {
        if u64::from(entries.offset() - begin) >= budget {
            break false;
        }
        let entry = entries.next().map_err(|bad| StoreFault::of_entry(name_of(oldest), bad))?;
        let Some(entry) = entry else { break true };
        let place = Place { at: Position { segment: oldest, offset: entry.offset }, size: entry.size };
        let change = match entry.kind {
            Kind::State => Change::State(Fingerprint::of(&log.store, &entry.content[..KEY_SIZE]), place),
            Kind::Contacts => Change::Contacts(place),
            Kind::Pack => Change::Pack(pack_of(entry.content).map_err(|_| damaged(entry.offset))?, place),
            Kind::Removal | Kind::PackRemoval | Kind::Mark => continue,
        };
        if contents.is_current(change) {
            let copy = log.push(entry.kind, |out| out.extend_from_slice(entry.content))?;
            changes.push(change.moved_to(copy));
        }
    };
    if !changes.is_empty() {
        log.commit()?;
    }
    contents.apply_all(&changes);
    Ok(is_done)
}
