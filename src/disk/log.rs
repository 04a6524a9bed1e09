//! The log of a store: segments in a directory, of which the newest one receives entries.
//!
//! Guarantees:
//!
//! * A segment is on disk before the next one is created. The header of the next one says where it ends.
//! * The file `state` names a segment only after the segment's header and its name are on disk, and the segment
//!   receives entries only after that. A segment that `state` does not name does not count.
//! * One segment of space is reserved from the second segment on. Batches cannot use it, only cleaning and the
//!   repair of the log at the start, so that these work on a full disk.
//! * The log never expects more of its files than they have, whichever call fails, and whether the system has done that
//!   call or not: a segment is added after its file is complete, and is shortened or dropped before its file is cut or
//!   removed. So if a file is missing or too short, another process has deleted or cut it.
//!
//! After an error the log must be opened again.

use std::collections::VecDeque;
use std::io;

use crate::disk::fault::StoreFault;
use crate::disk::files::{FileId, FileStatus, Files, OpenFile, is_full};
use crate::disk::index::Place;
use crate::disk::segment::{
    Entries, FORMAT, HEADER_SIZE, Header, Kind, Mark, Position, StoreId, begin_entry, name_of, seal,
};
use crate::disk::state::{STATE_FILE, State, StateFile};

/// The file that reserves space.
pub(super) const SPARE_FILE: &str = "spare";

/// Bytes that are collected for one write. A batch of small records needs one write.
const WRITE_SIZE: usize = 1 << 20;

/// A segment of the log.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) salt: u32,
    /// Its file.
    pub(super) id: FileId,
    /// Where its last entry ends.
    pub(super) end: u32,
    /// The length of its file, which is more if a write was interrupted.
    pub(super) length: u64,
}

/// Which space a write may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    /// What is free beside the reserve.
    Free,
    /// The reserve too.
    Reserve,
}

/// Whether there is room on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Enough,
    None,
}

/// Which part of a store counts as on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// All that is known to have been synced.
    All,
    /// The same without the newest file: a sync of it has failed, and a later sync that succeeds proves nothing.
    NotNewest,
    /// Nothing: files were deleted, cut or replaced while this process used them.
    Nothing,
}

/// The segments, and the one that receives entries.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) files: Box<dyn Files>,
    /// The name of the directory.
    pub(super) name: String,
    pub(super) store: StoreId,
    pub(super) segment_size: u32,
    /// From the oldest to the newest.
    pub(super) segments: VecDeque<Segment>,
    /// The number of the oldest segment.
    pub(super) oldest: u32,
    /// The newest segment.
    pub(super) file: Box<dyn OpenFile>,
    /// How much of the newest segment is on disk.
    pub(super) synced: u32,
    pub(super) state: StateFile,
    /// Whether the newest segment may hold the rest of an interrupted write, so that nothing may be appended.
    pub(super) is_newest_closed: bool,
    /// Whether batches that may not be on disk are being written again. They go to one new segment, whatever its
    /// size, which counts when all of them are on disk.
    pub(super) is_rewriting: bool,
    pub(super) has_spare: bool,
    pub(super) space: Space,
    /// What the last call that takes up space has found.
    pub(super) room: Room,
    /// Whether a sync of the newest segment has failed.
    pub(super) trust: Trust,
    /// The segment that was looked for last.
    pub(super) in_turn: u32,
    /// Entries for the end of the newest segment.
    pub(super) buffer: Vec<u8>,
    /// Where the current batch began.
    pub(super) begin: Position,
}

impl Log {
    /// The path of a file.
    pub(super) fn path_of(&self, file: &str) -> String {
        format!("{}/{file}", self.name)
    }

    /// The number of the newest segment.
    pub(super) fn newest(&self) -> u32 {
        self.oldest + u32::try_from(self.segments.len()).expect("few segments") - 1
    }

    pub(super) fn segment(&self, sequence: u32) -> &Segment {
        &self.segments[(sequence - self.oldest) as usize]
    }

    fn newest_segment(&mut self) -> &mut Segment {
        self.segments.back_mut().expect("there is always a newest segment")
    }

    /// The bytes of all segments.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.length).sum()
    }

    /// The entries of a segment.
    pub(super) fn entries(&self, sequence: u32) -> io::Result<Entries> {
        let Segment { salt, end, .. } = *self.segment(sequence);
        let file = self.files.open(&self.path_of(&name_of(sequence)))?;
        Ok(Entries::new(file, salt, HEADER_SIZE, end))
    }

    /// The entry at `place`.
    pub(super) fn entry(&self, place: Place) -> io::Result<Entries> {
        let Position { segment, offset } = place.at;
        let file = self.files.open(&self.path_of(&name_of(segment)))?;
        Ok(Entries::new(file, self.segment(segment).salt, offset, offset + place.size))
    }

    /// Begins a batch, which may use `space`.
    pub(super) fn begin(&mut self, space: Space) -> io::Result<()> {
        self.space = space;
        self.buffer.clear();
        self.begin = Position { segment: self.newest(), offset: self.segment(self.newest()).end };
        self.repeat_state()?;
        if space == Space::Free && self.segments.len() > 1 {
            self.reserve()?;
        }
        Ok(())
    }

    /// Begins to write batches again that may not be on disk: those that end after `end` of the newest segment.
    /// [`Log::sync`] ends this.
    pub(super) fn begin_rewrite(&mut self, end: u32) -> io::Result<()> {
        self.begin(Space::Reserve)?;
        self.close_newest(end);
        self.begin.offset = end;
        self.is_rewriting = true;
        Ok(())
    }

    /// Lets the newest segment end at `end`: what follows there does not count as soon as there is a next segment.
    pub(super) fn close_newest(&mut self, end: u32) {
        self.newest_segment().end = end;
        (self.synced, self.is_newest_closed) = (end, true);
    }

    /// Makes sure that the segments are on disk as `state` names them.
    pub(super) fn repeat_state(&mut self) -> io::Result<()> {
        self.state.repeat(&self.state_now())
    }

    /// Removes what a batch has written for which the disk has no room. The log continues where the batch began, or
    /// in the segment that the batch began. What is known to be on disk stays; it does not count without a mark.
    pub(super) fn withdraw(&mut self) -> io::Result<()> {
        self.buffer.clear();
        let begin = if self.begin.segment == self.newest() { self.begin.offset } else { HEADER_SIZE };
        let end = begin.max(self.synced);
        let newest = self.newest_segment();
        (newest.end, newest.length) = (end, end.into()); // before: a call that fails may have cut the file
        self.file.truncate(end.into())?;
        // The next batch goes to the same place. No entry of this one may be found after it.
        self.sync_newest()?;
        (self.synced, self.is_newest_closed) = (end, false);
        self.state.write_progress(&self.state_now())
    }

    /// Adds an entry to the batch.
    pub(super) fn push(&mut self, kind: Kind, write: impl FnOnce(&mut Vec<u8>)) -> io::Result<Place> {
        let mut begin = self.buffer.len();
        begin_entry(kind, &mut self.buffer, write);
        let size = count(self.buffer.len() - begin);
        let offset = self.newest_segment().end + count(begin);
        let is_full = offset > HEADER_SIZE && offset + size > self.segment_size;
        if is_full && !self.is_rewriting || self.is_newest_closed {
            let entry = self.buffer.split_off(begin);
            self.flush()?;
            self.roll()?;
            self.buffer = entry;
            begin = 0;
        }
        let Segment { salt, end, .. } = *self.newest_segment();
        let offset = end + count(begin);
        seal(&mut self.buffer[begin..], salt, offset);
        if self.buffer.len() >= WRITE_SIZE {
            self.flush()?;
        }
        Ok(Place { at: Position { segment: self.newest(), offset }, size })
    }

    /// Ends the batch. It is on disk after [`Log::sync`].
    pub(super) fn commit(&mut self) -> io::Result<()> {
        let (begin, synced) = (self.begin, Position { segment: self.newest(), offset: self.synced });
        self.push(Kind::Mark, |out| Mark { begin, synced }.write(out))?;
        self.flush()
    }

    /// Waits until all that was written is on disk.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        let end = self.newest_segment().end;
        if self.synced == end {
            return Ok(());
        }
        self.sync_newest()?;
        self.synced = end;
        let state = self.state_now();
        if std::mem::take(&mut self.is_rewriting) {
            return self.state.write_segments(&state);
        }
        self.state.write_progress(&state)
    }

    /// Waits until the newest segment is on disk as it is.
    pub(super) fn sync_newest(&mut self) -> io::Result<()> {
        let synced = self.file.sync();
        if synced.is_err() {
            self.trust = Trust::NotNewest;
        }
        synced
    }

    fn state_now(&self) -> State {
        State {
            store: self.store,
            oldest: self.oldest,
            synced: Position { segment: self.newest(), offset: self.synced },
        }
    }

    /// Writes what was collected.
    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let offset = u64::from(self.newest_segment().end);
        self.with_reserve(|log| {
            let written = log.file.write(offset, &log.buffer);
            log.note_space(written)
        })?;
        let written = count(self.buffer.len());
        self.buffer.clear();
        let newest = self.newest_segment();
        newest.end += written;
        newest.length = newest.end.into();
        Ok(())
    }

    /// Creates the next segment.
    fn roll(&mut self) -> io::Result<()> {
        self.sync()?;
        let header = Header {
            format: FORMAT,
            sequence: self.newest() + 1,
            store: self.store,
            previous_end: self.newest_segment().end,
            is_rewrite: self.is_rewriting,
        };
        self.file = self.with_reserve(|log| log.create(&header))?;
        let synced = Position { segment: header.sequence, offset: HEADER_SIZE };
        if !self.is_rewriting {
            self.state.write_segments(&State { synced, ..self.state_now() })?;
        }
        let id = self.file.id()?;
        self.segments.push_back(Segment { salt: header.salt(), id, end: HEADER_SIZE, length: HEADER_SIZE.into() });
        (self.synced, self.is_newest_closed) = (HEADER_SIZE, false);
        Ok(())
    }

    /// Creates a segment; its header and its name are on disk afterwards.
    fn create(&mut self, header: &Header) -> io::Result<Box<dyn OpenFile>> {
        let path = self.path_of(&name_of(header.sequence));
        if self.files.exists(&path)? {
            // Of an attempt that failed. To write its name again, it must be a new file.
            self.files.remove(&path)?;
        }
        let written = self.files.create(&path).and_then(|file| {
            file.write(0, &header.encode())?;
            Ok(file)
        });
        let file = self.note_space(written)?;
        file.sync()?;
        self.files.sync_directory(&self.name)?;
        Ok(file)
    }

    /// Drops the oldest segment, whose live entries have all been copied.
    pub(super) fn drop_oldest(&mut self) -> io::Result<()> {
        self.sync()?;
        self.state.write_segments(&State { oldest: self.oldest + 1, ..self.state_now() })?;
        self.segments.pop_front(); // before: a call that fails may have removed the file
        self.oldest += 1;
        self.remove_leftover()
    }

    /// Removes the file of the segment before the oldest one.
    pub(super) fn remove_leftover(&mut self) -> io::Result<()> {
        self.repeat_state()?;
        self.files.remove(&self.path_of(&name_of(self.oldest - 1)))?;
        self.files.sync_directory(&self.name)
    }

    /// Reserves one segment of space, unless it is reserved.
    pub(super) fn reserve(&mut self) -> io::Result<()> {
        if self.has_spare {
            return Ok(());
        }
        self.create_spare().map_err(|source| {
            let text = format!("cannot keep one segment of space in reserve, which a full disk needs: {source}");
            io::Error::new(source.kind(), text)
        })
    }

    fn create_spare(&mut self) -> io::Result<()> {
        let path = self.path_of(SPARE_FILE);
        let created = self.files.create(&path);
        let spare = self.note_space(created)?;
        let occupied = spare.occupy(self.segment_size.into());
        if occupied.is_err() {
            self.files.remove(&path)?;
        }
        self.has_spare = occupied.is_ok();
        self.note_space(occupied)
    }

    /// Notes whether a call that takes up space has found the disk full.
    fn note_space<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        self.room = if result.as_ref().is_err_and(is_full) { Room::None } else { Room::Enough };
        result
    }

    /// Runs `act`. If the disk is full and the batch may use the reserve, releases it and runs `act` again.
    fn with_reserve<T>(&mut self, act: impl Fn(&mut Self) -> io::Result<T>) -> io::Result<T> {
        match act(self) {
            Err(error) if is_full(&error) && self.space == Space::Reserve && self.has_spare => {
                self.files.remove(&self.path_of(SPARE_FILE))?;
                self.has_spare = false;
                act(self)
            }
            result => result,
        }
    }

    /// Expects that the files have their names still, so that the next start finds them: the newest segment and
    /// `state` each time, and the other segments in turn.
    pub(super) fn expect_in_place(&mut self) -> Result<(), StoreFault> {
        self.in_turn = if self.in_turn < self.newest() { (self.in_turn + 1).max(self.oldest) } else { self.oldest };
        // Twice: a file system may answer wrongly while another process renames files.
        let found = self.look_for_files().or_else(|_| self.look_for_files());
        if matches!(&found, Err(fault) if fault.is_damage()) {
            self.trust = Trust::Nothing;
        }
        found
    }

    /// Expects that the newest segment is neither deleted nor cut, as far as the open file shows that. What it does not
    /// show, another file with the name, [`Log::expect_in_place`] finds.
    pub(super) fn expect_newest_intact(&mut self) -> Result<(), StoreFault> {
        let FileStatus { links, length } = self.file.status()?;
        let is_intact = links > 0 && length >= self.newest_segment().end.into();
        if is_intact { Ok(()) } else { self.expect_in_place() }
    }

    fn look_for_files(&self) -> Result<(), StoreFault> {
        let segment = |sequence| {
            let Segment { id, end, .. } = *self.segment(sequence);
            (name_of(sequence), id, u64::from(end))
        };
        let (state, length) = self.state.id();
        let state = (STATE_FILE.to_owned(), state, length);
        let newest = self.newest();
        let other = Some(self.in_turn).filter(|sequence| *sequence != newest);
        for (file, id, expected) in [segment(newest), state].into_iter().chain(other.map(segment)) {
            let fault = match self.files.look(&self.path_of(&file))? {
                None => StoreFault::Missing { file },
                Some((found, _)) if found != id => StoreFault::Replaced { file },
                Some((_, length)) if length < expected => StoreFault::Cut { file, length, expected },
                Some(_) => continue,
            };
            return Err(fault);
        }
        Ok(())
    }

    /// Waits until everything is on disk, `state` included.
    pub(super) fn close(&mut self) -> io::Result<()> {
        self.sync()?;
        self.state.sync()
    }
}

/// The size of something that is in a segment.
fn count(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("no larger than a segment")
}
