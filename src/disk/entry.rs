//! The content of the entries in the store.
//!
//! The frame of an entry has a checksum (`segment`), so that these readers get what was written. They validate it
//! nevertheless.
//!
//! Guarantee: a reader returns exactly what was written, or an error. No input makes it panic.
//!
//! ```text
//! a key:     0   the key, 32 bytes
//!            32  flags u8: bit 0 a record, bit 1 a tombstone of signed versions, bit 2 one of plain
//!                versions, bit 3 the record came from a client, bit 4 the time since the boot is known
//!            33  signed version u64, if bit 1; plain version u64, if bit 2
//!            ..  if bit 0: saved u64, ms since 1970; if bit 4 also: boot u64, saved u64, ms since that boot;
//!                then the record block R of PROTOCOL.md 2
//! contacts:  0   contacts of PROTOCOL.md 2, to the end
//! ```

use crate::contact::Contact;
use crate::id::Key;
use crate::node::persisted::{PersistedKey, PersistedRecord, SavedAt};
use crate::record::{Source, Tombstone, Version};
use crate::time::{BootTime, WallTime};
use crate::wire::codec::{List, Reader, WireError};
use crate::wire::peer::RecordBlock;

const RECORD: u8 = 1;
const SIGNED_TOMBSTONE: u8 = 1 << 1;
const PLAIN_TOMBSTONE: u8 = 1 << 2;
const FROM_CLIENT: u8 = 1 << 3;
const SINCE_BOOT: u8 = 1 << 4;

/// Whether the key has neither a record nor a tombstone: then it has no entry.
pub(super) fn is_removal(persisted: &PersistedKey) -> bool {
    persisted.record.is_none() && persisted.tombstone.is_none_or(Tombstone::is_empty)
}

/// Appends the entry of a key to `out`.
pub(super) fn write_key(persisted: &PersistedKey, out: &mut Vec<u8>) {
    let tombstone = persisted.tombstone.unwrap_or_default();
    let from_client = persisted.record.as_ref().is_some_and(|record| record.source == Source::Client);
    let bits = [
        (RECORD, persisted.record.is_some()),
        (SIGNED_TOMBSTONE, tombstone.signed.is_some()),
        (PLAIN_TOMBSTONE, tombstone.plain.is_some()),
        (FROM_CLIENT, from_client),
        (SINCE_BOOT, persisted.record.as_ref().is_some_and(|record| record.saved.boot.is_some())),
    ];
    let flags = bits.into_iter().filter(|(_, is_set)| *is_set).fold(0, |flags, (bit, _)| flags | bit);
    out.extend_from_slice(persisted.key.as_bytes());
    out.push(flags);
    for version in [tombstone.signed, tombstone.plain].into_iter().flatten() {
        out.extend_from_slice(&version.bits().to_be_bytes());
    }
    if let Some(PersistedRecord { record, age, saved, .. }) = &persisted.record {
        out.extend_from_slice(&saved.wall.as_millis().to_be_bytes());
        if let Some(BootTime { boot, millis }) = saved.boot {
            out.extend_from_slice(&boot.to_be_bytes());
            out.extend_from_slice(&millis.to_be_bytes());
        }
        RecordBlock::of(record, *age).write_head(out);
        out.extend_from_slice(&record.value);
    }
}

/// The key of the entry that [`write_key`] wrote.
///
/// # Errors
///
/// If the entry is too short.
pub(super) fn key_of(entry: &[u8]) -> Result<Key, WireError> {
    Reader::new(entry).array("key").map(Key::new)
}

/// Reads the entry that [`write_key`] wrote.
///
/// # Errors
///
/// What is wrong with the entry.
pub(super) fn read_key(entry: &[u8]) -> Result<PersistedKey, WireError> {
    let mut reader = Reader::new(entry);
    let key = Key::new(reader.array("key")?);
    let flags = reader.u8("flags")?;
    let of_record = FROM_CLIENT | SINCE_BOOT;
    let is_known = flags & !(RECORD | SIGNED_TOMBSTONE | PLAIN_TOMBSTONE | of_record) == 0;
    if !is_known || flags & !of_record == 0 || flags & RECORD == 0 && flags & of_record != 0 {
        let expected = "a record, optionally from a client, or tombstones";
        return Err(WireError::field("flags", flags, expected));
    }
    let mut version = |bit, field| {
        let is_present = flags & bit != 0;
        is_present.then(|| reader.u64(field).map(Version::from_bits)).transpose()
    };
    let signed = version(SIGNED_TOMBSTONE, "signed version")?;
    let plain = version(PLAIN_TOMBSTONE, "plain version")?;
    let tombstone = Some(Tombstone { signed, plain }).filter(|tombstone| !tombstone.is_empty());
    if flags & RECORD == 0 {
        reader.finish()?;
        return Ok(PersistedKey { key, record: None, tombstone });
    }
    let wall = WallTime::from_millis(reader.u64("saved")?);
    let boot = if flags & SINCE_BOOT == 0 {
        None
    } else {
        Some(BootTime { boot: reader.u64("boot")?, millis: reader.u64("saved since the boot")? })
    };
    let saved = SavedAt { wall, boot };
    let source = if flags & FROM_CLIENT == 0 { Source::Peer } else { Source::Client };
    let block = RecordBlock::read_whole(&mut reader)?;
    if block.key != key {
        return Err(WireError::field("key", block.key.as_bytes()[0], "the key of the entry"));
    }
    let record = block.to_record().map(|record| PersistedRecord { record, age: block.age, saved, source });
    Ok(PersistedKey { key, record, tombstone })
}

/// Appends the entry of the contacts to `out`.
pub(super) fn write_contacts(contacts: &[Contact], out: &mut Vec<u8>) {
    List::lend(contacts).write(out);
}

/// Reads the entry that [`write_contacts`] wrote.
///
/// # Errors
///
/// What is wrong with the entry.
pub(super) fn read_contacts(entry: &[u8]) -> Result<Vec<Contact>, WireError> {
    Ok(List::receive(entry)?.iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::CONTACT_SIZE;
    use crate::limits::VALUE_SIZE_MAX;
    use crate::record::{Age, Class, Record, Ttl, crc_of as crc_of_value};
    use proptest::prelude::*;

    fn any_persisted() -> impl Strategy<Value = PersistedKey> {
        let class = prop_oneof![Just(Class::Plain), Just(Class::Signed), Just(Class::Hashed)];
        let source = prop_oneof![Just(Source::Client), Just(Source::Peer)];
        let size = prop_oneof![1..300_usize, Just(VALUE_SIZE_MAX)];
        let fields = (class, any::<u64>(), 1..=u16::MAX, 1..=20_u8, any::<u32>(), any::<u64>(), source);
        let record = (fields, size, any::<u8>());
        let versions = (proptest::option::of(any::<u64>()), proptest::option::of(any::<u64>()));
        (any::<[u8; 32]>(), proptest::option::of(record), versions).prop_map(|(key, record, (signed, plain))| {
            let key = Key::new(key);
            let tombstone = Tombstone { signed: signed.map(Version::from_bits), plain: plain.map(Version::from_bits) };
            let record = record.map(|((class, version, ttl, replication, age, saved, source), size, fill)| {
                let value: Vec<u8> = (0..size).map(|at| fill ^ u8::try_from(at % 251).expect("a byte")).collect();
                let ttl = Ttl::from_secs(ttl).expect("not zero");
                let (version, crc) = (Version::from_bits(version), crc_of_value(&value));
                let record = Record { key, class, version, ttl, replication, crc, value: value.into() };
                let boot = (saved % 2 == 0).then_some(BootTime { boot: version.bits(), millis: saved / 3 });
                let saved = SavedAt { wall: WallTime::from_millis(saved), boot };
                PersistedRecord { record, age: Age(age), saved, source }
            });
            PersistedKey { key, record, tombstone: Some(tombstone).filter(|tombstone| !tombstone.is_empty()) }
        })
    }

    fn written(persisted: &PersistedKey) -> Vec<u8> {
        let mut entry = Vec::new();
        write_key(persisted, &mut entry);
        entry
    }

    proptest! {
        #[test]
        fn a_key_is_read_as_it_was_written(persisted in any_persisted()) {
            let entry = written(&persisted);
            prop_assert_eq!(key_of(&entry), Ok(persisted.key));
            if is_removal(&persisted) {
                prop_assert!(read_key(&entry).is_err(), "a key without a state has no entry");
            } else {
                prop_assert_eq!(read_key(&entry), Ok(persisted));
            }
        }

        #[test]
        fn a_truncated_entry_is_refused(persisted in any_persisted(), at in any::<prop::sample::Index>()) {
            let entry = written(&persisted);
            prop_assert!(read_key(&entry[..at.index(entry.len())]).is_err());
        }

        #[test]
        fn the_entry_of_another_key_is_refused(persisted in any_persisted(), at in 0..32_usize, bit in 0..8_u8) {
            let mut entry = written(&persisted);
            entry[at] ^= 1 << bit;
            prop_assert!(persisted.record.is_none() || read_key(&entry).is_err());
        }

        /// The readers validate the fields, and read none past the end of the entry.
        #[test]
        fn no_content_makes_a_reader_panic(content in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(persisted) = read_key(&content) {
                prop_assert_eq!(&written(&persisted), &content);
            }
            prop_assert_eq!(read_contacts(&content).is_ok(), content.len() % CONTACT_SIZE == 0);
        }
    }

    #[test]
    fn contacts_are_read_as_they_were_written() {
        let contact = |number: u8, at: &str| {
            Contact::new(crate::id::NodeId::new(Key::new([number; 32])), at.parse().expect("a literal"))
        };
        let contacts = [contact(1, "10.1.2.3:4"), contact(2, "[2001:db8::1]:5")];
        let mut entry = Vec::new();
        write_contacts(&contacts, &mut entry);
        assert_eq!(read_contacts(&entry).as_deref(), Ok(&contacts[..]));
    }
}
