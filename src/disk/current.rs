//! Reads the current entries of a log.

use std::collections::BTreeMap;
use std::mem;

use crate::disk::entry;
use crate::disk::fault::StoreFault;
use crate::disk::index::Index;
use crate::disk::log::Log;
use crate::disk::segment::{Position, name_of};
use crate::node::persisted::PersistedKey;

/// Keys whose states are passed on together. With fewer keys, the two threads wait for each other more often. The
/// states of 512 keys, 100 kB, fit into the processor's cache.
const KEYS_AT_A_TIME: usize = 512;

/// Bytes of entries after which the states are passed on, however few they are.
const BYTES_AT_A_TIME: u32 = 1 << 16;

/// Reads all current entries of keys in `log`, and verifies them. Passes the states of the keys on, some at a time.
pub(super) fn read(
    log: &Log,
    index: &Index,
    pass: &mut dyn FnMut(Vec<PersistedKey>) -> Result<(), StoreFault>,
) -> Result<(), StoreFault> {
    let mut offsets = BTreeMap::<u32, Vec<u32>>::new();
    for Position { segment, offset } in index.positions() {
        offsets.entry(segment).or_default().push(offset);
    }
    let (mut keys, mut bytes) = (Vec::with_capacity(KEYS_AT_A_TIME), 0);
    for (segment, mut offsets) in offsets {
        offsets.sort_unstable();
        let mut entries = log.entries(segment)?;
        for offset in offsets {
            entries.skip_to(offset);
            let entry = entries.next().map_err(|bad| StoreFault::of_entry(name_of(segment), bad))?;
            let Some(entry) = entry else { return Err(StoreFault::Damaged { file: name_of(segment), offset }) };
            keys.push(read_key(segment, offset, entry.content)?);
            bytes += entry.size;
            if keys.len() == KEYS_AT_A_TIME || bytes >= BYTES_AT_A_TIME {
                pass(mem::replace(&mut keys, Vec::with_capacity(KEYS_AT_A_TIME)))?;
                bytes = 0;
            }
        }
    }
    pass(keys)
}

fn read_key(segment: u32, offset: u32, content: &[u8]) -> Result<PersistedKey, StoreFault> {
    entry::read_key(content).map_err(|error| StoreFault::Entry {
        file: name_of(segment),
        offset,
        key: entry::key_of(content).ok(),
        error,
    })
}
