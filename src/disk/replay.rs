//! Opens the log of a store: verifies all of it and finds the current entries.
//!
//! Guarantees:
//!
//! * The segments are read in the order of their numbers, and a later entry replaces an earlier one. A batch counts
//!   completely or not at all: its entries count when its mark is read.
//! * What was known to be on disk must be there, unchanged. That is each segment but the newest one, up to the end
//!   that the next header names, and the newest one up to its *bound*: the highest offset that `state` or a mark
//!   in the segment names. Anything else refuses the start, and changes nothing.
//! * Beyond the bound, a bad entry is the end of an interrupted write. Replay stops there, and what follows is
//!   dropped, which is logged.
//! * Complete batches beyond the bound may be visible to readers without being on disk. They are written again, to
//!   a new segment, before the store is used. A batch that was reported as failed can become visible so, at this
//!   time and not later.
//! * After an interrupted write, the store continues in a new segment.
//! * After a failed sync of the newest segment, nothing of that file counts as on disk ([`Trust::NotNewest`]): all
//!   that it has is written again in the same way.
//! * If the store continues in the newest segment, that file is synced first: an earlier process may have cut off a
//!   batch without waiting for the disk, and that batch must not return.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::mem;

use log::warn;

use crate::disk::ahead::read_ahead;
use crate::disk::contents::{Change, Contents};
use crate::disk::entry::pack_of;
use crate::disk::fault::StoreFault;
use crate::disk::files::{FileId, Files};
use crate::disk::index::{Fingerprint, Place};
use crate::disk::log::{Log, Room, SPARE_FILE, Segment, Space, Trust};
use crate::disk::segment::{
    BadEntry, Entries, Entry, FORMAT, HEADER_SIZE, Header, Kind, MARK_SIZE, Mark, Position, READ_SIZE, StoreId,
    name_of, sequence_of,
};
use crate::disk::state::{BadState, STATE_FILE, State, StateFile};
use crate::id::KEY_SIZE;

/// Creates an empty store, so that after a crash at any point it is complete or does not exist.
pub(super) fn create(files: &dyn Files, name: &str, store: StoreId) -> io::Result<()> {
    let new = create_beside(files, name, store)?;
    put_in_place(files, &new, name)
}

/// Creates an empty store under another name, and returns that.
pub(super) fn create_beside(files: &dyn Files, name: &str, store: StoreId) -> io::Result<String> {
    let new = format!("{name}.new");
    if files.exists(&new)? {
        files.remove_directory(&new)?;
    }
    files.create_directory(&new)?;
    let header = Header { format: FORMAT, sequence: 1, store, previous_end: 0, is_rewrite: false };
    let segment = files.create(&format!("{new}/{}", name_of(1)))?;
    segment.write(0, &header.encode())?;
    segment.sync()?;
    let synced = Position { segment: 1, offset: HEADER_SIZE };
    StateFile::create(files.create(&format!("{new}/{STATE_FILE}"))?, &State { store, oldest: 1, synced })?;
    files.sync_directory(&new)?;
    Ok(new)
}

/// Gives the store that [`create_beside`] has created its name, which no file may have.
pub(super) fn put_in_place(files: &dyn Files, new: &str, name: &str) -> io::Result<()> {
    files.rename(new, name)?;
    files.sync_directory("")
}

/// Opens the store `name`.
pub(super) fn open(
    files: Box<dyn Files>,
    name: &str,
    segment_size: u32,
    trust: Trust,
) -> Result<(Log, Contents), StoreFault> {
    // An earlier process may have created names without waiting for the disk.
    files.sync_directory(name)?;
    files.sync_directory("")?;
    let (state_file, state) = read_state(&*files, name)?;
    let listing = Listing::read(&*files, name, &state, segment_size)?;
    let (segments, is_rewrite) = read_headers(&*files, name, &state, &listing)?;
    let newest = state.synced.segment;
    let file = files.open(&format!("{name}/{}", name_of(newest)))?;
    let mut log = Log {
        files,
        name: name.to_owned(),
        store: state.store,
        segment_size,
        segments,
        oldest: state.oldest,
        file,
        synced: state.synced.offset,
        state: state_file,
        is_newest_closed: false,
        is_rewriting: false,
        has_spare: listing.has_spare,
        space: Space::Free,
        room: Room::Enough,
        trust: Trust::All,
        in_turn: 0,
        buffer: Vec::new(),
        begin: Position::default(),
    };
    let mut replay = Replay::new(newest, state.synced.offset, trust);
    replay.read_older(&log)?;
    let read_to = replay.read_newest(&log)?;
    if listing.has_ahead {
        expect_uncounted(&log, newest + 1)?;
    }
    let Replay { mut contents, bound, doubtful, .. } = replay;
    let length = log.segment(newest).length;
    log.close_newest(bound);
    log.is_newest_closed = length != u64::from(bound);
    if length > u64::from(read_to) {
        let (file, dropped) = (name_of(newest), length - u64::from(read_to));
        warn!("interrupted write dropped file={name}/{file} offset={read_to} bytes={dropped}");
    }
    if is_rewrite {
        // Its batches are visible, so `state` must name it after a power failure too.
        log.repeat_state()?;
    }
    if listing.has_leftover {
        log.remove_leftover()?;
    }
    let end = if trust == Trust::All { bound } else { HEADER_SIZE };
    if !doubtful.is_empty() {
        rewrite(&mut log, end, &mut contents, doubtful.into_iter().flat_map(|(_, batch)| batch))?;
    } else if trust != Trust::All {
        log.close_newest(end);
    } else if !log.is_newest_closed {
        log.sync_newest()?;
    }
    Ok((log, contents))
}

pub(super) fn read_state(files: &dyn Files, name: &str) -> Result<(StateFile, State), StoreFault> {
    let file = match files.open(&format!("{name}/{STATE_FILE}")) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(StoreFault::Missing { file: STATE_FILE.to_owned() });
        }
        file => file?,
    };
    StateFile::open(file).map_err(|bad| match bad {
        BadState::Io(source) => StoreFault::Io(source),
        BadState::Cut { length, expected } => StoreFault::Cut { file: STATE_FILE.to_owned(), length, expected },
        BadState::Header(bad) => StoreFault::of_header(STATE_FILE.to_owned(), bad),
    })
}

/// The names in the directory of a store.
struct Listing {
    /// The lengths of the files, from the oldest segment to the newest.
    lengths: Vec<u64>,
    /// Whether the segment before the oldest one was not removed completely.
    has_leftover: bool,
    /// Whether the segment after the newest one was not created completely.
    has_ahead: bool,
    has_spare: bool,
}

impl Listing {
    fn read(files: &dyn Files, name: &str, state: &State, segment_size: u32) -> Result<Self, StoreFault> {
        let (oldest, newest) = (state.oldest, state.synced.segment);
        if oldest == 0 || newest < oldest || newest == u32::MAX {
            return Err(StoreFault::Damaged { file: STATE_FILE.to_owned(), offset: 0 });
        }
        let names = files.list(name)?;
        let length_of = |file: &str| names.iter().find(|(name, _)| name == file).map(|(_, length)| *length);
        let mut found = Self {
            lengths: Vec::new(),
            has_leftover: length_of(&name_of(oldest - 1)).is_some(),
            has_ahead: length_of(&name_of(newest + 1)).is_some(),
            // It is shorter if the process ended while it was written.
            has_spare: length_of(SPARE_FILE).is_some_and(|length| length >= u64::from(segment_size)),
        };
        for (file, _) in &names {
            match sequence_of(file) {
                Some(sequence) if sequence < oldest - 1 => {
                    return Err(StoreFault::Stale { file: file.clone(), oldest });
                }
                Some(sequence) if sequence > newest + 1 => {
                    return Err(StoreFault::Ahead { file: file.clone(), newest });
                }
                _ => {}
            }
        }
        let lengths: BTreeMap<u32, u64> =
            names.iter().filter_map(|(file, length)| Some((sequence_of(file)?, *length))).collect();
        for sequence in oldest..=newest {
            let length = lengths.get(&sequence);
            found.lengths.push(*length.ok_or_else(|| StoreFault::Missing { file: name_of(sequence) })?);
        }
        Ok(found)
    }
}

/// Reads the header of the segment in `file`; also returns which file it is.
pub(super) fn read_header(files: &dyn Files, name: &str, file: &str) -> Result<(Header, FileId), StoreFault> {
    let mut bytes = [0; HEADER_SIZE as usize];
    let open = files.open(&format!("{name}/{file}"))?;
    let length = open.len()?;
    if length < u64::from(HEADER_SIZE) {
        return Err(StoreFault::Cut { file: file.to_owned(), length, expected: HEADER_SIZE.into() });
    }
    open.read(0, &mut bytes)?;
    let header = Header::decode(&bytes).map_err(|bad| StoreFault::of_header(file.to_owned(), bad))?;
    Ok((header, open.id()?))
}

/// The same for the file of this number, which must have the segment of this number and store.
fn read_header_of(
    files: &dyn Files,
    name: &str,
    sequence: u32,
    store: StoreId,
) -> Result<(Header, FileId), StoreFault> {
    let file = name_of(sequence);
    let (header, id) = read_header(files, name, &file)?;
    if header.store != store {
        return Err(StoreFault::Foreign { file });
    }
    if header.sequence != sequence {
        return Err(StoreFault::Misplaced { file, found: header.sequence });
    }
    Ok((header, id))
}

/// Reads the headers of all segments, and verifies that no file is too short. Also returns whether the newest segment
/// begins with batches that were written again.
fn read_headers(
    files: &dyn Files,
    name: &str,
    state: &State,
    listing: &Listing,
) -> Result<(VecDeque<Segment>, bool), StoreFault> {
    let Position { segment: newest, offset: mut end } = state.synced;
    let (mut segments, mut is_rewrite) = (VecDeque::new(), false);
    // From the newest to the oldest: each header says where the segment before ends.
    for (sequence, length) in (state.oldest..=newest).rev().zip(listing.lengths.iter().rev()) {
        let (header, id) = read_header_of(files, name, sequence, state.store)?;
        let file = name_of(sequence);
        if end < HEADER_SIZE {
            return Err(StoreFault::Damaged { file, offset: 0 });
        }
        if *length < u64::from(end) {
            return Err(StoreFault::Cut { file, length: *length, expected: end.into() });
        }
        segments.push_front(Segment { salt: header.salt(), id, end, length: *length });
        if sequence == newest {
            is_rewrite = header.is_rewrite;
        }
        end = header.previous_end;
    }
    if listing.has_leftover {
        read_header_of(files, name, state.oldest - 1, state.store)?;
    }
    Ok((segments, is_rewrite))
}

/// The segment after the newest one was being created when the process ended: nothing in it counts. It has no
/// entries, or one batch if batches were being written again. More shows that `state` is older than the segments.
fn expect_uncounted(log: &Log, ahead: u32) -> Result<(), StoreFault> {
    let header = match read_header_of(&*log.files, &log.name, ahead, log.store) {
        Ok((header, _)) => header,
        Err(StoreFault::Cut { .. } | StoreFault::Damaged { .. }) => return Ok(()),
        Err(fault) => return Err(fault),
    };
    let file = log.files.open(&log.path_of(&name_of(ahead)))?;
    let end = u32::try_from(file.len()?).unwrap_or(u32::MAX);
    let mut entries = Entries::new(file, header.salt(), HEADER_SIZE, end);
    let (mut found, mut marks) = (false, 0);
    while let Ok(Some(entry)) = entries.next() {
        found = true;
        marks += u32::from(entry.kind == Kind::Mark);
    }
    if marks > 1 || found && !header.is_rewrite {
        return Err(StoreFault::Ahead { file: name_of(ahead), newest: ahead - 1 });
    }
    Ok(())
}

/// What an entry means.
#[derive(Clone, Copy, Debug)]
enum Found {
    Change(Change),
    /// A mark, and where it ends.
    Mark(Mark, u32),
}

/// What was found in a part of the segment with this number.
type Piece = (u32, Vec<Found>);

/// Entries in a piece.
const PIECE_ENTRIES: usize = 1 << 10;

impl Found {
    fn of(store: &StoreId, sequence: u32, entry: Entry<'_>) -> Result<Self, StoreFault> {
        let damaged = || StoreFault::Damaged { file: name_of(sequence), offset: entry.offset };
        let place = Place { at: Position { segment: sequence, offset: entry.offset }, size: entry.size };
        let key = || entry.content.get(..KEY_SIZE).map(|key| Fingerprint::of(store, key)).ok_or_else(damaged);
        let pack = || pack_of(entry.content).map_err(|_| damaged());
        Ok(match entry.kind {
            Kind::State => Self::Change(Change::State(key()?, place)),
            Kind::Removal => Self::Change(Change::Removal(key()?, place)),
            Kind::Contacts => Self::Change(Change::Contacts(place)),
            Kind::Pack => Self::Change(Change::Pack(pack()?, place)),
            Kind::PackRemoval => Self::Change(Change::PackRemoval(pack()?, place)),
            Kind::Mark => Self::Mark(Mark::read(entry.content).ok_or_else(damaged)?, entry.offset + entry.size),
        })
    }
}

/// Reads a segment that is on disk completely, and passes on what is found.
fn read_segment(
    log: &Log,
    sequence: u32,
    pass: &mut dyn FnMut(Piece) -> Result<(), StoreFault>,
) -> Result<(), StoreFault> {
    let mut entries = log.entries(sequence)?;
    let mut found = Vec::with_capacity(PIECE_ENTRIES);
    loop {
        match entries.next() {
            Ok(None) => return pass((sequence, found)),
            Ok(Some(entry)) => found.push(Found::of(&log.store, sequence, entry)?),
            Err(bad) => return Err(StoreFault::of_entry(name_of(sequence), bad)),
        }
        if found.len() == PIECE_ENTRIES {
            pass((sequence, mem::replace(&mut found, Vec::with_capacity(PIECE_ENTRIES))))?;
        }
    }
}

/// About how many keys a log of `bytes` bytes has, if all of it is like `found`, and no entry is outdated.
fn keys_in(bytes: u64, found: &[Found]) -> usize {
    let sizes = found.iter().filter_map(|found| match found {
        Found::Change(change) => Some(u64::from(change.place().size)),
        Found::Mark(..) => None,
    });
    let (count, size) = sizes.fold((0, 0), |(count, sum), size| (count + 1, sum + size));
    (bytes * count).checked_div(size).and_then(|keys| usize::try_from(keys).ok()).unwrap_or(0)
}

/// The state of reading the log.
struct Replay {
    contents: Contents,
    /// Changes whose batch has not ended.
    pending: Vec<Change>,
    /// The newest segment.
    newest: u32,
    /// How much of the newest segment is certainly on disk.
    bound: u32,
    trust: Trust,
    /// Batches that may not be on disk, each with its end: those that end beyond the bound, or all of the newest
    /// segment if it is not trusted.
    doubtful: Vec<(u32, Vec<Change>)>,
}

impl Replay {
    fn new(newest: u32, bound: u32, trust: Trust) -> Self {
        Self { contents: Contents::default(), pending: Vec::new(), newest, bound, trust, doubtful: Vec::new() }
    }

    /// Reads the segments that are on disk completely.
    fn read_older(&mut self, log: &Log) -> Result<(), StoreFault> {
        let older = log.oldest..self.newest;
        let bytes = older.clone().map(|sequence| u64::from(log.segment(sequence).end)).sum();
        let read = |pass: &mut dyn FnMut(Piece) -> Result<(), StoreFault>| {
            older.into_iter().try_for_each(|sequence| read_segment(log, sequence, pass))
        };
        let mut is_first = true;
        read_ahead(bytes, read, |(sequence, found)| {
            if mem::take(&mut is_first) {
                self.contents.index.reserve(keys_in(bytes, &found));
            }
            for found in found {
                self.note(sequence, found);
            }
            Ok(())
        })?;
        self.contents.index.end_reserve();
        Ok(())
    }

    /// Reads the newest segment; returns the end of its last complete batch.
    fn read_newest(&mut self, log: &Log) -> Result<u32, StoreFault> {
        let file = log.files.open(&log.path_of(&name_of(self.newest)))?;
        let segment = log.segment(self.newest);
        let end = u32::try_from(file.len()?).unwrap_or(u32::MAX);
        let mut entries = Entries::new(file, segment.salt, HEADER_SIZE, end);
        loop {
            match entries.next() {
                Ok(None) => break,
                Ok(Some(entry)) => self.note(self.newest, Found::of(&log.store, self.newest, entry)?),
                Err(BadEntry::Io(source)) => return Err(StoreFault::Io(source)),
                Err(BadEntry::Damaged(offset)) => {
                    if offset < self.bound || self.is_named_by_later_mark(log, offset, end)? {
                        return Err(StoreFault::Damaged { file: name_of(self.newest), offset });
                    }
                    break;
                }
            }
        }
        Ok(self.doubtful.last().map_or(self.bound, |(end, _)| self.bound.max(*end)))
    }

    fn note(&mut self, sequence: u32, found: Found) {
        match found {
            Found::Change(change) => self.pending.push(change),
            Found::Mark(mark, end) => self.end_batch(mark, sequence, end),
        }
    }

    fn end_batch(&mut self, mark: Mark, sequence: u32, end: u32) {
        let mut batch = mem::take(&mut self.pending);
        // Before that, an interrupted batch may have left entries.
        batch.retain(|change| change.place().at >= mark.begin);
        self.contents.apply_all(&batch);
        if sequence == self.newest {
            if mark.synced.segment == self.newest {
                self.bound = self.bound.max(mark.synced.offset);
            }
            self.doubtful.push((end, batch));
            if self.trust == Trust::All {
                self.doubtful.retain(|(end, _)| *end > self.bound);
            }
        }
    }

    /// Whether a mark after the bad entry at `bad` says that this entry was on disk: then it is damaged.
    fn is_named_by_later_mark(&self, log: &Log, bad: u32, end: u32) -> Result<bool, StoreFault> {
        let file = log.files.open(&log.path_of(&name_of(self.newest)))?;
        let salt = log.segment(self.newest).salt;
        let (mut from, mut bytes) = (bad, Vec::new());
        loop {
            bytes.resize((end - from).min(READ_SIZE) as usize, 0);
            file.read(from.into(), &mut bytes)?;
            let mut at = 0;
            while let Some(mark) = Mark::find(&bytes, salt, from, &mut at) {
                if mark.synced.segment == self.newest && mark.synced.offset > bad {
                    return Ok(true);
                }
            }
            if end - from <= READ_SIZE {
                return Ok(false);
            }
            // A mark may begin in one piece and end in the next one.
            from += READ_SIZE - MARK_SIZE + 1;
        }
    }
}

/// Writes the current entries of batches that may not be on disk again, and lets the newest segment end at `end`.
fn rewrite(
    log: &mut Log,
    end: u32,
    contents: &mut Contents,
    changes: impl Iterator<Item = Change>,
) -> Result<(), StoreFault> {
    let mut copies = Vec::new();
    log.begin_rewrite(end)?;
    for change in changes.filter(|change| contents.is_current(*change)) {
        let place = change.place();
        let mut entries = log.entry(place)?;
        let entry = entries.next().map_err(|bad| StoreFault::of_entry(name_of(place.at.segment), bad))?;
        let entry = entry.expect("an entry that was read before");
        let copy = log.push(entry.kind, |out| out.extend_from_slice(entry.content))?;
        copies.push(change.moved_to(copy));
    }
    log.commit()?;
    log.sync()?;
    contents.apply_all(&copies);
    Ok(())
}
